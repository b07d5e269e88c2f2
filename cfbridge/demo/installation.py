"""What is a foundation in a box made of?

this process     the simulated Cloud Foundry, Guardian and Diego, and the probes
child            `cfbridge serve` on SQLite, on loopback
child            `cfbridge agent`, in the cell's network namespace
children         DNS in the cell, apps in their containers
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from cfbridge.client import AdminClient
from cfbridge.demo.diego import Diego
from cfbridge.simulator import lab, runs
from cfbridge.simulator.box import Box as Foundation
from cfbridge.simulator.box import SimulatorConfig, serve
from cfbridge.simulator.lab import Lab
from cfbridge.simulator.probe import Probe
from egress.values import Unavailable

READY_SECONDS = 30.0
VM_NAME, VM_DEVICE, VM_ADDRESS = "db-1", "tap-db1", "10.243.200.11"
CELL_SERVICE_PORT = 2375
ROOT = Path(__file__).resolve().parents[2]

INTENT = f"""
tenants:
  acme: {{mode: nat}}
  globex: {{mode: routed}}
vms:
  {VM_NAME}: {{org: acme, addresses: [{VM_ADDRESS}], port: {VM_DEVICE}}}
"""
POOLS = (
    {"name": "overlay", "kind": "container", "prefixes": ["10.240.0.0/14"], "org_prefix_length": 24},
    {
        "name": "routable-a",
        "kind": "container",
        "prefixes": ["172.20.0.0/16"],
        "org_prefix_length": 24,
        "routable": True,
    },
    {"name": "snat", "kind": "snat", "prefixes": ["203.0.113.0/26"]},
)


@dataclass
class Installation:
    """The parts of one foundation in a box, brought up and taken down."""

    log_level: str = "info"
    store: str = ""
    """Empty = SQLite in the box's folder."""
    intent: str = INTENT
    by_file: bool = True
    """The bridge obeys the intent file; else it has no rules, tenants and machines before somebody publishes them."""
    pools: Sequence[Mapping[str, Any]] = POOLS
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the bridge's config."""
    looks: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the foundation in it."""
    vm_address6: str = ""
    """The VM's second address; the intent has to name it too."""
    program: Sequence[str] = (sys.executable, "-m", "cfbridge")
    """What is started as `cfbridge`."""

    lab: Lab = field(init=False)
    foundation: Foundation = field(init=False)
    diego: Diego = field(init=False)
    vm_address: str = VM_ADDRESS
    cell_service_port: int = CELL_SERVICE_PORT

    async def __aenter__(self) -> Self:
        self._folder = _folder()
        self.directory = Path(self._folder.name)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._probes: dict[str, Probe] = {}
        self._tasks: list[asyncio.Task[None]] = []
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _start(self) -> None:
        self.lab = await asyncio.to_thread(Lab)
        address, gateway = f"{VM_ADDRESS}/24", VM_ADDRESS.rpartition(".")[0] + ".1"
        six = f"{self.vm_address6}/128" if self.vm_address6 else ""
        await asyncio.to_thread(self.lab.vm, "vm1", VM_DEVICE, address, gateway, six)
        self.lab.announce("203.0.113.0/26")
        self.foundation = await self._serve()
        self._write_configs()
        self.start_bridge()
        self.start_agent()
        dns = ("-m", "cfbridge.simulator.dns", "--address", lab.DNS, ".apps.internal=192.0.2.99")
        self._children["dns"] = self._spawn("dns", self.lab.cell.command(sys.executable, *dns))
        plugin = str(ROOT / "garden_plugin" / "networker.py")
        self.diego = Diego(
            self.foundation.state,
            ("/usr/bin/python3", "-I", "-S", plugin, f"--configFile={self.directory / 'networker.json'}"),
            external_ip=lab.CELL,
        )
        await asyncio.to_thread(self._listen)
        await self._until_ready()
        self._tasks.append(asyncio.create_task(self.diego.run()))

    async def _serve(self) -> Foundation:
        """Cloud Foundry's servers, in this process; a box that has them elsewhere says so here."""
        return await serve(SimulatorConfig(self.directory / "cf", seeded=False, asg_sync_seconds=0))

    def _listen(self) -> None:
        """Servers that are not Cloud Foundry's: outside, on the VM, and a port of the cell that nobody may reach."""
        for port in (80, 443, 8080):
            self.lab.probe("ext").listen("tcp", port)
        self.lab.probe("ext").listen("udp", 5353)
        self.lab.probe("vm1").listen("tcp", 5432)
        self.lab.probe("cell").listen("tcp", CELL_SERVICE_PORT)

    # ---- files and processes

    def _write_configs(self) -> None:
        there = self.foundation.foundation
        bridge = {
            "foundations": [
                {
                    "name": "cf",
                    "api": there.api_url,
                    "client_id": there.client_id,
                    "client_secret_file": str(there.client_secret_file),
                    "delta_seconds": 1.0,
                    "asg_seconds": 0.5,
                    "asg_settle_seconds": 0.5,
                    "policy_server": {
                        "url": there.internal_url,
                        "ca": str(there.ca),
                        "certificate": str(there.client_cert),
                        "private_key": str(there.client_key),
                    },
                    **self.looks,
                }
            ],
            "store": self.store or f"sqlite:///{self.directory / 'state.db'}",
            "state_dir": str(self.directory / "bridge"),
            "agent_socket": str(self.directory / "bridge.sock"),
            **({"intent_file": str(self.directory / "intent.yaml")} if self.by_file else {}),
            "pools": [dict(pool) for pool in self.pools],
            "api": {"listen": [f"unix:{self.directory / 'api.sock'}"]},
            **self.settings,
        }
        agent = {
            "cell": "cell-1",
            "socket": str(self.directory / "agent.sock"),
            "state_dir": str(self.directory / "agent"),
            "bridge": str(self.directory / "bridge.sock"),
            "uplinks": [lab.UPLINK],
        }
        networker = {"socket": agent["socket"], "deadline_seconds": 25}
        (self.directory / "intent.yaml").write_text(self.intent)
        (self.directory / "bridge.yaml").write_text(yaml.safe_dump(bridge))
        (self.directory / "agent.yaml").write_text(yaml.safe_dump(agent))
        (self.directory / "networker.json").write_text(json.dumps(networker))

    def start_bridge(self) -> None:
        command = (*self.program, "serve", "--config", str(self.directory / "bridge.yaml"))
        self._children["bridge"] = self._spawn("bridge", (*command, "--log-level", self.log_level))

    def start_agent(self) -> None:
        command = (*self.program, "agent", "--config", str(self.directory / "agent.yaml"))
        self._children["agent"] = self._spawn("agent", self.lab.cell.command(*command, "--log-level", self.log_level))

    def kill(self, name: str) -> None:
        """`bridge` or `agent`, without a word of warning."""
        child = self._children.pop(name)
        child.kill()
        child.wait()

    def pid(self, name: str) -> int:
        return self._children[name].pid

    def ended(self) -> dict[str, int]:
        """Children that nobody killed and that are not there any more, and with what they ended."""
        return {name: status for name, child in self._children.items() if (status := child.poll()) is not None}

    def runs(self, name: str) -> bool:
        return name in self._children and name not in self.ended()

    def _spawn(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with open(self.directory / f"{name}.log", "ab") as output:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            return subprocess.Popen([*command], stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)

    async def _until_ready(self) -> None:
        """The bridge answers, the agent is connected, and both agree on what is in force."""

        async def ready() -> bool:
            for name in ("bridge", "agent"):
                if self._children[name].poll() is not None:
                    raise RuntimeError(f"the {name} ended:\n{self.log(name)[-3000:]}")
            if not (self.directory / "agent.sock").exists():
                return False
            try:
                cells = await self.api("cells")
            except (OSError, Unavailable):  # not there yet
                return False
            return any(cell["connected"] and cell["reached_revision"] for cell in cells)

        if not await until(ready, READY_SECONDS):
            raise RuntimeError(
                f"not ready in {READY_SECONDS} s:\n{self.log('bridge')[-2000:]}{self.log('agent')[-2000:]}"
            )

    def log(self, name: str) -> str:
        path = self.directory / f"{name}.log"
        return path.read_text() if path.exists() else ""

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for probe in self._probes.values():
            probe.close()
        if hasattr(self, "diego"):
            await self.diego.close()
        for child in self._children.values():
            child.send_signal(signal.SIGTERM)
        for child in self._children.values():
            try:
                await asyncio.to_thread(child.wait, 10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if hasattr(self, "foundation"):
            await self.foundation.stop()
        if hasattr(self, "lab"):
            await asyncio.to_thread(self.lab.close)
        await asyncio.to_thread(runs.unmount_below, self.directory)
        self._folder.cleanup()

    async def api(self, resource: str) -> list[dict[str, Any]]:
        """All rows of a resource of the admin API."""
        async with AdminClient.local(str(self.directory / "api.sock"), attempts=1) as client:
            return [asdict(row) async for row in client.list(resource)]


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, every: float = 0.05) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(every)
    return True


def _folder() -> tempfile.TemporaryDirectory[str]:
    """Beside the checkout's other scratch, unless that makes a socket's path too long for the kernel (107 bytes)."""
    parent = ROOT / ".run"
    if len(str(parent)) > 60 or not os.access(ROOT, os.W_OK) or not (ROOT / "pyproject.toml").exists():
        return runs.folder()
    parent.mkdir(exist_ok=True)
    runs.reap(parent)
    return runs.folder(parent)
