"""Has IPv6 what IPv4 has, and is it off where nobody has it? What takes a cell of its own; stories are in scenarios."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from cfbridge.simulator.lab import CELL, CELL6, EXT, EXT6, ROUTER6, Namespace
from cfbridge.simulator.probe import Outcome, Packet
from egress.model import NetworkMode
from egress.values import pack
from garden_plugin.cell import plug, sysctls, uplink
from garden_plugin.cell.netlink import Netlink
from policy_sync.model import Action, Protocol, Tier
from tests.packets.cell import Cell, at, cell, tcp

__all__ = ["cell"]
pytestmark = pytest.mark.packets

A, A6 = "10.240.1.5", "2001:db8:f:1::5"
B, B6 = "10.240.1.6", "2001:db8:f:1::6"
C, C6 = "10.240.2.7", "2001:db8:f:2::7"
SUBNET6 = "2001:db8:f:1::/64"
SNAT6 = "2001:db8:c::66"
"""Nearer to the outside than the cell's own address is, by the rules that a kernel chooses its source by."""
PADDING = b"\0\0\x01\x04\0\0\0\0"
"""An extension header of eight bytes that says nothing."""


def setting(cell: Cell, name: str) -> str | None:
    return cell.inside("cell", lambda: sysctls.read(f"ipv6/conf/{name}"))


def datagram(to: str, size: int, *options: int) -> Callable[[], None]:
    """Sends one of that size to port 5000, with such extension headers."""

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as wire:
            for option in options:
                wire.setsockopt(socket.IPPROTO_IPV6, option, PADDING)
            wire.sendto(bytes(size), (to, 5000))

    return send


# --- off where nobody has it ------------------------------------------------------------------------------------------


async def test_a_cell_without_an_ipv6_workload_forwards_none_and_its_ports_have_none(cell: Cell) -> None:
    cell.container("a", A)
    await cell.converge()
    device = cell.local.ports["cf:a"].device
    assert cell.lab.cell.run("ip", "-6", "address", "show", "dev", device) == ""
    assert [setting(cell, f"{device}/disable_ipv6"), setting(cell, f"{device}/accept_ra")] == ["1", "0"]
    assert setting(cell, "all/forwarding") == "0"
    cell.lab.cell.sysctl(f"net.ipv6.conf.{device}.disable_ipv6=0")
    await cell.restart()
    await cell.converge()
    assert setting(cell, f"{device}/disable_ipv6") == "1"
    cell.container("b", B, B6)
    await cell.converge()
    device = cell.local.ports["cf:b"].device
    assert "fe80" not in cell.lab.cell.run("ip", "-6", "address", "show", "dev", device)
    assert [setting(cell, f"{device}/disable_ipv6"), setting(cell, f"{device}/accept_ra")] == ["0", "0"]
    assert setting(cell, "all/forwarding") == "1"


async def test_a_container_that_switches_ipv6_on_by_itself_is_not_heard_even_without_our_table(cell: Cell) -> None:
    a, b = cell.container("a", A), cell.container("b", B, B6)
    await cell.converge()
    inner = Namespace(f"cfb-{cell.lab.run_id}-a")
    inner.sysctl("net.ipv6.conf.eth0.disable_ipv6=0")
    inner.ip(
        f"""
        address add {A6}/128 dev eth0 nodad
        neighbour replace fe80::1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
        route replace default via fe80::1 dev eth0
        """
    )
    await cell.dataplane.close()
    cell.lab.cell.run("nft", "flush", "ruleset")
    host = cell.lab.probe("cell")
    host.hear()
    a.send([Packet(A6, CELL6, 17, 9, tag=1)])
    b.send([Packet(B6, CELL6, 17, 9, tag=2)])
    assert host.heard(2)[0].keys() == {2}


async def test_a_cell_that_begins_to_forward_ipv6_goes_on_listening_to_its_own_router(cell: Cell) -> None:
    cell.lab.cell.sysctl("net.ipv6.conf.up0.accept_ra=1")
    cell.container("a", A)
    await cell.converge()
    assert setting(cell, "up0/accept_ra") == "1"
    cell.container("b", B, B6)
    await cell.converge()
    assert [setting(cell, "all/forwarding"), setting(cell, "up0/accept_ra")] == ["1", "2"]


# --- the way out ------------------------------------------------------------------------------------------------------


async def test_who_has_no_way_out_by_ipv6_is_told_so_at_once_and_leaves_by_ipv4(cell: Cell) -> None:
    a = cell.container("a", A, A6)
    outside = cell.lab.probe("ext")
    outside.listen("tcp", 80)
    outside.listen("udp", 53)
    cell.asg("all", ("0.0.0.0/0", 80), ("::/0", 80))
    cell.rule("dns", Tier.APPLICATION, Action.ALLOW, at(A, A6), at(EXT, EXT6))
    cell.org("10.240.1.0/24", NetworkMode.SHARED)
    cell.lab.announce("2001:db8:f::/48")
    cell.local = replace(cell.local, host_address6="")
    for mode in (NetworkMode.NAT, NetworkMode.SHARED):
        cell.org(SUBNET6, mode)
        await cell.converge()
        assert a.tcp(EXT, 80) == Outcome("open", CELL)
        assert [a.tcp(EXT6, 80).result, a.udp(EXT6, 53).result] == ["unreachable"] * 2, mode
        assert a.tcp(ROUTER6, 80).result == "unreachable"
        assert a.tcp(ROUTER6, 81).result == "refused"  # the firewall speaks first
    assert A6 not in cell.lab.seen()
    cell.local = replace(cell.local, host_address6=CELL6)
    await cell.converge()
    assert [a.tcp(EXT6, 80), a.udp(EXT6, 53).result] == [Outcome("open", CELL6), "open"]


