"""What does a container gain that writes whole frames itself? Nothing: its own address by its own MAC, or silence."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest

from cfbridge.simulator.lab import CELL, CELL6, DNS, EXT, EXT6, FW, ROUTER
from egress.topology import GATEWAY4, GATEWAY_MAC, container_mac
from tests.packets import wire
from tests.packets.cell import Cell, cell
from tests.packets.hostile import A6, B6, C6, MAC_A, MAC_B, MAC_C, PORT, A, B, C, heard_of, neighbours, wires
from tests.packets.wire import EVERYONE, ICMP6, IPV4, IPV6, UDP, Frame, arp, datagram, ether, icmp6, ip4, ip6, udp

__all__ = ["cell"]
pytestmark = pytest.mark.packets


def to_all(name: str, made: Callable[[str], Frame]) -> dict[str, Frame]:
    """The same trick toward a neighbour, the outside, and the cell."""
    return {f"{name} to {to}": made(to) for to in (B, EXT, DNS)}


def plain(to: str, body: bytes) -> bytes:
    return ip4(A, to, UDP, udp(A, to, PORT, body))


def framed(kind: int, make: Callable[[bytes], bytes], to: str = GATEWAY_MAC) -> Frame:
    """By `a` itself."""
    return lambda body: ether(MAC_A, kind, make(body), to)


async def test_frames_that_are_not_its_own_arrive_nowhere(cell: Cell) -> None:
    await neighbours(cell, ipv6=False)
    frames: dict[str, Frame] = {}
    for by in (MAC_C, GATEWAY_MAC, "02:00:00:00:00:01", "01:00:5e:00:00:01", "00:00:00:00:00:00"):
        frames |= to_all(f"own address by {by}", lambda to, by=by: datagram(by, A, to, PORT))
    sources = (C, B, CELL, FW, ROUTER, EXT, GATEWAY4, DNS, "127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1")
    for source in sources:
        frames |= to_all(f"{source} by own MAC", lambda to, s=source: datagram(MAC_A, s, to, PORT))
        frames |= to_all(f"{source} by its MAC", lambda to, s=source: datagram(container_mac(s), s, to, PORT))
    assert heard_of(cell, frames) == []


def _tagged(source: str, to: str, number: int, outer: int = 0x8100) -> Frame:
    def frame(body: bytes) -> bytes:
        inner = struct.pack("!HH", number, IPV4) + ip4(source, to, UDP, udp(source, to, PORT, body))
        return ether(MAC_A, outer, inner)

    return frame


async def test_tagged_frames_and_those_of_other_protocols_arrive_nowhere(cell: Cell) -> None:
    await neighbours(cell, ipv6=False)
    frames: dict[str, Frame] = {}
    frames |= to_all("VLAN 5", lambda to: _tagged(A, to, 5))
    frames |= to_all("VLAN 5 of a provider", lambda to: _tagged(A, to, 5, 0x88A8))
    frames |= to_all("VLAN 0 by another's address", lambda to: _tagged(C, to, 0))
    for kind in (0x8847, 0x8848, 0x8863, 0x8864, 0x8137, 0x0842, 0x888E, 0x88CC, 0x88F7, 0x6558, 0x22F3, 0x0027):
        frames |= to_all(f"type {kind:#x}", lambda to, kind=kind: framed(kind, partial(plain, to)))
    for to in (B, EXT):
        frames[f"to everyone's MAC, for {to}"] = framed(IPV4, partial(plain, to), EVERYONE)
        frames[f"to a neighbour's MAC, for {to}"] = framed(IPV4, partial(plain, to), MAC_B)
    assert heard_of(cell, frames) == []


async def test_tricks_of_the_ip_header_open_nothing(cell: Cell) -> None:
    cell.lab.cell.sysctl("net.ipv4.conf.all.accept_source_route=1\nnet.ipv4.conf.default.accept_source_route=1")
    await neighbours(cell, ipv6=False)

    def packet(to: str, protocol: int = UDP, inner: bytes = b"", **more: Any) -> Frame:
        def make(body: bytes) -> bytes:
            return ip4(A, to, protocol, inner + (udp(A, to, PORT, body) if protocol == UDP else body), **more)

        return framed(IPV4, make)

    frames: dict[str, Frame] = {}
    for kind, way in ((131, "loose"), (137, "strict")):
        for via, to in ((CELL, B), (DNS, B), (EXT, B), (B, EXT), (CELL, EXT), (ROUTER, EXT)):
            route = bytes((kind, 7, 4)) + ipaddress.ip_address(to).packed + bytes(1)
            frames[f"{way} source route by {via} to {to}"] = packet(via, options=route)
    for to, ttl in product((B, EXT), (0, 1)):
        frames[f"ttl {ttl} to {to}"] = packet(to, ttl=ttl)
    many = ("224.0.0.1", "224.0.0.251", "255.255.255.255", "10.240.1.255", "192.0.2.255", "127.0.0.1")
    for to in (*many, GATEWAY4, CELL):
        frames[f"to {to}"] = packet(to)
        frames[f"to {to} by everyone's MAC"] = framed(IPV4, partial(plain, to), EVERYONE)
    for protocol in (0, 2, 4, 6, 33, 41, 46, 47, 50, 51, 89, 103, 112, 115, 132, 136, 253, 255):
        frames |= to_all(f"protocol {protocol}", lambda to, protocol=protocol: packet(to, protocol))
    for protocol, head in ((4, b""), (41, b""), (47, bytes((0, 0, 8, 0)))):
        inner = head + plain(B, b"")
        frames |= to_all(f"another packet in {protocol}", lambda to, p=protocol, inner=inner: packet(to, p, inner))
    assert heard_of(cell, frames) == []


STRANGE6 = (C6, "fe80::5", "fe80::1", "::", "::1", CELL6, EXT6, "ff02::1", f"::ffff:{A}", f"64:ff9b::{A}")


@pytest.mark.parametrize("leased", [False, True])
async def test_ipv6_is_sent_with_the_lease_or_not_at_all(cell: Cell, leased: bool) -> None:
    await neighbours(cell, ipv6=leased)
    frames: dict[str, Frame] = {}
    for source in STRANGE6 if leased else (A6, *STRANGE6):
        for to in (B6, EXT6, CELL6, "ff02::1", "fe80::1", f"::ffff:{B}"):
            frames[f"{source} to {to}"] = datagram(MAC_A, source, to, PORT)
        for kind, to in product((133, 134, 135, 136, 137, 143), (B6, "ff02::1", "ff02::2", CELL6, "fe80::1")):
            frames[f"{source} says {kind} to {to}"] = _discovery(source, to, kind)
    for following, to in product((0, 43, 44, 59, 60, 135), (B6, EXT6, CELL6)):
        frames[f"extension {following} to {to}"] = _extended(C6 if leased else A6, to, following)
    if leased:
        frames["own address by another's MAC"] = datagram(MAC_C, A6, B6, PORT)
    assert heard_of(cell, frames, ipv6=leased) == []


def _discovery(source: str, to: str, kind: int) -> Frame:
    """Router and neighbour messages about B, with the link-layer address of `a`."""

    def make(body: bytes) -> bytes:
        about = bytes(4) + ipaddress.ip_address(B6).packed + bytes((2, 1)) + wire.mac(MAC_A) + body
        return ip6(source, to, ICMP6, icmp6(source, to, kind, 0, about), hops=255)

    return framed(IPV6, make)


def _extended(source: str, to: str, following: int) -> Frame:
    """An extension header before the datagram; 59: nothing follows at all."""
    head = b"" if following == 59 else bytes((UDP,)) + bytes(7)
    return framed(IPV6, lambda body: ip6(source, to, following, head + udp(source, to, PORT, body)))


async def test_what_a_container_says_by_arp_changes_nothing_on_the_cell(cell: Cell) -> None:
    """Neither what the cell believes of others, nor how much it has to remember."""
    await neighbours(cell, ipv6=False)
    vm = cell.vm("vm", "203.0.113.9/24", "203.0.113.1")
    await cell.converge()
    sources = (A, B, C, FW, ROUTER, CELL, GATEWAY4, DNS, "203.0.113.9", "203.0.113.1", "0.0.0.0")
    said = [arp(operation, MAC_A, source, to) for operation in (1, 2) for source in sources for to in (CELL, source, B)]
    flood = [arp(1, MAC_A, f"192.0.2.{last}", CELL) for last in range(100, 200)]
    with wires(cell, "a", "b") as (a, b):
        fence = {b: datagram(MAC_A, A, B, PORT)}
        wire.arrivals(a, [], fence)
        before = cell.lab.cell.run("ip", "neigh", "show", "nud", "all")
        assert wire.arrivals(a, [lambda _, each=each: each for each in (*said, *flood)], fence) == []
        answered = [frame for frame in a.heard() if frame[12:14] == b"\x08\x06"]
        after = cell.lab.cell.run("ip", "neigh", "show", "nud", "all")
    device = cell.local.ports["cf:a"].device
    assert [line for line in after.splitlines() if device in line] == [
        line for line in before.splitlines() if device in line
    ]
    assert not answered
    assert vm.tcp(A, 8080).result == "refused"  # who may ask is answered


async def test_a_vm_answers_arp_for_its_own_addresses_alone(cell: Cell) -> None:
    await neighbours(cell, ipv6=False)
    cell.vm("vm", "203.0.113.9/24", "203.0.113.1")
    await cell.converge()
    mac = cell.lab.place("vm").run("cat", "/sys/class/net/eth0/address").strip()
    with wires(cell, "vm") as (vm,):
        for source in ("203.0.113.10", B, FW, "203.0.113.9"):
            vm.send([arp(1, mac, source, "203.0.113.1"), arp(2, mac, source, "203.0.113.1")])
        answers = []
        while not answers:
            answers = [frame for frame in vm.heard(5.0) if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2"]
    assert {ipaddress.ip_address(frame[38:42]) for frame in answers} == {ipaddress.ip_address("203.0.113.9")}
    known = cell.lab.cell.run("ip", "-4", "neigh", "show", "dev", "tap-vm", "nud", "all")
    assert [line.split()[0] for line in known.splitlines()] == ["203.0.113.9"]
