"""Does the simulated Cloud Controller list, page, refuse and change as the real one?"""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from cfbridge.simulator import seed
from cfbridge.simulator.box import Box

Headers = dict[str, str]


async def get(session: aiohttp.ClientSession, box: Box, path: str, headers: Headers) -> tuple[int, Any]:
    url = path if path.startswith("http") else box.foundation.api_url + path
    async with session.get(url, headers=headers) as response:
        return response.status, await response.json()


async def names(session: aiohttp.ClientSession, box: Box, path: str, headers: Headers) -> list[str]:
    status, document = await get(session, box, path, headers)
    assert status == 200, document
    return [thing["name"] for thing in document["resources"]]


async def send(
    session: aiohttp.ClientSession, box: Box, method: str, path: str, headers: Headers, body: Any = None
) -> tuple[int, Any, str]:
    async with session.request(method, box.foundation.api_url + path, headers=headers, json=body) as response:
        answer = await response.json() if response.content_type == "application/json" else None
        return response.status, answer, response.headers.get("Location", "")


async def test_the_root_says_where_everything_is(session: aiohttp.ClientSession, box: Box) -> None:
    status, document = await get(session, box, "/", {})
    links = document["links"]
    assert status == 200
    assert links["uaa"]["href"] == links["login"]["href"] == box.foundation.uaa_url
    assert links["network_policy_v1"]["href"] == f"{box.foundation.policy_url}/networking/v1/external"
    assert "cloud_controller_v2" not in links


