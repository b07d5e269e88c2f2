"""Which nouns does the API show? One flat row per thing: names first, ids beside them, units in names.

`id` is what `/{resource}/{id}` takes and what stays when a name changes. A name is never a bare GUID: what no
foundation has named yet bears the name that its container reported, or says that it is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, slots=True)
class AlarmRow:
    severity: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Status:
    verdict: Literal["ok", "degraded"]
    line: str
    """The verdict in one line, for people."""
    reasons: tuple[str, ...]
    """Why it is degraded; empty when ok."""
    alarms: tuple[AlarmRow, ...]
    revision: int
    started_at: datetime
    foundations: int
    cells: int
    cells_connected: int
    orgs: int
    workloads: int
    policies: int
    asgs: int
    rules: int


@dataclass(frozen=True, slots=True)
class LookRow:
    kind: str
    complete_at: datetime | None
    stale_since: datetime | None
    error: str


@dataclass(frozen=True, slots=True)
class FoundationRow:
    id: str
    name: str
    ready: bool
    stale: bool
    orgs: int
    spaces: int
    apps: int
    policies: int
    asgs: int
    quarantined: tuple[str, ...]
    looks: tuple[LookRow, ...]


@dataclass(frozen=True, slots=True)
class HeldRow:
    id: str
    """`cf:policies`"""
    foundation: str
    kind: str
    count: int
    """So many objects are gone or less in the foundation's answers, and stay in force."""
    known: int
    since: datetime
    until: datetime | None
    """Not before; null while a person discarded the answer."""
    looks: int
    looks_needed: int
    """Complete looks without them, so far and at least."""
    discarded: int
    examples: tuple[str, ...]
    """Some of them."""


@dataclass(frozen=True, slots=True)
class CellRow:
    id: str
    name: str
    foundation: str
    connected: bool
    addresses: tuple[str, ...]
    workloads: int
    reached_revision: int
    heard_at: datetime | None
    drifts: int
    last_drift: str


@dataclass(frozen=True, slots=True)
class Removed:
    id: str


@dataclass(frozen=True, slots=True)
class Decided:
    """What a person said about something that was held."""

    id: str
    verdict: Literal["apply", "discard"]
    count: int
    """So many objects were held."""


@dataclass(frozen=True, slots=True)
class OrgRow:
    id: str
    name: str
    foundation: str
    mode: str
    suspended: bool
    subnets: tuple[str, ...]
    snat_addresses: tuple[str, ...]
    no_way_out: tuple[str, ...]
    """Subnets from which nothing leaves the cell: there is no address of their family to leave by."""
    workloads: int
    refusal_code: str
    refusal: str
    """Why the org has no network; empty when it has."""


@dataclass(frozen=True, slots=True)
class PoolRow:
    id: str
    name: str
    kind: str
    prefixes: tuple[str, ...]
    org_prefix_length: int
    routable: bool
    held_share: float
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class LeaseRow:
    id: str
    """The address."""
    address: str
    workload: str
    workload_id: str
    org: str
    org_id: str
    cell: str


@dataclass(frozen=True, slots=True)
class PortMapping:
    host_port: int
    container_port: int


@dataclass(frozen=True, slots=True)
class WorkloadRow:
    id: str
    name: str
    """`acme/dev/frontend/0`, or a VM's name."""
    kind: str
    lifecycle: str
    addresses: tuple[str, ...]
    cell: str
    foundation: str
    org: str
    space: str
    app: str
    instance: int | None
    mapped_ports: tuple[PortMapping, ...]
    org_id: str
    space_id: str
    app_id: str
    refusal_code: str
    refusal: str


@dataclass(frozen=True, slots=True)
class PolicyRow:
    id: str
    foundation: str
    source: str
    """`acme/dev/frontend`."""
    source_org: str
    source_space: str
    source_app: str
    destination: str
    destination_org: str
    destination_space: str
    destination_app: str
    protocol: str
    ports: str
    """`8080` or `8080-8090`."""
    rule: str
    """`R42`; empty before it has a number."""
    source_id: str
    destination_id: str