async def test_the_cell_itself_never_speaks_by_an_address_that_an_org_leaves_by(cell: Cell) -> None:
    a, host, outside = cell.container("a", A, A6), cell.lab.probe("cell"), cell.lab.probe("ext")
    outside.listen("tcp", 80)
    cell.asg("all", ("::/0", 80))
    cell.org(SUBNET6, NetworkMode.NAT, SNAT6)
    cell.lab.announce(f"{SNAT6}/128")
    await cell.converge()
    assert a.tcp(EXT6, 80) == Outcome("open", SNAT6)
    assert host.tcp(EXT6, 80) == Outcome("open", CELL6)
    assert cell.inside("cell", lambda: uplink.address6("up0")) == CELL6  # as an agent that starts now asks


async def test_a_leaving_address_is_announced_to_who_knew_its_old_holder(cell: Cell) -> None:
    there = "2001:db8::66"
    cell.lab.router.ip(f"neigh replace {there} lladdr 02:00:00:00:00:01 dev eth0 nud stale\n")
    cell.container("a", A, A6)
    cell.org(SUBNET6, NetworkMode.NAT, there)
    await cell.converge()
    known = cell.lab.router.run("ip", "neigh", "show", there)
    assert "02:00:00:00:00:01" not in known
    assert cell.lab.probe("cell").ping(ROUTER6, source=there)


async def test_a_mapped_port_is_reached_by_the_cells_ipv6_address_until_it_is_gone(cell: Cell) -> None:
    a, b = cell.container("a", A, A6, mapped=[(61001, 8080)]), cell.container("b", B, B6)
    a.listen("tcp", 8080)
    router, host = cell.lab.probe("router"), cell.lab.probe("cell")
    await cell.converge()
    cell.lab.announce(f"{A6}/128")
    cell.lab.router.ip(f"route add {A6}/128 via {CELL6}\n")
    assert router.tcp(CELL6, 61001) == Outcome("open", ROUTER6)
    assert host.tcp(CELL6, 61001).result == "open"
    assert router.tcp(A6, 8080).result == "refused"
    assert b.tcp(CELL6, 61001).result == "refused"
    cell.policy("b", "a", 8080)
    cell.policy("a", "a", 8080)
    await cell.converge()
    assert b.tcp(CELL6, 61001) == Outcome("open", B6)
    assert a.tcp(CELL6, 61001).result == "open"
    await cell.dataplane.detach([cell.local.ports["cf:a"]])
    assert router.tcp(CELL6, 61001).result == "refused"


# --- containers among each other --------------------------------------------------------------------------------------


async def test_fragments_and_extension_headers_are_judged_as_what_they_carry(cell: Cell) -> None:
    cell.container("a", A, A6)
    b = cell.container("b", B, B6)
    cell.container("c", C, C6)
    b.listen("udp", 5000)
    cell.policy("a", "b", 5000, protocol=Protocol.UDP)
    await cell.converge()
    kinds = ((4000,), (8, socket.IPV6_HOPOPTS), (8, socket.IPV6_DSTOPTS), (4000, socket.IPV6_DSTOPTS))
    for label in ("c", "a"):  # who may goes last: what it sends is the fence
        for kind in kinds:
            cell.inside(label, datagram(B6, *kind))
    assert cell.lab.probe("a").udp(B6, 5000).result == "open"
    assert {*b.counted()["udp:5000"]["sources"]} == {A6}
    assert b.counted()["udp:5000"]["datagrams"] == len(kinds) + 1


async def test_a_container_that_claims_its_neighbours_address_gets_none_of_its_packets(cell: Cell) -> None:
    a, b, c = cell.container("a", A, A6), cell.container("b", B, B6), cell.container("c", C, C6)
    for probe in (a, b):
        probe.listen("tcp", 8080)
    cell.policy("c", "b", 8080)
    cell.policy("b", "c", 9, protocol=Protocol.UDP)
    await cell.converge()
    assert c.tcp(B6, 8080).result == "open"
    Namespace(f"cfb-{cell.lab.run_id}-a").ip(f"address add {B6}/128 dev eth0 nodad\n")

    def claim() -> None:
        with Netlink() as netlink:
            plug.announce(netlink, "eth0", B6)

    cell.inside("a", claim)
    assert [c.tcp(B6, 8080).result for _ in range(3)] == ["open"] * 3
    assert b.counted()["tcp:8080"]["connections"] == 4
    assert a.counted()["tcp:8080"]["connections"] == 0
    c.hear()
    a.send([Packet(B6, C6, 17, 9, tag=1)])  # nor can it send by it
    b.send([Packet(B6, C6, 17, 9, tag=2)])
    assert c.heard(2)[0] == {2: B6}


