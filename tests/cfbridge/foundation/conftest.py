"""A Cloud Controller, UAA and policy server as small as the tests need, that can be told to misbehave."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web

from cfbridge.settings import FoundationConfig, PolicyServerConfig

Answer = tuple[int, dict[str, str], str]
KINDS = ("organizations", "spaces", "apps", "processes", "security_groups")


@dataclass
class Fake:
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    policies: list[Any] = field(default_factory=list)
    policies_changed: int = 1
    asgs: list[Any] = field(default_factory=list)
    asgs_changed: int | None = None
    """None = too old a server to say."""
    tokens: set[str] = field(default_factory=set)
    given: int = 0
    asked: list[str] = field(default_factory=list)
    """path?query of every request but tokens."""
    instead: dict[str, deque[Answer]] = field(default_factory=dict)
    """Answers given first, by the last piece of the path."""
    before: Callable[[web.Request], None] = lambda _: None
    page_size: int | None = None
    compressed: bool = False
    url: str = ""

    def org(self, guid: str, name: str = "acme", updated: str = "2026-11-23T10:00:00Z", **more: Any) -> None:
        self._put("organizations", {"guid": guid, "name": name, "updated_at": updated, **more})

    def space(self, guid: str, org: str, name: str = "dev", updated: str = "2026-11-23T10:00:00Z") -> None:
        related = {"organization": {"data": {"guid": org}}}
        self._put("spaces", {"guid": guid, "name": name, "updated_at": updated, "relationships": related})

    def app(self, guid: str, space: str = "s1", name: str = "web", updated: str = "2026-11-23T10:00:00Z") -> None:
        related = {"space": {"data": {"guid": space}}}
        row = {"guid": guid, "name": name, "state": "STARTED", "updated_at": updated, "relationships": related}
        self._put("apps", row)

    def process(self, guid: str, app: str, instances: int = 1, updated: str = "2026-11-23T10:00:00Z") -> None:
        related = {"app": {"data": {"guid": app}}}
        row = {"guid": guid, "type": "web", "instances": instances, "updated_at": updated, "relationships": related}
        self._put("processes", row)

    def remove(self, kind: str, guid: str) -> None:
        self.rows[kind] = [row for row in self.rows[kind] if row.get("guid") != guid]

    def policy(self, source: str, destination: str, port: int = 8080, protocol: str = "tcp") -> None:
        ports = {"start": port, "end": port}
        self.policies.append(
            {
                "source": {"id": source, "tag": "0001"},
                "destination": {"id": destination, "tag": "0002", "protocol": protocol, "ports": ports},
            }
        )
        self.policies_changed += 1

    def asg(self, guid: str, rules: str, **more: Any) -> None:
        self.asgs.append({"guid": guid, "name": guid, "rules": rules, "running_default": True, **more})

    def count(self, piece: str) -> int:
        return sum(piece in asked for asked in self.asked)

    def _put(self, kind: str, row: dict[str, Any]) -> None:
        rows = self.rows[kind]
        for at, known in enumerate(rows):
            if known["guid"] == row["guid"]:
                rows[at] = row
                return
        rows.append(row)

    async def answer(self, request: web.Request) -> web.Response:
        answer = await self._answer(request)
        if self.compressed:
            answer.enable_compression()
        return answer

    async def _answer(self, request: web.Request) -> web.Response:
        name = request.path.rsplit("/", 1)[-1]
        waiting = self.instead.get(name)
        if request.path != "/oauth/token":
            self.asked.append(unquote(request.path_qs))
        if waiting:
            status, headers, body = waiting.popleft()
            return web.Response(status=status, headers=headers, text=body)
        self.before(request)
        if request.path == "/":
            links = {"cloud_controller_v3": {"href": f"{self.url}/v3"}, "login": {"href": self.url}}
            return web.json_response({"links": links})
        if request.path == "/oauth/token":
            self.given += 1
            token = f"token-{self.given}"
            self.tokens.add(token)
            return web.json_response({"access_token": token, "token_type": "bearer", "expires_in": 600})
        if request.path.startswith("/v3/"):
            if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
                error = {"code": 1000, "title": "CF-InvalidAuthToken", "detail": "Invalid Auth Token"}
                return web.json_response({"errors": [error]}, status=401)
            if name not in self.rows:
                return self._one(*request.path.split("/")[-2:])
            return self._page(name, request.query)
        return self._internal(name, request.query)

    def _one(self, kind: str, guid: str) -> web.Response:
        for row in self.rows[kind]:
            if row["guid"] == guid:
                return web.json_response(row)
        error = {"code": 10010, "title": "CF-ResourceNotFound", "detail": "not found"}
        return web.json_response({"errors": [error]}, status=404)

    def _page(self, kind: str, query: Any) -> web.Response:
        rows = list(self.rows[kind])
        if since := query.get("updated_ats[gte]"):
            rows = [row for row in rows if row.get("updated_at", "") >= since]
        if guids := query.get("guids"):
            rows = [row for row in rows if row.get("guid") in guids.split(",")]
        if query.get("order_by") == "-updated_at":
            rows.sort(key=lambda row: row.get("updated_at", ""), reverse=True)
        size = min(int(query["per_page"]), self.page_size or 5000)
        begin = (int(query.get("page", 1)) - 1) * size
        pagination = {"total_results": len(rows), "total_pages": max(1, -(-len(rows) // size))}
        return web.json_response({"pagination": pagination, "resources": rows[begin : begin + size]})

    def _internal(self, name: str, query: Any) -> web.Response:
        if name == "policies_last_updated":
            return web.Response(text=str(self.policies_changed))
        if name == "policies":
            return web.Response(text=json.dumps({"total_policies": len(self.policies), "policies": self.policies}))
        if name == "security_groups":
            begin = int(query["from"])
            size = self.page_size or 5000
            more = begin + size if begin + size < len(self.asgs) else 0
            return web.Response(text=json.dumps({"next": more, "security_groups": self.asgs[begin : begin + size]}))
        if name == "security_groups_last_updated" and self.asgs_changed is not None:
            return web.Response(text=str(self.asgs_changed))
        return web.Response(status=404, text="404 page not found\n")


@asynccontextmanager
async def served(fake: Fake, tls: Any = None) -> AsyncIterator[Fake]:
    application = web.Application()
    application.router.add_route("*", "/{anything:.*}", fake.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        fake.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield fake
    finally:
        await runner.cleanup()


@pytest.fixture
def serve() -> Callable[..., Any]:
    return served


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    async with served(Fake()) as running:
        yield running


@pytest.fixture
def config(fake: Fake, tmp_path: Path) -> FoundationConfig:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    base = FoundationConfig("cf", fake.url, "cfbridge", str(secret), PolicyServerConfig(fake.url, poll_seconds=0.01))
    return replace(base, delta_seconds=0.01, asg_seconds=0.01)
