"""What do streams, refusals and holdings meet when agent or bridge die and come back? Nothing at all."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.simulator import lab
from cfbridge.simulator.garden import GardenError
from cfbridge.simulator.probe import Packet
from tests.scenarios.stage import FLOOD, back, becomes, known_app, org_row, spec, start, tcp, udp

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]


@dataclass(frozen=True)
class Pair:
    """A client that may reach a server, with a stream each way, and a stranger that may not."""

    box: Box
    client: Instance
    server: Instance
    stranger: Instance

    async def streams_live(self) -> bool:
        return all([await self.box.flows(self.client, name) for name in ("mine", "theirs")])


async def _pair(box: Box, name: str) -> Pair:
    await box.push("acme", "dev", f"{name}-client")
    await box.push("acme", "dev", f"{name}-server")
    await box.push("globex", "dev", f"{name}-stranger")
    pair = Pair(box, *(box.instance(f"{name}-{part}") for part in ("client", "server", "stranger")))
    await box.add_policy(f"{name}-client", f"{name}-server")
    await becomes("open", partial(tcp, box, pair.client, pair.server))
    await box.open_stream(pair.client, "mine", pair.server.address, 8080, push="client")
    await box.open_stream(pair.client, "theirs", pair.server.address, 8080, push="server")
    assert await pair.streams_live()
    return pair


async def test_streams_live_and_refusals_stand_while_the_agent_is_killed_and_returns(box: Box) -> None:
    pair = await _pair(box, "agent")
    box.kill("agent")
    assert await pair.streams_live()
    assert await tcp(box, pair.client, pair.server) == "open"
    assert await tcp(box, pair.stranger, pair.server) == "refused"
    await back(box, "agent")
    assert await pair.streams_live()
    assert await tcp(box, pair.client, pair.server) == "open"
    assert await tcp(box, pair.stranger, pair.server) == "refused"


async def test_of_a_thousand_refused_packets_a_second_none_passes_while_the_agent_dies_and_returns_ten_times(
    box: Box,
) -> None:
    """Adoption opens nothing, not for a moment (Cilium GO-2023-1644)."""
    pair = await _pair(box, "adopt")
    await box.push("acme", "dev", "adopt-fence")
    await box.add_policy("adopt-fence", "adopt-server", "udp", "5000")
    fencer = box.instance("adopt-fence")
    await becomes("open", partial(udp, box, fencer, pair.server))
    ear = box.probe(pair.server)
    await asyncio.to_thread(ear.hear)
    await asyncio.to_thread(ear.heard)
    flood = (sys.executable, "-S", "-c", FLOOD, pair.server.address)
    sender = await box.diego.guardian.run(pair.stranger.handle, flood)
    assert sender.stdout is not None
    assert await asyncio.to_thread(sender.stdout.readline) == b"sending\n"
    for _ in range(10):
        box.kill("agent")
        await back(box, "agent")
    sender.terminate()
    sent = int(await asyncio.to_thread(sender.stdout.readline))
    fence = Packet(fencer.address, pair.server.address, 17, 5000, tag=0x7F000001)
    await asyncio.to_thread(box.probe(fencer).send, [fence])
    arrived, _ = await asyncio.to_thread(ear.heard, fence.tag)
    assert sent > 500
    assert {*arrived} == {fence.tag}
    assert await pair.streams_live()


async def test_a_returned_agent_takes_away_what_it_did_not_make_itself(box: Box) -> None:
    await known_app(box, "acme", "dev", "orphan")
    orphan = await start(box, spec(box, "orphan", netin=[(0, 8080)]))
    box.kill("agent")
    await back(box, "agent")
    assert orphan.address in box.lab.cell.run("ip", "route", "show", "table", "7712")
    await box.diego.guardian.destroy(orphan.handle)
    assert orphan.address not in box.lab.cell.run("ip", "route", "show", "table", "7712")


async def test_a_down_while_the_agent_is_away_is_well_and_is_done_before_the_next_up(box: Box) -> None:
    await known_app(box, "acme", "dev", "spooled")
    gone = await start(box, spec(box, "spooled", netin=[(0, 8080)]))
    port = gone.mapped_port(8080)
    box.kill("agent")
    await box.diego.guardian.destroy(gone.handle)
    with pytest.raises(GardenError):
        await start(box, spec(box, "spooled"))
    await back(box, "agent")
    await start(box, spec(box, "spooled"))
    assert gone.address not in box.lab.cell.run("ip", "route", "show", "table", "7712")
    assert (await box.tcp_from("router", lab.CELL, port)).result == "refused"
    assert gone.address not in {row["address"] for row in await box.api("leases")}


async def test_an_up_without_an_agent_fails_and_says_who_is_away(box: Box) -> None:
    await known_app(box, "acme", "dev", "too-early")
    box.kill("agent")
    try:
        with pytest.raises(GardenError) as failed:
            await start(box, spec(box, "too-early"))
        assert "agent" in failed.value.stderr
        assert failed.value.stderr.count("\n") <= 1
    finally:
        await back(box, "agent")


async def test_nothing_changes_on_the_cell_while_the_bridge_is_killed_and_returns(box: Box) -> None:
    pair = await _pair(box, "bridge")
    before = await _on_the_cell(box)
    box.kill("bridge")
    assert await pair.streams_live()
    assert await tcp(box, pair.stranger, pair.server) == "refused"
    assert await _on_the_cell(box) == before
    await back(box, "bridge")
    assert await pair.streams_live()
    assert await tcp(box, pair.client, pair.server) == "open"
    assert await tcp(box, pair.stranger, pair.server) == "refused"
    assert await _on_the_cell(box) == before


async def _on_the_cell(box: Box) -> tuple[str, ...]:
    """The ruleset without its counters, and the links and routes."""
    asked = (
        ("nft", "-s", "list", "table", "inet", "cfbridge"),
        ("ip", "-o", "link"),
        ("ip", "route", "show", "table", "7712"),
    )
    shown = [await asyncio.to_thread(box.lab.cell.run, *each) for each in asked]
    return tuple("\n".join(sorted(each.splitlines())) if number else each for number, each in enumerate(shown))


async def test_what_orgs_hold_and_the_ids_of_rules_survive_the_bridge(box: Box) -> None:
    await _pair(box, "sticky")
    before = await _held(box)
    box.kill("bridge")
    await back(box, "bridge")
    assert await _held(box) == before


async def _held(box: Box) -> dict[str, Any]:
    orgs = {
        name: {key: row[key] for key in ("mode", "subnets", "snat_addresses")}
        for name in ("acme", "globex")
        if (row := await org_row(box, name))
    }
    return {
        "orgs": orgs,
        "leases": {row["address"]: row["workload_id"] for row in await box.api("leases")},
        "rules": {row["id"]: row["name"] for row in await box.api("rules")},
        "policies": {row["id"]: row["rule"] for row in await box.api("policies")},
    }


async def test_an_up_after_the_bridges_return_gets_its_orgs_own_subnet(box: Box) -> None:
    await known_app(box, "acme", "dev", "after")
    first = await start(box, spec(box, "after"))
    box.kill("bridge")
    await back(box, "bridge")
    second = await start(box, spec(box, "after"))
    acme = await org_row(box, "acme")
    assert second.address != first.address
    assert box.in_subnet(first.address, acme)
    assert box.in_subnet(second.address, acme)


async def test_an_up_while_the_bridge_is_away_waits_for_it(box: Box) -> None:
    await known_app(box, "acme", "dev", "patient")
    box.kill("bridge")
    starting = asyncio.create_task(start(box, spec(box, "patient")))
    await asyncio.sleep(0)
    await back(box, "bridge")
    assert (await starting).address


async def test_a_policy_that_was_removed_while_the_bridge_was_away_is_gone_when_it_returns(box: Box) -> None:
    pair = await _pair(box, "removed")
    box.kill("bridge")
    await box.remove_policy("removed-client", "removed-server")
    assert await pair.streams_live()
    await back(box, "bridge")
    await becomes("refused", partial(tcp, box, pair.client, pair.server))
    assert await box.until_cut(pair.client, "mine", 10)
    assert await box.until_cut(pair.client, "theirs", 10)


async def test_a_policy_that_was_added_while_the_bridge_was_away_is_in_force_when_it_returns(box: Box) -> None:
    await box.push("acme", "dev", "added-client")
    await box.push("acme", "dev", "added-server")
    box.kill("bridge")
    await box.add_policy("added-client", "added-server")
    await back(box, "bridge")
    await becomes("open", partial(tcp, box, box.instance("added-client"), box.instance("added-server")))


async def test_a_container_that_went_while_the_bridge_was_away_gives_its_address_back(box: Box) -> None:
    await known_app(box, "acme", "dev", "leaver")
    gone = await start(box, spec(box, "leaver"))
    box.kill("bridge")
    await box.diego.guardian.destroy(gone.handle)
    await back(box, "bridge")

    async def held() -> bool:
        return gone.address in {row["address"] for row in await box.api("leases")}

    await becomes(False, held)


async def test_bridge_and_agent_dead_together_leave_streams_alive_and_come_back(box: Box) -> None:
    pair = await _pair(box, "both")
    box.kill("bridge")
    box.kill("agent")
    assert await pair.streams_live()
    assert await tcp(box, pair.stranger, pair.server) == "refused"
    box.start_agent()
    await back(box, "bridge")
    assert await pair.streams_live()
    await box.remove_policy("both-client", "both-server")
    assert await box.until_cut(pair.client, "mine", 10)
