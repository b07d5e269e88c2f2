"""Who answers people? The admin API on a unix socket (root) and on TCP (token), until it is closed."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware
from pydantic import TypeAdapter

from cfbridge import document
from cfbridge.api import (
    auditing,
    drafting,
    editing,
    explaining,
    listening,
    openapi,
    operations,
    publishing,
    rows,
    tokens,
    views,
)
from cfbridge.api.explaining import Explainer
from cfbridge.api.operations import RESOURCES, ROLE_PERMISSIONS, ROOT, Permission, Resource
from cfbridge.api.problems import Fault, ProblemError
from cfbridge.api.resources import Decided, Explained, Removed, Status
from cfbridge.api.views import Facade, Operated, Seen
from cfbridge.audit import Audit
from cfbridge.metrics import CONTENT_TYPE, Metrics
from cfbridge.settings import ApiConfig
from egress.values import Refused, RefusedError, Unavailable

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answer = Callable[[web.Request], bytes]
P = ParamSpec("P")
T = TypeVar("T")

_STATUS: TypeAdapter[Status] = TypeAdapter(Status)
_REMOVED: TypeAdapter[Removed] = TypeAdapter(Removed)
_DECIDED: TypeAdapter[Decided] = TypeAdapter(Decided)
_EXPLAINED: TypeAdapter[Explained] = TypeAdapter(Explained)
LINE_LIMIT = 65_536
"""Bytes: room for the longest search and cursor in percent encoding; what is longer the HTTP parser refuses."""


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A running server."""

    addresses: tuple[str, ...]
    """`unix:PATH`, `http://127.0.0.1:8443`: as one may connect to them; a port 0 in the config is a real one here."""
    token: str
    metrics: Metrics
    _runners: tuple[web.AppRunner, ...]
    _sockets: tuple[str, ...]

    async def close(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        for path in self._sockets:
            Path(path).unlink(missing_ok=True)


async def serve(facade: Operated, config: ApiConfig, state_dir: str) -> ApiServer:
    """Listens when it returns. RefusedError where it may not: a socket in use, a bad certificate, an exposed token."""
    token = tokens.ensure(state_dir)
    metrics = Metrics(facade)
    addresses, runners, paths = [], [], []
    try:
        for listen in config.listen:
            local = listen.startswith("unix:")
            tls = None if local else listening.tls(config)
            # Who comes by the socket is root, by its permissions; who comes by TCP has to show the token.
            app = application(facade, metrics, None if local else token)
            runner = web.AppRunner(app, access_log=None, max_line_size=LINE_LIMIT, max_field_size=LINE_LIMIT)
            await runner.setup()
            runners.append(runner)
            bound = listening.unix(listen.removeprefix("unix:")) if local else listening.tcp(listen)
            if local:
                paths.append(listen.removeprefix("unix:"))
            await web.SockSite(runner, bound, ssl_context=tls).start()
            if local:
                addresses.append(listen)
            else:
                host, port = bound.getsockname()[:2]
                addresses.append(f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}")
    except BaseException:
        for runner in runners:
            await runner.cleanup()
        for path in paths:
            Path(path).unlink(missing_ok=True)
        raise
    return ApiServer(tuple(addresses), token, metrics, tuple(runners), tuple(paths))


def application(facade: Operated, metrics: Metrics, token: str | None) -> web.Application:
    """The API over `facade`. `token` None: whoever reaches it is the operator."""
    app = web.Application(middlewares=[_guard(metrics, token, facade.audit)], client_max_size=document.SIZE_LIMIT)
    cache = _Rows(facade)

    def add(path: str, permission: Permission, answer: Answer, content_type: str = "application/json") -> None:
        async def handle(request: web.Request) -> web.StreamResponse:
            return _tagged(request, answer(request), content_type)

        route(path, permission, handle)

    def route(path: str, permission: Permission, handle: Handler, method: str = "GET") -> None:
        handle.__dict__[operations.PERMISSION] = permission
        if method == "GET":
            app.router.add_get(path, handle)  # and HEAD
        else:
            app.router.add_route(method, path, handle)

    def unasked(answer: Callable[[], bytes]) -> Answer:
        def checked(request: web.Request) -> bytes:
            operations.check_query(operations.NoQuery, list(request.query.items()))
            return answer()

        return checked

    add(f"{ROOT}/openapi.json", "public", unasked(openapi.document), "application/json")
    add(f"{ROOT}/status", "cfbridge.read", unasked(lambda: _STATUS.dump_json(rows.status(facade))))
    add("/metrics", "cfbridge.read", unasked(metrics.exposition), CONTENT_TYPE)
    add("/healthz", "public", unasked(lambda: b'{"status":"ok"}'))
    add("/readyz", "public", unasked(lambda: _ready(facade)))
    for resource in RESOURCES.values():
        route(f"{ROOT}/{resource.name}", resource.permission, _lister(resource, cache))
        route(f"{ROOT}/{resource.name}/{{id}}", resource.permission, _shower(resource, cache))
    route(f"{ROOT}/explain", "cfbridge.read", _explainer(facade, cache))
    route(f"{ROOT}/audit", "cfbridge.read", auditing.lister(facade))
    route(f"{ROOT}/intent", "cfbridge.read", publishing.shower(facade))
    route(f"{ROOT}/intent", "cfbridge.publish", publishing.publisher(facade), "PUT")
    route(f"{ROOT}/plan", "cfbridge.read", publishing.planner(facade), "POST")
    route(f"{ROOT}/revisions/{{id}}/intent", "cfbridge.read", publishing.reader(facade))
    route(f"{ROOT}/revisions/{{id}}/rollback", "cfbridge.publish", publishing.roller(facade), "POST")
    route(f"{ROOT}/drafts/{{id}}/plan", "cfbridge.read", drafting.planner(facade))
    route(f"{ROOT}/drafts/{{id}}/publish", "cfbridge.publish", drafting.publisher(facade), "POST")
    route(f"{ROOT}/drafts/{{id}}", "cfbridge.publish", drafting.discarder(facade), "DELETE")
    for path, method, handle in editing.routes(facade):
        route(f"{ROOT}{path}", "cfbridge.publish", handle, method)
    route(f"{ROOT}/cells/{{id}}", "cfbridge.operate", _cell_remover(facade), "DELETE")
    verdicts: tuple[Literal["apply", "discard"], ...] = ("apply", "discard")
    for verdict in verdicts:
        route(f"{ROOT}/held/{{id}}/{verdict}", "cfbridge.operate", _decider(facade, verdict), "POST")
    return app


def _ready(facade: Facade) -> bytes:
    """Ready: every foundation was read in full once, so that what is asked of us can be answered."""
    unread = [state.name for state in facade.snapshot.inventory.values() if not state.ready]
    if unread:
        detail = f"{', '.join(unread)} has not been read in full yet."
        raise ProblemError(503, "NOT_READY", detail, headers={"Retry-After": "1"})
    return b'{"status":"ok"}'


class _Rows:
    """Rows of a resource, made once per snapshot: pages and filters of one revision share them.

    10,000 rows take a tenth of a second, in which agents and other people must be heard: so they are made in a thread.
    It is one thread, and nobody else's: however many read, the compiler waits for none of them.
    """

    def __init__(self, facade: Facade) -> None:
        self._facade = facade
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="api")
        self._made: dict[str, tuple[Seen, Sequence[Any], dict[str, Any]]] = {}

    async def of(self, resource: Resource) -> tuple[int, Sequence[Any], dict[str, Any]]:
        return await self.aside(self.made, resource, views.see(self._facade))

    async def aside(self, make: Callable[P, T], *inputs: P.args, **more: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(make, *inputs, **more))

    def made(self, resource: Resource, seen: Seen) -> tuple[int, Sequence[Any], dict[str, Any]]:
        """In the thread."""
        made = self._made.get(resource.name)
        if made is None or any(getattr(made[0], each) is not getattr(seen, each) for each in resource.made_of):
            listed = resource.rows(seen)
            made = self._made[resource.name] = (seen, listed, {row.id: row for row in listed})
        return made[0].snapshot.revision, made[1], made[2]


