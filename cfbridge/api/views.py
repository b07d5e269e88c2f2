"""What does the API read from? One facade, which the bridge implements and tests fake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cfbridge.audit import Audit
from cfbridge.drafts import Draft, Drafts
from cfbridge.inventory import HeldBack
from cfbridge.revisions import Revisions
from cfbridge.snapshot import Snapshot
from cfbridge.store import Revised
from egress.values import Refused
from policy_sync.model import World
from policy_sync.ruleset import Ruleset


@dataclass(frozen=True, slots=True)
class Alarm:
    severity: Literal["degraded", "warning"]
    """`degraded`: something is not as it should be for everybody; `warning`: one object, or soon."""
    code: str
    message: str


class Facade(Protocol):
    """The newest of everything. Each is replaced whole, so that what was read once is consistent in itself."""

    @property
    def started_at(self) -> float: ...
    @property
    def snapshot(self) -> Snapshot: ...
    @property
    def ruleset(self) -> Ruleset:
        """What is in force; empty before the first compile."""
        ...

    @property
    def world(self) -> World:
        """What the ruleset was compiled from: all ordered rules, system and baseline ones included."""
        ...

    @property
    def history(self) -> tuple[Revised, ...]:
        """What people published, the newest first. Replaced whole."""
        ...

    @property
    def drafted(self) -> Mapping[str, Draft]:
        """Edits that nobody published yet, by the draft's name. Replaced whole."""
        ...

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Worst first. A late cell or a stale foundation is in here: lateness is the reconciler's to judge."""
        ...


class Operated(Facade, Protocol):
    """And what an operator may tell the bridge to do."""

    @property
    def revisions(self) -> Revisions:
        """Who publishes another intent."""
        ...

    @property
    def audit(self) -> Audit:
        """Who keeps what people did."""
        ...

    @property
    def drafts(self) -> Drafts:
        """Who collects edits."""
        ...

    async def remove_cell(self, name: str) -> Refused | None:
        """It is gone for good, a person says. Unavailable: the store did not take it."""
        ...

    def decide_held(self, foundation: str, kind: str, apply: bool) -> HeldBack | Refused:
        """What is held of a kind is believed to be gone now, or not believed. Answers what was held."""
        ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What a facade showed at one moment: may be read at leisure, in another thread too."""

    started_at: float
    snapshot: Snapshot
    ruleset: Ruleset
    world: World
    history: tuple[Revised, ...] = ()
    drafted: Mapping[str, Draft] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()


def see(facade: Facade) -> Seen:
    """Without alarms: they are counted anew each time, and no row shows them."""
    return Seen(facade.started_at, facade.snapshot, facade.ruleset, facade.world, facade.history, facade.drafted)
