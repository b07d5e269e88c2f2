"""Who changes links, addresses, routes and rules? Hears rtnetlink in the namespace that it was made in."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from egress.values import Unavailable

NEWLINK, DELLINK, NEWADDR, DELADDR, NEWROUTE, DELROUTE, NEWRULE, DELRULE = 16, 17, 20, 21, 24, 25, 32, 33
NEWNEIGHBOUR, DELNEIGHBOUR, NEWSETTINGS = 28, 29, 80
LOST = 0
"""Instead of a kind: the kernel had no room for what happened."""

_HEADER = struct.Struct("=IHHII")
_GROUPS = (1, 3, 5, 7, 8, 9, 11, 19, 24, 25)
"""Links; neighbours; IPv4 addresses, routes, rules; IPv6 addresses, routes, rules; devices' settings, as far as the
kernel tells of them: forwarding, reverse path check, proxy ARP."""


class Heard(NamedTuple):
    kind: int
    port: int
    """Netlink port of who did it; 0 = the kernel by itself, and links on most kernels."""
    body: memoryview


class NetlinkWatch:
    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        self._socket.bind((0, 0))
        for group in _GROUPS:
            self._socket.setsockopt(270, 1, group)  # NETLINK_ADD_MEMBERSHIP
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def heard(self) -> Iterator[Heard]:
        """What happened since the last call."""
        while True:
            try:
                data = memoryview(self._socket.recv(1 << 16))
            except BlockingIOError:
                return
            except OSError as failed:
                if failed.errno != errno.ENOBUFS:
                    raise Unavailable(f"rtnetlink notifications: {failed}") from failed
                yield Heard(LOST, 0, memoryview(b""))
                continue
            at = 0
            while at + 16 <= len(data):
                size, kind, _, _, port = _HEADER.unpack_from(data, at)
                yield Heard(kind, port, data[at + 16 : at + size])
                at += (size + 3) & ~3
