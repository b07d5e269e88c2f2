"""Where does an org live, and how does it leave? Modes, subnets that grow and run out, seen by the firewall outside."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator
from functools import partial
from itertools import combinations

import pytest
import pytest_asyncio

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.simulator import lab
from cfbridge.simulator.garden import GardenError
from tests.scenarios.stage import becomes, known_app, org_row, spec, start, status

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

ROOM = 12
"""Containers that fit into a /28: network, router, cell port and broadcast are kept."""
POOLS = (
    {"name": "routable", "kind": "container", "prefixes": ["172.20.0.0/22"], "org_prefix_length": 28, "routable": True},
    {"name": "internal", "kind": "container", "prefixes": ["10.251.0.0/24"], "org_prefix_length": 28},
    {"name": "tiny", "kind": "container", "prefixes": ["10.250.0.0/28"], "org_prefix_length": 28},
    {"name": "snat", "kind": "snat", "prefixes": ["203.0.113.0/26"]},
)
TENANTS = {
    "switching": {"mode": "nat"},
    "streaming": {"mode": "nat"},
    "growing": {"mode": "nat"},
    "moving": {"mode": "nat", "pool": "internal"},
    "forgotten": {"mode": "shared", "pool": "tiny"},
    "early": {"mode": "shared", "pool": "tiny"},
    "late": {"mode": "shared", "pool": "tiny"},
}
EVERYTHING = [{"protocol": "all", "destination": "0.0.0.0/0"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box() -> AsyncIterator[Box]:
    async with Box(pools=POOLS, intent=json.dumps({"tenants": TENANTS}), looks={"sweep_seconds": 2.0}) as made:
        made.lab.announce("172.20.0.0/22")
        yield made


async def _open_outside(box: Box, org: str) -> None:
    await known_app(box, org, "dev", f"{org}-app")
    await box.bind_asg("everything", EVERYTHING, f"{org}/dev")


async def _container(box: Box, org: str) -> Instance:
    return await start(box, spec(box, f"{org}-app"))


async def _leaves_by(box: Box, container: Instance) -> str:
    outcome = await box.tcp(container, lab.EXT, 80)
    return outcome.seen or outcome.result


async def _become(box: Box, org: str, mode: str) -> None:
    """Edit the intent file as a person would."""
    said = json.loads(box.intent)
    said["tenants"][org] = {"mode": mode}
    box.intent = json.dumps(said)
    box.add_rules("")


async def test_an_org_that_is_switched_to_routed_and_back_leaves_accordingly_without_a_restart(box: Box) -> None:
    await _open_outside(box, "switching")
    container = await _container(box, "switching")
    translated = await box.snat_address("switching")
    await becomes(translated, partial(_leaves_by, box, container))
    await _become(box, "switching", "routed")
    await becomes(container.address, partial(_leaves_by, box, container))
    await _become(box, "switching", "nat")
    await becomes(translated, partial(_leaves_by, box, container))


async def test_a_stream_to_outside_lives_on_when_its_org_changes_its_mode(box: Box) -> None:
    await _open_outside(box, "streaming")
    container = await _container(box, "streaming")
    translated = await box.snat_address("streaming")
    await becomes(translated, partial(_leaves_by, box, container))
    await box.open_stream(container, "long", lab.EXT, 80)
    await _become(box, "streaming", "routed")
    await becomes(container.address, partial(_leaves_by, box, container))
    assert await box.flows(container, "long")
    await box.open_stream(container, "untranslated", lab.EXT, 80)
    await _become(box, "streaming", "nat")
    await becomes(translated, partial(_leaves_by, box, container))
    assert await box.flows(container, "long")
    assert await box.flows(container, "untranslated")


async def test_a_container_that_nobody_can_announce_keeps_its_translation_when_its_org_is_routed(box: Box) -> None:
    await _open_outside(box, "moving")
    before = await _container(box, "moving")
    translated = await box.snat_address("moving")
    await becomes(translated, partial(_leaves_by, box, before))
    await _become(box, "moving", "routed")

    async def mode() -> str:
        return str((await org_row(box, "moving"))["mode"])

    await becomes("routed", mode)
    after = await _container(box, "moving")
    assert ipaddress.ip_address(after.address) in ipaddress.ip_network("172.20.0.0/22")
    await becomes(after.address, partial(_leaves_by, box, after))
    assert await _leaves_by(box, before) == translated


async def test_an_org_nobody_wished_anything_for_leaves_by_the_address_of_its_cell(box: Box) -> None:
    await _open_outside(box, "plain")
    container = await _container(box, "plain")
    assert (await org_row(box, "plain"))["mode"] == "shared"
    await becomes(lab.CELL, partial(_leaves_by, box, container))


async def test_orgs_whose_containers_come_at_once_share_no_subnet(box: Box) -> None:
    orgs = [f"crowd-{number}" for number in range(6)]
    for org in orgs:
        await known_app(box, org, "dev", f"{org}-app")
    containers = await asyncio.gather(*(_container(box, org) for org in orgs for _ in range(2)))
    rows = [await org_row(box, org) for org in orgs]
    subnets = [[ipaddress.ip_network(subnet) for subnet in row["subnets"]] for row in rows]
    assert all(subnets)
    for mine, theirs in combinations(subnets, 2):
        assert not any(a.overlaps(b) for a in mine for b in theirs)
    for number, container in enumerate(containers):
        assert box.in_subnet(container.address, rows[number // 2])


async def test_a_full_org_gets_a_second_subnet_and_leaves_by_its_one_address_from_both(box: Box) -> None:
    await _open_outside(box, "growing")
    containers = await asyncio.gather(*(_container(box, "growing") for _ in range(ROOM + 2)))
    org = await org_row(box, "growing")
    assert len(org["subnets"]) == 2
    assert len(org["snat_addresses"]) == 1
    assert len({each.address for each in containers}) == ROOM + 2
    for subnet in org["subnets"]:
        inside = next(each for each in containers if box.in_subnet(each.address, {"subnets": [subnet]}))
        await becomes(org["snat_addresses"][0], partial(_leaves_by, box, inside))


async def test_an_org_without_room_in_its_pool_is_refused_in_words_and_others_go_on(box: Box) -> None:
    for org in ("early", "late", "elsewhere"):
        await known_app(box, org, "dev", f"{org}-app")
    assert (await _container(box, "early")).address
    with pytest.raises(GardenError) as refused:
        await _container(box, "late")
    assert "IP_POOL_EXHAUSTED" in refused.value.stderr
    assert "tiny" in refused.value.stderr
    assert len(refused.value.stderr.splitlines()) == 1
    assert (await _container(box, "elsewhere")).address
    verdict, said = await status(box)
    assert verdict == "degraded"
    assert "IP_POOL_EXHAUSTED" in said

    async def refusals() -> list[str]:
        return [row["refusal_code"] for row in await box.api("orgs") if row["name"] == "late"]

    await becomes(["IP_POOL_EXHAUSTED"], refusals)
    again = await asyncio.gather(*(_container(box, "early") for _ in range(ROOM - 1)))
    assert len({each.address for each in again}) == ROOM - 1
    with pytest.raises(GardenError) as full:
        await _container(box, "early")
    assert "IP_POOL_EXHAUSTED" in full.value.stderr


async def test_an_org_that_was_refused_and_is_deleted_leaves_no_alarm_behind(box: Box) -> None:
    for org in ("early", "forgotten"):
        await known_app(box, org, "dev", f"{org}-app")

    async def read() -> bool:
        return {"early", "forgotten"} <= {row["name"] for row in await box.api("orgs")}

    await becomes(True, read)
    if not (await org_row(box, "early"))["subnets"]:
        await _container(box, "early")
    with pytest.raises(GardenError):
        await _container(box, "forgotten")
    assert "forgotten" in (await status(box))[1]
    state = box.foundation.state
    state.delete_app(box.app_guid("forgotten-app"))
    org = state.org_named("forgotten")
    assert org is not None
    state.delete_org(org.guid)
    said = json.loads(box.intent)
    del said["tenants"]["forgotten"]
    box.intent = json.dumps(said)
    box.add_rules("")

    async def told() -> bool:
        return "forgotten" in (await status(box))[1]

    await becomes(False, told)
