"""Which nouns say where an org lives and how it leaves?

Pool ──cut──> OrgNetwork (a subnet of one org) ──cut──> Lease (an address of one workload)
Pool(kind=snat) ──> SnatAddress (an address an org leaves by)
OrgWish: what people asked for; all others: what is held, written before it is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from egress.values import QualifiedId


class NetworkMode(StrEnum):
    ROUTED = "routed"
    """The address leaves unchanged; the subnet is announced."""
    NAT = "nat"
    """Leaves as one of the org's own SNAT addresses."""
    SHARED = "shared"
    """Leaves as the foundation's shared address; on one host the cell's own."""


class PoolKind(StrEnum):
    CONTAINER = "container"
    SNAT = "snat"


@dataclass(frozen=True, slots=True)
class Pool:
    name: str
    kind: PoolKind
    prefixes: tuple[str, ...]
    """CIDR text, IPv4 and IPv6 mixed; no two pools overlap."""
    org_prefix_length: int = 24
    """IPv4 length of an org's subnet. The IPv6 length is always 64."""
    routable: bool = False
    reserved: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(org name or qualified id, (address or prefix, …)): kept for that org alone."""


@dataclass(frozen=True, slots=True)
class OrgWish:
    """What was asked for an org. Empty fields mean the defaults."""

    org: QualifiedId
    mode: NetworkMode | None = None
    pool: str = ""
    snat_pool: str = ""
    snat: tuple[str, ...] = ()
    """Exact SNAT addresses, in order of use."""
    name: str = ""
    """The org's name, so that reservations by name can be found; the id decides."""


@dataclass(frozen=True, slots=True)
class OrgNetwork:
    """One subnet held by one org. An org has several when one was not enough."""

    org: QualifiedId
    prefix: str
    pool: str
    position: int = 0
    """Order in which the org got it, per family; new leases come from the lowest with room."""
    emptied_at: float | None = None
    """When the last lease of a deleted org ended, seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One address held by one workload, or at rest after it."""

    address: str
    workload: str
    """Foundation-qualified container handle, or `vm:NAME`."""
    org: QualifiedId
    cell: str = ""
    released_at: float | None = None
    """None while in use; else when its removal was confirmed, seconds since the epoch. Rests 300 s."""


@dataclass(frozen=True, slots=True)
class SnatAddress:
    org: QualifiedId
    address: str
    pool: str
    position: int = 0
    released_at: float | None = None
    """None while the org holds it; goes to another org only 24 h after."""


@dataclass(frozen=True, slots=True)
class Defaults:
    mode: NetworkMode = NetworkMode.SHARED
    lease_rest_seconds: float = 300.0
    snat_rest_seconds: float = 86_400.0
    subnet_rest_seconds: float = 86_400.0
    pool_alarm_share: float = 0.8
    """An alarm stands while more than this share of a pool is held."""


@dataclass(frozen=True, slots=True)
class VirtualServer:
    """An address and services in front of a group. Declared here; built with load balancing."""

    name: str
    address: str
    ports: tuple[int, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class MirrorSession:
    """A copy of a port's packets. Declared here; built with mirroring."""

    name: str
    port: str
