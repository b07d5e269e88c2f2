"""What stays in force when a complete answer withdraws much, who is asked for by name, and what ends it?"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from cfbridge.foundation import asking
from cfbridge.foundation.client import CloudController
from cfbridge.foundation.watch import FoundationWatch
from cfbridge.inventory import FoundationState, Look
from cfbridge.settings import FoundationConfig
from egress.values import QualifiedId

Fake = Any  # of conftest.py, which cannot be imported by name
HTTPS_OUT = '[{"protocol":"tcp","destination":"1.1.1.1","ports":"443"}]'
DNS_OUT = '[{"protocol":"udp","destination":"1.1.1.1","ports":"53"}]'
LATER = "2026-11-23T10:05:00Z"
EMPTY_PAGE = json.dumps({"pagination": {"total_results": 0, "total_pages": 1}, "resources": []})


class Watched:
    """A watch whose clock we turn. It publishes into `now`."""

    def __init__(self, config: FoundationConfig, remembered: FoundationState | None = None) -> None:
        self.clock = 1000.0
        self.published: list[FoundationState] = []
        controller = CloudController(config, longest_wait=0.01)
        self.watch = FoundationWatch(
            config, self.published.append, controller=controller, clock=lambda: self.clock, remembered=remembered
        )

    @property
    def state(self) -> FoundationState:
        return self.watch.state

    def held(self) -> dict[str, int]:
        return {each.kind: len(each.objects) for each in self.state.held}

    async def after(self, seconds: float) -> FoundationState:
        self.clock += seconds
        return await self.watch.look_once()


@pytest.fixture
async def watched(config: FoundationConfig) -> AsyncIterator[Watched]:
    made = Watched(config)
    yield made
    await made.watch.close()


@pytest.fixture
def big(fake: Fake) -> None:
    """An org with 20 apps, each with a policy to the next, and 20 security groups."""
    fake.org("o1")
    fake.space("s1", "o1")
    for n in range(20):
        fake.app(f"a{n}")
        fake.policy(f"a{n}", f"a{(n + 1) % 20}")
        fake.asg(f"g{n}", HTTPS_OUT)


def answer_empty(fake: Fake, *kinds: str) -> None:
    """Lists of Cloud Controller, and what is asked for alone: well formed, and nothing in them."""
    for kind in kinds:
        fake.instead[kind] = deque([(200, {}, EMPTY_PAGE)] * 1000)
        for row in fake.rows[kind]:
            fake.instead[row["guid"]] = deque([(200, {}, "{}")] * 1000)


@pytest.mark.usefixtures("big")
async def test_an_empty_list_of_policies_is_held_and_believed_after_a_minute_and_three_looks(
    watched: Watched, fake: Fake
) -> None:
    before = await watched.watch.look_once()
    fake.policies.clear()
    fake.policies_changed += 1
    assert (await watched.after(1)).policies == before.policies
    (held,) = watched.state.held
    assert (held.kind, len(held.objects), held.known) == ("policies", 20, 20)
    assert (held.since, held.until, held.looks, held.looks_needed) == (1001.0, 1061.0, 1, 3)
    assert (await watched.after(59)).policies == before.policies
    assert (await watched.after(1)).policies == frozenset()
    assert watched.held() == {}


@pytest.mark.usefixtures("big")
async def test_a_policy_that_comes_while_others_are_held_is_there_at_once(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    fake.policies.clear()
    fake.policy("a7", "a1", 9000)
    await watched.watch.look_at_policies()
    assert len(watched.state.policies) == 21


@pytest.mark.usefixtures("big")
async def test_a_hold_ends_by_itself_when_the_policies_are_there_again(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    kept = fake.policies
    fake.policies, fake.policies_changed = [], 7
    await watched.watch.look_at_policies()
    assert watched.held() == {"policies": 20}
    fake.policies, fake.policies_changed = kept, 8
    await watched.watch.look_at_policies()
    assert watched.held() == {}


@pytest.mark.usefixtures("big")
async def test_incomplete_looks_let_a_hold_go_on(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    fake.policies, fake.policies_changed = [], 7
    await watched.watch.look_at_policies()
    fake.instead["policies"] = deque([(500, {}, "")] * 5)
    for _ in range(5):
        watched.clock += 100
        assert not await watched.watch.look_at_policies()
    assert len(watched.state.policies) == 20
    (held,) = watched.state.held
    assert held.looks == 1


@pytest.mark.usefixtures("big")
async def test_while_something_is_held_everything_is_looked_at_whole_and_often(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    fake.policies, fake.policies_changed = [], 7
    await watched.watch.look_at_policies()
    fake.asked.clear()
    await watched.watch.look_at_controller()
    assert fake.count("updated_ats") == 0  # at once
    await watched.watch.look_at_controller()
    assert fake.count("updated_ats") == 3  # of processes there are none, so there is no moment to begin at
    watched.clock += 10
    await watched.watch.look_at_policies()
    assert sum(asked.endswith("/policies") for asked in fake.asked) == 1  # although its number is the same
    fake.asked.clear()
    await watched.watch.look_at_controller()
    assert fake.count("updated_ats") == 0  # and often


@pytest.mark.usefixtures("big")
async def test_orgs_spaces_and_apps_are_held_when_their_lists_are_empty(watched: Watched, fake: Fake) -> None:
    for n in range(2, 20):
        fake.org(f"o{n}")
        fake.space(f"s{n}", f"o{n}")
    before = await watched.watch.look_once()
    answer_empty(fake, "organizations", "spaces", "apps")
    after = await watched.after(301)
    assert (after.orgs, after.spaces, after.apps) == (before.orgs, before.spaces, before.apps)
    assert watched.held() == {"orgs": 19, "spaces": 19, "apps": 20}
    assert all(look.stale_since is None for look in after.looks.values())


@pytest.mark.usefixtures("big")
async def test_apps_that_are_gone_by_their_own_answer_go_at_once_and_their_policies_with_them(
    watched: Watched, fake: Fake
) -> None:
    await watched.watch.look_once()
    fake.policies = fake.policies[15:]
    fake.policies_changed += 1
    await watched.watch.look_at_policies()
    assert watched.held() == {"policies": 15}
    for n in range(15):
        fake.remove("apps", f"a{n}")
    await watched.watch.look_at_controller()
    assert {f"cf:a{n}" for n in range(15, 20)} == set(watched.state.apps)
    assert fake.count("/v3/apps/a") == 15
    await watched.watch.look_at_policies()
    assert len(watched.state.policies) == 5
    assert watched.held() == {}


@pytest.mark.usefixtures("big")
async def test_so_many_are_asked_for_after_one_look_and_no_more(
    watched: Watched, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "AT_MOST", 6)
    await watched.watch.look_once()
    fake.rows["apps"].clear()
    fake.asked.clear()
    watched.clock += 301
    await watched.watch.look_at_controller()
    assert fake.count("/v3/apps/a") == 6
    assert watched.held() == {"apps": 14}
    await watched.watch.look_at_controller()
    assert fake.count("/v3/apps/a") == 14 - 2
    assert len(watched.state.apps) == 0  # of the eight that are left, that is little: they are asked for together
    assert fake.count("guids=") == 1


@pytest.mark.usefixtures("big")
async def test_a_routers_404_says_nothing_about_an_app(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    fake.instead["apps"] = deque([(200, {}, EMPTY_PAGE)] * 2)
    for n in range(20):
        fake.instead[f"a{n}"] = deque([(404, {}, "404 Not Found: Requested route does not exist.\n")] * 2)
    assert len((await watched.after(301)).apps) == 20
    assert watched.held() == {"apps": 20}
    assert fake.count("/v3/apps/a") <= asking.SIDE_BY_SIDE


@pytest.mark.usefixtures("big")
async def test_a_list_that_leaves_out_many_who_are_there_counts_for_nothing_and_what_it_adds_is_there(
    watched: Watched, fake: Fake
) -> None:
    await watched.watch.look_once()
    rows = list(fake.rows["apps"])

    def hide_from_the_list(request: web.Request) -> None:
        fake.rows["apps"] = list(rows)
        if request.path.endswith("/apps"):
            fake.rows["apps"].clear()
            fake.app("a99", updated=LATER)

    fake.before = hide_from_the_list
    after = await watched.after(301)
    assert len(after.apps) == 21
    assert after.held == ()
    assert after.looks["apps"].stale_since == 1301.0
    for _ in range(5):
        assert len((await watched.after(100)).apps) == 21


@pytest.mark.usefixtures("big")
async def test_objects_that_all_become_unreadable_are_held_too(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    for row in fake.rows["apps"]:
        row["name"] = 7
        row["updated_at"] = LATER
    await watched.watch.look_at_controller()
    assert len(watched.state.apps) == 20
    assert len((await watched.after(301)).apps) == 20
    assert watched.held() == {"apps": 20}


@pytest.mark.usefixtures("big")
async def test_a_person_applies_and_the_answer_is_believed_now(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    fake.policies, fake.policies_changed = [], 7
    await watched.watch.look_at_policies()
    held = watched.watch.decide("policies", apply=True)
    assert held is not None
    assert len(held.objects) == 20
    assert (watched.published[-1].policies, watched.published[-1].held) == (frozenset(), ())
    assert watched.watch.decide("policies", apply=True) is None


@pytest.mark.usefixtures("big")
async def test_a_person_applies_what_is_held_of_apps_and_of_groups(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    answer_empty(fake, "apps")
    fake.asgs = fake.asgs[:2]
    await watched.after(301)
    assert watched.held() == {"apps": 20, "asgs": 18}
    assert watched.watch.decide("apps", apply=True)
    assert watched.watch.decide("asgs", apply=True)
    assert (set(watched.state.apps), set(watched.state.asgs)) == (set(), {"cf:g0", "cf:g1"})
    assert (await watched.after(1)).held == ()


@pytest.mark.usefixtures("big")
async def test_a_person_discards_and_the_policies_stay(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    fake.policies, fake.policies_changed = [], 7
    await watched.watch.look_at_policies()
    assert watched.watch.decide("policies", apply=False)
    for _ in range(5):
        assert len((await watched.after(300)).policies) == 20
    (held,) = watched.state.held
    assert (held.until, held.discarded) == (None, held.objects)


@pytest.mark.usefixtures("big")
async def test_an_entry_that_a_group_loses_settles_and_what_comes_is_there_at_once(
    watched: Watched, fake: Fake
) -> None:
    await watched.watch.look_once()
    old = watched.state.asgs[QualifiedId("cf:g1")]
    fake.asgs[1]["rules"] = DNS_OUT
    state = await watched.after(1)
    assert state.asgs[QualifiedId("cf:g1")] != old
    assert state.lingering_asgs == (old,)
    assert (await watched.after(9.9)).lingering_asgs == (old,)
    assert (await watched.after(0.1)).lingering_asgs == ()
    assert state.held == ()


@pytest.mark.parametrize("lost", ["running_space_guids", "running_default"])
@pytest.mark.usefixtures("big")
async def test_a_binding_that_a_group_loses_settles_and_bound_again_nothing_ever_happened(
    watched: Watched, fake: Fake, lost: str
) -> None:
    fake.asgs[1].update({"running_space_guids": ["s1"], "running_default": lost == "running_default"})
    before = await watched.watch.look_once()
    kept = fake.asgs[1][lost]
    fake.asgs[1][lost] = False if lost == "running_default" else []
    during = await watched.after(1)
    assert during.lingering_asgs == (before.asgs[QualifiedId("cf:g1")],)
    fake.asgs[1][lost] = kept
    after = await watched.after(1)
    assert (after.asgs, after.lingering_asgs) == (before.asgs, ())


@pytest.mark.usefixtures("big")
async def test_a_group_that_is_deleted_settles_too(watched: Watched, fake: Fake) -> None:
    before = await watched.watch.look_once()
    del fake.asgs[1]
    assert (await watched.after(1)).asgs == before.asgs
    assert len((await watched.after(10)).asgs) == 19


@pytest.mark.usefixtures("big")
async def test_groups_that_all_lose_their_entries_are_held(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    for asg in fake.asgs:
        asg["rules"] = "[]"
    state = await watched.after(1)
    assert watched.held() == {"asgs": 20}
    assert len(state.lingering_asgs) == 20
    assert len((await watched.after(30)).lingering_asgs) == 20


@pytest.mark.usefixtures("big")
async def test_what_settled_is_withdrawn_by_a_running_watch_although_nothing_else_happens(
    config: FoundationConfig, fake: Fake
) -> None:
    fake.asgs_changed = 1
    done = asyncio.Event()
    states: list[FoundationState] = []

    def publish(state: FoundationState) -> None:
        states.append(state)
        if state.asgs and len(state.asgs) == 19:
            done.set()
        elif state.ready and len(fake.asgs) == 20:
            del fake.asgs[1]
            fake.asgs_changed = 2

    # Looked at every minute, so that only what is to settle can be the reason for another look.
    watch = FoundationWatch(replace(config, asg_seconds=60.0, asg_settle_seconds=0.3), publish)
    watch._space_is_new.set()
    running = asyncio.create_task(watch.run())
    try:
        while not any(state.ready for state in states):
            await asyncio.sleep(0.01)
        watch._space_is_new.set()
        await asyncio.wait_for(done.wait(), 30)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


# Over a restart -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def left(watched: Watched, big: None) -> FoundationState:
    """What a bridge left, as the next one knows it."""
    state = await watched.watch.look_once()
    looks = {kind: Look(look.complete_at, remembered=True) for kind, look in state.looks.items()}
    return replace(state, looks=looks, processes={}, quarantined=())


async def test_after_a_restart_an_empty_answer_is_held_against_what_was_confirmed_before(
    config: FoundationConfig, fake: Fake, left: FoundationState
) -> None:
    fake.policies.clear()
    again = Watched(config, left)
    assert not again.state.ready
    state = await again.watch.look_once()
    assert state.ready
    assert len(state.policies) == 20
    assert again.held() == {"policies": 20}
    await again.watch.close()


async def test_what_was_discarded_before_a_restart_stays_discarded(
    config: FoundationConfig, fake: Fake, watched: Watched, left: FoundationState
) -> None:
    fake.policies.clear()
    await watched.after(301)
    assert watched.watch.decide("policies", apply=False)
    again = Watched(config, replace(left, held=watched.state.held))
    for _ in range(5):
        assert len((await again.after(300)).policies) == 20
    await again.watch.close()


async def test_what_is_remembered_is_in_force_once_a_look_has_failed_and_says_since_when_it_is_stale(
    config: FoundationConfig, fake: Fake, left: FoundationState
) -> None:
    fake.instead[""] = deque([(503, {}, "")] * 1000)
    for name in ("policies_last_updated", "security_groups_last_updated"):
        fake.instead[name] = deque([(503, {}, "")] * 1000)
    again = Watched(config, left)
    again.clock = 5000.0
    state = await again.watch.look_once()
    assert state.ready
    assert len(state.policies) == 20
    assert all(
        (look.complete_at, look.stale_since, look.remembered) == (1000.0, 5000.0, True)
        for look in state.looks.values()
        if look.complete_at
    )
    await again.watch.close()


async def test_servers_that_hang_do_not_keep_what_is_remembered_from_serving(
    config: FoundationConfig, fake: Fake, left: FoundationState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cfbridge.foundation.watch.GRACE_SECONDS", 0.05)
    hanging = asyncio.Event()
    served = asyncio.Event()

    class Hanging:
        async def last_updated(self) -> int:
            await hanging.wait()
            return 0

        security_groups_last_updated = last_updated

        async def close(self) -> None:
            pass

    fake.instead[""] = deque([(503, {}, "")] * 1000)

    def publish(state: FoundationState) -> None:
        if state.ready:
            served.set()

    controller = CloudController(config, longest_wait=0.01)
    watch = FoundationWatch(config, publish, controller=controller, policy_server=Hanging(), remembered=left)  # type: ignore[arg-type]
    running = asyncio.create_task(watch.run())
    try:
        await asyncio.wait_for(served.wait(), 20)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


# Numbers only hint ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("big")
async def test_a_number_of_zero_never_proves_that_nothing_changed(watched: Watched, fake: Fake) -> None:
    fake.policies_changed = fake.asgs_changed = 0
    await watched.watch.look_once()
    fake.policies.pop()
    fake.asgs.append({**fake.asgs[0], "guid": "g99"})
    await watched.watch.look_at_policies()
    await watched.watch.look_at_asgs()
    assert len(watched.state.policies) == 19
    assert len(watched.state.asgs) == 21


@pytest.mark.usefixtures("big")
async def test_where_numbers_went_back_the_list_is_read_often(watched: Watched, fake: Fake) -> None:
    """Another instance answers, and its list is behind its own number."""
    await watched.watch.look_once()
    fake.policies_changed -= 5
    await watched.watch.look_at_policies()
    fake.policies.pop()
    watched.clock += 10
    await watched.watch.look_at_policies()
    assert len(watched.state.policies) == 19


@pytest.mark.usefixtures("big")
async def test_after_an_outage_everything_is_looked_at_whole(watched: Watched, fake: Fake) -> None:
    await watched.watch.look_once()
    for name in ("organizations", "spaces", "apps", "processes", "policies_last_updated"):
        fake.instead[name] = deque([(500, {}, "")])
    fake.asgs_changed = 3
    fake.instead["security_groups_last_updated"] = deque([(500, {}, "")])
    await watched.watch.look_at_asgs()
    for _ in range(2):
        await watched.watch.look_at_policies()
        await watched.watch.look_at_controller()
        fake.policies[:1] = []
        fake.remove("apps", "a3")
    await watched.watch.look_at_policies()
    await watched.watch.look_at_controller()
    assert len(watched.state.policies) == 19
    assert "cf:a3" not in watched.state.apps
