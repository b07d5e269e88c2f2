"""What is one live connection, as the kernel's bytes tell it?

Its destination is what it is after translation: who replies.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from egress.values import text
from policy_sync.model import PROTOCOL_NUMBER, Packet

_ATTRIBUTE = struct.Struct("=HH")
_NAMED = {number: name for name, number in PROTOCOL_NUMBER.items()}


class Flow(NamedTuple):
    """One connection, as it began."""

    source: bytes
    destination: bytes
    """After translation."""
    protocol: int
    port: int
    icmp_type: int
    icmp_code: int
    mapped: bool
    mark: int
    tuple: bytes
    """How the kernel knows it."""

    def packet(self) -> Packet:
        """Its first packet."""
        return Packet(
            source=text(self.source),
            destination=text(self.destination),
            protocol=_NAMED.get(self.protocol, self.protocol),
            port=self.port,
            icmp_type=self.icmp_type,
            icmp_code=self.icmp_code,
            mapped=self.mapped,
        )


def read(data: bytes, start: int, end: int) -> Flow | None:
    top = _attributes(data, start, end)
    if 1 not in top or 2 not in top:
        return None
    source, destination, protocol, ports, icmp = _tuple(data, *top[1])
    replier, _, _, reply_ports, _ = _tuple(data, *top[2])
    mark = struct.unpack_from("!I", data, top[8][0])[0] if 8 in top else 0
    mapped = replier != destination or reply_ports[0] != ports[1]
    return Flow(source, replier, protocol, reply_ports[0], icmp[0], icmp[1], mapped, mark, data[slice(*top[1])])


def _tuple(data: bytes, start: int, end: int) -> tuple[bytes, bytes, int, tuple[int, int], tuple[int, int]]:
    top = _attributes(data, start, end)
    ip, proto = _attributes(data, *top[1]), _attributes(data, *top[2])
    low = 1 if 1 in ip else 3
    source, destination = data[slice(*ip[low])], data[slice(*ip[low + 1])]
    number = data[proto[1][0]]
    ports = (0, 0)
    if 2 in proto and 3 in proto:
        first: int = struct.unpack_from("!H", data, proto[2][0])[0]
        second: int = struct.unpack_from("!H", data, proto[3][0])[0]
        ports = (first, second)
    kind = 5 if 5 in proto else 8 if 8 in proto else 0
    icmp = (data[proto[kind][0]], data[proto[kind + 1][0]]) if kind else (0, 0)
    return source, destination, number, ports, icmp


def _attributes(data: bytes, offset: int, end: int) -> dict[int, tuple[int, int]]:
    found = {}
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4:
            break
        found[kind & 0x3FFF] = (offset + 4, offset + size)
        offset += (size + 3) & ~3
    return found
