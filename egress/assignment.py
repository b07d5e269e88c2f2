"""Who gets which subnet, address and SNAT address? Keep what can be kept, give what is missing, refuse in words.

wish ──settle──> the org has a subnet in a pool that suits its mode, and SNAT addresses where it leaves by them
workload ──lease──> settle, then one address per family of the pool; the same answer again for the same workload
cell's report ──adopt──> what is in use there wins over what we remember

Deterministic: the same calls on the same ledger give the same answers. A refused wish takes nothing from anybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from egress import choice, snat
from egress import pools as pools_
from egress.ledger import Holding, Ledger
from egress.model import Defaults, Lease, NetworkMode, OrgNetwork, OrgWish, Pool, PoolKind
from egress.pools import FREE_FOR_ALL
from egress.values import QualifiedId, Refused

VM_PREFIX = "vm:"
"""Workload ids of machines. They are declared by people, so no cell's report releases them."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is held afterwards, and why the others have nothing."""

    holding: Holding
    refused: Mapping[str, Refused] = field(default_factory=dict)
    """Org id or workload id → why."""


def assign(
    pools: Sequence[Pool],
    wishes: Iterable[tuple[OrgWish, Sequence[str]]],
    held: Holding,
    now: float,
    defaults: Defaults | None = None,
) -> Assignment:
    """All wishes (each with the workloads that need addresses) against all that is held; nothing given is withdrawn."""
    ledger = Ledger(pools, defaults or Defaults(), held)
    refused: dict[str, Refused] = {}
    for wish, workloads in wishes:
        if problem := settle(ledger, wish, now):
            refused[wish.org] = problem
            continue
        for workload in workloads:
            answer = lease(ledger, workload, wish, "", now)
            if isinstance(answer, Refused):
                refused[workload] = answer
    return Assignment(ledger.holding(), refused)


def settle(ledger: Ledger, wish: OrgWish, now: float) -> Refused | None:
    """The org has at least one subnet per family of its pool, and the SNAT addresses that its mode needs."""
    sweep(ledger, now)
    mode = choice.effective_mode(wish, ledger.defaults, ledger.pools.values())
    pool = choice.container_pool(ledger, wish, mode)
    if isinstance(pool, Refused):
        return pool
    for network in ledger.by_org.get(wish.org, ()):
        if network.emptied_at is not None:
            ledger.put_network(replace(network, emptied_at=None))
    fresh: list[OrgNetwork] = []
    problem: Refused | None = None
    for family in pools_.families(pool):
        if problem is None and not _networks(ledger, wish.org, pool, family):
            cut = _cut(ledger, wish, pool, family)
            if isinstance(cut, Refused):
                problem = cut
            else:
                fresh.append(cut)
    if problem is None and mode is NetworkMode.NAT:
        problem = snat.give(ledger, wish, pools_.families(pool), now)
    elif problem is None:
        snat.withdraw(ledger, wish.org, mode, now)
    if problem is not None:
        for network in fresh:  # a refused org uses up nothing
            ledger.drop_network(network)
    return problem


def lease(
    ledger: Ledger, workload: str, wish: OrgWish, cell: str, now: float, fixed: Sequence[str] = ()
) -> tuple[Lease, ...] | Refused:
    """The workload's addresses. `fixed`: a machine's own addresses, recorded rather than chosen; people may move it to
    another org."""
    present = ledger.live.get(workload, ())
    if present and not fixed and present[0].org != wish.org:
        return Refused(
            "WORKLOAD_OF_ANOTHER_ORG", f"{workload} holds addresses as a workload of another org; release it first."
        )
    problem = settle(ledger, wish, now)
    if problem and not (present and not fixed):  # who has addresses keeps them, whatever the org is refused today
        return problem
    if fixed:
        return _lease_fixed(ledger, workload, wish, cell, now, fixed)
    if present:
        for held in present:
            if held.cell != cell:
                ledger.put_lease(replace(held, cell=cell))
        return ledger.live[workload]
    pool = choice.container_pool(ledger, wish, choice.effective_mode(wish, ledger.defaults, ledger.pools.values()))
    assert isinstance(pool, Pool), "settle would have refused"
    chosen: list[str] = []
    for family in pools_.families(pool):
        address = _take(ledger, wish, pool, family, now)
        if isinstance(address, Refused):
            for taken in chosen:  # nobody has seen it: it is free again at once
                ledger.places(_prefix_of(ledger, taken)).rest(pools_.number(taken)[1], _LONG_AGO)
            return address
        chosen.append(address)
    for address in chosen:
        ledger.put_lease(Lease(address, workload, wish.org, cell))
    return ledger.live[workload]


def release(ledger: Ledger, workload: str, now: float) -> None:
    """The workload's addresses begin to rest. Unknown workloads are nothing to do."""
    for held in ledger.live.get(workload, ()):
        ledger.put_lease(replace(held, released_at=now))


