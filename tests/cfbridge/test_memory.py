"""Does the next bridge know what this one's foundations confirmed, and does nothing in the store end it?"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfbridge import memory
from cfbridge.inventory import RULED, FoundationState, HeldBack, Look
from cfbridge.memory import Memory
from cfbridge.store import Confirmed, Deposed, Store
from egress.values import QualifiedId, parse_range
from policy_sync.model import GardenRule, Protocol
from tests.cfbridge.api.world import ASG, POLICY, STATE

OLDER = replace(ASG, rules=(*ASG.rules, GardenRule(Protocol.UDP, (parse_range("10.0.0.1"),), ((53, 53),))))
KEPT = HeldBack("policies", frozenset({POLICY}), 2, 5.0, None, discarded=frozenset({POLICY}))
LEFT = replace(STATE, looks={kind: Look(10.0) for kind in RULED}, lingering_asgs=(OLDER,), held=(KEPT,))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite:///{tmp_path}/store.db")
    await opened.lead()
    yield opened
    await opened.close()


async def recalled(store: Store) -> FoundationState:
    return (await memory.recall(store, ["cf"]))["cf"]


async def test_what_was_confirmed_is_recalled_and_says_that_it_is_remembered(store: Store) -> None:
    await Memory(store, lambda: [LEFT]).save()
    state = await recalled(store)
    for kind in RULED:
        assert getattr(state, kind) == getattr(LEFT, kind)
        assert state.looks[kind] == Look(10.0, remembered=True)
    assert state.lingering_asgs == (OLDER,)
    assert [(held.kind, held.discarded) for held in state.held] == [("policies", frozenset({POLICY}))]
    assert not state.ready


async def test_which_orgs_the_tenants_are_is_recalled(store: Store) -> None:
    bound = {"acme": QualifiedId("cf:acme-guid"), 'a "quoted" ü': QualifiedId("cf:other-guid")}
    await memory.keep_tenants(store, bound)
    assert await memory.tenants(store) == bound


@pytest.mark.parametrize("written", ["", "[]", '{"acme": 7}', '{"acme": "cf:acme-g'])
async def test_tenants_that_nobody_understands_are_bound_to_nobody(store: Store, written: str) -> None:
    await store.set(memory.TENANTS, written)
    assert await memory.tenants(store) == {}


async def test_of_a_new_foundation_nothing_is_recalled(store: Store) -> None:
    await Memory(store, lambda: [LEFT]).save()
    states = await memory.recall(store, ["other"])
    assert states == {"other": FoundationState("other")}


async def test_what_was_never_looked_at_whole_is_not_written(store: Store) -> None:
    looks = {"apps": Look(None, 5.0, "away"), "orgs": Look(3.0, remembered=True), "spaces": Look(10.0)}
    await Memory(store, lambda: [replace(LEFT, looks=looks)]).save()
    assert [row.kind for row in await store.confirmed()] == ["spaces"]


async def test_a_kind_that_did_not_change_is_not_written_again_and_its_time_once_a_minute(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [LEFT]
    writing = Memory(store, lambda: now)
    await writing.save()
    written: list[list[str]] = []
    confirm = store.confirm

    async def counted(rows: list[Confirmed], again: list[tuple[str, str, float]]) -> None:
        written.append([row.kind for row in rows] + [f"{kind} again" for _, kind, _ in again])
        await confirm(rows, again)

    monkeypatch.setattr(store, "confirm", counted)
    now[0] = replace(LEFT, policies=frozenset(), held=(), looks=dict.fromkeys(RULED, Look(69.0)))
    await writing.save()
    now[0] = replace(now[0], looks=dict.fromkeys(RULED, Look(70.0)))
    await writing.save()
    assert written == [["policies"], ["orgs again", "spaces again", "apps again", "asgs again"]]
    assert {row.kind: row.at for row in await store.confirmed()} == {
        **dict.fromkeys(RULED, 70.0),
        "policies": 69.0,
    }


async def test_what_the_store_did_not_take_is_written_the_next_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Memory(store, lambda: [LEFT])
    epoch, store.epoch = store.epoch, 0
    with pytest.raises(Deposed):
        await writing.save()
    await writing.close()  # a bridge that ends says it, and ends
    store.epoch = epoch
    await writing.save()
    assert (await recalled(store)).policies == LEFT.policies


@pytest.mark.parametrize(
    "row",
    [
        Confirmed("cf", "apps", 2, 1.0, memory.pack(LEFT, "apps")),
        Confirmed("cf", "apps", 1, 1.0, memory.pack(LEFT, "policies")),
        Confirmed("cf", "apps", 1, 1.0, b""),
        Confirmed("cf", "apps", 1, 1.0, memory.pack(LEFT, "apps")[:-5]),
        Confirmed("cf", "apps", 1, 1.0, zlib.compress(b"garbage")),
        Confirmed("cf", "apps", 1, 1.0, zlib.compress(msgspec.msgpack.encode(([], [3])))),
        Confirmed("cf", "planets", 1, 1.0, memory.pack(LEFT, "apps")),
    ],
    ids=["format", "kind", "empty", "half", "garbage", "position", "unknown"],
)
async def test_a_row_that_can_not_be_understood_is_passed_over_and_the_others_are_recalled(
    store: Store, row: Confirmed
) -> None:
    await store.confirm([row, Confirmed("cf", "orgs", 1, 1.0, memory.pack(LEFT, "orgs"))])
    state = await recalled(store)
    assert (state.apps, state.orgs) == ({}, LEFT.orgs)
    assert set(state.looks) == {"orgs"}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(RULED), st.booleans())
def test_no_bytes_end_the_reading(content: bytes, kind: str, packed: bool) -> None:
    row = Confirmed("cf", kind, 1, 1.0, zlib.compress(content) if packed else content)
    memory.unpack(FoundationState("cf"), row)


async def test_60_000_policies_are_packed_in_pieces_and_recalled(store: Store) -> None:
    many = frozenset(replace(POLICY, first_port=port, last_port=port) for port in range(1, 60_001))
    await Memory(store, lambda: [replace(LEFT, policies=many)]).save()
    assert (await recalled(store)).policies == many
