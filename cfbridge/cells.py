"""Who are our cells, what runs on them, and how does the network reach them?

The bridge's end of the wire: one connection per agent. Requests for addresses are answered concurrently (so that they
share a commit), everything else in order. A cell that goes away keeps its ports here: it forwards on without us.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from cfbridge.connection import Connection
from cfbridge.snapshot import CellState, Held
from egress.assignment import VM_PREFIX
from egress.model import Lease, OrgWish
from egress.values import Refused, RefusedError, Unavailable, qualify
from garden_plugin import frames, wire
from garden_plugin.dataplane.base import LogicalNetwork

log = structlog.get_logger(__name__)

LATE_SECONDS = 2.0
FOUGHT_SECONDS = 300.0
"""So long an alarm stands after somebody was heard to undo again and again what is healed on a cell."""
UNHEARD_SECONDS = 600.0
"""After this a cell that is away may be gone for good: a person is asked. Nothing is withdrawn by time alone, because
nothing that a foundation tells us says which cells it knows."""
CONFLICT_SECONDS = 1.0
"""Between attempts at what a cell reported and somebody else held."""
HIGHEST_EPOCH = 1 << 40
"""Beyond this an agent's word is garbage; revisions are counted from the epoch, and have 63 bits."""
UNHEARD_BYTES = 1 << 20
"""So much of what an agent says is read ahead; a longer frame is read in pieces."""


class Holdings(Protocol):
    """The part of `cfbridge.holdings` that cells need."""

    @property
    def held(self) -> Held: ...

    async def lease(self, workload: str, wish: OrgWish, cell: str) -> tuple[Lease, ...] | Refused: ...
    async def release(self, workload: str) -> None: ...
    async def adopt(
        self, cell: str, reported: Mapping[str, tuple[OrgWish, tuple[str, ...]]]
    ) -> tuple[Refused, ...]: ...
    async def claim(
        self, cell: str, reported: Mapping[str, tuple[OrgWish, tuple[str, ...]]]
    ) -> tuple[Refused, ...]: ...
    async def overtake(self, epoch: int) -> int: ...


def _leads_on(epoch: int) -> None:
    pass


def _believed(port: wire.PortReport) -> Refused | None:
    return None


