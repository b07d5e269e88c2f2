"""What is one agent told, and how far is it? Networks as changes, the newest alone where it reads slowly."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field

from garden_plugin import frames, wire
from garden_plugin.dataplane.base import LogicalNetwork

UNREAD_BYTES = 4 << 20
"""An agent that has this much to read is sent no more until it has read it; then the newest alone."""


@dataclass
class Connection:
    """One agent's connection. `sent` is the network that the agent holds when it has read what we wrote."""

    cell: str
    writer: asyncio.StreamWriter
    first: int = 0
    """The first revision that contains what the agent said at its hello; older ones are not for it."""
    sent: LogicalNetwork | None = None
    behind_since: float | None = None
    """When it was first sent something that it has not reached yet; monotonic seconds."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    asking: dict[str, wire.PortReport] = field(default_factory=dict)
    """By handle: ports whose addresses are being asked for. A `Detached` meanwhile takes them out."""
    waiting: LogicalNetwork | None = None
    """The newest network, while the agent is still to read what it was sent."""
    ended: bool = False
    """Its cell connected anew, or it is gone: what it still says is old."""

    def send(self, message: wire.FromBridge) -> None:
        self.writer.write(frames.frame(message))

    def deliver(self, network: LogicalNetwork) -> None:
        if self.waiting is not None:
            self.waiting = network
            return
        newest = self.first - 1 if self.sent is None else self.sent.revision
        if network.revision > newest:
            self.send(wire.span(self.sent, network))
            self.sent = network
            self.behind_since = self.behind_since or time.monotonic()
            if self.writer.transport.get_write_buffer_size() > UNREAD_BYTES:
                self.waiting = network
                self.begin(self._deliver_when_read())

    def begin(self, work: Awaitable[None]) -> None:
        """As long as the connection lasts."""

        async def run() -> None:
            await work

        task = asyncio.get_running_loop().create_task(run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _deliver_when_read(self) -> None:
        with contextlib.suppress(ConnectionError):  # whoever reads from it notices as well
            await self.writer.drain()
            newest, self.waiting = self.waiting, None
            if newest is not None:
                self.deliver(newest)