async def test_a_link_local_address_leads_a_container_to_nobody(cell: Cell) -> None:
    a, b = cell.container("a", A, A6), cell.container("b", B, B6)
    b.listen("udp", 5000)
    cell.policy("a", "b", 5000, protocol=Protocol.UDP)
    await cell.converge()
    for label in ("a", "b"):
        Namespace(f"cfb-{cell.lab.run_id}-{label}").ip(f"address add fe80::{label}/64 dev eth0 nodad\n")
    b.hear()
    a.send([Packet("fe80::a", B6, 17, 5000, tag=1), Packet("fe80::a", "ff02::1%eth0", 17, 5000, tag=2)])
    a.send([Packet(A6, B6, 17, 5000, tag=3)])
    assert b.heard(3)[0] == {3: A6}
    assert a.udp("fe80::b%eth0", 5000, timeout=0.2).result != "open"
    assert a.udp(B6, 5000).result == "open"


async def test_a_container_that_leaves_takes_along_all_that_the_cell_had_of_its_ipv6(cell: Cell) -> None:
    a, b = cell.container("a", A, A6), cell.container("b", B, B6, mapped=[(61001, 8080)])
    b.listen("tcp", 8080)
    cell.policy("a", "b", 8080)
    await cell.converge()
    a.open_stream("s", B6, 8080)
    assert a.flows("s")
    assert cell.conntrack().flows(address=pack(B6))
    words = ("-6 route show table 7712", "-6 neigh show nud permanent")
    assert all(B6 in cell.lab.cell.run("ip", *each.split()) for each in words)
    assert B6 in cell.listing()
    await cell.dataplane.detach([cell.local.ports["cf:b"]])
    assert not cell.conntrack().flows(address=pack(B6))
    assert not any(B6 in cell.lab.cell.run("ip", *each.split()) for each in words)
    left = [line for line in cell.listing().splitlines() if B6 in line]
    assert not any("61001" in line or "cf-" in line for line in left), left


async def test_a_vm_and_a_container_meet_by_rule_only_on_ipv6_too(cell: Cell) -> None:
    a = cell.container("a", A, A6)
    vm = cell.vm("db", "10.9.0.5/24", "10.9.0.1", address6="2001:db8:30::5/64")
    vm.listen("tcp", 5432)
    a.listen("tcp", 8080)
    await cell.converge()
    assert a.tcp("2001:db8:30::5", 5432).result == "refused"
    assert vm.tcp(A6, 8080).result == "refused"
    cell.rule("web to db", Tier.APPLICATION, Action.ALLOW, at(A6), at("2001:db8:30::5"), tcp(5432))
    cell.rule("db to web", Tier.APPLICATION, Action.ALLOW, at("2001:db8:30::5"), at(A6), tcp(8080))
    await cell.converge()
    assert a.tcp("2001:db8:30::5", 5432) == Outcome("open", A6)
    assert vm.tcp(A6, 8080) == Outcome("open", "2001:db8:30::5")
    assert a.tcp("10.9.0.5", 5432).result == "refused"  # the rule names the other family


# --- without our table ------------------------------------------------------------------------------------------------


async def test_without_our_table_no_datagram_of_a_container_leaves_the_cell(cell: Cell) -> None:
    a, vm = cell.container("a", A, A6), cell.vm("db", "10.9.0.5/24", "10.9.0.1", address6="2001:db8:30::5/64")
    router, outside = cell.lab.probe("router"), cell.lab.probe("ext")
    cell.rule("out", Tier.APPLICATION, Action.ALLOW, at(A, A6), at(EXT, EXT6))
    cell.org("10.240.1.0/24", NetworkMode.ROUTED)
    cell.org(SUBNET6, NetworkMode.ROUTED)
    await cell.converge()
    outside.hear()

    def arrived() -> set[int]:
        a.send([Packet(A, EXT, 17, 9, tag=1), Packet(A6, EXT6, 17, 9, tag=2)])
        vm.send([Packet("10.9.0.5", EXT, 17, 9, tag=3), Packet("2001:db8:30::5", EXT6, 17, 9, tag=4)])
        router.send([Packet(ROUTER6, EXT6, 17, 9, tag=5)])
        return set(outside.heard(5)[0])

    assert arrived() == {1, 2, 3, 4, 5}
    await cell.dataplane.close()  # so that nobody heals it
    cell.lab.cell.run("nft", "flush", "ruleset")
    assert arrived() == {5}
    await cell.restart()
    await cell.converge()
    assert arrived() == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("harm", ["-6 rule del priority 7715", "rule del priority 7714", "-6 rule del priority 7716"])
async def test_what_keeps_it_closed_is_put_back(cell: Cell, harm: str) -> None:
    cell.container("a", A, A6)
    await cell.converge()
    before = cell.routing()
    cell.lab.cell.run("ip", *harm.split())
    assert cell.routing() != before
    await cell.converge()
    await cell.restart()
    await cell.converge()
    assert cell.routing() == before
