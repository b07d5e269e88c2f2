"""Does UAA give tokens that others can verify, and nothing to those who may not have any?"""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from cfbridge.simulator import seed
from cfbridge.simulator.box import Box
from cfbridge.simulator.nouns import Client
from cfbridge.simulator.tokens import Tokens


async def ask(
    session: aiohttp.ClientSession,
    box: Box,
    path: str,
    form: dict[str, str],
    client: tuple[str, str] | None = ("cf", ""),
) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": aiohttp.encode_basic_auth(*client)} if client is not None else {}
    async with session.post(box.foundation.uaa_url + path, data=form, headers=headers) as response:
        return response.status, await response.json()


def secret(box: Box) -> str:
    return box.foundation.client_secret_file.read_text()


async def test_a_users_token_verifies_with_the_published_keys(session: aiohttp.ClientSession, box: Box) -> None:
    form = {"grant_type": "password", "username": "dev", "password": "dev"}
    status, granted = await ask(session, box, "/oauth/token", form)
    async with session.get(f"{box.foundation.uaa_url}/token_keys") as response:
        keys = KeySet.import_key_set(await response.json())
    claims = jwt.decode(granted["access_token"], keys, algorithms=["RS256"]).claims
    assert status == 200
    assert granted["scope"] == "network.write cloud_controller.read cloud_controller.write openid"
    assert (claims["user_name"], claims["user_id"]) == ("dev", seed.DEV)
    assert claims["iss"] == f"{box.foundation.uaa_url}/oauth/token"
    assert claims["exp"] - claims["iat"] == granted["expires_in"]


async def test_the_bridges_client_gets_a_token_for_its_secret(session: aiohttp.ClientSession, box: Box) -> None:
    client = (box.foundation.client_id, secret(box))
    status, granted = await ask(session, box, "/oauth/token", {"grant_type": "client_credentials"}, client)
    assert status == 200
    assert "refresh_token" not in granted
    headers = {"Authorization": f"bearer {granted['access_token']}"}
    async with session.get(f"{box.foundation.api_url}/v3/apps", headers=headers) as response:
        assert (await response.json())["pagination"]["total_results"] == 4


async def test_the_secret_may_travel_in_the_form(session: aiohttp.ClientSession, box: Box) -> None:
    form = {"grant_type": "client_credentials", "client_id": "cfbridge", "client_secret": secret(box)}
    assert (await ask(session, box, "/oauth/token", form, None))[0] == 200


async def test_a_refresh_token_gives_a_new_token(session: aiohttp.ClientSession, box: Box) -> None:
    form = {"grant_type": "password", "username": "dev", "password": "dev"}
    _, first = await ask(session, box, "/oauth/token", form)
    again = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    status, second = await ask(session, box, "/oauth/token", again)
    assert (status, second["scope"]) == (200, first["scope"])
    assert second["jti"] != first["jti"]


@pytest.mark.parametrize(
    ("form", "client", "status", "error"),
    [
        ({"grant_type": "password", "username": "dev", "password": "no"}, ("cf", ""), 401, "unauthorized"),
        ({"grant_type": "client_credentials"}, ("cfbridge", "no"), 401, "unauthorized"),
        ({"grant_type": "client_credentials"}, None, 401, "unauthorized"),
        ({"grant_type": "refresh_token", "refresh_token": "no"}, ("cf", ""), 401, "invalid_token"),
        ({"grant_type": "magic"}, ("cf", ""), 400, "unsupported_grant_type"),
        ({"username": "dev"}, ("cf", ""), 400, "invalid_request"),
    ],
)
async def test_who_asks_wrongly_gets_no_token(
    form: dict[str, str],
    client: tuple[str, str] | None,
    status: int,
    error: str,
    session: aiohttp.ClientSession,
    box: Box,
) -> None:
    got, answer = await ask(session, box, "/oauth/token", form, client)
    assert (got, answer["error"]) == (status, error)


async def test_tokens_are_checked_for_clients_that_may(session: aiohttp.ClientSession, box: Box) -> None:
    token = box.tokens.for_user(box.state.users[seed.DEV], "cf", "password")[0]
    may = ("network-policy", secret(box))
    status, claims = await ask(session, box, "/check_token", {"token": token}, may)
    assert (status, claims["user_name"]) == (200, "dev")
    assert (await ask(session, box, "/check_token", {"token": "x"}, may))[0] == 400
    assert (await ask(session, box, "/check_token", {"token": token}))[0] == 403
    assert (await ask(session, box, "/introspect", {"token": "x"}, may))[1] == {"active": False}


async def test_keys_that_did_not_change_are_not_sent_again(session: aiohttp.ClientSession, box: Box) -> None:
    url = f"{box.foundation.uaa_url}/token_keys"
    async with session.get(url) as response:
        seen = {"If-None-Match": response.headers["ETag"]}
    async with session.get(url, headers=seen) as response:
        assert response.status == 304
    box.tokens.rotate()
    async with session.get(url, headers=seen) as response:
        assert [key["kid"] for key in (await response.json())["keys"]] == ["key-1", "key-2"]


async def test_a_token_outlives_a_rotation_of_keys(box: Box) -> None:
    token, _, claims = box.tokens.for_user(box.state.users[seed.DEV], "cf", "password")
    box.tokens.rotate()
    assert box.tokens.verify(token) == claims


def test_a_token_that_is_over_is_believed_no_longer() -> None:
    now = [1_800_000_000.0]
    tokens = Tokens("https://uaa/oauth/token", 60, clock=lambda: now[0])
    token, _ = tokens.for_client(Client("c", "", ("a.b",)))
    assert tokens.verify(token) is not None
    now[0] += 61
    assert tokens.verify(token) is None


def test_a_token_of_another_uaa_is_not_believed() -> None:
    stranger = Tokens("https://uaa/oauth/token").for_client(Client("c", "", ("a.b",)))[0]
    assert Tokens("https://uaa/oauth/token").verify(stranger) is None
