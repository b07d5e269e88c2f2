"""Is what comes back read as what it is, whoever answered?"""

from __future__ import annotations

import pytest

from policy_sync.model import Packet, Protocol
from tests.parity import wire
from tests.parity.wire import Part


def answered_by_a_kernel(packet: bytes, moment: int) -> bytes:
    """Of a timestamp request: identity and its first four bytes come back, and then the time of day, twice."""
    body = bytearray(packet[20:])
    body[0] = 14
    body[12:20] = moment.to_bytes(4, "big") * 2
    return packet[:12] + packet[16:20] + packet[12:16] + bytes(body)


@pytest.mark.parametrize("number", [1, 70_000, wire.NUMBERS - 1])
@pytest.mark.parametrize("moment", [0, 0x00FFFFFF, 0x01000000, 0x02FFFFFF, 0x04000000, 0x05265BFF])
def test_a_timestamp_that_a_kernel_answers_is_the_answer_of_its_number_at_any_time_of_day(
    number: int, moment: int
) -> None:
    asked = wire.opening(Packet("10.0.0.1", "10.0.0.2", Protocol.ICMP, icmp_type=13), number, 0)
    seen = wire.read(answered_by_a_kernel(asked, moment))
    assert seen is not None
    assert (seen.number, seen.part) == (number, Part.ANSWER)


@pytest.mark.parametrize("kind", [8, 13, 128])
@pytest.mark.parametrize("number", [1, 70_000, wire.NUMBERS - 1])
def test_every_part_of_an_icmp_exchange_says_its_number(kind: int, number: int) -> None:
    protocol = Protocol.ICMPV6 if kind == 128 else Protocol.ICMP
    ends = ("fd00::1", "fd00::2") if kind == 128 else ("10.0.0.1", "10.0.0.2")
    seen = wire.read(wire.opening(Packet(*ends, protocol, icmp_type=kind), number, 0))
    for reply, part in ((wire.answer, Part.ANSWER), (wire.forward, Part.FORWARD), (wire.push, Part.PUSH)):
        assert seen is not None
        seen = wire.read(reply(seen) or b"")
        assert seen is not None
        assert (seen.number, seen.part) == (number, part)
