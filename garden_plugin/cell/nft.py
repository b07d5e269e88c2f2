"""How do we speak nf_tables? Elements by our own netlink batches, chains and skeleton by `nft -f -` (decisions 25).

One change of one element takes tens of microseconds, however many there are; starting `nft` takes 10-20 ms.
Sockets belong to the network namespace of the thread that makes them. Synchronous; used by one thread.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from egress.values import Unavailable
from garden_plugin.cell import nft_answers as answers
from garden_plugin.cell.nft_answers import ChainSeen, Counted, RuleSeen, TableSeen
from garden_plugin.cell.nft_sets import TABLE, Elements, Shape

_NEWTABLE, _GETTABLE, _NEWCHAIN, _GETCHAIN, _DELCHAIN = 0, 1, 3, 4, 5
_GETRULE, _DELRULE, _GETSET, _DELSET = 7, 8, 10, 11
_NEWSETELEM, _GETSETELEM, _DELSETELEM, _NEWGEN, _GETGEN = 12, 13, 14, 15, 16
_GETOBJ, _GETFLOWTABLE = 19, 23
_SUBSYSTEM = 10 << 8
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_REQUEST, _ACK, _DUMP, _CREATE = 1, 4, 0x300, 0x400
_NFPROTO_INET = 1
ARP = 3
"""The other family in which we have a table, by the same name."""
_NETFILTER = 12
_NESTED = 0x8000
_INTERVAL_END = struct.pack("!I", 1)
_JUMP = struct.pack("!i", -3)
_ELEMENTS_LIMIT = 60_000
"""Bytes of one nest of elements: an attribute's length has 16 bits."""

_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct("!BBH")
_ATTRIBUTE = struct.Struct("=HH")


