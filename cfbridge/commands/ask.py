"""How does a command ask the bridge? By http.client, over the unix socket or by URL and token: light to start."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import click

from egress.values import Refused, RefusedError, Unavailable

DEFAULT_SOCKET = "/var/vcap/data/cfbridge/api.sock"
TIMEOUT_SECONDS = 10.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("cfbridge", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True)
class Bridge:
    """Where the bridge is."""

    socket: str = ""
    url: str = ""
    token: str = ""
    ca: str = ""

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The answer, decoded. RefusedError or Unavailable in words that say what to do."""
        return self._ask("GET", _quoted(path), query)

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", _quoted(path), None)

    def post(self, path: str, body: object = None, base: int | None = None) -> Any:
        """`base`: the revision that this was made for."""
        return self._ask("POST", _quoted(path), None, body, base)

    def put(self, path: str, body: object, base: int | None) -> Any:
        return self._ask("PUT", _quoted(path), None, body, base)

    def edit(self, method: str, steps: Sequence[str], query: Mapping[str, str], body: object) -> Any:
        """One thing set, changed or taken away, whatever was there before. `steps` of the path: a name may hold any
        character."""
        path = "".join(f"/{quote(step, safe='', errors='replace')}" for step in steps)
        return self._ask(method, path, query, {} if body is None else body)

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: object = None,
        base: int | None = None,
    ) -> Any:
        said = urlencode(query or {}, errors="replace")  # a word of the command line may be no UTF-8
        target = "/api/v1" + path + (f"?{said}" if said else "")
        try:
            connection = self._connection()
            headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            sent = None
            if body is not None:
                sent = json.dumps(body).encode()
                headers |= {"Content-Type": "application/json", "If-Match": "*" if base is None else _etag(base)}
            connection.request(method, target, body=sent, headers=headers)
            response = connection.getresponse()
            answered = response.read()
            connection.close()
        except PermissionError as error:
            refused = Refused(
                "NOT_PERMITTED", f"{self.socket} is root's alone; use sudo, or CFBRIDGE_URL and CFBRIDGE_TOKEN"
            )
            raise RefusedError(refused) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            where = self.url or self.socket
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unavailable(
                f"The bridge at {where} does not answer: {reason}. Is `cfbridge serve` running? (UNAVAILABLE)"
            ) from error
        return _understood(response.status, answered)

    def rows(self, resource: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """All rows, page by page."""
        asked = {"limit": "500", **query}
        while True:
            page = self.get(f"/{resource}", asked)
            yield from page["items"]
            if page["next"] is None:
                return
            asked["after"] = page["next"]

    def _connection(self) -> http.client.HTTPConnection:
        if not self.url:
            return _UnixConnection(self.socket)
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good:
            refused = Refused("BAD_URL", f"{self.url!r} is no http:// or https:// URL; correct --url or CFBRIDGE_URL")
            raise RefusedError(refused)
        assert parts.hostname
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)
        trust = ssl.create_default_context(cafile=self.ca or None)
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS, context=trust)


def _quoted(path: str) -> str:
    return quote(path, errors="replace")


def _etag(revision: int) -> str:
    return f'"revision-{revision}"'


def _understood(status: int, body: bytes) -> Any:
    try:
        said = json.loads(body)
    except ValueError as error:
        raise Unavailable(f"What answers is no bridge: status {status}, and no JSON (UNAVAILABLE)") from error
    if status == 200:
        return said
    detail, code = str(said.get("detail", "The request failed.")), str(said.get("code", status))
    if status == 401:
        detail = "The bridge wants a token: set CFBRIDGE_TOKEN to what is in the file `token` of its state folder."
    if status >= 500:
        raise Unavailable(f"{detail} ({code})")
    raise RefusedError(Refused(code, detail))


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--socket`, `--url`, `--token`, `--ca`, gathered into the one argument `bridge`."""

    @click.option(
        "--socket",
        envvar="CFBRIDGE_SOCKET",
        default=DEFAULT_SOCKET,
        show_default=True,
        help="The bridge's unix socket.",
    )
    @click.option("--url", envvar="CFBRIDGE_URL", default="", help="The bridge's URL, instead of the socket.")
    @click.option("--token", envvar="CFBRIDGE_TOKEN", default="", help="Token for the URL; better by CFBRIDGE_TOKEN.")
    @click.option("--ca", envvar="CFBRIDGE_CA", default="", help="PEM file of the authority behind the URL.")
    @wraps(command)
    def asking(*args: Any, socket: str, url: str, token: str, ca: str, **kwargs: Any) -> Any:
        return command(*args, bridge=Bridge(socket, url, token, ca), **kwargs)

    return asking
