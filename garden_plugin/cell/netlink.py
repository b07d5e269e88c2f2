"""How do we speak rtnetlink? One socket in one network namespace: messages in, acknowledgements and dumps out.

The exchange is our own: one raw socket, many messages in one send, every acknowledgement read. So there is no event
loop, no fork, no queue that grows. Synchronous; used by one thread. A socket in another namespace is made by a
throw-away thread that enters it and ends there.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from egress.values import Unavailable
from garden_plugin.cell import netlink_answers as answers
from garden_plugin.cell import netlink_messages as messages
from garden_plugin.cell.netlink_answers import Address, Link, Neighbour, Route, Rule
from garden_plugin.cell.netlink_messages import Message

_ERROR, _DONE, _INTERRUPTED = 2, 3, 0x10
_NETLINK, _EXT_ACK, _CAP_ACK, _STRICT = 270, 11, 10, 12
_CLONE_NEWNET = 0x40000000
_AT_ONCE = 100
"""Messages in one send: their acknowledgements must fit into the socket's receive buffer."""

_HEADER = struct.Struct("=IHHII")
_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


class Rejected(OSError):  # noqa: N818 - what the kernel did with the message
    """The kernel answered a message with an error. `what` is the message in the words of the `ip` command."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(number, os.strerror(number), what)
        self.what = what


def inside(netns: int, act: Callable[[], T]) -> T:
    """Run `act` in the network namespace of descriptor `netns`, in a thread of its own that ends with it: no thread
    that goes on living ever changes its namespace."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            if _libc.setns(netns, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            outcome.append(act())
        except BaseException as error:  # carried to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=enter, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _socket() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    opened.bind((0, 0))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    for option in (_EXT_ACK, _CAP_ACK, _STRICT):
        opened.setsockopt(_NETLINK, option, 1)
    opened.settimeout(10)
    return opened


class Netlink:
    """rtnetlink of one network namespace: this process's own, or that of descriptor `netns` (kept open by the caller
    for as long as this lives). `first` is done there before anything else, by the thread that goes there anyway."""

    def __init__(self, netns: int | None = None, first: Callable[[], object] = lambda: None) -> None:
        self._netns = netns
        self._sequence = 0

        def open_there() -> socket.socket:
            first()
            return _socket()

        self._socket = self.inside(open_there)

    @property
    def port(self) -> int:
        """Our netlink port: most notifications carry the port of who made the change."""
        name: tuple[int, int] = self._socket.getsockname()
        return name[0]

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def inside(self, act: Callable[[], T]) -> T:
        """Run `act` where this namespace's /proc/sys/net and packet sockets are."""
        return act() if self._netns is None else inside(self._netns, act)

    def exchange(self, said: Sequence[Message]) -> None:
        """All of them, in order; each is tried even if one before it failed. Then the first failure is raised."""
        failed: Rejected | None = None
        for start in range(0, len(said), _AT_ONCE):
            failed = self._exchange(said[start : start + _AT_ONCE]) or failed
        if failed is not None:
            raise failed

    def _exchange(self, said: Sequence[Message]) -> Rejected | None:
        first = self._sequence + 1
        for message in said:
            self._sequence += 1
            struct.pack_into("=I", message.encoded, 8, self._sequence)
        self._send(b"".join(message.encoded for message in said))
        failed: Rejected | None = None
        left = len(said)
        while left:
            for kind, _, sequence, body in self._receive():
                if kind != _ERROR or sequence < first:
                    continue
                left -= 1
                number = -int(struct.unpack_from("=i", body)[0])
                message = said[sequence - first]
                if number and number not in message.harmless:
                    failed = failed or Rejected(number, message.what)
        return failed

    def _send(self, buffer: bytes) -> None:
        try:
            self._socket.send(buffer)
        except OSError as error:
            raise Unavailable(f"rtnetlink did not take {len(buffer)} bytes: {error}") from error

    def _receive(self) -> Iterator[tuple[int, int, int, memoryview]]:
        try:
            received = memoryview(self._socket.recv(1 << 18))
        except OSError as error:
            raise Unavailable(f"rtnetlink did not answer: {error}") from error
        at = 0
        while at < len(received):
            length, kind, flags, sequence, _pid = _HEADER.unpack_from(received, at)
            yield kind, flags, sequence, received[at + 16 : at + length]
            at += (length + 3) & ~3

    def _dump(self, message: Message) -> list[memoryview]:
        """The bodies of everything that a dump (or a single get) answers; asked again while something changed
        underneath, since the kernel may then have left out what did not change."""
        while True:
            collected, whole = self._dump_once(message)
            if whole:
                return collected

    def _dump_once(self, message: Message) -> tuple[list[memoryview], bool]:
        self._sequence += 1
        wanted = self._sequence
        struct.pack_into("=I", message.encoded, 8, wanted)
        self._send(bytes(message.encoded))
        collected: list[memoryview] = []
        whole = True
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != wanted:
                    continue
                whole = whole and not flags & _INTERRUPTED
                if kind in (_ERROR, _DONE):
                    number = -int(struct.unpack_from("=i", body)[0]) if len(body) >= 4 else 0
                    if number and number not in message.harmless:
                        raise Rejected(number, message.what)
                    return collected, whole
                collected.append(body)

    # --- looking ------------------------------------------------------------------------------------------------------

    def links(self) -> dict[str, Link]:
        return {link.name: link for link in map(answers.read_link, self._dump(messages.get_links()))}

    def link(self, name: str) -> Link | None:
        """`name` may be an alternative name too."""
        return next((answers.read_link(body) for body in self._dump(messages.get_link(name))), None)

    def routes(self) -> list[Route]:
        """Those that carry our mark, of every table and both families."""
        found = [answers.read_route(body) for version in (4, 6) for body in self._dump(messages.get_routes(version))]
        return [route for route in found if route.protocol == messages.PROTOCOL]

    def rules(self) -> list[Rule]:
        """Those that carry our mark."""
        found = [answers.read_rule(body) for version in (4, 6) for body in self._dump(messages.get_rules(version))]
        return [rule for rule in found if rule.protocol == messages.PROTOCOL]

    def neighbours(self) -> list[Neighbour]:
        """The permanent ones."""
        asked = (body for version in (4, 6) for body in self._dump(messages.get_neighbours(version)))
        return [neighbour for neighbour in map(answers.read_neighbour, asked) if neighbour.permanent]

    def addresses(self) -> list[Address]:
        asked = (body for version in (4, 6) for body in self._dump(messages.get_addresses(version)))
        return list(map(answers.read_address, asked))
