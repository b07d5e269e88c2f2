"""What may be made, changed and deleted at Cloud Controller, and by whom?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from cfbridge.simulator import asg_rules
from cfbridge.simulator.cc_reading import Reading, lifecycle_of
from cfbridge.simulator.cc_requests import (
    NOT_AUTHORIZED,
    NOT_FOUND,
    UNPROCESSABLE,
    ComplainedError,
    answer,
    body_of,
    flag_in,
    guid_in,
    guids_of,
    metadata_of,
    name_of,
    only,
    whole_in,
)
from cfbridge.simulator.nouns import App, Org, SecurityGroup, Space
from cfbridge.simulator.sight import Sight


@dataclass(slots=True)
class Writing(Reading):
    """Answers after the change is made."""

    def _writable(self, kind: str, request: web.Request, caller: Sight) -> Any:
        thing = self._found(kind, request.match_info["guid"], caller)
        self._allow(caller, thing.space if isinstance(thing, App) else "")
        return thing

    @staticmethod
    def _allow(caller: Sight, space: str = "") -> None:
        if not caller.admin and space not in caller.developed:
            raise ComplainedError(NOT_AUTHORIZED, "You are not authorized to perform the requested action")

    def _accepted(self, operation: str) -> web.Response:
        job = self.state.finished_job(operation)
        return web.Response(status=202, headers={"Location": f"{self.written.url}/v3/jobs/{job}"})

    async def create_org(self, request: web.Request, caller: Sight) -> web.Response:
        body = await body_of(request)
        self._allow(caller)
        only(body, "name", "suspended", "metadata")
        labels, annotations = metadata_of(body, {}, {})
        suspended = flag_in(body, "suspended", False)
        org = self.state.create_org(name_of(body), labels=labels)
        org = self.state.change_org(replace(org, suspended=suspended, annotations=annotations))
        return answer(self.written.of(org), 201)

    async def change_org(self, request: web.Request, caller: Sight) -> web.Response:
        org: Org = self._writable("organizations", request, caller)
        body = await body_of(request)
        only(body, "name", "suspended", "metadata")
        labels, annotations = metadata_of(body, org.labels, org.annotations)
        suspended = flag_in(body, "suspended", org.suspended)
        name = name_of(body, org.name)
        changed = replace(org, name=name, suspended=suspended, labels=labels, annotations=annotations)
        return answer(self.written.of(self.state.change_org(changed)))

    async def delete_org(self, request: web.Request, caller: Sight) -> web.Response:
        self.state.delete_org(self._writable("organizations", request, caller).guid)
        return self._accepted("organization.delete")

    async def create_space(self, request: web.Request, caller: Sight) -> web.Response:
        body = await body_of(request)
        self._allow(caller)
        only(body, "name", "relationships", "metadata")
        labels, annotations = metadata_of(body, {}, {})
        space = self.state.create_space(guid_in(body, "organization"), name_of(body), labels=labels)
        space = self.state.change_space(replace(space, annotations=annotations))
        return answer(self.written.of(space), 201)

    async def change_space(self, request: web.Request, caller: Sight) -> web.Response:
        space: Space = self._writable("spaces", request, caller)
        body = await body_of(request)
        only(body, "name", "metadata")
        labels, annotations = metadata_of(body, space.labels, space.annotations)
        changed = replace(space, name=name_of(body, space.name), labels=labels, annotations=annotations)
        return answer(self.written.of(self.state.change_space(changed)))

    async def delete_space(self, request: web.Request, caller: Sight) -> web.Response:
        self.state.delete_space(self._writable("spaces", request, caller).guid)
        return self._accepted("space.delete")

    async def set_space_segment(self, request: web.Request, caller: Sight) -> web.Response:
        space: Space = self._writable("spaces", request, caller)
        data = (await body_of(request)).get("data")
        guid = data.get("guid") if isinstance(data, dict) else ""
        if not isinstance(guid, str) or (guid and guid not in self.state.isolation_segments):
            raise ComplainedError(UNPROCESSABLE, "Unable to assign isolation segment with that guid.")
        self.state.change_space(replace(space, isolation_segment=guid))
        return answer({"data": {"guid": guid} if guid else None})

    async def create_app(self, request: web.Request, caller: Sight) -> web.Response:
        body = await body_of(request)
        only(body, "name", "relationships", "metadata", "lifecycle", "environment_variables")
        space = guid_in(body, "space")
        self._allow(caller, space)
        labels, annotations = metadata_of(body, {}, {})
        app = self.state.create_app(space, name_of(body), started=False, labels=labels, annotations=annotations)
        return answer(self.written.of(app), 201)

    async def change_app(self, request: web.Request, caller: Sight) -> web.Response:
        app: App = self._writable("apps", request, caller)
        body = await body_of(request)
        only(body, "name", "metadata", "lifecycle")
        labels, annotations = metadata_of(body, app.labels, app.annotations)
        changed = replace(app, name=name_of(body, app.name), labels=labels, annotations=annotations)
        return answer(self.written.of(self.state.change_app(changed)))

    async def delete_app(self, request: web.Request, caller: Sight) -> web.Response:
        self.state.delete_app(self._writable("apps", request, caller).guid)
        return self._accepted("app.delete")

    async def start_or_stop(self, request: web.Request, caller: Sight) -> web.Response:
        app: App = self._writable("apps", request, caller)
        state = "STOPPED" if request.match_info["action"] == "stop" else "STARTED"
        return answer(self.written.of(self.state.change_app(replace(app, state=state))))

    async def scale(self, request: web.Request, caller: Sight) -> web.Response:
        if "app" in request.match_info:
            app: App = self._found("apps", request.match_info["app"], caller)
            kind = request.match_info["type"]
            found = next((p for p in self.state.processes_of(app.guid) if p.type == kind), None)
        else:
            found = self._found("processes", request.match_info["guid"], caller)
        if found is None:
            raise ComplainedError(NOT_FOUND, "Process not found")
        self._allow(caller, self.state.apps[found.app].space)
        body = await body_of(request)
        only(body, "instances", "memory_in_mb", "disk_in_mb", "log_rate_limit_in_bytes_per_second")
        instances = whole_in(body, "instances", found.instances)
        memory = whole_in(body, "memory_in_mb", found.memory_in_mb, 2**31 - 1)
        disk = whole_in(body, "disk_in_mb", found.disk_in_mb, 2**31 - 1)
        changed = self.state.scale(replace(found, memory_in_mb=memory, disk_in_mb=disk), instances)
        return answer(self.written.of(changed), 202)

    async def create_group(self, request: web.Request, caller: Sight) -> web.Response:
        body = await body_of(request)
        self._allow(caller)
        only(body, "name", "rules", "globally_enabled", "relationships")
        running, staging = _globally(body, False, False)
        relationships = body.get("relationships", {})
        if not isinstance(relationships, dict):
            raise ComplainedError(UNPROCESSABLE, "Relationships must be an object")
        spaces = {
            key: self._spaces(relationships[key])
            for key in ("running_spaces", "staging_spaces")
            if key in relationships
        }
        rules = _rules(body, ())
        group = self.state.create_security_group(name_of(body), rules, running=running, staging=staging)
        group = self.state.bind(group, "running", spaces.get("running_spaces", ()))
        group = self.state.bind(group, "staging", spaces.get("staging_spaces", ()))
        return answer(self.written.of(group), 201)

    def _spaces(self, value: object) -> list[str]:
        guids = guids_of(value)
        missing = [guid for guid in guids if guid not in self.state.spaces]
        if missing:
            names = ", ".join(f'"{guid}"' for guid in missing)
            raise ComplainedError(
                UNPROCESSABLE, f"Spaces with guids [{names}] do not exist, or you do not have access to them."
            )
        return guids

    async def change_group(self, request: web.Request, caller: Sight) -> web.Response:
        group: SecurityGroup = self._writable("security_groups", request, caller)
        body = await body_of(request)
        only(body, "name", "rules", "globally_enabled")
        running, staging = _globally(body, group.running, group.staging)
        changed = replace(group, running=running, staging=staging, rules=_rules(body, group.rules))
        changed = replace(changed, name=name_of(body, group.name))
        return answer(self.written.of(self.state.change_security_group(changed)))

    async def delete_group(self, request: web.Request, caller: Sight) -> web.Response:
        del self.state.security_groups[self._writable("security_groups", request, caller).guid]
        return self._accepted("security_group.delete")

    async def bind(self, request: web.Request, caller: Sight) -> web.Response:
        group: SecurityGroup = self._writable("security_groups", request, caller)
        lifecycle = lifecycle_of(request)
        group = self.state.bind(group, lifecycle, self._spaces(await body_of(request)))
        spaces = group.running_spaces if lifecycle == "running" else group.staging_spaces
        link = f"{self.written.url}/v3/security_groups/{group.guid}/relationships/{lifecycle}_spaces"
        return answer({"data": [{"guid": guid} for guid in spaces], "links": {"self": {"href": link}}})

    async def unbind(self, request: web.Request, caller: Sight) -> web.Response:
        group: SecurityGroup = self._writable("security_groups", request, caller)
        lifecycle, space = lifecycle_of(request), request.match_info["space"]
        if space not in (group.running_spaces if lifecycle == "running" else group.staging_spaces):
            detail = (
                f"Unable to unbind security group from space with guid '{space}'. Ensure the space is bound to this "
            )
            raise ComplainedError(UNPROCESSABLE, f"{detail}security group.")
        self.state.unbind(group, lifecycle, space)
        return web.Response(status=204)

    async def create_role(self, request: web.Request, caller: Sight) -> web.Response:
        body = await body_of(request)
        self._allow(caller)
        only(body, "type", "relationships")
        kind = body.get("type")
        if not isinstance(kind, str) or not re.fullmatch(
            "organization_(auditor|manager|billing_manager|user)|space_(auditor|developer|manager|supporter)", kind
        ):
            raise ComplainedError(UNPROCESSABLE, "Type must be one of the allowed types")
        user = guid_in(body, "user")
        if user not in self.state.users:
            raise ComplainedError(UNPROCESSABLE, f"Invalid user. Ensure that the user exists: {user}")
        if kind.startswith("space"):
            space = guid_in(body, "space")
            if space not in self.state.spaces:
                raise ComplainedError(
                    UNPROCESSABLE, "Invalid space. Ensure that the space exists and you have access to it."
                )
            role = self.state.create_role(kind, user, space=space)
        else:
            org = guid_in(body, "organization")
            if org not in self.state.orgs:
                raise ComplainedError(UNPROCESSABLE, "Invalid organization. Ensure the organization exists.")
            role = self.state.create_role(kind, user, org=org)
        return answer(self.written.of(role), 201)

    async def delete_role(self, request: web.Request, caller: Sight) -> web.Response:
        del self.state.roles[self._writable("roles", request, caller).guid]
        return self._accepted("role.delete")


def _globally(body: Mapping[str, Any], running: bool, staging: bool) -> tuple[bool, bool]:
    enabled = body.get("globally_enabled", {})
    if not isinstance(enabled, dict):
        raise ComplainedError(UNPROCESSABLE, "Globally enabled must be an object")
    only(enabled, "running", "staging")
    return flag_in(enabled, "running", running), flag_in(enabled, "staging", staging)


def _rules(body: Mapping[str, Any], before: tuple[Any, ...]) -> tuple[Any, ...]:
    if "rules" not in body:
        return before
    faults = asg_rules.faults_of(body["rules"])
    if faults:
        raise ComplainedError(UNPROCESSABLE, ", ".join(faults[:20]))
    return tuple(body["rules"])
