"""What does ICMP open? No container by itself; outside what a group says; errors only to whom they concern, by whom."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from cfbridge.simulator.lab import CELL, CELL6, EXT, EXT6
from egress.values import qualify
from policy_sync import translate
from policy_sync.model import Asg, GardenRule, Protocol
from policy_sync.translate import EVERYWHERE
from tests.packets import wire
from tests.packets.cell import Cell, cell
from tests.packets.hostile import (
    A6,
    B6,
    C6,
    MAC_A,
    MAC_B,
    MAC_C,
    PORT,
    A,
    B,
    C,
    came_to_the_cell,
    heard_of,
    neighbours,
    wires,
)
from tests.packets.wire import ICMP, ICMP6, IPV4, IPV6, UDP, Frame, datagram, ether, icmp, icmp6, ip4, ip6, udp

__all__ = ["cell"]
pytestmark = pytest.mark.packets

CODES = (0, 1, 2, 15, 16, 127, 128, 254, 255)
EVERY = tuple(product(range(256), CODES))


def message(source: str, to: str, kind: int, code: int) -> Frame:
    def frame(body: bytes) -> bytes:
        rest = bytes((kind, code, 0, 1)) + body
        if ":" in source:
            return ether(MAC_A, IPV6, ip6(source, to, ICMP6, icmp6(source, to, kind, code, rest), hops=255))
        return ether(MAC_A, IPV4, ip4(source, to, ICMP, icmp(kind, code, rest)))

    return frame


def grant(cell: Cell, *protocols: Protocol) -> None:
    """A group of every running container: any of these, to anywhere."""
    rules = tuple(GardenRule(protocol, EVERYWHERE) for protocol in protocols)
    asg = Asg(qualify("cf", "open"), "open", rules, running_default=True)
    cell.world = replace(cell.world, asgs=(asg,))


@pytest.mark.parametrize("ipv6", [False, True])
async def test_no_type_and_code_comes_to_anybody_without_a_rule(cell: Cell, ipv6: bool) -> None:
    await neighbours(cell)
    own, ends = (A6, (B6, EXT6, CELL6)) if ipv6 else (A, (B, EXT, CELL))
    every = product(ends, range(256), range(256))
    frames = {f"{kind}/{code} to {to}": message(own, to, kind, code) for to, kind, code in every}
    assert heard_of(cell, frames, ipv6=ipv6) == []


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("protocol", [Protocol.ICMP, Protocol.ALL])
async def test_a_group_that_allows_any_opens_questions_outside_and_nothing_to_containers(
    cell: Cell, protocol: Protocol, ipv6: bool
) -> None:
    """Every other type is an answer or an error, and nobody asked."""
    grant(cell, protocol, *([Protocol.ICMPV6] if protocol is Protocol.ICMP else []))
    await neighbours(cell)
    own, inside, outside, cells = (A6, B6, EXT6, CELL6) if ipv6 else (A, B, EXT, CELL)
    frames = {(kind, code): message(own, outside, kind, code) for kind, code in EVERY}
    questions = (128, 139) if ipv6 else (8, 13, 15, 17)
    named = {f"{kind}/{code}": frame for (kind, code), frame in frames.items()}
    assert heard_of(cell, named, ipv6=ipv6) == [f"{kind}/{code}" for kind, code in product(questions, CODES)]
    closed = {f"{kind}/{code} to {to}": message(own, to, kind, code) for to in (inside, cells) for kind, code in EVERY}
    assert heard_of(cell, closed, ipv6=ipv6) == []


async def test_a_group_that_allows_all_protocols_opens_each_outside_and_none_to_containers(cell: Cell) -> None:
    grant(cell, Protocol.ALL)
    await neighbours(cell)

    def of(protocol: int, to: str) -> Frame:
        return lambda body: ether(MAC_A, IPV4, ip4(A, to, protocol, body))

    strange = [2, 4, 41, 46, 50, 51, 88, 89, 103, 112, 115, 137, 200, 253, 254, 255]
    outside = {str(protocol): of(protocol, EXT) for protocol in strange}
    assert heard_of(cell, outside) == [*outside]
    every = [protocol for protocol in range(256) if protocol != UDP]
    assert heard_of(cell, {f"{each} to {to}": of(each, to) for each in every for to in (B, CELL)}) == []


async def test_no_entry_of_a_group_keeps_the_rules_of_others_from_the_kernel(cell: Cell) -> None:
    """Every type and code that can be written, -1 and 255 among them, and what can't; `b` has a policy meanwhile."""
    types, codes = [None, *range(-2, 258)], (None, -1, 0, 255, 256)
    written = [(name, "", kind, code) for name in ("icmp", "icmpv6") for kind in types for code in codes]
    written += [
        (name, ports, None, None) for name in ("tcp", "udp") for ports in ("0", "0-65535", "1,1-3,2-4", "65536", "")
    ]
    written += [(name, "1", -1, -1) for name in ("all", "sctp", "255", "")]
    read = [
        translate.asg_rule(name, to, ports, kind, code, log=bool(at % 2))
        for at, (name, ports, kind, code) in enumerate(written)
        for to in ("0.0.0.0/0", "::/0", f"{EXT}-{EXT}", "10.240.0.0/16")
    ]
    understood = tuple(rule for rule in read if isinstance(rule, GardenRule))
    assert len(understood) > 1000
    asg = Asg(qualify("cf", "all"), "all", understood, running_default=True)
    cell.world = replace(cell.world, asgs=(asg,))
    await neighbours(cell)
    cell.lab.announce("10.240.0.0/16")
    b = cell.lab.probe("b")
    b.listen("tcp", 8080)
    cell.policy("web", "web", 8080)
    await cell.converge()
    assert cell.lab.probe("a").tcp(B, 8080).result == "open"
    assert cell.lab.probe("a").ping(B).result == "refused"
    assert cell.lab.probe("a").ping(EXT).result == "open"


