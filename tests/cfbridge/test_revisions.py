"""Is what people publish in force, kept, and given back, and is nobody's work lost by somebody else's?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cfbridge import export
from cfbridge.revisions import Revisions, written
from cfbridge.store import Revised, Store
from egress.values import RefusedError, Unavailable
from tests.cfbridge.api.world import FakeStore

A, B = b"groups: {a: [10.0.0.1]}", b"groups: {b: [10.0.0.2]}"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite:///{tmp_path}/store.db")
    await opened.lead()
    yield opened
    await opened.close()


def groups(revisions: Revisions) -> list[str]:
    return [group.name for intent in revisions.intents.values() for group in intent.groups]


async def test_what_is_published_is_in_force_and_there_for_the_next_bridge(store: Store) -> None:
    first = await Revisions.open(store)
    told: list[int] = []
    first.published = lambda: told.append(first.number)
    plan = await first.publish(A, "alice", "SEC-112")
    assert (plan.revision, plan.summary, told) == (1, "1 to add", [1])
    after = await Revisions.open(store)
    assert (after.number, after.intents) == (1, first.intents)
    assert [(each.author, each.reason, each.summary) for each in after.history] == [("alice", "SEC-112", "1 to add")]


async def test_a_plan_changes_nothing(store: Store) -> None:
    revisions = await Revisions.open(store)
    assert (await revisions.plan(A)).summary == "1 to add"
    assert (revisions.number, revisions.intents) == (0, {})


async def test_what_says_the_same_is_no_revision(store: Store) -> None:
    revisions = await Revisions.open(store)
    await revisions.publish(A, "alice", "")
    assert (await revisions.publish(export.text(revisions.intents).encode(), "bob", "")).revision == 1
    assert revisions.number == 1


async def test_who_saw_an_older_revision_is_refused_and_nothing_is_lost(store: Store) -> None:
    revisions = await Revisions.open(store)
    await revisions.publish(A, "alice", "")
    with pytest.raises(RefusedError, match=r"made for revision 0, and 1 is in force by now.*REVISION_OUTDATED"):
        await revisions.publish(B, "bob", "", base=0)
    assert groups(revisions) == ["a"]


async def test_of_two_that_publish_at_once_for_one_revision_one_is_refused(store: Store) -> None:
    revisions = await Revisions.open(store)
    both = [revisions.publish(written, "alice", "", base=0) for written in (A, B)]
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert [isinstance(each, RefusedError) for each in outcomes].count(True) == 1
    assert len(groups(revisions)) == 1


async def test_teams_that_publish_at_once_keep_both_their_scopes(store: Store) -> None:
    revisions = await Revisions.open(store)
    files = [f"{{scope: s{n}, groups: {{g{n}: [10.0.0.{n}]}}}}".encode() for n in range(8)]
    await asyncio.gather(*(revisions.publish(each, "team", "") for each in files))
    assert sorted(groups(revisions)) == [f"g{n}" for n in range(8)]


async def test_a_rollback_is_a_revision_that_says_what_an_older_one_said(store: Store) -> None:
    revisions = await Revisions.open(store)
    await revisions.publish(A, "alice", "")
    await revisions.publish(B, "bob", "")
    plan = await revisions.roll_back(1, "carol", "too much was cut")
    assert (plan.revision, groups(revisions)) == (3, ["a"])
    assert revisions.history[0].reason == "rollback to revision 1: too much was cut"
    assert written(await revisions.revision(3)) == written(await revisions.revision(1))
    with pytest.raises(RefusedError, match="REVISION_UNKNOWN"):
        await revisions.roll_back(9, "carol", "")


async def test_a_bridge_that_obeys_a_file_takes_nothing_else_and_keeps_what_the_file_said(store: Store) -> None:
    revisions = await Revisions.open(store, by_file="/etc/intent.yml")
    for publishing in (revisions.publish(A, "alice", ""), revisions.roll_back(1, "alice", "")):
        with pytest.raises(RefusedError, match=r"obeys the file /etc/intent.yml.*INTENT_IS_A_FILE"):
            await publishing
    await revisions.record((await revisions.plan(A)).intents, "/etc/intent.yml")
    assert groups(await Revisions.open(store)) == ["a"]


async def test_a_revision_that_nobody_understands_ends_the_start_unless_a_file_has_the_rules(store: Store) -> None:
    await store.revise(Revised(1, 0.0, "alice", "", "", b"garbage"))
    with pytest.raises(RefusedError, match=r"Revision 1 in the store can not be understood.*REVISION_UNREADABLE"):
        await Revisions.open(store)
    assert (await Revisions.open(store, by_file="/etc/intent.yml")).number == 1


async def test_while_the_store_is_away_nothing_is_published_and_nothing_is_lost() -> None:
    fake = FakeStore()
    revisions = Revisions(fake)  # type: ignore[arg-type]
    await revisions.publish(A, "alice", "")
    fake.away = "the store is away"
    for _ in range(2):
        with pytest.raises(Unavailable):
            await revisions.publish(B, "bob", "")
    assert groups(revisions) == ["a"]
    fake.away = ""
    assert (await revisions.publish(B, "bob", "")).revision == 2


async def test_a_commit_that_came_in_although_nobody_heard_of_it_is_in_force_from_the_next_look_on() -> None:
    fake = FakeStore()
    revisions = Revisions(fake)  # type: ignore[arg-type]
    told: list[int] = []
    revisions.published = lambda: told.append(revisions.number)
    fake.away, fake.late = "no answer in time", True
    with pytest.raises(Unavailable):
        await revisions.publish(A, "alice", "")
    assert groups(revisions) == []
    fake.away = ""
    with pytest.raises(RefusedError, match="made for revision 0, and 1 is in force by now"):
        await revisions.publish(B, "bob", "", base=0)
    assert (groups(revisions), told) == (["a"], [1])
