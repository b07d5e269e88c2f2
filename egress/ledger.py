"""What is held, by every question that an assignment asks? And what has changed since the last commit?

The one value in `egress` that is written in place: with 60,000 leases a copy for each new one would be all the work.
It is rebuilt from a `Holding` at any time, and nothing outside `egress.assignment` writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from egress import pools as pools_
from egress.model import Defaults, Lease, OrgNetwork, Pool, PoolKind, SnatAddress
from egress.pools import FREE_FOR_ALL, Places, Span, Spans
from egress.values import QualifiedId

Row = TypeVar("Row", OrgNetwork, Lease, SnatAddress)


@dataclass(frozen=True, slots=True)
class Holding:
    """Everything held and everything at rest, as it lies in the store."""

    org_networks: tuple[OrgNetwork, ...] = ()
    leases: tuple[Lease, ...] = ()
    snat_addresses: tuple[SnatAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """(before, after) of each row that changed, in order of their keys; None = no such row. A held subnet that goes to
    another org is two changes: it left the one, then it came to the other."""

    org_networks: tuple[tuple[OrgNetwork | None, OrgNetwork | None], ...] = ()
    leases: tuple[tuple[Lease | None, Lease | None], ...] = ()
    snat_addresses: tuple[tuple[SnatAddress | None, SnatAddress | None], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.org_networks or self.leases or self.snat_addresses)


@dataclass(slots=True)
class _Rows:
    """The touched keys of one table with what they held before."""

    networks: dict[str, OrgNetwork | None] = field(default_factory=dict)
    leases: dict[str, Lease | None] = field(default_factory=dict)
    snat: dict[str, SnatAddress | None] = field(default_factory=dict)


class Ledger:
    def __init__(self, pools: Sequence[Pool], defaults: Defaults, holding: Holding) -> None:
        self.pools: Mapping[str, Pool] = {pool.name: pool for pool in pools}
        self.defaults = defaults
        self.networks: dict[str, OrgNetwork] = {}
        """By prefix."""
        self.leases: dict[str, Lease] = {}
        """By address, at rest included."""
        self.snat: dict[str, SnatAddress] = {}
        """By address, at rest included."""
        self.live: dict[str, tuple[Lease, ...]] = {}
        """In use, by workload."""
        self.live_in_org: dict[QualifiedId, set[str]] = {}
        """Addresses in use."""
        self.by_org: dict[QualifiedId, tuple[OrgNetwork, ...]] = {}
        """Ordered by (position, prefix)."""
        self.snat_by_org: dict[QualifiedId, tuple[SnatAddress, ...]] = {}
        """Held, in order of use."""
        self.held_spans = {4: Spans.empty(), 6: Spans.empty()}
        self.shares = {pool.name: pools_.shares(pool) for pool in pools}
        self._capacity = {(p.name, v): pools_.capacity(p, v) for p in pools for v in pools_.families(p)}
        self._held_of_pool: dict[tuple[str, int], int] = {}
        self._before = _Rows()
        self._emptied: set[str] = set()
        self._outside: set[str] = set()
        """Leased addresses, at rest included, that lie in no held subnet: machines' own."""
        self._places: dict[str, Places] = {}
        self._snat_places: dict[tuple[str, str, int], list[tuple[Span, Places]]] = {
            (pool.name, owner, version): [(where, Places(where)) for where in spans]
            for pool in pools
            if pool.kind is PoolKind.SNAT
            for (owner, version), spans in self.shares[pool.name].items()
        }
        for network in holding.org_networks:
            self.put_network(network)
        for lease in sorted(holding.leases, key=lambda held: (held.released_at or 0.0, held.address)):
            self.put_lease(lease)
        for snat in holding.snat_addresses:
            self.put_snat(snat)
        self._before = _Rows()

    # ---- reading

    def subnet_of(self, address: str) -> OrgNetwork | None:
        """The held subnet that the address lies in."""
        family, value = pools_.number(address)
        met = self.held_spans[family].meeting((value, value))
        return self.networks[met[1]] if met else None

    def addresses_in(self, network: OrgNetwork) -> list[str]:
        """Leased ones of the subnet, at rest included."""
        family, where = pools_.span(network.prefix)
        return [held for held in self.leases if _inside(held, family, where)]

    def pool_of(self, address: str, kind: PoolKind) -> tuple[Pool, str] | None:
        """The pool that the address lies in, and the org it is reserved for there ("" = nobody)."""
        family, value = pools_.number(address)
        for pool in self.pools.values():
            if pool.kind is not kind:
                continue
            inside = any(
                version == family and first <= value <= last
                for version, (first, last) in map(pools_.span, pool.prefixes)
            )
            if inside:
                for (owner, version), spans in self.shares[pool.name].items():
                    if version == family and any(first <= value <= last for first, last in spans):
                        return pool, owner
                return pool, FREE_FOR_ALL
        return None

    def emptied(self) -> list[OrgNetwork]:
        """Subnets of deleted orgs, whose time runs."""
        return [self.networks[prefix] for prefix in sorted(self._emptied)]

    def places(self, prefix: str) -> Places:
        return self._places[prefix]

    def snat_places(self, pool: str, owner: str, family: int) -> Iterable[Places]:
        return (places for _, places in self._snat_places.get((pool, owner, family), ()))

    def pool_use(self, now: float) -> dict[str, float]:
        """Pool → the share that nobody new could get now, of its fuller family."""
        used = dict(self._held_of_pool)
        for snat in self.snat.values():
            if snat.released_at is not None and snat.released_at + self.defaults.snat_rest_seconds > now:
                key = (snat.pool, pools_.number(snat.address)[0])
                used[key] = used.get(key, 0) + 1
        share = dict.fromkeys(self.pools, 0.0)
        for (name, family), size in self._capacity.items():
            share[name] = max(share[name], min(1.0, used.get((name, family), 0) / size if size else 1.0))
        return share

    def holding(self) -> Holding:
        return Holding(
            tuple(sorted(self.networks.values(), key=lambda n: (n.org, n.position, n.prefix))),
            tuple(sorted(self.leases.values(), key=lambda held: held.address)),
            tuple(sorted(self.snat.values(), key=lambda s: (s.org, s.position, s.address))),
        )

    # ---- writing

    def put_network(self, network: OrgNetwork) -> None:
        family, where = pools_.span(network.prefix)
        before = self.networks.get(network.prefix)
        if before is None:
            self.held_spans[family].add(where, network.prefix)
            key = (network.pool, family)
            self._held_of_pool[key] = self._held_of_pool.get(key, 0) + 1
            places = self._places[network.prefix] = Places(pools_.usable(network.prefix))
            # A machine may have had an address of the prefix before the org had the prefix.
            for address in [held for held in self._outside if _inside(held, family, where)]:
                self._outside.discard(address)
                _place(places, pools_.number(address)[1], self.leases[address].released_at)
        self._before.networks.setdefault(network.prefix, before)
        self.networks[network.prefix] = network
        self._emptied.discard(network.prefix)
        if network.emptied_at is not None:
            self._emptied.add(network.prefix)
        mine = [held for held in self.by_org.get(network.org, ()) if held.prefix != network.prefix]
        self.by_org[network.org] = tuple(sorted([*mine, network], key=lambda n: (n.position, n.prefix)))

    def drop_network(self, network: OrgNetwork) -> None:
        """The subnet goes, and with it what rested in it."""
        family, where = pools_.span(network.prefix)
        self._before.networks.setdefault(network.prefix, self.networks.pop(network.prefix))
        self._emptied.discard(network.prefix)
        self.held_spans[family].remove(where)
        self._held_of_pool[network.pool, family] -= 1
        del self._places[network.prefix]
        left = tuple(held for held in self.by_org[network.org] if held.prefix != network.prefix)
        if left:
            self.by_org[network.org] = left
        else:
            del self.by_org[network.org]
        for address in self.addresses_in(network):
            if self.leases[address].released_at is None:
                self._outside.add(address)
                continue
            self._before.leases.setdefault(address, self.leases.pop(address))

    def put_lease(self, lease: Lease) -> None:
        before = self.leases.get(lease.address)
        in_use = before is not None and before.released_at is None
        assert before is None or not in_use or before.workload == lease.workload, "an address has one holder"
        self._before.leases.setdefault(lease.address, before)
        self.leases[lease.address] = lease
        if before is not None and in_use:
            self._unlink(before)
        family, value = pools_.number(lease.address)
        met = self.held_spans[family].meeting((value, value))
        if met:
            _place(self._places[met[1]], value, lease.released_at)
        else:
            self._outside.add(lease.address)
        if lease.released_at is None:
            mine = [*self.live.get(lease.workload, ()), lease]
            self.live[lease.workload] = tuple(sorted(mine, key=lambda held: pools_.number(held.address)))
            self.live_in_org.setdefault(lease.org, set()).add(lease.address)

    def put_snat(self, snat: SnatAddress) -> None:
        before = self.snat.get(snat.address)
        family, value = pools_.number(snat.address)
        self._before.snat.setdefault(snat.address, before)
        if before is not None and before.released_at is None:
            assert before.org == snat.org, "a SNAT address has one holder"
            self._forget_snat(before, family)
        self.snat[snat.address] = snat
        home = self.pool_of(snat.address, PoolKind.SNAT)
        for where, places in self._snat_places.get((home[0].name, home[1], family), ()) if home else ():
            if where[0] <= value <= where[1]:
                _place(places, value, snat.released_at)
        if snat.released_at is None:
            key = (snat.pool, family)
            self._held_of_pool[key] = self._held_of_pool.get(key, 0) + 1
            mine = [*self.snat_by_org.get(snat.org, ()), snat]
            self.snat_by_org[snat.org] = tuple(sorted(mine, key=lambda held: (held.position, held.address)))

    def drain(self) -> Changes:
        """What changed since the last drain. A row that is again as it was is no change."""
        rows, self._before = self._before, _Rows()
        networks = tuple(step for pair in _pairs(rows.networks, self.networks) for step in _steps(*pair))
        return Changes(networks, _pairs(rows.leases, self.leases), _pairs(rows.snat, self.snat))

    def _unlink(self, lease: Lease) -> None:
        left = tuple(held for held in self.live[lease.workload] if held.address != lease.address)
        if left:
            self.live[lease.workload] = left
        else:
            del self.live[lease.workload]
        self.live_in_org[lease.org].discard(lease.address)

    def _forget_snat(self, snat: SnatAddress, family: int) -> None:
        self._held_of_pool[snat.pool, family] -= 1
        left = tuple(held for held in self.snat_by_org[snat.org] if held.address != snat.address)
        if left:
            self.snat_by_org[snat.org] = left
        else:
            del self.snat_by_org[snat.org]


def _inside(address: str, family: int, where: Span) -> bool:
    version, value = pools_.number(address)
    return version == family and where[0] <= value <= where[1]


def _place(places: Places, value: int, released_at: float | None) -> None:
    if released_at is None:
        places.occupy(value)
    else:
        places.rest(value, released_at)


def _steps(
    before: OrgNetwork | None, after: OrgNetwork | None
) -> tuple[tuple[OrgNetwork | None, OrgNetwork | None], ...]:
    """The store overwrites no subnet that an org holds; that one left it must be said."""
    if before is None or after is None or before.org == after.org or before.emptied_at is not None:
        return ((before, after),)
    return (before, None), (None, after)


def _pairs(before: Mapping[str, Row | None], after: Mapping[str, Row]) -> tuple[tuple[Row | None, Row | None], ...]:
    return tuple((before[key], after.get(key)) for key in sorted(before) if before[key] != after.get(key))
