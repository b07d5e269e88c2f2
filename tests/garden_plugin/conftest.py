"""What do the agent's tests stand on? A bridge that grants, a dataplane and namespaces in a dict, a networker."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cfbridge.simulator import runs
from egress.topology import Port, PortKind, Topology
from garden_plugin import frames, wire
from garden_plugin.agent import Agent
from garden_plugin.cell.spool import hash_of
from garden_plugin.dataplane.base import LogicalNetwork
from garden_plugin.dataplane.memory_cell import MemoryCellDataplane
from garden_plugin.settings import AgentConfig


class FakeNamespaces:
    """Namespaces by the inode of whatever descriptor came. Survives an agent as mounts do."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}

    def path(self, handle: str) -> Path:
        return Path("/netns") / hash_of(handle)

    def hold(self, handle: str, descriptor: int) -> None:
        self.held[hash_of(handle)] = os.fstat(descriptor).st_ino

    def holds(self, handle: str) -> bool:
        return hash_of(handle) in self.held

    def is_held(self, handle: str, descriptor: int) -> bool:
        return self.held.get(hash_of(handle)) == os.fstat(descriptor).st_ino

    def release(self, handle: str) -> None:
        self.held.pop(hash_of(handle), None)

    def mend(self, handle: str) -> str:
        return ""

    def names(self) -> frozenset[str]:
        return frozenset(self.held)

    def release_stranger(self, name: str) -> None:
        del self.held[name]


@dataclass
class FakeBridge:
    """Grants addresses of 10.240.0.0/16 and sends the span that holds them, unless told otherwise."""

    path: str
    epoch: int = 1
    revision: int = 0
    leases: dict[str, str] = field(default_factory=dict)
    heard: list[Any] = field(default_factory=list)
    deny: list[wire.Denied] = field(default_factory=list)
    """Given to the next Attaches, with their number put in."""
    silent: bool = False
    """Reads, and answers nothing."""
    withhold_spans: bool = False
    second_family: bool = False
    _server: asyncio.Server | None = None
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _sent: LogicalNetwork | None = None
    _given: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.close()
        self._writers.clear()
        Path(self.path).unlink(missing_ok=True)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    async def hears(self, enough: Callable[[FakeBridge], object]) -> None:
        async with asyncio.timeout(10):
            while not enough(self):
                self._news.clear()
                await self._news.wait()

    def network(self) -> LogicalNetwork:
        ports = {
            f"cf:{handle}": Port(f"cf:{handle}", PortKind.CONTAINER, "cell-1", self.addresses(address), handle=handle)
            for handle, address in self.leases.items()
        }
        return LogicalNetwork(self.revision, Topology(ports=ports))

    def addresses(self, address: str) -> tuple[str, ...]:
        return (address, f"fd00::{address.rpartition('.')[2]}") if self.second_family else (address,)

    def publish(self) -> None:
        """One more revision, to whoever is connected."""
        self.revision += 1
        if self.withhold_spans:
            return
        for writer in self._writers:
            writer.write(frames.frame(wire.span(self._sent, self.network())))
        self._sent = self.network()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = msgspec.msgpack.Decoder(wire.FromAgent)
        try:
            while True:
                message = decoder.decode(await frames.read_frame(reader))
                self.heard.append(message)
                self._news.set()
                if not self.silent:
                    self._answer(message, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, message: wire.FromAgent, writer: asyncio.StreamWriter) -> None:
        match message:
            case wire.Hello():
                self.leases = {port.handle: port.addresses[0] for port in message.ports}
                writer.write(frames.frame(wire.Welcome(wire.VERSION, self.epoch, "cf")))
                self._writers, self._sent = [writer], None
                self.publish()
            case wire.Attach() | wire.Update():
                if self.deny:
                    writer.write(frames.frame(msgspec.structs.replace(self.deny.pop(0), request=message.request)))
                    return
                handle = message.port.handle
                if handle not in self.leases:
                    self._given += 1
                    self.leases[handle] = f"10.240.{self._given // 250}.{self._given % 250 + 3}"
                granted = wire.Granted(message.request, self.addresses(self.leases[handle]), self.revision + 1)
                writer.write(frames.frame(granted))
                self.publish()
            case wire.Detached(handle=handle):
                self.leases.pop(handle, None)
                writer.write(frames.frame(wire.Acknowledged(handle)))
                self.publish()


class Journal:
    """A log that is kept."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **fields: self.lines.append((level, event, fields))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for _, name, fields in self.lines if name == event]


@dataclass
class Cell:
    """One cell: what survives its agent, and the way to talk to it."""

    config: AgentConfig
    bridge: FakeBridge
    dataplane: MemoryCellDataplane = field(default_factory=MemoryCellDataplane)
    namespaces: FakeNamespaces = field(default_factory=FakeNamespaces)
    log: Journal = field(default_factory=Journal)
    boot_id: str = "boot-1"
    clock: float = 1_000_000.0

    def change(self, **settings: Any) -> None:
        self.config = replace(self.config, **settings)

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[Agent]:
        agent = Agent(
            self.config,
            self.dataplane,
            self.log,
            namespaces=self.namespaces,  # type: ignore[arg-type]
            boot_id=self.boot_id,
            now=lambda: self.clock,
        )
        async with agent.running():
            yield agent

    async def call(self, action: str, handle: str, stdin: object = None, netns: int | None = None) -> tuple[bool, str]:
        """What a networker does. (worked, what it prints)"""
        body = stdin if isinstance(stdin, bytes) else msgspec.json.encode(stdin)
        raw = handle.encode()
        head = f"1 {action} {len(raw)} {len(body)}\n".encode()
        reader, writer = await asyncio.open_unix_connection(self.config.socket)
        if netns is not None:
            sock = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
            with sock:
                socket.send_fds(sock, [head], [netns])
        else:
            writer.write(head)
        writer.write(raw + body)
        writer.write_eof()
        reply = (await reader.read()).decode()
        writer.close()
        return reply[:1] == "0", reply[1:]

    async def up(self, handle: str, stdin: object = None, netns: int | None = None) -> tuple[bool, str]:
        """Each handle has a namespace of its own unless one is given."""
        if netns is not None:
            return await self.call("up", handle, stdin or app(), netns)
        path = Path(self.config.state_dir).parent / f"netns-{hash_of(handle)}"
        path.touch()
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return await self.call("up", handle, app() if stdin is None else stdin, descriptor)
        finally:
            os.close(descriptor)


def app(*container_ports: int, **properties: str) -> dict[str, Any]:
    """stdin of an `up` of an app instance."""
    known = {"org_id": "acme", "space_id": "dev", "app_id": "web", "container_workload": "app", **properties}
    netin = [{"host_port": 0, "container_port": port} for port in container_ports]
    return {"Pid": 4711, "Properties": known, **({"netin": netin} if netin else {})}


CHECK = {"Pid": 4711, "Properties": {"healthcheck": "true"}}


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A unix socket's path must be shorter than pytest's own directories may be."""
    with runs.folder() as path:
        yield Path(path)


@pytest.fixture
async def cell(short_path: Path) -> AsyncIterator[Cell]:
    config = AgentConfig(
        cell="cell-1",
        socket=str(short_path / "agent.sock"),
        state_dir=str(short_path / "state"),
        bridge=str(short_path / "bridge.sock"),
        uplinks=(),
        host_address="192.0.2.10",
        deadline_seconds=10.0,
    )
    bridge = FakeBridge(config.bridge)
    await bridge.start()
    yield Cell(config, bridge)
    await bridge.stop()
