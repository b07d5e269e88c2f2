"""Which subnets and addresses can be cut out of a pool? Never one in use, never one at rest.

Pool ──shares()──> spans of whole numbers, each free for all or kept for one org
span ──next_block()──> the next subnet that meets nothing held
subnet or SNAT span ──Places──> addresses: never-used ones first, then the longest rested

Nouns outside are text; inside, addresses are whole numbers of one family (4 or 6).
"""

from __future__ import annotations

import heapq
import ipaddress
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from egress.model import Pool, PoolKind
from egress.values import PackedRange, Refused, subtract

SHORTEST_ORG_PREFIX = 8
LONGEST_ORG_PREFIX = 29
"""A /29 has four addresses left beside the reserved ones; a /30 has none."""
SUBNET6_LENGTH = 64

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Span = tuple[int, int]
"""First and last address as whole numbers, both included."""
FREE_FOR_ALL = ""
"""The owner of what no org has reserved."""


def number(address: str) -> tuple[int, int]:
    """(family, whole number) of an address. ValueError, in ipaddress's words, for anything else."""
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)


def address_text(family: int, value: int) -> str:
    return str(ipaddress.IPv4Address(value) if family == 4 else ipaddress.IPv6Address(value))


def prefix_text(family: int, first: int, length: int) -> str:
    return f"{address_text(family, first)}/{length}"


def span(prefix: str) -> tuple[int, Span]:
    """(family, span) of a CIDR prefix or of one address."""
    network = ipaddress.ip_network(prefix)
    return network.version, (int(network.network_address), int(network.broadcast_address))


def block_length(pool: Pool, family: int) -> int:
    """The prefix length of an org's subnet."""
    return pool.org_prefix_length if family == 4 else SUBNET6_LENGTH


def families(pool: Pool) -> tuple[int, ...]:
    """(4,), (6,) or (4, 6): what the pool has prefixes of."""
    return tuple(sorted({ipaddress.ip_network(prefix).version for prefix in pool.prefixes}))


def usable(prefix: str) -> Span:
    """The addresses of an org's subnet that leases may get: not network, .1 router, .2 cell port and broadcast."""
    family, (first, last) = span(prefix)
    return (first + 3, last - 1) if family == 4 else (first + 3, last)


def validate(pools: Sequence[Pool], underlay: Sequence[str] = ()) -> tuple[Refused, ...]:
    """What is wrong with the pools, each by pool and field; empty when they can be used."""
    found: list[Refused] = []
    names: set[str] = set()
    known: list[tuple[str, Network]] = [("the underlay", ipaddress.ip_network(prefix)) for prefix in underlay]
    for index, pool in enumerate(pools):
        at = f"/pools/{index}"
        label = pool.name or f"number {index + 1}"
        if not pool.name or pool.name in names:
            word = "has no name" if not pool.name else "is defined twice"
            found.append(Refused("POOL_NAME", f"Pool {label} {word}; give each pool a name of its own.", f"{at}/name"))
        names.add(pool.name)
        networks: list[Network] = []
        for place, prefix in enumerate(pool.prefixes):
            field = f"{at}/prefixes/{place}"
            try:
                network = ipaddress.ip_network(prefix)
            except ValueError as error:
                found.append(Refused("POOL_PREFIX_BAD", f"Pool {label}: {error}; write it as 10.240.0.0/14.", field))
                continue
            if network.is_multicast or network.is_loopback or network.is_link_local or network.prefixlen == 0:
                found.append(
                    Refused("POOL_PREFIX_BAD", f"Pool {label}: {network} cannot be used for workloads.", field)
                )
                continue
            for other, held in known:
                if held.version == network.version and held.overlaps(network):
                    found.append(
                        Refused(
                            "POOL_OVERLAP", f"Pool {label}: {network} overlaps {held} of {other}; part them.", field
                        )
                    )
            known.append((f"pool {label}", network))
            networks.append(network)
            if pool.kind is PoolKind.CONTAINER and network.version == 6 and network.prefixlen > SUBNET6_LENGTH:
                found.append(
                    Refused("POOL_PREFIX_BAD", f"Pool {label}: {network} is longer than /64, an org's subnet.", field)
                )
        found += _validate_lengths(pool, label, at, networks)
        found += _validate_reserved(pool, label, at, networks)
    return tuple(found)


def _validate_lengths(pool: Pool, label: str, at: str, networks: Sequence[Network]) -> list[Refused]:
    if pool.kind is PoolKind.SNAT:
        if networks or pool.prefixes:
            return []
        return [Refused("POOL_EMPTY", f"Pool {label} has no prefixes; give it at least one.", f"{at}/prefixes")]
    four = [network for network in networks if network.version == 4]
    if not four and len(networks) == len(pool.prefixes):
        text = f"Pool {label} has no IPv4 prefix; every container has an IPv4 address."
        return [Refused("POOL_EMPTY", text, f"{at}/prefixes")]
    longest_prefix = max((network.prefixlen for network in four), default=SHORTEST_ORG_PREFIX)
    low = max(SHORTEST_ORG_PREFIX, longest_prefix)
    if low <= pool.org_prefix_length <= LONGEST_ORG_PREFIX:
        return []
    text = (
        f"Pool {label}: org_prefix_length {pool.org_prefix_length} must be from {low} to {LONGEST_ORG_PREFIX}"
        if low <= LONGEST_ORG_PREFIX
        else f"Pool {label}: a /{longest_prefix} has no room for an org's subnet"
    )
    return [Refused("POOL_ORG_PREFIX_LENGTH", f"{text}.", f"{at}/org_prefix_length")]


