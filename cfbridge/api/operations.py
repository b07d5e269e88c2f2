"""Which questions does the API answer? Each resource once: its row, its rows, the permission that it needs.

From a `Resource` follow its two operations, their parameters, checks, pages and documentation; nothing is said twice.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_type_hints

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from cfbridge.api import reviewing, rows, rulings
from cfbridge.api.problems import Fault, ProblemError
from cfbridge.api.resources import (
    AsgRow,
    CellRow,
    DraftRow,
    FoundationRow,
    GroupRow,
    HeldRow,
    LeaseRow,
    OrgRow,
    PolicyRow,
    PoolRow,
    ReviewRow,
    RevisionRow,
    RuleRow,
    VmRow,
    WorkloadRow,
)
from cfbridge.api.views import Facade

ROOT = "/api/v1"
DEFAULT_LIMIT = 100
GREATEST_LIMIT = 500
PERMISSION = "permission"
"""Attribute of a handler that says which one it needs."""
Permission = Literal["public", "cfbridge.read", "cfbridge.operate", "cfbridge.publish"]

ROLE_PERMISSIONS: Mapping[str, frozenset[str]] = {
    "operator": frozenset({"public", "cfbridge.read", "cfbridge.operate", "cfbridge.publish"}),
    "nobody": frozenset({"public"}),
}
"""Roles of decisions 32 that this version can tell apart: the holder of socket or token, and everybody else."""


@dataclass(frozen=True)
class Resource:
    name: str
    row: Any
    rows: Callable[[Facade], Sequence[Any]]
    summary: str
    permission: Permission = "cfbridge.read"
    made_of: tuple[str, ...] = ("snapshot", "ruleset")
    """What the rows show of the facade: they are made anew when one of these is another."""

    @cached_property
    def filters(self) -> Mapping[str, Any]:
        """Fields that `?field=value` may ask for: those with one plain value."""
        hints = get_type_hints(self.row)
        plain = {str: str, bool: bool, int: int, int | None: int}
        return {each.name: plain[hints[each.name]] for each in fields(self.row) if hints[each.name] in plain}

    @cached_property
    def query(self) -> type[BaseModel]:
        asked: dict[str, Any] = {name: (kind | None, None) for name, kind in self.filters.items()}
        return create_model(
            f"{self.row.__name__}Query",
            __config__=ConfigDict(extra="forbid"),
            limit=(int, Field(DEFAULT_LIMIT, ge=1, le=GREATEST_LIMIT, description="Rows on a page.")),
            after=(str | None, Field(None, min_length=1, max_length=2048, description="`next` of the page before.")),
            q=(str | None, Field(None, max_length=256, description="Only rows with this in some text, in any case.")),
            **asked,
        )

    @cached_property
    def one(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.row)

    @cached_property
    def many(self) -> TypeAdapter[Any]:
        return TypeAdapter(list[self.row])  # type: ignore[name-defined]


RESOURCES: Mapping[str, Resource] = {
    resource.name: resource
    for resource in (
        Resource("foundations", FoundationRow, rows.foundations, "Cloud Foundries that are looked at"),
        Resource("held", HeldRow, rows.held, "What answers withdrew and what stays in force"),
        Resource("cells", CellRow, rows.cells, "Cells and how far they are"),
        Resource("orgs", OrgRow, rows.orgs, "Orgs and their networks"),
        Resource("pools", PoolRow, rows.pools, "Address pools"),
        Resource("leases", LeaseRow, rows.leases, "Addresses in use"),
        Resource("workloads", WorkloadRow, rows.workloads, "Containers and virtual machines"),
        Resource("policies", PolicyRow, rulings.policies, "cf network policies"),
        Resource("asgs", AsgRow, rulings.asgs, "cf security groups"),
        Resource("rules", RuleRow, rulings.rules, "Every rule, in the order of evaluation"),
        Resource("review", ReviewRow, reviewing.findings, "Rules that somebody should look at"),
        Resource("vms", VmRow, rulings.vms, "Virtual machines next to the containers"),
        Resource("groups", GroupRow, rulings.groups, "Groups that rules name"),
        Resource("drafts", DraftRow, rows.drafts, "Edits that nobody published yet", made_of=("drafted",)),
        Resource("revisions", RevisionRow, rows.revisions, "What people published", made_of=("history",)),
    )
}


class ExplainQuery(BaseModel):
    """One connection: who opens what to whom."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(
        min_length=1, max_length=1024, description="ORG/SPACE/APP, and /INDEX for an instance; vm:NAME; an address."
    )
    destination: str = Field(min_length=1, max_length=1024, description="The same.")
    protocol: Literal["tcp", "udp", "icmp", "icmpv6"] = Field("tcp", description="What is opened.")
    port: int | None = Field(None, ge=1, le=65535, description="Of the destination; tcp and udp need one.")
    org: str | None = Field(None, min_length=1, max_length=1024, description="Targeted, for an app's name alone.")
    space: str | None = Field(None, min_length=1, max_length=1024, description="The same.")


