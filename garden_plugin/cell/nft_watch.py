"""Who changes the ruleset? Hears nf_tables in the namespace that it was made in."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

from egress.values import Unavailable

_NETFILTER = 12
_GROUP = 7
"""NFNLGRP_NFTABLES."""
_HEADER = struct.Struct("=IHHII")


class Watch:
    """The end of every transaction."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
        # Only the message that ends a transaction: ours with 20,000 elements would fill any buffer.
        program = struct.pack("HBBI", 0x28, 0, 0, 4) + struct.pack("HBBI", 0x15, 0, 1, 0x0F0A)
        program += struct.pack("HBBI", 0x06, 0, 0, 0xFFFFFFFF) + struct.pack("HBBI", 0x06, 0, 0, 0)
        buffer = bytearray(program)
        held = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        self._socket.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 4, ctypes.addressof(held)))  # SO_ATTACH_FILTER
        self._socket.bind((0, 0))
        self._socket.setsockopt(270, 1, _GROUP)  # NETLINK_ADD_MEMBERSHIP
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def heard(self) -> set[int]:
        """The netlink ports of those who changed something since the last call; 0 when messages were lost."""
        ports: set[int] = set()
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return ports
            except OSError as failed:
                if failed.errno != errno.ENOBUFS:
                    raise Unavailable(f"nf_tables notifications: {failed}") from failed
                ports.add(0)
                continue
            offset = 0
            while offset + 16 <= len(data):
                size, _, _, _, port = _HEADER.unpack_from(data, offset)
                ports.add(port)
                offset += (size + 3) & ~3
