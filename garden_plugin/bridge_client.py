"""How does an agent ask the bridge for an address, and hear what the network shall be? (See `wire`.)

connect ── Hello ──> Welcome ──> requests by number, spans          lost: again, 50 ms … 2 s apart
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from egress.values import Refused, RefusedError, Unavailable
from garden_plugin import frames, wire

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0
WELCOME_SECONDS = 10.0
RETRY_SECONDS = 0.2
"""Between two requests that the bridge was not ready for."""


class Listener(Protocol):
    """What the agent does with the bridge's news. Called in order, never concurrently."""

    def welcomed(self, welcome: wire.Welcome, connection: int) -> None:
        """Raises Unavailable when this bridge is not to be followed."""
        ...

    def spanned(self, span: wire.Span) -> None:
        """Raises ValueError when it does not fit what is held: the connection is made anew, with a whole span."""
        ...

    def acknowledged(self, handle: str) -> None: ...

    def lost(self, reason: str) -> None: ...


@dataclass(frozen=True, slots=True, order=True)
class Moment:
    """A revision counts on its connection only: after a restart the bridge may count from anew."""

    connection: int
    revision: int


NEVER = Moment(0, 0)


@dataclass(frozen=True, slots=True)
class Grant:
    addresses: tuple[str, ...]
    moment: Moment
    """When this is in force, so is what was asked for."""
    mtu: int


class BridgeClient:
    def __init__(self, path: str, hello: Callable[[], Awaitable[wire.Hello]], listener: Listener) -> None:
        self._path = path
        self._hello = hello
        self._listener = listener
        self._writer: asyncio.StreamWriter | None = None
        self._welcomed = asyncio.Event()
        self._pending: dict[int, asyncio.Future[wire.Granted | wire.Denied]] = {}
        self._requests = 0
        self._connections = 0
        self.away = f"the bridge at {path} was not reached yet"
        """What keeps us from an answer, for a person; empty while all is well."""

    async def run(self) -> None:
        """Until cancelled."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._converse()
            except (OSError, EOFError, TimeoutError, ValueError, msgspec.DecodeError, Unavailable) as fault:
                reason = str(fault) or type(fault).__name__
            welcomed = self._welcomed.is_set()
            self._disconnect(reason)
            if welcomed:
                pause = FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - not a secret
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def ask(self, port: wire.PortReport, *, update: bool = False) -> Grant:
        """Attach or update a port. Asks again over lost connections and while the bridge is not ready, so the caller
        sets the deadline and reads `away`. Raises RefusedError."""
        kind = wire.Update if update else wire.Attach
        while True:
            await self._welcomed.wait()
            self._requests += 1
            number, connection = self._requests, self._connections
            future = asyncio.get_running_loop().create_future()
            self._pending[number] = future
            try:
                self.send(kind(number, port))
                answer = await future
            except ConnectionError:
                continue
            finally:
                self._pending.pop(number, None)
            if isinstance(answer, wire.Granted):
                self.away = ""
                return Grant(answer.addresses, Moment(connection, answer.revision), answer.mtu)
            if not answer.retry:
                raise RefusedError(Refused(answer.code, answer.message))
            self.away = f"the bridge is not ready: {answer.message}"
            await asyncio.sleep(RETRY_SECONDS)

    def send(self, message: wire.FromAgent) -> bool:
        """False: the bridge is away, and it is lost; whoever needs more asks again."""
        if self._writer is None or not self._welcomed.is_set():
            return False
        self._writer.write(frames.frame(message))
        return True

    async def _converse(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=1 << 20)
        self._writer = writer
        writer.write(frames.frame(await self._hello()))
        decoder = msgspec.msgpack.Decoder(wire.FromBridge)
        try:
            async with asyncio.timeout(WELCOME_SECONDS):
                welcome = decoder.decode(await frames.read_frame(reader))
        except TimeoutError:
            raise Unavailable(f"it did not answer within {WELCOME_SECONDS:g} s") from None
        if not isinstance(welcome, wire.Welcome) or welcome.version != wire.VERSION:
            raise Unavailable(f"it speaks {welcome!r:.60}, this agent speaks version {wire.VERSION}")
        self._connections += 1
        self._listener.welcomed(welcome, self._connections)
        self.away = ""
        self._welcomed.set()
        while True:
            self._handle(decoder.decode(await frames.read_frame(reader)))

    def _handle(self, message: wire.FromBridge) -> None:
        match message:
            case wire.Granted() | wire.Denied():
                future = self._pending.get(message.request)
                if future is not None and not future.done():
                    future.set_result(message)
            case wire.Span():
                self._listener.spanned(message)
            case wire.Acknowledged(handle=handle):
                self._listener.acknowledged(handle)
            case wire.Welcome():
                raise Unavailable("it welcomed twice")

    def _disconnect(self, reason: str) -> None:
        self._welcomed.clear()
        self.away = f"the bridge at {self._path} is away: {reason}"
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ConnectionError(reason))
        self._listener.lost(reason)
