"""How do servers fail when they are told to? One middleware for all of them, in front of honest handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from cfbridge.simulator.nouns import Fault
from cfbridge.simulator.state import Foundation

GARBAGE = b"<html><body>upstream connect error \xff\xfe</body></html>"


def misbehave(state: Foundation, services: Sequence[str]) -> Middleware:
    """`services`: the names that a fault for this server may have, most exact first."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/__sim/"):
            return await handler(request)
        fault = state.fault_for(services, request.path_qs)
        if fault is None:
            return await handler(request)
        return await _answer(state, services, fault, request, handler)

    return middleware


async def _answer(
    state: Foundation, services: Sequence[str], fault: Fault, request: web.Request, handler: Handler
) -> web.StreamResponse:
    if fault.mode == "error":
        return web.Response(status=fault.status, text=f"{fault.status} {fault.mode}\n")
    if fault.mode == "garbage":
        return web.Response(body=GARBAGE, content_type="text/html")
    if fault.mode == "blank":
        return web.Response(body=b"", content_type="application/json")
    if fault.mode == "slow":
        await asyncio.sleep(fault.seconds)
        return await handler(request)
    if fault.mode == "hang":
        # Whoever waits is answered when the fault is taken back, so that no connection outlives a test.
        while any(state.faults.get(service) is fault for service in services):
            await state.faults_changed.wait()
        return await handler(request)
    answer = await handler(request)
    if not isinstance(answer, web.Response) or not isinstance(answer.body, bytes):
        return answer
    if fault.mode == "empty":
        return web.Response(body=emptied(answer.body), status=answer.status, content_type=answer.content_type)
    return await _half(request, answer.body, answer.content_type)


def emptied(body: bytes) -> bytes:
    """The same kind of answer, saying that there is nothing: the one that must not be taken for the truth."""
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return b""
    if not isinstance(document, dict):
        return b"0"
    if "pagination" in document:
        pagination = document["pagination"] | {"total_results": 0, "total_pages": 1, "next": None}
        return orjson.dumps({"pagination": pagination, "resources": []})
    if "policies" in document:
        return b'{"total_policies":0,"policies":[]}'
    if "security_groups" in document:
        return b'{"next":0,"security_groups":[]}'
    return b"{}"


async def _half(request: web.Request, body: bytes, content_type: str) -> web.StreamResponse:
    """Promise the whole body, send half of it, and hang up."""
    response = web.StreamResponse(headers={"Content-Type": content_type, "Content-Length": str(max(len(body), 2))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2] or b"{")
    if request.transport is not None:
        request.transport.close()
    return response
