"""What must a dataplane on a cell be able to do, and what does the agent tell it?

span of the bridge (LogicalNetwork) ─┐
                                     ├─> converge ─> kernel          detach: at once, needs nobody
what is on this cell (LocalState) ───┘
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from egress.values import Refused
from garden_plugin.dataplane.base import Key, LogicalNetwork
from garden_plugin.wire import MappedPort


@dataclass(frozen=True, slots=True)
class LocalPort:
    """A container that is on this cell, as the agent knows it first-hand."""

    workload: str
    """Foundation-qualified handle, as in `Topology.ports`; `check:HANDLE` when isolated."""
    handle: str
    device: str
    """The host end of its link; see `device_name`."""
    netns: str
    """Path of the bind mount of its network namespace."""
    addresses: tuple[str, ...]
    """One IPv4, then at most one IPv6."""
    isolated: bool = False
    """A health check: an address that is local to the cell, no egress, in no span."""
    mapped_ports: tuple[MappedPort, ...] = ()
    mtu: int = 0
    """0 = the dataplane's own choice."""


@dataclass(frozen=True, slots=True)
class LocalState:
    cell: str
    host_address: str
    """What mapped ports are reached by."""
    uplinks: tuple[str, ...]
    ports: Mapping[str, LocalPort] = field(default_factory=dict)
    """By workload id. Only these exist on the cell: a container in the span but not here is not made. One that is here
    is in the span as well, unless it is isolated, no span came yet, or it stood before this span, which lacks it: then
    it keeps its link, and has whatever rules say of an unknown address. Only `down` unplugs."""
    host_address6: str = ""
    """The same in IPv6; empty where the cell has none."""

    def host_address_for(self, address: str) -> str:
        """The cell's own, of the family of `address` (or prefix); empty where it has none."""
        return self.host_address6 if ":" in address else self.host_address


class CellDataplane(Protocol):
    drifted: Callable[[str], None]
    """Set by the agent; called when somebody else changed what is ours."""
    broken: Callable[[BaseException], None]
    """Set by the agent; called when a bug ended what heals: from then on nothing is noticed any more."""
    refused: Mapping[Key, Refused]
    """What could not be made at the last converge, by an item's key; tried again at the next. It stops nobody else."""

    async def open(self) -> None:
        """Skeleton, sysctls; adopts what is there."""
        ...

    async def converge(self, network: LogicalNetwork | None, local: LocalState) -> None:
        """Make it true. None: the bridge was not heard yet, so what is in force stays as it is, and only isolated ports
        and removals are done. Raises Unavailable when the kernel refused or did not answer; it is called again."""
        ...

    async def detach(self, ports: Sequence[LocalPort]) -> None:
        """At once: elements, routes, conntrack entries, links. Idempotent."""
        ...

    async def addresses(self) -> tuple[str, ...]:
        """The cell's own local addresses."""
        ...

    async def close(self) -> None:
        """Let go; everything in the kernel stays."""
        ...


def device_name(handle: str) -> str:
    """The host device of a container: 14 characters, the same on every dataplane and after every restart."""
    return "cf-" + hashlib.sha256(handle.encode("utf-8", "surrogateescape")).hexdigest()[:11]
