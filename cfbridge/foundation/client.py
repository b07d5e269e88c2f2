"""How do we ask a foundation? Bytes of Cloud Controller and of the policy server's internal API, or why there are none.

`CloudController`: cloudfoundry-client as transport alone. It brings tokens and sessions; its entity layer, its logging
of whole answers and its errors stay outside. It is synchronous, so it runs on four threads of its own.
`PolicyServer`: aiohttp with a client certificate; what it answers is JSON said to be text/plain.

Whatever goes wrong leaves as `Unavailable` (retry) or `RefusedError` (they said no: somebody must change something).
"""

from __future__ import annotations

import asyncio
import functools
import random
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiohttp
import cloudfoundry_client.client
import requests
import urllib3.exceptions

from cfbridge.foundation import read
from cfbridge.settings import FoundationConfig, PolicyServerConfig
from egress.values import Refused, RefusedError, Unavailable

T = TypeVar("T")
PAGE = 500
"""Rows of a page. 5000 would do too, at the same speed and for more memory."""
GUIDS_PER_URL = 150
"""So many GUIDs keep a URL below 8 KiB, with their commas escaped."""
_TIMEOUT = (5.0, 30.0)
"""Seconds to connect, and between two bytes. The library has none."""
_ATTEMPTS = 4
_LONGEST_WAIT = 20.0
"""However long a Retry-After: later looks ask again anyway."""
_WALKS = 3
_BUSY = frozenset({429, 502, 503, 504})


class _Transport(cloudfoundry_client.client.CloudFoundryClient):  # type: ignore[misc]  # untyped library
    """A session with a token. Overrides what has no timeout, and renews client credentials, which it never does."""

    def __init__(self, config: FoundationConfig) -> None:
        self._secret_file = config.client_secret_file
        self._renewing = threading.Lock()
        self._generation = 0
        verify: bool | str = False if config.skip_tls_verify else config.ca or True
        super().__init__(config.api, config.client_id, _secret(config.client_secret_file), verify=verify)
        self._renew(0)

    def fetch(self, path: str, params: Mapping[str, str | int]) -> requests.Response:
        generation = self._generation
        response = self._ask(path, params)
        if response.status_code == 401:
            self._renew(generation)
            response = self._ask(path, params)
        return response

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def _ask(self, path: str, params: Mapping[str, str | int]) -> requests.Response:
        url = self.info.api_v3_url.removesuffix("/v3") + path
        response: requests.Response = self._bearer_request(
            self._get_session().get, url, params=params, timeout=_TIMEOUT
        )
        return response

    def _renew(self, generation: int) -> None:
        """A new token, unless another thread got one since `generation`."""
        with self._renewing:
            if self._generation == generation:
                self.service_information.client_secret = _secret(self._secret_file)
                self.init_with_client_credentials()
                self._generation += 1

    def _get_info(self, target_endpoint: str, proxy: Any = None, verify: Any = True) -> Any:
        with _plain_session(verify) as session:
            response = session.get(f"{target_endpoint}/", timeout=_TIMEOUT)
        _check(response.status_code, response.content, "GET /")
        controller, login = read.root(response.content)
        return cloudfoundry_client.client.Info(None, controller, login, target_endpoint, None, None)

    def _token_request(self, request_parameters: dict[str, str], refresh_token_mandatory: bool) -> None:
        information = self.service_information
        with _plain_session(information.verify) as session:
            response = session.post(
                information.token_service,
                data={"client_id": information.client_id, "grant_type": request_parameters["grant_type"]},
                auth=(information.client_id.encode(), information.client_secret.encode()),
                headers={"Accept": "application/json"},
                timeout=_TIMEOUT,
            )
        if response.status_code in (400, 401, 403):
            message = f"UAA gives the client {information.client_id!r} no token (HTTP {response.status_code})"
            raise RefusedError(
                Refused("UAA_REFUSED", f"{message}: check client_id and client_secret_file", "client_secret_file")
            )
        _check(response.status_code, response.content, "POST /oauth/token")
        self._access_token = read.access_token(response.content)

    def __getattr__(self, name: str) -> Any:
        # Theirs goes to API v2 and raises NotImplementedError where a foundation has none.
        raise AttributeError(name)


