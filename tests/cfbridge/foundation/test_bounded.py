"""Is every answer here or given up in time, whatever a server does with its bytes?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from cfbridge.foundation.bounded import GENEROUS, Bounds
from cfbridge.foundation.client import CloudController, PolicyServer
from cfbridge.settings import FoundationConfig, PolicyServerConfig
from egress.values import Unavailable

Fake = Any  # of conftest.py, which cannot be imported by name
Writing = Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]
SHORT = replace(GENEROUS, answer_seconds=0.3)
SMALL = replace(GENEROUS, answer_bytes=100_000)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@asynccontextmanager
async def raw(write: Writing, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that answers each connection's first request with these bytes. Its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            await write(writer)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def _dripping(writer: asyncio.StreamWriter, head: bytes) -> None:
    writer.write(head)
    while not writer.is_closing():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def drip_headers(writer: asyncio.StreamWriter) -> None:
    await _dripping(writer, b"HTTP/1.1 200 OK\r\nX-Never: ends")


async def drip_body(writer: asyncio.StreamWriter) -> None:
    await _dripping(writer, HEAD + b"Content-Length: 1000000\r\n\r\n")


async def drip_without_length(writer: asyncio.StreamWriter) -> None:
    await _dripping(writer, HEAD + b"\r\n")


async def flood(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"\r\n")
    while not writer.is_closing():
        writer.write(b" " * 65536)
        await writer.drain()


@pytest.mark.parametrize("write", [drip_headers, drip_body, drip_without_length])
async def test_a_server_that_drips_is_given_up_in_time(config: FoundationConfig, write: Writing) -> None:
    async with raw(write) as url:
        async with CloudController(replace(config, api=url), bounds=SHORT) as controller:
            with pytest.raises(Unavailable, match=r"Cloud Controller at .*: no whole answer within 0.3 s"):
                await asyncio.wait_for(controller.get("/v3/apps"), 30)
        async with PolicyServer(PolicyServerConfig(url), bounds=SHORT) as server:
            with pytest.raises(Unavailable, match="policy server at"):
                await asyncio.wait_for(server.policies(), 30)


async def test_a_server_that_drips_within_tls_is_given_up_in_time(config: FoundationConfig, tmp_path: Path) -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with raw(drip_body, tls) as url:
        there = replace(config, api=url, ca=str(tmp_path / "ca.pem"))
        async with CloudController(there, bounds=SHORT) as controller:
            with pytest.raises(Unavailable, match=r"no whole answer within 0.3 s"):
                await asyncio.wait_for(controller.get("/v3/apps"), 30)


async def test_no_thread_stays_with_a_server_that_drips(config: FoundationConfig) -> None:
    async with raw(drip_headers) as url, CloudController(replace(config, api=url), bounds=SHORT) as controller:
        for _ in range(6):  # more than there are threads to ask with
            with pytest.raises(Unavailable):
                await asyncio.wait_for(controller.get("/v3/apps"), 30)


async def test_an_answer_without_end_is_given_up(config: FoundationConfig) -> None:
    async with raw(flood) as url:
        async with CloudController(replace(config, api=url), bounds=SMALL) as controller:
            with pytest.raises(Unavailable, match="larger than"):
                await asyncio.wait_for(controller.get("/v3/apps"), 30)
        async with PolicyServer(PolicyServerConfig(url), bounds=SMALL) as server:
            with pytest.raises(Unavailable, match="larger than"):
                await asyncio.wait_for(server.policies(), 30)


async def test_a_small_body_that_unpacks_to_a_large_one_is_given_up(fake: Fake, config: FoundationConfig) -> None:
    def zeros(request: web.Request) -> None:
        if request.path == "/v3/apps":
            fake.rows["apps"] = [{"guid": "a", "name": " " * 1_000_000}]

    fake.before, fake.compressed = zeros, True
    async with CloudController(config, bounds=SMALL) as controller:
        with pytest.raises(Unavailable, match="larger than"):
            await controller.get("/v3/apps", {"per_page": 1})


async def test_a_list_that_says_it_has_pages_without_end_is_given_up(fake: Fake, config: FoundationConfig) -> None:
    def page(number: int) -> tuple[int, dict[str, str], str]:
        pagination = {"total_results": 10**12, "total_pages": 10**12}
        return 200, {}, json.dumps({"pagination": pagination, "resources": [{"guid": f"a{number}"}]})

    fake.instead["apps"] = deque(page(number) for number in range(50))
    async with CloudController(config, bounds=replace(GENEROUS, list_pages=7)) as controller:
        with pytest.raises(Unavailable, match="no end"):
            await controller.pages("/v3/apps")
    assert fake.count("/v3/apps") == 7


async def test_a_list_whose_pages_are_slow_is_given_up_as_a_whole(fake: Fake, config: FoundationConfig) -> None:
    async def page(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        body = json.dumps({"next": 10**6 + page.count, "security_groups": []}).encode()  # type: ignore[attr-defined]
        page.count += 1  # type: ignore[attr-defined]
        writer.write(HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)

    page.count = 0  # type: ignore[attr-defined]
    async with (
        raw(page) as url,
        PolicyServer(PolicyServerConfig(url), bounds=replace(GENEROUS, list_seconds=0.5)) as server,
    ):
        with pytest.raises(Unavailable, match="did not come within"):
            await server.security_groups([])


async def test_security_groups_whose_pages_have_no_end_are_given_up(fake: Fake, config: FoundationConfig) -> None:
    endless = [(200, {}, json.dumps({"next": number, "security_groups": []})) for number in range(1, 50)]
    fake.instead["security_groups"] = deque(endless)
    async with PolicyServer(config.policy_server, bounds=replace(GENEROUS, list_pages=7)) as server:
        with pytest.raises(Unavailable, match="no end"):
            await server.security_groups([])


async def test_a_foundation_of_twenty_thousand_apps_and_sixty_thousand_policies_fits_many_times() -> None:
    app = {"guid": "0" * 36, "name": "n" * 60, "metadata": {"labels": {"key": "v" * 63}}, "links": "l" * 1500}
    ports = {"start": 10000, "end": 10000}
    end = {"id": "0" * 36, "tag": "0001", "protocol": "tcp", "ports": ports}
    policy = {"source": {"id": "0" * 36, "tag": "0001"}, "destination": end}
    bounds = Bounds()
    assert len(json.dumps(app)) * 500 * 20 < bounds.answer_bytes
    assert len(json.dumps(app)) * 20_000 * 5 < bounds.list_bytes
    assert len(json.dumps(policy)) * 60_000 * 5 < bounds.answer_bytes
    assert bounds.list_pages > 20_000 / 500 * 10
