"""What does 169.254.0.53 answer in the box? A names from a table, by UDP and TCP; anything else does not exist.

Standard library only, one thread. `python -m cfbridge.simulator.dns --address 169.254.0.53 name=address …`
"""

from __future__ import annotations

import argparse
import errno
import json
import selectors
import socket
import struct
from collections.abc import Mapping, Sequence

_A, _IN = 1, 1
_NO_ERROR, _FORMAT_ERROR, _NO_NAME, _NOT_IMPLEMENTED = 0, 1, 3, 4
_RESPONSE, _AUTHORITATIVE, _RECURSION_WANTED, _RECURSION = 0x8000, 0x0400, 0x0100, 0x0080


def answer(query: bytes, names: Mapping[str, str]) -> bytes | None:
    """The response to one query. A name that begins with a dot stands for everything below it. None: not a query."""
    if len(query) < 12:
        return None
    number, flags, questions = struct.unpack_from("!HHH", query)
    if flags & _RESPONSE:
        return None
    kept = flags & (_RECURSION_WANTED | 0x7800)
    if flags & 0x7800:
        return _reply(number, kept, _NOT_IMPLEMENTED, b"", b"")
    read = _question(query) if questions == 1 else None
    if read is None:
        return _reply(number, kept, _FORMAT_ERROR, b"", b"")
    name, kind, question = read
    address = _look_up(name, names)
    if address is None:
        return _reply(number, kept, _NO_NAME, question, b"")
    if kind != _A:
        return _reply(number, kept, _NO_ERROR, question, b"")
    record = b"\xc0\x0c" + struct.pack("!HHIH", _A, _IN, 5, 4) + socket.inet_aton(address)
    return _reply(number, kept, _NO_ERROR, question, record)


def query(name: str, number: int = 1) -> bytes:
    """A question for the address of `name`."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    return struct.pack("!HHHHHH", number, _RECURSION_WANTED, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", _A, _IN)


def _look_up(name: str, names: Mapping[str, str]) -> str | None:
    if name in names:
        return names[name]
    parts = name.split(".")
    above = ("." + ".".join(parts[at:]) for at in range(1, len(parts)))
    return next((names[each] for each in above if each in names), None)


def _question(query: bytes) -> tuple[str, int, bytes] | None:
    """(name, type, the question's own bytes)."""
    labels, at = [], 12
    while at < len(query) and (length := query[at]):
        if length > 63:
            return None
        labels.append(query[at + 1 : at + 1 + length])
        at += 1 + length
    if at + 5 > len(query):
        return None
    kind = struct.unpack_from("!H", query, at + 1)[0]
    return b".".join(labels).decode("ascii", "replace").lower(), kind, query[12 : at + 5]


def _reply(number: int, kept: int, code: int, question: bytes, record: bytes) -> bytes:
    flags = _RESPONSE | _AUTHORITATIVE | _RECURSION | kept | code
    return struct.pack("!HHHHHH", number, flags, bool(question), bool(record), 0, 0) + question + record


def _bound(address: str, port: int, tries: int = 20) -> tuple[socket.socket, socket.socket]:
    """Both protocols on one port. Port 0: one that is free in both, so another is tried when TCP's is taken."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        datagrams.bind((address, port))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(datagrams.getsockname())
        listener.listen(64)
    except OSError as error:
        datagrams.close()
        listener.close()
        if port or tries == 1 or error.errno != errno.EADDRINUSE:
            raise
        return _bound(address, port, tries - 1)
    listener.setblocking(False)
    return datagrams, listener


def serve(address: str, port: int, names: Mapping[str, str]) -> None:
    """For ever, by both protocols. Says on stdout when it listens."""
    datagrams, listener = _bound(address, port)
    port = datagrams.getsockname()[1]
    unread: dict[socket.socket, bytes] = {}
    selector = selectors.DefaultSelector()
    for each in (datagrams, listener):
        selector.register(each, selectors.EVENT_READ)
    print(json.dumps({"listening": port}), flush=True)
    while True:
        for key, _ in selector.select():
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            try:
                if ready is datagrams:
                    asked, peer = ready.recvfrom(4096)
                    if said := answer(asked, names):
                        ready.sendto(said, peer)
                elif ready is listener:
                    peer_socket, _address = ready.accept()
                    peer_socket.setblocking(False)
                    unread[peer_socket] = b""
                    selector.register(peer_socket, selectors.EVENT_READ)
                else:
                    left = _stream(ready, unread[ready], names)
                    if left is not None:
                        unread[ready] = left
                        continue
                    del unread[ready]
                    selector.unregister(ready)
                    ready.close()
            except OSError:  # an ICMP error about an earlier answer, or a peer that gave up
                if unread.pop(ready, None) is not None:
                    selector.unregister(ready)
                    ready.close()


def _stream(peer: socket.socket, unread: bytes, names: Mapping[str, str]) -> bytes | None:
    """Answer each whole query of a TCP connection. What is left of the next one; None at its end."""
    received = peer.recv(4096)
    unread += received
    while len(unread) >= 2 and len(unread) >= 2 + (length := struct.unpack_from("!H", unread)[0]):
        if said := answer(unread[2 : 2 + length], names):
            peer.sendall(struct.pack("!H", len(said)) + said)
        unread = unread[2 + length :]
    return unread if received else None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="the DNS of a simulated cell")
    parser.add_argument("--address", default="169.254.0.53")
    parser.add_argument("--port", type=int, default=53)
    parser.add_argument("names", nargs="*", metavar="NAME=ADDRESS", help=".NAME stands for everything below NAME")
    given = parser.parse_args(arguments)
    try:
        serve(given.address, given.port, dict(each.lower().split("=", 1) for each in given.names))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