async def test_pages_are_linked_with_filters_order_and_size(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    path = f"/v3/apps?page=1&per_page=1&order_by=-name&space_guids={seed.ACME_DEV}"
    _, first = await get(session, box, path, admin)
    href = f"{box.foundation.api_url}/v3/apps?space_guids={seed.ACME_DEV}&order_by=-name&page="
    assert first["pagination"] == {
        "total_results": 2,
        "total_pages": 2,
        "first": {"href": f"{href}1&per_page=1"},
        "last": {"href": f"{href}2&per_page=1"},
        "next": {"href": f"{href}2&per_page=1"},
        "previous": None,
    }
    _, second = await get(session, box, first["pagination"]["next"]["href"], admin)
    assert [app["name"] for app in (*first["resources"], *second["resources"])] == ["frontend", "backend"]
    assert second["pagination"]["previous"] == {"href": f"{href}1&per_page=1"}


async def test_an_empty_list_has_one_page(session: aiohttp.ClientSession, box: Box, admin: Headers) -> None:
    _, document = await get(session, box, "/v3/apps?names=nope", admin)
    assert (document["pagination"]["total_results"], document["pagination"]["total_pages"]) == (0, 1)


async def test_a_delete_during_a_walk_shifts_a_row_out_of_sight(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    _, first = await get(session, box, "/v3/apps?per_page=2", admin)
    await send(session, box, "DELETE", f"/v3/apps/{seed.FRONTEND}", admin)
    _, second = await get(session, box, first["pagination"]["next"]["href"], admin)
    assert [app["name"] for app in (*first["resources"], *second["resources"])] == ["frontend", "backend", "spy"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("names=FrontEnd,db", ["frontend", "db"]),
        (f"guids={seed.SPY}", ["spy"]),
        ("guids=", []),
        (f"organization_guids={seed.GLOBEX}", ["spy"]),
        (f"space_guids={seed.ACME_PROD},{seed.GLOBEX_DEV}", ["db", "spy"]),
        ("order_by=name", ["backend", "db", "frontend", "spy"]),
        ("order_by=%2Bname", ["backend", "db", "frontend", "spy"]),
        ("order_by=-name", ["spy", "frontend", "db", "backend"]),
        ("label_selector=tier=db", ["db"]),
        ("label_selector=tier!=db", ["frontend", "backend", "spy"]),
        ("label_selector=tier in (db,spy)", ["db", "spy"]),
        ("label_selector=tier notin (db,spy),tier", ["frontend", "backend"]),
        ("label_selector=!tier", []),
        ("updated_ats[gt]=2999-01-01T00:00:00Z", []),
        ("updated_ats[gte]=2001-01-01T00:00:00Z&names=db", ["db"]),
    ],
)
async def test_a_filter_keeps_what_it_names(
    query: str, found: list[str], session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    assert await names(session, box, f"/v3/apps?{query}", admin) == found


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("per_page=5001", "Per page must be between 1 and 5000"),
        ("per_page=0", "Per page must be between 1 and 5000"),
        ("per_page=x", "Per page must be between 1 and 5000"),
        ("page=0", "Page must be a positive integer"),
        ("nope=1", "Unknown query parameter(s): 'nope'. Valid parameters are:"),
        ("order_by=colour", "Order by can only be"),
        ("include=droplet", "Invalid included resource: 'droplet'"),
        ("updated_ats[gt]=2026-08-20T10:00:00.5Z", "has an invalid timestamp format"),
        ("updated_ats[near]=2026-08-20T10:00:00Z", "Invalid relational operator"),
        ("updated_ats=yesterday", "has an invalid timestamp format"),
        ("label_selector=a in b", "Label selector is invalid"),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused_in_words(
    query: str, says: str, session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    status, document = await get(session, box, f"/v3/apps?{query}", admin)
    error = document["errors"][0]
    assert (status, error["code"], error["title"]) == (400, 10005, "CF-BadQueryParameter")
    assert error["detail"].startswith("The query parameter is invalid: ")
    assert says in error["detail"]


async def test_one_call_brings_apps_with_their_spaces_and_orgs(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    _, document = await get(session, box, "/v3/apps?include=space,space.organization", admin)
    assert [space["guid"] for space in document["included"]["spaces"]] == [
        seed.ACME_DEV,
        seed.ACME_PROD,
        seed.GLOBEX_DEV,
    ]
    assert [org["name"] for org in document["included"]["organizations"]] == ["acme", "globex"]


@pytest.mark.parametrize(
    ("header", "code", "title"),
    [({}, 10002, "CF-NotAuthenticated"), ({"Authorization": "bearer nonsense"}, 1000, "CF-InvalidAuthToken")],
)
async def test_nobody_looks_without_a_token(
    header: Headers, code: int, title: str, session: aiohttp.ClientSession, box: Box
) -> None:
    status, document = await get(session, box, "/v3/apps", header)
    assert (status, document["errors"][0]["code"], document["errors"][0]["title"]) == (401, code, title)


async def test_a_developer_sees_only_the_spaces_of_a_role(
    session: aiohttp.ClientSession, box: Box, dev: Headers
) -> None:
    assert await names(session, box, "/v3/apps", dev) == ["frontend", "backend", "db"]
    assert await names(session, box, "/v3/organizations", dev) == ["acme"]
    assert (await get(session, box, f"/v3/apps/{seed.SPY}", dev))[0] == 404


async def test_a_developer_changes_apps_of_the_own_space_alone(
    session: aiohttp.ClientSession, box: Box, dev: Headers
) -> None:
    mine, _, _ = await send(session, box, "PATCH", f"/v3/apps/{seed.FRONTEND}", dev, {"name": "shop"})
    theirs, _, _ = await send(session, box, "PATCH", f"/v3/apps/{seed.DB}", dev, {"name": "shop"})
    assert (mine, theirs) == (200, 403)


async def test_an_app_lives_from_push_to_delete(session: aiohttp.ClientSession, box: Box, admin: Headers) -> None:
    wish = {"name": "cart", "relationships": {"space": {"data": {"guid": seed.ACME_DEV}}}}
    status, app, _ = await send(session, box, "POST", "/v3/apps", admin, wish)
    assert (status, app["state"]) == (201, "STOPPED")
    again, refused, _ = await send(session, box, "POST", "/v3/apps", admin, wish)
    assert (again, refused["errors"][0]["title"]) == (422, "CF-UniquenessError")
    await send(session, box, "POST", f"/v3/apps/{app['guid']}/actions/start", admin)
    scaled, process, _ = await send(
        session, box, "POST", f"/v3/processes/{app['guid']}/actions/scale", admin, {"instances": 3}
    )
    assert (scaled, process["instances"], process["relationships"]["app"]["data"]["guid"]) == (202, 3, app["guid"])
    deleted, _, job = await send(session, box, "DELETE", f"/v3/apps/{app['guid']}", admin)
    assert deleted == 202
    assert (await get(session, box, job, admin))[1]["state"] == "COMPLETE"
    assert (await get(session, box, f"/v3/apps/{app['guid']}", admin))[0] == 404
    assert (await get(session, box, f"/v3/processes/{app['guid']}", admin))[0] == 404


async def test_an_org_takes_everything_in_it_along(session: aiohttp.ClientSession, box: Box, admin: Headers) -> None:
    await send(session, box, "DELETE", f"/v3/organizations/{seed.ACME}", admin)
    assert await names(session, box, "/v3/spaces", admin) == ["dev"]
    assert await names(session, box, "/v3/apps", admin) == ["spy"]
    _, group = await get(session, box, f"/v3/security_groups/{seed.DB_ONLY}", admin)
    assert group["relationships"]["running_spaces"]["data"] == []


async def test_a_name_is_free_again_when_its_app_is_gone(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    await send(session, box, "PATCH", f"/v3/apps/{seed.FRONTEND}", admin, {"name": "shop"})
    wish = {"name": "frontend", "relationships": {"space": {"data": {"guid": seed.ACME_DEV}}}}
    status, _, _ = await send(session, box, "POST", "/v3/apps", admin, wish)
    assert status == 201


async def test_security_groups_are_made_bound_listed_and_unbound(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    rules = [{"protocol": "tcp", "destination": "10.9.0.0/16", "ports": "443"}]
    status, group, _ = await send(session, box, "POST", "/v3/security_groups", admin, {"name": "g", "rules": rules})
    assert (status, group["rules"]) == (201, rules)
    bindings = f"/v3/security_groups/{group['guid']}/relationships/running_spaces"
    data = {"data": [{"guid": seed.ACME_PROD}]}
    assert (await send(session, box, "POST", bindings, admin, data))[1]["data"] == data["data"]
    effective = f"/v3/spaces/{seed.ACME_PROD}/running_security_groups"
    assert await names(session, box, effective, admin) == ["public_networks", "g"]
    assert await names(session, box, "/v3/security_groups?globally_enabled_running=true", admin) == ["public_networks"]
    assert (await send(session, box, "DELETE", f"{bindings}/{seed.ACME_PROD}", admin))[0] == 204
    assert (await send(session, box, "DELETE", f"{bindings}/{seed.ACME_PROD}", admin))[0] == 422
    assert await names(session, box, effective, admin) == ["public_networks"]


@pytest.mark.parametrize(
    "rule",
    [
        {"protocol": "tcp", "destination": "10.0.0.1"},
        {"protocol": "tcp", "destination": "10.0.0.1", "ports": 443},
        {"protocol": "tcp", "destination": "10.0.0.1", "ports": "90-80"},
        {"protocol": "tcp", "destination": "10.0.0.1", "ports": "80,90-95"},
        {"protocol": "all", "destination": "10.0.0.1", "ports": "80"},
        {"protocol": "icmp", "destination": "10.0.0.1", "type": 8},
        {"protocol": "icmp", "destination": "10.0.0.1", "type": 256, "code": 0},
        {"protocol": "sctp", "destination": "10.0.0.1"},
        {"protocol": "all", "destination": "10.0.0.09"},
        {"protocol": "all", "destination": "10.0.0.9-10.0.0.1"},
        {"protocol": "all", "destination": "10.0.0.1, 10.0.0.2"},
        {"protocol": "all", "destination": "10.0.0.0/33"},
        {"protocol": "all", "destination": "10.0.0.1", "colour": "red"},
        "all",
    ],
)
async def test_a_rule_that_means_nothing_is_refused(
    rule: Any, session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    status, answer, _ = await send(session, box, "POST", "/v3/security_groups", admin, {"name": "g", "rules": [rule]})
    assert (status, answer["errors"][0]["title"]) == (422, "CF-UnprocessableEntity")


async def test_labels_are_merged_and_taken_away_by_null(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    path = f"/v3/organizations/{seed.ACME}"
    await send(session, box, "PATCH", path, admin, {"metadata": {"labels": {"a": "1", "b": "2"}}})
    _, org, _ = await send(session, box, "PATCH", path, admin, {"metadata": {"labels": {"a": None, "c": "3"}}})
    assert org["metadata"]["labels"] == {"b": "2", "c": "3"}
