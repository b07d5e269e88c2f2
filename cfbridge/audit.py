"""Who told the bridge to do what, when, from where, and what changed? Appended to the store, and to the log at once.

Refused attempts are in it too, but not of those who may not come in at all: they could fill it. While the store is away
entries wait here; the oldest of more than `WAITING` are then in the log alone.
"""

from __future__ import annotations

import asyncio

import structlog

from cfbridge.store import Audited, Deposed, Store
from egress.values import Unavailable

log = structlog.get_logger(__name__)

WAITING = 10_000
AGAIN_SECONDS = 5.0
"""After the store did not take them."""


class Audit:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[Audited] = []
        self._there = asyncio.Event()

    def record(self, entry: Audited) -> None:
        log.info(
            "audit",
            author=entry.author,
            origin=entry.origin,
            action=entry.action,
            target=entry.target,
            status=entry.status,
            revision=entry.revision,
        )
        self._waiting.append(entry)
        self._there.set()

    async def run(self) -> None:
        """Until cancelled, or until another bridge leads the store."""
        while True:
            await self._there.wait()
            self._there.clear()
            try:
                await self.save()
            except Deposed:
                raise
            except Unavailable as fault:
                log.warning("audit not written", reason=str(fault), waiting=len(self._waiting))
                await asyncio.sleep(AGAIN_SECONDS)
                self._there.set()

    async def close(self) -> None:
        """What waits yet, for a bridge that is told to end."""
        try:
            await self.save()
        except Unavailable as fault:
            log.warning("audit not written", reason=str(fault), waiting=len(self._waiting))

    async def save(self) -> None:
        """Everything that waits, in one commit. One whose end nobody heard of may be there twice; none is lost."""
        entries, self._waiting = self._waiting, []
        if not entries:
            return
        try:
            await self._store.append(entries)
        except BaseException:
            self._waiting = [*entries, *self._waiting][-WAITING:]
            raise

    async def read(self, before: int | None, limit: int) -> tuple[Audited, ...]:
        """Newest first, older than `before`. What waits yet is not in it."""
        return await self._store.audited(before, limit)