def _lister(resource: Resource, cache: _Rows) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        query = operations.check_query(resource.query, list(request.query.items()))
        revision, listed, _ = await cache.of(resource)
        body = await cache.aside(operations.page, resource, listed, query, revision)
        return _tagged(request, body)

    return answer


def _shower(resource: Resource, cache: _Rows) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        operations.check_query(operations.NoQuery, list(request.query.items()))
        wanted = request.match_info["id"]
        row = (await cache.of(resource))[2].get(wanted)
        if row is None:
            raise ProblemError(404, "NOT_FOUND", f"There is none of {resource.name} with this id: {wanted[:128]}")
        return _tagged(request, resource.one.dump_json(row))

    return answer


def _explainer(facade: Facade, cache: _Rows) -> Handler:
    explainer = Explainer(lambda seen: cache.made(RESOURCES["rules"], views.see(seen))[2])

    async def answer(request: web.Request) -> web.StreamResponse:
        asked = operations.check_query(operations.ExplainQuery, list(request.query.items()))
        try:
            question = explaining.check(asked.model_dump())
            explained = await cache.aside(explainer.explain, views.see(facade), question)
        except RefusedError as error:
            refused = error.refused
            status = 404 if refused.code.endswith("_UNKNOWN") else 422
            fault = Fault(f"/query/{refused.field}", refused.message)
            raise ProblemError(status, refused.code, refused.message, (fault,)) from None
        return _tagged(request, _EXPLAINED.dump_json(explained))

    return answer


