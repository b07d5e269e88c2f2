"""How does what is wanted come into force? One converge at a time, always of the newest state; many waiters share one.

span, local port, drift ──poke──> converge(newest) ──> applied ──> waiters
down, down, down ─────────────────> one detach between two converges
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from egress.values import Refused, Unavailable
from garden_plugin.bridge_client import NEVER, Moment
from garden_plugin.dataplane.base import Key, LogicalNetwork
from garden_plugin.dataplane.cell import CellDataplane, LocalPort, LocalState

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall be in force, and how far it has come."""

    network: LogicalNetwork | None
    moment: Moment
    local: LocalState
    change: int
    """Counts changes of the local state."""


@dataclass(frozen=True, slots=True)
class Applied:
    moment: Moment = NEVER
    change: int = 0
    ports: frozenset[str] = field(default_factory=frozenset)
    """Workload ids."""
    refused: Mapping[str, Refused] = field(default_factory=dict)
    """By workload id: what of it could not be made; it is in no `ports`."""


class Converger:
    def __init__(
        self, dataplane: CellDataplane, wanted: Callable[[], Wanted], reached: Callable[[Applied], None]
    ) -> None:
        self._dataplane = dataplane
        self._wanted = wanted
        self._reached = reached
        self._poked = asyncio.Event()
        self._progress = asyncio.Condition()
        self._busy = asyncio.Lock()
        self._leaving: list[tuple[LocalPort, asyncio.Future[None]]] = []
        self._detaching: asyncio.Task[None] | None = None
        self.applied = Applied()
        self.fault = ""
        """Why the last converge failed; empty when it did not."""

    def poke(self) -> None:
        self._poked.set()

    async def run(self) -> None:
        """Until cancelled. Unavailable is tried again; any other exception is a bug and ends the agent."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            await self._poked.wait()
            async with self._busy:
                self._poked.clear()
                wanted = self._wanted()
                try:
                    await self._dataplane.converge(wanted.network, wanted.local)
                    self.fault = ""
                except Unavailable as fault:
                    self.fault = str(fault)
            if self.fault:
                self._poked.set()
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            pause = FIRST_PAUSE_SECONDS
            refused = _refused(self._dataplane.refused, wanted.local)
            ports = frozenset(wanted.local.ports) - refused.keys()
            self.applied = Applied(wanted.moment, wanted.change, ports, refused)
            self._reached(self.applied)
            async with self._progress:
                self._progress.notify_all()

    async def in_force(self, enough: Callable[[Applied], bool]) -> None:
        """Return when what is applied is enough. The caller sets the deadline."""
        async with self._progress:
            await self._progress.wait_for(lambda: enough(self.applied))

    async def detach(self, port: LocalPort) -> None:
        """Take one port away, together with all that wait for the same. It must have left the local state before, else
        the next converge would bring it back. Raises Unavailable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leaving.append((port, done))
        if self._detaching is None or self._detaching.done():
            self._detaching = asyncio.create_task(self._detach_all())
        await done

    async def _detach_all(self) -> None:
        """A task of its own: one caller's deadline is not the others'."""
        while self._leaving:
            async with self._busy:
                batch, self._leaving = self._leaving, []
                fault: Exception | None = None
                try:
                    await self._dataplane.detach([port for port, _ in batch])
                except Exception as raised:  # handed to every caller, below
                    fault = raised
            for _, done in batch:
                if done.done():
                    continue
                if fault is None:
                    done.set_result(None)
                else:
                    done.set_exception(fault)


def _refused(refused: Mapping[Key, Refused], local: LocalState) -> dict[str, Refused]:
    """By workload: an item's key names its device, its address or the host route to it."""
    found: dict[str, Refused] = {}
    if not refused:
        return found
    for workload, port in local.ports.items():
        names = {port.device, *port.addresses, *(f"{a}/{128 if ':' in a else 32}" for a in port.addresses)}
        for key, why in refused.items():
            if not names.isdisjoint(key):
                found[workload] = why
    return found