class Cells:
    """All cells of the bridge. `changed` is called after each change and returns the revision that will contain it."""

    def __init__(
        self,
        *,
        foundation: str,
        epoch: int,
        mtu: int,
        holdings: Holdings,
        wish: Callable[[str, str], OrgWish],
        ready: Callable[[], str],
        changed: Callable[[], int],
        leads: Callable[[int], None] = _leads_on,
        untrue: Callable[[wire.PortReport], Refused | None] = _believed,
        single: bool = True,
    ) -> None:
        """`leads` is told the epoch when it grows. `untrue`: why a container is not what it says."""
        self._foundation = foundation
        self._epoch = epoch
        self._mtu = mtu
        self._holdings = holdings
        self._wish = wish
        self._ready = ready
        self._changed = changed
        self._leads = leads
        self._untrue = untrue
        self._single = single
        self._began = time.time()
        self._arriving: dict[str, int] = {}
        """Cells whose report is being taken over, and by how many connections."""
        self._only = ""
        """The first cell that came: with `single` the only one."""
        self._connections: dict[str, Connection] = {}
        self.states: Mapping[str, CellState] = {}
        """Replaced whole at each change, so that who holds one sees a moment."""
        self.conflicts: dict[str, tuple[Refused, ...]] = {}
        """By cell: leases that it reported and somebody else holds. Quarantined, shown, never answered twice."""
        self.elsewhere: dict[str, tuple[Refused, ...]] = {}
        """By cell: containers that it reported and that another connected cell has. They stay that one's."""
        self.restored: Refused | None = None
        """The store is older than what a cell has seen."""
        self._progress = asyncio.Condition()

    async def serve(self, path: str) -> asyncio.Server:
        """Listen for agents on a unix socket that only root may open."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(self._serve, path, limit=UNHEARD_BYTES)
        finally:
            os.umask(mask)

    def remember(self, leases: Iterable[Lease]) -> None:
        """Cells that hold leases and were not heard yet are away, not unknown. Call it before `serve`."""
        names = {lease.cell for lease in leases if lease.cell and not lease.workload.startswith(VM_PREFIX)}
        self.states = {name: CellState(name, self._foundation) for name in sorted(names)} | {**self.states}

    def unheard(self, now: float) -> tuple[str, ...]:
        """Cells that nobody heard of for ten minutes, by the clock that says `now`."""
        limit = now - UNHEARD_SECONDS
        return tuple(s.name for s in self.states.values() if not s.connected and max(s.heard_at, self._began) <= limit)

    async def remove(self, cell: str) -> Refused | None:
        """A person says that the cell is gone for good: its workloads leave the groups, its addresses rest. Should it
        come back, it is welcome: what it reports in use wins. Unavailable: the store did not take it."""
        if cell not in self.states:
            return Refused("CELL_UNKNOWN", f"No cell is called {cell[:128]}; `cfbridge cell list` names them.", "/id")
        if cell in self._connections or cell in self._arriving:
            return Refused("CELL_CONNECTED", f"The agent of {cell} is connected; stop it first.", "/id")
        ports = len(self.states[cell].ports)
        await self._holdings.adopt(cell, {})
        if cell not in self._connections and cell not in self._arriving:
            self.states = {name: state for name, state in self.states.items() if name != cell}
            self.conflicts.pop(cell, None)
            self.elsewhere.pop(cell, None)
            if self._only == cell:
                self._only = ""
        self._changed()
        log.warning("cell removed by hand", cell=cell, workloads=ports)
        return None

    def deliver(self, network: LogicalNetwork) -> None:
        """Send the newest network to every connected agent. A cell that reads slowly holds up nobody."""
        for connection in self._connections.values():
            connection.deliver(network)

    def late(self) -> tuple[str, ...]:
        """Cells that have been behind what they were sent for more than two seconds. They hold up nobody."""
        limit = time.monotonic() - LATE_SECONDS
        return tuple(c.cell for c in self._connections.values() if c.behind_since and c.behind_since < limit)

    async def reached(self, revision: int, cell: str, timeout_seconds: float) -> bool:
        """Whether everything of `revision` came into force on `cell` in time."""
        try:
            async with asyncio.timeout(timeout_seconds), self._progress:
                await self._progress.wait_for(lambda: cell in self.states and self.states[cell].reached >= revision)
        except TimeoutError:
            return False
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = msgspec.msgpack.Decoder(wire.FromAgent)
        connection: Connection | None = None
        try:
            hello = decoder.decode(await frames.read_frame(reader))
            if not isinstance(hello, wire.Hello) or hello.version != wire.VERSION:
                log.error("agent refused", reason=f"speaks {hello!r:.80}, this bridge speaks version {wire.VERSION}")
                return
            self._only = self._only or hello.cell
            if self._single and hello.cell != self._only:
                log.error("agent refused", code="LINUX_IS_ONE_CELL", cell=hello.cell, serving=self._only)
                return
            connection = Connection(hello.cell, writer)
            await self._welcome(connection, hello)
            while not connection.ended:
                message = decoder.decode(await frames.read_frame(reader))
                if not connection.ended:
                    self._handle(connection, message)
                await writer.drain()  # who does not read the answers is listened to no further
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except (msgspec.DecodeError, ValueError, Unavailable) as fault:
            log.error("agent's connection ended", cell=connection and connection.cell, reason=str(fault))
        finally:
            self._leave(connection)
            writer.close()

    async def _welcome(self, connection: Connection, hello: wire.Hello) -> None:
        """What the cell reports in use wins; what it does not report is free: a `down` was lost, or the cell is new."""
        if not 0 <= hello.epoch < HIGHEST_EPOCH:
            raise ValueError(f"it followed epoch {hello.epoch}, which is none")
        # First the old connection ends: what it still has to say is older than this hello, and gives nobody a lease.
        self._leave(self._connections.get(hello.cell))
        self._arriving[hello.cell] = self._arriving.get(hello.cell, 0) + 1
        try:
            await self._take_over(connection, hello)
        finally:
            self._arriving[hello.cell] -= 1
            if not self._arriving[hello.cell]:
                del self._arriving[hello.cell]

    async def _take_over(self, connection: Connection, hello: wire.Hello) -> None:
        if hello.epoch > self._epoch:
            self._epoch = await self._holdings.overtake(hello.epoch)
            message = (
                f"The store is older than what {hello.cell} has seen: it was restored from a backup. What cells use "
                "was taken over; SNAT addresses given since that backup may be others now (`cfbridge org list`)."
            )
            self.restored = Refused("STORE_RESTORED", message)
            self._leads(self._epoch)
            log.warning("store is older than its cells", cell=hello.cell, followed=hello.epoch, epoch=self._epoch)
        reported = {self.workload(port.handle): port for port in hello.ports}
        others_have = {w: s.name for s in self.states.values() if s.connected and s.name != hello.cell for w in s.ports}
        self.elsewhere[hello.cell] = tuple(
            _elsewhere(reported.pop(workload).handle, others_have[workload])
            for workload in sorted(reported.keys() & others_have.keys())
        )
        conflicts = await self._holdings.adopt(
            hello.cell, {w: (self._wish(p.org, p.org_name), p.addresses) for w, p in reported.items()}
        )
        self._leave(self._connections.get(hello.cell))  # another connection of the same cell was quicker
        self.conflicts[hello.cell] = conflicts
        before = self.states.get(hello.cell) or CellState(hello.cell, self._foundation)
        state = CellState(
            name=hello.cell,
            foundation=self._foundation,
            connected=True,
            boot_id=hello.boot_id,
            addresses=hello.addresses,
            heard_at=time.time(),
            ports=reported,
            drifts=before.drifts,
            last_drift=before.last_drift,
            fought_at=before.fought_at,
        )
        # The cell that came last is first: on `linux` machines without a cell are on it, not on one that is away.
        # One that we only remembered, and that holds nothing now, had another name before.
        holding = {lease.cell for leases in self._holdings.held.leases.values() for lease in leases}
        others = {n: s for n, s in self.states.items() if n != state.name and (s.heard_at or n in holding)}
        self.states = {state.name: state} | others
        connection.first = self._changed()
        self._connections[hello.cell] = connection
        connection.send(wire.Welcome(wire.VERSION, self._epoch, self._foundation))
        if conflicts:
            connection.begin(self._settle_conflicts(connection))
        log.info("agent connected", cell=hello.cell, ports=len(reported), conflicts=len(conflicts))

    async def _settle_conflicts(self, connection: Connection) -> None:
        """What another one held may be free by now: its cell came and does not have it, or its container ended."""
        cell = connection.cell
        while self.conflicts.get(cell):
            await asyncio.sleep(CONFLICT_SECONDS)
            held = self._holdings.held.leases
            open_ = {
                workload: port
                for workload, port in self.states[cell].ports.items()
                if {*port.addresses} - {lease.address for lease in held.get(workload, ())}
            }
            claimed = {w: (self._wish(p.org, p.org_name), p.addresses) for w, p in open_.items()}
            try:
                self.conflicts[cell] = await self._holdings.claim(cell, claimed)
            except Unavailable:
                continue
            if len(self.conflicts[cell]) < len(claimed):
                self._changed()

    def _leave(self, connection: Connection | None) -> None:
        if connection is None or self._connections.get(connection.cell) is not connection:
            return
        del self._connections[connection.cell]
        connection.ended = True
        connection.writer.close()
        for task in connection.tasks:
            task.cancel()
        state = self.states[connection.cell]
        self._note(replace(state, connected=False, heard_at=time.time()))
        log.warning("agent away", cell=connection.cell)

    def _note(self, state: CellState) -> None:
        self.states = {**self.states, state.name: state}

    def workload(self, handle: str) -> str:
        return qualify(self._foundation, handle)

    def _handle(self, connection: Connection, message: wire.FromAgent) -> None:
        state = self.states[connection.cell]
        match message:
            case wire.Attach() | wire.Update():
                connection.asking[message.port.handle] = message.port
                connection.begin(self._attach(connection, message.request, message.port))
            case wire.Detached(handle=handle) if holder := self._holder(connection.cell, handle):
                log.error("detach refused", cell=connection.cell, handle=handle, holder=holder)
                connection.send(wire.Acknowledged(handle))  # it shall not say it again
            case wire.Detached(handle=handle):
                connection.asking.pop(handle, None)
                workload = self.workload(handle)
                ports = {w: p for w, p in state.ports.items() if w != workload}
                self._note(replace(state, ports=ports, heard_at=time.time()))
                self._changed()
                connection.begin(self._detach(connection, handle))
            case wire.Reached(revision=revision):
                if connection.sent is not None and revision >= connection.sent.revision:
                    connection.behind_since = None
                self._note(replace(state, reached=revision, heard_at=time.time()))
                connection.begin(self._tell_waiters())
            case wire.Drifted(what=what, count=count):
                fought_at = time.time() if count > 1 else state.fought_at
                self._note(replace(state, drifts=state.drifts + count, last_drift=what, fought_at=fought_at))
                log.warning("drift healed", cell=connection.cell, what=what, count=count)
            case wire.Hello():
                raise ValueError("a second hello")

    async def _attach(self, connection: Connection, request: int, port: wire.PortReport) -> None:
        workload = self.workload(port.handle)
        if reason := self._ready():
            connection.send(wire.Denied(request, "NOT_READY", reason, retry=True))
            return
        holder = self._holder(connection.cell, port.handle)
        refused = _elsewhere(port.handle, holder) if holder else self._untrue(port)
        if refused is not None:
            log.error("container refused", cell=connection.cell, code=refused.code, reason=refused.message)
            connection.send(wire.Denied(request, refused.code, refused.message, retry=False))
            return
        try:
            leases = await self._holdings.lease(workload, self._wish(port.org, port.org_name), connection.cell)
        except Unavailable as fault:
            connection.send(wire.Denied(request, "STORE_AWAY", str(fault), retry=True))
            return
        except RefusedError as refusal:
            leases = refusal.refused
        if isinstance(leases, Refused):
            connection.send(wire.Denied(request, leases.code, leases.message, retry=False))
            return
        addresses = tuple(lease.address for lease in leases)
        if connection.asking.get(port.handle) is port:  # else it was taken away, or changed, since
            del connection.asking[port.handle]
            state = self.states[connection.cell]
            ports = {**state.ports, workload: msgspec.structs.replace(port, addresses=addresses)}
            self._note(replace(state, ports=ports, heard_at=time.time()))
        connection.send(wire.Granted(request, addresses, self._changed(), self._mtu))

    def _holder(self, cell: str, handle: str) -> str:
        """Another cell that has this container; empty if none has."""
        workload = self.workload(handle)
        having = [state.name for state in self.states.values() if workload in state.ports]
        having += [lease.cell for lease in self._holdings.held.leases.get(workload, ()) if lease.cell in self.states]
        return next((name for name in having if name != cell), "")

    async def _detach(self, connection: Connection, handle: str) -> None:
        try:
            await self._holdings.release(self.workload(handle))
        except Unavailable as fault:  # not acknowledged: the agent says it again
            log.warning("release waits for the store", handle=handle, reason=str(fault))
            return
        connection.send(wire.Acknowledged(handle))

    async def _tell_waiters(self) -> None:
        async with self._progress:
            self._progress.notify_all()


def _elsewhere(handle: str, holder: str) -> Refused:
    message = f"container {handle[:128]!r} is on {holder}; what another cell says of it is not believed"
    return Refused("HANDLE_ELSEWHERE", message, handle)
