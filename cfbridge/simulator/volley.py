"""How does one raw packet say which one it is, and who heard it arrive or be refused?"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Any

from cfbridge.simulator.app import plain

MAGIC = b"cfbridge"
"""Begins the payload of every packet sent here, before its 4-byte tag."""
_TCP, _UDP, _ICMP, _ICMP6 = 6, 17, 1, 58


class Ear:
    """Packets of one protocol and family as they are delivered to this host."""

    def __init__(self, version: int, protocol: int) -> None:
        kind = socket.AF_INET6 if version == 6 else socket.AF_INET
        self._version, self._protocol = version, protocol
        self.wire = socket.socket(kind, socket.SOCK_RAW, protocol)
        self.wire.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        self.wire.setblocking(False)

    def read(self) -> Iterator[tuple[str, int, str]]:
        while True:
            try:
                packet, address = self.wire.recvfrom(65535)
            except BlockingIOError:
                return
            segment = packet if self._version == 6 else packet[(packet[0] & 15) * 4 :]
            found = self._judge(segment)
            if found:
                yield (*found, plain(address[0]))

    def _judge(self, segment: bytes) -> tuple[str, int] | None:
        if self._protocol == _TCP:
            sequence, acknowledged, flags = struct.unpack_from("!IIxB", segment, 4)
            if flags & 0x04:  # a reset, by the firewall or by the far end
                return "refused", (acknowledged - 1) & 0xFFFFFFFF if flags & 0x10 else sequence
            return ("arrived", sequence) if flags & 0x12 == 0x02 else None
        at = segment.find(MAGIC)
        if self._protocol in (_ICMP, _ICMP6) and segment[0] == (1 if self._version == 6 else 3):
            return self._quoted(segment[8:], at - 8)
        if at >= 0 and len(segment) >= at + len(MAGIC) + 4:
            if self._protocol in (_ICMP, _ICMP6) and segment[0] in (0, 129):
                return None  # the kernel's echo of our own
            return "arrived", struct.unpack_from("!I", segment, at + len(MAGIC))[0]
        return None

    def _quoted(self, quoted: bytes, at: int) -> tuple[str, int] | None:
        """The tag of the packet that an ICMP error is about."""
        if at >= 0 and len(quoted) >= at + len(MAGIC) + 4:
            return "refused", struct.unpack_from("!I", quoted, at + len(MAGIC))[0]
        header = 40 if self._version == 6 else (quoted[0] & 15) * 4
        protocol = quoted[6] if self._version == 6 else quoted[9]
        if protocol == _TCP and len(quoted) >= header + 8:
            return "refused", struct.unpack_from("!I", quoted, header + 4)[0]
        return None


def encode(packet: dict[str, Any]) -> bytes:
    """A whole IP packet: a TCP SYN whose sequence number is the tag, or UDP or ICMP with the tag in its payload."""
    source = ipaddress.ip_address(packet["source"]).packed
    destination = ipaddress.ip_address(packet["destination"]).packed
    tag, protocol = struct.pack("!I", packet["tag"]), packet["protocol"]
    six = len(source) == 16
    if protocol == _TCP:
        ports = struct.pack("!HH", packet["source_port"], packet["destination_port"])
        segment = ports + tag + bytes(4) + struct.pack("!BBHHH", 5 << 4, 0x02, 65535, 0, 0)
        at = 16
    elif protocol == _UDP:
        body = MAGIC + tag
        segment = struct.pack("!HHHH", packet["source_port"], packet["destination_port"], 8 + len(body), 0) + body
        at = 6
    else:
        body = tag + MAGIC + tag
        segment = struct.pack("!BBH", packet["icmp_type"], packet["icmp_code"], 0) + body
        at = 2
    pseudo = source + destination + struct.pack("!IHBB", len(segment), 0, 0, protocol)
    segment = segment[:at] + checksum((b"" if protocol == _ICMP else pseudo) + segment) + segment[at + 2 :]
    if six:
        return struct.pack("!IHBB", 6 << 28, len(segment), protocol, 64) + source + destination + segment
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, protocol, 0) + source + destination + segment


def checksum(octets: bytes) -> bytes:
    octets += bytes(len(octets) % 2)
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF or 0xFFFF)
