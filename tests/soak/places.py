"""How does one process talk from every network namespace? A socket stays in the one that it was made in.

So a thread goes there, makes the socket, and whoever asked uses it from anywhere: no process per container.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from concurrent.futures import ThreadPoolExecutor

from cfbridge.simulator.volley import MAGIC

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Places:
    def __init__(self) -> None:
        self._traveller = ThreadPoolExecutor(1, thread_name_prefix="places")

    def close(self) -> None:
        self._traveller.shutdown()

    def socket(self, netns: str, kind: int, protocol: int = 0) -> socket.socket:
        """An IPv4 one that does not block. OSError: the namespace is gone."""

        def make() -> socket.socket:
            descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(descriptor, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"setns {netns}")
            finally:
                os.close(descriptor)
            made = socket.socket(socket.AF_INET, kind, protocol)
            made.setblocking(False)
            return made

        return self._traveller.submit(make).result()


def datagram(number: int, sent: float) -> bytes:
    """What says which flow it is of, and when it was sent."""
    return MAGIC + struct.pack("!Id", number, sent)


def heard(packet: bytes) -> tuple[int, float] | None:
    """(flow, when it was sent) of an IPv4 packet that carries a datagram of ours."""
    header = (packet[0] & 15) * 4
    payload = packet[header + 8 :]
    if not payload.startswith(MAGIC) or len(payload) != len(MAGIC) + 12:
        return None
    number, sent = struct.unpack_from("!Id", payload, len(MAGIC))
    return number, sent
