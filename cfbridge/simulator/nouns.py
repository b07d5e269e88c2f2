"""Which things does a simulated Cloud Controller know? Orgs, spaces, apps, processes, security groups, users, roles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Rule = Mapping[str, str | int | bool]
"""One rule of a security group, with the keys that the caller gave and no others."""


@dataclass(frozen=True, slots=True)
class Org:
    guid: str
    name: str
    created_at: str
    updated_at: str
    suspended: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Space:
    guid: str
    name: str
    org: str
    created_at: str
    updated_at: str
    isolation_segment: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class App:
    guid: str
    name: str
    space: str
    created_at: str
    updated_at: str
    state: str = "STARTED"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Process:
    guid: str
    app: str
    created_at: str
    updated_at: str
    type: str = "web"
    instances: int = 1
    memory_in_mb: int = 256
    disk_in_mb: int = 1024


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    guid: str
    name: str
    created_at: str
    updated_at: str
    rules: tuple[Rule, ...] = ()
    running: bool = False
    staging: bool = False
    """Globally enabled for that lifecycle."""
    running_spaces: tuple[str, ...] = ()
    staging_spaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IsolationSegment:
    guid: str
    name: str
    created_at: str
    updated_at: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    orgs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class User:
    guid: str
    name: str
    password: str
    scopes: tuple[str, ...]
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class Client:
    id: str
    secret: str
    authorities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Role:
    guid: str
    type: str
    user: str
    created_at: str
    updated_at: str
    org: str = ""
    space: str = ""
    """A role is in an org or in a space; the other one is empty."""


@dataclass(frozen=True, slots=True)
class DesiredApp:
    """What Diego would be told about one process: how many instances of whose app are wanted."""

    process_guid: str
    process_type: str
    app_guid: str
    app_name: str
    space_guid: str
    space_name: str
    org_guid: str
    org_name: str
    instances: int
    """0 = stopped, scaled to nothing or deleted."""


@dataclass(frozen=True, slots=True)
class Fault:
    """How a server misbehaves. `after` requests are still answered well, then `times` (0 = all) are not."""

    mode: str
    status: int = 503
    seconds: float = 0.0
    path: str = ""
    """Only requests whose path contains this."""
    after: int = 0
    times: int = 0


FAULT_MODES: Mapping[str, str] = {
    "error": "--status, 503 where none is given",
    "limited": "429, with --seconds as Retry-After",
    "unauthorized": "401, whatever the token or the secret",
    "slow": "the honest answer, --seconds late",
    "drip": "the honest answer, one byte every --seconds",
    "hang": "no answer until the fault is taken back",
    "reset": "the connection is reset",
    "partial": "the connection ends in the middle of the body",
    "truncated": "half of the body, as if it were all of it",
    "short": "a list that lacks a row and still counts it",
    "garbage": "200, with a proxy's error page",
    "blank": "200, without a body",
    "empty": "a complete and well-formed list of nothing",
    "stale": "the numbers of the latest change stay as they are, whatever changes",
}
"""Mode → what the server does."""
SERVICES = ("cloud_controller", "uaa", "policy_server", "policy_server_external", "policy_server_internal")
"""`policy_server` means both of its APIs."""
