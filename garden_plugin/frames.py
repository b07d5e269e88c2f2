"""How do whole messages cross a byte stream? A 4-byte big-endian length, then one msgpack message.

Both ends of the wire use this file: the agent's `bridge_client` and the bridge's `cells`.
"""

from __future__ import annotations

import asyncio

import msgspec

from egress.values import Unavailable
from garden_plugin import wire

_LENGTH = 4
_encoder = msgspec.msgpack.Encoder()


def frame(message: wire.FromAgent | wire.FromBridge) -> bytes:
    """The bytes to write for one message. ValueError when it is longer than a peer would accept."""
    body = _encoder.encode(message)
    if len(body) > wire.FRAME_LIMIT:
        raise ValueError(f"a {type(message).__name__} of {len(body)} bytes exceeds the limit of {wire.FRAME_LIMIT}")
    return len(body).to_bytes(_LENGTH, "big") + body


async def read_frame(reader: asyncio.StreamReader, limit: int = wire.FRAME_LIMIT) -> bytes:
    """The next message's bytes. asyncio.IncompleteReadError: the peer closed (its `partial` is empty between frames).
    Unavailable: the length is impossible, so the peer speaks something else; close the connection."""
    length = int.from_bytes(await reader.readexactly(_LENGTH), "big")
    if not 0 < length <= limit:
        raise Unavailable(f"the peer announced a frame of {length} bytes, allowed are 1 to {limit}")
    return await reader.readexactly(length)
