"""Who is on this cell, and what does each of them hold? Records, namespaces, host ports, isolated addresses.

admit ─> keep (on disk, wanted) ─> standing ─> leaving (not wanted any more) ─> forget (at rest, spooled)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from egress.values import Refused, RefusedError, Unavailable, qualify
from garden_plugin.cell import ingress, uplink
from garden_plugin.cell.attach import Namespaces
from garden_plugin.cell.records import CellMemory, Record, Records
from garden_plugin.cell.requests import Up
from garden_plugin.cell.spool import Unacknowledged, hash_of
from garden_plugin.dataplane.base import LogicalNetwork
from garden_plugin.dataplane.cell import LocalPort, LocalState, device_name
from garden_plugin.settings import AgentConfig
from garden_plugin.wire import MappedPort, PortReport


class Log(Protocol):
    """structlog's manner; given by whoever starts the agent."""

    def info(self, event: str, **fields: Any) -> object: ...
    def warning(self, event: str, **fields: Any) -> object: ...
    def error(self, event: str, **fields: Any) -> object: ...
    def exception(self, event: str, **fields: Any) -> object: ...


class Roster:
    def __init__(self, config: AgentConfig, namespaces: Namespaces, now: Callable[[], float], log: Log) -> None:
        state = Path(config.state_dir)
        self._config = config
        self._now = now
        self._log = log
        self._records = Records(state)
        self.namespaces = namespaces
        self.unacknowledged = Unacknowledged(state / "detached")
        self._leaving: set[str] = set()
        """Handles that a `down` is taking away: on disk still, not wanted any more."""
        self._standing: set[str] = set()
        """Handles whose containers may be running: only a `down` unplugs them, never a span that lacks them."""
        self._ports = ingress.Pool(*config.mapped_ports, config.mapped_port_rest_seconds)
        self._checks = ipaddress.ip_network(config.check_network)
        self._check_numbers = ingress.Pool(1, self._checks.num_addresses - 2, config.mapped_port_rest_seconds)
        self._host_address = config.host_address
        self._host_address6 = config.host_address6
        self._mtu = config.mtu
        self.change = 0
        """Counts changes of what is wanted."""

    def adopt(self, boot_id: str) -> list[Record]:
        """After a restart everything stands; after a reboot nothing does: answers whose containers are gone. When they
        were taken away, say `adopted`."""
        config, memory, now = self._config, self._records.memory, self._now()
        if not self._host_address and config.uplinks:
            self._host_address = uplink.address(config.uplinks[0])
        if not self._host_address6 and config.uplinks:
            self._host_address6 = uplink.address6(config.uplinks[0])
        if not self._mtu and config.uplinks:
            self._mtu = uplink.container_mtu(config.uplinks[0])
        for path in self._records.unreadable:
            self._log.error("port record set aside", file=str(path), reason="cannot be read")
        self._ports.remember(memory.ports_at_rest, now)
        self._check_numbers.remember(memory.addresses_at_rest, now)
        for handle, record in self._records.by_handle.items():
            self._standing.add(handle)
            for port in record.report.mapped_ports:
                self._ports.claim(port.host_port, handle)
            if record.isolated:
                self._check_numbers.claim(self._check_number(record), handle)
        known = frozenset(map(hash_of, self._records.by_handle))
        for name in self.namespaces.names() - known:
            self.namespaces.release_stranger(name)
        rebooted = memory.boot_id not in ("", boot_id)
        records = self._records.by_handle.values()
        return [r for r in records if rebooted and not self.namespaces.holds(r.report.handle)]

    def adopted(self, boot_id: str) -> None:
        self._remember(msgspec.structs.replace(self._records.memory, boot_id=boot_id))

    def __len__(self) -> int:
        return len(self._records.by_handle)

    def get(self, handle: str) -> Record | None:
        return self._records.by_handle.get(handle)

    def is_up(self, handle: str, descriptor: int) -> bool:
        """Whether it is this very container that is here, and stays."""
        known = handle in self._records.by_handle and handle not in self._leaving
        return known and self.namespaces.is_held(handle, descriptor)

    def known(self, handle: str) -> Record:
        if (record := self.get(handle)) is None:
            message = f"cannot find container [{handle}]; it is not up on this cell"
            raise RefusedError(Refused("UNKNOWN_HANDLE", message))
        return record

    def admit(self, asked: Up, descriptor: int) -> Record:
        """Hold its namespace and give it host ports and, when it is isolated, an address. Nothing is wanted yet. All or
        nothing: raises RefusedError or Unavailable."""
        report, now = asked.report, self._now()
        handle = report.handle
        self.namespaces.hold(handle, descriptor)
        try:
            mapped = ingress.allocate(self._ports, handle, asked.netin, now)
            report = msgspec.structs.replace(report, mapped_ports=mapped)
            if asked.isolated:
                number = self._check_numbers.take(handle, now)
                if number is None:
                    ingress.release(self._ports, handle, mapped, now)
                    message = f"no isolated address is free in {self._checks}; widen check_network, or wait a while"
                    raise RefusedError(Refused("CHECK_NETWORK_EXHAUSTED", message))
                report = msgspec.structs.replace(report, addresses=(str(self._checks[number]),))
        except RefusedError:
            self.namespaces.release(handle)
            raise
        return Record(report, asked.isolated)

    def keep(self, record: Record) -> None:
        """On disk and wanted from now on. OSError: the disk does not take it, and nothing changed."""
        self._records.write(record)
        self.change += 1

    def stands(self, record: Record) -> None:
        self._standing.add(record.report.handle)

    def leaves(self, record: Record) -> None:
        """Not wanted any more."""
        self._leaving.add(record.report.handle)
        self.change += 1

    def forget(self, record: Record) -> None:
        """It is gone from the kernel. Everything of it is given back."""
        handle, now = record.report.handle, self._now()
        self.namespaces.release(handle)
        if record.isolated:
            self._check_numbers.give_back(self._check_number(record), handle, now)
        else:
            try:
                self.unacknowledged.add(handle)
            except OSError as fault:  # the bridge hears it now, or by our next Hello
                self._log.error("detached not spooled", handle=handle, reason=str(fault))
        self._records.remove(handle)
        self._leaving.discard(handle)
        self._standing.discard(handle)
        ingress.release(self._ports, handle, record.report.mapped_ports, now)
        self._remember(self._records.memory)

    def mend(self) -> list[str]:
        """Files and mounts of containers that are here: make again what somebody took away; what it was, in words."""
        said = []
        for handle in self._records.by_handle.keys() - self._leaving:
            try:
                said.append(self.namespaces.mend(handle))
            except Unavailable as fault:
                self._log.error("network namespace not kept", handle=handle, reason=str(fault))
        try:
            said += self._records.mend()
        except OSError as fault:  # tried again
            self._log.error("records not written", reason=str(fault))
        return [each for each in said if each]

    def map_port(self, handle: str, wanted: MappedPort) -> MappedPort:
        """One more, of a container that is up."""
        (mapped,) = ingress.allocate(self._ports, handle, (wanted,), self._now())
        return mapped

    def unmap_port(self, handle: str, mapped: MappedPort) -> None:
        ingress.release(self._ports, handle, (mapped,), self._now())

    def reports(self) -> tuple[PortReport, ...]:
        """What the bridge shall know of: everything that holds a lease."""
        return tuple(
            record.report
            for handle, record in self._records.by_handle.items()
            if not record.isolated and handle not in self._leaving
        )

    def local_state(self, network: LogicalNetwork | None) -> LocalState:
        """A new container that the span does not hold yet waits; what stands, stays."""
        ports: dict[str, LocalPort] = {}
        for handle, record in self._records.by_handle.items():
            if handle in self._leaving:
                continue
            port = self.local_port(record)
            if network is not None and not record.isolated and handle not in self._standing:
                spanned = network.topology.ports.get(port.workload)
                if spanned is None or set(spanned.addresses) != set(port.addresses):
                    continue
            ports[port.workload] = port
        return LocalState(self._config.cell, self._host_address, self._config.uplinks, ports, self._host_address6)

    def local_port(self, record: Record) -> LocalPort:
        report = record.report
        return LocalPort(
            workload=self.workload(record),
            handle=report.handle,
            device=device_name(report.handle),
            netns=str(self.namespaces.path(report.handle)),
            addresses=report.addresses,
            isolated=record.isolated,
            mapped_ports=report.mapped_ports,
            mtu=record.mtu or self._mtu,
        )

    def workload(self, record: Record) -> str:
        handle = record.report.handle
        return f"check:{handle}" if record.isolated else qualify(self._records.memory.foundation, handle)

    def belongs_to(self, foundation: str) -> None:
        """Remembered, so that workloads have their names while the bridge is away."""
        memory = self._records.memory
        if memory.foundation and memory.foundation != foundation and len(self):
            self._log.warning("foundation has another name", was=memory.foundation, now=foundation)
        self._remember(msgspec.structs.replace(memory, foundation=foundation))

    def _remember(self, memory: CellMemory) -> None:
        now = self._now()
        resting = {"ports_at_rest": self._ports.resting(now), "addresses_at_rest": self._check_numbers.resting(now)}
        try:
            self._records.remember(msgspec.structs.replace(memory, **resting))
        except OSError as fault:  # a `down` must not fail for it
            self._log.error("rests not written", reason=str(fault))

    def _check_number(self, record: Record) -> int:
        return int(ipaddress.ip_address(record.report.addresses[0])) - int(self._checks.network_address)
