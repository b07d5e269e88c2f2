"""What would a cell's dataplane hold? Everything in a dict, refusing what a kernel refuses."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence

from egress.values import Refused, Unavailable
from garden_plugin.dataplane.base import Key, LogicalNetwork
from garden_plugin.dataplane.cell import LocalPort, LocalState


class MemoryCellDataplane:
    """Survives an agent as a kernel does: give the same one to the next agent."""

    def __init__(self, addresses: Sequence[str] = ("192.0.2.10",)) -> None:
        self.drifted: Callable[[str], None] = lambda what: None
        self.broken: Callable[[BaseException], None] = lambda bug: None
        self.links: dict[str, LocalPort] = {}
        """By device: what a container can be reached by."""
        self.network: LogicalNetwork | None = None
        self.converged = 0
        self.detached = 0
        """Batches."""
        self.fails = ""
        """While set, the kernel does not answer."""
        self.unpluggable: dict[str, str] = {}
        """Device → why its link can't be made."""
        self.refused: dict[Key, Refused] = {}
        self.pause_seconds = 0.0
        self._addresses = tuple(addresses)
        self._open = False
        self._inside = False

    async def open(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False

    async def addresses(self) -> tuple[str, ...]:
        return self._addresses

    async def converge(self, network: LogicalNetwork | None, local: LocalState) -> None:
        await self._enter()
        try:
            wanted = {port.device: port for port in local.ports.values()}
            if len(wanted) != len(local.ports):
                raise ValueError("two containers share a device")
            if network is None:
                wanted = {d: p for d, p in wanted.items() if p.isolated or d in self.links}
            else:
                for workload, port in local.ports.items():
                    new = port.device not in self.links
                    if new and not port.isolated and workload not in network.topology.ports:
                        raise ValueError(f"{workload} is on the cell and in no span")
            _refuse_impossible(wanted)
            self.refused = {("port", d): Refused("PLUG", self.unpluggable[d]) for d in wanted if d in self.unpluggable}
            self.links = {d: port for d, port in wanted.items() if d not in self.unpluggable}
            if network is not None:
                self.network = network
            self.converged += 1
        finally:
            self._inside = False

    async def detach(self, ports: Sequence[LocalPort]) -> None:
        await self._enter()
        try:
            for port in ports:
                self.links.pop(port.device, None)
            self.detached += 1
        finally:
            self._inside = False

    async def _enter(self) -> None:
        if not self._open:
            raise ValueError("the dataplane is not open")
        if self._inside:
            raise ValueError("converge and detach are serialised by their caller")
        self._inside = True
        await asyncio.sleep(self.pause_seconds)
        if self.fails:
            self._inside = False
            raise Unavailable(self.fails)


def _refuse_impossible(ports: dict[str, LocalPort]) -> None:
    """What nft and netlink would refuse: a name too long, an element or a route twice, something that is no address."""
    seen: dict[object, str] = {}
    for device, port in ports.items():
        if not 0 < len(device) <= 15:
            raise ValueError(f"{device!r} is no device name")
        if not port.addresses or not port.netns:
            raise ValueError(f"{port.handle} has no address or no namespace")
        for thing in (*map(ipaddress.ip_address, port.addresses), *(m.host_port for m in port.mapped_ports)):
            if thing in seen:
                raise ValueError(f"{thing} leads to {port.handle} and to {seen[thing]}")
            seen[thing] = port.handle
