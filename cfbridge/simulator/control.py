"""What does the person at the simulator want to happen? `/__sim/…` on Cloud Controller's port, for loopback alone.

Push, scale, stop, rename, suspend, delete, bind and unbind by names, as a person has them; faults; and a look at
everything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from aiohttp import web

from cfbridge.simulator import asg_rules
from cfbridge.simulator.cc_requests import (
    NOT_AUTHORIZED,
    NOT_FOUND,
    UNPROCESSABLE,
    ComplainedError,
    answer,
    body_of,
    flag_in,
    metadata_of,
    only,
    whole_in,
)
from cfbridge.simulator.nouns import App, Fault, Org, Space
from cfbridge.simulator.policy_server import cleanup
from cfbridge.simulator.state import Foundation, Lifecycle

Deed = Callable[[Foundation, Mapping[str, Any]], object]


def routes(state: Foundation, more: Mapping[str, Deed]) -> list[web.RouteDef]:
    """`more`: deeds of what else is in the box, by their paths."""
    deeds: Mapping[str, Deed] = {
        "apps": push,
        "apps/scale": scale,
        "apps/stop": stop,
        "rename": rename,
        "delete": delete,
        "orgs/suspend": suspend,
        "asgs/bind": bind_asg,
        "asgs/unbind": unbind_asg,
        "asgs/sync": sync,
        "policies/cleanup": clean_policies,
        "fault": fault,
        **more,
    }
    return [
        web.get("/__sim/state", _loopback(state, lambda state, body: look(state))),
        *(web.post(f"/__sim/{name}", _loopback(state, deed)) for name, deed in deeds.items()),
    ]


def _loopback(state: Foundation, deed: Deed) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        if request.remote not in ("127.0.0.1", "::1"):
            raise ComplainedError(NOT_AUTHORIZED, "The simulator is steered from its own machine alone")
        return answer(deed(state, await body_of(request)))

    return handle


def _text(body: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str) or not value:
        raise ComplainedError(UNPROCESSABLE, f"'{name}' must be a text that is not empty")
    return value


def _org(state: Foundation, body: Mapping[str, Any]) -> Org:
    org = state.org_named(_text(body, "org"))
    if org is None:
        raise ComplainedError(NOT_FOUND, f"There is no org '{body['org']}'")
    return org


def _space(state: Foundation, body: Mapping[str, Any]) -> Space:
    org = state.org_named(_text(body, "org"))
    space = state.space_named(org.guid, _text(body, "space")) if org is not None else None
    if space is None:
        raise ComplainedError(NOT_FOUND, f"There is no space '{body['org']}/{body.get('space')}'")
    return space


def _app(state: Foundation, body: Mapping[str, Any]) -> App:
    space = _space(state, body)
    app = state.app_named(space.guid, _text(body, "name"))
    if app is None:
        raise ComplainedError(NOT_FOUND, f"There is no app '{body['name']}' in '{body['org']}/{body['space']}'")
    return app


def _instances(state: Foundation, app: App) -> int:
    return sum(process.instances for process in state.processes_of(app.guid))


def _shown(state: Foundation, app: App) -> dict[str, object]:
    space = state.spaces[app.space]
    org = state.orgs[space.org]
    return {
        "guid": app.guid,
        "name": app.name,
        "state": app.state,
        "instances": _instances(state, app),
        "space": space.name,
        "space_guid": space.guid,
        "org": org.name,
        "org_guid": org.guid,
    }


def push(state: Foundation, body: Mapping[str, Any]) -> object:
    """An app with so many instances, and the org and space it needs; pushing it again only scales and labels it."""
    only(body, "org", "space", "name", "instances", "metadata")
    org_name, space_name, name = _text(body, "org"), _text(body, "space"), _text(body, "name")
    instances = whole_in(body, "instances", 1)
    labels, annotations = metadata_of(body, {}, {})
    org = state.org_named(org_name) or state.create_org(org_name)
    space = state.space_named(org.guid, space_name) or state.create_space(org.guid, space_name)
    app = state.app_named(space.guid, name)
    if app is None:
        app = state.create_app(space.guid, name, instances=instances, labels=labels, annotations=annotations)
        return _shown(state, app)
    if "metadata" in body or app.state != "STARTED":
        labels, annotations = metadata_of(body, app.labels, app.annotations)
        app = state.change_app(replace(app, state="STARTED", labels=labels, annotations=annotations))
    _scale(state, app, whole_in(body, "instances", _instances(state, app)))
    return _shown(state, app)


def _scale(state: Foundation, app: App, instances: int) -> None:
    process = state.processes[app.guid]
    if process.instances != instances:
        state.scale(process, instances)


def scale(state: Foundation, body: Mapping[str, Any]) -> object:
    only(body, "org", "space", "name", "instances")
    app = _app(state, body)
    _scale(state, app, whole_in(body, "instances", _instances(state, app)))
    return _shown(state, app)


def stop(state: Foundation, body: Mapping[str, Any]) -> object:
    """No instance is wanted any more; pushing the app starts it again."""
    only(body, "org", "space", "name")
    return _shown(state, state.change_app(replace(_app(state, body), state="STOPPED")))


def rename(state: Foundation, body: Mapping[str, Any]) -> object:
    """An app; without its `name` the space, without `space` the org."""
    only(body, "org", "space", "name", "new_name")
    new = _text(body, "new_name")
    if "name" in body:
        return _shown(state, state.change_app(replace(_app(state, body), name=new)))
    if "space" in body:
        return asdict(state.change_space(replace(_space(state, body), name=new)))
    return asdict(state.change_org(replace(_org(state, body), name=new)))


def delete(state: Foundation, body: Mapping[str, Any]) -> object:
    """An app; without its `name` the space, without `space` the org, with all that is in it."""
    only(body, "org", "space", "name")
    if "name" in body:
        app = _app(state, body)
        shown = _shown(state, app)
        state.delete_app(app.guid)
        return shown
    if "space" in body:
        space = _space(state, body)
        state.delete_space(space.guid)
        return asdict(space)
    org = _org(state, body)
    state.delete_org(org.guid)
    return asdict(org)


def suspend(state: Foundation, body: Mapping[str, Any]) -> object:
    """What runs in the org goes on: only its people may change nothing any more."""
    only(body, "org", "suspended")
    return asdict(state.change_org(replace(_org(state, body), suspended=flag_in(body, "suspended", True))))


def _lifecycles(body: Mapping[str, Any]) -> tuple[Lifecycle, ...]:
    asked = body.get("lifecycle", "running")
    if asked not in ("running", "staging", "both"):
        raise ComplainedError(UNPROCESSABLE, "'lifecycle' must be running, staging or both")
    return ("running", "staging") if asked == "both" else (asked,)


def bind_asg(state: Foundation, body: Mapping[str, Any]) -> object:
    """Bind to a space, or without one to everything; `rules` makes the group or replaces its rules."""
    only(body, "name", "org", "space", "lifecycle", "rules")
    name, lifecycles = _text(body, "name"), _lifecycles(body)
    group = state.group_named(name)
    if "rules" in body and (faults := asg_rules.faults_of(body["rules"])):
        raise ComplainedError(UNPROCESSABLE, ", ".join(faults[:20]))
    if group is None and "rules" not in body:
        raise ComplainedError(NOT_FOUND, f"There is no security group '{name}'; give its rules to make it")
    space = _space(state, body) if "space" in body or "org" in body else None
    if group is None:
        group = state.create_security_group(name, body["rules"])
    elif "rules" in body:
        group = state.change_security_group(replace(group, rules=tuple(body["rules"])))
    for lifecycle in lifecycles:
        if space is not None:
            group = state.bind(group, lifecycle, (space.guid,))
        elif lifecycle == "running":
            group = state.change_security_group(replace(group, running=True))
        else:
            group = state.change_security_group(replace(group, staging=True))
    return asdict(group)


def unbind_asg(state: Foundation, body: Mapping[str, Any]) -> object:
    only(body, "name", "org", "space", "lifecycle")
    name, lifecycles = _text(body, "name"), _lifecycles(body)
    group = state.group_named(name)
    if group is None:
        raise ComplainedError(NOT_FOUND, f"There is no security group '{name}'")
    space = _space(state, body) if "space" in body or "org" in body else None
    for lifecycle in lifecycles:
        if space is not None:
            group = state.unbind(group, lifecycle, space.guid)
        elif lifecycle == "running":
            group = state.change_security_group(replace(group, running=False))
        else:
            group = state.change_security_group(replace(group, staging=False))
    return asdict(group)


def sync(state: Foundation, body: Mapping[str, Any]) -> object:
    """What the ASG syncer would do at its next minute."""
    state.sync_groups()
    return {"synced_at": state.synced_at}


def clean_policies(state: Foundation, body: Mapping[str, Any]) -> object:
    """What the policy server would do at its next hour."""
    return {"deleted": len(cleanup(state))}


def fault(state: Foundation, body: Mapping[str, Any]) -> object:
    """`{"service": "cc", "mode": "error", "status": 503}`; mode `none` takes it back; service `all` means each."""
    only(body, "service", "mode", "status", "seconds", "path", "after", "times")
    service = {"cc": "cloud_controller"}.get(_text(body, "service"), _text(body, "service")).replace("-", "_")
    mode = _text(body, "mode")
    status = whole_in(body, "status", 503, 599)
    seconds = body.get("seconds", 0.0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 3600 or status < 200:
        raise ComplainedError(UNPROCESSABLE, "'seconds' must be between 0 and 3600, 'status' between 200 and 599")
    path = body.get("path", "")
    if not isinstance(path, str):
        raise ComplainedError(UNPROCESSABLE, "'path' must be a text")
    made = Fault(mode, status, float(seconds), path, whole_in(body, "after", 0), whole_in(body, "times", 0))
    for name in ("cloud_controller", "uaa", "policy_server") if service == "all" else (service,):
        state.set_fault(name, None if mode == "none" else made)
    return {"faults": {name: asdict(fault) for name, fault in state.faults.items()}}


def look(state: Foundation) -> object:
    return {
        "faults": {name: asdict(fault) for name, fault in state.faults.items()},
        "orgs": len(state.orgs),
        "spaces": len(state.spaces),
        "apps": [_shown(state, app) for app in state.apps.values()],
        "security_groups": [asdict(group) for group in state.security_groups.values()],
        "policies": len(state.policies),
        "policies_last_updated": state.policies.last_updated,
    }
