"""How is one group, rule, machine or set of tags changed? By its own path, as a revision of its own or planned only.

PUT, DELETE /groups/{name}, /vms/{vm:name} · POST /rules · PATCH, DELETE /rules/{R42 or name}, /tags/{whose}
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from cfbridge.api import operations, publishing
from cfbridge.api.problems import ProblemError
from cfbridge.api.publishing import Handler
from cfbridge.api.views import Operated
from cfbridge.edits import Edit, Verb

_STRICT = ConfigDict(extra="forbid", strict=True)
_Ends = str | list[str] | None


class EditQuery(BaseModel):
    """How it is published."""

    model_config = ConfigDict(extra="forbid")

    plan: bool = Field(False, description="Say what would change, and change nothing.")
    reason: str = Field("", max_length=1024, pattern=publishing.PLAIN, description="For whoever reads the history.")
    draft: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$", description="Kept in it, not published.")
    scope: str = Field("", max_length=64, description="Whose, of what is new; what is there stays in its scope.")


class GroupBody(BaseModel):
    """Members by name, an expression, or both; as a policy file says them."""

    model_config = _STRICT

    members: list[str] = Field(default_factory=list, description="`vm:db-1`, `10.20.0.0/16`, `group:old`")
    criteria: str | None = Field(None, description='`tag tier = "db"`')


class VmBody(BaseModel):
    """A machine, as a policy file says it."""

    model_config = _STRICT

    addresses: list[str]
    org: str | None = None
    port: str | None = Field(None, description="Host device, tap or veth; without one its grade is `peer`.")
    cell: str | None = None
    tags: dict[str, str] | None = None


class TagsBody(BaseModel):
    """Tags that are set, and with null those that are taken away."""

    model_config = _STRICT

    tags: dict[str, str | None]


class RulePatch(BaseModel):
    """Fields that change, as a policy file says them; null takes one away. A rule moves by `before` or `after`, or to
    the end of another `tier` and `section`."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    tier: str | None = None
    section: str | None = None
    before: str | None = Field(None, description="Name of the rule that it stands before.")
    after: str | None = Field(None, description="Name of the rule that it stands after.")
    from_: _Ends = Field(None, alias="from")
    to: _Ends = None
    services: list[str] | None = None
    action: str | None = None
    applied_to: _Ends = None
    log: bool | None = None
    mode: str | None = None
    reason: str | None = None
    owner: str | None = None
    expires: str | None = None
    enabled: bool | None = None


class RuleBody(RulePatch):
    """A new rule, as a policy file says it, and its place."""

    name: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One way to edit, for the server and for its description."""

    name: str
    summary: str
    path: str
    method: Literal["PUT", "PATCH", "POST", "DELETE"]
    kind: str
    body: type[BaseModel] | None = None

    @property
    def verb(self) -> Verb:
        return {"PUT": Verb.SET, "PATCH": Verb.CHANGE, "POST": Verb.ADD, "DELETE": Verb.REMOVE}[self.method]


OPERATIONS = (
    Operation("set_group", "Set a group", "/groups/{id}", "PUT", "group", GroupBody),
    Operation("remove_group", "Take a group away", "/groups/{id}", "DELETE", "group"),
    Operation("set_vm", "Register a machine, or say it anew", "/vms/{id}", "PUT", "vm", VmBody),
    Operation("remove_vm", "Take a machine away", "/vms/{id}", "DELETE", "vm"),
    Operation("change_tags", "Set and take away tags", "/tags/{id}", "PATCH", "tags", TagsBody),
    Operation("remove_tags", "Take all tags of somebody away", "/tags/{id}", "DELETE", "tags"),
    Operation("add_rule", "Add a rule", "/rules", "POST", "rule", RuleBody),
    Operation("change_rule", "Change or move a rule", "/rules/{id}", "PATCH", "rule", RulePatch),
    Operation("remove_rule", "Take a rule away", "/rules/{id}", "DELETE", "rule"),
)


def routes(facade: Operated) -> Iterator[tuple[str, str, Handler]]:
    """Path, method and who answers."""
    for operation in OPERATIONS:
        yield operation.path, operation.method, _editor(facade, operation)


def _editor(facade: Operated, operation: Operation) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        query = operations.check_query(EditQuery, list(request.query.items()))
        base = None if query.plan or query.draft else publishing.base_of(request)
        body = None if operation.body is None else await publishing.body_of(request, operation.body)
        said = None if body is None else _said(body)
        edit = Edit(operation.verb, operation.kind, _name(facade, operation, request, said), said, query.scope)
        if query.plan or query.draft:
            request[publishing.UNPUBLISHED] = "plan" if query.plan else f"draft {query.draft}"
        if query.plan:
            plan = facade.revisions.plan_edits([edit])
        elif query.draft:
            plan = facade.drafts.edit(query.draft, edit, publishing.author(request))
        else:
            plan = facade.revisions.edit([edit], publishing.author(request), query.reason, base)
        return publishing.planned(request, await publishing.done(plan))

    return answer


def _said(body: BaseModel) -> Any:
    if isinstance(body, TagsBody):
        return body.tags
    if isinstance(body, GroupBody):
        both = {"members": body.members, "criteria": body.criteria}
        return both if body.criteria is not None else body.members
    said = body.model_dump(by_alias=True, exclude_unset=True)
    return said if isinstance(body, RulePatch) else {key: value for key, value in said.items() if value is not None}


def _name(facade: Operated, operation: Operation, request: web.Request, said: Any) -> str:
    if operation.verb is Verb.ADD:
        return str(said.pop("name"))
    written = request.match_info["id"]
    if operation.kind == "vm":
        return written.removeprefix("vm:")
    if operation.kind == "rule" and re.fullmatch(r"R[1-9][0-9]{0,9}", written):
        return _rule_of(facade, written)
    return written


def _rule_of(facade: Operated, written: str) -> str:
    """By its number, whose rule it is."""
    number = int(written[1:])
    key = next((key for key, each in facade.snapshot.held.rule_ids.items() if each == number), "")
    if not key:
        raise ProblemError(404, "RULE_UNKNOWN", f"There is no rule {written}.")
    if not key.startswith("rule:"):
        sentence = (
            f"{written} was made by `cf`, or is the platform's own: no policy file says it, and none can change it."
        )
        raise ProblemError(409, "RULE_READ_ONLY", sentence)
    return key.removeprefix("rule:")
