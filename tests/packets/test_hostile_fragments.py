"""Can a port rule be passed in pieces? A packet is judged as a whole, and only who began it completes it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise, product

import pytest

from tests.packets import wire
from tests.packets.cell import Cell, cell
from tests.packets.hostile import A6, B6, C6, MAC_A, MAC_C, PORT, A, B, C, heard_of, neighbours, wires
from tests.packets.wire import ICMP, ICMP6, IPV4, IPV6, UDP, Frame, datagram, ether, icmp, icmp6, ip4, ip6, udp

__all__ = ["cell"]
pytestmark = pytest.mark.packets

CLOSED = PORT + 1
TCP = 6


def _piece(ends: tuple[str, str, str], protocol: int, identity: int, offset: int, part: bytes, more: bool) -> bytes:
    mac, source, to = ends
    if ":" not in source:
        return ether(mac, IPV4, ip4(source, to, protocol, part, identity=identity, offset=offset, more=more))
    head = struct.pack("!BBHI", protocol, 0, offset | more, identity)
    return ether(mac, IPV6, ip6(source, to, 44, head + part))


def _pieces(ends: tuple[str, str, str], protocol: int, identity: int, whole: bytes, *cuts: int) -> list[bytes]:
    """Cut at these offsets, which are multiples of 8."""
    bounds = [0, *cuts, len(whole)]
    return [
        _piece(ends, protocol, identity, first, whole[first:last], last != len(whole))
        for first, last in pairwise(bounds)
    ]


def _closed(ends: tuple[str, str, str], body: bytes) -> bytes:
    """A datagram to a port that nobody opened; its number is in its first and in its last part."""
    return udp(ends[1], ends[2], CLOSED, body + bytes(12) + bytes(24) + body + bytes(4))


@pytest.mark.parametrize("ipv6", [False, True])
async def test_pieces_of_what_is_refused_arrive_nowhere(cell: Cell, ipv6: bool) -> None:
    await neighbours(cell)
    ends = (MAC_A, A6, B6) if ipv6 else (MAC_A, A, B)
    opened = udp(ends[1], ends[2], PORT, bytes(56))

    def nth(at: int, identity: int, *cuts: int, turned: bool = False) -> Frame:
        def frame(body: bytes) -> bytes:
            made = _pieces(ends, UDP, identity, _closed(ends, body), *cuts)
            return (made[::-1] if turned else made)[at]

        return frame

    frames: dict[str, Frame] = {}
    for at in range(2):
        frames[f"half {at}"] = nth(at, 1, 32)
        frames[f"half {at}, the last first"] = nth(at, 2, 32, turned=True)
        frames[f"tiny, then the rest: {at}"] = nth(at, 3, 8)
    frames["a first one alone"] = nth(0, 4, 32)
    frames["a last one alone"] = nth(1, 5, 32)
    frames["the only one"] = nth(0, 6)
    # An open port's first fragment, and another that writes over its ports.
    frames["open"] = lambda _: _piece(ends, UDP, 7, 0, opened[:32], True)
    frames["over the open"] = lambda body: _piece(ends, UDP, 7, 0, _closed(ends, body)[:32], True)
    frames["the end of both"] = lambda body: _piece(ends, UDP, 7, 32, _closed(ends, body)[32:], False)
    frames["open, overlapped"] = lambda _: _piece(ends, UDP, 8, 0, opened[:32], True)
    frames["inside the open"] = lambda body: _piece(ends, UDP, 8, 8, _closed(ends, body)[8:], False)
    for at in range(3):
        frames[f"a tcp header in three: {at}"] = lambda body, at=at: _pieces(ends, TCP, 9, _syn(body), 8, 16)[at]
    assert heard_of(cell, frames, ipv6=ipv6) == []


def _syn(body: bytes) -> bytes:
    return struct.pack("!HHIIBBHHH", 40000, CLOSED, 1, 0, 8 << 4, 2, 65535, 0, 0) + body


@pytest.mark.parametrize("ipv6", [False, True])
async def test_an_allowed_datagram_in_pieces_arrives_whole_in_any_order(cell: Cell, ipv6: bool) -> None:
    await neighbours(cell)
    ends = (MAC_A, A6, B6) if ipv6 else (MAC_A, A, B)
    whole = udp(ends[1], ends[2], PORT, b"".join(bytes(992) + wire.MAGIC + at.to_bytes(4, "big") for at in range(1, 4)))
    pieces = _pieces(ends, UDP, 1, whole, 1000, 2000)
    with wires(cell, "a", "b") as (a, b):
        honest = {b: datagram(*ends, PORT)}
        for order in ((0, 1, 2), (2, 0, 1)):
            made = [pieces[at] for at in order]
            wire.arrivals(a, [], honest)
            a.send(made)
            came: set[int | None] = set()
            while not came >= {1, 2, 3}:
                frames = b.heard(10.0)
                assert frames, came
                came |= {number for frame in frames for number in _numbers(frame)}


def _numbers(frame: bytes) -> Sequence[int]:
    return [int.from_bytes(part[:4], "big") for part in frame.split(wire.MAGIC)[1:]]


@pytest.mark.parametrize("ipv6", [False, True])
async def test_nobody_completes_what_another_began(cell: Cell, ipv6: bool) -> None:
    """`c` sends a datagram to `b` in halves, and `a` one of the halves in the name of `c`."""
    await neighbours(cell)
    theirs = (MAC_C, C6, B6) if ipv6 else (MAC_C, C, B)
    own = (MAC_A, A6, B6) if ipv6 else (MAC_A, A, B)

    def halves(mac: str, number: int, identity: int) -> list[bytes]:
        body = bytes(24) + wire.MAGIC + number.to_bytes(4, "big") + bytes(12)
        whole = udp(theirs[1], theirs[2], PORT, body)
        return _pieces((mac, *theirs[1:]), UDP, identity, whole[:6] + bytes(2) + whole[8:], 32)

    with wires(cell, "a", "b", "c") as (a, b, c):
        to_b, at_last = {b: datagram(*own, PORT)}, {b: datagram(*theirs, PORT)}
        identity = 70
        for by, forged in product((MAC_A, MAC_C), (0, 1)):
            identity += 1
            pieces, strange = halves(MAC_C, 1, identity), halves(by, 2, identity)[forged]
            for order in ((1 - forged, "strange", forged), ("strange", 1 - forged, forged)):
                for each in order:
                    if each == "strange":
                        assert wire.arrivals(a, [lambda _, strange=strange: strange], to_b) == []
                    else:
                        came = wire.arrivals(c, [lambda _, piece=pieces[each]: piece], at_last)
                        assert came == ([1] if each == forged else []), (by, order, each)


async def test_a_ping_that_is_too_long_ends_nothing(cell: Cell) -> None:
    """Its last piece ends beyond what a packet can be."""
    await neighbours(cell)
    long, size = wire.MAGIC + bytes(1192), 1200
    frames: list[Frame] = []
    for ends, protocol, message in (
        ((MAC_A, A, B), ICMP, icmp(8, 0, bytes(4) + long)),
        ((MAC_A, A6, B6), ICMP6, icmp6(A6, B6, 128, 0, bytes(4) + long)),
    ):
        made = [_piece(ends, protocol, 5, at, message[:size], True) for at in range(0, 64800, size)]
        made.append(_piece(ends, protocol, 5, 64800, message[:1000], False))
        frames += [lambda _, each=each: each for each in made]  # type: ignore[misc]
    with wires(cell, "a", "b") as (a, b):
        assert wire.arrivals(a, frames, {b: datagram(MAC_A, A, B, PORT)}) == []
