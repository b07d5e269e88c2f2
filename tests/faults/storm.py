"""What is going on when a process dies? A foundation in a box whose daemons may die anywhere, and 32 `up`s at once.

steady     a client with streams to and from its server; a stranger whose refused datagrams come 1,000 times a second
a storm    32 `up`s, the `down`s of the storm before, policies and a VM that come and go, rules and an org's mode that
           change, more ports and rules for containers that have just come up; in some, somebody deletes our table
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.demo.installation import INTENT, VM_ADDRESS
from cfbridge.simulator.garden import Container, ContainerSpec, GardenError, diego_spec, health_check_spec
from tests.faults.launcher import Arm
from tests.faults.points import ROLES, STARTING, Seen
from tests.scenarios.stage import FLOOD, becomes, known_app, spec, tcp, udp

UPS = 32
PATIENCE_SECONDS = 60.0
RETRY_SECONDS = 1.0
"""Between attempts of who was refused: Diego is slower, and 32 that ask all the time would be a load of their own."""
SECOND_VM = "10.243.200.12"
REST_SECONDS = 20.0
"""Short, so that addresses and mapped ports come round and are given a second time while we look."""
LOOK_SECONDS = 1.0
"""Between the agent's whole looks: what is not as it believes, it finds, and its log says so."""


@dataclass
class FaultyBox(Box):
    """A box whose bridge and agent note where they could die, and die where they are told."""

    def __post_init__(self) -> None:
        self.program = (sys.executable, "-m", "tests.faults.launcher")
        self.settings = {**self.settings, "defaults": {"lease_rest_seconds": REST_SECONDS}}

    def _write_configs(self) -> None:
        super()._write_configs()
        (self.directory / "faults").mkdir()
        self.seen = {role: Seen(role, self.directory / "faults" / f"{role}.seen") for role in ROLES}
        for role in ROLES:
            self.arm(role, Arm(STARTING))
        path = self.directory / "agent.yaml"
        told = {"resync_seconds": LOOK_SECONDS, "mapped_port_rest_seconds": REST_SECONDS}
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **told}))

    def arm(self, role: str, arm: Arm) -> None:
        arm.write(self.directory / "faults" / f"{role}.arm")

    def strike(self, role: str) -> None:
        """Without a word of warning, and whoever watches finds it dead."""
        self._children[role].kill()

    def lose_store(self) -> None:
        for path in self.directory.glob("state.db*"):
            path.unlink()

    def start_again(self, role: str) -> None:
        """As a supervisor does, at once."""
        self._children.pop(role).wait()
        self.start_bridge() if role == "bridge" else self.start_agent()


@dataclass(frozen=True)
class Steady:
    """What goes on through all storms."""

    box: FaultyBox
    client: Instance
    server: Instance
    stranger: Instance
    fencer: Instance
    flood: Any
    """The process that sends what is refused."""

    @classmethod
    async def begin(cls, box: FaultyBox) -> Steady:
        for org, app in (("acme", "client"), ("acme", "server"), ("acme", "fencer"), ("globex", "stranger")):
            await box.push(org, "dev", app)
        await known_app(box, "globex", "dev", "visitor")
        await box.push("initech", "dev", "third")
        router = VM_ADDRESS.rpartition(".")[0] + ".1"
        await asyncio.to_thread(box.lab.vm, "vm2", "tap-db2", f"{SECOND_VM}/24", router)
        client, server, fencer, stranger = map(box.instance, ("client", "server", "fencer", "stranger"))
        await box.add_policy("client", "server")
        await box.add_policy("fencer", "server", "udp", "5000")
        await box.add_policy("client", "server", ports="8081")
        await becomes("open", lambda: tcp(box, client, server))
        await becomes("open", lambda: tcp(box, client, server, 8081))
        await becomes("open", lambda: udp(box, fencer, server))
        await box.open_stream(client, "mine", server.address, 8080, push="client")
        await box.open_stream(client, "theirs", server.address, 8080, push="server")
        await asyncio.to_thread(box.probe(server).hear)
        await asyncio.to_thread(box.probe(server).heard)
        flood = await box.diego.guardian.run(stranger.handle, (sys.executable, "-S", "-c", FLOOD, server.address))
        assert flood.stdout is not None
        assert await asyncio.to_thread(flood.stdout.readline) == b"sending\n"
        return cls(box, client, server, stranger, fencer, flood)

    async def streams_live(self) -> bool:
        return all([await self.box.flows(self.client, name) for name in ("mine", "theirs")])

    def sent(self) -> int:
        """Packets that the stranger's host has sent so far."""
        lines = Path(f"/proc/{self.flood.pid}/net/dev").read_text().splitlines()
        return next(int(line.split()[10]) for line in lines if line.lstrip().startswith("eth0:"))


