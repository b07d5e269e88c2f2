from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from cfbridge.foundation.client import CloudController, PolicyServer
from cfbridge.settings import FoundationConfig, PolicyServerConfig
from egress.values import RefusedError, Unavailable

Fake = Any  # of conftest.py, which cannot be imported by name
DOWN = "http://127.0.0.1:9"


@pytest.fixture
async def controller(config: FoundationConfig) -> AsyncIterator[CloudController]:
    async with CloudController(config, longest_wait=0.01) as running:
        yield running


@pytest.fixture
async def policy_server(config: FoundationConfig) -> AsyncIterator[PolicyServer]:
    async with PolicyServer(config.policy_server) as running:
        yield running


async def test_a_list_is_walked_page_by_page(fake: Fake, controller: CloudController) -> None:
    for number in range(1201):
        fake.org(f"o{number}")
    pages = await controller.pages("/v3/organizations")
    assert [len(json.loads(page)["resources"]) for page in pages] == [500, 500, 201]
    assert all("order_by=created_at" in asked for asked in fake.asked if "per_page" in asked)


async def test_a_row_deleted_during_the_walk_makes_it_walk_again(fake: Fake, controller: CloudController) -> None:
    fake.page_size = 2
    for name in "abcde":
        fake.org(name)

    def delete_first(request: web.Request) -> None:
        if request.query.get("page") == "2":
            fake.remove("organizations", "a")

    fake.before = delete_first
    pages = await controller.pages("/v3/organizations")
    assert [row["guid"] for page in pages for row in json.loads(page)["resources"]] == ["b", "c", "d", "e"]


async def test_a_list_that_never_holds_still_is_incomplete(fake: Fake, controller: CloudController) -> None:
    fake.page_size = 2
    for number in range(50):
        fake.org(f"o{number}")

    def delete_one(request: web.Request) -> None:
        if request.query.get("page") == "2":
            fake.rows["organizations"].pop(0)

    fake.before = delete_one
    with pytest.raises(Unavailable, match="incomplete"):
        await controller.pages("/v3/organizations")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_busy_server_is_asked_again(fake: Fake, controller: CloudController, status: int) -> None:
    fake.org("o1")
    fake.instead["organizations"] = deque([(status, {"Retry-After": "3600"}, "busy"), (status, {}, "busy")])
    assert len(await controller.pages("/v3/organizations")) == 1
    assert fake.count("organizations") == 3


async def test_a_server_that_stays_busy_is_unavailable(fake: Fake, controller: CloudController) -> None:
    fake.instead["organizations"] = deque([(503, {}, "deploying")] * 10)
    with pytest.raises(Unavailable, match=r"HTTP 503.*deploying"):
        await controller.pages("/v3/organizations")


async def test_an_expired_token_is_renewed_once_for_all_who_wait(fake: Fake, controller: CloudController) -> None:
    await controller.pages("/v3/organizations")
    fake.tokens.clear()
    await asyncio.gather(*(controller.pages("/v3/apps") for _ in range(8)))
    assert fake.given == 2


async def test_a_rotated_secret_is_read_at_the_next_renewal(
    fake: Fake, controller: CloudController, config: FoundationConfig
) -> None:
    seen = []
    fake.before = lambda request: seen.append(request.headers.get("Authorization"))
    await controller.pages("/v3/organizations")
    Path(config.client_secret_file).write_text("n3w")
    fake.tokens.clear()
    await controller.pages("/v3/organizations")
    basic = [header for header in seen if header and header.startswith("Basic")]
    assert len(set(basic)) == 2


async def test_a_client_that_uaa_refuses_is_told_what_to_check(fake: Fake, controller: CloudController) -> None:
    fake.instead["token"] = deque([(401, {}, '{"error":"unauthorized","error_description":"Bad credentials"}')])
    with pytest.raises(RefusedError, match="client_secret_file") as refused:
        await controller.pages("/v3/organizations")
    assert refused.value.refused.code == "UAA_REFUSED"
    await controller.pages("/v3/organizations")


async def test_a_secret_that_is_not_there_is_named(config: FoundationConfig) -> None:
    async with CloudController(replace(config, client_secret_file="/nowhere/secret")) as controller:
        with pytest.raises(RefusedError, match="/nowhere/secret") as refused:
            await controller.get("/v3/organizations")
        assert refused.value.refused.field == "client_secret_file"


