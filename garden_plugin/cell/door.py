"""How does a networker's request reach the agent? One connection each on a unix socket that root alone may open.

The bytes are described in `networker.py`, which can import nothing; `tests/contracts/test_networker.py` pins both ends.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from egress.values import Refused, RefusedError, printable

REQUEST_LIMIT = 16 << 20
"""Bytes of one request. Diego's largest are some hundred kilobytes (thousands of ASG entries)."""


@dataclass(frozen=True, slots=True)
class Request:
    action: str
    handle: str
    stdin: bytes
    descriptor: int | None
    """The container's network namespace; closed when the answer was given."""


@dataclass(frozen=True, slots=True)
class Answer:
    ok: bool
    text: str = ""
    """What to print: on stdout, or one line on stderr."""


class Door:
    """Accepts requests and gives each to `answer`, all at once; their order is the agent's business."""

    def __init__(self, path: str, answer: Callable[[Request], Awaitable[Answer]], deadline_seconds: float) -> None:
        self._path = Path(path)
        self._answer = answer
        self._deadline_seconds = deadline_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        mask = os.umask(0o177)
        try:
            listener.bind(str(self._path))
        finally:
            os.umask(mask)
        listener.listen(4096)
        self._listener = listener
        self._accepting = asyncio.create_task(self._accept(listener))

    async def close(self, patience_seconds: float = 2.0) -> None:
        """Nobody comes in any more; who is inside may finish within the patience."""
        if self._accepting is not None:
            self._accepting.cancel()
        if self._listener is not None:
            self._path.unlink(missing_ok=True)
            self._listener.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:  # out of descriptors: those inside will give some back
                await asyncio.sleep(0.1)
                continue
            task = asyncio.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        descriptors: list[int] = []
        try:
            try:
                async with asyncio.timeout(self._deadline_seconds):
                    content = await _receive(connection, descriptors)
                answer = await self._answer(parse(content, descriptors[0] if descriptors else None))
            except RefusedError as refusal:
                answer = Answer(False, str(refusal))
            await asyncio.get_running_loop().sock_sendall(connection, reply(answer))
        except (OSError, TimeoutError):  # the networker is gone; Garden sees that it failed, and undoes
            pass
        finally:
            connection.close()
            for descriptor in descriptors:
                os.close(descriptor)


def parse(content: bytes, descriptor: int | None) -> Request:
    """Raises RefusedError for what no networker of ours would send."""
    head, newline, body = content.partition(b"\n")
    words = head.decode("ascii", "replace").split(" ")
    if not newline or len(words) != 4 or words[0] != "1" or not (words[2] + words[3]).isdigit():
        raise _malformed(f"its first line is {head[:40]!r}")
    handle_bytes, stdin_bytes = int(words[2]), int(words[3])
    if len(body) != handle_bytes + stdin_bytes:
        raise _malformed(f"it has {len(body)} bytes, announced were {handle_bytes + stdin_bytes}")
    try:
        handle = body[:handle_bytes].decode()
    except UnicodeDecodeError:
        raise _malformed(f"the handle {body[:handle_bytes]!r:.80} is not UTF-8") from None
    return Request(words[1], handle, body[handle_bytes:], descriptor)


def reply(answer: Answer) -> bytes:
    return b"0" + answer.text.encode() if answer.ok else b"1" + printable(answer.text).encode()


def _malformed(why: str) -> RefusedError:
    message = f"the agent did not understand the networker: {why}; install both from the same release"
    return RefusedError(Refused("NETWORKER_REQUEST", message))


async def _receive(connection: socket.socket, descriptors: list[int]) -> bytes:
    """Everything until the peer's end of stream, and the descriptors that came along."""
    parts: list[bytes] = []
    size = 0
    ancillary_bytes = socket.CMSG_SPACE(4 * 4)
    while True:
        try:
            part, ancillary, _, _ = connection.recvmsg(65536, ancillary_bytes, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            await _readable(connection)
            continue
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(rights[: len(rights) - len(rights) % received.itemsize])
                descriptors.extend(received)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > REQUEST_LIMIT:
            raise _malformed(f"it is longer than {REQUEST_LIMIT} bytes")


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)
