"""How do we ask a foundation? Bytes of Cloud Controller and of the policy server's internal API, or why there are none.

`CloudController`: cloudfoundry-client as transport alone. It brings tokens and sessions; its entity layer, its logging
of whole answers and its errors stay outside. It is synchronous, so it runs on four threads of its own.
`PolicyServer`: aiohttp with a client certificate; what it answers is JSON said to be text/plain.

Whatever goes wrong leaves as `Unavailable` (retry) or `RefusedError` (they said no: somebody must change something), by
the name of who it was: Cloud Controller, UAA or the policy server. No answer is slower or larger than `Bounds` allow.
"""

from __future__ import annotations

import asyncio
import functools
import random
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

from cfbridge.foundation import bounded, certificates, read, refusals
from cfbridge.foundation.bounded import GENEROUS, Answer, Bounds, TooLargeError
from cfbridge.settings import FoundationConfig, PolicyServerConfig
from egress.values import Refused, RefusedError, Unavailable

T = TypeVar("T")
PAGE = 500
"""Rows of a page. 5000 would do too, at the same speed and for more memory."""
GUIDS_PER_URL = 150
"""So many GUIDs keep a URL below 8 KiB, with their commas escaped."""
_ATTEMPTS = 4
_LONGEST_WAIT = 20.0
"""However long a Retry-After: later looks ask again anyway."""
_WALKS = 3
_NUMBER_SECONDS = 5.0
"""For an answer of a few bytes."""


class _Transport(cloudfoundry_client.client.CloudFoundryClient):  # type: ignore[misc]  # untyped library
    """A session with a token. Overrides what has no timeout, and renews client credentials, which it never does."""

    def __init__(self, config: FoundationConfig, bounds: Bounds) -> None:
        self._config = config
        self._bounds = bounds
        self._renewing = threading.Lock()
        self._generation = 0
        verify: bool | str = False if config.skip_tls_verify else config.ca or True
        super().__init__(config.api, config.client_id, _secret(config.client_secret_file), verify=verify)
        self._renew(0)

    def fetch(self, path: str, params: Mapping[str, str | int]) -> Answer:
        generation = self._generation
        answer = self._ask(path, params)
        if answer.status == 401:
            self._renew(generation)
            answer = self._ask(path, params)
        return answer

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def _ask(self, path: str, params: Mapping[str, str | int]) -> Answer:
        url = self.info.api_v3_url.removesuffix("/v3") + path
        session = bounded.session(self._get_session())
        ask = functools.partial(self._bearer_request, session.get, url, params=params, **self._limits())
        return self._answer(_controller(self._config), url, ask)

    def _renew(self, generation: int) -> None:
        """A new token, unless another thread got one since `generation`."""
        with self._renewing:
            if self._generation == generation:
                self.service_information.client_secret = _secret(self._config.client_secret_file)
                self.init_with_client_credentials()
                self._generation += 1

    def _get_info(self, target_endpoint: str, proxy: Any = None, verify: Any = True) -> Any:
        url, who = f"{target_endpoint}/", _controller(self._config)
        with _plain_session(verify) as session:
            answer = self._answer(who, url, functools.partial(session.get, url, **self._limits()))
        refusals.check(answer.status, answer.body, who, "GET /")
        controller, login = refusals.understood(who, read.root, answer.body)
        return cloudfoundry_client.client.Info(None, controller, login, target_endpoint, None, None)

    def _token_request(self, request_parameters: dict[str, str], refresh_token_mandatory: bool) -> None:
        information = self.service_information
        url = information.token_service
        who = f"UAA at {url.removesuffix('/oauth/token')}"
        with _plain_session(information.verify) as session:
            ask = functools.partial(
                session.post,
                url,
                data={"client_id": information.client_id, "grant_type": request_parameters["grant_type"]},
                auth=(information.client_id.encode(), information.client_secret.encode()),
                headers={"Accept": "application/json"},
                **self._limits(),
            )
            answer = self._answer(who, url, ask)
        if answer.status in (400, 401, 403):
            raise RefusedError(refusals.no_token(who, information.client_id, answer))
        refusals.check(answer.status, answer.body, who, "POST /oauth/token")
        self._access_token = refusals.understood(who, read.access_token, answer.body)

    def _limits(self) -> dict[str, Any]:
        return {"timeout": (self._bounds.connect_seconds, self._bounds.idle_seconds), "stream": True}

    def _answer(self, who: str, url: str, ask: Callable[[], requests.Response]) -> Answer:
        try:
            return bounded.answer(ask, self._bounds)
        except (OSError, urllib3.exceptions.HTTPError) as error:  # requests' own errors are OSErrors
            blamed = certificates.blame(error, url, ca=self._config.ca)
            raise Unavailable(f"{who}: {blamed or refusals.reason(error)}") from error

    def __getattr__(self, name: str) -> Any:
        # Theirs goes to API v2 and raises NotImplementedError where a foundation has none.
        raise AttributeError(name)


