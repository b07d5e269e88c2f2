"""Who are you, and what may you do? UAA: logins, tokens and their keys."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cfbridge.simulator.misbehaviour import misbehave
from cfbridge.simulator.nouns import Client
from cfbridge.simulator.state import Foundation
from cfbridge.simulator.tokens import Claims, Tokens


def _json(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    body = orjson.dumps(document)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def _error(status: int, error: str, description: str) -> web.Response:
    headers = {"WWW-Authenticate": 'Basic realm="UAA/client"'} if status == 401 else None
    return _json({"error": error, "error_description": description}, status, headers)


def basic(header: str) -> tuple[str, str] | None:
    """Name and secret of a Basic header; both are URL-encoded inside it, as OAuth says."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (unquote(name), unquote(secret)) if colon else None


async def form_of(request: web.Request) -> dict[str, str]:
    """Form fields; what cannot be read as a form has none."""
    body = await request.read()
    return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))


@dataclass(slots=True)
class Uaa:
    state: Foundation
    tokens: Tokens
    url: str = ""

    def application(self) -> web.Application:
        application = web.Application(middlewares=[misbehave(self.state, ("uaa",))])
        application.add_routes(
            [
                web.get("/login", self.login),
                web.get("/info", self.login),
                web.post("/oauth/token", self.token),
                web.get("/token_keys", self.token_keys),
                web.get("/token_key", self.token_key),
                web.post("/check_token", self.check_token),
                web.post("/introspect", self.introspect),
            ]
        )
        return application

    async def login(self, request: web.Request) -> web.Response:
        return _json(
            {
                "app": {"version": "77.0.0"},
                "links": {"uaa": self.url, "login": self.url, "passwd": "/forgot_password"},
                "zone_name": "uaa",
                "entityID": "uaa",
                "prompts": {"username": ["text", "Email"], "password": ["password", "Password"]},
                "timestamp": "2026-01-01T00:00:00Z",
            }
        )

    def _client(self, request: web.Request, form: Mapping[str, str]) -> Client | None:
        named = basic(request.headers.get("Authorization", "")) or (
            form.get("client_id", ""),
            form.get("client_secret", ""),
        )
        client = self.state.clients.get(named[0])
        return client if client is not None and client.secret == named[1] else None

    async def token(self, request: web.Request) -> web.Response:
        form = await form_of(request)
        client = self._client(request, form)
        if client is None:
            return _error(401, "unauthorized", "Bad credentials")
        grant = form.get("grant_type", "")
        if grant == "client_credentials":
            token, claims = self.tokens.for_client(client)
            return self._granted(token, None, claims)
        if grant == "password":
            user = self.state.user_named(form.get("username", ""))
            if user is None or user.password != form.get("password"):
                return _error(401, "unauthorized", "Bad credentials")
        elif grant == "refresh_token":
            user = self.state.users.get(self.tokens.refreshed(form.get("refresh_token", "")) or "")
            if user is None:
                return _error(401, "invalid_token", "The refresh token is not known or its user is gone.")
        elif grant:
            return _error(400, "unsupported_grant_type", f"Unsupported grant type: {grant}")
        else:
            return _error(400, "invalid_request", "Missing grant type")
        token, refresh, claims = self.tokens.for_user(user, client.id, grant)
        return self._granted(token, refresh, claims)

    def _granted(self, token: str, refresh: str | None, claims: Claims) -> web.Response:
        answer: dict[str, Any] = {"access_token": token, "token_type": "bearer"}
        if refresh is not None:
            answer["refresh_token"] = refresh
        answer |= {"expires_in": self.tokens.seconds, "scope": " ".join(claims["scope"]), "jti": claims["jti"]}
        return _json(answer, headers={"Cache-Control": "no-store"})

    def _keys(self) -> list[dict[str, Any]]:
        keys: list[dict[str, Any]] = []
        for key in self.tokens.keys:
            public = key.as_dict(private=False)
            pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode().strip()
            known = {name: public[name] for name in ("kty", "e", "use", "kid", "alg")}
            keys.append(known | {"value": pem, "n": public["n"]})
        return keys

    async def token_keys(self, request: web.Request) -> web.Response:
        document = {"keys": self._keys()}
        tag = f'"{hashlib.sha256(orjson.dumps(document)).hexdigest()[:16]}"'
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={"ETag": tag})
        return _json(document, headers={"ETag": tag})

    async def token_key(self, request: web.Request) -> web.Response:
        return _json(self._keys()[-1])

    async def check_token(self, request: web.Request) -> web.Response:
        form = await form_of(request)
        client = self._client(request, form)
        if client is None:
            return _error(401, "unauthorized", "Bad credentials")
        if "uaa.resource" not in client.authorities:
            return _error(403, "insufficient_scope", "Insufficient scope for this resource")
        claims = self.tokens.verify(form.get("token", ""))
        if claims is None:
            return _error(400, "invalid_token", "The token is invalid, expired or signed by somebody else.")
        return _json(claims)

    async def introspect(self, request: web.Request) -> web.Response:
        form = await form_of(request)
        client = self._client(request, form)
        if client is None or "uaa.resource" not in client.authorities:
            return _error(401, "unauthorized", "Bad credentials")
        claims = self.tokens.verify(form.get("token", ""))
        return _json({"active": False} if claims is None else {**claims, "active": True})
