"""Does the async client give typed answers, follow pages, retry what may come back, and raise what may not?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import stamina
from aiohttp import web

from cfbridge.api import rows
from cfbridge.api.operations import RESOURCES
from cfbridge.api.server import ApiServer
from cfbridge.client import AdminClient
from egress.values import RefusedError, Unavailable
from tests.cfbridge.api.world import SNAPSHOT, FakeFacade


@pytest.fixture
async def client(server: ApiServer) -> AsyncIterator[AdminClient]:
    async with AdminClient.local(server.addresses[0].removeprefix("unix:")) as local:
        yield local


@pytest.mark.parametrize("resource", sorted(RESOURCES))
async def test_every_list_comes_back_as_the_rows_it_was(client: AdminClient, facade: FakeFacade, resource: str) -> None:
    found = [row async for row in client.list(resource)]
    assert found == list(RESOURCES[resource].rows(facade))
    for row in found:
        assert await client.show(resource, row.id) == row


async def test_status_comes_back_as_it_was(client: AdminClient, facade: FakeFacade) -> None:
    assert await client.status() == rows.status(facade)


async def test_pages_are_followed_and_filters_sent(client: AdminClient) -> None:
    assert [org.name async for org in client.orgs(limit=1)] == ["acme", "globex", "newcomer"]
    assert [org.name async for org in client.orgs(suspended=True)] == ["globex"]


async def test_by_url_the_token_opens(server: ApiServer) -> None:
    async with AdminClient(server.addresses[1], server.token) as client:
        assert (await client.status()).verdict == "ok"
    async with AdminClient(server.addresses[1], "wrong") as client:
        with pytest.raises(RefusedError, match="TOKEN_NEEDED"):
            await client.status()


async def test_a_refusal_is_raised_at_once_with_its_place(client: AdminClient) -> None:
    with pytest.raises(RefusedError) as raised:
        await client.get("/api/v1/orgs", {"limt": 1})
    assert (raised.value.refused.code, raised.value.refused.field) == ("BAD_QUERY", "/query/limt")


async def serving(handler: Callable[[web.Request], Awaitable[web.Response]]) -> tuple[web.AppRunner, str]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def test_what_is_away_for_a_moment_is_asked_again() -> None:
    asked = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 1:
            return web.Response(status=503, text="no problem document")
        return web.json_response({"items": [], "next": None, "total": 0, "revision": 1})

    runner, url = await serving(handler)
    try:
        with stamina.set_testing(True, attempts=3):
            async with AdminClient(url) as client:
                assert [org async for org in client.orgs()] == []
    finally:
        await runner.cleanup()
    assert asked == 2


async def test_what_stays_away_is_unavailable_in_words(tmp_path: Path) -> None:
    with stamina.set_testing(True, attempts=2):
        async with AdminClient.local(str(tmp_path / "no.sock")) as client:
            with pytest.raises(Unavailable, match=r"no\.sock does not answer"):
                await client.status()


async def test_rows_changed_between_pages_do_not_confuse_the_client(client: AdminClient, facade: FakeFacade) -> None:
    found = []
    async for org in client.orgs(limit=1):
        found.append(org.name)
        facade.snapshot = replace(facade.snapshot, revision=facade.snapshot.revision + 1)
    assert found == ["acme", "globex", "newcomer"]
    assert facade.snapshot.revision > SNAPSHOT.revision