class CloudController:
    """Cloud Controller v3 of one foundation. Connects at the first question, and again after a failed attempt."""

    def __init__(
        self, config: FoundationConfig, *, longest_wait: float = _LONGEST_WAIT, bounds: Bounds = GENEROUS
    ) -> None:
        self._config = config
        self._bounds = bounds
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
        try:
            async with asyncio.timeout(self._bounds.list_seconds):
                return await self._fitting(path, dict(params or {}))
        except TimeoutError as late:
            limit = f"{self._bounds.list_seconds:g} s"
            raise Unavailable(f"{_controller(self._config)}: the list {path} did not come within {limit}") from late

    async def _fitting(self, path: str, params: dict[str, str]) -> list[bytes]:
        problem: Unavailable | None = None
        for _ in range(_WALKS):
            pages = await self._walk(path, params)
            try:
                read.listing(pages)
            except Unavailable as incomplete:
                problem = incomplete
            else:
                return pages
        assert problem is not None
        raise Unavailable(f"{_controller(self._config)}: the list {path} is incomplete: {problem}") from problem

    async def _walk(self, path: str, params: dict[str, str]) -> list[bytes]:
        # In order of creation, so that what is new comes last and moves nobody to a page already read.
        query: dict[str, str | int] = {"per_page": PAGE, "order_by": "created_at", **params}
        pages = [await self.get(path, {**query, "page": 1})]
        size, count = len(pages[0]), refusals.understood(_controller(self._config), read.total_pages, pages[0])
        for page in range(2, count + 1):
            if page > self._bounds.list_pages or size > self._bounds.list_bytes:
                raise Unavailable(f"{_controller(self._config)}: {_endless(path, count, size)}")
            pages.append(await self.get(path, {**query, "page": page}))
            size += len(pages[-1])
        return pages

    async def newest(self, path: str) -> str:
        """When a row of a list was updated last; empty when it has none."""
        body = await self.get(path, {"per_page": 1, "order_by": "-updated_at"})
        return refusals.understood(_controller(self._config), read.newest, body)

    async def get(self, path: str, params: Mapping[str, str | int] | None = None) -> bytes:
        """One answer's body. Waits and asks again where they are busy."""
        attempt = 1
        while True:
            transport = await self._connected()
            answer = await self._off_loop(functools.partial(transport.fetch, path, params or {}))
            if answer.status not in refusals.BUSY or attempt == _ATTEMPTS:
                refusals.check(answer.status, answer.body, _controller(self._config), f"GET {path}")
                return answer.body
            await asyncio.sleep(_wait(answer.headers.get("Retry-After", ""), attempt, self._longest_wait))
            attempt += 1

    async def is_gone(self, path: str, guid: str) -> bool:
        """Whether Cloud Controller itself knows no such object. A router in front of it has a 404 of its own, which
        says nothing about objects: Unavailable, like every answer that neither shows nor denies it."""
        transport = await self._connected()
        answer = await self._off_loop(functools.partial(transport.fetch, f"{path}/{quote(guid, safe='')}", {}))
        if answer.status == 404 and read.says_not_found(answer.body):
            return True
        if answer.status != 200 or read.guid_of(answer.body) != guid:
            said = f"GET {path}/… (HTTP {answer.status}) neither shows nor denies the object"
            raise Unavailable(f"{_controller(self._config)}: {said}")
        return False

    async def _connected(self) -> _Transport:
        async with self._connecting:
            if self._transport is None:
                self._transport = await self._off_loop(functools.partial(_Transport, self._config, self._bounds))
            return self._transport

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