class Rejected(Unavailable):
    """The kernel, or nft, refused the change; nothing of it was done. `number` is the first errno, 0 from nft."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(what)
        self.number = number


class Operation(NamedTuple):
    """One message of a batch."""

    type: int
    flags: int
    body: bytes
    what: str


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def _nest(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)


def _string(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


# --- what to do -------------------------------------------------------------------------------------------------------


def _after(packed: bytes) -> bytes | None:
    number = int.from_bytes(packed, "big") + 1
    return None if number >> (8 * len(packed)) else number.to_bytes(len(packed), "big")


def _encode(shape: Shape, key: bytes, data: bytes | None) -> Iterator[bytes]:
    """One element, or the two ends that make an interval of a single field."""
    if data is None:
        tail = b""
    elif shape.verdict:
        tail = _nest(2, _nest(2, _attribute(1, _JUMP) + _string(2, data.decode())))
    else:
        tail = _nest(2, _attribute(1, data))
    if not shape.interval:
        yield _nest(1, _nest(1, _attribute(1, key)) + tail)
        return
    size = shape.key_size
    first, last = key[:size], key[size:]
    if len(shape.fields) > 1:
        yield _nest(1, _nest(1, _attribute(1, first)) + tail + _nest(10, _attribute(1, last)))
        return
    yield _nest(1, _nest(1, _attribute(1, first)) + tail)
    if (after := _after(last)) is not None:
        yield _nest(1, _nest(1, _attribute(1, after)) + _attribute(3, _INTERVAL_END))


def _elements(kind: int, flags: int, table: str, name: str, shape: Shape, elements: Elements) -> Iterator[Operation]:
    deed = "add" if kind == _NEWSETELEM else "delete"
    head = _string(1, table) + _string(2, name)
    held: list[bytes] = []
    size = 0
    for key, data in elements.items():
        for encoded in _encode(shape, key, data if kind == _NEWSETELEM else None):
            if size + len(encoded) > _ELEMENTS_LIMIT:
                yield Operation(kind, flags, head + _nest(3, b"".join(held)), f"{deed} elements of {name}")
                held, size = [], 0
            held.append(encoded)
            size += len(encoded)
    if held:
        yield Operation(kind, flags, head + _nest(3, b"".join(held)), f"{deed} elements of {name}")


def add_elements(name: str, shape: Shape, elements: Elements) -> Iterator[Operation]:
    """The same element again is no error; another data under a key that is there is EEXIST: delete it first."""
    return _elements(_NEWSETELEM, _CREATE, _NAME, name, shape, elements)


def delete_elements(name: str, shape: Shape, elements: Elements) -> Iterator[Operation]:
    return _elements(_DELSETELEM, 0, _NAME, name, shape, elements)


def delete_set(name: str) -> Operation:
    return Operation(_DELSET, 0, _string(1, _NAME) + _string(2, name), f"delete set {name}")


def delete_chain(name: str) -> tuple[Operation, Operation]:
    """With its rules; nothing may jump to it any more."""
    flush = Operation(_DELRULE, 0, _string(1, _NAME) + _string(2, name), f"flush chain {name}")
    return flush, Operation(_DELCHAIN, 0, _string(1, _NAME) + _string(3, name), f"delete chain {name}")


_NAME = TABLE.split()[1]


# --- the exchange -----------------------------------------------------------------------------------------------------


def _message(
    kind: int, flags: int, sequence: int, body: bytes, family: int = _NFPROTO_INET, resource: int = 0
) -> bytes:
    return _HEADER.pack(20 + len(body), kind, flags, sequence, 0) + _FAMILY.pack(family, 0, resource) + body


class Nft:
    """A socket of our own in the namespace of the thread that made it."""

    def __init__(self, timeout: float = 30.0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
        self._socket.bind((0, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, 32, 256 << 20)  # SO_SNDBUFFORCE: a batch is one datagram
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
        self._socket.setsockopt(270, 11, 1)  # NETLINK_EXT_ACK: errors in words
        self._socket.settimeout(timeout)
        self._sequence = 0
        self._counts = True

    @property
    def port(self) -> int:
        """Our netlink port: notifications carry the port of who made the change."""
        name: tuple[int, int] = self._socket.getsockname()
        return name[0]

    def close(self) -> None:
        self._socket.close()

    def commit(self, operations: Iterable[Operation], generation: int | None = None) -> None:
        """One transaction: all or nothing. With `generation`, only if nobody changed the ruleset since."""
        todo = list(operations)
        if not todo:
            return
        begin = _attribute(1, struct.pack("!I", generation)) if generation is not None else b""
        self._sequence += 1
        first = self._sequence
        parts = [_message(_BATCH_BEGIN, _REQUEST, first, begin, family=0, resource=10)]
        for operation in todo:
            self._sequence += 1
            flags = _REQUEST | operation.flags | (_ACK if operation is todo[-1] else 0)
            parts.append(_message(_SUBSYSTEM | operation.type, flags, self._sequence, operation.body))
        last = self._sequence
        self._sequence += 1
        parts.append(_message(_BATCH_END, _REQUEST, self._sequence, b"", family=0, resource=10))
        try:
            self._socket.send(b"".join(parts))
            errors = self._acknowledgements(first, last)
        except OSError as failed:
            raise Unavailable(f"nf_tables did not answer: {failed}") from failed
        if errors:
            number, words, sequence = errors[0]
            index = sequence - first - 1
            what = todo[index].what if 0 <= index < len(todo) else "the batch"
            raise Rejected(number, f"nf_tables refused to {what}: {os.strerror(number)}{words and f' ({words})'}")

    def _acknowledgements(self, first: int, last: int) -> list[tuple[int, str, int]]:
        errors: list[tuple[int, str, int]] = []
        while True:
            for kind, flags, sequence, body in self._receive():
                if kind != 2 or not first <= sequence <= last + 1:
                    continue
                number = -struct.unpack_from("=i", body)[0]
                if number:
                    errors.append((number, answers.words(flags, body), sequence))
                elif sequence == last:
                    return errors
            if errors:
                return errors

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        data = self._socket.recv(1 << 20)
        found, offset = [], 0
        while offset + 16 <= len(data):
            size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            found.append((kind, flags, sequence, data[offset + 16 : offset + size]))
            offset += (size + 3) & ~3
        return found

    def _ask(self, kind: int, flags: int, body: bytes, family: int = _NFPROTO_INET) -> Iterator[bytes]:
        """The bodies (after the family header) of all answers. Raises Rejected; ENOENT where the thing is not there."""
        self._sequence += 1
        sequence = self._sequence
        try:
            self._socket.send(_message(_SUBSYSTEM | kind, _REQUEST | flags, sequence, body, family))
            while True:
                for answer, answer_flags, answered, content in self._receive():
                    if answered != sequence:
                        continue
                    if answer == 3:
                        return
                    if answer == 2:
                        number = -struct.unpack_from("=i", content)[0]
                        raise Rejected(number, f"nf_tables: {os.strerror(number)}")
                    if answer_flags & 0x10:  # NLM_F_DUMP_INTR: somebody wrote meanwhile
                        raise Rejected(errno.EINTR, "nf_tables: the ruleset changed while it was read")
                    yield content[4:]
                    if not flags & _DUMP:
                        return
        except OSError as failed:
            raise Unavailable(f"nf_tables did not answer: {failed}") from failed

    # --- what is there ------------------------------------------------------------------------------------------------

    def generation(self) -> int:
        for body in self._ask(_GETGEN, 0, b"", family=0):
            for kind, value in answers.attributes(body):
                if kind == 1:
                    return int(struct.unpack("!I", value)[0])
        return 0

    def table(self, family: int = _NFPROTO_INET) -> TableSeen | None:
        """None when our table is not there."""
        try:
            for body in self._ask(_GETTABLE, 0, _string(1, _NAME), family):
                return answers.table(body)
        except Rejected as refused:
            if refused.number != errno.ENOENT:
                raise
        return None

    def strangers(self) -> frozenset[str]:
        """Named counters, helpers, flowtables and the like in our table: we make none."""
        found = set()
        for kind in (_GETOBJ, _GETFLOWTABLE):
            for body in self._ask(kind, _DUMP, _string(1, _NAME)):
                parts = dict(answers.attributes(body))
                if parts[1].rstrip(b"\0").decode() == _NAME:
                    found.add(parts[2].rstrip(b"\0").decode(errors="replace"))
        return frozenset(found)

    def elements(self, name: str, shape: Shape) -> dict[bytes, bytes | None]:
        """Raises Rejected with ENOENT where there is no such set."""
        if shape.interval and len(shape.fields) == 1:
            return self._intervals(name, shape)
        if shape.interval:
            return self._listed(name, shape)
        found = self._listed(name, shape)
        for _ in range(50):
            # A hash that grows or shrinks in the background shows only a part meanwhile, and does not say so.
            if len(found) == self._count(name):
                return found
            before, found = found, self._listed(name, shape)
            if self._counts is False and found == before:
                return found
            time.sleep(0.002)
        raise Unavailable(f"nf_tables shows another part of the set {name} each time")

    def _listed(self, name: str, shape: Shape) -> dict[bytes, bytes | None]:
        found: dict[bytes, bytes | None] = {}
        for parts in self._dump(name):
            key = parts[1][4:]
            if 10 in parts:
                key += parts[10][4:]
            found[key] = answers.data(parts, shape)
        return found

    def _count(self, name: str) -> int:
        """How many elements there are; -1 on kernels that do not say."""
        for body in self._ask(_GETSET, 0, _string(1, _NAME) + _string(2, name)):
            said = dict(answers.attributes(body)).get(20)
            self._counts = said is not None
            return -1 if said is None else int(struct.unpack("!I", said)[0])
        return -1

    def _intervals(self, name: str, shape: Shape) -> dict[bytes, bytes | None]:
        ends: list[tuple[bytes, int, dict[int, bytes]]] = []
        for parts in self._dump(name):
            closing = 3 in parts and bool(struct.unpack("!I", parts[3])[0] & 1)
            ends.append((parts[1][4:], 0 if closing else 1, parts))
        found: dict[bytes, bytes | None] = {}
        open_: tuple[bytes, bytes | None] | None = None
        for value, kind, parts in sorted(ends, key=lambda e: e[:2]):
            if open_ is not None:
                last = (int.from_bytes(value, "big") - 1).to_bytes(len(value), "big")
                found[open_[0] + last] = open_[1]
            open_ = (value, answers.data(parts, shape)) if kind else None
        if open_ is not None:
            found[open_[0] + b"\xff" * len(open_[0])] = open_[1]
        return found

    def counters(self, name: str) -> dict[bytes, Counted]:
        """What each element of a set with counters has counted."""
        found: dict[bytes, Counted] = {}
        for parts in self._dump(name):
            expression = dict(answers.attributes(parts.get(7, b"")))
            counted = dict(answers.attributes(expression.get(2, b"")))
            if 1 in counted and 2 in counted:
                found[parts[1][4:]] = Counted(*struct.unpack("!Q", counted[2]), *struct.unpack("!Q", counted[1]))
        return found

    def _dump(self, name: str) -> Iterator[dict[int, bytes]]:
        for body in self._ask(_GETSETELEM, _DUMP, _string(1, _NAME) + _string(2, name)):
            for kind, value in answers.attributes(body):
                if kind == 3:
                    for _, element in answers.attributes(value):
                        yield dict(answers.attributes(element))

    def set_names(self) -> frozenset[str]:
        names = set()
        for body in self._ask(_GETSET, _DUMP, _string(1, _NAME)):
            parts = dict(answers.attributes(body))
            name = parts[2].rstrip(b"\0").decode()
            if not name.startswith("__"):  # anonymous sets belong to their rules
                names.add(name)
        return frozenset(names)

    def chains(self, family: int = _NFPROTO_INET) -> dict[str, ChainSeen]:
        """Every chain of our table with its rules, in order."""
        bases = {}
        found: dict[str, list[RuleSeen]] = {}
        for body in self._ask(_GETCHAIN, _DUMP, b"", family):
            parts = dict(answers.attributes(body))
            if parts[1].rstrip(b"\0").decode() == _NAME:
                chain = parts[3].rstrip(b"\0").decode()
                bases[chain], found[chain] = answers.base(parts), []
        for body in self._ask(_GETRULE, _DUMP, _string(1, _NAME), family):
            parts = dict(answers.attributes(body))
            if parts[1].rstrip(b"\0").decode() != _NAME:
                continue
            chain = parts[2].rstrip(b"\0").decode()
            seen = RuleSeen(answers.comment(parts.get(7, b"")), answers.fingerprint(parts.get(4, b"")))
            found.setdefault(chain, []).append(seen)
        return {chain: ChainSeen(bases.get(chain), tuple(rules)) for chain, rules in found.items()}


def run(script: str) -> int:
    """Runs `nft -f -`, one transaction, in the caller's namespace; the child's pid, by which notifications know it."""
    environment = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C"}
    try:
        with open(os.memfd_create("nft"), "w+") as whole:  # through a pipe, half a script would be done if we died
            whole.write(script)
            whole.seek(0)
            child = subprocess.Popen(
                ["nft", "-f", "-"],
                stdin=whole,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
    except OSError as failed:
        raise Unavailable(f"nft can't be started: {failed}") from failed
    with child:
        _, complaint = child.communicate()
    if child.returncode:
        raise Rejected(0, f"nft refused: {complaint.strip()[:2000]}")
    return child.pid
