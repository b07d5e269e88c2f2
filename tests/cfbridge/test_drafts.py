"""Are edits collected without being in force, published as one, and never over somebody else's work?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cfbridge.drafts import Drafts
from cfbridge.edits import Edit, Verb
from cfbridge.intent import together
from cfbridge.revisions import Revisions
from cfbridge.store import Store
from egress.values import RefusedError

POLICY = b"""
groups: {a: [10.0.0.1]}
vms: {m: {addresses: [10.1.0.1]}}
rules: {environment: {zones: [{name: first, action: drop}, {name: second, action: drop}]}}
"""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite:///{tmp_path}/store.db")
    await opened.lead()
    yield opened
    await opened.close()


@pytest.fixture
async def drafts(store: Store) -> Drafts:
    revisions = await Revisions.open(store)
    await revisions.publish(POLICY, "root", "")
    return Drafts(store, revisions)


def group(name: str, *members: str) -> Edit:
    return Edit(Verb.SET, "group", name, list(members))


def rule(name: str, **said: Any) -> Edit:
    return Edit(Verb.CHANGE, "rule", name, said)


async def test_a_draft_is_published_as_one_revision_and_gone(drafts: Drafts, store: Store) -> None:
    revisions = drafts._revisions
    await drafts.edit("d", group("b", "10.0.0.2"), "alice")
    plan = await drafts.edit("d", rule("first", **{"from": "b"}), "bob")
    assert (plan.summary, revisions.number) == ("1 to add, 1 to change", 1)
    assert (await drafts.plan("d")).changes == plan.changes
    done = await drafts.publish("d", "carol", "SEC-112")
    assert (done.revision, done.changes, drafts.drafts) == (2, plan.changes, {})
    assert (revisions.history[0].author, revisions.history[0].reason) == ("carol", "SEC-112")
    assert (await Drafts.open(store, revisions)).drafts == {}


async def test_a_draft_outlives_the_bridge(drafts: Drafts, store: Store) -> None:
    await drafts.edit("d", group("b", "10.0.0.2"), "alice")
    await drafts.edit("d", Edit(Verb.CHANGE, "tags", "vm:m", {"tier": "db", "env": None}), "bob")
    after = await Drafts.open(store, await Revisions.open(store))
    assert after.drafts == drafts.drafts
    assert (after.drafts["d"].author, len(after.drafts["d"].edits)) == ("bob", 2)
    assert (await after.plan("d")).changes == (await drafts.plan("d")).changes


async def test_drafts_and_publications_of_different_things_never_meet(drafts: Drafts) -> None:
    await drafts.edit("d", group("b", "10.0.0.2"), "alice")
    await drafts.edit("e", rule("second", log=True), "bob")
    await drafts._revisions.edit([rule("first", enabled=False)], "carol", "")
    await drafts.publish("e", "bob", "")
    await drafts.publish("d", "alice", "")
    said = together(drafts._revisions.intents)
    assert [(each.name, each.enabled, each.log) for each in said.rules] == [
        ("first", False, False),
        ("second", True, True),
    ]
    assert {each.name for each in said.groups} == {"a", "b"}


@pytest.mark.parametrize(
    ("drafted", "published", "says"),
    [
        (group("a", "10.0.0.2"), group("a", "10.0.0.3"), "group 'a'"),
        (group("b", "10.0.0.2"), group("b", "10.0.0.3"), "group 'b'"),
        (rule("first", log=True), Edit(Verb.REMOVE, "rule", "first"), "rule 'first'"),
        (Edit(Verb.CHANGE, "tags", "vm:m", {"a": "b"}), Edit(Verb.REMOVE, "vm", "m"), "vm 'm'"),
    ],
)
async def test_a_draft_of_what_somebody_else_changed_is_not_published_over_it(
    drafts: Drafts, drafted: Edit, published: Edit, says: str
) -> None:
    await drafts.edit("d", drafted, "alice")
    await drafts._revisions.edit([published], "bob", "")
    for trying in (drafts.plan("d"), drafts.publish("d", "alice", "")):
        with pytest.raises(RefusedError, match=f"somebody changed the same: {says}.*DRAFT_OUTDATED"):
            await trying
    assert drafts._revisions.number == 2
    assert (await drafts.discard("d")).name == "d"
    assert drafts.drafts == {}


async def test_a_draft_may_change_its_own_things_again(drafts: Drafts) -> None:
    await drafts.edit("d", group("b", "10.0.0.2"), "alice")
    await drafts.edit("d", group("b", "10.0.0.3"), "alice")
    await drafts.edit("d", Edit(Verb.REMOVE, "group", "b"), "alice")
    assert (await drafts.plan("d")).changes == ()
    await drafts.publish("d", "alice", "")
    assert (drafts._revisions.number, drafts.drafts) == (1, {})


async def test_an_edit_that_can_not_be_is_refused_and_the_draft_stays(drafts: Drafts) -> None:
    await drafts.edit("d", group("b", "10.0.0.2"), "alice")
    with pytest.raises(RefusedError, match="DANGLING_NAME"):
        await drafts.edit("d", rule("first", to="nobody"), "alice")
    assert len(drafts.drafts["d"].edits) == 1


async def test_what_was_published_meanwhile_can_make_a_draft_impossible_and_it_says_so(drafts: Drafts) -> None:
    await drafts.edit("d", rule("first", to="a"), "alice")
    await drafts._revisions.edit([Edit(Verb.REMOVE, "group", "a")], "bob", "")
    with pytest.raises(RefusedError, match="no group is named 'a'"):
        await drafts.publish("d", "alice", "")
    assert [*drafts.drafts] == ["d"]


async def test_no_draft_is_begun_where_a_file_is_obeyed(drafts: Drafts) -> None:
    drafts._revisions.by_file = "/etc/intent.yml"
    with pytest.raises(RefusedError, match="INTENT_IS_A_FILE"):
        await drafts.edit("d", group("b"), "alice")


async def test_what_is_not_there_is_unknown(drafts: Drafts) -> None:
    for asking in (drafts.plan("x"), drafts.publish("x", "alice", ""), drafts.discard("x")):
        with pytest.raises(RefusedError, match="There is no draft 'x'"):
            await asking
