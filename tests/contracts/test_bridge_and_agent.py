"""Do the bridge's end of the wire and the agent's understand each other? Both real; store and kernel in dicts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cfbridge.cells import Cells
from cfbridge.reconcile import Reconciler
from cfbridge.simulator import runs
from cfbridge.snapshot import Held
from egress.model import Lease, OrgWish
from egress.topology import Port, PortKind, Topology
from egress.values import Refused, qualify
from garden_plugin.cell.door import Request
from garden_plugin.dataplane.base import LogicalNetwork
from garden_plugin.dataplane.cell import device_name
from garden_plugin.dataplane.memory_cell import MemoryCellDataplane
from garden_plugin.settings import AgentConfig
from tests.garden_plugin.conftest import Cell, FakeBridge, app


@dataclass
class HoldingsInADict:
    leases: dict[str, tuple[Lease, ...]] = field(default_factory=dict)
    given: int = 0
    refuse: Refused | None = None

    async def lease(self, workload: str, wish: OrgWish, cell: str) -> tuple[Lease, ...] | Refused:
        if self.refuse is not None:
            return self.refuse
        if workload not in self.leases:
            self.given += 1
            address = f"10.240.{self.given // 250}.{self.given % 250 + 3}"
            self.leases[workload] = (Lease(address, workload, wish.org, cell),)
        return self.leases[workload]

    async def release(self, workload: str) -> None:
        self.leases.pop(workload, None)

    async def adopt(self, cell: str, reported: Mapping[str, tuple[OrgWish, tuple[str, ...]]]) -> tuple[Refused, ...]:
        self.leases = {
            workload: tuple(Lease(address, workload, wish.org, cell) for address in addresses)
            for workload, (wish, addresses) in reported.items()
        }
        return ()

    async def claim(self, cell: str, reported: Mapping[str, tuple[OrgWish, tuple[str, ...]]]) -> tuple[Refused, ...]:
        return ()

    async def overtake(self, epoch: int) -> int:
        return epoch + 1

    @property
    def held(self) -> Held:
        return Held(leases=dict(self.leases))


@dataclass
class Bridge:
    path: str
    holdings: HoldingsInADict = field(default_factory=HoldingsInADict)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Cells]:
        reconciler = Reconciler(self._realise)
        self.cells = Cells(
            foundation="cf",
            epoch=1,
            mtu=1442,
            holdings=self.holdings,
            wish=lambda org, name: OrgWish(qualify("cf", org), name=name),
            ready=lambda: "",
            changed=reconciler.changed,
        )
        server = await self.cells.serve(self.path)
        loop = asyncio.create_task(reconciler.run())
        try:
            yield self.cells
        finally:
            loop.cancel()
            server.close()
            for connection in tuple(self.cells._connections.values()):
                connection.writer.close()

    async def _realise(self, revision: int) -> None:
        ports = {
            workload: Port(workload, PortKind.CONTAINER, cell.name, port.addresses, handle=port.handle)
            for cell in self.cells.states.values()
            for workload, port in cell.ports.items()
        }
        self.cells.deliver(LogicalNetwork(revision, Topology(ports=ports)))


@pytest.fixture
async def both() -> AsyncIterator[tuple[Bridge, Cell]]:
    with runs.folder() as directory:
        path = Path(directory)
        config = AgentConfig(
            cell="cell-1",
            socket=str(path / "agent.sock"),
            state_dir=str(path / "state"),
            bridge=str(path / "bridge.sock"),
            uplinks=(),
            host_address="192.0.2.10",
            deadline_seconds=10.0,
        )
        yield Bridge(config.bridge), Cell(config, FakeBridge(config.bridge), MemoryCellDataplane())


async def test_up_net_out_and_down_pass_between_them(both: tuple[Bridge, Cell]) -> None:
    bridge, cell = both
    async with bridge.running() as cells, cell.agent():
        ok, printed = await cell.up("one", app(8080))
        assert ok
        assert json.loads(printed)["properties"]["garden.network.container-ip"] == "10.240.0.4"
        assert cell.dataplane.links[device_name("one")].mtu == 1442
        assert cells.states["cell-1"].ports["cf:one"].mapped_ports[0].host_port == 61000
        assert await cell.call("net-out", "one", {"netout_rule": {"protocol": 1}}) == (True, "")
        assert len(cells.states["cell-1"].ports["cf:one"].added_net_out) == 1
        assert await cell.call("down", "one") == (True, "")
        assert await cells.reached(3, "cell-1", 5)
        assert not cell.dataplane.links


async def test_a_refusal_reaches_garden_in_words(both: tuple[Bridge, Cell]) -> None:
    bridge, cell = both
    bridge.holdings.refuse = Refused("IP_POOL_EXHAUSTED", "pool overlay is full; add a prefix")
    async with bridge.running(), cell.agent():
        assert await cell.up("one") == (False, "pool overlay is full; add a prefix (IP_POOL_EXHAUSTED)")
        assert not cell.dataplane.links


async def test_a_hundred_ups_at_once_share_revisions(both: tuple[Bridge, Cell]) -> None:
    bridge, cell = both
    async with bridge.running() as cells, cell.agent():
        answers = await asyncio.gather(*(cell.up(f"app-{n}", app(8080)) for n in range(100)))
        assert all(ok for ok, _ in answers)
        assert len(cell.dataplane.links) == 100
        assert cells.states["cell-1"].reached < 60
        assert all(ok for ok, _ in await asyncio.gather(*(cell.call("down", f"app-{n}") for n in range(100))))


async def test_a_bridge_that_died_and_came_back_takes_over_what_the_cell_has(both: tuple[Bridge, Cell]) -> None:
    bridge, cell = both
    async with cell.agent() as agent:
        async with bridge.running():
            assert (await cell.up("one"))[0]
        bridge.holdings = HoldingsInADict(given=50)
        async with bridge.running():
            assert (await cell.up("two"))[0]
            assert [*bridge.holdings.leases] == ["cf:one", "cf:two"]
            assert sorted(cell.dataplane.links) == sorted([device_name("one"), device_name("two")])
            assert (await agent.answer(Request("down", "one", b"null", None))).ok
