"""How often is it said that somebody changes what is ours? Each time, until somebody does it again and again.

the first few of a minute ──> at once          the others ──> together when it is over, with their number
"""

from __future__ import annotations

from typing import NamedTuple

AT_ONCE = 5
MINUTE_SECONDS = 60.0


class Report(NamedTuple):
    what: str
    times: int
    """How often it was healed."""


class Drifts:
    """Without clock: `now` comes from the caller, in seconds."""

    def __init__(self) -> None:
        self._began = 0.0
        self._said = 0
        self._kept: dict[str, None] = {}
        """Different words, the newest last."""
        self._times = 0

    def heard(self, what: str, now: float) -> Report | None:
        """What is to be said of it now; None: it is kept for `due`."""
        if not self._said or (now - self._began >= MINUTE_SECONDS and not self._kept):
            self._began, self._said = now, 0
        self._said += 1
        if self._said <= AT_ONCE:
            return Report(what, 1)
        self._kept.pop(what, None)
        self._kept[what] = None
        self._times += 1
        if len(self._kept) > AT_ONCE:
            del self._kept[next(iter(self._kept))]
        return None

    def due(self, now: float) -> Report | None:
        """What was kept, when its minute is over. The next minute begins with it: who still fights is summed up."""
        if not self._kept or now - self._began < MINUTE_SECONDS:
            return None
        report = Report("; ".join(self._kept), self._times)
        self._kept, self._times, self._began = {}, 0, now
        return report
