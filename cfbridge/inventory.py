"""What is out there? Everything that foundations told us, as last confirmed.

One `FoundationState` per foundation, replaced whole: a look that was not complete changes nothing but `stale_since`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from egress.values import QualifiedId, Refused
from policy_sync.model import Asg, CfPolicy


@dataclass(frozen=True, slots=True)
class Org:
    id: QualifiedId
    name: str
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class Space:
    id: QualifiedId
    name: str
    org: QualifiedId


@dataclass(frozen=True, slots=True)
class App:
    id: QualifiedId
    name: str
    space: QualifiedId
    state: str = "STARTED"


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


_RULED = ("orgs", "spaces", "apps", "policies", "asgs")


@dataclass(frozen=True, slots=True)
class FoundationState:
    name: str
    orgs: Mapping[QualifiedId, Org] = field(default_factory=dict)
    spaces: Mapping[QualifiedId, Space] = field(default_factory=dict)
    apps: Mapping[QualifiedId, App] = field(default_factory=dict)
    processes: Mapping[QualifiedId, Process] = field(default_factory=dict)
    policies: frozenset[CfPolicy] = frozenset()
    asgs: Mapping[QualifiedId, Asg] = field(default_factory=dict)
    looks: Mapping[str, Look] = field(default_factory=dict)
    quarantined: tuple[Refused, ...] = ()
    """Objects we could not read; each alone, with its reason."""

    @property
    def ready(self) -> bool:
        """Everything that rules are made of or name was looked at whole at least once: what we would enforce is not a
        half-loaded picture, in which a refusal that names an org or an app matches nobody."""
        return all(self.looks.get(kind, Look()).complete_at is not None for kind in _RULED)


Inventory = Mapping[str, FoundationState]
"""By foundation name."""
