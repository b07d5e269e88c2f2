"""What does rtnetlink answer? Links, routes, rules, neighbours and addresses, read from the kernel's bytes.

Read by hand: at a thousand ports pyroute2's decoder takes a quarter of a second, this takes ten milliseconds.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from egress.values import Packed, text

_UP = 1
_PERMANENT = 0x80
_UNICAST, _BLACKHOLE = 1, 6
_PASSING = 0x01 | 0x20 | 0x40
"""Flags of an address: temporary (a second one of its network, in IPv4), deprecated, tentative."""


class Settings(NamedTuple):
    """A device's own kernel settings, as far as they matter to a workload's."""

    forwarding: bool = False
    proxy_arp: bool = False
    send_redirects: bool = False
    rp_filter: int = 0
    forwarding6: bool = False
    accept_ra: bool = False
    ipv6: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    mtu: int
    mac: str
    up: bool
    group: int
    peer: int
    """Index of a veth's other end, in whichever namespace that is; 0 for others."""
    alias: str
    names: frozenset[str]
    """Alternative names."""
    master: int
    """Index of the bridge or bond that takes its packets; 0 for none."""
    settings: Settings


@dataclass(frozen=True, slots=True)
class Route:
    prefix: str
    table: int
    device: int
    """Index; 0 for a blackhole."""
    source: str
    protocol: int
    blackhole: bool


LOOK_UP, GO_TO, NOTHING, BLACKHOLE = 1, 2, 3, 6
"""What a rule does with what it matches."""


@dataclass(frozen=True, slots=True)
class Rule:
    family: int
    priority: int
    mark: int
    mask: int
    interface: str
    prefix: str
    table: int
    protocol: int
    source: str = ""
    action: int = LOOK_UP
    target: int = 0
    """The priority that `GO_TO` leads to."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    device: int
    address: str
    mac: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class Address:
    device: int
    address: str
    length: int
    label: str
    protocol: int
    lasting: bool
    """Valid everywhere, and meant to stay: no link-local, temporary, tentative or deprecated one."""


def attributes(buffer: memoryview, at: int = 0) -> Iterator[tuple[int, memoryview]]:
    """(type, payload) of each netlink attribute from `at` on."""
    while at + 4 <= len(buffer):
        length, kind = struct.unpack_from("=HH", buffer, at)
        if length < 4:
            return
        yield kind & 0x3FFF, buffer[at + 4 : at + length]
        at += (length + 3) & ~3


def _number(payload: memoryview) -> int:
    return int.from_bytes(payload, "little" if _LITTLE else "big")


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def _words(payload: memoryview) -> str:
    return bytes(payload).rstrip(b"\0").decode(errors="replace")


def _mac(payload: memoryview) -> str:
    return ":".join(f"{byte:02x}" for byte in payload)


def read_link(body: memoryview) -> Link:
    index, flags = struct.unpack_from("=iI", body, 4)
    found = dict(attributes(body, 16))
    names = frozenset(_words(each) for kind, each in attributes(found.get(52, memoryview(b""))) if kind == 53)
    return Link(
        index=index,
        name=_words(found[3]),
        mtu=_number(found[4]) if 4 in found else 0,
        mac=_mac(found[1]) if 1 in found else "",
        up=bool(flags & _UP),
        group=_number(found[27]) if 27 in found else 0,
        peer=_number(found[5]) if 5 in found else 0,
        alias=_words(found[20]) if 20 in found else "",
        names=names,
        master=_number(found[10]) if 10 in found else 0,
        settings=_settings(found.get(26, memoryview(b""))),
    )


def _settings(specs: memoryview) -> Settings:
    """IFLA_INET_CONF counts from IPV4_DEVCONF_FORWARDING = 1, IFLA_INET6_CONF from DEVCONF_FORWARDING = 0."""
    four: tuple[int, ...] = ()
    six: tuple[int, ...] = ()
    for family, spec in attributes(specs):
        for kind, values in attributes(spec):
            if (family, kind) == (socket.AF_INET, 1):
                four = struct.unpack(f"={len(values) // 4}i", values)
            elif (family, kind) == (socket.AF_INET6, 2):
                six = struct.unpack(f"={len(values) // 4}i", values)
    if len(four) < 8:
        return Settings()
    found = Settings(bool(four[0]), bool(four[2]), bool(four[5]), four[7])
    if len(six) <= 26:
        return found
    return found._replace(forwarding6=bool(six[0]), accept_ra=bool(six[3]), ipv6=not six[26])


def _prefix(payload: memoryview | None, length: int, family: int) -> str:
    packed: Packed = bytes(payload) if payload is not None else bytes(4 if family == socket.AF_INET else 16)
    return f"{text(packed)}/{length}"


def read_route(body: memoryview) -> Route:
    family, length, _, _, table, protocol, _, kind, _ = struct.unpack_from("=BBBBBBBBI", body)
    found = dict(attributes(body, 12))
    return Route(
        prefix=_prefix(found.get(1), length, family),
        table=_number(found[15]) if 15 in found else table,
        device=_number(found[4]) if 4 in found and kind == _UNICAST else 0,
        source=text(bytes(found[7])) if 7 in found else "",
        protocol=protocol,
        blackhole=kind == _BLACKHOLE,
    )


def read_rule(body: memoryview) -> Rule:
    family, length, source_length, _, table, _, _, action, _ = struct.unpack_from("=BBBBBBBBI", body)
    found = dict(attributes(body, 12))
    return Rule(
        family=4 if family == socket.AF_INET else 6,
        priority=_number(found[6]) if 6 in found else 0,
        mark=_number(found[10]) if 10 in found else 0,
        mask=_number(found[16]) if 16 in found else 0,
        interface=_words(found[3]) if 3 in found else "",
        prefix=_prefix(found[1], length, family) if 1 in found else "",
        table=_number(found[15]) if 15 in found else table,
        protocol=_number(found[21]) if 21 in found else 0,
        source=_prefix(found[2], source_length, family) if 2 in found else "",
        action=action,
        target=_number(found[4]) if 4 in found else 0,
    )


def read_neighbour(body: memoryview) -> Neighbour:
    _family, index, state = struct.unpack_from("=BxxxiH", body)
    found = dict(attributes(body, 12))
    address = bytes(found.get(1, b""))
    return Neighbour(
        device=index,
        address=text(address) if len(address) in (4, 16) else "",
        mac=_mac(found[2]) if 2 in found else "",
        permanent=bool(state & _PERMANENT),
    )


def read_address(body: memoryview) -> Address:
    _family, length, flags, scope, index = struct.unpack_from("=BBBBI", body)
    found = dict(attributes(body, 8))
    flags = _number(found[8]) if 8 in found else flags
    own = found[2] if 2 in found else found[1]
    return Address(
        device=index,
        address=text(bytes(own)),
        length=length,
        label=_words(found[3]) if 3 in found else "",
        protocol=_number(found[11]) if 11 in found else 0,
        lasting=scope == 0 and not flags & _PASSING,
    )


def read_settings_device(body: memoryview) -> int:
    """Index of the device whose settings changed; below zero for those of all devices."""
    found = dict(attributes(body, 4))
    return int(struct.unpack("=i", found[1])[0]) if 1 in found else 0
