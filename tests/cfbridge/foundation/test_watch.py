from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from cfbridge.foundation.client import CloudController
from cfbridge.foundation.watch import FoundationWatch
from cfbridge.inventory import FoundationState
from cfbridge.settings import FoundationConfig

Fake = Any  # of conftest.py, which cannot be imported by name
HTTPS_OUT = '[{"protocol":"tcp","destination":"1.1.1.1","ports":"443"}]'


class Watched:
    """A watch whose clock we turn, and everything it published."""

    def __init__(self, config: FoundationConfig) -> None:
        self.now = 1000.0
        self.published: list[FoundationState] = []
        self.changed = asyncio.Event()
        controller = CloudController(config, longest_wait=0.01)
        self.watch = FoundationWatch(config, self._publish, controller=controller, clock=lambda: self.now)

    def _publish(self, state: FoundationState) -> None:
        self.published.append(state)
        self.changed.set()

    async def until(self, true: Callable[[FoundationState], bool]) -> FoundationState:
        while not (self.published and true(self.published[-1])):
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 20)
        return self.published[-1]


@pytest.fixture
async def watched(config: FoundationConfig) -> AsyncIterator[Watched]:
    made = Watched(config)
    yield made
    await made.watch.close()


@pytest.fixture
def small(fake: Fake) -> None:
    """Two orgs, a space, two apps, a policy, a security group."""
    fake.org("o1", "acme")
    fake.org("o2", "globex")
    fake.space("s1", "o1")
    fake.app("a1")
    fake.app("a2")
    fake.process("a1", "a1", 2)
    fake.policy("a1", "a2")
    fake.asg("g1", HTTPS_OUT)


@pytest.mark.usefixtures("small")
async def test_one_look_sees_everything(watched: Watched) -> None:
    state = await watched.watch.look_once()
    assert {org.name for org in state.orgs.values()} == {"acme", "globex"}
    assert state.spaces["cf:s1"].org == "cf:o1"  # type: ignore[index]
    assert state.processes["cf:a1"].instances == 2  # type: ignore[index]
    assert len(state.policies) == 1
    assert len(state.asgs) == 1
    assert all(look.complete_at == 1000.0 and look.stale_since is None for look in state.looks.values())


async def test_an_empty_foundation_is_known_too(watched: Watched) -> None:
    state = await watched.watch.look_once()
    assert all(look.complete_at is not None for look in state.looks.values())
    assert not state.policies


@pytest.mark.usefixtures("small")
async def test_nothing_new_is_not_published(watched: Watched, fake: Fake) -> None:
    before = await watched.watch.look_once()
    count = len(watched.published)
    fake.policies_changed += 1
    fake.policies.reverse()
    after = await watched.watch.look_once()
    assert len(watched.published) == count
    assert after.policies is before.policies
    assert after.apps is before.apps


@pytest.mark.usefixtures("small")
async def test_the_list_is_fetched_only_when_the_number_changed(watched: Watched, fake: Fake) -> None:
    for _ in range(5):
        await watched.watch.look_at_policies()
    assert fake.count("/internal/policies_last_updated") == 5
    assert sum(asked.endswith("/policies") for asked in fake.asked) == 1
    fake.policy("a2", "a1")
    await watched.watch.look_at_policies()
    assert len(watched.watch.state.policies) == 2


