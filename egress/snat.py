"""By which addresses does a NAT org leave? Its own, as wished and in order; given up when its mode needs none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from egress import choice
from egress import pools as pools_
from egress.ledger import Ledger
from egress.model import NetworkMode, OrgWish, Pool, PoolKind, SnatAddress
from egress.pools import FREE_FOR_ALL
from egress.values import QualifiedId, Refused


def give(ledger: Ledger, wish: OrgWish, families: Sequence[int], now: float) -> Refused | None:
    pool = choice.snat_pool(ledger, wish)
    if isinstance(pool, Refused):
        return pool
    exact = tuple(dict.fromkeys(wish.snat)) or _reserved_addresses(pool, wish)
    for address in exact:
        if problem := _obtainable(ledger, wish, address, now):
            return problem
    held = ledger.snat_by_org.get(wish.org, ())
    wanted = list(exact)
    for family in families:
        if any(pools_.number(address)[0] == family for address in wanted):
            continue
        kept = [s.address for s in held if s.pool == pool.name and pools_.number(s.address)[0] == family]
        if kept and not wish.snat:
            wanted += kept
        elif family == 4 or (family in pools_.families(pool) and not wish.snat):
            picked = _pick(ledger, wish, pool, family, now)
            if picked:
                wanted.append(picked)
            elif family == 4:
                text = (
                    f"SNAT pool {pool.name} has no address left for org {wish.name or wish.org}; "
                    "enlarge the pool, or choose mode shared or routed."
                )
                return Refused("SNAT_POOL_EXHAUSTED", text, "/snat_pool")
    for snat in held:
        if snat.address not in wanted:
            ledger.put_snat(replace(snat, released_at=now))
    for position, address in enumerate(wanted):
        home = ledger.pool_of(address, PoolKind.SNAT)
        assert home is not None, "checked above"
        row = SnatAddress(wish.org, address, home[0].name, position)
        if ledger.snat.get(address) != row:
            ledger.put_snat(row)
    return None


def withdraw(ledger: Ledger, org: QualifiedId, mode: NetworkMode, now: float) -> None:
    """The mode needs no SNAT address. A newly routed org keeps them while workloads live where nothing is announced."""
    held = ledger.snat_by_org.get(org, ())
    if not held:
        return
    if mode is NetworkMode.ROUTED and ledger.live_in_org.get(org):
        pools = {n.prefix: ledger.pools.get(n.pool) for n in ledger.by_org.get(org, ())}
        unroutable = {prefix for prefix, pool in pools.items() if pool is None or not pool.routable}
        for address in ledger.live_in_org[org]:
            network = ledger.subnet_of(address)
            if network is not None and network.prefix in unroutable:
                return
    for snat in held:
        ledger.put_snat(replace(snat, released_at=now))


def _pick(ledger: Ledger, wish: OrgWish, pool: Pool, family: int, now: float) -> str | None:
    """The org's own resting address comes back to it at once; another's only after its rest."""
    own = [s for s in ledger.snat.values() if s.org == wish.org and s.pool == pool.name and s.released_at is not None]
    for snat in sorted(own, key=lambda s: (s.position, s.address)):
        if pools_.number(snat.address)[0] == family and _obtainable(ledger, wish, snat.address, now) is None:
            return snat.address
    for owner in (*choice.names(wish), FREE_FOR_ALL):
        for places in ledger.snat_places(pool.name, owner, family):
            value = places.take(now, ledger.defaults.snat_rest_seconds)
            if value is not None:
                return pools_.address_text(family, value)
    return None


def _obtainable(ledger: Ledger, wish: OrgWish, address: str, now: float) -> Refused | None:
    who = wish.name or wish.org
    if bad := choice.badly_written(f"Org {who}", address, "/snat"):
        return bad
    home = ledger.pool_of(address, PoolKind.SNAT)
    if home is None or (wish.snat_pool and home[0].name != wish.snat_pool):
        text = f"SNAT address {address} of org {who} lies outside the SNAT pools it may use; add it to one."
        return Refused("SNAT_OUTSIDE_POOL", text, "/snat")
    if home[1] != FREE_FOR_ALL and home[1] not in choice.names(wish):
        return Refused(
            "SNAT_RESERVED", f"SNAT address {address} is reserved for {home[1]}, not for org {who}.", "/snat"
        )
    holder = ledger.snat.get(address)
    if holder is None or holder.org == wish.org:
        return None
    if holder.released_at is None:
        return Refused(
            "SNAT_TAKEN", f"SNAT address {address} is held by another org than {who}; choose another.", "/snat"
        )
    if holder.released_at + ledger.defaults.snat_rest_seconds > now:
        hours = (holder.released_at + ledger.defaults.snat_rest_seconds - now) / 3600
        text = (
            f"SNAT address {address} rests after another org for {hours:.1f} more hours; org {who} can't have it yet."
        )
        return Refused("SNAT_AT_REST", text, "/snat")
    return None


def _reserved_addresses(pool: Pool, wish: OrgWish) -> tuple[str, ...]:
    """Single addresses reserved for the org are its exact assignment; a reserved prefix is only where it is picked."""
    entries = [entry for org, kept in pool.reserved if org in choice.names(wish) for entry in kept]
    spans = (pools_.span(entry) for entry in entries)
    return tuple(dict.fromkeys(pools_.address_text(family, first) for family, (first, last) in spans if first == last))
