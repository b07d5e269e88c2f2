"""Who may talk to whom? The policy server's external API (tokens) and internal API (mTLS), to the byte.

The external API answers JSON as text/plain; above 2,048 bytes it answers in chunks, as Go's server does.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler

from cfbridge.simulator.misbehaviour import misbehave
from cfbridge.simulator.nouns import SecurityGroup
from cfbridge.simulator.policy_requests import UnreadableError, go_duration, loads, read_policies
from cfbridge.simulator.policy_table import PolicyKey, PolicyRow, PolicyTable, document, go_json
from cfbridge.simulator.state import Foundation
from cfbridge.simulator.tokens import Claims, Tokens
from egress.values import RefusedError

TEXT = "text/plain; charset=utf-8"
SAFE_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "deny",
    "X-Xss-Protection": "1; mode=block",
}
TRANSPORT_SECURITY = {"Strict-Transport-Security": "max-age=31536000"}
BODY_LIMIT = 10 * 1024 * 1024
GO_BUFFER = 2048

_Judged = Callable[[web.Request, Claims], Awaitable[web.Response]]


def _answer(body: bytes, status: int = 200) -> web.Response:
    response = web.Response(body=body, status=status)
    if body:
        response.headers["Content-Type"] = TEXT
    if len(body) > GO_BUFFER:
        response.enable_chunked_encoding()
    return response


def _error(status: int, text: str) -> web.Response:
    return _answer(f'{{"error": "{text}"}}'.encode(), status)


def _not_found() -> web.Response:
    response = _answer(b"404 page not found\n", 404)
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


async def _drop_default_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.pop("Server", None)
    if response.body_length == 0 and isinstance(response, web.Response) and not response.body:
        response.headers.pop("Content-Type", None)


@dataclass(frozen=True, slots=True)
class PolicySettings:
    self_service: bool = False
    """Space developers need no scope (on in cf-deployment; off where the samples were recorded)."""
    quota: int = 150
    tls: bool = False
    cors_domains: tuple[str, ...] = ()


@dataclass(slots=True)
class ExternalApi:
    state: Foundation
    tokens: Tokens
    settings: PolicySettings = field(default_factory=PolicySettings)
    started: float = field(default_factory=time.monotonic)

    def application(self) -> web.Application:
        faults = misbehave(self.state, ("policy_server_external", "policy_server"))
        application = web.Application(middlewares=[faults], client_max_size=BODY_LIMIT)
        application.router.add_route("*", "/{path:.*}", self.serve)
        application.on_response_prepare.append(_drop_default_headers)
        return application

    async def serve(self, request: web.Request) -> web.Response:
        """Go's router: exact paths, no trailing slash forgiven."""
        response = await self._routed(request)
        if self.settings.tls:
            response.headers.update(TRANSPORT_SECURITY)
        return response

    async def _routed(self, request: web.Request) -> web.Response:
        path = request.rel_url.raw_path
        if path in ("/", "/networking"):
            return await self._guarded(request, ("GET",), self._uptime)
        if path == "/health":
            return await self._guarded(request, ("GET",), self._health)
        parts = path.split("/")
        if len(parts) < 5 or parts[1] != "networking" or parts[3] != "external":
            return _not_found()
        route = "/".join(parts[4:])
        admin, both = ("network.admin",), ("network.admin", "network.write")
        routes: dict[tuple[str, str], tuple[_Judged, tuple[str, ...]]] = {
            ("whoami", "GET"): (self._whoami, admin),
            ("tags", "GET"): (self._tags, admin),
            ("policies", "GET"): (self._list, both),
            ("policies", "POST"): (self._create, both),
            ("policies/delete", "POST"): (self._delete, both),
            ("policies/cleanup", "POST"): (self._cleanup, admin),
        }
        methods = tuple(method for name, method in routes if name == route)
        if not methods:
            return _not_found()

        async def handle(request: web.Request) -> web.Response:
            handler, allowed = routes[route, request.method]
            return await self._judged(request, parts[2], handler, allowed)

        return await self._guarded(request, methods, handle)

    async def _guarded(
        self, request: web.Request, methods: Sequence[str], handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> web.Response:
        # The samples show POST before GET in CORS, and GET before POST in Allow.
        if request.method == "OPTIONS":
            response = _answer(b"")
            response.headers["Access-Control-Allow-Methods"] = ",".join((*sorted(methods, reverse=True), "OPTIONS"))
            response.headers["Access-Control-Allow-Headers"] = "authorization"
        elif request.method in methods:
            response = await handler(request)
            response.headers["X-Vcap-Request-Id"] = str(uuid.uuid4())
        else:
            response = _answer(b"Method Not Allowed\n", 405)
            response.headers["Allow"] = ", ".join((*sorted(methods), "OPTIONS"))
        response.headers.update(SAFE_HEADERS)
        origin = request.headers.get("Origin", "")
        if origin and ("*" in self.settings.cors_domains or origin in self.settings.cors_domains):
            response.headers["Access-Control-Allow-Origin"] = origin
        return response

    async def _judged(
        self, request: web.Request, version: str, handler: _Judged, allowed: tuple[str, ...]
    ) -> web.Response:
        """Version, header, token, scope: in this order."""
        if version not in ("v0", "v1"):
            return _error(406, f"api version '{version}' not supported")
        header = request.headers.get("Authorization", "")
        if not header:
            return self._unauthorized("missing authorization header")
        token = header.removeprefix("Bearer ").removeprefix("bearer ")
        claims = self.tokens.verify(token)
        if claims is None:
            return self._unauthorized("failed to verify token with uaa")
        scopes = claims["scope"]
        everybody = self.settings.self_service and len(allowed) > 1
        if not everybody and not set(scopes) & set(allowed):
            needed = f"provided scopes [{' '.join(scopes)}] do not include allowed scopes [{' '.join(allowed)}]"
            return _error(403, needed)
        return await handler(request, claims)

    @staticmethod
    def _unauthorized(text: str) -> web.Response:
        response = _error(401, text)
        response.headers["Www-Authenticate"] = "Bearer"
        return response

    async def _uptime(self, request: web.Request) -> web.Response:
        up = go_duration(time.monotonic() - self.started)
        return _answer(f"Network policy server, up for {up}\n".encode())

    async def _health(self, request: web.Request) -> web.Response:
        return _answer(b"")

    async def _whoami(self, request: web.Request, claims: Claims) -> web.Response:
        return _answer(go_json({"subject": claims.get("user_name") or claims["sub"]}))

    async def _tags(self, request: web.Request, claims: Claims) -> web.Response:
        tags = [{"id": app, "tag": tag, "type": kind} for app, tag, kind in self.state.policies.tags()]
        return _answer(go_json({"tags": tags}))

    async def _list(self, request: web.Request, claims: Claims) -> web.Response:
        version = request.rel_url.raw_path.split("/")[2]
        admin = "network.admin" in claims["scope"]
        if admin and version == "v1" and not {"id", "source_id", "dest_id"} & set(request.query):
            return _answer(self.state.policies.everything(internal=False))
        rows = _filtered(request, self.state.policies)
        if not admin:
            spaces = self.state.developer_spaces(str(claims.get("user_id", "")))
            apps = self.state.apps
            mine = {app for row in rows for app in (row.key.source, row.key.destination)}
            mine = {app for app in mine if app in apps and apps[app].space in spaces}
            rows = [row for row in rows if row.key.source in mine and row.key.destination in mine]
        return _answer(_external_document(rows, version))

    async def _asked(self, request: web.Request, claims: Claims, too_long: str) -> tuple[PolicyKey, ...] | web.Response:
        """Body, mapper, access."""
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _error(400, too_long)
        try:
            keys = read_policies(body, request.rel_url.raw_path.split("/")[2])
        except UnreadableError as unreadable:
            return _error(400, f"mapper: {unreadable}")
        if "network.admin" not in claims["scope"]:
            spaces = self.state.developer_spaces(str(claims.get("user_id", "")))
            # An app that Cloud Controller does not know is skipped, as the real server does.
            known = (self.state.apps.get(app) for key in keys for app in (key.source, key.destination))
            if any(app is not None and app.space not in spaces for app in known):
                return _error(403, "one or more applications cannot be found or accessed")
        return keys

    async def _create(self, request: web.Request, claims: Claims) -> web.Response:
        keys = await self._asked(request, claims, "failed reading request body")
        if isinstance(keys, web.Response):
            return keys
        if "network.admin" not in claims["scope"]:
            asked: dict[str, int] = {}
            for key in keys:
                asked[key.source] = asked.get(key.source, 0) + 1
            held = self.state.policies.of_source
            if any(held(source) + count > self.settings.quota for source, count in asked.items()):
                return _error(403, "policy quota exceeded")
        try:
            self.state.policies.create(keys)
        except RefusedError as refused:
            return _error(500, refused.refused.message)
        return _answer(b"{}")

    async def _delete(self, request: web.Request, claims: Claims) -> web.Response:
        keys = await self._asked(request, claims, "invalid request body")
        if isinstance(keys, web.Response):
            return keys
        self.state.policies.delete(keys)
        return _answer(b"{}")

    async def _cleanup(self, request: web.Request, claims: Claims) -> web.Response:
        version = request.rel_url.raw_path.split("/")[2]
        return _answer(_external_document(cleanup(self.state), version))


def cleanup(state: Foundation) -> list[PolicyRow]:
    """Policies of apps that are gone go, hourly or when an admin asks."""
    stale = state.policies.touching(app for app in state.policies.apps() if app not in state.apps)
    state.policies.delete(row.key for row in stale)
    return stale


def _filtered(request: web.Request, table: PolicyTable) -> list[PolicyRow]:
    query = request.query
    if "id" in query:
        return table.touching(query["id"].split(","))
    sources = query["source_id"].split(",") if "source_id" in query else None
    destinations = query["dest_id"].split(",") if "dest_id" in query else None
    return table.between(sources, destinations)


def _external_document(rows: Sequence[PolicyRow], version: str) -> bytes:
    if version == "v1":
        return document([row.external for row in rows])
    # v0 knows no ranges: policies with one are hidden.
    return document(
        [
            go_json(
                {
                    "source": {"id": row.key.source},
                    "destination": {"id": row.key.destination, "protocol": row.key.protocol, "port": row.key.start},
                }
            )
            for row in rows
            if row.key.start == row.key.end
        ]
    )


@dataclass(slots=True)
class InternalApi:
    """For agents on cells. The certificate is all the authority there is; the version in the path is not looked at."""

    state: Foundation
    sync_at_once: bool = True
    """False: security groups are seen when somebody calls `state.sync_groups()`."""

    def application(self) -> web.Application:
        faults = misbehave(self.state, ("policy_server_internal", "policy_server"))
        application = web.Application(middlewares=[_internal_headers, faults], client_max_size=BODY_LIMIT)
        base = "/networking/{version}/internal/"
        application.add_routes(
            [
                web.get(base + "policies", self.policies, allow_head=False),
                web.get(base + "policies_last_updated", self.policies_last_updated, allow_head=False),
                web.get(base + "security_groups", self.security_groups, allow_head=False),
                web.get(base + "security_groups_last_updated", self.security_groups_last_updated, allow_head=False),
                web.get(base + "healthcheck", self.healthcheck, allow_head=False),
                web.put(base + "tags", self.tags),
            ]
        )
        application.on_response_prepare.append(_drop_default_headers)
        return application

    async def policies(self, request: web.Request) -> web.Response:
        table = self.state.policies
        if "id" not in request.query:
            return _answer(table.everything(internal=True))
        return _answer(document([row.internal for row in table.touching(request.query["id"].split(","))]))

    async def policies_last_updated(self, request: web.Request) -> web.Response:
        return _answer(b"%d" % self.state.policies.last_updated)

    async def security_groups_last_updated(self, request: web.Request) -> web.Response:
        self._sync()
        return _answer(b"%d" % self.state.synced_at)

    async def healthcheck(self, request: web.Request) -> web.Response:
        return _answer(b'{"healthcheck":true}')

    def _sync(self) -> None:
        if self.sync_at_once:
            self.state.sync_groups()

    async def security_groups(self, request: web.Request) -> web.Response:
        self._sync()
        numbers: dict[str, int] = {}
        for name in ("limit", "from"):
            text = request.query.get(name, "")
            if text and not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 19):
                return _error(500, f"invalid value for '{name}' parameter")
            numbers[name] = int(text or 0)
        spaces = {guid for guid in request.query.get("space_guids", "").split(",") if guid}
        rows = [
            (row, group)
            for row, group in enumerate(self.state.synced_groups.values(), start=1)
            if group.running or group.staging or not spaces.isdisjoint((*group.running_spaces, *group.staging_spaces))
        ]
        rows = [(row, group) for row, group in rows if row >= numbers["from"]]
        limit = numbers["limit"] if numbers["limit"] > 0 else len(rows)
        following = rows[limit][0] if len(rows) > limit else 0
        return _answer(go_json({"next": following, "security_groups": [_synced(group) for _, group in rows[:limit]]}))

    async def tags(self, request: web.Request) -> web.Response:
        try:
            asked = loads(await request.read())
        except (UnreadableError, web.HTTPRequestEntityTooLarge):
            return _error(400, "failed parsing request body")
        identity, kind = (asked.get("id", ""), asked.get("type", "")) if isinstance(asked, dict) else (None, None)
        if not isinstance(identity, str) or not isinstance(kind, str):
            return _error(400, "failed parsing request body")
        try:
            tag = self.state.policies.tag(identity, kind)
        except RefusedError as refused:
            return _error(500, refused.refused.message)
        return _answer(go_json({"id": identity, "tag": tag, "type": kind}))


def _synced(group: SecurityGroup) -> dict[str, object]:
    defaults: dict[str, object] = {
        "protocol": "", "destination": "", "ports": "", "type": 0, "code": 0, "description": "", "log": False,
    }  # fmt: skip
    rules = [{name: rule.get(name, default) for name, default in defaults.items()} for rule in group.rules]
    return {
        "guid": group.guid,
        "name": group.name,
        "rules": go_json(rules).decode(),
        "staging_default": group.staging,
        "running_default": group.running,
        "staging_space_guids": list(group.staging_spaces),
        "running_space_guids": list(group.running_spaces),
    }


@web.middleware
async def _internal_headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPMethodNotAllowed as wrong:
        response = _answer(b"Method Not Allowed\n", 405)
        response.headers["Allow"] = ", ".join(sorted(wrong.allowed_methods))
    except web.HTTPNotFound:
        return _not_found()
    if not response.prepared:
        response.headers.update(TRANSPORT_SECURITY)
        response.headers["X-Vcap-Request-Id"] = str(uuid.uuid4())
    return response