def adopt(
    ledger: Ledger, cell: str, reported: Mapping[str, tuple[OrgWish, Sequence[str]]], now: float
) -> Mapping[str, Refused]:
    """What the cell reports in use wins (see `claim`); its other leases are released."""
    for workload in sorted(
        name for name, held in ledger.live.items() if held[0].cell == cell and not name.startswith(VM_PREFIX)
    ):
        if workload not in reported:
            release(ledger, workload, now)
    return claim(ledger, cell, reported, now)


def claim(
    ledger: Ledger, cell: str, reported: Mapping[str, tuple[OrgWish, Sequence[str]]], now: float
) -> Mapping[str, Refused]:
    """What is in use wins over what is remembered: it is recorded, even from rest, and even from a subnet that another
    org was given and never used. What cannot be true beside what others use is refused, by workload."""
    refused: dict[str, Refused] = {}
    for workload, (wish, addresses) in sorted(reported.items()):
        if not addresses:
            continue  # it is about to ask for some, or has yet to hear which it got
        if problem := _make_way(ledger, workload, wish, addresses, unused=True):
            refused[workload] = problem
        for held in ledger.live.get(workload, ()):
            if held.address not in addresses:  # it does not use it, whatever we remember
                ledger.put_lease(replace(held, released_at=now))
        if problem:
            continue
        for address in addresses:
            _claim_subnet(ledger, wish, address)
            wanted = Lease(address, workload, wish.org, cell)
            if ledger.leases.get(address) != wanted:
                ledger.put_lease(wanted)
        if problem := settle(ledger, wish, now):
            refused[wish.org] = problem
    return refused


def depart(ledger: Ledger, gone: Collection[QualifiedId], now: float) -> None:
    """These orgs are confirmed deleted: where no lease is in use, their SNAT addresses rest and their subnets' time
    runs. Said again and again, it changes nothing more; an org that is wished for again keeps what it had."""
    for org in sorted(gone):
        if ledger.live_in_org.get(org):
            continue
        for address in ledger.snat_by_org.get(org, ()):
            ledger.put_snat(replace(address, released_at=now))
        for network in ledger.by_org.get(org, ()):
            if network.emptied_at is None:
                ledger.put_network(replace(network, emptied_at=now))
    sweep(ledger, now)


def sweep(ledger: Ledger, now: float) -> None:
    """Subnets of deleted orgs go when they rested long enough."""
    for network in ledger.emptied():
        rested = network.emptied_at is not None and network.emptied_at + ledger.defaults.subnet_rest_seconds <= now
        if rested and not ledger.live_in_org.get(network.org):
            ledger.drop_network(network)


_LONG_AGO = float("-inf")


def _networks(ledger: Ledger, org: QualifiedId, pool: Pool, family: int) -> list[OrgNetwork]:
    return [n for n in ledger.by_org.get(org, ()) if n.pool == pool.name and (":" in n.prefix) == (family == 6)]


def _cut(ledger: Ledger, wish: OrgWish, pool: Pool, family: int) -> OrgNetwork | Refused:
    length = pools_.block_length(pool, family)
    size = 1 << ((32 if family == 4 else 128) - length)
    for owner in (*choice.names(wish), FREE_FOR_ALL):
        for where in ledger.shares[pool.name].get((owner, family), ()):
            first = pools_.next_block(where, size, ledger.held_spans[family])
            if first is not None:
                return _own(ledger, wish.org, pool, pools_.prefix_text(family, first, length))
    text = (
        f"Pool {pool.name} has no free IPv{family} subnet left for org {wish.name or wish.org}; "
        "enlarge the pool or delete orgs that are not needed."
    )
    return Refused("IP_POOL_EXHAUSTED", text, "/pool")


def _own(ledger: Ledger, org: QualifiedId, pool: Pool, prefix: str) -> OrgNetwork:
    mine = [n for n in ledger.by_org.get(org, ()) if (":" in n.prefix) == (":" in prefix)]
    network = OrgNetwork(org, prefix, pool.name, max((n.position for n in mine), default=-1) + 1)
    ledger.put_network(network)
    return network


def _take(ledger: Ledger, wish: OrgWish, pool: Pool, family: int, now: float) -> str | Refused:
    rest = ledger.defaults.lease_rest_seconds
    for network in _networks(ledger, wish.org, pool, family):
        value = ledger.places(network.prefix).take(now, rest)
        if value is not None:
            return pools_.address_text(family, value)
    further = _cut(ledger, wish, pool, family)
    if isinstance(further, Refused):
        return further
    value = ledger.places(further.prefix).take(now, rest)
    assert value is not None, "a new subnet has room: lengths are validated"
    return pools_.address_text(family, value)


