"""How do several edits become one revision? Collected under a name, looked at together, published or thrown away.

edit ─> draft: [edit, edit, …] ─plan─> what would change, on top of what is in force by now ─publish─> one revision

An edit is kept with what was said of its thing when it was begun: if somebody published another since, the draft says
of which, and is not published over it. Edits of different things never meet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from cfbridge import planning
from cfbridge.document import short
from cfbridge.edits import Edit
from cfbridge.intent import Intents
from cfbridge.revisions import Plan, Revisions
from cfbridge.store import Drafted, Store
from egress.values import Refused, RefusedError


@dataclass(frozen=True, slots=True)
class Begun:
    """One edit, and what was said before it."""

    edit: Edit
    was: Mapping[str, str] | None
    """Of its thing, before the draft's first edit of it; None: there was none."""


@dataclass(frozen=True, slots=True)
class Draft:
    name: str
    author: str
    """Of the last edit."""
    at: float
    begun: tuple[Begun, ...]

    @property
    def edits(self) -> tuple[Edit, ...]:
        return tuple(each.edit for each in self.begun)


class Drafts:
    def __init__(self, store: Store, revisions: Revisions, drafts: Sequence[Draft] = ()) -> None:
        self._store, self._revisions = store, revisions
        self.drafts: Mapping[str, Draft] = {draft.name: draft for draft in drafts}
        """By name; replaced whole."""
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, store: Store, revisions: Revisions) -> Drafts:
        return cls(store, revisions, [_draft(each) for each in await store.drafts()])

    async def edit(self, name: str, edit: Edit, author: str) -> Plan:
        """One edit more. What the whole draft would change; RefusedError for what can't be, and the draft stays."""
        self._revisions.refuse_by_file()
        async with self._turn:
            draft = self.drafts.get(name, Draft(name, author, 0.0, ()))
            was = next((each.was for each in draft.begun if _thing(each.edit) == _thing(edit)), ...)
            if was is ...:
                was = planning.said_of(self._revisions.intents, *_thing(edit))
            draft = replace(draft, author=author, at=time.time(), begun=(*draft.begun, Begun(edit, was)))
            plan = await self._revisions.plan_edits(draft.edits)
            await self._keep(name, draft)
            return plan

    async def plan(self, name: str) -> Plan:
        """What it would change now. RefusedError: somebody changed the same, or it can't be any more."""
        draft = self._named(name)
        _refuse_overtaken(draft, self._revisions.intents)
        return await self._revisions.plan_edits(draft.edits)

    async def publish(self, name: str, author: str, reason: str, base: int | None = None) -> Plan:
        """All of it as one revision; then there is no such draft any more."""
        async with self._turn:
            draft = self._named(name)
            _refuse_overtaken(draft, self._revisions.intents)
            # What is published between this look and the next line is of another author: its base tells.
            base = self._revisions.number if base is None else base
            plan = await self._revisions.edit(draft.edits, author, reason or f"draft {name}", base)
            await self._keep(name, None)
            return plan

    async def discard(self, name: str) -> Draft:
        async with self._turn:
            draft = self._named(name)
            await self._keep(name, None)
            return draft

    def _named(self, name: str) -> Draft:
        if name not in self.drafts:
            raise RefusedError(Refused("DRAFT_UNKNOWN", f"There is no draft {short(name)}.", "id"))
        return self.drafts[name]

    async def _keep(self, name: str, draft: Draft | None) -> None:
        if draft is None:
            await self._store.draft(name, None)
            self.drafts = {other: each for other, each in self.drafts.items() if other != name}
        else:
            content = msgspec.json.encode(draft.begun)
            await self._store.draft(name, Drafted(name, draft.author, draft.at, content))
            self.drafts = {**self.drafts, name: draft}


def _draft(drafted: Drafted) -> Draft:
    begun = msgspec.json.decode(drafted.content, type=tuple[Begun, ...])
    return Draft(drafted.name, drafted.author, drafted.at, begun)


def _thing(edit: Edit) -> tuple[str, str]:
    """Kind and name."""
    if edit.kind == "tags" and edit.name.startswith("vm:"):
        return "vm", edit.name.removeprefix("vm:")
    return edit.kind, edit.name


def _refuse_overtaken(draft: Draft, intents: Intents) -> None:
    overtaken = [
        f"{kind} {short(name)}"
        for (kind, name), was in {_thing(each.edit): each.was for each in draft.begun}.items()
        if planning.said_of(intents, kind, name) != was
    ]
    if overtaken:
        message = (
            f"Since draft {short(draft.name)} was begun, somebody changed the same: {', '.join(overtaken)}. "
            "Look at what is in force, discard the draft and say it again."
        )
        raise RefusedError(Refused("DRAFT_OUTDATED", message))
