"""Does the API answer what is there, refuse in problems, and let in only whom it should?"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import trustme
from yarl import URL

from cfbridge import api
from cfbridge.api import operations
from cfbridge.api.operations import RESOURCES, ROLE_PERMISSIONS, ROOT
from cfbridge.api.server import ApiServer, application
from cfbridge.api.views import Alarm
from cfbridge.drafts import Draft
from cfbridge.inventory import Look
from cfbridge.metrics import Metrics
from cfbridge.settings import ApiConfig
from cfbridge.store import Revised
from egress.model import NetworkMode, OrgNetwork, OrgWish, SnatAddress
from egress.values import Refused, RefusedError
from tests.cfbridge.api.world import SNAPSHOT, STATE, FakeFacade


@pytest.fixture
def facade() -> FakeFacade:
    made = FakeFacade()
    made.revisions.history = tuple(Revised(number, 1.8e9, "root", "", "1 to add") for number in (3, 2, 1))
    made.drafts.drafts = {name: Draft(name, "root", 1.8e9, ()) for name in ("a", "b")}
    return made


async def get(session: aiohttp.ClientSession, path: str, status: int = 200, **headers: str) -> Any:
    async with session.get(path, headers=headers) as response:
        assert response.status == status, await response.text()
        if status >= 400:
            assert response.content_type == "application/problem+json"
        return await response.json()


async def test_many_readers_take_no_thread_that_the_compiler_needs(
    facade: FakeFacade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow(seen: object) -> list[object]:
        begun.set()
        ended.wait(20)
        return []

    monkeypatch.setitem(RESOURCES, "orgs", replace(RESOURCES["orgs"], rows=slow))  # type: ignore[arg-type]
    running = await api.serve(facade, ApiConfig((f"unix:{tmp_path}/api.sock",)), str(tmp_path / "state"))
    connector = aiohttp.UnixConnector(f"{tmp_path}/api.sock", limit=0)
    async with aiohttp.ClientSession("http://bridge", connector=connector) as session:
        readers = [asyncio.create_task(get(session, f"{ROOT}/orgs")) for _ in range(64)]
        try:
            assert await asyncio.to_thread(begun.wait, 10)
            assert await asyncio.wait_for(asyncio.to_thread(lambda: "compiled"), 5) == "compiled"
        finally:
            ended.set()
            await asyncio.gather(*readers)
    await running.close()


async def test_an_org_is_shown_by_name_with_its_network(asked: aiohttp.ClientSession) -> None:
    page = await get(asked, f"{ROOT}/orgs")
    assert [row["name"] for row in page["items"]] == ["acme", "globex", "newcomer"]
    assert page["items"][0] == {
        "id": "cf:org-acme",
        "name": "acme",
        "foundation": "cf",
        "mode": "nat",
        "suspended": False,
        "subnets": ["10.240.1.0/24"],
        "snat_addresses": ["203.0.113.7"],
        "no_way_out": [],
        "workloads": 2,
        "refusal_code": "",
        "refusal": "",
    }
    assert (page["total"], page["next"], page["revision"]) == (3, None, 41)


@pytest.mark.parametrize(
    ("mode", "snat", "cell", "stuck"),
    [
        pytest.param(NetworkMode.NAT, "203.0.113.7", "2001:db8::10", ["fd00:cf::/64"], id="nat without a v6 address"),
        pytest.param(NetworkMode.NAT, "2001:db8:5::1", "2001:db8::10", ["10.240.1.0/24"], id="nat without a v4 one"),
        pytest.param(NetworkMode.SHARED, "203.0.113.7", "2001:db8::10", [], id="shared by a cell with both"),
        pytest.param(
            NetworkMode.SHARED, "2001:db8:5::1", "2001:db8:5::1", ["fd00:cf::/64"], id="the cell's is an org's"
        ),
        pytest.param(NetworkMode.ROUTED, "203.0.113.7", "10.0.0.9", [], id="routed"),
    ],
)
async def test_an_org_shows_the_subnets_that_have_no_address_of_their_family_to_leave_by(
    asked: aiohttp.ClientSession, facade: FakeFacade, mode: NetworkMode, snat: str, cell: str, stuck: list[str]
) -> None:
    org, held = SNAPSHOT.held.org_networks[0].org, SNAPSHOT.held
    networks = (*held.org_networks, OrgNetwork(org, "fd00:cf::/64", "overlay"))
    leaving = {org: (SnatAddress(org, snat, "snat"),)}
    facade.snapshot = replace(
        SNAPSHOT,
        held=replace(held, org_networks=networks, snat_addresses=leaving),
        intent=replace(SNAPSHOT.intent, tenants=(OrgWish(org, mode, name="acme"),)),
        cells={"cell-1": replace(SNAPSHOT.cells["cell-1"], addresses=("10.0.0.5", cell))},
    )
    assert (await get(asked, f"{ROOT}/orgs"))["items"][0]["no_way_out"] == stuck


async def test_an_org_nobody_read_yet_bears_the_name_its_container_reported(asked: aiohttp.ClientSession) -> None:
    page = await get(asked, f"{ROOT}/workloads?q=newcomer")
    (row,) = page["items"]
    assert (row["name"], row["org"], row["org_id"]) == ("newcomer/prod/first/2", "newcomer", "cf:org-new")


async def test_policies_and_asgs_are_shown_by_name(asked: aiohttp.ClientSession) -> None:
    policies = (await get(asked, f"{ROOT}/policies"))["items"]
    assert [(p["source"], p["destination"], p["protocol"], p["ports"], p["rule"]) for p in policies] == [
        ("acme/dev/backend", "acme/dev/frontend", "udp", "5000-5100", ""),
        ("acme/dev/frontend", "acme/dev/backend", "tcp", "8080", "R50"),
    ]
    (asg,) = (await get(asked, f"{ROOT}/asgs"))["items"]
    assert asg["rules"] == ["tcp/443,8000-8100 to 10.0.0.0/8", "icmp/8 to 0.0.0.0/0", "all to 192.0.2.1-192.0.2.9"]
    assert asg["running_spaces"] == ["acme/dev"]


async def test_rules_come_in_the_order_of_evaluation_as_sentences(asked: aiohttp.ClientSession) -> None:
    rules = (await get(asked, f"{ROOT}/rules"))["items"]
    tiers = [rule["tier"] for rule in rules]
    assert tiers == sorted(tiers, key=["infrastructure", "application", "baseline"].index)
    found = {rule["id"]: rule for rule in rules}
    assert found["R42"]["sentence"] == "allow tcp/5432 from acme/dev/frontend to vm:db-1, group:databases"
    assert (found["R42"]["in_force"], found["R42"]["owner"]) == (True, "payments")
    assert found["R50"]["sentence"] == "allow tcp/8080 from acme/dev/frontend to acme/dev/backend"
    assert (found["R60"]["name"], found["R60"]["section"]) == ("public", "cf security groups")
    assert found["R1"]["sentence"] == "allow from any to any"
    assert not found["system:dns"]["in_force"]


async def test_a_group_says_which_member_is_unknown(asked: aiohttp.ClientSession) -> None:
    group = await get(asked, f"{ROOT}/groups/databases")
    assert group["members"] == ["vm:db-1", "org:gone (unknown)"]


async def test_a_group_says_its_criteria_and_who_can_change_whom_it_names(asked: aiohttp.ClientSession) -> None:
    rows = {row["id"]: row for row in (await get(asked, f"{ROOT}/groups"))["items"]}
    assert {name: (row["criteria"], row["trust"]) for name, row in rows.items()} == {
        "blue": ('label team = "blue"', "developer"),
        "blue-or-old": ("tag age exists", "developer"),
        "databases": ("", "admin"),
    }


async def test_a_machine_says_its_tags(asked: aiohttp.ClientSession) -> None:
    assert (await get(asked, f"{ROOT}/vms/vm:db-1"))["tags"] == ["tier=db"]


@pytest.mark.parametrize("resource", sorted(RESOURCES))
async def test_every_row_is_found_by_its_id(server: ApiServer, asked: aiohttp.ClientSession, resource: str) -> None:
    rows = (await get(asked, f"{ROOT}/{resource}"))["items"]
    assert rows
    for row in rows:
        path = URL(f"{server.addresses[1]}{ROOT}/{resource}/{quote(row['id'], safe='')}", encoded=True)
        async with asked.get(path) as response:
            assert await response.json() == row
    assert len({row["id"] for row in rows}) == len(rows)


@pytest.mark.parametrize("resource", sorted(RESOURCES))
async def test_pages_put_together_are_the_whole_list(asked: aiohttp.ClientSession, resource: str) -> None:
    whole = (await get(asked, f"{ROOT}/{resource}"))["items"]
    found, after = [], ""
    while True:
        page = await get(asked, f"{ROOT}/{resource}?limit=1{after}")
        found += page["items"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert found == whole


async def test_a_page_goes_on_where_it_was_when_its_last_row_has_gone(
    asked: aiohttp.ClientSession, facade: FakeFacade
) -> None:
    first = await get(asked, f"{ROOT}/orgs?limit=1")
    cells = {"cell-1": replace(SNAPSHOT.cells["cell-1"], ports={})}
    without_acme = {org: each for org, each in STATE.orgs.items() if each.name != "acme"}
    held = replace(SNAPSHOT.held, org_networks=(), snat_addresses={}, leases={})
    inventory = {"cf": replace(STATE, orgs=without_acme)}
    facade.snapshot = replace(SNAPSHOT, revision=42, cells=cells, held=held, inventory=inventory)
    rest = await get(asked, f"{ROOT}/orgs?after={first['next']}")
    assert [row["name"] for row in rest["items"]] == ["globex"]


async def test_filters_and_search_narrow_a_list(asked: aiohttp.ClientSession) -> None:
    assert [r["name"] for r in (await get(asked, f"{ROOT}/orgs?suspended=true"))["items"]] == ["globex"]
    assert [r["id"] for r in (await get(asked, f"{ROOT}/workloads?app=backend"))["items"]] == ["cf:handle-2"]
    assert (await get(asked, f"{ROOT}/leases?q=10.240.2."))["total"] == 1
    assert (await get(asked, f"{ROOT}/workloads?instance=2"))["total"] == 1


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limt=3", "/query/limt"),
        ("limit=0", "/query/limit"),
        ("limit=501", "/query/limit"),
        ("limit=x", "/query/limit"),
        ("limit=1&limit=2", "/query/limit"),
        ("suspended=perhaps", "/query/suspended"),
        ("after=nonsense", "/query/after"),
        ("after=%F0%9F", "/query/after"),
        ("a~b%2Fc=1", "/query/a~0b~1c"),
    ],
)
async def test_a_wrong_query_is_a_problem_that_points_at_it(
    server: ApiServer, asked: aiohttp.ClientSession, query: str, pointer: str
) -> None:
    async with asked.get(URL(f"{server.addresses[1]}{ROOT}/orgs?{query}", encoded=True)) as answer:
        problem = await answer.json()
    assert (problem["status"], problem["code"], problem["errors"][0]["pointer"]) == (400, "BAD_QUERY", pointer)


async def test_single_things_take_no_query(asked: aiohttp.ClientSession) -> None:
    for path in (f"{ROOT}/status", f"{ROOT}/orgs/cf:org-acme", "/healthz"):
        assert (await get(asked, f"{path}?verbose=1", 400))["errors"][0]["pointer"] == "/query/verbose"


async def test_an_unchanged_answer_is_not_sent_again(asked: aiohttp.ClientSession, facade: FakeFacade) -> None:
    async with asked.get(f"{ROOT}/orgs") as response:
        etag = response.headers["ETag"]
    async with asked.get(f"{ROOT}/orgs", headers={"If-None-Match": f'"other", {etag}'}) as response:
        assert (response.status, await response.read()) == (304, b"")
    facade.snapshot = replace(SNAPSHOT, revision=42)
    async with asked.get(f"{ROOT}/orgs", headers={"If-None-Match": etag}) as response:
        assert response.status == 200


@pytest.mark.parametrize("path", ["/", "/api", f"{ROOT}/", f"{ROOT}/nothing", f"{ROOT}/orgs/none", f"{ROOT}/orgs/a/b"])
async def test_what_is_not_there_is_a_problem(asked: aiohttp.ClientSession, path: str) -> None:
    problem = await get(asked, path, 404)
    assert problem["code"] in ("NO_SUCH_PATH", "NOT_FOUND")
    assert problem["title"] == "Not Found"


async def remove(session: aiohttp.ClientSession, cell: str, status: int = 200) -> Any:
    async with session.delete(f"{ROOT}/cells/{cell}") as response:
        assert response.status == status, await response.text()
        return await response.json()


async def test_a_cell_that_is_gone_is_removed_by_hand(asked: aiohttp.ClientSession, facade: FakeFacade) -> None:
    assert await remove(asked, "cell-9") == {"id": "cell-9"}
    assert facade.removed == ["cell-9"]


async def test_a_cell_that_is_connected_or_unknown_is_not_removed_and_why_is_said(
    asked: aiohttp.ClientSession, facade: FakeFacade
) -> None:
    assert (await remove(asked, "cell-1", 409))["code"] == "CELL_CONNECTED"
    assert (await remove(asked, "cell-7", 404))["code"] == "CELL_UNKNOWN"
    facade.store_away = "the database does not answer"
    assert "the database does not answer" in (await remove(asked, "cell-9", 503))["detail"]
    assert not facade.removed


async def test_nobody_without_the_token_removes_a_cell(server: ApiServer, facade: FakeFacade) -> None:
    async with aiohttp.ClientSession(server.addresses[1]) as session:
        assert (await remove(session, "cell-9", 401))["code"] == "TOKEN_NEEDED"
    assert not facade.removed


async def decide(session: aiohttp.ClientSession, what: str, status: int = 200) -> Any:
    async with session.post(f"{ROOT}/held/{what}") as response:
        assert response.status == status, await response.text()
        return await response.json()


async def test_what_is_held_is_decided_by_a_person_and_what_is_not_held_is_not(
    asked: aiohttp.ClientSession, facade: FakeFacade
) -> None:
    assert await decide(asked, "cf:policies/apply") == {"id": "cf:policies", "verdict": "apply", "count": 2}
    assert (await decide(asked, "cf:policies/discard"))["verdict"] == "discard"
    assert facade.decided == [("cf", "policies", True), ("cf", "policies", False)]
    assert (await decide(asked, "cf:apps/apply", 404))["code"] == "NOTHING_HELD"


async def test_nobody_without_the_token_decides_what_becomes_of_what_is_held(
    server: ApiServer, facade: FakeFacade
) -> None:
    async with aiohttp.ClientSession(server.addresses[1]) as session:
        assert (await decide(session, "cf:policies/apply", 401))["code"] == "TOKEN_NEEDED"
    assert not facade.decided


async def test_a_method_that_is_not_answered_is_a_problem(asked: aiohttp.ClientSession) -> None:
    async with asked.post(f"{ROOT}/orgs", json={}) as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
        assert (await response.json())["code"] == "METHOD_NOT_ALLOWED"


async def test_a_bug_is_a_problem_without_its_inside(asked: aiohttp.ClientSession, facade: FakeFacade) -> None:
    facade.snapshot = None  # type: ignore[assignment]
    problem = await get(asked, f"{ROOT}/orgs", 500)
    assert (problem["code"], "NoneType" in str(problem)) == ("INTERNAL", False)


async def test_without_the_token_tcp_answers_nothing_but_health(server: ApiServer) -> None:
    async with aiohttp.ClientSession(server.addresses[1]) as session:
        assert (await get(session, "/healthz"))["status"] == "ok"
        for path in (f"{ROOT}/orgs", f"{ROOT}/nothing", "/metrics"):
            assert (await get(session, path, 401))["code"] == "TOKEN_NEEDED"
        for wrong in ("Bearer x", "Bearer ", f"Basic {server.token}", f"Bearer {server.token}x", "Bearer \udce9"):
            assert (await get(session, f"{ROOT}/orgs", 401, Authorization=wrong))["status"] == 401


async def test_the_socket_needs_no_token_and_is_roots_alone(server: ApiServer, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with aiohttp.ClientSession("http://x", connector=aiohttp.UnixConnector(str(path))) as session:
        assert (await get(session, f"{ROOT}/status"))["verdict"] == "ok"


async def test_every_route_declares_a_permission_that_some_role_has(facade: FakeFacade) -> None:
    known = frozenset().union(*ROLE_PERMISSIONS.values())
    routes = list(application(facade, Metrics(facade), "token").router.routes())
    assert len(routes) > len(RESOURCES)
    for route in routes:
        assert getattr(route.handler, operations.PERMISSION) in known, route


async def test_a_role_without_the_permission_is_refused(
    server: ApiServer, asked: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(operations.ROLE_PERMISSIONS, "operator", frozenset({"public"}))  # type: ignore[arg-type]
    assert (await get(asked, f"{ROOT}/orgs", 403))["code"] == "PERMISSION_NEEDED"


async def test_status_is_ok_in_one_line(asked: aiohttp.ClientSession) -> None:
    status = await get(asked, f"{ROOT}/status")
    assert (status["verdict"], status["reasons"]) == ("ok", [])
    assert status["line"] == "ok: 3 workloads on 1 cell, revision 41"


@pytest.mark.parametrize(
    "change",
    [
        {"alarms": (Alarm("degraded", "CELL_LATE", "the reason"),)},
        {"snapshot": replace(SNAPSHOT, held=replace(SNAPSHOT.held, refusals={"cf:o": Refused("X", "the reason")}))},
        {"snapshot": replace(SNAPSHOT, inventory={"cf": replace(STATE, quarantined=(Refused("X", "the reason"),))})},
    ],
)
async def test_status_is_degraded_and_says_why(
    asked: aiohttp.ClientSession, facade: FakeFacade, change: dict[str, Any]
) -> None:
    facade.__dict__.update(change)
    status = await get(asked, f"{ROOT}/status")
    assert (status["verdict"], status["line"], status["reasons"]) == (
        "degraded",
        "degraded: the reason",
        ["the reason"],
    )


async def test_a_warning_alone_does_not_degrade(asked: aiohttp.ClientSession, facade: FakeFacade) -> None:
    facade.alarms = (Alarm("warning", "IP_POOL_LOW", "pool overlay is 85% in use"),)
    assert (await get(asked, f"{ROOT}/status"))["line"].endswith(", 1 warning")


async def test_ready_only_after_every_foundation_was_read(asked: aiohttp.ClientSession, facade: FakeFacade) -> None:
    assert (await get(asked, "/readyz"))["status"] == "ok"
    facade.snapshot = replace(SNAPSHOT, inventory={"cf": replace(STATE, looks={"orgs": Look(1.0)})})
    assert (await get(asked, "/readyz", 503))["code"] == "NOT_READY"


async def test_metrics_say_what_is_there_and_how_the_api_was_used(asked: aiohttp.ClientSession) -> None:
    await get(asked, f"{ROOT}/orgs")
    async with asked.get("/metrics") as response:
        text = await response.text()
    for line in (
        'cfbridge_cell_connected{cell="cell-1"} 1.0',
        'cfbridge_foundation_objects{foundation="cf",kind="policies"} 2.0',
        'cfbridge_pool_held_ratio{pool="overlay"} 0.25',
        'cfbridge_api_requests_total{route="/api/v1/orgs",status="200"} 1.0',
        "cfbridge_revision 41.0",
    ):
        assert line in text


async def test_the_token_is_made_once_and_for_its_owner_alone(facade: FakeFacade, tmp_path: Path) -> None:
    listen = ApiConfig((f"unix:{tmp_path}/a.sock",))
    tokens = []
    for _ in range(2):
        running = await api.serve(facade, listen, str(tmp_path))
        tokens.append(running.token)
        await running.close()
    assert tokens[0] == tokens[1] == (tmp_path / "token").read_text().strip()
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


async def test_a_token_that_others_can_read_is_refused(facade: FakeFacade, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x" * 43)
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(RefusedError, match="TOKEN_EXPOSED"):
        await api.serve(facade, ApiConfig((f"unix:{tmp_path}/a.sock",)), str(tmp_path))


async def test_a_socket_in_use_is_refused_and_one_left_behind_is_taken(facade: FakeFacade, tmp_path: Path) -> None:
    listen = ApiConfig((f"unix:{tmp_path}/a.sock",))
    first = await api.serve(facade, listen, str(tmp_path))
    with pytest.raises(RefusedError, match="in use"):
        await api.serve(facade, listen, str(tmp_path))
    await first.close()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "a.sock"))
    again = await api.serve(facade, listen, str(tmp_path))
    await again.close()
    assert not os.path.lexists(tmp_path / "a.sock")


async def test_a_file_that_is_no_socket_is_left_alone(facade: FakeFacade, tmp_path: Path) -> None:
    (tmp_path / "a.sock").write_text("mine")
    with pytest.raises(RefusedError, match="no socket"):
        await api.serve(facade, ApiConfig((f"unix:{tmp_path}/a.sock",)), str(tmp_path))
    assert (tmp_path / "a.sock").read_text() == "mine"


async def test_what_could_not_all_be_listened_on_leaves_nothing(facade: FakeFacade, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = ApiConfig((f"unix:{tmp_path}/a.sock", f"127.0.0.1:{taken.getsockname()[1]}"))
        with pytest.raises(RefusedError, match="can not be listened on"):
            await api.serve(facade, listen, str(tmp_path))
    assert not os.path.lexists(tmp_path / "a.sock")


async def test_over_tls_the_token_opens(facade: FakeFacade, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    files = (str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem"))
    running = await api.serve(facade, ApiConfig(("127.0.0.1:0",), *files), str(tmp_path))
    headers = {"Authorization": f"Bearer {running.token}"}
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting), headers=headers) as session:
            assert (await get(session, f"{running.addresses[0]}{ROOT}/status"))["verdict"] == "ok"
        assert running.addresses[0].startswith("https://")
    finally:
        await running.close()


async def test_a_certificate_that_is_none_is_refused(facade: FakeFacade, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    files = (str(tmp_path / "bad.pem"), str(tmp_path / "bad.pem"))
    with pytest.raises(RefusedError, match="API_CERTIFICATE"):
        await api.serve(facade, ApiConfig(("127.0.0.1:0",), *files), str(tmp_path))
