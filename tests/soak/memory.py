"""Does a process grow? Its resident memory, descriptors and threads, sampled while it works."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

GROWTH_ALLOWED = 0.05
DESCRIPTORS_ALLOWED = 8
"""Between two quiet moments with nobody there: connections to the foundation come and go."""


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    pid: int
    resident: int
    """Bytes."""


@dataclass
class Memory:
    """Of the processes by these names; `pid` answers None while one is dead."""

    pid: Callable[[str], int | None]
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def sample(self) -> None:
        for name in ("bridge", "agent"):
            pid = self.pid(name)
            resident = None if pid is None else _resident(pid)
            if pid is not None and resident is not None:
                self.samples.setdefault(name, []).append(Sample(time.monotonic(), pid, resident))

    def judged(self, begins: float, ends: float) -> dict[str, dict[str, float]]:
        """The median of the first third of that span, and of the last."""
        third = (ends - begins) / 3
        found: dict[str, dict[str, float]] = {}
        for name, samples in self.samples.items():
            first = [each.resident for each in samples if begins <= each.at < begins + third]
            last = [each.resident for each in samples if ends - third < each.at <= ends]
            if first and last:
                before, after = statistics.median(first), statistics.median(last)
                found[name] = {
                    "first_mib": round(before / (1 << 20), 2),
                    "last_mib": round(after / (1 << 20), 2),
                    "growth": round(after / before - 1, 4),
                }
        return found


def _resident(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):  # it died just now
        return None


def held(pid: int) -> dict[str, int]:
    """Open descriptors and threads."""
    return {"descriptors": len(os.listdir(f"/proc/{pid}/fd")), "threads": len(os.listdir(f"/proc/{pid}/task"))}
