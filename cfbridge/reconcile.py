"""How does the newest state become the network in force? Level-triggered, one compile in flight.

changed() … changed() ──settle 10 ms (ceiling 50)──> compile ──> deliver ──> agents say Reached(revision)
              └── all of them share the next revision
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

SETTLE_SECONDS = 0.010
CEILING_SECONDS = 0.050


class Reconciler:
    """Calls `realise(revision)` whenever something changed. A change that arrives while it runs is in the next one."""

    def __init__(self, realise: Callable[[int], Awaitable[None]], first_revision: int = 1) -> None:
        self._realise = realise
        self._next = first_revision
        self._dirty = asyncio.Event()
        self._last_change = 0.0

    def changed(self) -> int:
        """Something changed. Returns the first revision that will contain it."""
        self._last_change = time.monotonic()
        self._dirty.set()
        return self._next

    def not_before(self, revision: int) -> None:
        """Revisions go on from here, where they are not further already."""
        self._next = max(self._next, revision)

    async def run(self) -> None:
        """Until cancelled. A failing `realise` is a bug and ends the loop; `Unavailable` is for it to handle."""
        while True:
            await self._dirty.wait()
            await self._settle()
            self._dirty.clear()
            revision, self._next = self._next, self._next + 1
            await self._realise(revision)

    async def _settle(self) -> None:
        deadline = time.monotonic() + CEILING_SECONDS
        while (now := time.monotonic()) < min(deadline, self._last_change + SETTLE_SECONDS):
            await asyncio.sleep(min(deadline, self._last_change + SETTLE_SECONDS) - now)
