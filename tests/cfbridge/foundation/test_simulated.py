"""The watch against the simulated foundation: real tokens, real mutual TLS, the faults a foundation has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cfbridge.foundation.client import CloudController
from cfbridge.foundation.watch import FoundationWatch
from cfbridge.inventory import FoundationState
from cfbridge.settings import FoundationConfig, PolicyServerConfig
from cfbridge.simulator import certificates, seed
from cfbridge.simulator.box import Box, SimulatorConfig, serve
from cfbridge.simulator.nouns import Fault
from cfbridge.simulator.policy_table import PolicyKey
from egress.values import qualify
from policy_sync.model import CfPolicy, Protocol

SERVERS = ("cloud_controller", "policy_server")


@pytest.fixture(scope="session")
def certificate_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    certificates.ensure(directory)
    return directory


@pytest.fixture(params=[False, True], ids=["http", "https"])
async def box(certificate_directory: Path, request: pytest.FixtureRequest) -> AsyncIterator[Box]:
    async with await serve(SimulatorConfig(certificate_directory, tls=request.param)) as running:
        yield running


def config_of(box: Box) -> FoundationConfig:
    there = box.foundation
    inside = PolicyServerConfig(
        there.internal_url, str(there.ca), str(there.client_cert), str(there.client_key), poll_seconds=0.01
    )
    return FoundationConfig(
        "cf",
        there.api_url,
        there.client_id,
        str(there.client_secret_file),
        inside,
        ca=str(there.ca),
        delta_seconds=0.01,
        asg_seconds=0.01,
    )


@pytest.fixture
async def watch(box: Box) -> AsyncIterator[FoundationWatch]:
    config = config_of(box)
    controller = CloudController(config, longest_wait=0.01)
    watch = FoundationWatch(config, lambda _: None, controller=controller)
    yield watch
    await watch.close()


async def test_the_recorded_foundation_is_seen_whole(watch: FoundationWatch) -> None:
    state = await watch.look_once()
    assert [look.error for look in state.looks.values()] == [""] * 6
    assert {org.name for org in state.orgs.values()} == {"acme", "globex"}
    assert {app.name for app in state.apps.values()} == {"frontend", "backend", "db", "spy"}
    assert len(state.processes) == 4
    assert {asg.name for asg in state.asgs.values()} == {"public_networks", "db-only"}
    assert state.ready
    assert not state.quarantined


async def test_both_sources_name_the_same_security_groups(box: Box, watch: FoundationWatch) -> None:
    other = FoundationWatch(replace(config_of(box), asg_source="cloud-controller"), lambda _: None)
    try:
        assert (await other.look_once()).asgs == (await watch.look_once()).asgs
    finally:
        await other.close()


async def test_a_policy_is_seen_at_the_next_poll_and_gone_after_its_removal(box: Box, watch: FoundationWatch) -> None:
    await watch.look_once()
    policy = PolicyKey(seed.FRONTEND, seed.BACKEND, "tcp", 8080, 8080)
    box.state.policies.create([policy])
    assert await watch.look_at_policies()
    (seen,) = watch.state.policies
    assert (seen.protocol, seen.first_port, seen.last_port) == (Protocol.TCP, 8080, 8080)
    assert (seen.source, seen.destination) == (f"cf:{seed.FRONTEND}", f"cf:{seed.BACKEND}")
    box.state.policies.delete([policy])
    assert await watch.look_at_policies()
    assert watch.state.policies == frozenset[CfPolicy]()


async def test_a_new_app_comes_with_a_delta(box: Box, watch: FoundationWatch) -> None:
    await watch.look_once()
    app = box.state.create_app(seed.ACME_DEV, "cart", instances=3)
    assert await watch.look_at_controller()
    assert watch.state.apps[f"cf:{app.guid}"].name == "cart"  # type: ignore[index]
    assert watch.state.processes[f"cf:{app.guid}"].instances == 3  # type: ignore[index]


async def test_a_deleted_org_is_gone_after_a_sweep_with_all_that_was_in_it(box: Box, watch: FoundationWatch) -> None:
    await watch.look_once()
    box.state.delete_org(seed.GLOBEX)
    state = await watch.look_once()
    assert {org.name for org in state.orgs.values()} == {"acme"}
    assert (len(state.spaces), len(state.apps), len(state.processes)) == (2, 3, 3)


@pytest.mark.parametrize("mode", ["error", "garbage", "blank", "partial"])
@pytest.mark.parametrize("status", [429, 503])
async def test_a_misbehaving_foundation_withdraws_nothing(
    box: Box, watch: FoundationWatch, mode: str, status: int
) -> None:
    before = await watch.look_once()
    for service in SERVERS:
        box.state.set_fault(service, Fault(mode, status))
    during = await watch.look_once()
    assert replace(during, looks={}) == replace(before, looks={})
    assert all(look.stale_since is not None and look.error for look in during.looks.values())
    for service in SERVERS:
        box.state.set_fault(service, None)
    after = await watch.look_once()
    assert all(look.stale_since is None for look in after.looks.values())


async def test_a_uaa_that_is_away_is_waited_for(box: Box, watch: FoundationWatch) -> None:
    box.state.set_fault("uaa", Fault("error", 503))
    assert (await watch.look_once()).looks["orgs"].complete_at is None
    box.state.set_fault("uaa", None)
    assert (await watch.look_once()).looks["orgs"].complete_at is not None


async def test_tokens_that_ended_are_renewed(box: Box, watch: FoundationWatch) -> None:
    await watch.look_once()
    clock = box.tokens.clock
    box.tokens.clock = lambda: clock() + 10_000
    state = await watch.look_once()
    assert all(look.stale_since is None for look in state.looks.values())


async def test_two_changes_of_a_group_in_one_second_are_both_seen_where_cloud_controller_is_asked(box: Box) -> None:
    """cloud_controller_ng#3479: they have one timestamp, so whoever compares it loses the second."""
    config = replace(config_of(box), asg_source="cloud-controller", asg_settle_seconds=0.0)
    watch = FoundationWatch(config, lambda _: None)
    box.state.clock = lambda: 1_800_000_000.0
    group = box.state.create_security_group("quick", running=True)
    try:
        await watch.look_once()
        for port in ("443", "8080"):
            rules = ({"protocol": "tcp", "destination": "1.1.1.1", "ports": port},)
            changed = box.state.change_security_group(replace(group, rules=rules))
            assert changed.updated_at == group.updated_at
            assert await watch.look_at_asgs()
            (seen,) = watch.state.asgs[qualify("cf", group.guid)].rules
            assert seen.ports == ((int(port), int(port)),)
    finally:
        await watch.close()


async def test_a_running_watch_sees_a_push_a_policy_and_a_bound_group(box: Box) -> None:
    states: list[FoundationState] = []
    changed = asyncio.Event()

    def publish(state: FoundationState) -> None:
        states.append(state)
        changed.set()

    async def until(name: str, count: int) -> None:
        while not states or len(getattr(states[-1], name)) != count:
            changed.clear()
            await asyncio.wait_for(changed.wait(), 20)

    running = asyncio.create_task(FoundationWatch(config_of(box), publish).run())
    try:
        await until("asgs", 2)
        app = box.state.create_app(seed.ACME_DEV, "cart")
        await until("apps", 5)
        box.state.policies.create([PolicyKey(seed.FRONTEND, app.guid, "udp", 53, 60)])
        await until("policies", 1)
        group = box.state.create_security_group("mail", [{"protocol": "tcp", "destination": "1.1.1.1", "ports": "25"}])
        box.state.bind(group, "running", (seed.ACME_PROD,))
        await until("asgs", 3)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