@pytest.mark.usefixtures("small")
async def test_a_sweep_finds_what_the_number_did_not_tell(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_at_policies()
    fake.policies.clear()
    await watched.watch.look_at_policies()
    assert watched.watch.state.policies
    watched.now += 301
    await watched.watch.look_at_policies()
    assert not watched.watch.state.policies


@pytest.mark.usefixtures("small")
async def test_a_delta_brings_what_is_new_and_what_changed(watched: Watched, fake: Fake) -> None:
    before = await watched.watch.look_once()
    fake.app("a3", updated="2026-11-23T10:05:00Z")
    fake.org("o1", "acme-renamed", updated="2026-11-23T10:05:00Z")
    fake.asked.clear()
    assert await watched.watch.look_at_controller()
    after = watched.watch.state
    assert set(after.apps) == {"cf:a1", "cf:a2", "cf:a3"}
    assert after.orgs["cf:o1"].name == "acme-renamed"  # type: ignore[index]
    assert after.orgs["cf:o2"] is before.orgs["cf:o2"]  # type: ignore[index]
    assert fake.count("updated_ats[gte]=2026-11-23T09:59:58Z") == 4


@pytest.mark.usefixtures("small")
async def test_a_deletion_is_seen_at_the_sweep(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    fake.remove("apps", "a2")
    await watched.watch.look_at_controller()
    assert "cf:a2" in watched.watch.state.apps
    watched.now += 301
    await watched.watch.look_at_controller()
    assert "cf:a2" not in watched.watch.state.apps
    assert fake.count("guids=a2") == 1


@pytest.mark.usefixtures("small")
async def test_nobody_is_gone_whom_the_foundation_still_knows(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    row = next(row for row in fake.rows["apps"] if row["guid"] == "a2")

    def hide_from_the_list(request: web.Request) -> None:
        fake.remove("apps", "a2")
        if "guids" in request.query:
            fake.rows["apps"].append(row)

    fake.before = hide_from_the_list
    watched.now += 301
    assert not await watched.watch.look_at_controller()
    assert "cf:a2" in watched.watch.state.apps
    assert watched.watch.state.looks["apps"].stale_since == 1301


@pytest.mark.usefixtures("small")
async def test_a_row_updated_while_a_sweep_read_later_pages_is_in_the_next_delta(watched: Watched, fake: Fake) -> None:
    fake.page_size = 1

    def update(request: web.Request) -> None:
        if request.path.endswith("/apps") and request.query.get("page") == "2":
            fake.app("a1", name="renamed", updated="2026-11-23T11:00:00Z")
            fake.app("a2", name="later", updated="2026-11-23T12:00:00Z")

    fake.before = update
    await watched.watch.look_at_controller()
    assert watched.watch.state.apps["cf:a1"].name == "web"  # type: ignore[index]
    await watched.watch.look_at_controller()
    assert watched.watch.state.apps["cf:a1"].name == "renamed"  # type: ignore[index]


@pytest.mark.usefixtures("small")
async def test_a_failed_look_changes_nothing_but_its_look(watched: Watched, fake: Fake) -> None:
    before = await watched.watch.look_once()
    watched.now = 2000.0
    broken = deque([(500, {}, "no database")] * 20)
    for name in ("organizations", "spaces", "apps", "processes", "policies_last_updated", "security_groups"):
        fake.instead[name] = broken
    after = await watched.watch.look_once()
    assert replace(after, looks={}) == replace(before, looks={})
    for look in after.looks.values():
        assert (look.complete_at, look.stale_since) == (1000.0, 2000.0)
        assert "no database" in look.error


@pytest.mark.usefixtures("small")
async def test_what_a_later_failure_says_is_told_too_but_not_at_each_of_them(watched: Watched, fake: Fake) -> None:
    """The first may be a connection that ended; why it can't be made anew, the next ones say."""
    await watched.watch.look_once()
    words = ["hung up", *["certificate"] * 5, *(f"request {number}" for number in range(20))]
    fake.instead["policies_last_updated"] = deque((500, {}, said) for said in words)
    told = []
    for at in range(len(words)):
        watched.now = 2000.0 + at / 2
        watched.published.clear()
        assert not await watched.watch.look_at_policies()
        told += [state.looks["policies"].error for state in watched.published]
    assert "hung up" in told[0]
    assert "certificate" in told[1]
    assert len(told) <= len(words) / 2 / 2 + 1
    assert watched.watch.state.looks["policies"].stale_since == 2000.0


@pytest.mark.usefixtures("small")
async def test_the_time_it_became_stale_stays_and_passes(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    fake.instead["policies_last_updated"] = deque([(500, {}, ""), (500, {}, "")])
    for watched.now in (2000.0, 2001.0):
        assert not await watched.watch.look_at_policies()
    assert watched.watch.state.looks["policies"].stale_since == 2000.0
    assert await watched.watch.look_at_policies()
    assert watched.watch.state.looks["policies"].stale_since is None


@pytest.mark.parametrize("body", ["", "<html>", '{"total_policies":0}', '{"total_policies":9,"policies":[]}', "null"])
@pytest.mark.usefixtures("small")
async def test_a_list_that_is_none_withdraws_nothing_and_is_asked_for_again(
    watched: Watched, fake: Fake, body: str
) -> None:
    await watched.watch.look_once()
    fake.policy("a2", "a1")
    fake.instead["policies"] = deque([(200, {}, body)])
    assert not await watched.watch.look_at_policies()
    assert len(watched.watch.state.policies) == 1
    assert await watched.watch.look_at_policies()
    assert len(watched.watch.state.policies) == 2


@pytest.mark.usefixtures("small")
async def test_a_complete_list_that_is_empty_is_believed(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    fake.policies.clear()
    fake.policies_changed += 1
    await watched.watch.look_at_policies()
    assert watched.watch.state.policies == frozenset()


@pytest.mark.usefixtures("small")
async def test_a_bad_object_is_quarantined_until_it_is_good(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    fake.org("o3", name=7, updated="2026-11-23T10:05:00Z")
    fake.policies.append({"source": {}})
    await watched.watch.look_at_controller()
    await watched.watch.look_at_policies(whole=True)
    state = watched.watch.state
    assert [refused.code for refused in state.quarantined] == ["CF_OBJECT_UNREADABLE", "CF_POLICY_UNREADABLE"]
    assert (len(state.orgs), len(state.policies)) == (2, 1)
    fake.org("o3", name="good", updated="2026-11-23T10:06:00Z")
    await watched.watch.look_at_controller()
    assert len(watched.watch.state.orgs) == 3
    assert len(watched.watch.state.quarantined) == 1


@pytest.mark.usefixtures("small")
async def test_security_groups_are_read_again_when_their_number_or_the_spaces_changed(
    watched: Watched, fake: Fake
) -> None:
    fake.asgs_changed = 1
    await watched.watch.look_once()

    async def fetched() -> int:
        fake.asked.clear()
        assert await watched.watch.look_at_asgs()
        return int(fake.count("/security_groups?"))

    assert await fetched() == 0
    fake.asgs_changed = 2
    assert await fetched() == 1
    fake.space("s2", "o1", updated="2026-11-23T10:05:00Z")
    await watched.watch.look_at_controller()
    assert await fetched() == 1
    watched.now += 301
    assert await fetched() == 1


@pytest.mark.usefixtures("small")
async def test_security_groups_wait_for_the_spaces(watched: Watched) -> None:
    assert not await watched.watch.look_at_asgs()
    assert "spaces are not known" in watched.watch.state.looks["asgs"].error
    assert not watched.watch.state.ready


async def test_security_groups_come_from_cloud_controller_where_told(fake: Fake, config: FoundationConfig) -> None:
    fake.rows["security_groups"].append({"guid": "g9", "name": "web", "rules": json.loads(HTTPS_OUT)})
    watched = Watched(replace(config, asg_source="cloud-controller"))
    assert await watched.watch.look_at_asgs()
    assert set(watched.watch.state.asgs) == {"cf:g9"}
    await watched.watch.close()


@pytest.mark.usefixtures("small")
async def test_a_running_watch_reports_every_change(watched: Watched, fake: Fake) -> None:
    running = asyncio.create_task(watched.watch.run())
    try:
        await watched.until(lambda state: state.ready and len(state.apps) == 2)
        fake.policy("a2", "a1")
        await watched.until(lambda state: len(state.policies) == 2)
        fake.app("a3", updated="2026-11-23T10:05:00Z")
        await watched.until(lambda state: "cf:a3" in state.apps)
        fake.asg("g2", HTTPS_OUT)
        await watched.until(lambda state: len(state.asgs) == 2)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.usefixtures("small")
async def test_policies_are_watched_while_cloud_controller_is_away(watched: Watched, fake: Fake) -> None:
    fake.instead[""] = deque([(503, {}, "")] * 10_000)
    running = asyncio.create_task(watched.watch.run())
    try:
        await watched.until(lambda state: len(state.policies) == 1)
        fake.policy("a2", "a1")
        state = await watched.until(lambda state: len(state.policies) == 2)
        assert state.looks["orgs"].complete_at is None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.usefixtures("small")
async def test_a_bug_ends_the_watch(config: FoundationConfig) -> None:
    def publish(_: FoundationState) -> None:
        raise LookupError("a bug")

    watch = FoundationWatch(config, publish)
    with pytest.raises(ExceptionGroup) as ended:
        await watch.run()
    assert ended.group_contains(LookupError, match="a bug")