async def test_a_client_that_may_not_have_a_token_this_way_is_told_so(fake: Fake, controller: CloudController) -> None:
    fake.instead["token"] = deque([(401, {}, '{"error":"unauthorized_client"}')])
    with pytest.raises(RefusedError, match=r"UAA at .*authorized_grant_types"):
        await controller.pages("/v3/organizations")


async def test_a_brand_new_token_that_is_not_believed_points_at_keys_and_clocks(
    fake: Fake, controller: CloudController
) -> None:
    invalid = '{"errors":[{"code":1000,"title":"CF-InvalidAuthToken","detail":"Invalid Auth Token"}]}'
    fake.instead["apps"] = deque([(401, {}, invalid)] * 2)
    with pytest.raises(RefusedError, match="UAA keys and its clock") as refused:
        await controller.pages("/v3/apps")
    assert refused.value.refused.code == "CF_TOKEN_REFUSED"
    assert fake.given == 2


async def test_a_token_that_does_not_arrive_points_at_a_proxy(fake: Fake, controller: CloudController) -> None:
    missing = '{"errors":[{"code":10002,"title":"CF-NotAuthenticated","detail":"Authentication error"}]}'
    fake.instead["apps"] = deque([(401, {}, missing)] * 2)
    with pytest.raises(RefusedError, match="did not arrive") as refused:
        await controller.pages("/v3/apps")
    assert refused.value.refused.code == "CF_TOKEN_MISSING"


async def test_a_uaa_that_is_away_is_named_and_not_cloud_controller(fake: Fake, controller: CloudController) -> None:
    links = {"cloud_controller_v3": {"href": f"{fake.url}/v3"}, "login": {"href": DOWN}}
    fake.instead[""] = deque([(200, {}, json.dumps({"links": links}))])
    with pytest.raises(Unavailable, match=f"^UAA at {DOWN}: "):
        await controller.pages("/v3/organizations")


@pytest.mark.parametrize(("status", "body"), [(503, "deploying"), (200, "<html>")])
async def test_a_uaa_that_answers_nonsense_is_named(
    fake: Fake, controller: CloudController, status: int, body: str
) -> None:
    fake.instead["token"] = deque([(status, {}, body)])
    with pytest.raises(Unavailable, match=r"^UAA at "):
        await controller.pages("/v3/organizations")


async def test_a_forbidden_list_says_which_authority_is_missing(fake: Fake, controller: CloudController) -> None:
    fake.instead["apps"] = deque([(403, {}, '{"errors":[{"code":10003,"title":"CF-NotAuthorized"}]}')])
    with pytest.raises(RefusedError, match=r"admin_read_only.*CF-NotAuthorized"):
        await controller.pages("/v3/apps")


@pytest.mark.parametrize("name", ["", "token", "organizations"])
async def test_garbage_is_unavailable_and_passes(fake: Fake, controller: CloudController, name: str) -> None:
    fake.instead[name] = deque([(200, {}, "<html>It works!</html>")] * 3)
    with pytest.raises(Unavailable, match=r"^UAA at" if name == "token" else r"^Cloud Controller at"):
        await controller.pages("/v3/organizations")
    fake.instead.clear()
    assert await controller.pages("/v3/organizations")


async def test_a_status_no_library_knows_is_unavailable(fake: Fake, controller: CloudController) -> None:
    fake.instead["organizations"] = deque([(599, {}, "")])
    with pytest.raises(Unavailable, match="599"):
        await controller.get("/v3/organizations", {"per_page": 1})


async def test_nobody_at_home_is_unavailable(config: FoundationConfig) -> None:
    async with (
        CloudController(replace(config, api=DOWN)) as controller,
        PolicyServer(PolicyServerConfig(DOWN)) as server,
    ):
        with pytest.raises(Unavailable, match="Cloud Controller at"):
            await controller.get("/v3/organizations")
        with pytest.raises(Unavailable, match="policy server at"):
            await server.last_updated()


