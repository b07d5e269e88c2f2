"""What did people do? Every request that could change something is recorded when it was answered, and can be read."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from cfbridge.api import operations, publishing
from cfbridge.api.operations import ROOT
from cfbridge.api.publishing import Handler
from cfbridge.api.resources import AuditPage, AuditRow
from cfbridge.api.views import Operated
from cfbridge.audit import Audit
from cfbridge.revisions import Plan
from cfbridge.store import Audited
from egress.values import printable

_PAGE: TypeAdapter[AuditPage] = TypeAdapter(AuditPage)
_LONGEST = 16_384
"""Characters of what changed; the revision has all of it."""


class AuditQuery(BaseModel):
    """A page, the newest first."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(operations.DEFAULT_LIMIT, ge=1, le=operations.GREATEST_LIMIT, description="Rows on a page.")
    after: int | None = Field(None, ge=1, le=2**31 - 1, description="`next` of the page before.")


def record(audit: Audit, request: web.Request, status: int) -> None:
    """Not of who may not come in, nor of what only reads."""
    needed = getattr(request.match_info.handler, operations.PERMISSION, "cfbridge.read")
    unpublished = request.get(publishing.UNPUBLISHED, "")
    if needed in ("public", "cfbridge.read") or status == 401 or unpublished == "plan":
        return
    resource = request.match_info.route.resource
    path = (resource.canonical if resource is not None else "").removeprefix(ROOT)
    plan: Plan | None = request.get(publishing.CHANGED)
    audit.record(
        Audited(
            at=time.time(),
            author=publishing.author(request),
            origin=publishing.origin(request),
            action=f"{request.method} {path}" + (f" into {unpublished}" if unpublished else ""),
            target=printable(request.match_info.get("id", ""))[:256],
            status=status,
            revision=plan.revision if plan is not None and plan.changes and not unpublished else None,
            detail="" if plan is None else "\n".join(map(printable, _lines(plan)))[:_LONGEST],
        )
    )


def _lines(plan: Plan) -> list[str]:
    return [
        line
        for change in plan.changes
        for line in (f"{change.deed} {change.kind} {change.name}", *(f"  {each}" for each in change.details))
    ]


def lister(facade: Operated) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        asked = operations.check_query(AuditQuery, list(request.query.items()))
        found = await publishing.done(facade.audit.read(asked.after, asked.limit))
        more = str(found[-1].id) if len(found) == asked.limit and found[-1].id > 1 else None
        rows = tuple(
            AuditRow(
                id=str(each.id),
                at=datetime.fromtimestamp(each.at, UTC),
                author=each.author,
                origin=each.origin,
                action=each.action,
                target=each.target,
                status=each.status,
                revision=each.revision,
                detail=each.detail,
            )
            for each in found
        )
        return web.Response(body=_PAGE.dump_json(AuditPage(rows, more)), content_type="application/json")

    return answer
