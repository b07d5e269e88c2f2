"""How does a policy file become what is in force? Shown, planned, published, rolled back; who comes late is told.

GET /intent ─ETag "revision-7"─> edit ─POST /plan─> changes in words ─PUT /intent, If-Match "revision-7"─> revision 8
"""

from __future__ import annotations

import asyncio
import pwd
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cfbridge import export, revisions
from cfbridge.api import operations
from cfbridge.api.problems import Fault, ProblemError
from cfbridge.api.resources import ChangeRow, IntentText, Planned
from cfbridge.api.views import Operated
from cfbridge.intent import Intent
from cfbridge.revisions import Plan
from egress.values import Refused, RefusedError, Unavailable

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)

_PLANNED: TypeAdapter[Planned] = TypeAdapter(Planned)
_TEXT: TypeAdapter[IntentText] = TypeAdapter(IntentText)
_STATUS: Mapping[str, int] = {
    "REVISION_OUTDATED": 412,
    "INTENT_IS_A_FILE": 409,
    "NAME_TAKEN": 409,
    "DRAFT_OUTDATED": 409,
}
"""Of refusals; of what is unknown 404, of every other 422."""
_KINDS = ("REVISION", "DRAFT", "GROUP", "RULE", "VM", "TAGS")


class PlanBody(BaseModel):
    """A policy file."""

    model_config = ConfigDict(extra="forbid")

    content: str = Field(description="YAML or JSON, as `cfbridge export` writes it.")


PLAIN = r"^[^\x00-\x1f\x7f]*$"
"""One line, which every store can keep."""


class ReasonBody(BaseModel):
    """Why it is published."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=1024, pattern=PLAIN, description="For whoever reads the history.")


class PublishBody(PlanBody, ReasonBody):
    """A policy file, and why."""


class IntentQuery(BaseModel):
    """Whose policy file."""

    model_config = ConfigDict(extra="forbid")

    scope: str | None = Field(None, min_length=1, max_length=64, description="That team's only.")


def shower(facade: Operated) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        asked = operations.check_query(IntentQuery, list(request.query.items()))
        now = facade.revisions
        number, intents = now.number, now.intents
        if asked.scope is not None and asked.scope not in intents:
            raise ProblemError(404, "NOT_FOUND", f"No scope is called {asked.scope!r}.")
        if asked.scope is None:
            content = await asyncio.to_thread(export.text, intents)
        else:
            content = await asyncio.to_thread(export.document, asked.scope, intents.get(asked.scope, Intent()))
        return _tagged(number, _TEXT.dump_json(IntentText(number, asked.scope or "", content)))

    return answer


def planner(facade: Operated) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        operations.check_query(operations.NoQuery, list(request.query.items()))
        body = await body_of(request, PlanBody)
        return planned(request, await done(facade.revisions.plan(body.content.encode()), "/body/content"))

    return answer


def publisher(facade: Operated) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        operations.check_query(operations.NoQuery, list(request.query.items()))
        base = base_of(request)
        body = await body_of(request, PublishBody)
        publishing = facade.revisions.publish(body.content.encode(), author(request), body.reason, base)
        return planned(request, await done(publishing, "/body/content"))

    return answer


def reader(facade: Operated) -> Handler:
    """A revision's policy file."""

    async def answer(request: web.Request) -> web.StreamResponse:
        operations.check_query(operations.NoQuery, list(request.query.items()))
        revised = await done(facade.revisions.revision(_number(request)))
        return _tagged(revised.number, _TEXT.dump_json(IntentText(revised.number, "", revisions.written(revised))))

    return answer


def roller(facade: Operated) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        operations.check_query(operations.NoQuery, list(request.query.items()))
        number, base = _number(request), base_of(request)
        body = await body_of(request, ReasonBody)
        return planned(request, await done(facade.revisions.roll_back(number, author(request), body.reason, base)))

    return answer


def _number(request: web.Request) -> int:
    written = request.match_info["id"]
    if not re.fullmatch(r"[1-9][0-9]{0,8}", written):
        raise ProblemError(404, "REVISION_UNKNOWN", f"There is no revision {written[:128]!r}.")
    return int(written)


def base_of(request: web.Request) -> int | None:
    """The newest revision that the author saw; None: whatever it is (`If-Match: *`)."""
    written = request.headers.get("If-Match", "").strip()
    if written == "*":
        return None
    found = re.fullmatch(r'"revision-([0-9]{1,9})"', written)
    if found is None:
        sentence = "Send If-Match with the ETag that /intent had when this was made, or * for whatever is there."
        raise ProblemError(428, "IF_MATCH_NEEDED", sentence)
    return int(found[1])


async def body_of(request: web.Request, model: type[B]) -> B:
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        faults = tuple(
            Fault("/body" + "".join(f"/{operations.step(part)}" for part in each["loc"]), operations.words(each))
            for each in error.errors()
        )
        raise ProblemError(400, "BAD_BODY", f"{faults[0].pointer}: {faults[0].message}.", faults) from None


async def done(doing: Awaitable[T], at: str = "/body") -> T:
    """`at`: where in the request it is said what may be refused."""
    try:
        return await doing
    except RefusedError as error:
        raise _problem(error.refused, at) from None
    except Unavailable as fault:
        sentence = f"Perhaps nothing was published, look at the revisions: {fault}."
        raise ProblemError(503, "STORE_AWAY", sentence, headers={"Retry-After": "1"}) from None


def _problem(refused: Refused, at: str) -> ProblemError:
    status = 404 if refused.code.removesuffix("_UNKNOWN") in _KINDS else _STATUS.get(refused.code, 422)
    faults = (Fault(at, refused.message),) if status == 422 else ()
    return ProblemError(status, refused.code, refused.message, faults)


CHANGED = web.RequestKey("changed", Plan)
"""What a request published, or would; for the audit log."""
UNPUBLISHED = web.RequestKey("unpublished", str)
"""`plan`, or `draft zones`: where that went instead."""


def planned(request: web.Request, plan: Plan) -> web.Response:
    request[CHANGED] = plan
    rows = tuple(ChangeRow(str(c.deed), c.kind, c.name, c.scope, c.details) for c in plan.changes)
    return _tagged(plan.revision, _PLANNED.dump_json(Planned(plan.revision, plan.summary, rows)))


def _tagged(revision: int, body: bytes) -> web.Response:
    headers = {"ETag": f'"revision-{revision}"', "Cache-Control": "no-cache"}
    return web.Response(body=body, content_type="application/json", headers=headers)


def origin(request: web.Request) -> str:
    """From where."""
    return request.remote or "local"


def author(request: web.Request) -> str:
    """Who asks: by the unix socket the name of the process's user, else who holds the token."""
    transport = request.transport
    peer: Any = transport.get_extra_info("socket") if transport is not None else None
    if peer is None or peer.family != socket.AF_UNIX:
        return "token"
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
