"""How does Cloud Controller write a thing? One function per kind; `Written` remembers what it wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from cfbridge.simulator.nouns import App, IsolationSegment, Org, Process, Role, SecurityGroup, Space, User

Json = dict[str, Any]


def _to_one(guid: str) -> Json:
    return {"data": {"guid": guid} if guid else None}


def _to_many(guids: Iterable[str]) -> Json:
    return {"data": [{"guid": guid} for guid in guids]}


def _metadata(labels: Mapping[str, str], annotations: Mapping[str, str]) -> Json:
    return {"labels": dict(labels), "annotations": dict(annotations)}


def _links(url: str, **paths: str) -> Json:
    return {name: {"href": f"{url}/v3/{path}"} for name, path in paths.items()}


def org(url: str, it: Org) -> Json:
    return {
        "guid": it.guid,
        "created_at": it.created_at,
        "updated_at": it.updated_at,
        "name": it.name,
        "suspended": it.suspended,
        "relationships": {"quota": _to_one("c9cb269a-73b6-5bfe-8fc1-907a4d31c4eb")},
        "metadata": _metadata(it.labels, it.annotations),
        "links": _links(url, self=f"organizations/{it.guid}", domains=f"organizations/{it.guid}/domains"),
    }


def space(url: str, it: Space) -> Json:
    return {
        "guid": it.guid,
        "created_at": it.created_at,
        "updated_at": it.updated_at,
        "name": it.name,
        "relationships": {"organization": _to_one(it.org), "quota": _to_one("")},
        "metadata": _metadata(it.labels, it.annotations),
        "links": _links(url, self=f"spaces/{it.guid}", organization=f"organizations/{it.org}"),
    }


def app(url: str, it: App) -> Json:
    return {
        "guid": it.guid,
        "created_at": it.created_at,
        "updated_at": it.updated_at,
        "name": it.name,
        "state": it.state,
        "lifecycle": {"type": "buildpack", "data": {"buildpacks": [], "stack": "cflinuxfs4"}},
        "relationships": {"space": _to_one(it.space), "current_droplet": _to_one("")},
        "metadata": _metadata(it.labels, it.annotations),
        "links": _links(url, self=f"apps/{it.guid}", space=f"spaces/{it.space}", processes=f"apps/{it.guid}/processes"),
    }


def process(url: str, it: Process) -> Json:
    return {
        "guid": it.guid,
        "created_at": it.created_at,
        "updated_at": it.updated_at,
        "version": it.updated_at,
        "type": it.type,
        "command": "[PRIVATE DATA HIDDEN IN LISTS]",
        "user": "vcap",
        "instances": it.instances,
        "memory_in_mb": it.memory_in_mb,
        "disk_in_mb": it.disk_in_mb,
        "log_rate_limit_in_bytes_per_second": -1,
        "health_check": {"type": "port", "data": {"timeout": None, "invocation_timeout": None, "interval": None}},
        "readiness_health_check": {"type": "process", "data": {"invocation_timeout": None, "interval": None}},
        "relationships": {"app": _to_one(it.app), "revision": None},
        "metadata": _metadata({}, {}),
        "links": _links(
            url, self=f"processes/{it.guid}", app=f"apps/{it.app}", scale=f"processes/{it.guid}/actions/scale"
        ),
    }


def security_group(url: str, it: SecurityGroup) -> Json:
    return {
        "guid": it.guid,
        "created_at": it.created_at,
        "updated_at": it.updated_at,
        "name": it.name,
        "globally_enabled": {"running": it.running, "staging": it.staging},
        "rules": [dict(rule) for rule in it.rules],
        "relationships": {
            "staging_spaces": _to_many(it.staging_spaces),
            "running_spaces": _to_many(it.running_spaces),
        },
        "links": _links(url, self=f"security_groups/{it.guid}"),
    }


def isolation_segment(url: str, it: IsolationSegment) -> Json:
    return {
        "guid": it.guid,
        "created_at": it.created_at,
        "updated_at": it.updated_at,
        "name": it.name,
        "metadata": _metadata(it.labels, it.annotations),
        "links": _links(
            url,
            self=f"isolation_segments/{it.guid}",
            organizations=f"isolation_segments/{it.guid}/organizations",
        ),
    }


def user(url: str, it: User) -> Json:
    return {
        "guid": it.guid,
        "created_at": it.created_at,
        "updated_at": it.updated_at,
        "username": it.name,
        "presentation_name": it.name,
        "origin": "uaa",
        "metadata": _metadata({}, {}),
        "links": _links(url, self=f"users/{it.guid}"),
    }


def role(url: str, it: Role) -> Json:
    return {
        "guid": it.guid,
        "created_at": it.created_at,
        "updated_at": it.updated_at,
        "type": it.type,
        "relationships": {
            "user": _to_one(it.user),
            "organization": _to_one(it.org),
            "space": _to_one(it.space),
        },
        "links": _links(url, self=f"roles/{it.guid}", user=f"users/{it.user}"),
    }


WRITERS: Mapping[type, Callable[[str, Any], Json]] = {
    Org: org,
    Space: space,
    App: app,
    Process: process,
    SecurityGroup: security_group,
    IsolationSegment: isolation_segment,
    User: user,
    Role: role,
}


@dataclass(slots=True)
class Written:
    """Frozen things don't change, so what was written for one can be sent again: pages of thousands are a join."""

    url: str
    _kept: dict[tuple[type, str], tuple[object, bytes]] = field(default_factory=dict)

    def of(self, thing: Any) -> orjson.Fragment:
        kind = type(thing)
        kept = self._kept.get((kind, thing.guid))
        if kept is None or kept[0] is not thing:
            if len(self._kept) > 200_000:
                self._kept.clear()
            kept = self._kept[kind, thing.guid] = (thing, orjson.dumps(WRITERS[kind](self.url, thing)))
        return orjson.Fragment(kept[1])
