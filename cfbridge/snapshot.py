"""What is known, all of it, at one revision? The input of the compiler and of every answer to a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cfbridge.intent import Intent
from cfbridge.inventory import Inventory
from egress.model import Defaults, Lease, OrgNetwork, Pool, SnatAddress
from egress.values import QualifiedId, Refused
from garden_plugin.wire import PortReport


@dataclass(frozen=True, slots=True)
class Held:
    """What is held, as committed. Only `cfbridge.holdings` makes one."""

    version: int = 0
    org_networks: tuple[OrgNetwork, ...] = ()
    leases: Mapping[str, tuple[Lease, ...]] = field(default_factory=dict)
    """In use only, by workload id."""
    snat_addresses: Mapping[QualifiedId, tuple[SnatAddress, ...]] = field(default_factory=dict)
    """In use only, by org, in order."""
    rule_ids: Mapping[str, int] = field(default_factory=dict)
    """Rule key → id, for life."""
    refusals: Mapping[str, Refused] = field(default_factory=dict)
    """Org id or workload id → why it has no network."""
    pool_use: Mapping[str, float] = field(default_factory=dict)
    """Pool name → held share, 0 … 1."""


@dataclass(frozen=True, slots=True)
class CellState:
    name: str
    foundation: str
    connected: bool = False
    boot_id: str = ""
    addresses: tuple[str, ...] = ()
    heard_at: float = 0.0
    reached: int = 0
    ports: Mapping[str, PortReport] = field(default_factory=dict)
    """By workload id."""
    drifts: int = 0
    last_drift: str = ""
    fought_at: float = 0.0
    """When it was last heard that somebody undoes again and again what is healed."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    revision: int = 0
    inventory: Inventory = field(default_factory=dict)
    intent: Intent = field(default_factory=Intent)
    held: Held = field(default_factory=Held)
    cells: Mapping[str, CellState] = field(default_factory=dict)
    pools: tuple[Pool, ...] = ()
    defaults: Defaults = field(default_factory=Defaults)
