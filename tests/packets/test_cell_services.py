"""Who reaches the cell's own services? A container where a rule says so; nobody by an org's leaving address."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cfbridge.settings import FirewallConfig
from cfbridge.simulator.lab import CELL, CELL6, DNS, EXT
from cfbridge.simulator.probe import Outcome
from egress.model import NetworkMode
from policy_sync import translate
from policy_sync.model import Action, Tier
from tests.packets.cell import Cell, at, cell

__all__ = ["cell"]
pytestmark = pytest.mark.packets

A, A6, B = "10.240.1.5", "2001:db8:f:1::5", "10.240.1.6"
SNAT, SNAT6 = "192.0.2.66", "2001:db8::66"


def leaving(cell: Cell) -> None:
    cell.org("10.240.1.0/24", NetworkMode.NAT, SNAT)
    cell.org("2001:db8:f:1::/64", NetworkMode.NAT, SNAT6)


async def test_an_outside_host_reaches_no_service_of_the_cell_by_an_orgs_leaving_address(cell: Cell) -> None:
    cell.container("a", A, A6)
    leaving(cell)
    host, outside, router = (cell.lab.probe(label) for label in ("cell", "ext", "router"))
    host.listen("tcp", 22)
    host.listen("udp", 53)
    await cell.converge()
    assert [router.tcp(address, 22).result for address in (CELL, CELL6)] == ["open", "open"]
    for address in (SNAT, SNAT6):
        assert router.tcp(address, 22).result == "refused", address
        assert router.udp(address, 53).result == "refused", address
    assert outside.tcp(SNAT, 22).result == "refused"
    assert host.counted()["tcp:22"]["connections"] == 2


async def test_answers_still_come_to_who_left_by_that_address(cell: Cell) -> None:
    a = cell.container("a", A, A6)
    leaving(cell)
    outside = cell.lab.probe("ext")
    outside.listen("tcp", 80)
    outside.listen("udp", 53)
    cell.asg("out", ("0.0.0.0/0", 80), ("::/0", 80))
    cell.rule("dns", Tier.APPLICATION, Action.ALLOW, at(A), at(EXT))
    await cell.converge()
    assert a.tcp(EXT, 80) == Outcome("open", SNAT)
    assert a.tcp("2001:db8:e::10", 80) == Outcome("open", SNAT6)
    assert a.udp(EXT, 53).result == "open"
    assert a.udp(EXT, 54).result == "refused"  # the error of a translated flow finds its way back


async def test_the_segments_neighbours_still_find_a_leaving_address(cell: Cell) -> None:
    cell.container("a", A, A6)
    leaving(cell)
    router = cell.lab.probe("router")
    await cell.converge()
    cell.lab.router.ip("neigh flush dev eth0\n")
    assert router.tcp(SNAT, 22).result == "refused"  # an answer, so it was found
    assert router.tcp(SNAT6, 22).result == "refused"


async def test_a_container_reaches_the_cell_by_none_of_its_addresses_whatever_its_asgs_say(cell: Cell) -> None:
    a = cell.container("a", A, A6, mapped=[(61001, 8080)])
    leaving(cell)
    cell.asg("everything", ("0.0.0.0/0", 22), ("::/0", 22))
    cell.asg("mapped", ("0.0.0.0/0", 61001), ("0.0.0.0/0", 61002), ("0.0.0.0/0", 8080))
    host = cell.lab.probe("cell")
    for port in (22, 61002):
        host.listen("tcp", port)
    a.listen("tcp", 8080)
    await cell.converge()
    host_end = cell.lab.cell.run("ip", "-6", "-brief", "address", "show", "dev", cell.local.ports["cf:a"].device)
    link_local = [word.partition("/")[0] for word in host_end.split() if word.startswith("fe80:")]
    for address in (CELL, CELL6, SNAT, SNAT6, DNS, *(f"{each}%eth0" for each in link_local)):
        assert a.tcp(address, 22, timeout=0.5).result != "open", address
    assert a.tcp(CELL, 61002).result == "refused"
    assert a.tcp(CELL, 61001).result == "refused"  # its own mapped port is itself, and instances need a policy
    assert a.tcp(SNAT, 61001).result == "refused"
    assert host.counted()["tcp:22"]["connections"] == 0


async def test_a_container_reaches_dns_and_host_services_where_they_are_and_nothing_beside(cell: Cell) -> None:
    a = cell.container("a", A)
    ours = translate.system_rules(dns_listeners=(DNS,), host_tcp_services=(f"{CELL}:9998",))
    cell.world = replace(cell.world, rules=(*ours, *cell.world.rules))
    host = cell.lab.probe("cell")
    host.listen("udp", 53, DNS)
    for port in (53, 9998, 9999):
        host.listen("tcp", port)
    await cell.converge()
    assert [a.udp(DNS, 53).result, a.tcp(DNS, 53).result, a.tcp(CELL, 9998).result] == ["open"] * 3
    refused = [(CELL, 53), (DNS, 9998), (CELL, 9999)]
    assert [outcome.result for outcome in a.tcp_many(refused)] == ["refused"] * 3


async def test_a_health_check_sends_nothing_anywhere(cell: Cell) -> None:
    check = cell.container("check", "169.254.64.2")
    cell.isolate("check")
    host, outside = cell.lab.probe("cell"), cell.lab.probe("ext")
    for probe in (host, outside):
        probe.listen("udp", 53)
    await cell.converge()
    for address in (CELL, EXT, DNS):
        assert check.udp(address, 53, timeout=0.2).result == "timeout", address
    assert host.counted()["udp:53"]["datagrams"] == outside.counted()["udp:53"]["datagrams"] == 0


async def test_a_metadata_address_is_reached_by_a_rule_that_names_it_and_by_no_group(cell: Cell) -> None:
    """The security groups say 0.0.0.0/0 and ::/0. A rule of people comes before the platform's refusal."""
    metadata = ("169.254.169.254", "168.63.129.16", "fd00:ec2::254")
    a = cell.container("a", A, A6)
    leaving(cell)
    outside = cell.lab.probe("ext")
    for address in metadata:
        cell.lab.place("ext").run("ip", "address", "add", address, "dev", "lo")
        via = "2001:db8:e::10" if ":" in address else EXT
        cell.lab.place("fw").run("ip", "route", "add", address, "via", via)
    outside.listen("tcp", 80)
    cell.asg("everything", ("0.0.0.0/0", 80), ("::/0", 80))
    ours = translate.system_rules(metadata_addresses=FirewallConfig().metadata_addresses)
    cell.world = replace(cell.world, rules=(*ours, *cell.world.rules))
    await cell.converge()
    assert a.tcp(EXT, 80).result == "open"
    assert [a.tcp(address, 80).result for address in metadata] == ["refused"] * 3
    cell.rule("metadata for a", Tier.INFRASTRUCTURE, Action.ALLOW, at(A, A6), at(*metadata))
    await cell.converge()
    assert [a.tcp(address, 80).result for address in metadata] == ["open"] * 3