class CloudController:
    """Cloud Controller v3 of one foundation. Connects at the first question, and again after a failed attempt."""

    def __init__(self, config: FoundationConfig, *, longest_wait: float = _LONGEST_WAIT) -> None:
        self._config = config
        self._longest_wait = longest_wait
        self._threads = ThreadPoolExecutor(4, thread_name_prefix=f"cc-{config.name}")
        self._connecting = asyncio.Lock()
        self._transport: _Transport | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._transport is not None:
            self._transport.close()

    async def pages(self, path: str, params: Mapping[str, str] | None = None) -> list[bytes]:
        """Every page of a list. They fit each other: a list that changed under the walk is walked again, and where
        that doesn't help the look was incomplete (`Unavailable`)."""
        problem: Unavailable | None = None
        for _ in range(_WALKS):
            pages = await self._walk(path, dict(params or {}))
            try:
                read.listing(pages)
            except Unavailable as incomplete:
                problem = incomplete
            else:
                return pages
        assert problem is not None
        raise Unavailable(f"Cloud Controller's list {path} is incomplete: {problem}") from problem

    async def _walk(self, path: str, params: dict[str, str]) -> list[bytes]:
        # In order of creation, so that what is new comes last and moves nobody to a page already read.
        query: dict[str, str | int] = {"per_page": PAGE, "order_by": "created_at", **params}
        pages = [await self.get(path, {**query, "page": 1})]
        for page in range(2, read.total_pages(pages[0]) + 1):
            pages.append(await self.get(path, {**query, "page": page}))  # noqa: PERF401 - one after the other
        return pages

    async def get(self, path: str, params: Mapping[str, str | int] | None = None) -> bytes:
        """One answer's body. Waits and asks again where they are busy."""
        attempt = 1
        while True:
            transport = await self._connected()
            response = await self._off_loop(functools.partial(transport.fetch, path, params or {}))
            if response.status_code not in _BUSY or attempt == _ATTEMPTS:
                _check(response.status_code, response.content, f"GET {path}")
                return bytes(response.content)
            await asyncio.sleep(_wait(response.headers.get("Retry-After", ""), attempt, self._longest_wait))
            attempt += 1

    async def is_gone(self, path: str, guid: str) -> bool:
        """Whether Cloud Controller itself knows no such object. A router in front of it has a 404 of its own, which
        says nothing about objects: Unavailable, like every answer that neither shows nor denies it."""
        transport = await self._connected()
        response = await self._off_loop(functools.partial(transport.fetch, f"{path}/{quote(guid, safe='')}", {}))
        if response.status_code == 404 and read.says_not_found(response.content):
            return True
        if response.status_code != 200 or read.guid_of(response.content) != guid:
            raise Unavailable(f"GET {path}/… (HTTP {response.status_code}) neither shows nor denies the object")
        return False

    async def _connected(self) -> _Transport:
        async with self._connecting:
            if self._transport is None:
                self._transport = await self._off_loop(functools.partial(_Transport, self._config))
            return self._transport

    async def _off_loop(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (OSError, urllib3.exceptions.HTTPError) as error:  # requests' own errors are OSErrors
            raise Unavailable(f"Cloud Controller at {self._config.api}: {_said(error)}") from error


class PolicyServer:
    """The policy server's internal API: who may talk to whom by `cf`, and security groups as upstream enforces them."""

    def __init__(self, config: PolicyServerConfig) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def last_updated(self) -> int:
        """When policies changed last: a number to compare with the one before, no more."""
        return read.number(await self._get("policies_last_updated", 5.0))

    async def policies(self) -> bytes:
        return await self._get("policies", 60.0)

    async def security_groups_last_updated(self) -> int | None:
        """The same of security groups; None where the server is too old to say."""
        try:
            return read.number(await self._get("security_groups_last_updated", 5.0))
        except RefusedError as error:
            if error.refused.code == "CF_NOT_FOUND":
                return None
            raise

    async def security_groups(self, spaces: Sequence[str]) -> list[bytes]:
        """Every page of the security groups that concern these spaces, and of the global ones. (Asked for no space,
        the server lists the global ones alone.)"""
        batches = [spaces[i : i + GUIDS_PER_URL] for i in range(0, len(spaces), GUIDS_PER_URL)] or [()]
        pages: list[bytes] = []
        for batch in batches:
            begin = 0
            while True:
                query = {"limit": "5000", "from": str(begin)}
                if batch:
                    query["space_guids"] = ",".join(batch)
                pages.append(await self._get("security_groups", 60.0, query))
                following = read.next_row(pages[-1])
                if following == 0:
                    break
                if following <= begin:
                    raise Unavailable("the policy server's list of security groups goes round in circles")
                begin = following
        return pages

    async def _get(self, name: str, timeout: float, query: Mapping[str, str] | None = None) -> bytes:
        url = f"{self._config.url.rstrip('/')}/networking/v1/internal/{name}"
        try:
            if self._session is None:
                connector = aiohttp.TCPConnector(ssl=_client_tls(self._config), limit=4)
                self._session = aiohttp.ClientSession(connector=connector)
            limits = aiohttp.ClientTimeout(total=timeout, sock_connect=5.0)
            async with self._session.get(url, params=query, timeout=limits, allow_redirects=False) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unavailable(f"policy server at {self._config.url}: {_said(error)}") from error
        _check(response.status, body, f"GET {name}")
        return body


def _check(status: int, body: bytes, what: str) -> None:
    if status == 200:
        return
    said = ascii(body[:200].decode("utf-8", "replace"))
    if status == 404:
        raise RefusedError(Refused("CF_NOT_FOUND", f"{what} is not there (HTTP 404): {said}", what))
    if status in (401, 403):
        hint = "give the client the authority cloud_controller.admin_read_only, or check its certificate"
        raise RefusedError(Refused("CF_FORBIDDEN", f"{what} is refused (HTTP {status}), {hint}: {said}", what))
    if 400 <= status < 500 and status not in _BUSY:
        raise RefusedError(Refused("CF_REFUSED", f"{what} is refused (HTTP {status}): {said}", what))
    raise Unavailable(f"{what} is answered with HTTP {status}: {said}")


def _wait(retry_after: str, attempt: int, longest: float) -> float:
    """Seconds until the next attempt: theirs, where they name some."""
    if retry_after.isascii() and retry_after.isdigit():
        return min(float(retry_after[:9]), longest)
    return min(0.25 * 2.0**attempt, longest) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter


def _secret(path: str) -> str:
    """Read at every renewal, so that a rotated secret needs no restart."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"the client's secret can't be read: {_said(error)}; put it there, readable for the bridge"
        raise RefusedError(Refused("SECRET_UNREADABLE", message, "client_secret_file")) from error


def _plain_session(verify: bool | str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # else ~/.netrc may replace the credentials, and *_proxy the way
    session.verify = verify
    return session


def _client_tls(config: PolicyServerConfig) -> ssl.SSLContext | bool:
    if not config.url.startswith("https:"):
        return True
    context = ssl.create_default_context(cafile=config.ca or None)
    if config.certificate:
        context.load_cert_chain(config.certificate, config.private_key or None)
    return context


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
