"""Does the API show, plan, publish and roll back policy files, and tell whoever comes too late?"""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from cfbridge.api.server import ApiServer
from cfbridge.client import AdminClient
from egress.values import RefusedError, Unavailable
from tests.cfbridge.api.world import FakeFacade

POLICY = "groups:\n  web: ['org:acme']\n"


async def refused(asked: aiohttp.ClientSession, path: str, body: Any, **headers: str) -> tuple[int, str, str]:
    """Status, code, and where."""
    method = "PUT" if path == "intent" else "POST"
    async with asked.request(method, f"/api/v1/{path}", json=body, headers=headers) as response:
        said = await response.json()
        return response.status, said["code"], said["errors"][0]["pointer"] if said["errors"] else ""


async def test_a_file_is_planned_published_shown_and_rolled_back(client: AdminClient, facade: FakeFacade) -> None:
    planned = await client.plan(POLICY)
    assert (planned.revision, planned.summary) == (0, "1 to add")
    assert [(each.deed, each.kind, each.name, each.details) for each in planned.changes] == [
        ("add", "group", "web", ("members: org:acme",))
    ]
    assert (await client.apply(POLICY, "SEC-112", base=0)).revision == 1
    shown = await client.export()
    assert (shown.revision, shown.content) == (1, "cfbridge: v1\ngroups:\n  web:\n  - org:acme\n")
    assert (await client.apply("{}")).summary == "1 to remove"
    assert (await client.roll_back(1, "no", base=2)).revision == 3
    assert (await client.export()).content == shown.content
    listed = [row async for row in client.revisions()]
    assert [(row.id, row.in_force, row.reason) for row in listed] == [
        ("3", True, "rollback to revision 1: no"),
        ("2", False, ""),
        ("1", False, "SEC-112"),
    ]


async def test_who_published_is_the_user_of_the_socket_or_the_holder_of_the_token(
    client: AdminClient, server: ApiServer, facade: FakeFacade
) -> None:
    await client.apply(POLICY)
    async with AdminClient(server.addresses[1], server.token) as other:
        await other.apply("{}")
    assert [each.author for each in facade.history] == ["token", "root"]


async def test_a_team_sees_its_own_part_only(client: AdminClient) -> None:
    await client.apply("{scope: payments, groups: {web: ['org:acme']}}")
    assert (await client.export("payments")).content.startswith("cfbridge: v1\nscope: payments\n")
    with pytest.raises(RefusedError, match="No scope is called 'payment'"):
        await client.export("payment")


async def test_who_comes_late_is_told_and_changes_nothing(client: AdminClient, facade: FakeFacade) -> None:
    await client.apply(POLICY)
    with pytest.raises(RefusedError, match="REVISION_OUTDATED"):
        await client.apply("{}", base=0)
    assert len(facade.history) == 1


async def test_a_change_says_which_revision_it_was_made_for(asked: aiohttp.ClientSession, facade: FakeFacade) -> None:
    body = {"content": POLICY}
    assert await refused(asked, "intent", body) == (428, "IF_MATCH_NEEDED", "")
    assert await refused(asked, "intent", body, **{"If-Match": '"7"'}) == (428, "IF_MATCH_NEEDED", "")
    assert await refused(asked, "intent", body, **{"If-Match": '"revision-7"'}) == (412, "REVISION_OUTDATED", "")
    async with asked.get("/api/v1/intent") as response:
        etag = response.headers["ETag"]
    async with asked.put("/api/v1/intent", json=body, headers={"If-Match": etag}) as response:
        assert (response.status, response.headers["ETag"]) == (200, '"revision-1"')


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        ({}, 400, "BAD_BODY", "/body/content"),
        ({"content": 7}, 400, "BAD_BODY", "/body/content"),
        ({"content": "", "scope": "x"}, 400, "BAD_BODY", "/body/scope"),
        ([], 400, "BAD_BODY", "/body"),
        ({"content": "grups: {}"}, 422, "UNKNOWN_KEY", "/body/content"),
        ({"content": "groups: {a: ['group:b']}"}, 422, "DANGLING_NAME", "/body/content"),
    ],
)
async def test_what_can_not_be_is_refused_where_it_is_wrong(
    asked: aiohttp.ClientSession, facade: FakeFacade, body: Any, status: int, code: str, pointer: str
) -> None:
    assert await refused(asked, "plan", body) == (status, code, pointer)
    assert await refused(asked, "intent", body, **{"If-Match": "*"}) == (status, code, pointer)
    assert facade.history == ()


async def test_a_reason_is_one_line(asked: aiohttp.ClientSession) -> None:
    body = {"content": POLICY, "reason": "a\x00b"}
    assert await refused(asked, "intent", body, **{"If-Match": "*"}) == (400, "BAD_BODY", "/body/reason")


async def test_a_bridge_that_obeys_a_file_plans_and_publishes_nothing(client: AdminClient, facade: FakeFacade) -> None:
    facade.revisions.by_file = "/etc/intent.yml"
    assert (await client.plan(POLICY)).summary == "1 to add"
    for publishing in (client.apply(POLICY), client.roll_back(1)):
        with pytest.raises(RefusedError, match="INTENT_IS_A_FILE"):
            await publishing


async def test_while_the_store_is_away_nothing_is_said_to_be_published(client: AdminClient, facade: FakeFacade) -> None:
    facade.store.away = "the database sleeps"
    with pytest.raises(Unavailable, match=r"Perhaps nothing was published.*the database sleeps"):
        await client.apply(POLICY)
    assert facade.history == ()


@pytest.mark.parametrize("number", ["0", "9", "x", "99999999999999999999"])
async def test_a_revision_that_is_not_there_is_unknown(asked: aiohttp.ClientSession, number: str) -> None:
    got = await refused(asked, f"revisions/{number}/rollback", {"reason": ""}, **{"If-Match": "*"})
    assert got == (404, "REVISION_UNKNOWN", "")
    async with asked.get(f"/api/v1/revisions/{number}/intent") as response:
        assert response.status == 404
