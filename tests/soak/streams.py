"""Do connections live as long as they are allowed, and not longer? One task a stream, lines in either direction."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from egress.values import unqualify
from tests.soak.judge import SILENT, Judge
from tests.soak.places import Places
from tests.soak.truth import Way

EVERY_SECONDS = 0.25
CONNECT_SECONDS = 4.0
STALL_SECONDS = 12.0
"""Longer than a busy machine's pause; a stream that says nothing for so long is dead."""
HEALED_STALL_SECONDS = 45.0
"""After somebody took the way away for seconds: TCP doubles its pauses before it tries again."""
MARGIN_SECONDS = 1.0
"""A line is read some time after it came."""


@dataclass
class Streams:
    judge: Judge
    places: Places
    stands: Callable[[Way], bool]
    """Both ends are there still, and the other one listens."""
    alive: set[Way] = field(default_factory=set)
    opened: int = 0
    ended_rightly: int = 0

    def between(self) -> set[tuple[str, str]]:
        """Pairs of apps, by GUID."""
        pairs = set()
        for way in self.alive:
            ends = [end.workload.app for end in (way.source, way.destination) if end.workload and end.workload.app]
            if len(ends) == 2:
                pairs.add((unqualify(ends[0])[1], unqualify(ends[1])[1]))
        return pairs

    async def connect(self, way: Way) -> None:
        """One connection, closed at once."""
        began = time.monotonic()
        wire, how = await self._connected(way)
        if how == "timeout":
            began = time.monotonic()
            wire, how = await self._connected(way)
        until = time.monotonic()
        self.judge.count("connect", way, began, until)
        if wire is not None:
            wire.close()
            self.judge.passed("connect", way, began, until)
        elif await self._still(way):
            self.judge.failed("connect", way, began, until, how)

    async def _connected(self, way: Way) -> tuple[socket.socket | None, str]:
        try:
            wire = self.places.socket(way.source.netns, socket.SOCK_STREAM)
        except OSError:
            return None, "gone"
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(wire, way.dialled)
            return wire, ""
        except TimeoutError:
            how = "timeout"
        except OSError as error:
            how = error.strerror or str(error)
        wire.close()
        return None, how

    async def _still(self, way: Way) -> bool:
        """Whoever ends a container kills it first: a moment later it is seen to be gone."""
        await asyncio.sleep(MARGIN_SECONDS)
        return self.stands(way)

    async def run(self, way: Way, push: str, seconds: float) -> None:
        """A stream for so long, or until it is cut. `push`: `client` sends lines and has them echoed, or `server`."""
        began = time.monotonic()
        wire, how = await self._connected(way)
        until = time.monotonic()
        self.judge.count("connect", way, began, until)
        if wire is None:
            if how != "timeout" and await self._still(way):
                self.judge.failed("connect", way, began, until, how)
            return
        if not self.judge.passed("connect", way, began, until):
            wire.close()
            return
        self.opened += 1
        self.alive.add(way)
        reader, writer = await asyncio.open_connection(sock=wire)
        try:
            await self._follow(way, push, reader, writer, until + seconds)
        finally:
            self.alive.discard(way)
            writer.transport.abort()

    async def _follow(
        self, way: Way, push: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: float
    ) -> None:
        opened = last = counted = time.monotonic()
        sender = asyncio.create_task(_send(writer, push))
        how = ""
        try:
            while not how and time.monotonic() < ends:
                line = b""
                try:
                    async with asyncio.timeout(MARGIN_SECONDS):
                        line = await reader.readline()
                    how = "" if line else "closed"
                except TimeoutError:
                    pass
                except OSError as error:
                    how = error.strerror or "reset"
                now = time.monotonic()
                if line.startswith((b"line ", b"pushed ")):
                    last = now
                    sent = float(line.split()[1]) if push == "client" else max(opened, now - 2 * MARGIN_SECONDS)
                    if not self.judge.passed(f"line of a {push}'s stream", way, sent, now):
                        return
                if now - counted >= MARGIN_SECONDS:
                    answers = self.judge.count("stream", way, counted, now)
                    counted = now
                    if answers == {False} and now - last > 2 * MARGIN_SECONDS:
                        break
                    if now - last > self._patience(last, now):
                        how = SILENT
                if not self.stands(way):
                    return
        finally:
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await sender
        until = time.monotonic()
        if not how and until >= ends:
            return
        if await self._still(way):
            self.ended_rightly += self.judge.cut(way, last - MARGIN_SECONDS, until, how or "dead")

    def _patience(self, last: float, now: float) -> float:
        return HEALED_STALL_SECONDS if self.judge.truth.was_closed(last - MARGIN_SECONDS, now) else STALL_SECONDS


async def _send(writer: asyncio.StreamWriter, push: str) -> None:
    """A line that says when it was sent; or once, that the other one shall send."""
    if push == "server":
        writer.write(b"push %d\n" % int(EVERY_SECONDS * 1000))
        return
    while True:
        writer.write(b"line %.6f\n" % time.monotonic())
        await asyncio.sleep(EVERY_SECONDS)
