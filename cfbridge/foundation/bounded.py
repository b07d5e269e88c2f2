"""How long may an answer take, and how large may it be? Whatever a server does, its answer is here or given up in time.

`requests` bounds the time to connect and the time between two bytes, so a server that drips one byte every few seconds
holds its caller for ever. Here a timer shuts the connection's socket down when the whole answer's time is over, in the
middle of headers or body, and the thread that waits for it goes on.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.connectionpool
import urllib3.exceptions

_THREAD = threading.local()
"""The deadline of the answer that a thread waits for."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Far above what a foundation of 20,000 apps and 60,000 policies needs: 40 pages of 1 MB, one list of 15 MB."""

    connect_seconds: float = 5.0
    idle_seconds: float = 30.0
    """Between two bytes."""
    answer_seconds: float = 60.0
    """One answer, from the request to its last byte."""
    answer_bytes: int = 128 << 20
    """Decoded."""
    list_pages: int = 2000
    list_bytes: int = 512 << 20
    list_seconds: float = 600.0
    """All pages of one list, those counted that were asked for again."""


GENEROUS = Bounds()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class TooLargeError(OSError):
    """An answer that has no end, as far as we are concerned."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the answer is larger than {limit >> 20} MiB")


def answer(ask: Callable[[], requests.Response], bounds: Bounds) -> Answer:
    """What `ask` is answered: a request with `stream=True` in a `session` of ours. An OSError where it is not."""
    deadline = _Deadline(bounds.answer_seconds)
    _THREAD.deadline = deadline
    try:
        with ask() as response:
            said = Answer(response.status_code, response.headers, _body(response, bounds.answer_bytes))
    except (OSError, urllib3.exceptions.HTTPError) as error:
        if deadline.passed:
            raise deadline.error() from error
        raise
    finally:
        _THREAD.deadline = None
        deadline.cancel()
    if deadline.passed:  # a body without a length ends where its connection does
        raise deadline.error()
    return said


def session(made: requests.Session) -> requests.Session:
    """The same one, with connections that a deadline can reach."""
    for scheme in ("http://", "https://"):
        if not isinstance(made.adapters.get(scheme), _Adapter):
            made.mount(scheme, _Adapter())
    return made


def _body(response: requests.Response, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    for piece in response.iter_content(1 << 16):
        size += len(piece)
        if size > limit:
            raise TooLargeError(limit)
        pieces.append(piece)
    return b"".join(pieces)


class _Deadline:
    """Of one answer. Ends it from another thread."""

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._sock: socket.socket | None = None
        self._seconds = seconds
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        self._timer.cancel()

    def error(self) -> TimeoutError:
        return TimeoutError(f"no whole answer within {self._seconds:g} s")

    def reaches(self, sock: socket.socket) -> None:
        """The answer comes by this socket. (A connection forgets its socket where a body has no length.)"""
        self._sock = sock
        if self.passed:
            self._shut(sock)

    def _pass(self) -> None:
        self.passed = True
        if self._sock is not None:
            self._shut(self._sock)

    @staticmethod
    def _shut(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            # Not TLS's own `shutdown`, which takes the reader's state away under its hands.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Reachable:
    """Shows its socket to the deadline of the thread that uses it."""

    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self._show()

    def request(self, *arguments: Any, **named: Any) -> None:
        self._show()
        super().request(*arguments, **named)  # type: ignore[misc]

    def _show(self) -> None:
        deadline: _Deadline | None = getattr(_THREAD, "deadline", None)
        if deadline is not None and isinstance(self.sock, socket.socket):
            deadline.reaches(self.sock)


class _Connection(_Reachable, urllib3.connection.HTTPConnection):
    pass


class _TlsConnection(_Reachable, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, **named)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
