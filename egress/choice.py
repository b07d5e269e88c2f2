"""Which pool is an org's? By wish, by reservation, by where it lives already, else the first that serves it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from egress import pools as pools_
from egress.ledger import Ledger
from egress.model import Defaults, NetworkMode, OrgWish, Pool, PoolKind
from egress.pools import FREE_FOR_ALL
from egress.values import Refused


def effective_mode(wish: OrgWish, defaults: Defaults, pools: Iterable[Pool]) -> NetworkMode:
    """The mode an org is served in. Nobody asked and there is no SNAT pool: `nat` by default becomes `shared`."""
    if wish.mode is not None:
        return wish.mode
    if defaults.mode is NetworkMode.NAT and not any(pool.kind is PoolKind.SNAT for pool in pools):
        return NetworkMode.SHARED
    return defaults.mode


def container_pool(ledger: Ledger, wish: OrgWish, mode: NetworkMode) -> Pool | Refused:
    containers = [pool for pool in ledger.pools.values() if pool.kind is PoolKind.CONTAINER]
    who = wish.name or wish.org
    if wish.pool:
        pool = next((pool for pool in containers if pool.name == wish.pool), None)
        if pool is None:
            known = ", ".join(sorted(p.name for p in containers)) or "none"
            text = f"Org {who} wishes for pool {wish.pool!r}, which is no container pool (there are: {known})."
            return Refused("POOL_UNKNOWN", text, "/pool")
        if mode is NetworkMode.ROUTED and not pool.routable:
            text = f"Org {who} is to be routed, but pool {pool.name} is not routable; choose one that is."
            return Refused("POOL_NOT_ROUTABLE", text, "/pool")
        if not _serves(ledger, pool, wish):
            text = f"Pool {pool.name} is reserved to others than org {who}; choose another."
            return Refused("POOL_RESERVED", text, "/pool")
        return pool
    suitable = [pool for pool in containers if pool.routable or mode is not NetworkMode.ROUTED]
    lives_in = [network.pool for network in ledger.by_org.get(wish.org, ())]
    chosen = _choose(ledger, wish, suitable, lives_in)
    if chosen:
        return chosen
    if mode is NetworkMode.ROUTED:
        text = f"Org {who} is to be routed, but no routable pool is configured for it; add one with routable: true."
        return Refused("NO_ROUTABLE_POOL", text, "/mode")
    return Refused("NO_CONTAINER_POOL", f"No container pool serves org {who}; add one to pools.", "/pool")


def snat_pool(ledger: Ledger, wish: OrgWish) -> Pool | Refused:
    who = wish.name or wish.org
    snats = [pool for pool in ledger.pools.values() if pool.kind is PoolKind.SNAT]
    if wish.snat_pool:
        pool = next((pool for pool in snats if pool.name == wish.snat_pool), None)
        if pool is None:
            text = f"Org {who} wishes for SNAT pool {wish.snat_pool!r}, which is not configured; name one of kind snat."
            return Refused("SNAT_POOL_UNKNOWN", text, "/snat_pool")
        if not _serves(ledger, pool, wish):
            text = f"SNAT pool {pool.name} is reserved to others than org {who}; choose another."
            return Refused("POOL_RESERVED", text, "/snat_pool")
        return pool
    chosen = _choose(ledger, wish, snats, [held.pool for held in ledger.snat_by_org.get(wish.org, ())])
    if chosen is None:
        text = f"Org {who} is to leave by NAT, but no SNAT pool serves it; add one of kind snat."
        return Refused("NO_SNAT_POOL", text, "/mode")
    return chosen


def names(wish: OrgWish) -> tuple[str, ...]:
    """What a reservation may call this org."""
    return (wish.org, wish.name) if wish.name else (wish.org,)


def _serves(ledger: Ledger, pool: Pool, wish: OrgWish) -> bool:
    """Whether any of the pool is for this org: not when all of it is reserved to others."""
    return any(owner == FREE_FOR_ALL or owner in names(wish) for owner, _ in ledger.shares[pool.name])


def _choose(ledger: Ledger, wish: OrgWish, suitable: Sequence[Pool], held: Iterable[str]) -> Pool | None:
    """A pool in which something is reserved for the org, else where it lives, else the first that serves it."""
    reserved = (p for p in suitable if any(owner in names(wish) for owner, _ in ledger.shares[p.name]))
    by_name = {pool.name: pool for pool in suitable}
    living = (by_name[name] for name in held if name in by_name)
    first = (pool for pool in suitable if _serves(ledger, pool, wish))
    return next(reserved, None) or next(living, None) or next(first, None)


def badly_written(who: str, address: str, field: str) -> Refused | None:
    """Addresses are compared as text, so there is one way to write each."""
    try:
        written = pools_.address_text(*pools_.number(address))
    except ValueError as error:
        return Refused("ADDRESS_BAD", f"{who}: {error}.", field)
    return None if written == address else Refused("ADDRESS_BAD", f"{who}: write {address} as {written}.", field)
