"""Where can a process of ours die? Before and after each operation on the kernel, the disk, the store and the wire.

product code ──> socket.send · os.replace · mount · nft · SQL ──> point: who came here, from where, before or after
                                                                   │ noted; or the process kills itself

Nothing of this is known to the product: what is wrapped here are the libraries that it calls, and each point's name is
the path through our own code that leads to the call. So points are enumerated by the code, as it runs.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from types import FrameType
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
OURS = {f"{ROOT}/{package}/" for package in ("cfbridge", "garden_plugin")}
Point = Callable[[str, str, str], None]
"""(kind, path, before or after)"""
_LOOKS = frozenset({"_dump_once", "_ask", "_dump"})
"""Functions that only ask the kernel: nothing has changed after them, so before them is enough."""
_asked: ContextVar[str] = ContextVar("asked", default="")
"""The path that led to SQLAlchemy, which runs statements on stacks of its own."""
_inside = threading.local()


@functools.cache
def _place(code: Any) -> str:
    """module:function of our code; empty for everybody else's."""
    name = code.co_filename
    for package in OURS:
        if name.startswith(package):
            module = name[len(str(ROOT)) + 1 :].removesuffix(".py").replace("/", ".")
            return "" if ".simulator" in module or ".demo" in module else f"{module}:{code.co_qualname}"
    return ""


def path(frame: FrameType | None) -> str:
    """The calls through our own code, outermost first, each with its line in its function: it stays the same when
    something else in the file changes."""
    found: list[str] = []
    while frame is not None and not frame.f_code.co_filename.endswith("asyncio/events.py"):
        code = frame.f_code
        if place := _place(code):
            found.append(f"{place}+{frame.f_lineno - code.co_firstlineno}")
        frame = frame.f_back
    return "" if any(each.startswith("cfbridge.api.") for each in found) else ">".join(reversed(found))


def name_of(kind: str, led_here: str, when: str) -> str:
    """A short name for a point: the same in every run of the same code."""
    return hashlib.sha256(f"{kind} {when} {led_here}".encode()).hexdigest()[:10]


def wrap(point: Point) -> None:
    """Every call from our own code to one of these passes `point` before and, where something may have changed, after.
    Call it before the product is imported."""

    def passing(kind: str, act: Callable[[], Any], led_here: str = "") -> Any:
        led_here = led_here or path(sys._getframe(2))
        if not led_here or getattr(_inside, "point", False):
            return act()
        _inside.point = True
        try:
            point(kind, led_here, "before")
            done = act()
            if not _only_looks(led_here):
                point(kind, led_here, "after")
            return done
        finally:
            _inside.point = False

    _wrap_sockets(passing)
    _wrap_files(passing)
    _wrap_children(passing)
    _wrap_mounts(passing)


def _only_looks(led_here: str) -> bool:
    last = (call.partition("+")[0].rpartition(".")[2] for call in led_here.split(">")[-2:])
    return not _LOOKS.isdisjoint(last)


def _wrap_sockets(passing: Callable[..., Any]) -> None:
    """Netlink of any family, raw frames, and what bridge, agent and networker say to each other."""
    kinds = {socket.AF_NETLINK: "netlink", socket.AF_PACKET: "frame", socket.AF_UNIX: "wire"}
    send = socket.socket.send

    def watched(self: socket.socket, data: Any, *flags: int) -> int:
        kind = kinds.get(self.family)
        if kind is None:
            return send(self, data, *flags)
        sent: int = passing(kind, lambda: send(self, data, *flags))
        return sent

    socket.socket.send = watched  # type: ignore[method-assign, assignment]


def _wrap_files(passing: Callable[..., Any]) -> None:
    """What is made, changed, moved and removed by name; the kernel's settings among it."""

    def wrapped(act: Callable[..., Any], what: str) -> Callable[..., Any]:
        @functools.wraps(act)
        def watched(*arguments: Any, **named: Any) -> Any:
            return passing(f"file {what}", lambda: act(*arguments, **named))

        return watched

    for what in ("replace", "unlink", "mkdir"):
        setattr(os, what, wrapped(getattr(os, what), what))
    pathlib.Path.write_bytes = wrapped(pathlib.Path.write_bytes, "write")  # type: ignore[method-assign]
    pathlib.Path.touch = wrapped(pathlib.Path.touch, "touch")  # type: ignore[method-assign]

    def opened(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and "w" in (arguments[1] or "") and str(arguments[0]).startswith("/proc/sys/net/"):
            passing("sysctl", lambda: None, path(sys._getframe(1)))

    sys.addaudithook(opened)


def _wrap_children(passing: Callable[..., Any]) -> None:
    """`nft`: before it is started, when it runs and has read nothing, or a half, and when it is done."""
    plain = subprocess.Popen

    class Watched(plain):  # type: ignore[valid-type, misc]
        def __init__(self, words: Sequence[str], *more: Any, **named: Any) -> None:
            self._is_nft = isinstance(words, list) and words[:1] == ["nft"]
            start = functools.partial(super().__init__, words, *more, **named)
            passing("nft start", start) if self._is_nft else start()

        def communicate(self, input: Any = None, timeout: float | None = None) -> Any:  # noqa: A002 - its name there
            if not self._is_nft:
                return super().communicate(input, timeout)
            if self.stdin is not None and input:
                half = input.rfind("\n", 0, len(input) // 2) + 1
                self.stdin.write(input[:half])
                self.stdin.flush()
                input = input[half:]  # noqa: A001
            return passing("nft run", functools.partial(super().communicate, input, timeout))

    subprocess.Popen = Watched  # type: ignore[misc, assignment]


def _wrap_mounts(passing: Callable[..., Any]) -> None:
    from garden_plugin.cell import attach

    class Mounts:
        def __init__(self, library: Any) -> None:
            self._library = library

        def mount(self, *arguments: Any) -> Any:
            return passing("mount", lambda: self._library.mount(*arguments))

        def umount2(self, *arguments: Any) -> Any:
            return passing("unmount", lambda: self._library.umount2(*arguments))

    attach._libc = Mounts(attach._libc)  # type: ignore[assignment]


def wrap_sql(point: Point) -> None:
    """Statements and ends of transactions, of whichever store. Apart, since an agent has no SQL and must start fast."""
    import sqlalchemy as sa
    from sqlalchemy.engine.default import DefaultDialect
    from sqlalchemy.ext.asyncio import AsyncConnection

    execute = AsyncConnection.execute

    async def led(self: AsyncConnection, *arguments: Any, **named: Any) -> Any:
        _asked.set(path(sys._getframe(1)))
        return await execute(self, *arguments, **named)

    AsyncConnection.execute = led  # type: ignore[method-assign]

    def passes(when: str) -> Callable[..., None]:
        def passed(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            point(f"sql {' '.join(statement.split()[:3])}", path(sys._getframe(1)) or _asked.get() or "?", when)

        return passed

    for when in ("before", "after"):
        sa.event.listen(sa.Engine, f"{when}_cursor_execute", passes(when))
    for end in ("commit", "rollback"):
        act = getattr(DefaultDialect, f"do_{end}")

        def ending(self: Any, connection: Any, act: Any = act, end: str = end) -> None:
            led_here = path(sys._getframe(1)) or _asked.get() or "?"
            point(f"sql {end}", led_here, "before")
            act(self, connection)
            point(f"sql {end}", led_here, "after")

        setattr(DefaultDialect, f"do_{end}", ending)
