"""Is everything that could change something in the audit log, with who, from where, and what changed?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cfbridge import cli
from cfbridge.api.server import ApiServer
from cfbridge.client import AdminClient
from egress.values import RefusedError
from tests.cfbridge.api.serving import Running
from tests.cfbridge.api.world import FakeFacade


async def page(server: ApiServer, facade: FakeFacade, query: str = "") -> Any:
    await facade.audit.save()
    headers = {"Authorization": f"Bearer {server.token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{server.addresses[1]}/api/v1/audit{query}") as response,
    ):
        assert response.status == 200
        return await response.json()


async def test_what_was_done_is_told_with_who_did_it_and_what_changed(
    server: ApiServer, client: AdminClient, facade: FakeFacade
) -> None:
    await client.apply("groups: {web: [10.0.0.1]}")
    async with AdminClient(server.addresses[1], server.token) as remote:
        await remote.set_group("web", ["10.0.0.2"])
    await client.tag("org:acme", {"a": "b"}, draft="d")
    items = (await page(server, facade))["items"]
    told = [(row["author"], row["origin"], row["action"], row["target"], row["revision"]) for row in items]
    assert told == [
        ("root", "local", "PATCH /tags/{id} into draft d", "org:acme", None),
        ("token", "127.0.0.1", "PUT /groups/{id}", "web", 2),
        ("root", "local", "PUT /intent", "", 1),
    ]
    assert items[1]["detail"] == "change group web\n  members: 10.0.0.1 → 10.0.0.2"


async def test_what_was_refused_is_told_too_but_not_of_who_may_not_come_in(
    server: ApiServer, client: AdminClient, facade: FakeFacade
) -> None:
    with pytest.raises(RefusedError):
        await client.remove_group("no\x00body")
    async with AdminClient(server.addresses[1], "wrong", attempts=1) as stranger:
        with pytest.raises(RefusedError, match="TOKEN_NEEDED"):
            await stranger.remove_group("web")
    (row,) = (await page(server, facade))["items"]
    assert (row["action"], row["target"], row["status"]) == ("DELETE /groups/{id}", "no\\x00body", 404)


async def test_what_an_operator_decides_is_told(server: ApiServer, client: AdminClient, facade: FakeFacade) -> None:
    await client._ask("POST", "/api/v1/held/cf:policies/apply", {})
    await client._ask("DELETE", "/api/v1/cells/cell-9", {})
    items = (await page(server, facade))["items"]
    assert [(row["action"], row["target"], row["status"]) for row in items] == [
        ("DELETE /cells/{id}", "cell-9", 200),
        ("POST /held/{id}/apply", "cf:policies", 200),
    ]


async def test_reading_and_planning_is_not_told(server: ApiServer, client: AdminClient, facade: FakeFacade) -> None:
    await client.status()
    await client.plan("groups: {web: [10.0.0.1]}")
    await client.set_group("web", ["10.0.0.1"], plan=True)
    assert await page(server, facade) == {"items": [], "next": None}


async def test_pages_follow_each_other_to_the_first_entry(
    server: ApiServer, client: AdminClient, facade: FakeFacade
) -> None:
    for number in range(5):
        await client.set_group(f"g{number}", ["10.0.0.1"])
    first = await page(server, facade, "?limit=2")
    second = await page(server, facade, f"?limit=2&after={first['next']}")
    third = await page(server, facade, f"?limit=2&after={second['next']}")
    targets = [row["target"] for each in (first, second, third) for row in each["items"]]
    assert (targets, third["next"]) == (["g4", "g3", "g2", "g1", "g0"], None)


def test_the_command_shows_some_or_all_and_programs_a_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = Running(FakeFacade(), tmp_path)
    try:
        monkeypatch.setenv("CFBRIDGE_SOCKET", running.socket)
        for number in range(3):
            assert cli.run(["group", "set", f"g{number}", "--member", "10.0.0.1"]) == 0
        running._do(running.facade.audit.save())
        capsys.readouterr()
        assert cli.run(["audit", "--limit", "2"]) == 0
        assert [line.split()[4] for line in capsys.readouterr().out.splitlines()[1:]] == ["/groups/{id}"] * 2
        assert cli.run(["audit", "--all", "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["target"] for row in rows] == ["g2", "g1", "g0"]
    finally:
        running.close()
