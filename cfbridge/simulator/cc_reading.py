"""What does Cloud Controller list and show? As much of its v3 as bridge and CLI read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from cfbridge.simulator import cc_lists
from cfbridge.simulator.cc_lists import BadQueryError, Filter, Keep, ListKind, any_of, flag, one_of
from cfbridge.simulator.cc_objects import Written
from cfbridge.simulator.cc_requests import (
    BAD_QUERY,
    NOT_FOUND,
    ComplainedError,
    answer,
)
from cfbridge.simulator.nouns import App, IsolationSegment, Space
from cfbridge.simulator.sight import Sight
from cfbridge.simulator.state import Foundation, Lifecycle

_NAMED = ("created_at", "updated_at", "name")
KINDS = {
    "organizations": "Organization",
    "spaces": "Space",
    "apps": "App",
    "processes": "Process",
    "security_groups": "Security group",
    "isolation_segments": "Isolation segment",
    "users": "User",
    "roles": "Role",
}


def _kinds_of(state: Foundation) -> Mapping[str, ListKind]:
    """What each list may be filtered, ordered and extended by."""

    def place(find: Callable[[Any], str]) -> Filter:
        def parse(text: str) -> Keep:
            wanted = set(text.split(","))
            return lambda row: find(row) in wanted

        return parse

    in_orgs = place(lambda app: state.spaces[app.space].org)
    process_spaces = place(lambda process: state.apps[process.app].space)
    process_orgs = place(lambda process: state.spaces[state.apps[process.app].space].org)
    globally = {"globally_enabled_running": flag("running"), "globally_enabled_staging": flag("staging")}
    bound = {"running_space_guids": any_of("running_spaces"), "staging_space_guids": any_of("staging_spaces")}
    names = {"names": one_of("name", any_case=True)}
    of_org, of_space = {"organization_guids": one_of("org")}, {"space_guids": one_of("space")}
    processes = {"types": one_of("type"), "app_guids": one_of("app")}
    roles = {"types": one_of("type"), "user_guids": one_of("user")}
    return {
        "organizations": ListKind(names, _NAMED),
        "spaces": ListKind({**names, **of_org}, _NAMED, ("org", "organization")),
        "apps": ListKind(
            {**names, **of_space, "organization_guids": in_orgs},
            (*_NAMED, "state"),
            ("space", "org", "space.organization"),
        ),
        "processes": ListKind({**processes, "space_guids": process_spaces, "organization_guids": process_orgs}),
        "security_groups": ListKind({"names": one_of("name"), **globally, **bound}, labels=False),
        "isolation_segments": ListKind({**names, "organization_guids": any_of("orgs")}, _NAMED),
        "users": ListKind({"usernames": one_of("name")}, labels=False),
        "roles": ListKind({**roles, **of_org, **of_space}, labels=False),
    }


@dataclass(slots=True)
class Reading:
    """Answers what is asked; changes nothing."""

    state: Foundation
    written: Written
    kinds: Mapping[str, ListKind] = field(init=False)

    def __post_init__(self) -> None:
        self.kinds = _kinds_of(self.state)

    def _listed(self, kind: str, rows: Iterable[Any], request: web.Request, caller: Sight) -> web.Response:
        seen = rows if caller.everything else [row for row in rows if caller.sees(row, self.state)]
        query = {key: request.query.getall(key)[-1] for key in request.query}
        try:
            page = cc_lists.page(self.kinds[kind], seen, query, f"{self.written.url}{request.path}")
        except BadQueryError as bad:
            raise ComplainedError(BAD_QUERY, f"The query parameter is invalid: {bad}") from None
        resources = [self.written.of(thing) for thing in page.rows]
        document: dict[str, Any] = {"pagination": page.pagination, "resources": resources}
        if page.include:
            document["included"] = self._included(page.rows, page.include)
        return answer(document)

    def _included(self, things: Iterable[Any], include: tuple[str, ...]) -> dict[str, Any]:
        state = self.state
        spaces = {thing.space: None for thing in things if isinstance(thing, App)}
        orgs = {state.spaces[guid].org: None for guid in spaces}
        orgs |= {thing.org: None for thing in things if isinstance(thing, Space)}
        included: dict[str, Any] = {}
        if "space" in include or "space.organization" in include:
            included["spaces"] = [self.written.of(state.spaces[guid]) for guid in spaces]
        if {"org", "organization", "space.organization"} & set(include):
            included["organizations"] = [self.written.of(state.orgs[guid]) for guid in orgs]
        return included

    def _all(self, kind: str) -> Mapping[str, Any]:
        collections: Mapping[str, Mapping[str, Any]] = {
            "organizations": self.state.orgs,
            "spaces": self.state.spaces,
            "apps": self.state.apps,
            "processes": self.state.processes,
            "security_groups": self.state.security_groups,
            "isolation_segments": self.state.isolation_segments,
            "users": self.state.users,
            "roles": self.state.roles,
        }
        return collections[kind]

    async def list_kind(self, request: web.Request, caller: Sight) -> web.Response:
        kind = request.match_info["kind"]
        return self._listed(kind, self._all(kind).values(), request, caller)

    def _found(self, kind: str, guid: str, caller: Sight) -> Any:
        thing = self._all(kind).get(guid)
        if thing is None or not caller.sees(thing, self.state):
            raise ComplainedError(NOT_FOUND, f"{KINDS[kind]} not found")
        return thing

    async def get_one(self, request: web.Request, caller: Sight) -> web.Response:
        thing = self._found(request.match_info["kind"], request.match_info["guid"], caller)
        return answer(self.written.of(thing))

    async def processes_of_app(self, request: web.Request, caller: Sight) -> web.Response:
        app: App = self._found("apps", request.match_info["guid"], caller)
        return self._listed("processes", self.state.processes_of(app.guid), request, caller)

    async def effective_groups(self, request: web.Request, caller: Sight) -> web.Response:
        space: Space = self._found("spaces", request.match_info["guid"], caller)
        groups = self.state.effective_groups(space.guid, lifecycle_of(request))
        return self._listed("security_groups", groups, request, caller)

    async def space_segment(self, request: web.Request, caller: Sight) -> web.Response:
        space: Space = self._found("spaces", request.match_info["guid"], caller)
        return answer({"data": {"guid": space.isolation_segment} if space.isolation_segment else None})

    async def segment_members(self, request: web.Request, caller: Sight) -> web.Response:
        segment: IsolationSegment = self._found("isolation_segments", request.match_info["guid"], caller)
        spaces = [space.guid for space in self.state.spaces.values() if space.isolation_segment == segment.guid]
        members = segment.orgs if request.match_info["of"] == "organizations" else spaces
        return answer({"data": [{"guid": guid} for guid in members]})

    async def job(self, request: web.Request, caller: Sight) -> web.Response:
        guid = request.match_info["guid"]
        operation = self.state.jobs.get(guid)
        if operation is None:
            raise ComplainedError(NOT_FOUND, "Job not found")
        now = self.state.now()
        link = {"self": {"href": f"{self.written.url}/v3/jobs/{guid}"}}
        job = {"guid": guid, "created_at": now, "updated_at": now, "operation": operation, "state": "COMPLETE"}
        return answer({**job, "errors": [], "warnings": [], "links": link})


def lifecycle_of(request: web.Request) -> Lifecycle:
    return "running" if request.match_info["lifecycle"] == "running" else "staging"