class NoQuery(BaseModel):
    """Takes no query parameters; one that is there is a slip that must not be passed over."""

    model_config = ConfigDict(extra="forbid")


def check_query(model: type[BaseModel], given: Sequence[tuple[str, str]]) -> Any:
    """The query as a model; a problem that names every key that is wrong."""
    keys = [key for key, _ in given]
    faults = [Fault(f"/query/{step(key)}", "is here twice") for key in dict.fromkeys(keys) if keys.count(key) > 1]
    try:
        checked = model.model_validate(dict(given))
    except ValidationError as error:
        faults += [Fault("/query/" + "/".join(map(step, e["loc"])), words(e)) for e in error.errors()]
    if faults:
        at = faults[0].pointer.removeprefix("/query/")
        raise ProblemError(400, "BAD_QUERY", f"The query parameter {at!r} {faults[0].message}.", tuple(faults))
    return checked


def step(key: object) -> str:
    """Of a JSON pointer."""
    return str(key).replace("~", "~0").replace("/", "~1")


def words(error: Any) -> str:
    """What pydantic has against a value."""
    if error["type"] == "extra_forbidden":
        return "is not known"
    return "is refused: " + str(error["msg"])[:1].lower() + str(error["msg"])[1:]


def page(resource: Resource, listed: Sequence[Any], query: Any, revision: int) -> bytes:
    """One page, encoded. The cursor names its last row, and the row's place for when it is gone by the next request."""
    order = {row.id: position for position, row in enumerate(listed)}
    found = listed
    for name in resource.filters:
        if (wanted := getattr(query, name)) is not None:
            found = [row for row in found if getattr(row, name) == wanted]
    if query.q:
        needle = query.q.casefold()
        found = [row for row in found if needle in _searchable(row)]
    start = 0
    if query.after is not None:
        last_id, last_position = _read_cursor(query.after)
        last_position = order.get(last_id, last_position - 1)
        start = bisect_right([order[row.id] for row in found], last_position)
    shown = found[start : start + query.limit]
    more = start + len(shown) < len(found)
    following = _cursor(shown[-1].id, order[shown[-1].id]) if more and shown else None
    return b"".join(
        (
            b'{"items":',
            resource.many.dump_json(list(shown)),
            b',"next":',
            orjson.dumps(following),
            b',"total":%d,"revision":%d}' % (len(found), revision),
        )
    )


def _searchable(row: Any) -> str:
    said: list[str] = []
    for each in fields(row):
        value = getattr(row, each.name)
        if isinstance(value, str):
            said.append(value)
        elif isinstance(value, tuple):
            said += [item for item in value if isinstance(item, str)]
    return "\n".join(said).casefold()


def _cursor(last_id: str, position: int) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([last_id, position])).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[str, int]:
    try:
        last_id, position = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
        if isinstance(last_id, str) and type(position) is int:
            return last_id, position
    except (ValueError, binascii.Error, TypeError):
        pass
    fault = Fault("/query/after", "is no cursor that this API gave")
    raise ProblemError(400, "BAD_QUERY", f"The query parameter 'after' {fault.message}.", (fault,))
