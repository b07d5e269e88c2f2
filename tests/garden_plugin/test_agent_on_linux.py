"""Does the whole agent run as a process on the linux dataplane, die, and come back? In namespaces of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cfbridge.simulator.garden import Guardian, diego_spec, health_check_spec
from garden_plugin import networker, wire
from tests.garden_plugin.conftest import Cell

pytestmark = pytest.mark.packets

PROGRAM = """
import asyncio, json, sys, structlog
from garden_plugin import agent
from garden_plugin.settings import AgentConfig
settings = json.loads(sys.argv[1])
config = AgentConfig(**{key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()})
asyncio.run(agent.run(config, structlog.get_logger()))
"""


@dataclass
class Machine:
    """Network and mount namespaces that outlive the agent, and end with the test."""

    settings: dict[str, object]
    agents: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        words = ["unshare", "--net", "--mount", "--", "cat"]
        self.holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self.holder.stdin is not None
        assert self.holder.stdout is not None
        self.holder.stdin.write(b"\n")
        self.holder.stdout.read(1)
        self.ip("link", "set", "lo", "up")
        self.ip("link", "add", "up0", "type", "veth", "peer", "name", "out0")
        self.ip("address", "add", "192.0.2.10/24", "dev", "up0")
        self.ip("link", "set", "up0", "up")

    def ip(self, *words: str) -> str:
        return subprocess.run([*self._inside(), "ip", *words], capture_output=True, text=True, check=True).stdout

    def start_agent(self) -> subprocess.Popen[bytes]:
        words = [*self._inside(), sys.executable, "-c", PROGRAM, json.dumps(self.settings)]
        agent = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        self.agents.append(agent)
        return agent

    def end(self) -> None:
        for agent in self.agents:
            agent.kill()
            agent.wait()
        self.holder.communicate()

    def _inside(self) -> list[str]:
        return ["nsenter", "-t", str(self.holder.pid), "--net", "--mount", "--wd=/", "--"]


@pytest.fixture
def machine(cell: Cell) -> Iterator[Machine]:
    config = cell.config
    paths = {"socket": config.socket, "state_dir": config.state_dir, "bridge": config.bridge}
    machine = Machine({"cell": "cell-1", "uplinks": ["up0"], **paths})
    yield machine
    machine.end()


@pytest.fixture
async def guardian(cell: Cell) -> AsyncIterator[Guardian]:
    config = Path(cell.config.socket).parent / "networker.json"
    config.write_text(json.dumps({"socket": cell.config.socket, "deadline_seconds": 25}))
    extra = ("-I", "-S", networker.__file__, f"--configFile={config}")
    async with Guardian("/usr/bin/python3", extra) as guardian:
        yield guardian


async def test_it_serves_and_stops_when_asked(cell: Cell, machine: Machine, guardian: Guardian) -> None:
    agent = machine.start_agent()
    await cell.bridge.hears(lambda b: b.of(wire.Reached))
    assert cell.bridge.of(wire.Hello)[0].addresses == ("192.0.2.10", "169.254.0.53")
    check = await guardian.create(health_check_spec("check-1"))
    assert check.address == "169.254.64.1"
    container = await guardian.create(diego_spec("one", org="o", space="s", app="a", netin=[(0, 8080)]))
    looking = await guardian.run("one", ["ip", "-brief", "address", "show", "eth0"])
    printed, _ = await asyncio.to_thread(looking.communicate)
    assert container.address in printed.decode()
    await guardian.destroy("one")
    await guardian.destroy("check-1")
    assert "cf-" not in machine.ip("-brief", "link")
    agent.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(agent.wait, 30) == 0
    assert not os.path.exists(cell.config.socket)


async def test_killed_and_started_again_it_touches_no_link(cell: Cell, machine: Machine, guardian: Guardian) -> None:
    agent = machine.start_agent()
    await cell.bridge.hears(lambda b: b.of(wire.Reached))
    await guardian.create(diego_spec("one", org="o", space="s", app="a", netin=[(0, 8080)]))
    await guardian.create(health_check_spec("check-1"))
    before = machine.ip("-oneline", "link"), machine.ip("route", "show", "table", "all")
    assert before[0].count(": cf-") == 2
    agent.kill()
    await asyncio.to_thread(agent.wait)
    cell.bridge.heard.clear()
    machine.start_agent()
    await cell.bridge.hears(lambda b: b.of(wire.Reached))
    assert (machine.ip("-oneline", "link"), machine.ip("route", "show", "table", "all")) == before
    assert [port.handle for port in cell.bridge.of(wire.Hello)[0].ports] == ["one"]
    await guardian.destroy("one")
    await guardian.destroy("check-1")
    assert ": cf-" not in machine.ip("-oneline", "link")
    await cell.bridge.hears(lambda b: not b.leases)