def _validate_reserved(pool: Pool, label: str, at: str, networks: Sequence[Network]) -> list[Refused]:
    found: list[Refused] = []
    taken: list[tuple[Network, str]] = []
    for org, entries in pool.reserved:
        for place, entry in enumerate(entries):
            field = f"{at}/reserved/{org}/{place}"
            try:
                kept = ipaddress.ip_network(entry)
            except ValueError as error:
                found.append(Refused("POOL_RESERVED_BAD", f"Pool {label}, reserved for {org}: {error}.", field))
                continue
            if not any(n.version == kept.version and kept.subnet_of(n) for n in networks):  # type: ignore[arg-type]
                text = f"Pool {label}: {entry}, reserved for {org}, lies outside the pool."
                found.append(Refused("POOL_RESERVED_OUTSIDE", text, field))
                continue
            kept = _rounded(pool, kept)
            for other, owner in taken:
                if owner != org and other.version == kept.version and other.overlaps(kept):
                    text = f"Pool {label}: {entry}, reserved for {org}, shares {other} with what is kept for {owner}."
                    found.append(Refused("POOL_RESERVED_OVERLAP", text, field))
            taken.append((kept, org))
    return found


def _rounded(pool: Pool, kept: Network) -> Network:
    """What a reservation keeps: in a container pool never less than the org's whole subnet around it."""
    if pool.kind is PoolKind.SNAT:
        return kept
    length = block_length(pool, kept.version)
    return kept if kept.prefixlen <= length else kept.supernet(new_prefix=length)


def shares(pool: Pool) -> Mapping[tuple[str, int], tuple[Span, ...]]:
    """(owner, family) → spans that this owner may have, in the order of the pool's prefixes; disjoint over owners."""
    kept: dict[tuple[str, int], list[Span]] = {}
    holes: list[PackedRange] = []
    for org, entries in pool.reserved:
        for entry in entries:
            network = _rounded(pool, ipaddress.ip_network(entry))
            mine = kept.setdefault((org, network.version), [])
            piece = (int(network.network_address), int(network.broadcast_address))
            if piece not in mine:
                mine.append(piece)
            holes.append((network.network_address.packed, network.broadcast_address.packed))
    for prefix in pool.prefixes:
        network = ipaddress.ip_network(prefix)
        first, last = network.network_address, network.broadcast_address
        if pool.kind is PoolKind.SNAT and network.num_addresses > 2:
            # On a link the first address (and in IPv4 the last) has a meaning of its own; reserve it to use it.
            first += 1
            last -= 1 if network.version == 4 else 0
        for low, high in subtract([(first.packed, last.packed)], holes):
            kept.setdefault((FREE_FOR_ALL, network.version), []).append(
                (int.from_bytes(low, "big"), int.from_bytes(high, "big"))
            )
    return {key: tuple(spans) for key, spans in kept.items()}


def capacity(pool: Pool, family: int) -> int:
    """How many subnets (container) or addresses (SNAT) the pool has."""
    mine = [span for (_, version), spans in shares(pool).items() if version == family for span in spans]
    size = 1 if pool.kind is PoolKind.SNAT else 1 << ((32 if family == 4 else 128) - block_length(pool, family))
    return sum((last - first + 1) // size for first, last in mine)


@dataclass(slots=True)
class Spans:
    """Disjoint spans of one family, each with the name of what holds it; found by bisection."""

    _firsts: list[int]
    _held: list[tuple[int, str]]

    @classmethod
    def empty(cls) -> Spans:
        return cls([], [])

    def add(self, where: Span, name: str) -> None:
        first, last = where
        index = bisect_left(self._firsts, first)
        self._firsts.insert(index, first)
        self._held.insert(index, (last, name))

    def remove(self, where: Span) -> None:
        index = bisect_left(self._firsts, where[0])
        del self._firsts[index], self._held[index]

    def meeting(self, where: Span) -> tuple[Span, str] | None:
        """What shares an address with the span, the highest of them, or None."""
        index = bisect_right(self._firsts, where[1]) - 1
        if index < 0 or self._held[index][0] < where[0]:
            return None
        last, name = self._held[index]
        return (self._firsts[index], last), name

    def __iter__(self) -> Iterator[Span]:
        return ((first, last) for first, (last, _) in zip(self._firsts, self._held, strict=True))


def next_block(where: Span, size: int, held: Spans) -> int | None:
    """First address of the lowest aligned block of `size` in the span that meets nothing held, or None."""
    first = -(-where[0] // size) * size
    while first + size - 1 <= where[1]:
        met = held.meeting((first, first + size - 1))
        if met is None:
            return first
        first = -(-(met[0][1] + 1) // size) * size
    return None


class Places:
    """The addresses of one span that can be given: never-used ones first, lowest first, then the longest rested."""

    __slots__ = ("_cursor", "_last", "_queue", "_resting", "_seen")

    def __init__(self, where: Span) -> None:
        self._cursor, self._last = where
        self._seen: set[int] = set()
        self._resting: dict[int, float] = {}
        self._queue: list[tuple[float, int]] = []

    def occupy(self, value: int) -> None:
        self._seen.add(value)
        self._resting.pop(value, None)

    def rest(self, value: int, since: float) -> None:
        self._seen.add(value)
        self._resting[value] = since
        heapq.heappush(self._queue, (since, value))

    def take(self, now: float, rest_seconds: float) -> int | None:
        while self._cursor <= self._last and self._cursor in self._seen:
            self._cursor += 1
        if self._cursor <= self._last:
            self.occupy(self._cursor)
            return self._cursor
        while self._queue:
            since, value = self._queue[0]
            if self._resting.get(value) != since:  # taken back, or released again since
                heapq.heappop(self._queue)
                continue
            if since + rest_seconds > now:
                return None
            heapq.heappop(self._queue)
            self.occupy(value)
            return value
        return None
