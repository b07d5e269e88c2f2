"""Does the kernel do to packets what the rules say? On the linux dataplane, with real namespaces and connections."""

from __future__ import annotations

import pytest

from cfbridge.simulator.lab import CELL, CELL6, EXT, EXT6, ROUTER, ROUTER6
from cfbridge.simulator.probe import Outcome, Packet
from egress.model import NetworkMode
from policy_sync.model import Action, Mode, Protocol, Tier
from policy_sync.ruleset import IDENTITY_BIT
from policy_sync.translate import policy_key
from tests.packets.cell import Cell, at, cell, tcp

__all__ = ["cell"]
pytestmark = pytest.mark.packets

A, B, C = "10.240.1.5", "10.240.1.6", "10.240.2.7"
A6, B6 = "2001:db8:f:1::5", "2001:db8:f:1::6"


async def test_a_network_policy_opens_its_port_and_no_other(cell: Cell) -> None:
    a, b = cell.container("a", A, A6), cell.container("b", B, B6)
    b.listen("tcp", 8080)
    b.listen("tcp", 8081)
    await cell.converge()
    assert a.tcp(B, 8080).result == "refused"
    policy = cell.policy("a", "b", 8080)
    await cell.converge()
    assert a.tcp(B, 8080).result == "open"
    assert a.tcp(B6, 8080).result == "open"
    assert a.tcp(B, 8081).result == "refused"
    assert a.tcp(B6, 8081).result == "refused"
    assert b.tcp(A, 8080).result == "refused"
    cell.without(policy)
    await cell.converge()
    assert a.tcp(B, 8080).result == "refused"


async def test_a_port_range_of_a_policy_opens_both_ends_and_nothing_beside(cell: Cell) -> None:
    a, b = cell.container("a", A), cell.container("b", B)
    for port in (8999, 9000, 9010, 9011):
        b.listen("tcp", port)
    await cell.converge()
    assert a.tcp(B, 9000).result == "refused"
    cell.policy("a", "b", 9000, 9010)
    for _ in range(2):  # written by netlink, then with the whole table
        await cell.converge()
        results = [a.tcp(B, port).result for port in (8999, 9000, 9010, 9011)]
        assert results == ["refused", "open", "open", "refused"]
        await cell.dataplane.close()
        cell.lab.cell.run("nft", "flush", "ruleset")
        await cell.restart()


async def test_instances_of_one_app_need_a_policy_to_themselves(cell: Cell) -> None:
    a, b = cell.container("a", A, app="web"), cell.container("b", B, app="web")
    b.listen("tcp", 8080)
    await cell.converge()
    assert a.tcp(B, 8080).result == "refused"
    cell.policy("web", "web", 8080)
    await cell.converge()
    assert a.tcp(B, 8080).result == "open"


async def test_an_asg_opens_the_outside_but_no_container_and_not_the_cell(cell: Cell) -> None:
    a, b = cell.container("a", A), cell.container("b", B)
    outside, host = cell.lab.probe("ext"), cell.lab.probe("cell")
    for probe in (b, outside, host):
        probe.listen("tcp", 80)
    cell.org("10.240.0.0/16", NetworkMode.SHARED)
    await cell.converge()
    assert a.tcp(EXT, 80).result == "refused"
    cell.asg("all", ("0.0.0.0/0", 80))
    await cell.converge()
    assert a.tcp(EXT, 80) == Outcome("open", CELL)
    assert a.tcp(EXT, 81).result == "refused"
    assert a.tcp(B, 80).result == "refused"
    assert a.tcp(CELL, 80).result == "refused"


async def test_an_org_leaves_by_its_own_address_or_by_none(cell: Cell) -> None:
    a = cell.container("a", A, A6)
    outside = cell.lab.probe("ext")
    outside.listen("tcp", 80)
    cell.asg("all", ("0.0.0.0/0", 80), ("::/0", 80))
    cell.org("10.240.1.0/24", NetworkMode.NAT, "192.0.2.66")
    cell.org("2001:db8:f:1::/64", NetworkMode.NAT)
    await cell.converge()
    assert a.tcp(EXT, 80) == Outcome("open", "192.0.2.66")
    cell.lab.announce("2001:db8:f::/48")
    assert a.tcp(EXT6, 80).result == "unreachable"
    cell.org("2001:db8:f:1::/64", NetworkMode.ROUTED)
    await cell.converge()
    assert a.tcp(EXT6, 80) == Outcome("open", A6)


async def test_a_container_cannot_send_with_another_address(cell: Cell) -> None:
    a, b, c = cell.container("a", A), cell.container("b", B, app="web"), cell.container("c", C, app="web")
    b.listen("udp", 5000)
    b.hear()
    cell.policy("web", "web", 5000, protocol=Protocol.UDP)
    cell.policy("a", "web", 5000, protocol=Protocol.UDP)
    await cell.converge()
    sent = [Packet(C, B, 17, 5000, tag=1), Packet(A, B, 17, 5000, tag=2)]
    a.send(sent)
    heard, _ = b.heard(2)
    assert heard == {2: A}
    assert c.udp(B, 5000).result == "open"