@dataclass(frozen=True, slots=True)
class AsgRow:
    id: str
    name: str
    foundation: str
    rules: tuple[str, ...]
    running_default: bool
    staging_default: bool
    running_spaces: tuple[str, ...]
    staging_spaces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleRow:
    id: str
    """`R42`, for life."""
    name: str
    tier: str
    section: str
    position: int
    """Within its tier; those that no order binds (policies, ASGs) follow the ordered ones."""
    action: str
    sentence: str
    mode: str
    enabled: bool
    in_force: bool
    log: bool
    expires_at: datetime | None
    reason: str
    owner: str
    provenance: str
    key: str


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """A rule that somebody should look at."""

    id: str
    finding: str
    """`shadowed`, `redundant`, `empty` or `wide`."""
    rule: str
    """`R42`"""
    name: str
    tier: str
    section: str
    sentence: str


@dataclass(frozen=True, slots=True)
class VmRow:
    id: str
    name: str
    addresses: tuple[str, ...]
    org: str
    org_id: str
    port: str
    cell: str
    grade: str
    """`outside`: we own its port; `peer`: a rule is enforced at the other end only."""
    tags: tuple[str, ...]
    """`tier=db`"""


@dataclass(frozen=True, slots=True)
class GroupRow:
    id: str
    name: str
    members: tuple[str, ...]
    """By name; who satisfies the criteria comes to them."""
    criteria: str
    """An expression, as `org = "acme" and not app ~ "*-canary"`; empty where there is none."""
    trust: str
    """Who can change whom it names: `developer`, `space manager`, `org manager` or `admin`."""


@dataclass(frozen=True, slots=True)
class RevisionRow:
    id: str
    """Its number."""
    published_at: datetime
    author: str
    reason: str
    summary: str
    """`2 to add, 1 to remove`"""
    in_force: bool


@dataclass(frozen=True, slots=True)
class DraftRow:
    id: str
    """Its name."""
    author: str
    """Of the last edit."""
    changed_at: datetime
    edits: tuple[str, ...]
    """`change rule quarantine`"""


@dataclass(frozen=True, slots=True)
class AuditRow:
    id: str
    at: datetime
    author: str
    origin: str
    """From where: `local`, or an address."""
    action: str
    """`PUT /intent`"""
    target: str
    status: int
    """As HTTP has it: 200 where it was done."""
    revision: int | None
    """That was published."""
    detail: str
    """What changed, line by line."""


@dataclass(frozen=True, slots=True)
class AuditPage:
    items: tuple[AuditRow, ...]
    next: str | None
    """Cursor for `after`; null on the last page."""


@dataclass(frozen=True, slots=True)
class IntentText:
    revision: int
    """0 before anything was published."""
    scope: str
    """Empty: the whole."""
    content: str
    """A policy file, YAML."""


@dataclass(frozen=True, slots=True)
class ChangeRow:
    deed: str
    """`add`, `change`, `move` or `remove`."""
    kind: str
    """`group`, `rule`, `tenant`, `vm` or `tags`."""
    name: str
    scope: str
    details: tuple[str, ...]
    """`services: tcp/80 → tcp/81`"""


@dataclass(frozen=True, slots=True)
class Planned:
    """What a policy file would change, or changed."""

    revision: int
    """That it was compared with; of what was published, the new one. The same as before where nothing changed."""
    summary: str
    changes: tuple[ChangeRow, ...]


@dataclass(frozen=True, slots=True)
class DecidedBy:
    rule: str
    """`R42`; empty: nobody said anything."""
    name: str
    tier: str
    section: str
    sentence: str
    owner: str
    provenance: str


@dataclass(frozen=True, slots=True)
class WouldAllow:
    command: str
    """To be run as it is; empty where no command of `cf` would do."""
    by_whom: str


@dataclass(frozen=True, slots=True)
class Otherwise:
    """A pair of addresses that is judged otherwise than what is told, or by another rule."""

    source: str
    destination: str
    verdict: str
    rule: str


@dataclass(frozen=True, slots=True)
class Explained:
    verdict: str
    """`allow`, `drop` or `reject`; of several pairs of instances a refused one is told."""
    sentence: str
    source: str
    destination: str
    protocol: str
    port: int
    """0 for icmp."""
    decided_by: DecidedBy
    enforced_at: str
    """Whose port; `nowhere` where neither end has one of ours."""
    grade: str
    """`outside`: at the end that it is meant to be; `peer`: the destination has no port of ours; `none`."""
    path: tuple[str, ...]
    would_allow: WouldAllow | None
    otherwise: tuple[Otherwise, ...]
    assumed: tuple[str, ...]
    """Apps of which no instance runs: they are judged as one that would."""
    evaluated_at_revision: int
