"""Who may change which policies, and what do agents see? What the recorded cases do not show."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from cfbridge.simulator import certificates, seed
from cfbridge.simulator.box import Box, SimulatorConfig, serve
from cfbridge.simulator.policy_table import PolicyKey, PolicyTable

Headers = dict[str, str]
EXTERNAL = "/networking/v1/external/"
INTERNAL = "/networking/v1/internal/"


def policy(source: str, destination: str, port: Any = 8080, end: Any = None, protocol: Any = "tcp") -> dict[str, Any]:
    ports = {"start": port, "end": port if end is None else end}
    return {"source": {"id": source}, "destination": {"id": destination, "protocol": protocol, "ports": ports}}


async def post(
    session: aiohttp.ClientSession, box: Box, path: str, headers: Headers, body: object
) -> tuple[int, dict[str, Any]]:
    content = body if isinstance(body, bytes) else json.dumps(body)
    async with session.post(box.foundation.policy_url + EXTERNAL + path, headers=headers, data=content) as response:
        return response.status, json.loads(await response.read())


async def internal(session: aiohttp.ClientSession, box: Box, path: str) -> tuple[int, Any]:
    async with session.get(box.foundation.internal_url + INTERNAL + path) as response:
        return response.status, json.loads(await response.read())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "mapper: validate policies: missing policies"),
        ({"policies": [policy("", "b")]}, "mapper: validate policies: missing source id"),
        ({"policies": [policy("a", "")]}, "mapper: validate policies: missing destination id"),
        (
            {"policies": [policy("a", "b", protocol="TCP")]},
            "mapper: validate policies: invalid destination protocol, specify either udp or tcp",
        ),
        (
            {"policies": [policy("a", "b", 9, 1)]},
            "mapper: validate policies: invalid port range 9-1, start must be less than or equal to end",
        ),
        (
            {"policies": [policy("a", "b", -1, 9)]},
            "mapper: validate policies: invalid start port -1, must be in range 1-65535",
        ),
        ({"policies": [{**policy("a", "b"), "source": {"id": 7}}]}, "mapper: unmarshal json: json: cannot unmarshal"),
        ({"policies": [policy("a", "b", "80")]}, "mapper: unmarshal json: json: cannot unmarshal string"),
        ({"policies": [policy("a", "b", 80.5)]}, "mapper: unmarshal json: json: cannot unmarshal number"),
        (b"", "mapper: unmarshal json: unexpected end of JSON input"),
        (b"x", "mapper: unmarshal json: invalid character 'x' looking for beginning of value"),
        (b"[" * 100_000, "mapper: unmarshal json: "),
        (b'{"policies": NaN}', "mapper: unmarshal json: invalid character 'N' looking for beginning of value"),
    ],
)
async def test_a_bad_body_is_refused_in_the_servers_own_words(
    body: object, says: str, session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    status, answer = await post(session, box, "policies", admin, body)
    assert status == 400
    assert answer["error"].startswith(says)


async def test_a_body_of_more_than_ten_megabytes_is_refused(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    body = b" " * (10 * 1024 * 1024 + 1)
    assert await post(session, box, "policies", admin, body) == (400, {"error": "failed reading request body"})
    assert await post(session, box, "policies/delete", admin, body) == (400, {"error": "invalid request body"})


async def test_the_version_is_judged_before_the_token(session: aiohttp.ClientSession, box: Box) -> None:
    async with session.get(f"{box.foundation.policy_url}/networking/v9/external/policies") as response:
        assert (response.status, await response.text()) == (406, '{"error": "api version \'v9\' not supported"}')


@pytest.mark.parametrize("path", ["/networking/", "/nope", "/networking/v1/external/nope", "/networking/v1/external/"])
async def test_an_unknown_path_is_not_found_as_go_says_it(path: str, session: aiohttp.ClientSession, box: Box) -> None:
    async with session.get(box.foundation.policy_url + path) as response:
        assert (response.status, await response.text()) == (404, "404 page not found\n")


async def test_a_wrong_method_is_told_the_right_ones(session: aiohttp.ClientSession, box: Box) -> None:
    async with session.put(box.foundation.policy_url + EXTERNAL + "policies") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET, POST, OPTIONS")
        assert await response.text() == "Method Not Allowed\n"


async def test_a_developer_needs_no_scope_when_self_service_is_on(certificate_directory: Path) -> None:
    config = SimulatorConfig(certificate_directory, self_service=True)
    async with await serve(config) as box, aiohttp.ClientSession() as session:
        box.state.create_role("space_developer", seed.NOBODY, space=seed.ACME_DEV)
        nobody = box.state.users[seed.NOBODY]
        token = {"Authorization": f"Bearer {box.tokens.for_user(nobody, 'cf', 'password')[0]}"}
        allowed = await post(session, box, "policies", token, {"policies": [policy(seed.FRONTEND, seed.BACKEND)]})
        refused = await post(session, box, "policies", token, {"policies": [policy(seed.FRONTEND, seed.DB)]})
        whoami = await session.get(box.foundation.policy_url + EXTERNAL + "whoami", headers=token)
        assert (allowed[0], refused[0], whoami.status) == (200, 403, 403)


async def test_a_developer_may_name_an_app_that_does_not_exist(
    session: aiohttp.ClientSession, box: Box, dev: Headers
) -> None:
    assert (await post(session, box, "policies", dev, {"policies": [policy(seed.FRONTEND, "ghost")]}))[0] == 200


async def test_one_bad_policy_refuses_all(session: aiohttp.ClientSession, box: Box, admin: Headers) -> None:
    body = {"policies": [policy("a", "b"), policy("a", "b", 0)]}
    assert (await post(session, box, "policies", admin, body))[0] == 400
    assert len(box.state.policies) == 0


async def test_an_empty_id_filter_matches_nothing(session: aiohttp.ClientSession, box: Box, admin: Headers) -> None:
    await post(session, box, "policies", admin, {"policies": [policy("a", "b")]})
    async with session.get(box.foundation.policy_url + EXTERNAL + "policies?id=", headers=admin) as response:
        assert await response.text() == '{"total_policies":0,"policies":[]}'


async def test_the_database_time_moves_with_every_change_and_only_then(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    times = [(await internal(session, box, "policies_last_updated"))[1]]
    for path in ("policies", "policies", "policies/delete", "policies/delete"):
        await post(session, box, path, admin, {"policies": [policy("a", "b")]})
        times.append((await internal(session, box, "policies_last_updated"))[1])
    assert times[0] < times[1] == times[2] < times[3] == times[4]


async def test_agents_see_policies_with_tags(session: aiohttp.ClientSession, box: Box, admin: Headers) -> None:
    await post(session, box, "policies", admin, {"policies": [policy("a", "b"), policy("c", "d")]})
    _, document = await internal(session, box, "policies?id=c,x")
    assert document == {
        "total_policies": 1,
        "policies": [
            {
                "source": {"id": "c", "tag": "0003"},
                "destination": {
                    "id": "d",
                    "tag": "0004",
                    "protocol": "tcp",
                    "ports": {"start": 8080, "end": 8080},
                },
            }
        ],
    }


async def test_any_version_will_do_for_agents(session: aiohttp.ClientSession, box: Box) -> None:
    async with session.get(f"{box.foundation.internal_url}/networking/v9/internal/healthcheck") as response:
        assert await response.text() == '{"healthcheck":true}'


async def test_groups_are_paged_by_row_and_filtered_by_space(session: aiohttp.ClientSession, box: Box) -> None:
    _, everywhere = await internal(session, box, "security_groups")
    _, first = await internal(session, box, f"security_groups?space_guids={seed.ACME_DEV}&limit=1&from=0")
    _, rest = await internal(session, box, f"security_groups?space_guids={seed.ACME_DEV}&limit=1&from={first['next']}")
    named = [[group["name"] for group in page["security_groups"]] for page in (everywhere, first, rest)]
    assert named == [["public_networks"], ["public_networks"], ["db-only"]]
    assert (first["next"], rest["next"]) == (2, 0)


@pytest.mark.parametrize("name", ["limit", "from"])
async def test_a_number_that_is_none_is_an_error_of_the_servers(
    name: str, session: aiohttp.ClientSession, box: Box
) -> None:
    status, answer = await internal(session, box, f"security_groups?{name}=x")
    assert (status, answer) == (500, {"error": f"invalid value for '{name}' parameter"})


async def test_a_lagging_syncer_shows_old_groups_until_it_looks(certificate_directory: Path) -> None:
    config = SimulatorConfig(certificate_directory, asg_sync_seconds=None)
    context = certificates.client_context(certificates.ensure(certificate_directory))
    connector = aiohttp.TCPConnector(ssl=context)
    async with await serve(config) as box, aiohttp.ClientSession(connector=connector) as session:
        assert (await internal(session, box, "security_groups"))[1]["security_groups"] == []
        before = (await internal(session, box, "security_groups_last_updated"))[1]
        box.state.sync_groups()
        assert len((await internal(session, box, "security_groups"))[1]["security_groups"]) == 1
        assert (await internal(session, box, "security_groups_last_updated"))[1] > before


async def test_a_tag_keeps_its_type(session: aiohttp.ClientSession, box: Box) -> None:
    url = box.foundation.internal_url + INTERNAL + "tags"
    answers = []
    for body in (b'{"id":"r","type":"router"}', b'{"id":"r","type":"router"}', b'{"id":"r","type":"app"}', b"{"):
        async with session.put(url, data=body) as response:
            answers.append((response.status, await response.text()))
    given = (200, '{"id":"r","tag":"0001","type":"router"}')
    conflict, unread = (
        (500, '{"error": "database create failed"}'),
        (400, '{"error": "failed parsing request body"}'),
    )
    assert answers == [given, given, conflict, unread]


async def test_without_a_client_certificate_tls_itself_says_no(box: Box) -> None:
    context = certificates.client_context(box.certificates, with_certificate=False)
    port = urlsplit(box.foundation.internal_url).port

    def knock() -> None:
        # A plain socket, because asyncio's streams keep the alert to themselves.
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
        ):
            wrapped.sendall(b"GET / HTTP/1.1\r\n\r\n")
            wrapped.recv(1)

    with pytest.raises(ssl.SSLError, match="certificate required"):
        await asyncio.to_thread(knock)


async def test_tls_1_2_is_spoken_with_one_cipher(box: Box) -> None:
    context = certificates.client_context(box.certificates)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    port = urlsplit(box.foundation.internal_url).port
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    assert writer.get_extra_info("cipher")[0] == "ECDHE-RSA-AES128-GCM-SHA256"
    writer.close()


def key(source: str, destination: str, port: int = 1) -> PolicyKey:
    return PolicyKey(source, destination, "tcp", port, port)


def test_the_lowest_free_tag_is_given_again() -> None:
    table = PolicyTable()
    table.create([key("a", "b"), key("c", "d")])
    table.delete([key("a", "b")])
    table.create([key("c", "e")])
    assert [(app, tag) for app, tag, _ in table.tags()] == [("e", "0001"), ("c", "0003"), ("d", "0004")]


def test_a_tag_stays_as_long_as_one_policy_needs_it() -> None:
    table = PolicyTable()
    table.create([key("a", "b", 1), key("a", "b", 2)])
    table.delete([key("a", "b", 1)])
    assert [app for app, _, _ in table.tags()] == ["a", "b"]


def test_the_time_grows_even_when_the_clock_stands_still() -> None:
    table = PolicyTable(clock_ns=lambda: 5_000)
    before = table.last_updated
    table.create([key("a", "b")])
    assert table.last_updated > before


def test_the_kept_document_is_forgotten_with_every_change() -> None:
    table = PolicyTable()
    table.create([key("a", "b")])
    assert b'"total_policies":1' in table.everything(internal=True)
    table.delete([key("a", "b")])
    assert table.everything(internal=True) == b'{"total_policies":0,"policies":[]}'
