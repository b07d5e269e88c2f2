"""What can a container write onto its own wire? Whole frames, and which of them came through to whom.

Every frame carries a number. What is sent is followed by an honest packet to each receiver, on the same CPU and so in
order: when that one has come, whatever has not come by then never will (decisions 23).
"""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence

from cfbridge.simulator.lab import Namespace
from cfbridge.simulator.volley import MAGIC, checksum
from egress.topology import GATEWAY_MAC
from garden_plugin.cell.netlink import inside

Frame = Callable[[bytes], bytes]
"""A frame, made around the bytes that say which one it is."""

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
UDP, ICMP, ICMP6 = 17, 1, 58
EVERYONE = "ff:ff:ff:ff:ff:ff"
_AT_ONCE = 200
"""Less than the kernel queues before it drops."""


class Wire:
    """A packet socket on a device of a namespace: sends anything, hears everything that arrives."""

    def __init__(self, namespace: Namespace, device: str = "eth0") -> None:
        descriptor = os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._socket = inside(descriptor, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        finally:
            os.close(descriptor)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        self._socket.bind((device, 3))
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def send(self, frames: Sequence[bytes]) -> None:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        try:
            for frame in frames:
                self._socket.send(frame)
        finally:
            os.sched_setaffinity(0, before)

    def heard(self, timeout: float = 0.0) -> list[bytes]:
        """What arrived since the last call; with `timeout`, at least one frame is waited for."""
        if timeout and not select.select([self._socket], [], [], timeout)[0]:
            return []
        frames = []
        while True:
            try:
                frame, address = self._socket.recvfrom(65535)
            except BlockingIOError:
                return frames
            if address[2] != 4:  # PACKET_OUTGOING: our own
                frames.append(frame)


def arrivals(
    sender: Wire, frames: Sequence[Frame], receivers: Mapping[Wire, Frame], *, seconds: float = 20.0
) -> list[int]:
    """Positions of those frames that arrived at a receiver. `receivers`: to each an honest frame, which must arrive."""
    came: set[int] = set()
    _volley(sender, [], receivers, seconds)  # so that neighbours are known, and nothing queues for an answer
    for start in range(0, len(frames), _AT_ONCE):
        part = frames[start : start + _AT_ONCE]
        came |= _volley(sender, [make(_number(start + at)) for at, make in enumerate(part)], receivers, seconds)
    return sorted(came)


_FENCE = 0x7F000000


def _volley(sender: Wire, frames: Sequence[bytes], receivers: Mapping[Wire, Frame], seconds: float) -> set[int]:
    for wire in receivers:
        wire.heard()
    sender.send([*frames, *(honest(_number(_FENCE + at)) for at, honest in enumerate(receivers.values()))])
    came: set[int] = set()
    for at, wire in enumerate(receivers):
        ends = time.monotonic() + seconds
        found: set[int] = set()
        while _FENCE + at not in found:
            assert time.monotonic() < ends, f"the honest packet to receiver {at} did not come: nothing is known"
            found |= {number for frame in wire.heard(1.0) if (number := numbered(frame)) is not None}
        came |= found - {_FENCE + at}
    return came


def _number(number: int) -> bytes:
    return MAGIC + number.to_bytes(4, "big")


def numbered(frame: bytes) -> int | None:
    """Which one it is."""
    at = frame.find(MAGIC)
    return int.from_bytes(frame[at + len(MAGIC) : at + len(MAGIC) + 4], "big") if at >= 0 else None


# --- frames -----------------------------------------------------------------------------------------------------------


def mac(written: str) -> bytes:
    return bytes.fromhex(written.replace(":", ""))


def ether(source: str, kind: int, body: bytes, to: str = GATEWAY_MAC) -> bytes:
    return (mac(to) + mac(source) + struct.pack("!H", kind) + body).ljust(60, b"\0")


def ip4(
    source: str,
    destination: str,
    protocol: int,
    body: bytes,
    *,
    options: bytes = b"",
    ttl: int = 64,
    identity: int = 0,
    offset: int = 0,
    more: bool = False,
) -> bytes:
    """`offset` in bytes."""
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    words = 5 + len(options) // 4
    size = words * 4 + len(body)
    flags = (0x2000 if more else 0) | offset // 8
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, size, identity, flags, ttl, protocol, 0) + ends + options
    return head[:10] + checksum(head) + head[12:] + body


def ip6(source: str, destination: str, following: int, body: bytes, *, hops: int = 64) -> bytes:
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    return struct.pack("!IHBB", 6 << 28, len(body), following, hops) + ends + body


def udp(source: str, destination: str, port: int, body: bytes, source_port: int = 40000) -> bytes:
    segment = struct.pack("!HHHH", source_port, port, 8 + len(body), 0) + body
    return segment[:6] + _sum(source, destination, UDP, segment) + segment[8:]


def icmp(kind: int, code: int, body: bytes) -> bytes:
    """`body` after the first four bytes of the message."""
    return struct.pack("!BB", kind, code) + checksum(struct.pack("!BBH", kind, code, 0) + body) + body


def icmp6(source: str, destination: str, kind: int, code: int, body: bytes) -> bytes:
    message = struct.pack("!BBH", kind, code, 0) + body
    return message[:2] + _sum(source, destination, ICMP6, message) + body


def arp(operation: int, mac_: str, source: str, target: str, to: str = EVERYONE) -> bytes:
    """`source` says that it has `mac_`; of the target only the address is known."""
    ends = mac(mac_) + ipaddress.ip_address(source).packed + bytes(6) + ipaddress.ip_address(target).packed
    return ether(mac_, ARP, struct.pack("!HHBBH", 1, IPV4, 6, 4, operation) + ends, to)


def _sum(source: str, destination: str, protocol: int, segment: bytes) -> bytes:
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    return checksum(ends + struct.pack("!IHBB", len(segment), 0, 0, protocol) + segment)


def datagram(source_mac: str, source: str, destination: str, port: int, **more: int) -> Frame:
    """A UDP datagram as its owner would send it, were it the owner's."""

    def frame(body: bytes) -> bytes:
        segment = udp(source, destination, port, body, **more)
        if ":" in source:
            return ether(source_mac, IPV6, ip6(source, destination, UDP, segment))
        return ether(source_mac, IPV4, ip4(source, destination, UDP, segment))

    return frame
