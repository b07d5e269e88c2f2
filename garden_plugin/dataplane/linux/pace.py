"""How soon do we look again after we healed? At once, unless somebody undoes it again and again.

first heals of a while: no pause ─> the next each after a longer one ─> never later than what is healed within 3 s
"""

from __future__ import annotations

FREE = 5
"""Heals within a while that follow each other without a pause."""
WHILE_SECONDS = 30.0
FIRST_SECONDS, LONGEST_SECONDS = 0.25, 2.0


class Pace:
    """Without clock: `now` comes from the caller, in seconds."""

    def __init__(self) -> None:
        self._healed: list[float] = []

    def healed(self, now: float) -> float:
        """Seconds to wait before the next look."""
        self._healed = [at for at in self._healed if now - at < WHILE_SECONDS] + [now]
        excess = len(self._healed) - FREE
        return 0.0 if excess <= 0 else min(FIRST_SECONDS * 2.0 ** (excess - 1), LONGEST_SECONDS)