@dataclass
class Storm:
    """One storm, and what of it is left for the next one to take away."""

    steady: Steady
    number: int
    flush: bool = False
    """Somebody deletes our table in it."""
    left: dict[str, Container] = field(default_factory=dict)
    """Containers of the storm before."""
    here: dict[str, Container] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    """Address → handle, of containers that stand."""

    @property
    def box(self) -> FaultyBox:
        return self.steady.box

    @property
    def machines(self) -> set[str]:
        """Addresses of VMs: one stays, one comes and goes."""
        return {VM_ADDRESS, SECOND_VM} if self.number % 2 else {VM_ADDRESS}

    async def run(self) -> None:
        """Until everything was answered; what failed was tried again."""
        self.held = {container.address: handle for handle, container in self.left.items()}
        await asyncio.gather(
            *(self._up(number) for number in range(UPS)),
            *(self._down(handle) for handle in tuple(self.left)),
            self._change(),
        )

    def _spec(self, number: int) -> ContainerSpec:
        """Of two orgs that are known, of one that nobody has met, and checks that belong to none."""
        handle = secrets.token_hex(8)
        more: dict[str, Any] = {"handle": handle, "netin": [(0, 8080), (0, 8081)], "netout_rules": [_OUT]}
        if number % 8 == 7:
            return health_check_spec(handle)
        if number % 8 == 6:
            org = f"00000000-0000-4000-8000-{self.number:012x}"
            name = f"org-{self.number}"
            return diego_spec(handle, org=org, space=f"{org}-dev", app=f"{org}-new", org_name=name, app_name="new")
        if number % 8 == 5:
            return spec(self.box, "client", lifecycle="staging", handle=handle)
        return spec(self.box, "client" if number % 2 else "visitor", **more)

    async def _up(self, number: int) -> None:
        async def attempt() -> Container:
            return await self.box.diego.guardian.create(self._spec(number))

        container = await self._insist("up", attempt)
        if not container.address:
            self.faults.append(f"up of {container.handle} was answered without an address")
        if (other := self.held.get(container.address)) is not None:
            self.faults.append(f"{container.address} was given to {container.handle}, and {other} still held it")
        self.held[container.address] = container.handle
        self.here[container.handle] = container
        if number % 8 == 1:
            await self._insist("net-in", lambda: self.box.diego.guardian.net_in(container.handle, 0, 9000 + number))
        if number % 8 == 3:
            more = {**_OUT, "ports": [{"start": 8443, "end": 8443}]}
            await self._insist("bulk-net-out", lambda: self.box.diego.guardian.bulk_net_out(container.handle, [more]))

    async def _down(self, handle: str) -> None:
        address = self.left[handle].address
        if self.held.get(address) == handle:
            del self.held[address]
        await self._insist("down", lambda: self.box.diego.guardian.destroy(handle))

    async def _insist(self, action: str, act: Callable[[], Awaitable[Any]]) -> Any:
        """As Diego does: what fails is tried again. It has to fail cleanly: exit 1, one line that says why."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await act()
            except GardenError as failed:
                if "exit status 1" not in str(failed) or not failed.stderr or failed.stderr.count("\n") > 1:
                    self.faults.append(f"{action} failed otherwise than by one line: {failed} {failed.stderr!r}")
                if time.monotonic() > until:
                    raise TimeoutError(f"{action} fails still: {failed.stderr}") from failed
                await asyncio.sleep(RETRY_SECONDS)

    # ---- what people change meanwhile

    @property
    def _pair(self) -> tuple[str, str]:
        """(whose policy comes, whose goes)"""
        return ("fencer", "client") if self.number % 2 else ("client", "fencer")

    async def _change(self) -> None:
        box, odd = self.box, self.number % 2
        if self.flush:
            await asyncio.to_thread(box.lab.cell.run, "nft", "delete", "table", "inet", "cfbridge")
        box.intent = INTENT.replace("tenants:", f"tenants:\n  initech: {{mode: {'nat' if odd else 'shared'}}}")
        box.add_rules(_MACHINE * odd + _RULES.format(port=7000 + odd, more=", 198.51.100.7" * odd))
        comes, goes = self._pair
        await box.add_policy(comes, "server", ports="8081")
        await box.remove_policy(goes, "server", ports="8081")
        await (box.add_policy if odd else box.remove_policy)("client", "server", "udp", "5000")

    async def changed(self, seconds: float) -> None:
        """The policy that came is in force; the one that went is not, and the stream that it admitted has ended."""
        comes, goes = (getattr(self.steady, name) for name in self._pair)
        box, server = self.box, self.steady.server
        await becomes("open", lambda: tcp(box, comes, server, 8081), seconds)
        await becomes("refused", lambda: tcp(box, goes, server, 8081), seconds)
        if self.number > 1:
            assert await box.until_cut(goes, f"of storm {self.number - 1}", seconds), (
                "what a policy admitted outlives it"
            )
            await asyncio.to_thread(box.probe(goes).close_stream, f"of storm {self.number - 1}")
        await box.open_stream(comes, f"of storm {self.number}", server.address, 8081)
        datagrams = "open" if self.number % 2 else "refused"
        await becomes(datagrams, lambda: udp(box, self.steady.client, server), seconds)

    async def visit(self) -> None:
        """One of the new containers talks to the server, so that there is a connection for its `down` to forget."""
        container = next(each for each in self.here.values() if self._is_clients(each))
        visitor = Instance(container.handle, "client", 9, container)
        try:
            await becomes("open", lambda: tcp(self.box, visitor, self.steady.server))
        finally:
            self.box._probes.pop(container.handle).close()

    def _is_clients(self, container: Container) -> bool:
        wanted = self.box.app_guid("client")
        said = container.properties
        return said.get("network.app_id") == wanted and said["network.container_workload"] == "app"


_OUT = {"protocol": 1, "networks": [{"start": "192.0.2.9", "end": "192.0.2.9"}], "ports": [{"start": 443, "end": 443}]}
_MACHINE = f"  db-2: {{org: acme, addresses: [{SECOND_VM}], port: tap-db2}}\n"
_RULES = """
groups:
  outside: ["192.0.2.77"{more}]
rules:
  environment:
    storms:
      - {{name: nobody goes there, from: any, to: outside, services: [tcp/{port}], action: reject, reason: faults}}
"""
