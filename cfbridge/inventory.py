"""What is out there? Everything that foundations told us, as last confirmed.

One `FoundationState` per foundation, replaced whole: a look that was not complete changes nothing but `stale_since`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from egress.values import QualifiedId, Refused
from policy_sync.model import Asg, CfPolicy

NO_LABELS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Org:
    id: QualifiedId
    name: str
    suspended: bool = False
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS, hash=False)


@dataclass(frozen=True, slots=True)
class Space:
    id: QualifiedId
    name: str
    org: QualifiedId
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS, hash=False)


@dataclass(frozen=True, slots=True)
class App:
    id: QualifiedId
    name: str
    space: QualifiedId
    state: str = "STARTED"
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS, hash=False)


@dataclass(frozen=True, slots=True)
class Process:
    id: QualifiedId
    type: str
    app: QualifiedId
    instances: int


@dataclass(frozen=True, slots=True)
class Look:
    """How fresh one kind of thing is: `orgs`, `spaces`, `apps`, `processes`, `policies`, `asgs`."""

    complete_at: float | None = None
    """Seconds since the epoch of the last complete look; None = never."""
    stale_since: float | None = None
    """When looks began to fail; None = fresh."""
    error: str = ""
    remembered: bool = False
    """That look was an earlier bridge's: what it saw is known from the store alone."""

    @property
    def serves(self) -> bool:
        """There is something to work with. What is remembered alone is, once a look of our own has failed: until then
        the truth is a moment away."""
        return self.complete_at is not None and (not self.remembered or self.stale_since is not None)


@dataclass(frozen=True, slots=True)
class HeldBack:
    """What answers of one kind withdrew, too much to be believed at once: it stays in force."""

    kind: str
    objects: frozenset[Any]
    """Ids of orgs, spaces or apps; policies; ASGs as they were."""
    known: int
    """So many there are of the kind, these included."""
    since: float
    until: float | None
    """When the last of it may go at the earliest; None: a person discarded the answer."""
    looks: int = 0
    """Complete looks that did not have it, at least."""
    looks_needed: int = 0
    discarded: frozenset[Any] = frozenset()
    """Those of the objects that stay because a person said so."""


RULED = ("orgs", "spaces", "apps", "policies", "asgs")
"""The kinds that rules are made of or name."""


@dataclass(frozen=True, slots=True)
class FoundationState:
    name: str
    orgs: Mapping[QualifiedId, Org] = field(default_factory=dict)
    spaces: Mapping[QualifiedId, Space] = field(default_factory=dict)
    apps: Mapping[QualifiedId, App] = field(default_factory=dict)
    processes: Mapping[QualifiedId, Process] = field(default_factory=dict)
    policies: frozenset[CfPolicy] = frozenset()
    asgs: Mapping[QualifiedId, Asg] = field(default_factory=dict)
    lingering_asgs: tuple[Asg, ...] = ()
    """Older versions of ASGs that have lost something since, in force beside them until that is settled."""
    looks: Mapping[str, Look] = field(default_factory=dict)
    quarantined: tuple[Refused, ...] = ()
    """Objects we could not read; each alone, with its reason."""
    held: tuple[HeldBack, ...] = ()
    """At most one of a kind."""

    @property
    def ready(self) -> bool:
        """Everything that rules are made of or name was looked at whole at least once, or is remembered while nobody
        answers: what we would enforce is not a half-loaded picture, in which a refusal that names an org or an app
        matches nobody."""
        return all(self.looks.get(kind, Look()).serves for kind in RULED)


Inventory = Mapping[str, FoundationState]
"""By foundation name."""
