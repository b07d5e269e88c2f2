"""What did foundations confirm before this bridge began? Kept in the store beside the work, read once at the start.

Without it a restart would make every answer the first one: a policy server that is empty just then would withdraw all.
A kind is one row: its objects, packed and compressed, written some seconds after it changed and never more often, so
that no change waits for it. A row that can't be understood is as if it were not there.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import structlog

from cfbridge.inventory import RULED, App, FoundationState, HeldBack, Look, Org, Space
from cfbridge.store import Confirmed, Deposed, Store
from egress.values import QualifiedId, Unavailable
from policy_sync.model import Asg, CfPolicy

log = structlog.get_logger(__name__)

TENANTS = "tenants"
"""Key of the store's setting that says which orgs the tenants of the intent file are."""
FORMAT = 1
"""Of a row's content; another one is not read."""
PAUSE_SECONDS = 10.0
"""What is newer than this may be forgotten by a crash: then it is read again."""
AGAIN_SECONDS = 60.0
"""How old the time of the last complete look may be, where nothing else changed."""
_PIECE = 1_000
"""Objects that are packed at a time: 60,000 at once would keep everybody else from running for a while."""
_PACK = msgspec.msgpack.Encoder()
_WHOLE = msgspec.msgpack.Decoder(tuple[list[bytes], list[int]])
_PIECES: dict[str, msgspec.msgpack.Decoder[Any]] = {
    "orgs": msgspec.msgpack.Decoder(list[Org]),
    "spaces": msgspec.msgpack.Decoder(list[Space]),
    "apps": msgspec.msgpack.Decoder(list[App]),
    "policies": msgspec.msgpack.Decoder(list[CfPolicy]),
    "asgs": msgspec.msgpack.Decoder(list[Asg]),
}
# What msgspec says, and what a noun says that can't be built, or be told apart from others.
_NOT_UNDERSTOOD = (msgspec.MsgspecError, zlib.error, ValueError, TypeError, IndexError, KeyError)


def pack(state: FoundationState, kind: str) -> bytes:
    """Objects in force, and by position those of them that a person keeps against the answer."""
    kept = next((held.discarded for held in state.held if held.kind == kind), frozenset())
    content = getattr(state, kind)
    objects = [*(content if kind == "policies" else content.values())]
    if kind == "asgs":
        objects = [*state.lingering_asgs, *objects]  # of two versions the last is the newest
    known = (each if kind in ("policies", "asgs") else each.id for each in objects)
    marked = [position for position, each in enumerate(known) if each in kept] if kept else []
    pieces = [_PACK.encode(objects[begin : begin + _PIECE]) for begin in range(0, len(objects), _PIECE)]
    return zlib.compress(_PACK.encode((pieces, marked)), 1)


def unpack(state: FoundationState, row: Confirmed) -> FoundationState:
    """The state with what a row says of one kind; the same state where the row can't be understood."""
    try:
        if row.format != FORMAT:
            raise ValueError(f"format {row.format}, this bridge reads {FORMAT}")
        pieces, marked = _WHOLE.decode(zlib.decompress(row.content))
        objects: list[Any] = [each for piece in pieces for each in _PIECES[row.kind].decode(piece)]
        kept = frozenset(objects[at] if row.kind in ("policies", "asgs") else objects[at].id for at in marked)
        known: Any = frozenset(objects) if row.kind == "policies" else {each.id: each for each in objects}
        lingering = [each for each in objects if known[each.id] is not each] if row.kind == "asgs" else []
    except _NOT_UNDERSTOOD as error:
        log.warning("memory not understood", foundation=row.foundation, kind=row.kind, reason=str(error))
        return state
    looks = {**state.looks, row.kind: Look(row.at, remembered=True)}
    held = HeldBack(row.kind, kept, len(objects), row.at, None, discarded=kept)
    changed: dict[str, Any] = {row.kind: known, "looks": looks, "held": (*state.held, *((held,) if kept else ()))}
    if row.kind == "asgs":
        changed["lingering_asgs"] = tuple(lingering)
    return replace(state, **changed)


async def recall(store: Store, foundations: Iterable[str]) -> dict[str, FoundationState]:
    """What each of these foundations confirmed last."""
    states = {name: FoundationState(name) for name in foundations}
    for row in await store.confirmed():
        if row.foundation in states:
            states[row.foundation] = await asyncio.to_thread(unpack, states[row.foundation], row)
    return states


async def tenants(store: Store) -> dict[str, QualifiedId]:
    """Which org each tenant of the intent file was. Without an answer their present names decide, as at first."""
    try:
        return msgspec.json.decode((await store.settings()).get(TENANTS, "{}"), type=dict[str, QualifiedId])
    except msgspec.MsgspecError as error:
        log.warning("memory not understood", kind=TENANTS, reason=str(error))
        return {}


async def keep_tenants(store: Store, bound: Mapping[str, QualifiedId]) -> None:
    await store.set(TENANTS, msgspec.json.encode(bound).decode())


class Memory:
    """Writes down what `states` show, as long as it runs."""

    def __init__(
        self, store: Store, states: Callable[[], Sequence[FoundationState]], clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._states = states
        self._clock = clock
        self._written: dict[tuple[str, str], tuple[tuple[object, ...], float]] = {}
        """By foundation and kind: what the row was made of, and the time it says."""

    async def run(self) -> None:
        """Until cancelled, or until another bridge leads the store."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            try:
                await self.save()
            except Deposed:
                raise
            except Unavailable as fault:
                log.warning("memory not written", reason=str(fault))

    async def close(self) -> None:
        """The newest, for a bridge that is told to end. One that dies forgets the last seconds."""
        try:
            await self.save()
        except Unavailable as fault:
            log.warning("memory not written", reason=str(fault))

    async def save(self) -> None:
        """What changed since it was written. Unavailable: it is written the next time."""
        rows: list[Confirmed] = []
        again: list[tuple[str, str, float]] = []
        written = {}
        for state in self._states():
            for kind in RULED:
                look = state.looks.get(kind, Look())
                if look.complete_at is None or look.remembered:
                    continue  # nothing newer than the row that is there
                kept = [held.discarded for held in state.held if held.kind == kind]
                lingering = state.lingering_asgs if kind == "asgs" else ()
                made_of = (getattr(state, kind), lingering, *kept)
                before, at = self._written.get((state.name, kind), ((), 0.0))
                if not _same(before, made_of):
                    content = await asyncio.to_thread(pack, state, kind)
                    rows.append(Confirmed(state.name, kind, FORMAT, look.complete_at, content))
                elif look.complete_at - at >= AGAIN_SECONDS or look.complete_at < at:
                    again.append((state.name, kind, look.complete_at))
                else:
                    continue
                written[state.name, kind] = (made_of, look.complete_at)
        if rows or again:
            await self._store.confirm(rows, again)
            self._written |= written


def _same(before: tuple[object, ...], now: tuple[object, ...]) -> bool:
    return len(before) == len(now) and all(a is b or a == b for a, b in zip(before, now, strict=True))
