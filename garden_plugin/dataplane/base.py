"""What does the bridge want, and what must a dataplane be able to do?

LogicalNetwork ──render (pure)──> {key: Item} ──diff against observed──> Plan ──apply (I/O)──> kernel or OVN
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from egress.topology import Topology
from policy_sync.ruleset import Ruleset

Key = tuple[str, ...]
"""(kind, name, …): unique among everything that a dataplane makes."""


class Item(Protocol):
    """One thing of a dataplane: a link, a route, a chain, a whole set with its elements. Frozen; equal means nothing to
    do. `str()` is the native command that would make it."""

    @property
    def key(self) -> Key: ...
    @property
    def rank(self) -> int:
        """Lower is created earlier and deleted later, so that no reference dangles."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class LogicalNetwork:
    """Everything wanted, for any dataplane, at one revision."""

    revision: int = 0
    topology: Topology = field(default_factory=Topology)
    ruleset: Ruleset = field(default_factory=Ruleset)


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a plan: create (`before` None), replace, or delete (`after` None)."""

    key: Key
    before: Hashable | None
    after: Hashable | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered; printable; falsy when there is nothing to do."""

    changes: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)


class Dataplane(Protocol):
    def render(self, network: LogicalNetwork) -> Mapping[Key, Item]:
        """Pure."""
        ...

    async def observe(self) -> Mapping[Key, Item]:
        """What is there and carries our mark. Foreign things are not seen."""
        ...

    async def apply(self, plan: Plan) -> None:
        """Ordered batches, each atomic. Raises Unavailable when the kernel or server did not answer; what was reached
        is then found by `observe`."""
        ...
