"""What does nf_tables answer? Elements, rules, comments and complaints, read from the kernel's bytes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

from garden_plugin.cell.nft_sets import Shape

_TYPE = 0x3FFF
_ATTRIBUTE = struct.Struct("=HH")


class Counted(NamedTuple):
    packets: int
    bytes: int


class RuleSeen(NamedTuple):
    comment: str
    fingerprint: bytes
    """Of what the rule does; counters left out."""


class TableSeen(NamedTuple):
    comment: str
    dormant: bool
    """Its chains hang on no hook: nothing of it is asked."""


class BaseSeen(NamedTuple):
    """Where a base chain hangs, and what it does with what none of its rules decided."""

    kind: str
    hook: int
    priority: int
    drops: bool


class ChainSeen(NamedTuple):
    base: BaseSeen | None
    rules: tuple[RuleSeen, ...]


def attributes(data: bytes, offset: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    end = len(data) if end is None else end
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4:
            return
        yield kind & _TYPE, data[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def data(parts: dict[int, bytes], shape: Shape) -> bytes | None:
    if not shape.data or 2 not in parts:
        return None
    kind, value = next(attributes(parts[2]))
    if kind == 2:
        return dict(attributes(value)).get(2, b"").rstrip(b"\0")
    return value


def comment(userdata: bytes) -> str:
    """nft keeps comments as type, length, value; 0 is the comment."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, size = userdata[offset], userdata[offset + 1]
        if kind == 0:
            return userdata[offset + 2 : offset + 2 + size].rstrip(b"\0").decode(errors="replace")
        offset += 2 + size
    return ""


def table(body: bytes) -> TableSeen:
    parts = dict(attributes(body))
    flags = struct.unpack("!I", parts[2])[0] if 2 in parts else 0
    return TableSeen(comment(parts.get(6, b"")), bool(flags & 1))


def base(parts: dict[int, bytes]) -> BaseSeen | None:
    """Of a chain's attributes; None for one that is only jumped to."""
    if 4 not in parts:
        return None
    hook = dict(attributes(parts[4]))
    kind = parts.get(7, b"").rstrip(b"\0").decode(errors="replace")
    drops = 5 in parts and struct.unpack("!I", parts[5])[0] == 0
    return BaseSeen(kind, struct.unpack("!I", hook[1])[0], struct.unpack("!i", hook[2])[0], drops)


def fingerprint(expressions: bytes) -> bytes:
    digest = hashlib.sha1(usedforsecurity=False)
    for _, expression in attributes(expressions):
        parts = dict(attributes(expression))
        name = parts.get(1, b"")
        digest.update(name + (b"" if name == b"counter\0" else parts.get(2, b"")))
    return digest.digest()


def words(flags: int, body: bytes) -> str:
    """The kernel's own sentence about an error (extended acknowledgement)."""
    if not flags & 0x200:
        return ""
    offset = 4 + (16 if flags & 0x100 else struct.unpack_from("=I", body, 4)[0])
    for kind, value in attributes(body, (offset + 3) & ~3):
        if kind == 1:
            return value.rstrip(b"\0").decode(errors="replace")
    return ""
