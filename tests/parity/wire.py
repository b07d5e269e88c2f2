"""What do the parity runner's packets look like on a wire, and what does one that was seen say? Pure.

Every connection has a number, and each packet of it says the number and its part: in the sequence number (tcp), or in
the payload (udp, icmp). Where it is refused, the refusal quotes it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from egress.values import pack
from policy_sync.model import PROTOCOL_NUMBER, Packet

_MAGIC = b"cfbp"
_SYN, _RST, _PSH, _ACK = 2, 4, 8, 16
NUMBERS = 1 << 20
"""They are said in the upper bits of a sequence number."""
_SERVER = 0x800
_TIMESTAMP_REPLY = 14


class Part(IntEnum):
    OPENING = 1
    ANSWER = 2
    FORWARD = 3
    """Later, from the side that opened."""
    PUSH = 4
    """Later, from the other."""
    REFUSED = 5


@dataclass(frozen=True, slots=True)
class Seen:
    number: int
    part: Part
    packet: bytes = b""
    """From the IP header on; an answer is made from it."""


def opening(packet: Packet, number: int, source_port: int, destination: str = "", port: int = 0) -> bytes:
    """`destination`, `port`: where it is sent, for one that comes by a mapped port."""
    protocol = PROTOCOL_NUMBER[packet.protocol] if not isinstance(packet.protocol, int) else packet.protocol
    source, to = pack(packet.source), pack(destination or packet.destination)
    ports = source_port, port or packet.port
    if protocol in (1, 58):
        return _ip(source, to, protocol, _icmp(packet.icmp_type, packet.icmp_code, number, Part.OPENING))
    if protocol == 17:
        return _ip(source, to, 17, _udp(*ports, number, Part.OPENING))
    return _ip(source, to, 6, _tcp(*ports, number << 12, 0, _SYN))


def answer(seen: Seen) -> bytes | None:
    """What the other side says first."""
    return _reply(seen, Part.ANSWER)


def push(seen: Seen) -> bytes | None:
    """What the other side says later, unasked."""
    return _reply(seen, Part.PUSH)


def forward(answered: Seen) -> bytes | None:
    """What the opener says after it saw an answer."""
    return _reply(answered, Part.FORWARD)


def _reply(seen: Seen, part: Part) -> bytes | None:
    source, destination, protocol, body = _split(seen.packet)
    if protocol in (1, 58):
        kind = body[0]
        if part is Part.FORWARD:
            kind = {0: 8, _TIMESTAMP_REPLY: 13, 129: 128}[kind]
        else:
            kind = {8: 0, 13: _TIMESTAMP_REPLY, 128: 129}[kind]
        return _ip(destination, source, protocol, _icmp(kind, 0, seen.number, part, body[4:8]))
    to, from_ = struct.unpack_from("!HH", body)
    if protocol == 17:
        return _ip(destination, source, 17, _udp(from_, to, seen.number, part))
    base = seen.number << 12
    ours, theirs, flags, text = {
        Part.ANSWER: (base | _SERVER, base + 1, _SYN | _ACK, b""),
        Part.FORWARD: (base + 1, (base | _SERVER) + 1, _PSH | _ACK, b"more"),
        Part.PUSH: ((base | _SERVER) + 1, base + 1, _PSH | _ACK, b"more"),
    }[part]
    return _ip(destination, source, 6, _tcp(from_, to, ours, theirs, flags, text))


def read(packet: bytes) -> Seen | None:
    """None: not one of ours."""
    if len(packet) < 28:
        return None
    _, _, protocol, body = _split(packet)
    return _read(protocol, body, packet)


def read_body(protocol: int, body: bytes) -> Seen | None:
    """Where the kernel gives no IPv6 header."""
    return _read(protocol, body, b"")


def _read(protocol: int, body: bytes, packet: bytes) -> Seen | None:
    if protocol == 6 and len(body) >= 20:
        sequence, acknowledged = struct.unpack_from("!II", body, 4)
        flags = body[13]
        if flags & _RST:
            # A reset that answers a first packet has no sequence number of its own; others have the opener's next.
            return Seen((acknowledged if flags & _ACK else sequence) >> 12, Part.REFUSED, packet)
        if flags & _SYN:
            return Seen(sequence >> 12, Part.ANSWER if flags & _ACK else Part.OPENING, packet)
        return Seen(sequence >> 12, Part.PUSH if sequence & _SERVER else Part.FORWARD, packet)
    if protocol in (1, 58) and body and (body[0] in (3, 11) if protocol == 1 else body[0] < 128):
        quoted = read(body[8:])
        return None if quoted is None else Seen(quoted.number, Part.REFUSED, packet)
    if body[8:12] != _MAGIC:
        return None
    number = int.from_bytes(body[13:17], "big")
    if protocol == 1 and body[0] == _TIMESTAMP_REPLY and number != _identified(body):
        # A kernel answered: it keeps identity and four bytes, and writes its time of day over part and number.
        return Seen(_identified(body), Part.ANSWER, packet)
    part = Part(body[12])
    if part is Part.OPENING and protocol in (1, 58) and body[0] in (0, _TIMESTAMP_REPLY, 129):
        part = Part.ANSWER  # the cell's own kernel gives back what it was asked
    return Seen(number, part, packet)


# --- bytes ------------------------------------------------------------------------------------------------------------


def _split(packet: bytes) -> tuple[bytes, bytes, int, bytes]:
    if packet[0] >> 4 == 4:
        return packet[12:16], packet[16:20], packet[9], packet[(packet[0] & 15) * 4 :]
    return packet[8:24], packet[24:40], packet[6], packet[40:]


def _tcp(source: int, destination: int, sequence: int, acknowledged: int, flags: int, text: bytes = b"") -> bytes:
    numbers = sequence & 0xFFFFFFFF, acknowledged & 0xFFFFFFFF
    return struct.pack("!HHIIBBHHH", source, destination, *numbers, 0x50, flags, 65535, 0, 0) + text


def _mine(number: int, part: Part) -> bytes:
    return _MAGIC + bytes([part]) + number.to_bytes(4, "big") + bytes(7)


def _udp(source: int, destination: int, number: int, part: Part) -> bytes:
    text = _mine(number, part)
    return struct.pack("!HHHH", source, destination, 8 + len(text), 0) + text


def _icmp(kind: int, code: int, number: int, part: Part, identity: bytes = b"") -> bytes:
    said = identity or struct.pack("!HH", number & 0xFFFF, number >> 16)
    return struct.pack("!BBH4s", kind, code, 0, said) + _mine(number, part)


def _identified(body: bytes) -> int:
    """The number, by an ICMP message's identifier and sequence."""
    identifier, sequence = struct.unpack_from("!HH", body, 4)
    return int(identifier | sequence << 16)


_CHECKSUM_AT = {6: 16, 17: 6, 1: 2, 58: 2}


def _ip(source: bytes, destination: bytes, protocol: int, body: bytes) -> bytes:
    at = _CHECKSUM_AT[protocol]
    pseudo = b"" if protocol == 1 else source + destination + struct.pack("!II", len(body), protocol)
    total = _sum(pseudo + body) or 0xFFFF
    body = body[:at] + total.to_bytes(2, "big") + body[at + 2 :]
    if len(source) == 16:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + source + destination + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, 64, protocol, 0) + source + destination
    return head[:10] + _sum(head).to_bytes(2, "big") + head[12:] + body


def _sum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