def _cell_remover(facade: Operated) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        operations.check_query(operations.NoQuery, list(request.query.items()))
        name = request.match_info["id"]
        try:
            refused = await facade.remove_cell(name)
        except Unavailable as fault:
            raise ProblemError(
                503, "STORE_AWAY", f"Nothing was removed: {fault}.", headers={"Retry-After": "1"}
            ) from None
        if refused is not None:
            status = 404 if refused.code == "CELL_UNKNOWN" else 409
            raise ProblemError(status, refused.code, refused.message, (Fault("/path/id", refused.message),))
        return web.Response(body=_REMOVED.dump_json(Removed(name)), content_type="application/json")

    return answer


def _decider(facade: Operated, verdict: Literal["apply", "discard"]) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        operations.check_query(operations.NoQuery, list(request.query.items()))
        id_ = request.match_info["id"]
        foundation, _, kind = id_.partition(":")
        held = facade.decide_held(foundation, kind, verdict == "apply")
        if isinstance(held, Refused):
            raise ProblemError(404, held.code, held.message, (Fault("/path/id", held.message),))
        said = Decided(id_, verdict, len(held.objects))
        return web.Response(body=_DECIDED.dump_json(said), content_type="application/json")

    return answer


def _tagged(request: web.Request, body: bytes, content_type: str = "application/json") -> web.Response:
    etag = hashlib.blake2b(body, digest_size=12).hexdigest()
    headers = {"ETag": f'"{etag}"', "Cache-Control": "no-cache"}
    known = request.if_none_match or ()
    if any(each.value in (etag, "*") for each in known):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers={**headers, "Content-Type": content_type})


def _guard(metrics: Metrics, token: str | None, audit: Audit) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "none"
        try:
            _admit(request, token)
            response = await handler(request)
        except ProblemError as refused:
            response = refused.response()
        except web.HTTPException as refused:
            response = _problem(refused, request).response()
        except Exception:
            # The edge: a bug must not show its inside to people, and must not be silent either.
            log.exception("request failed", route=route)
            sentence = "The bridge failed on this request; its log says where."
            response = ProblemError(500, "INTERNAL", sentence).response()
        auditing.record(audit, request, response.status)
        response.headers["X-Content-Type-Options"] = "nosniff"
        metrics.requests.labels(route, str(response.status)).inc()
        metrics.request_seconds.labels(route).observe(time.perf_counter() - began)
        return response

    return guard


def _admit(request: web.Request, token: str | None) -> None:
    """Unknown paths need the token too: who may not come in learns nothing of the rooms."""
    needed = getattr(request.match_info.handler, operations.PERMISSION, "cfbridge.read")
    role = "operator" if token is None or _shows(request, token) else "nobody"
    if needed in ROLE_PERMISSIONS[role]:
        return
    if role == "nobody":
        raise ProblemError(
            401,
            "TOKEN_NEEDED",
            "Send the token as `Authorization: Bearer …`; it lies in the bridge's state folder.",
            headers={"WWW-Authenticate": 'Bearer realm="cfbridge"'},
        )
    raise ProblemError(403, "PERMISSION_NEEDED", f"This needs the permission {needed}, which {role} has not.")


def _shows(request: web.Request, token: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and tokens.same(given.strip(), token)


def _problem(refused: web.HTTPException, request: web.Request) -> ProblemError:
    if isinstance(refused, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(refused.allowed_methods))
        return ProblemError(
            405, "METHOD_NOT_ALLOWED", f"{request.path} answers {allowed} only.", headers={"Allow": allowed}
        )
    if refused.status == 404:
        return ProblemError(404, "NO_SUCH_PATH", f"There is nothing at this path; see {ROOT}/openapi.json.")
    return ProblemError(refused.status, "BAD_REQUEST", refused.reason)
