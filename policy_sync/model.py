"""Which nouns say who may talk to whom?

Workloads take part; groups name them; rules, in sections, in five tiers, decide. What Cloud Foundry says comes in as
`CfPolicy` and `Asg` and is turned into rules by `translate`. All ids of orgs, spaces and apps are foundation-qualified.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from egress.values import PackedRange, QualifiedId
from policy_sync.criteria import Attribute, Criteria


class Kind(StrEnum):
    CONTAINER = "container"
    VM = "vm"
    HOST = "host"
    EXTERNAL = "external"


class Lifecycle(StrEnum):
    """What a container runs. Staging containers have no container-to-container access."""

    APP = "app"
    TASK = "task"
    STAGING = "staging"
    NONE = ""
    """Not Diego's: a VM, or a container without metadata."""


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    ICMPV6 = "icmpv6"
    ALL = "all"


PROTOCOL_NUMBER = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.ICMP: 1, Protocol.ICMPV6: 58}


class Action(StrEnum):
    ALLOW = "allow"
    DROP = "drop"
    REJECT = "reject"
    PASS = "pass"  # noqa: S105 - not a password


class Tier(IntEnum):
    """In the order of evaluation. `pass` leaves a tier for the next, in the first three only."""

    EMERGENCY = 0
    INFRASTRUCTURE = 1
    ENVIRONMENT = 2
    APPLICATION = 3
    BASELINE = 4


class Mode(StrEnum):
    ENFORCE = "enforce"
    WATCH = "watch"
    """Counts and logs what it would decide, and decides nothing."""


@dataclass(frozen=True, slots=True)
class GardenRule:
    """One allowed destination, as Garden's `NetOutRule` or one entry of an ASG says it, already normalised."""

    protocol: Protocol
    destinations: tuple[PackedRange, ...]
    ports: tuple[tuple[int, int], ...] = ()
    """tcp and udp: inclusive; empty matches nothing. Ignored for the others."""
    icmp_type: int | None = None
    """icmp: None = any (-1 and 255 on the wire)."""
    icmp_code: int | None = None
    log: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """Anything with an address that a rule can name."""

    id: str
    """`foundation:handle`, or `vm:NAME`."""
    kind: Kind
    addresses: tuple[str, ...]
    cell: str = ""
    org: QualifiedId | None = None
    space: QualifiedId | None = None
    app: QualifiedId | None = None
    lifecycle: Lifecycle = Lifecycle.NONE
    name: str = ""
    """How people call it: `acme/dev/frontend/0`, `db-1`."""
    attributes: Mapping[Attribute, str] = field(default_factory=dict, hash=False)
    """What criteria can ask of it. One that it doesn't have is not there, rather than empty."""
    protected: bool = True
    """We own a port of it (grade `outside`)."""
    garden_rules: tuple[GardenRule, ...] = ()
    """What Garden handed over at `up`: the first truth until the foundation's ASGs were read."""
    net_out: tuple[GardenRule, ...] = ()
    """What Garden added later by `net-out`: kept beside the ASGs."""


class SelectorKind(StrEnum):
    ANY = "any"
    GROUP = "group"
    ORG = "org"
    SPACE = "space"
    APP = "app"
    WORKLOAD = "workload"
    KIND = "kind"
    """`container` is every address of every container pool but VMs', leased or not; `vm`; `cell`."""
    RANGE = "range"
    """An address, a prefix or a range, in text."""


@dataclass(frozen=True, slots=True)
class Selector:
    """One way to name workloads or addresses. `negated` (of groups): every known workload that is not in it."""

    kind: SelectorKind
    value: str = ""
    negated: bool = False


ANY = (Selector(SelectorKind.ANY),)


@dataclass(frozen=True, slots=True)
class Group:
    """Explicit members, other groups included (no cycles), and who satisfies its criteria. An empty or unknown group
    matches nothing."""

    name: str
    members: tuple[Selector, ...] = ()
    criteria: Criteria | None = None


@dataclass(frozen=True, slots=True)
class Service:
    protocol: Protocol = Protocol.ALL
    ports: tuple[tuple[int, int], ...] = ()
    """Inclusive; empty = every port. tcp and udp only."""
    icmp_type: int | None = None
    icmp_code: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    key: str
    """What it is, for life: `rule:NAME`, `policy:…`, `asg:…`, `system:…`, `baseline:…`. Its number is the store's."""
    name: str
    tier: Tier
    sources: tuple[Selector, ...]
    destinations: tuple[Selector, ...]
    action: Action
    services: tuple[Service, ...] = (Service(),)
    applied_to: tuple[Selector, ...] = ()
    """Empty = everywhere; else only connections with at least one protected end in it."""
    section: str = ""
    log: bool = False
    mode: Mode = Mode.ENFORCE
    enabled: bool = True
    expires_at: float | None = None
    """Seconds since the epoch; allows only."""
    mapped_only: bool = False
    """Only connections that came by a mapped port (the system rule `platform ingress`)."""
    reason: str = ""
    owner: str = ""
    provenance: str = ""


@dataclass(frozen=True, slots=True)
class CfPolicy:
    """One `cf add-network-policy`: containers of one app may open connections to another's."""

    source: QualifiedId
    destination: QualifiedId
    protocol: Protocol
    first_port: int
    last_port: int


@dataclass(frozen=True, slots=True)
class Asg:
    """One application security group and the spaces it is bound to."""

    id: QualifiedId
    name: str
    rules: tuple[GardenRule, ...]
    running_default: bool = False
    staging_default: bool = False
    running_spaces: frozenset[QualifiedId] = frozenset()
    staging_spaces: frozenset[QualifiedId] = frozenset()


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection, after translation of its destination and before that of its source."""

    source: str
    destination: str
    protocol: Protocol | int
    """An IP protocol number where it is none of the named ones."""
    port: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    mapped: bool = False
    """It came by a mapped port."""


@dataclass(frozen=True, slots=True)
class Verdict:
    action: Action
    rule: str
    """The key of the rule that decided."""
    tier: Tier

    @property
    def allowed(self) -> bool:
        return self.action is Action.ALLOW


@dataclass(frozen=True, slots=True)
class World:
    """Everything the firewall's meaning depends on. Input of the compiler and, separately, of the oracle."""

    workloads: tuple[Workload, ...] = ()
    groups: tuple[Group, ...] = ()
    rules: tuple[Rule, ...] = ()
    """Intent and system rules, in order within their tier; policies and ASGs come after those of `application`."""
    policies: frozenset[CfPolicy] = frozenset()
    asgs: tuple[Asg, ...] = ()
    asgs_known: frozenset[str] = frozenset()
    """Foundations whose ASGs were read; for the others Garden's own rules stand."""
    container_pools: tuple[str, ...] = ()
    """Prefixes. They, not the leases, decide what "a container address" is."""
    cell_addresses: tuple[str, ...] = ()
