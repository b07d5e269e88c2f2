"""Does a live connection end exactly when nothing allows it any more? The cases of decisions 1, with real packets."""

from __future__ import annotations

import asyncio

import pytest

from cfbridge.simulator.lab import CELL, EXT
from cfbridge.simulator.probe import Probe
from egress.model import NetworkMode
from egress.values import pack
from policy_sync.model import Action, Protocol, Tier
from policy_sync.translate import policy_key
from tests.packets.cell import Cell, at, cell, tcp

__all__ = ["cell"]
pytestmark = pytest.mark.packets

A, B, C = "10.240.1.5", "10.240.1.6", "10.240.2.7"
A6, B6 = "2001:db8:f:1::5", "2001:db8:f:1::6"


async def ends(probe: Probe, name: str) -> bool:
    """Whether the stream is over within the second that revocation has: at its end, or silent for another second."""
    for _ in range(100):
        if not probe.stream(name).alive or not probe.flows(name, lines=1, timeout=1.0):
            return True
        await asyncio.sleep(0.01)
    return False


async def ended(probe: Probe, name: str) -> str:
    """How, once its end is known: a machine that is busy tells it late."""
    for _ in range(1000):
        if how := probe.stream(name).ended:
            return how
        await asyncio.sleep(0.01)
    return ""


def pair(cell: Cell) -> tuple[Probe, Probe]:
    a, b = cell.container("a", A, A6), cell.container("b", B, B6)
    b.listen("tcp", 8080)
    return a, b


async def test_an_emergency_drop_above_a_live_developer_flow_ends_it_and_not_its_neighbour(cell: Cell) -> None:
    a, _ = pair(cell)
    c = cell.container("c", C)
    cell.policy("a", "b", 8080)
    cell.policy("c", "b", 8080)
    await cell.converge()
    a.open_stream("v4", B, 8080)
    a.open_stream("v6", B6, 8080)
    c.open_stream("other", B, 8080)
    cell.rule("quarantine", Tier.EMERGENCY, Action.DROP, at(A))
    await cell.converge()
    assert await ends(a, "v4")
    assert a.flows("v6")
    assert c.flows("other")
    cell.rule("quarantine6", Tier.EMERGENCY, Action.DROP, at("2001:db8:f:1::5/128"))
    await cell.converge()
    assert await ends(a, "v6")


async def test_a_source_that_leaves_a_group_is_cut_from_a_rule_that_stays_live_for_others(cell: Cell) -> None:
    a, _ = pair(cell)
    c = cell.container("c", C)
    cell.rule("clients", Tier.APPLICATION, Action.ALLOW, at(A, C), at(B), tcp(8080))
    await cell.converge()
    a.open_stream("leaves", B, 8080)
    c.open_stream("stays", B, 8080)
    cell.rule("clients", Tier.APPLICATION, Action.ALLOW, at(C), at(B), tcp(8080))
    await cell.converge()
    assert await ends(a, "leaves")
    assert await ended(a, "leaves") == "reset"
    assert c.flows("stays")


async def test_a_server_push_stream_goes_on_by_its_second_allowing_rule(cell: Cell) -> None:
    a, _ = pair(cell)
    policy = cell.policy("a", "b", 8080)
    await cell.converge()
    a.open_stream("push", B, 8080, push="server", every_ms=5)
    cell.rule("second", Tier.BASELINE, Action.ALLOW, at(A), at(B), tcp(8080))
    await cell.converge()
    before = cell.conntrack().flows(address=pack(A))
    assert {flow.mark for flow in before} == {cell.id_of(policy_key(policy))}
    cell.without(policy)
    await cell.converge()
    assert a.flows("push", lines=50)
    after = cell.conntrack().flows(address=pack(A))
    assert {flow.mark for flow in after} == {cell.id_of("rule:second")}
    cell.drop_rule("second")
    await cell.converge()
    assert await ends(a, "push")


async def test_a_policy_that_is_removed_ends_its_connection_with_a_reset(cell: Cell) -> None:
    a, _ = pair(cell)
    policy = cell.policy("a", "b", 8080)
    await cell.converge()
    a.open_stream("s", B, 8080)
    assert a.flows("s")
    cell.without(policy)
    await cell.converge()
    assert await ends(a, "s")
    assert await ended(a, "s") == "reset"


async def test_an_asg_that_is_withdrawn_ends_its_translated_connection(cell: Cell) -> None:
    a, _ = pair(cell)
    outside = cell.lab.probe("ext")
    outside.listen("tcp", 80)
    cell.org("10.240.1.0/24", NetworkMode.NAT, "192.0.2.66")
    cell.asg("out", ("198.51.100.0/24", 80))
    await cell.converge()
    a.open_stream("s", EXT, 80)
    assert a.flows("s")
    cell.unbind_asgs()
    await cell.converge()
    assert await ends(a, "s")


async def test_a_connection_by_a_mapped_port_survives_what_does_not_concern_it(cell: Cell) -> None:
    a = cell.container("a", A, mapped=[(61001, 8080)])
    a.listen("tcp", 8080)
    cell.container("b", B)
    router = cell.lab.probe("router")
    await cell.converge()
    router.open_stream("s", CELL, 61001)
    cell.rule("other", Tier.EMERGENCY, Action.DROP, at(B))
    cell.rule("everyone", Tier.EMERGENCY, Action.DROP, services=tcp(9999))
    await cell.converge()
    assert router.flows("s")
    cell.rule("no ingress", Tier.EMERGENCY, Action.REJECT, destinations=at(A))
    await cell.converge()
    assert await ends(router, "s")


async def test_a_datagram_flow_that_is_no_longer_allowed_is_forgotten(cell: Cell) -> None:
    a, b = pair(cell)
    b.listen("udp", 5000)
    policy = cell.policy("a", "b", 5000, protocol=Protocol.UDP)
    await cell.converge()
    assert a.udp(B, 5000).result == "open"
    cell.without(policy)
    await cell.converge()
    assert not cell.conntrack().flows(mark=cell.id_of(policy_key(policy)))
    assert a.udp(B, 5000).result == "refused"


async def test_a_container_that_goes_leaves_no_connection_behind(cell: Cell) -> None:
    a, _ = pair(cell)
    cell.policy("a", "b", 8080)
    await cell.converge()
    a.open_stream("s", B, 8080)
    a.open_stream("s6", B6, 8080)
    assert cell.conntrack().flows(address=pack(B))
    await cell.dataplane.detach([cell.local.ports["cf:b"]])
    assert not cell.conntrack().flows(address=pack(B))
    assert all(
        flow.destination != bytes.fromhex("20010db8000f00010000000000000006") for flow in cell.conntrack().flows()
    )
    await cell.dataplane.detach([cell.local.ports["cf:b"]])
