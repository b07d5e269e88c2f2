"""What runs in a simulated container? A small server that says who it is and which address it saw its peer come from.

TCP: one JSON line on connect; then every line received is echoed; `push MS` makes it send a line every MS milliseconds.
UDP: one JSON line for each datagram. Standard library only: it has to start in the time of an interpreter.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Connection:
    peer: socket.socket
    unread: bytearray = field(default_factory=bytearray)
    push_every: float = 0.0
    push_at: float = 0.0
    pushed: int = 0


@dataclass(slots=True)
class Counted:
    """What arrived at one listener."""

    connections: int = 0
    datagrams: int = 0
    octets: int = 0
    sources: list[str] = field(default_factory=list)
    """Of the latest hundred."""


class Server:
    """All listeners of a process, in one thread."""

    def __init__(self, who: dict[str, Any]) -> None:
        self._who = who
        self._selector = selectors.DefaultSelector()
        self._connections: dict[socket.socket, tuple[Connection, Counted]] = {}
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, ("wake", None))
        self._stopped = False
        self.counted: dict[str, Counted] = {}
        """By `tcp:8080`."""

    def listen(self, kind: str, port: int, address: str = "::") -> int:
        """On `tcp` or `udp`; port 0 = any free one. The port."""
        listener = _bound(socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM, address, port)
        listener.setblocking(False)
        if kind == "tcp":
            listener.listen(512)
        port = int(listener.getsockname()[1])
        counted = self.counted.setdefault(f"{kind}:{port}", Counted())
        self._selector.register(listener, selectors.EVENT_READ, (kind, counted))
        self._wake.send(b"\0")
        return port

    def stop(self) -> None:
        self._stopped = True
        self._wake.send(b"\0")

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopped:
            for key, _ in self._selector.select(self._next_push()):
                kind, counted = key.data
                assert isinstance(key.fileobj, socket.socket)
                if kind == "wake":
                    key.fileobj.recv(64)
                elif kind == "tcp":
                    self._accept(key.fileobj, counted)
                elif kind == "udp":
                    self._answer(key.fileobj, counted)
                else:
                    self._read(key.fileobj)
            self._push()

    def _hello(self, address: Any) -> bytes:
        source = plain(address[0])
        return json.dumps({**self._who, "source": source, "source_port": address[1]}).encode() + b"\n"

    def _accept(self, listener: socket.socket, counted: Counted) -> None:
        try:
            peer, address = listener.accept()
        except OSError:  # reset before we came to it
            return
        peer.setblocking(False)
        counted.connections += 1
        counted.sources = [*counted.sources[-99:], plain(address[0])]
        self._connections[peer] = (Connection(peer), counted)
        self._selector.register(peer, selectors.EVENT_READ, ("connection", None))
        self._send(peer, self._hello(address))

    def _answer(self, listener: socket.socket, counted: Counted) -> None:
        try:
            payload, address = listener.recvfrom(65535)
            counted.datagrams += 1
            counted.octets += len(payload)
            counted.sources = [*counted.sources[-99:], plain(address[0])]
            listener.sendto(self._hello(address), address)
        except OSError:  # an ICMP error about an earlier answer
            return

    def _read(self, peer: socket.socket) -> None:
        connection, counted = self._connections[peer]
        try:
            received = peer.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._drop(peer)
            return
        counted.octets += len(received)
        connection.unread += received
        lines = bytes(connection.unread).split(b"\n")
        connection.unread = bytearray(lines.pop())
        for line in lines:
            if line.startswith(b"push "):
                connection.push_every = int(line[5:]) / 1000
                connection.push_at = time.monotonic()
            else:
                self._send(peer, line + b"\n")

    def _send(self, peer: socket.socket, line: bytes) -> None:
        try:
            peer.send(line)
        except BlockingIOError:  # its buffer is full, which is what a cut connection looks like from here
            return
        except OSError:
            self._drop(peer)

    def _drop(self, peer: socket.socket) -> None:
        if self._connections.pop(peer, None):
            self._selector.unregister(peer)
            peer.close()

    def _next_push(self) -> float | None:
        due = [connection.push_at for connection, _ in self._connections.values() if connection.push_every]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _push(self) -> None:
        now = time.monotonic()
        for connection, _ in list(self._connections.values()):
            if connection.push_every and connection.push_at <= now:
                connection.push_at = now + connection.push_every
                connection.pushed += 1
                self._send(connection.peer, b"pushed %d\n" % connection.pushed)


def plain(address: str) -> str:
    """An IPv4 address as such, where a socket of both families shows it mapped."""
    return address.removeprefix("::ffff:").partition("%")[0]


def _bound(kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    """For both families where the kernel has both."""
    wanted = [(socket.AF_INET6, address), (socket.AF_INET, "0.0.0.0")] if address == "::" else []  # noqa: S104
    if not wanted:
        wanted = [(socket.AF_INET6 if ":" in address else socket.AF_INET, address)]
    for number, (family, where) in enumerate(wanted):
        opened = None
        try:
            opened = socket.socket(family, kind | socket.SOCK_CLOEXEC)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address == "::" and family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            opened.bind((where, port))
            return opened
        except OSError:
            if opened is not None:
                opened.close()
            if number == len(wanted) - 1:
                raise
    raise AssertionError("unreachable")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="the app of a simulated container")
    parser.add_argument("--name", default="app")
    parser.add_argument("--instance", type=int, default=0)
    parser.add_argument("--tcp", type=int, nargs="*", default=[8080])
    parser.add_argument("--udp", type=int, nargs="*", default=[])
    given = parser.parse_args(arguments)
    server = Server({"app": given.name, "instance": given.instance})
    ports = [server.listen("tcp", port) for port in given.tcp] + [server.listen("udp", port) for port in given.udp]
    print(json.dumps({"listening": ports}), flush=True)
    try:
        server.run()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
