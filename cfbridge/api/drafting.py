"""What becomes of a draft? Planned on top of what is in force by now, published as one revision, or thrown away."""

from __future__ import annotations

from aiohttp import web
from pydantic import TypeAdapter

from cfbridge.api import operations, publishing
from cfbridge.api.publishing import Handler, ReasonBody
from cfbridge.api.resources import Removed
from cfbridge.api.views import Operated

_REMOVED: TypeAdapter[Removed] = TypeAdapter(Removed)


def planner(facade: Operated) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        operations.check_query(operations.NoQuery, list(request.query.items()))
        return publishing.planned(request, await publishing.done(facade.drafts.plan(request.match_info["id"])))

    return answer


def publisher(facade: Operated) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        operations.check_query(operations.NoQuery, list(request.query.items()))
        base = publishing.base_of(request)
        body = await publishing.body_of(request, ReasonBody)
        name, author = request.match_info["id"], publishing.author(request)
        return publishing.planned(
            request, await publishing.done(facade.drafts.publish(name, author, body.reason, base))
        )

    return answer


def discarder(facade: Operated) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        operations.check_query(operations.NoQuery, list(request.query.items()))
        name = request.match_info["id"]
        await publishing.done(facade.drafts.discard(name))
        return web.Response(body=_REMOVED.dump_json(Removed(name)), content_type="application/json")

    return answer
