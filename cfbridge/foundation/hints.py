"""Is it time to read a whole list again? Numbers and clocks only hint; what the list says decides. Pure.

A server's number is a time of its own clock, which may be set back, or be another instance's that is behind: where a
number was lower than the one before, the list is read often for a while. Zero is what an empty table says, and what a
server says that lost count: it never proves that nothing changed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Read:
    """When a list was read whole, and under which number."""

    number: int | None = None
    at: float | None = None
    back_at: float | None = None
    """When the number was lower than the one before."""


def is_new(last: Read, number: int | None) -> bool:
    """Whether the number says that there may be something else than what was read."""
    return not number or number != last.number


def is_due(at: float | None, now: float, seconds: float) -> bool:
    """Also where the clock was set back since."""
    return at is None or not 0 <= now - at < seconds


def is_doubtful(last: Read, now: float, seconds: float) -> bool:
    """For so long after a number went back, no number is trusted."""
    return last.back_at is not None and not is_due(last.back_at, now, seconds)


def read(last: Read, number: int | None, now: float) -> Read:
    """The list was read now."""
    back = bool(number and last.number and number < last.number)
    return Read(number, now, now if back else last.back_at)
