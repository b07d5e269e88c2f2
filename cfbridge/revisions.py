"""Which intent is in force, who published it, and how does it become another? Revision by revision, kept in the store.

policy file ──read beside what is said──> plan ──publish──> revision n+1 ──> in force
                                                 roll back: revision n+2 says again what an older one said

Stored before it is in force, one at a time; what was published for an older revision than the newest is refused.
"""

from __future__ import annotations

import asyncio
import functools
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from cfbridge import export, planning, policyfile
from cfbridge.edits import Edit, edited
from cfbridge.intent import Intents
from cfbridge.planning import Change
from cfbridge.store import Revised, Store
from egress.values import Refused, RefusedError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy file would make of the intent, or what one made of it."""

    revision: int
    """The newest when this was found out; of what was published, the one that says it."""
    changes: tuple[Change, ...]
    intents: Intents

    @property
    def summary(self) -> str:
        return planning.summary(self.changes)


class Revisions:
    def __init__(
        self, store: Store, history: tuple[Revised, ...] = (), intents: Intents | None = None, by_file: str = ""
    ) -> None:
        """`by_file`: the intent file that this bridge obeys, so that nobody else publishes."""
        self._store = store
        self.history = history
        """Newest first, without content; replaced whole."""
        self.intents: Intents = intents or {}
        """What the newest says."""
        self.by_file = by_file
        self.published: Callable[[], None] = lambda: None
        """Called when another revision is in force; for whoever built this to set."""
        self._turn = asyncio.Lock()
        self._unsure = False
        """A commit was given up, and may have come in."""

    @classmethod
    async def open(cls, store: Store, by_file: str = "") -> Revisions:
        """RefusedError where the newest can't be understood: without its rules a bridge must not begin, unless a file
        has them."""
        found = cls(store, by_file=by_file)
        try:
            await found._read()
        except RefusedError as refusal:
            if not by_file:
                raise
            log.warning("memory not understood", kind="revisions", reason=refusal.refused.message)
        return found

    @property
    def number(self) -> int:
        """Of the newest; 0 before the first."""
        return self.history[0].number if self.history else 0

    async def plan(self, written: bytes) -> Plan:
        """RefusedError with line and column for what can't be."""
        return await asyncio.to_thread(self._planned, written)

    async def publish(self, written: bytes, author: str, reason: str, base: int | None = None) -> Plan:
        """`base`: the newest revision that the author saw. A file that changes nothing makes no revision."""
        async with self._turn:
            await self._begin(base)
            return await self._publish(await self.plan(written), author, reason)

    async def plan_edits(self, edits: Sequence[Edit]) -> Plan:
        """RefusedError for what can't be."""
        return await asyncio.to_thread(self._edited, edits)

    async def edit(self, edits: Sequence[Edit], author: str, reason: str, base: int | None = None) -> Plan:
        """Things set, changed or taken away, all as one revision."""
        async with self._turn:
            await self._begin(base)
            return await self._publish(await self.plan_edits(edits), author, reason)

    async def roll_back(self, number: int, author: str, reason: str, base: int | None = None) -> Plan:
        """What revision `number` said, said again."""
        async with self._turn:
            await self._begin(base)
            intents = await _understood(await self.revision(number))
            changes = await asyncio.to_thread(planning.changes, self.intents, intents)
            words = f"rollback to revision {number}" + (f": {reason}" if reason else "")
            return await self._publish(Plan(self.number, changes, intents), author, words)

    async def record(self, intents: Intents, author: str) -> None:
        """What a file says that this bridge obeys: in force already, and here for the record."""
        async with self._turn:
            await self._look_again()
            changes = await asyncio.to_thread(planning.changes, self.intents, intents)
            await self._publish(Plan(self.number, changes, intents), author, "")

    async def revision(self, number: int) -> Revised:
        revised = await self._store.revision(number)
        if revised is None:
            raise RefusedError(Refused("REVISION_UNKNOWN", f"There is no revision {number}.", "id"))
        return revised

    def _planned(self, written: bytes) -> Plan:
        number, before = self.number, self.intents
        after = policyfile.read(written, before)
        return Plan(number, planning.changes(before, after), after)

    def _edited(self, edits: Sequence[Edit]) -> Plan:
        number, before = self.number, self.intents
        after = functools.reduce(edited, edits, before)
        return Plan(number, planning.changes(before, after), after)

    def refuse_by_file(self) -> None:
        if self.by_file:
            message = f"This bridge obeys the file {self.by_file}: change that, or take intent_file out of its config."
            raise RefusedError(Refused("INTENT_IS_A_FILE", message))

    async def _begin(self, base: int | None) -> None:
        self.refuse_by_file()
        await self._look_again()
        if base is not None and base != self.number:
            message = f"This was made for revision {base}, and {self.number} is in force by now: plan it again."
            raise RefusedError(Refused("REVISION_OUTDATED", message))

    async def _publish(self, plan: Plan, author: str, reason: str) -> Plan:
        if not plan.changes:
            return plan
        revised = Revised(plan.revision + 1, time.time(), author, reason, plan.summary)
        content = await asyncio.to_thread(_packed, plan.intents)
        self._unsure = True
        await self._store.revise(replace(revised, content=content))
        self._unsure = False
        self.history, self.intents = (revised, *self.history), plan.intents
        log.info("intent published", revision=self.number, author=author, reason=reason, changes=plan.summary)
        self.published()
        return replace(plan, revision=self.number)

    async def _look_again(self) -> None:
        if self._unsure:
            before = self.number
            await self._read()
            self._unsure = False
            if self.number != before:
                self.published()

    async def _read(self) -> None:
        newest = await self._store.revision()
        if newest is not None:
            self.history = await self._store.revisions()
            self.intents = await _understood(newest)


def written(revised: Revised) -> str:
    """The policy file that a revision is."""
    return zlib.decompress(revised.content).decode()


def _packed(intents: Intents) -> bytes:
    return zlib.compress(export.text(intents).encode())


async def _understood(revised: Revised) -> Intents:
    try:
        return await asyncio.to_thread(lambda: policyfile.read(written(revised)))
    except (RefusedError, zlib.error, UnicodeDecodeError) as error:
        message = f"Revision {revised.number} in the store can not be understood: {error}"
        raise RefusedError(Refused("REVISION_UNREADABLE", message)) from error