def _prefix_of(ledger: Ledger, address: str) -> str:
    network = ledger.subnet_of(address)
    assert network is not None
    return network.prefix


def _lease_fixed(
    ledger: Ledger, workload: str, wish: OrgWish, cell: str, now: float, fixed: Sequence[str]
) -> tuple[Lease, ...] | Refused:
    rest = ledger.defaults.lease_rest_seconds
    for address in fixed:
        holder = ledger.leases.get(address)
        resting = holder is not None and holder.released_at is not None and holder.released_at + rest > now
        if resting and holder is not None and holder.workload != workload:
            text = f"{address} rests after {holder.workload}; try again within {rest:.0f} seconds."
            return Refused("ADDRESS_AT_REST", text, "/addresses")
    if problem := _make_way(ledger, workload, wish, fixed, unused=False):
        return problem
    for held in ledger.live.get(workload, ()):
        if held.address not in fixed:
            ledger.put_lease(replace(held, released_at=now))
    for address in fixed:
        _claim_subnet(ledger, wish, address)
        wanted = Lease(address, workload, wish.org, cell)
        if ledger.leases.get(address) != wanted:
            ledger.put_lease(wanted)
    return ledger.live[workload]


def _adoptable(ledger: Ledger, workload: str, wish: OrgWish, address: str) -> Refused | None:
    """Why this workload of this org cannot have exactly this address."""
    if bad := choice.badly_written(workload, address, "/addresses"):
        return bad
    holder = ledger.leases.get(address)
    if holder is not None and holder.released_at is None and holder.workload != workload:
        text = f"{workload} claims {address}, which {holder.workload} on cell {holder.cell or '-'} holds."
        return Refused("ADDRESS_TAKEN", text, "/addresses")
    network = ledger.subnet_of(address)
    if network is not None:
        if network.org != wish.org:
            text = f"{workload} claims {address}, which lies in a subnet of another org ({network.prefix})."
            return Refused("SUBNET_OF_ANOTHER_ORG", text, "/addresses")
        return _check_usable(workload, address, network.prefix)
    home = ledger.pool_of(address, PoolKind.CONTAINER)
    if home is None:
        return None
    pool, owner = home
    if owner != FREE_FOR_ALL and owner not in choice.names(wish):
        text = f"{workload} claims {address}, which is reserved for {owner} in pool {pool.name}."
        return Refused("ADDRESS_RESERVED", text, "/addresses")
    prefix = _subnet_around(pool, address)
    family, block = pools_.span(prefix)
    if ledger.held_spans[family].meeting(block):
        text = f"{workload} claims {address}, but part of {prefix} is held as a subnet of another size."
        return Refused("SUBNET_OF_ANOTHER_ORG", text, "/addresses")
    return _check_usable(workload, address, prefix)


def _make_way(
    ledger: Ledger, workload: str, wish: OrgWish, addresses: Sequence[str], *, unused: bool
) -> Refused | None:
    """Why this workload of this org cannot have these addresses. Subnets of other orgs that nobody but this workload
    ever had an address of (with `unused`: nobody at all) go, so that they may come to its org; refused, they stay."""
    gone: list[tuple[OrgNetwork, list[Lease]]] = []
    problem: Refused | None = None
    for address in addresses:
        network = None if choice.badly_written(workload, address, "/addresses") else ledger.subnet_of(address)
        if network is not None and network.org != wish.org:
            leases = [ledger.leases[held] for held in ledger.addresses_in(network)]
            holders = {held.workload for held in leases}
            if holders == {workload} or (unused and not holders):
                ledger.drop_network(network)
                gone.append((network, leases))
        problem = problem or _adoptable(ledger, workload, wish, address)
    if problem:
        for network, leases in gone:
            ledger.put_network(network)
            for held in leases:
                if held.address not in ledger.leases:
                    ledger.put_lease(held)
    return problem


def _check_usable(workload: str, address: str, prefix: str) -> Refused | None:
    first, last = pools_.usable(prefix)
    if first <= pools_.number(address)[1] <= last:
        return None
    text = f"{workload} claims {address}, which {prefix} keeps for its router, cell port or broadcast."
    return Refused("ADDRESS_RESERVED", text, "/addresses")


def _subnet_around(pool: Pool, address: str) -> str:
    family, value = pools_.number(address)
    length = pools_.block_length(pool, family)
    size = 1 << ((32 if family == 4 else 128) - length)
    return pools_.prefix_text(family, value // size * size, length)


def _claim_subnet(ledger: Ledger, wish: OrgWish, address: str) -> None:
    """An address of a pool brings its whole subnet to the org, so that no other org can be cut it."""
    home = ledger.pool_of(address, PoolKind.CONTAINER)
    if home is not None and ledger.subnet_of(address) is None:
        _own(ledger, wish.org, home[0], _subnet_around(home[0], address))