ERRORS = ((3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (4, 0), (5, 1), (11, 0), (12, 0))
ERRORS6 = ((1, 0), (1, 1), (1, 4), (2, 0), (3, 0), (4, 0))


def error(
    mac: str, source: str, to: str, kind: int, code: int, about: tuple[str, str], ports: tuple[int, int]
) -> Frame:
    """That the datagram with these ends and ports did not arrive."""

    def frame(body: bytes) -> bytes:
        quoted = udp(*about, ports[1], body, source_port=ports[0])
        if ":" in source:
            rest = (1280).to_bytes(4, "big") + ip6(*about, UDP, quoted)
            return ether(mac, IPV6, ip6(source, to, ICMP6, icmp6(source, to, kind, code, rest)))
        return ether(
            mac, IPV4, ip4(source, to, ICMP, icmp(kind, code, (1280).to_bytes(4, "big") + ip4(*about, UDP, quoted)))
        )

    return frame


@pytest.mark.parametrize("ipv6", [False, True])
async def test_an_error_comes_from_who_is_in_the_flow_and_from_nobody_else(cell: Cell, ipv6: bool) -> None:
    """`c` and `b` talk. `b` may tell `c` that something did not arrive, `a` may not; of a flow that is not, nobody."""
    await neighbours(cell)
    own, other, peer = (A6, B6, C6) if ipv6 else (A, B, C)
    kinds = ERRORS6 if ipv6 else ERRORS
    with wires(cell, "a", "b", "c") as (a, b, c):
        assert wire.arrivals(c, [datagram(MAC_C, peer, other, PORT)], {b: datagram(MAC_C, peer, other, PORT)}) == [0]
        flow, back, none = (
            ((peer, other), (40000, PORT)),
            ((other, peer), (PORT, 40000)),
            ((peer, other), (40009, PORT)),
        )
        own_fence = {c: datagram(MAC_A, own, peer, PORT), b: datagram(MAC_A, own, other, PORT)}
        frames = [
            error(MAC_A, own, to, *kind, *about)
            for kind in kinds
            for to in (peer, other)
            for about in (flow, back, none)
        ]
        assert wire.arrivals(a, frames, own_fence) == []
        fence = {c: datagram(MAC_B, other, peer, PORT)}
        assert wire.arrivals(b, [error(MAC_B, other, peer, *kind, *none) for kind in kinds], fence) == []
        related = [error(MAC_B, other, peer, *kind, *flow) for kind in kinds]
        assert len(wire.arrivals(b, related, fence)) >= 3


async def test_an_error_about_the_cells_own_flow_comes_from_who_is_in_it(cell: Cell) -> None:
    await neighbours(cell)
    cell.lab.probe("b").listen("udp", PORT)
    host = cell.lab.probe("cell")
    with wires(cell, "a", "b") as (a, b):
        assert host.udp(B, PORT).result == "open"
        asked = next(frame for frame in b.heard(5.0) if wire.MAGIC in frame)
        port = int.from_bytes(asked[34:36], "big")
        about = ((CELL, B), (port, PORT))
        before = came_to_the_cell(cell)
        frames = [error(MAC_A, A, CELL, *kind, *about) for kind in ERRORS]
        assert wire.arrivals(a, frames, {b: datagram(MAC_A, A, B, PORT)}) == []
        assert came_to_the_cell(cell) == before
        b.send([error(MAC_B, B, CELL, 3, 3, *about)(b"")])
        wire.arrivals(a, [], {b: datagram(MAC_A, A, B, PORT)})
        assert came_to_the_cell(cell) == before + 1
