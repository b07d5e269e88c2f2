"""Was that right? What packets met, held against what people asked for while they were on their way.

refused all the time, and it passed     wrongly passed
allowed all the time, and it ended      wrongly cut (a stream), wrongly refused (a connect, a row of datagrams)
both possible meanwhile                 in flight: not judged, but counted
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.soak.truth import Truth, Way

SILENT = "nothing comes"
SHOWN = 20
"""Failures that are said; the others are only counted."""


@dataclass
class Judge:
    truth: Truth
    clock: Callable[[], float] = time.monotonic
    say: Callable[[str], None] = lambda line: None
    """Told of each fault at once."""
    counts: Counter[str] = field(default_factory=Counter)
    """wrongly_passed, wrongly_cut, wrongly_refused, judged, in_flight; and by kind, e.g. `datagram refused`."""
    said: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def fault(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        if len(self.said) < SHOWN or self.counts[kind] <= 3:
            standing = f" during {', '.join(self.truth.disturbed)}" if self.truth.disturbed else ""
            self.said.append(f"{self.clock() - self.began:.1f} s: {kind}: {what}{standing}")
            self.say(self.said[-1])

    def passed(self, kind: str, way: Way, since: float, until: float) -> bool:
        """Something went through. Whether that may be."""
        answers = self.truth.answers(way, since, until)
        if answers == {False}:
            self.fault("wrongly_passed", f"{kind} {way}, sent {until - since:.2f} s before")
            return False
        return True

    def count(self, kind: str, way: Way, since: float, until: float) -> frozenset[bool]:
        """One probe more, judged or not. What was right."""
        answers = self.truth.answers(way, since, until)
        if len(answers) == 1:
            self.counts["judged"] += 1
            self.counts[f"{kind} {'allowed' if True in answers else 'refused'}"] += 1
        else:
            self.counts["in_flight"] += 1
        return answers

    def failed(self, kind: str, way: Way, since: float, until: float, how: str) -> None:
        """Both ends are there, the other one listens, and it did not go through."""
        if self.truth.answers(way, since, until) == {True} and not self.truth.was_closed(since, until):
            self.fault("wrongly_refused", f"{kind} {way}: {how} after {until - since:.2f} s")

    def cut(self, way: Way, since: float, until: float, how: str) -> bool:
        """A stream ended that neither end wanted to end; its last line came at `since`. Whether that was right."""
        if self.truth.answers(way, since, until) != {True} or self.truth.may_end(way, since, until):
            return True
        if how == SILENT and self.truth.was_asleep(since, until):
            return True
        self.fault("wrongly_cut", f"stream {way}: {how}, {until - since:.2f} s after its last line")
        return False