class PolicyServer:
    """The policy server's internal API: who may talk to whom by `cf`, and security groups as upstream enforces them."""

    def __init__(self, config: PolicyServerConfig, *, bounds: Bounds = GENEROUS) -> None:
        self._config = config
        self._bounds = bounds
        self._tls = certificates.ClientTls(config)
        self._session: aiohttp.ClientSession | None = None
        self._blamed: tuple[str, str] = ("", "")
        """The latest failure, and whose certificate it was: they are not asked for it again while it stays the same."""

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
        return refusals.understood(self._who, read.number, await self._get("policies_last_updated", _NUMBER_SECONDS))

    async def policies(self) -> bytes:
        return await self._get("policies", self._bounds.answer_seconds)

    async def security_groups_last_updated(self) -> int | None:
        """The same of security groups; None where the server is too old to say."""
        try:
            return refusals.understood(
                self._who, read.number, await self._get("security_groups_last_updated", _NUMBER_SECONDS)
            )
        except RefusedError as error:
            if error.refused.code == "CF_NOT_FOUND":
                return None
            raise

    async def security_groups(self, spaces: Sequence[str]) -> list[bytes]:
        """Every page of the security groups that concern these spaces, and of the global ones. (Asked for no space,
        the server lists the global ones alone.)"""
        try:
            async with asyncio.timeout(self._bounds.list_seconds):
                return await self._group_pages(spaces)
        except TimeoutError as late:
            limit = f"{self._bounds.list_seconds:g} s"
            raise Unavailable(f"{self._who}: the security groups did not come within {limit}") from late

    async def _group_pages(self, spaces: Sequence[str]) -> list[bytes]:
        batches = [spaces[i : i + GUIDS_PER_URL] for i in range(0, len(spaces), GUIDS_PER_URL)] or [()]
        pages: list[bytes] = []
        size = 0
        for batch in batches:
            begin = 0
            while True:
                query = {"limit": "5000", "from": str(begin)}
                if batch:
                    query["space_guids"] = ",".join(batch)
                pages.append(await self._get("security_groups", self._bounds.answer_seconds, query))
                size += len(pages[-1])
                following = refusals.understood(self._who, read.next_row, pages[-1])
                if following == 0:
                    break
                if following <= begin:
                    raise Unavailable(f"{self._who}: the list of security groups goes round in circles")
                if len(pages) >= self._bounds.list_pages or size > self._bounds.list_bytes:
                    raise Unavailable(f"{self._who}: {_endless('security_groups', len(pages), size)}")
                begin = following
        return pages

    @property
    def _who(self) -> str:
        return f"policy server at {self._config.url}"

    async def _get(self, name: str, seconds: float, query: Mapping[str, str] | None = None) -> bytes:
        url = f"{self._config.url.rstrip('/')}/networking/v1/internal/{name}"
        try:
            if self._session is None:
                self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=4))
            limits = aiohttp.ClientTimeout(total=seconds, sock_connect=self._bounds.connect_seconds)
            # With each request, so that rotated files make new connections and leave running answers alone.
            tls = self._tls.context()
            async with self._session.get(url, params=query, timeout=limits, allow_redirects=False, ssl=tls) as response:
                body = await _body(response, self._bounds.answer_bytes)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unavailable(f"{self._who}: {await self._reason(error, url)}") from error
        self._blamed = ("", "")
        refusals.check(response.status, body, self._who, f"GET {name}")
        return body

    async def _reason(self, error: Exception, url: str) -> str:
        said = refusals.reason(error)
        if not url.startswith("https:"):
            return said
        self._tls.forget()
        if self._blamed[0] != said or not self._blamed[1]:  # who blamed nobody may not have seen their certificate
            blame = functools.partial(certificates.blame, error, url, ca=self._config.ca, ours=self._config.certificate)
            self._blamed = (said, await asyncio.to_thread(blame))
        return self._blamed[1] or said


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > limit:
            raise TooLargeError(limit)
        pieces.append(piece)
    return b"".join(pieces)


def _controller(config: FoundationConfig) -> str:
    return f"Cloud Controller at {config.api}"


def _endless(what: str, pages: int, size: int) -> str:
    return f"the list {what} has no end that we wait for ({pages} pages, {size >> 20} MiB so far)"


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
        message = f"the client's secret can't be read: {refusals.reason(error)}; put it there, readable for the bridge"
        raise RefusedError(Refused("SECRET_UNREADABLE", message, "client_secret_file")) from error


def _plain_session(verify: bool | str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # else ~/.netrc may replace the credentials, and *_proxy the way
    session.verify = verify
    return bounded.session(session)