async def test_nobody_outside_can_send_with_a_workloads_or_the_cells_address(cell: Cell) -> None:
    b = cell.container("b", B, B6)
    cell.container("a", A, A6)
    router = cell.lab.probe("router")
    b.hear()
    cell.policy("a", "b", 5000, protocol=Protocol.UDP)
    cell.rule("router may", Tier.APPLICATION, Action.ALLOW, at(ROUTER, ROUTER6), at(B, B6))
    await cell.converge()
    for prefix in cell.topology.pools:
        cell.lab.announce(prefix)
    ends = ((ROUTER, B), (A, B), (CELL, B), (ROUTER6, B6), (A6, B6), (CELL6, B6), (ROUTER, B), (ROUTER6, B6))
    router.send([Packet(source, to, 17, 5000, tag=tag) for tag, (source, to) in enumerate(ends, 1)])
    heard, _ = b.heard(8)
    assert heard.keys() == {1, 4, 7, 8}, heard


async def test_a_mapped_port_leads_from_outside_to_the_container_until_it_is_gone(cell: Cell) -> None:
    a, b = cell.container("a", A, A6, mapped=[(61001, 8080)]), cell.container("b", B)
    a.listen("tcp", 8080)
    router, host = cell.lab.probe("router"), cell.lab.probe("cell")
    await cell.converge()
    cell.lab.announce(f"{A}/32")
    cell.lab.router.ip(f"route add {A}/32 via {CELL}\n")
    assert router.tcp(CELL, 61001).result == "open"
    assert host.tcp(CELL, 61001).result == "open"
    assert router.tcp(A, 8080).result == "refused"
    assert b.tcp(CELL, 61001).result == "refused"
    cell.policy("b", "a", 8080)
    cell.policy("a", "a", 8080)
    await cell.converge()
    assert b.tcp(CELL, 61001) == Outcome("open", B)
    assert a.tcp(CELL, 61001).result == "open"
    await cell.dataplane.detach([cell.local.ports["cf:a"]])
    assert router.tcp(CELL, 61001).result == "refused"


async def test_the_tiers_decide_in_order_and_pass_leaves_one(cell: Cell) -> None:
    a, b = cell.container("a", A), cell.container("b", B)
    b.listen("tcp", 8080)
    cell.policy("a", "b", 8080)
    cell.rule("no", Tier.ENVIRONMENT, Action.DROP, at(A), at("10.240.1.0/24"))
    await cell.converge()
    assert a.tcp(B, 8080, timeout=0.3).result == "timeout"
    cell.rule("but", Tier.ENVIRONMENT, Action.PASS, at("10.240.1.4-10.240.1.5"), at(B), tcp(8080))
    await cell.converge()
    assert a.tcp(B, 8080).result == "open"
    cell.rule("never", Tier.EMERGENCY, Action.REJECT, at(A), at(B))
    await cell.converge()
    assert a.tcp(B, 8080).result == "refused"


async def test_a_watching_rule_counts_and_decides_nothing(cell: Cell) -> None:
    a, b = cell.container("a", A), cell.container("b", B)
    b.listen("tcp", 8080)
    policy = cell.policy("a", "b", 8080)
    cell.rule("trial", Tier.EMERGENCY, Action.DROP, at(A), at(B), mode=Mode.WATCH)
    await cell.converge()
    assert a.tcp(B, 8080).result == "open"
    counters = await cell.dataplane.counters()
    assert counters[cell.id_of("rule:trial")].packets == 1
    assert counters[cell.id_of(policy_key(policy))].packets > 3


async def test_a_vm_and_a_container_meet_by_rule_only(cell: Cell) -> None:
    a, vm = cell.container("a", A), cell.vm("db", "10.9.0.5/24", "10.9.0.1")
    vm.listen("tcp", 5432)
    a.listen("tcp", 8080)
    await cell.converge()
    assert a.tcp("10.9.0.5", 5432).result == "refused"
    assert vm.tcp(A, 8080).result == "refused"
    cell.rule("web to db", Tier.APPLICATION, Action.ALLOW, at(A), at("10.9.0.5"), tcp(5432))
    cell.rule("db to web", Tier.APPLICATION, Action.ALLOW, at("10.9.0.5"), at(A), tcp(8080))
    await cell.converge()
    assert a.tcp("10.9.0.5", 5432) == Outcome("open", A)
    assert vm.tcp(A, 8080) == Outcome("open", "10.9.0.5")
    assert a.tcp("10.9.0.5", 22).result == "refused"


async def test_nothing_that_was_judged_keeps_a_scratch_mark(cell: Cell) -> None:
    a, b = cell.container("a", A, A6), cell.container("b", B, B6)
    b.listen("tcp", 8080)
    cell.policy("a", "b", 8080)
    await cell.converge()
    results = [probe.tcp(to, port).result for probe, to in ((a, B), (a, B6), (b, A)) for port in (8080, 8081)]
    assert results == ["open", "refused", "open", "refused", "refused", "refused"]
    flows = cell.conntrack().flows()
    assert flows
    assert all(flow.mark < IDENTITY_BIT for flow in flows)


async def test_a_restarted_agent_changes_nothing_and_cuts_nothing(cell: Cell) -> None:
    a, b = cell.container("a", A, mapped=[(61002, 9)]), cell.container("b", B)
    b.listen("tcp", 8080)
    cell.policy("a", "b", 8080)
    cell.rule("no", Tier.EMERGENCY, Action.DROP, at(C, "10.250.0.0/16"), at(B))
    cell.asg("some", ("198.51.100.0/24", 80))
    cell.org("10.240.1.0/24", NetworkMode.SHARED)
    await cell.converge()
    a.open_stream("s", B, 8080)
    before, generation = cell.listing(), cell.generation()
    await cell.restart()
    await cell.converge()
    assert cell.generation() == generation
    assert cell.listing() == before
    assert a.flows("s")
    assert not cell.drifts
