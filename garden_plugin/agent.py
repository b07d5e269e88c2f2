"""How is a container brought onto the network of its cell, and off it? The daemon that networkers talk to.

    networker ──> Door ──> Agent: up · down · net-in · net-out · bulk-net-out     one at a time per handle
                             │ ask, hear                     │ poke, detach
                             ▼                               ▼
                        BridgeClient        Roster ──>   Converger ──> CellDataplane

An `up` is answered when the revision that holds the container is in force here. A `down` needs nobody. What is in
force stays when the agent goes, and is adopted when it comes back.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import os
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from egress.values import Refused, RefusedError, Unavailable
from garden_plugin import wire
from garden_plugin.bridge_client import NEVER, BridgeClient, Grant, Moment
from garden_plugin.cell import requests
from garden_plugin.cell.attach import Namespaces
from garden_plugin.cell.converger import Applied, Converger, Wanted
from garden_plugin.cell.door import Answer, Door, Request
from garden_plugin.cell.drifts import Drifts, Report
from garden_plugin.cell.records import Record
from garden_plugin.cell.roster import Log, Roster
from garden_plugin.cell.spool import Tombstones
from garden_plugin.cell.turns import Turns
from garden_plugin.dataplane.base import LogicalNetwork
from garden_plugin.dataplane.cell import CellDataplane
from garden_plugin.settings import AgentConfig

SPOOL_SECONDS = 2.0
"""Between looks for `down`s that were left; every `up` looks as well."""
UNTOLD = 20
"""Reports of drift that are kept while the bridge is away."""
REPEAT_SECONDS = 5.0
"""Between repetitions of what the bridge did not acknowledge, and between looks at files and mounts of containers."""


@dataclass
class _Stage:
    """What a request waits for, in words, in case that its deadline ends the wait."""

    away: Callable[[], str]


class Agent:
    def __init__(
        self,
        config: AgentConfig,
        dataplane: CellDataplane,
        log: Log,
        *,
        namespaces: Namespaces | None = None,
        boot_id: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        state = Path(config.state_dir)
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._config = config
        self._dataplane = dataplane
        self._log = log
        self._boot_id = boot_id or _boot_id(config.boot_id_file)
        self._roster = Roster(config, namespaces or Namespaces(state / "netns"), now, log)
        self._tombstones = Tombstones((config.spool_dir or str(state / "spool"), f"{Path(config.socket).parent}/spool"))
        self._turns = Turns()
        self._network: LogicalNetwork | None = None
        self._fits = False
        """`_network` came on this connection, so changes against it can be merged."""
        self._moment = NEVER
        self._epoch = 0
        self._said_away = False
        self._drained = asyncio.Event()
        self._drifts = Drifts()
        self._untold: deque[Report] = deque(maxlen=UNTOLD)
        """Drift that the bridge has not heard of, since it was away; the newest."""
        self._broken: list[BaseException] = []
        self._breaks = asyncio.Event()
        self.bridge = BridgeClient(config.bridge, self._hello, self)
        self.converger = Converger(dataplane, self._wanted, self._reached)
        self._door = Door(config.socket, self.answer, config.deadline_seconds)

    # ---- life -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.TaskGroup]:
        """Adopts what is there, then serves. On leaving, everything in force stays so."""
        lock = os.open(Path(self._config.state_dir, "lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Unavailable(f"another agent works with {self._config.state_dir}; stop it first") from None
            await self._open()
            async with asyncio.TaskGroup() as tasks:
                loops = [
                    tasks.create_task(work)
                    for work in (
                        self.converger.run(),
                        self.bridge.run(),
                        self._look_after_spools(),
                        self._resync(),
                        self._until_broken(),
                    )
                ]
                await self._run_tombstones()
                await self._door.open()
                self._log.info("agent serves", cell=self._config.cell, ports=len(self._roster))
                try:
                    yield tasks
                finally:
                    await self._door.close()
                    for loop in loops:
                        loop.cancel()
            await self._dataplane.close()
        finally:
            os.close(lock)

    async def _until_broken(self) -> None:
        """An agent whose dataplane heals no more must not look well: it ends, and what is in force stays."""
        await self._breaks.wait()
        raise self._broken[0]

    def _breaks_by(self, bug: BaseException) -> None:
        self._broken.append(bug)
        self._breaks.set()

    async def _open(self) -> None:
        self._dataplane.drifted = self._drifted
        self._dataplane.broken = self._breaks_by
        await self._dataplane.open()
        for record in self._roster.adopt(self._boot_id):
            self._log.info("container is gone with the last boot", handle=record.report.handle)
            await self._take_away(record)
        self._roster.adopted(self._boot_id)
        self.converger.poke()

    async def _look_after_spools(self) -> None:
        repeat_at = 0.0
        while True:
            await asyncio.sleep(SPOOL_SECONDS)
            await self._run_tombstones()
            self._report(self._drifts.due(time.monotonic()))
            if time.monotonic() >= repeat_at:
                repeat_at = time.monotonic() + REPEAT_SECONDS
                self._say_detached(tuple(self._roster.unacknowledged.handles))
                for what in self._roster.mend():
                    self._drifted(what)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self._config.resync_seconds)
            self.converger.poke()

    async def _run_tombstones(self) -> None:
        """All that wait, side by side: they share detaches. Two of one handle take turns."""
        async with asyncio.TaskGroup() as tasks:
            for path, handle in self._tombstones.waiting():
                tasks.create_task(self._run_tombstone(path, handle))

    async def _run_tombstone(self, path: Path, handle: str) -> None:
        async with self._turns.of(handle):
            if not path.exists():  # somebody else ran it, and the handle may be up anew
                return
            try:
                await self._down(handle)
                self._tombstones.clear(path)
            except (Unavailable, OSError) as fault:  # one that cannot be done keeps nobody else from the network
                self._log.warning("spooled down waits", handle=handle, reason=str(fault))

    # ---- requests ---------------------------------------------------------------------------------------------------

    async def answer(self, request: Request) -> Answer:
        """One request of a networker. Whatever happens it is one line."""
        stage = _Stage(lambda: f"an earlier request for {request.handle}")
        try:
            async with asyncio.timeout(self._config.deadline_seconds):
                if request.action == "up":
                    stage.away = lambda: "`down`s that were spooled"
                    await self._run_tombstones()
                    stage.away = lambda: f"an earlier request for {request.handle}"
                async with self._turns.of(request.handle):
                    return Answer(True, await self._act(request, stage))
        except RefusedError as refusal:
            self._log.warning("refused", action=request.action, handle=request.handle, reason=str(refusal))
            return Answer(False, str(refusal))
        except Unavailable as fault:
            self._log.error("failed", action=request.action, handle=request.handle, reason=str(fault))
            return Answer(False, f"{request.action} of {request.handle}: {fault}")
        except TimeoutError:
            away = stage.away()
            self._log.error("too late", action=request.action, handle=request.handle, waited_for=away)
            message = f"gave up after {self._config.deadline_seconds:g} s; waited for {away}"
            return Answer(False, f"{request.action} of {request.handle}: {message}")
        except OSError as fault:
            self._log.exception("failed", action=request.action, handle=request.handle)
            return Answer(False, f"{request.action} of {request.handle}: the cell's state cannot be kept: {fault}")
        except Exception as bug:  # one request must not take the network from all the others; the log has the traceback
            self._log.exception("bug", action=request.action, handle=request.handle)
            return Answer(False, f"{request.action} of {request.handle}: internal error: {type(bug).__name__}: {bug}")

    async def _act(self, request: Request, stage: _Stage) -> str:
        handle = request.handle
        match request.action:
            case "up":
                return await self._up(request, stage)
            case "down":
                stage.away = lambda: f"the dataplane: {self.converger.fault or 'it is busy'}"
                await self._down(handle)
                return ""
            case "net-in":
                mapped = await self._net_in(handle, requests.net_in(request.stdin), stage)
                return requests.net_in_answer(mapped)
            case "net-out":
                await self._net_out(handle, requests.net_out(request.stdin), stage)
                return ""
            case "bulk-net-out":
                await self._net_out(handle, requests.bulk_net_out(request.stdin), stage)
                return ""
        raise RefusedError(Refused("UNKNOWN_ACTION", f"unrecognized action: {request.action}"))

    async def _up(self, request: Request, stage: _Stage) -> str:
        handle = request.handle
        asked = requests.up(handle, request.stdin)
        if request.descriptor is None:
            raise RefusedError(
                Refused("NO_NAMESPACE", "stdin from Garden: Pid: is missing; without it no netns is known")
            )
        if (known := self._roster.get(handle)) is not None:
            if self._roster.is_up(handle, request.descriptor):
                await self._in_force(known, NEVER, stage)
                return self._answer_up(known)
            await self._down(handle)  # another container by the same name, and nobody took the old one away
        record, granted = self._roster.admit(asked, request.descriptor), NEVER
        try:
            if not asked.isolated:
                grant = await self._ask_bridge(record.report, stage)
                granted = grant.moment
                report = msgspec.structs.replace(record.report, addresses=grant.addresses)
                record = Record(report, mtu=self._config.mtu or grant.mtu)
            self._roster.keep(record)
            await self._in_force(record, granted, stage)
            self._roster.stands(record)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._roll_back(record)))
            raise
        return self._answer_up(record)

    async def _down(self, handle: str) -> None:
        """Idempotent, and of handles that nobody knows. Needs no bridge. Raises Unavailable when the kernel refuses."""
        record = self._roster.get(handle)
        if record is None:
            self._roster.namespaces.release(handle)
        else:
            await self._take_away(record)

    async def _take_away(self, record: Record) -> None:
        self._roster.leaves(record)
        if record.report.addresses:
            await self.converger.detach(self._roster.local_port(record))
        self._roster.forget(record)
        if not record.isolated:
            self.bridge.send(wire.Detached(record.report.handle))

    async def _roll_back(self, record: Record) -> None:
        """A failed `up` leaves nothing, although Garden will send a `down` as well."""
        try:
            await self._take_away(record)
        except (Unavailable, OSError) as fault:
            self._log.error("rollback waits for down", handle=record.report.handle, reason=str(fault))

    async def _net_in(self, handle: str, wanted: wire.MappedPort, stage: _Stage) -> wire.MappedPort:
        record = self._roster.known(handle)
        had = record.report.mapped_ports
        for port in had:
            if port.host_port == wanted.host_port and port.container_port == (wanted.container_port or port.host_port):
                return port
        mapped = self._roster.map_port(handle, wanted)
        try:
            await self._change_port(record, stage, mapped_ports=(*had, mapped))
        except BaseException:
            self._roster.unmap_port(handle, mapped)
            raise
        return mapped

    async def _net_out(self, handle: str, rules: Collection[wire.NetOut], stage: _Stage) -> None:
        record = self._roster.known(handle)
        if record.isolated:
            message = f"{handle} belongs to no org and may reach nothing; give it network.org_id when it is created"
            raise RefusedError(Refused("ISOLATED", message))
        had = record.report.added_net_out
        if news := tuple(dict.fromkeys(rule for rule in rules if rule not in had)):
            await self._change_port(record, stage, added_net_out=(*had, *news))

    async def _change_port(self, record: Record, stage: _Stage, **changed: Any) -> None:
        """In force when it returns, as before when it raises."""
        after = msgspec.structs.replace(record, report=msgspec.structs.replace(record.report, **changed))
        self._roster.keep(after)
        try:
            moment = NEVER
            if not record.isolated:
                moment = (await self._ask_bridge(after.report, stage, update=True)).moment
            await self._in_force(after, moment, stage)
        except BaseException:
            self._roster.keep(record)
            self.converger.poke()
            if not record.isolated:
                self.bridge.send(wire.Update(0, record.report))  # request 0: nobody waits for its answer
            raise

    # ---- parts of requests ------------------------------------------------------------------------------------------

    async def _ask_bridge(self, report: wire.PortReport, stage: _Stage, *, update: bool = False) -> Grant:
        stage.away = lambda: self.bridge.away or "an address from the bridge"
        while (
            report.handle in self._roster.unacknowledged.handles
        ):  # else the old container's end would end this one's lease
            self._drained.clear()
            await self._drained.wait()
        return await self.bridge.ask(report, update=update)

    async def _in_force(self, record: Record, moment: Moment, stage: _Stage) -> None:
        def missing() -> str:
            if self.converger.fault:
                return f"the dataplane: {self.converger.fault}"
            if not record.isolated and (self._moment < moment or self.bridge.away):
                return self.bridge.away or f"the bridge's revision {moment.revision}"
            if not record.isolated and self._network and workload not in self._network.topology.ports:
                return f"a revision of the bridge that holds this container; {self._moment.revision} does not"
            return "the dataplane: it is busy"

        def enough(applied: Applied) -> bool:
            if applied.change >= change and workload in applied.refused:
                raise RefusedError(applied.refused[workload])
            moment_is_there = record.isolated or applied.moment >= moment
            return applied.change >= change and workload in applied.ports and moment_is_there

        workload, change = self._roster.workload(record), self._roster.change
        stage.away = missing
        self.converger.poke()
        await self.converger.in_force(enough)

    def _answer_up(self, record: Record) -> str:
        return requests.up_answer(record.report, self._config.dns_servers, self._config.search_domains)

    def _say_detached(self, handles: Collection[str]) -> None:
        for handle in handles:
            self.bridge.send(wire.Detached(handle))

    def _say_untold(self) -> None:
        while self._untold and self.bridge.send(wire.Drifted(*self._untold[0])):
            self._untold.popleft()

    # ---- what is wanted ---------------------------------------------------------------------------------------------

    def _wanted(self) -> Wanted:
        return Wanted(self._network, self._moment, self._roster.local_state(self._network), self._roster.change)

    def _reached(self, applied: Applied) -> None:
        if applied.moment.revision and applied.moment.connection == self._moment.connection:
            self.bridge.send(wire.Reached(applied.moment.revision))

    def _drifted(self, what: str) -> None:
        self._report(self._drifts.heard(what, time.monotonic()))
        self.converger.poke()

    def _report(self, report: Report | None) -> None:
        if report is None:
            return
        self._log.warning("drift", what=report.what, times=report.times)
        self._untold.append(report)
        self._say_untold()

    # ---- news from the bridge ---------------------------------------------------------------------------------------

    async def _hello(self) -> wire.Hello:
        listeners = (a for a in self._config.dns_servers if ipaddress.ip_address(a).is_link_local)
        addresses = tuple(dict.fromkeys((*await self._dataplane.addresses(), *listeners)))
        reports = self._roster.reports()
        return wire.Hello(wire.VERSION, self._config.cell, self._boot_id, addresses, reports, self._epoch)

    def welcomed(self, welcome: wire.Welcome, connection: int) -> None:
        if welcome.epoch < self._epoch:
            raise Unavailable(f"it leads by epoch {welcome.epoch}, another one by {self._epoch}")
        self._epoch = welcome.epoch
        self._roster.belongs_to(welcome.foundation)
        self._fits = False
        self._moment = Moment(connection, 0)
        self._said_away = False
        self._log.info("bridge connected", foundation=welcome.foundation, epoch=welcome.epoch)
        asyncio.get_running_loop().call_soon(self._say_detached, tuple(self._roster.unacknowledged.handles))
        asyncio.get_running_loop().call_soon(self._say_untold)

    def spanned(self, span: wire.Span) -> None:
        self._network = wire.merge(self._network if self._fits else None, span)
        self._fits = True
        self._moment = Moment(self._moment.connection, span.revision)
        self.converger.poke()

    def acknowledged(self, handle: str) -> None:
        self._roster.unacknowledged.acknowledged(handle)
        self._drained.set()

    def lost(self, reason: str) -> None:
        if not self._said_away:  # once, however often it is tried; `bridge connected` says when it is back
            self._log.warning("bridge away", reason=reason)
        self._said_away = True


def _boot_id(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError) as fault:
        message = f"{path} does not say which boot this is: {fault}; correct boot_id_file"
        raise RefusedError(Refused("BOOT_ID", message, "boot_id_file")) from fault


async def run(config: AgentConfig, log: Log) -> None:
    """The agent on the linux dataplane, until SIGTERM or SIGINT. The dataplane stays as it is."""
    from garden_plugin.dataplane.linux.driver import LinuxDataplane

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Agent(config, LinuxDataplane(config), log).running():
        await stop.wait()
        log.info("agent stops", cell=config.cell)
