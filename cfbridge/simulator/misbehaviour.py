"""How do servers fail when they are told to? One middleware for all of them, in front of honest handlers."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from cfbridge.simulator.nouns import Fault
from cfbridge.simulator.state import Foundation

GARBAGE = b"<html><body>upstream connect error \xff\xfe</body></html>"
RATE_LIMITED = b'{"errors":[{"code":10013,"title":"CF-RateLimitExceeded","detail":"Rate Limit Exceeded"}]}'
UNAUTHORIZED: Mapping[str, tuple[bytes, str]] = {
    "cloud_controller": (b'{"errors":[{"code":1000,"title":"CF-InvalidAuthToken","detail":"Invalid Auth Token"}]}', ""),
    "uaa": (b'{"error":"unauthorized","error_description":"Bad credentials"}', 'Basic realm="UAA/client"'),
    "policy_server_external": (b'{"error": "failed to verify token with uaa"}', "Bearer"),
}
"""By whom → body and challenge of a 401."""


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
    if fault.mode == "slow":
        await asyncio.sleep(fault.seconds)
        return await handler(request)
    if fault.mode == "hang":
        # Whoever waits is answered when the fault is taken back, so that no connection outlives a test.
        await _taken_back(state, services, fault)
        return await handler(request)
    if fault.mode == "reset":
        return _reset(request)
    if (refusal := _refusal(services[0], fault)) is not None:
        return refusal
    answer = await handler(request)
    if not isinstance(answer, web.Response) or not isinstance(answer.body, bytes):
        return answer
    if fault.mode == "drip":
        return await _drip(state, services, fault, request, answer)
    if fault.mode == "partial":
        return await _half(request, answer.body, answer.content_type)
    return web.Response(
        body=_changed(state, fault.mode, request.path, answer.body),
        status=answer.status,
        content_type=answer.content_type,
    )


def _refusal(service: str, fault: Fault) -> web.Response | None:
    """An answer that needs no handler."""
    if fault.mode == "error":
        return web.Response(status=fault.status, text=f"{fault.status} {fault.mode}\n")
    if fault.mode == "garbage":
        return web.Response(body=GARBAGE, content_type="text/html")
    if fault.mode == "blank":
        return web.Response(body=b"", content_type="application/json")
    if fault.mode == "limited":
        wait = {"Retry-After": f"{fault.seconds:.0f}", "X-RateLimit-Limit": "2000", "X-RateLimit-Remaining": "0"}
        return web.Response(status=429, headers=wait, body=RATE_LIMITED, content_type="text/plain")
    if fault.mode == "unauthorized":
        body, challenge = UNAUTHORIZED.get(service, UNAUTHORIZED["policy_server_external"])
        headers = {"WWW-Authenticate": challenge} if challenge else None
        return web.Response(status=401, headers=headers, body=body, content_type="application/json")
    return None


def _changed(state: Foundation, mode: str, path: str, body: bytes) -> bytes:
    """An honest body, made worse."""
    if mode == "empty":
        return emptied(body)
    if mode == "truncated":
        return body[: len(body) // 2]
    if mode == "short":
        return shortened(body)
    number = state.frozen.get(path.rpartition("/")[2])
    return body if number is None else b"%d" % number  # stale


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


def shortened(body: bytes) -> bytes:
    """The same list without its last row; what it says of its length stays. (The internal list of security groups says
    nothing of its length, so it stays whole.)"""
    document: Any = orjson.loads(body)
    name = next((name for name in ("resources", "policies") if isinstance(document, dict) and document.get(name)), "")
    return orjson.dumps(document | {name: document[name][:-1]}) if name else body


async def _taken_back(state: Foundation, services: Sequence[str], fault: Fault) -> None:
    while any(state.faults.get(service) is fault for service in services):
        await state.faults_changed.wait()


def _reset(request: web.Request) -> web.Response:
    """RST instead of FIN, as a server that was killed or a firewall in between."""
    if request.transport is not None:
        sock = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response(status=500)  # nobody gets it


async def _drip(
    state: Foundation, services: Sequence[str], fault: Fault, request: web.Request, answer: web.Response
) -> web.StreamResponse:
    """Byte after byte, until the fault is taken back; the rest comes at once then."""
    assert isinstance(answer.body, bytes)
    length = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body))}
    response = web.StreamResponse(status=answer.status, headers=length)
    await response.prepare(request)
    ended = asyncio.ensure_future(_taken_back(state, services, fault))
    sent = 0
    try:
        while sent < len(answer.body) and not ended.done():
            await response.write(answer.body[sent : sent + 1])
            sent += 1
            await asyncio.wait({ended}, timeout=fault.seconds)
    finally:
        ended.cancel()
    await response.write(answer.body[sent:])
    return response


async def _half(request: web.Request, body: bytes, content_type: str) -> web.StreamResponse:
    """Promise the whole body, send half of it, and hang up."""
    response = web.StreamResponse(headers={"Content-Type": content_type, "Content-Length": str(max(len(body), 2))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2] or b"{")
    if request.transport is not None:
        request.transport.close()
    return response
