"""What did a step of the story expect, and what was seen at the receiver?"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    expected: str
    seen: str
    ok: bool


@dataclass
class Report:
    """Collects steps; `tell` is called with each as it happens."""

    dataplane: str
    tell: Callable[[Step], None] = lambda step: None
    steps: list[Step] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def step(self, name: str, expected: object, seen: object) -> bool:
        """Note what was expected and what was seen; equal text is ok."""
        step = Step(name, str(expected), str(seen), str(expected) == str(seen))
        self.steps.append(step)
        self.tell(step)
        return step.ok

    @property
    def ok(self) -> bool:
        return bool(self.steps) and all(step.ok for step in self.steps)

    def as_json(self) -> str:
        """`{ok, seconds, dataplane, steps: [{name, expected, seen, ok}]}`"""
        return json.dumps(
            {
                "ok": self.ok,
                "seconds": round(time.monotonic() - self.started, 1),
                "dataplane": self.dataplane,
                "steps": [asdict(step) for step in self.steps],
            },
            ensure_ascii=False,
        )


def line(step: Step) -> str:
    """One step for a person."""
    mark = "✓" if step.ok else "✗"
    if step.ok:
        return f"  {mark} {step.name}: {step.seen}"
    return f"  {mark} {step.name}: expected {step.expected}, seen {step.seen}"
