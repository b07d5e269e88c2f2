"""Do Guardian, networker and agent work together? Real processes and namespaces; bridge and dataplane are fakes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cfbridge.simulator.garden import ContainerSpec, GardenError, Guardian, diego_spec, health_check_spec
from garden_plugin import networker, wire
from garden_plugin.cell.attach import Namespaces
from garden_plugin.dataplane.cell import device_name
from tests.garden_plugin.conftest import Cell

pytestmark = pytest.mark.packets


@pytest.fixture
def real(cell: Cell) -> Cell:
    """The cell with namespaces that are mounted."""
    cell.namespaces = Namespaces(Path(cell.config.state_dir) / "netns")  # type: ignore[assignment]
    return cell


@pytest.fixture
async def guardian(real: Cell) -> AsyncIterator[Guardian]:
    config = Path(real.config.socket).parent / "networker.json"
    config.write_text(json.dumps({"socket": real.config.socket, "deadline_seconds": 25}))
    extra = ("-I", "-S", networker.__file__, f"--configFile={config}")
    async with Guardian("/usr/bin/python3", extra, retry_seconds=0.05) as guardian:
        yield guardian
        for handle in guardian.containers:
            real.namespaces.release(handle)


def app(handle: str) -> ContainerSpec:
    return diego_spec(
        handle, org="o", space="s", app="a", org_name="acme", app_name="web", netin=[(0, 61001), (0, 61002)]
    )


def mounts(cell: Cell) -> int:
    return Path("/proc/self/mountinfo").read_text().count(cell.config.state_dir)


async def test_a_container_is_created_with_its_address_and_ports(real: Cell, guardian: Guardian) -> None:
    async with real.agent():
        container = await guardian.create(app("one"))
        assert container.address == "10.240.0.4"
        assert container.mapped_ports == {61001: 61000, 61002: 61001}
        assert container.dns_servers == ("169.254.0.53",)
        (attach,) = real.bridge.of(wire.Attach)
        assert (attach.port.org_name, attach.port.app_name, attach.port.lifecycle) == ("acme", "web", "app")
        assert os.stat(real.dataplane.links[device_name("one")].netns).st_ino == os.stat(container.netns).st_ino
        await guardian.destroy("one")
        assert not real.dataplane.links
        assert mounts(real) == 0


async def test_the_namespace_is_within_reach_when_the_process_is_gone(real: Cell, guardian: Guardian) -> None:
    async with real.agent():
        container = await guardian.create(app("one"))
        inode = os.stat(container.netns).st_ino
        assert container.init is not None
        container.init.kill()
        await asyncio.to_thread(container.init.wait)
        assert os.stat(real.dataplane.links[device_name("one")].netns).st_ino == inode
        await guardian.destroy("one")


async def test_net_in_and_net_out_work_as_garden_calls_them(real: Cell, guardian: Guardian) -> None:
    async with real.agent():
        container = await guardian.create(app("one"))
        assert await guardian.net_in("one", 0, 9090) == (61002, 9090)
        assert container.mapped_ports[9090] == 61002
        await guardian.net_out("one", {"protocol": 1, "ports": [{"start": 443, "end": 443}]})
        await guardian.bulk_net_out("one", [{"protocol": 3, "icmps": {"type": 255, "code": 255}}])
        assert len(real.bridge.of(wire.Update)[-1].port.added_net_out) == 2
        await guardian.destroy("one")


async def test_a_health_check_passes_while_the_bridge_is_away(real: Cell, guardian: Guardian) -> None:
    await real.bridge.stop()
    async with real.agent():
        container = await guardian.create(health_check_spec("check-1"))
        assert container.address == "169.254.64.1"
        await guardian.destroy("check-1")


async def test_a_create_without_agent_fails_and_leaves_nothing(real: Cell, guardian: Guardian) -> None:
    with pytest.raises(GardenError, match="'up' action: exit status 1") as failure:
        await guardian.create(app("one"))
    assert "is away" in failure.value.stderr
    assert guardian.containers == {}
    async with real.agent():
        assert (await guardian.create(app("one"))).address
        await guardian.destroy("one")


async def test_a_destroy_without_agent_is_made_up_for_before_the_next_create(real: Cell, guardian: Guardian) -> None:
    async with real.agent():
        await guardian.create(app("one"))
    await guardian.destroy("one")
    assert real.dataplane.links
    async with real.agent():
        await guardian.create(app("two"))
        assert [*real.dataplane.links] == [device_name("two")]
        await guardian.destroy("two")
        assert mounts(real) == 0


async def test_containers_that_survive_an_agent_keep_everything(real: Cell, guardian: Guardian) -> None:
    async with real.agent():
        await guardian.create(app("one"))
        before = dict(real.dataplane.links)
    await guardian.restart()
    async with real.agent():
        assert real.dataplane.links == before
        await guardian.destroy("one")


async def test_a_hundred_at_once_up_and_down_and_twice(real: Cell, guardian: Guardian) -> None:
    handles = [f"app-{n}" for n in range(100)]
    async with real.agent():
        await real.bridge.hears(lambda b: b.of(wire.Reached))
        containers = await asyncio.gather(*(guardian.create(app(handle)) for handle in handles))
        assert len({container.address for container in containers}) == 100
        assert mounts(real) == 100
        await guardian.restart(destroy_containers=True)
        assert mounts(real) == 0
        assert not real.dataplane.links
        await asyncio.gather(*(guardian.down(handle) for handle in [*handles[:20], *(f"never-{n}" for n in range(20))]))
        assert all(call.status == 0 and not call.stderr for call in guardian.calls)
