"""Which values does everybody share? Addresses, prefixes, ranges, ids, refusals.

The one module of `egress` that `policy_sync` may import. Addresses, prefixes and ids are canonical text in nouns
("10.240.1.7", "10.240.1.0/24", "cf:6f2c…"); arithmetic is done on packed addresses (4 or 16 bytes, network order),
which compare, hash and travel as they are, and are what the kernel wants.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NewType

Packed = bytes
"""An address as 4 (IPv4) or 16 (IPv6) bytes in network order."""

PackedRange = tuple[Packed, Packed]
"""First and last address, both included, of one family."""

QualifiedId = NewType("QualifiedId", str)
"""`foundation:guid`. Several foundations may feed one bridge, so no bare GUID is an identity."""


@dataclass(frozen=True, slots=True)
class Refused:
    """You asked for the impossible: what, why, and what to do. A value, so that one refusal stops nobody else."""

    code: str
    """Stable, upper case, e.g. `IP_POOL_EXHAUSTED`."""
    message: str
    """One sentence for a person, with what to do next."""
    field: str = ""
    """Where in the request, as a JSON pointer or a config path; empty when it concerns no single field."""


class RefusedError(Exception):
    """A refusal that has to leave the function it was found in (HTTP 4xx, exit code 1)."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(f"{refused.message} ({refused.code})" if refused.code else refused.message)
        self.refused = refused


class Unavailable(Exception):  # noqa: N818 - the glossary's word
    """They did not answer, or not in full: retry. Nothing that we hold is dropped because of it."""


def qualify(foundation: str, guid: str) -> QualifiedId:
    return QualifiedId(f"{foundation}:{guid}")


def unqualify(qualified: str) -> tuple[str, str]:
    """(foundation, guid) of a qualified id."""
    foundation, _, guid = qualified.partition(":")
    return foundation, guid


@lru_cache(1 << 17)
def pack(address: str) -> Packed:
    """Raises ValueError, in ipaddress's words, for anything but one plain address (no zone, no prefix length)."""
    if "%" in address:
        raise ValueError(f"{address!r} carries a zone; a plain address is needed")
    return ipaddress.ip_address(address).packed


@lru_cache(1 << 17)
def text(packed: Packed) -> str:
    """The canonical text of a packed address."""
    return str(ipaddress.ip_address(packed))


def family(packed: Packed) -> int:
    """4 or 6."""
    return 4 if len(packed) == 4 else 6


def prefix_range(prefix: str) -> PackedRange:
    """First and last address of a CIDR prefix. Host bits set are refused (ValueError says so)."""
    network = ipaddress.ip_network(prefix)
    return network.network_address.packed, network.broadcast_address.packed


def parse_range(written: str) -> PackedRange:
    """`10.0.0.1`, `10.0.0.0/8` or `10.0.0.1-10.0.0.9` as first and last address. ValueError names what is wrong."""
    if "-" in written:
        first, _, last = written.partition("-")
        low, high = pack(first.strip()), pack(last.strip())
        if len(low) != len(high):
            raise ValueError(f"{written!r} mixes IPv4 and IPv6")
        if low > high:
            raise ValueError(f"{written!r} ends before it starts")
        return low, high
    if "/" in written:
        return prefix_range(written)
    address = pack(written)
    return address, address


def next_address(packed: Packed) -> Packed | None:
    """The address after it, or None after the last of the family."""
    size = len(packed)
    number = int.from_bytes(packed, "big") + 1
    return None if number >> (8 * size) else number.to_bytes(size, "big")


def previous_address(packed: Packed) -> Packed | None:
    """The address before it, or None before the first of the family."""
    number = int.from_bytes(packed, "big") - 1
    return None if number < 0 else number.to_bytes(len(packed), "big")


def merge(ranges: Iterable[PackedRange]) -> tuple[PackedRange, ...]:
    """The same addresses as few, sorted, disjoint, non-adjacent ranges; IPv4 before IPv6."""
    merged: list[PackedRange] = []
    for first, last in sorted(ranges, key=lambda r: (len(r[0]), r[0])):
        if merged:
            low, high = merged[-1]
            after = next_address(high)
            if len(high) == len(first) and (after is None or first <= after):
                if last > high:
                    merged[-1] = (low, last)
                continue
        merged.append((first, last))
    return tuple(merged)


def subtract(ranges: Iterable[PackedRange], holes: Iterable[PackedRange]) -> tuple[PackedRange, ...]:
    """The addresses of `ranges` that are in none of `holes`."""
    left: list[PackedRange] = []
    cuts = merge(holes)
    at = 0
    for first, last in merge(ranges):
        low: Packed | None = first
        while at < len(cuts) and _is_before(cuts[at], first):
            at += 1
        ahead = at
        while low is not None and ahead < len(cuts) and _begins_within(cuts[ahead], last):
            hole_first, hole_last = cuts[ahead]
            if hole_first > low:
                before = previous_address(hole_first)
                assert before is not None
                left.append((low, before))
            low = next_address(hole_last)
            ahead += 1
        if low is not None and low <= last:
            left.append((low, last))
    return tuple(left)


def _is_before(each: PackedRange, address: Packed) -> bool:
    return (len(each[1]), each[1]) < (len(address), address)


def _begins_within(each: PackedRange, last: Packed) -> bool:
    return len(each[0]) == len(last) and each[0] <= last


def intersect(left: Sequence[PackedRange], right: Sequence[PackedRange]) -> tuple[PackedRange, ...]:
    """The addresses that are in both. Both must be merged."""
    common: list[PackedRange] = []
    i = j = 0
    while i < len(left) and j < len(right):
        (a, b), (c, d) = left[i], right[j]
        if len(a) != len(c):
            if len(a) < len(c):
                i += 1
            else:
                j += 1
            continue
        first, last = max(a, c), min(b, d)
        if first <= last:
            common.append((first, last))
        if b < d:
            i += 1
        else:
            j += 1
    return tuple(common)


def contains(ranges: Sequence[PackedRange], address: Packed) -> bool:
    """Whether merged `ranges` hold the address; by bisection."""
    low, high = 0, len(ranges)
    key = (len(address), address)
    while low < high:
        middle = (low + high) // 2
        if (len(ranges[middle][0]), ranges[middle][0]) <= key:
            low = middle + 1
        else:
            high = middle
    return low > 0 and len(ranges[low - 1][1]) == len(address) and ranges[low - 1][1] >= address


def printable(written: str) -> str:
    """On one line, and without what would move a terminal's cursor: names come from tenants."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in written)