async def test_requests_leave_the_loop_free(fake: Fake, controller: CloudController) -> None:
    threads = set()
    await controller.get("/v3/organizations", {"per_page": 1})
    transport = controller._transport
    assert transport is not None
    fetch = transport.fetch

    def noted(*arguments: Any) -> Any:
        threads.add(threading.current_thread().name)
        return fetch(*arguments)

    transport.fetch = noted  # type: ignore[method-assign]
    await controller.get("/v3/organizations", {"per_page": 1})
    assert all(name.startswith("cc-cf") for name in threads)
    assert threads


async def test_the_policy_server_answers_a_number_and_a_list(fake: Fake, policy_server: PolicyServer) -> None:
    fake.policy("a", "b")
    assert await policy_server.last_updated() == 2
    assert json.loads(await policy_server.policies())["total_policies"] == 1


async def test_security_groups_are_followed_to_the_last_page(fake: Fake, policy_server: PolicyServer) -> None:
    fake.page_size = 2
    for number in range(5):
        fake.asg(f"g{number}", "[]")
    pages = await policy_server.security_groups([])
    assert [len(json.loads(page)["security_groups"]) for page in pages] == [2, 2, 1]


async def test_many_spaces_are_asked_for_in_urls_of_a_bearable_length(fake: Fake, policy_server: PolicyServer) -> None:
    await policy_server.security_groups([f"{number:036}" for number in range(301)])
    assert fake.count("space_guids=") == 3
    assert max(len(asked) for asked in fake.asked) < 8192


async def test_a_list_that_goes_round_in_circles_ends(fake: Fake, policy_server: PolicyServer) -> None:
    fake.instead["security_groups"] = deque([(200, {}, '{"next":5,"security_groups":[]}')] * 3)
    with pytest.raises(Unavailable, match="circles"):
        await policy_server.security_groups([])


async def test_an_old_policy_server_need_not_say_when_security_groups_changed(
    fake: Fake, policy_server: PolicyServer
) -> None:
    assert await policy_server.security_groups_last_updated() is None
    fake.asgs_changed = 7
    assert await policy_server.security_groups_last_updated() == 7


@pytest.mark.parametrize("body", ["", "soon", "1.5", "-1", "null", "[1]"])
async def test_a_number_that_is_none_is_unavailable(fake: Fake, policy_server: PolicyServer, body: str) -> None:
    fake.instead["policies_last_updated"] = deque([(200, {}, body)])
    with pytest.raises(Unavailable, match="policy server at"):
        await policy_server.last_updated()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def _files(authority: trustme.CA, folder: Path) -> dict[str, str]:
    leaf = authority.issue_cert("cfbridge")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    leaf.private_key_pem.write_to_path(str(folder / "key.pem"))
    return {
        key: str(folder / f"{name}.pem")
        for key, name in (("ca", "ca"), ("certificate", "cert"), ("private_key", "key"))
    }


def _tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_the_policy_server_is_shown_our_certificate(
    fake: Fake, authority: trustme.CA, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    async with (
        serve(type(fake)(), _tls(authority)) as guarded,
        PolicyServer(PolicyServerConfig(guarded.url, **_files(authority, tmp_path))) as server,
    ):
        assert await server.last_updated() == 1


async def test_without_our_certificate_there_is_no_answer(
    fake: Fake, authority: trustme.CA, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    files = _files(authority, tmp_path)
    async with (
        serve(type(fake)(), _tls(authority)) as guarded,
        PolicyServer(PolicyServerConfig(guarded.url, ca=files["ca"])) as server,
    ):
        with pytest.raises(Unavailable):
            await server.last_updated()


async def test_a_server_of_another_authority_is_not_believed(
    fake: Fake, authority: trustme.CA, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    async with (
        serve(type(fake)(), _tls(trustme.CA())) as stranger,
        PolicyServer(PolicyServerConfig(stranger.url, **_files(authority, tmp_path))) as server,
    ):
        with pytest.raises(Unavailable, match="is not by an authority in"):
            await server.last_updated()


async def test_a_certificate_that_is_not_there_is_unavailable() -> None:
    async with PolicyServer(PolicyServerConfig("https://127.0.0.1:9", ca="/nowhere/ca.pem")) as server:
        with pytest.raises(Unavailable):
            await server.last_updated()
