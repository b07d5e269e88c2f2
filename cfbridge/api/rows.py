"""What does a snapshot look like as rows? One pure function per resource, each in a stable order."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from cfbridge import claims
from cfbridge.api.naming import Naming, moment
from cfbridge.api.resources import (
    AlarmRow,
    CellRow,
    DraftRow,
    FoundationRow,
    HeldRow,
    LeaseRow,
    LookRow,
    OrgRow,
    PoolRow,
    PortMapping,
    RevisionRow,
    Status,
    WorkloadRow,
)
from cfbridge.api.views import Facade
from cfbridge.snapshot import Snapshot
from egress.model import NetworkMode
from egress.values import QualifiedId, Refused, qualify, unqualify

_NOTHING = Refused("", "")
EXAMPLES = 20


def status(facade: Facade) -> Status:
    """Degraded while anything common is not as it should be, while somebody is refused, or something quarantined."""
    snapshot, alarms = facade.snapshot, facade.alarms
    states = snapshot.inventory.values()
    reasons = [alarm.message for alarm in alarms if alarm.severity == "degraded"]
    for refused in (*snapshot.held.refusals.values(), *(each for state in states for each in state.quarantined)):
        if refused.message not in reasons:
            reasons.append(refused.message)
    warnings = sum(alarm.message not in reasons for alarm in alarms)
    connected = sum(cell.connected for cell in snapshot.cells.values())
    workloads = sum(len(cell.ports) for cell in snapshot.cells.values())
    if reasons:
        line = f"degraded: {reasons[0]}" + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else "")
    else:
        line = f"ok: {_count(workloads, 'workload')} on {_count(connected, 'cell')}, revision {snapshot.revision}"
        line += f", {_count(warnings, 'warning')}" if warnings else ""
    return Status(
        verdict="degraded" if reasons else "ok",
        line=line,
        reasons=tuple(reasons),
        alarms=tuple(AlarmRow(alarm.severity, alarm.code, alarm.message) for alarm in alarms),
        revision=snapshot.revision,
        started_at=datetime.fromtimestamp(facade.started_at, UTC),
        foundations=len(snapshot.inventory),
        cells=len(snapshot.cells),
        cells_connected=connected,
        orgs=sum(len(state.orgs) for state in states),
        workloads=workloads + len(snapshot.intent.vms),
        policies=sum(len(state.policies) for state in states),
        asgs=sum(len(state.asgs) for state in states),
        rules=len(facade.ruleset.labels),
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def foundations(facade: Facade) -> Sequence[FoundationRow]:
    return [
        FoundationRow(
            id=state.name,
            name=state.name,
            ready=state.ready,
            stale=any(look.stale_since is not None for look in state.looks.values()),
            orgs=len(state.orgs),
            spaces=len(state.spaces),
            apps=len(state.apps),
            policies=len(state.policies),
            asgs=len(state.asgs),
            quarantined=tuple(f"{each.message} ({each.code})" for each in state.quarantined),
            looks=tuple(
                LookRow(kind, moment(look.complete_at), moment(look.stale_since), look.error)
                for kind, look in sorted(state.looks.items())
            ),
        )
        for _, state in sorted(facade.snapshot.inventory.items())
    ]


def held(facade: Facade) -> Sequence[HeldRow]:
    """What answers withdrew, too much to be believed at once."""
    named = Naming(facade.snapshot)
    return [
        HeldRow(
            id=f"{state.name}:{held.kind}",
            foundation=state.name,
            kind=held.kind,
            count=len(held.objects),
            known=held.known,
            since=datetime.fromtimestamp(held.since, UTC),
            until=moment(held.until),
            looks=held.looks,
            looks_needed=held.looks_needed,
            discarded=len(held.discarded),
            examples=tuple(heapq.nsmallest(EXAMPLES, (named.held(held.kind, each) for each in held.objects))),
        )
        for _, state in sorted(facade.snapshot.inventory.items())
        for held in state.held
    ]


def cells(facade: Facade) -> Sequence[CellRow]:
    return [
        CellRow(
            id=cell.name,
            name=cell.name,
            foundation=cell.foundation,
            connected=cell.connected,
            addresses=cell.addresses,
            workloads=len(cell.ports),
            reached_revision=cell.reached,
            heard_at=moment(cell.heard_at),
            drifts=cell.drifts,
            last_drift=cell.last_drift,
        )
        for _, cell in sorted(facade.snapshot.cells.items())
    ]


def orgs(facade: Facade) -> Sequence[OrgRow]:
    """Every org that a foundation, a container or a holding names."""
    snapshot = facade.snapshot
    named, held = Naming(snapshot), snapshot.held
    modes = {wish.org: wish.mode for wish in snapshot.intent.tenants if wish.org and wish.mode}
    suspended = {org.id: org.suspended for state in snapshot.inventory.values() for org in state.orgs.values()}
    workloads = Counter(
        qualify(cell.foundation, port.org)
        for cell in snapshot.cells.values()
        for port in cell.ports.values()
        if port.org
    )
    subnets: dict[QualifiedId, list[tuple[int, str]]] = {}
    for network in held.org_networks:
        subnets.setdefault(network.org, []).append((network.position, network.prefix))
    taken = {each.address for mine in held.snat_addresses.values() for each in mine}
    own = [address for cell in snapshot.cells.values() for address in cell.addresses if address not in taken]
    rows = []
    for org in {*suspended, *workloads, *subnets, *held.snat_addresses}:
        refused = held.refusals.get(org, _NOTHING)
        mode = modes.get(org, snapshot.defaults.mode)
        mine = tuple(prefix for _, prefix in sorted(subnets.get(org, [])))
        leaves_by = tuple(each.address for each in held.snat_addresses.get(org, ()))
        rows.append(
            OrgRow(
                id=org,
                name=named.org(org),
                foundation=unqualify(org)[0],
                mode=str(mode),
                suspended=suspended.get(org, False),
                subnets=mine,
                snat_addresses=leaves_by,
                no_way_out=_stuck(mode, mine, leaves_by, own),
                workloads=workloads[org],
                refusal_code=refused.code,
                refusal=refused.message,
            )
        )
    return sorted(rows, key=lambda row: (row.name, row.id))


def _stuck(
    mode: NetworkMode, subnets: Sequence[str], leaves_by: Sequence[str], cells: Sequence[str]
) -> tuple[str, ...]:
    """Subnets without an address of their family to leave by: the org's own ones, or their cell's."""
    if mode is NetworkMode.ROUTED:
        return ()
    ways = {":" in address for address in (leaves_by if mode is NetworkMode.NAT else cells)}
    return tuple(prefix for prefix in subnets if (":" in prefix) not in ways)


def pools(facade: Facade) -> Sequence[PoolRow]:
    return [
        PoolRow(
            id=pool.name,
            name=pool.name,
            kind=str(pool.kind),
            prefixes=pool.prefixes,
            org_prefix_length=pool.org_prefix_length,
            routable=pool.routable,
            held_share=round(facade.snapshot.held.pool_use.get(pool.name, 0.0), 4),
        )
        for pool in sorted(facade.snapshot.pools, key=lambda pool: pool.name)
    ]


def leases(facade: Facade) -> Sequence[LeaseRow]:
    named = Naming(facade.snapshot)
    rows = [
        LeaseRow(
            id=lease.address,
            address=lease.address,
            workload=named.workload(lease.workload),
            workload_id=lease.workload,
            org=named.org(lease.org),
            org_id=lease.org,
            cell=lease.cell,
        )
        for held in facade.snapshot.held.leases.values()
        for lease in held
    ]
    return sorted(rows, key=lambda row: (row.org, row.workload, row.address))


def workloads(facade: Facade) -> Sequence[WorkloadRow]:
    snapshot = facade.snapshot
    named = Naming(snapshot)
    rows = [*_containers(snapshot, named)]
    for vm in snapshot.intent.vms:
        foundation = unqualify(vm.org)[0] if ":" in vm.org else ""
        rows.append(
            WorkloadRow(
                id=f"vm:{vm.name}",
                name=vm.name,
                kind="vm",
                lifecycle="",
                addresses=vm.addresses,
                cell=vm.cell,
                foundation=foundation,
                org=named.org(vm.org) if foundation else "",
                space="",
                app="",
                instance=None,
                mapped_ports=(),
                org_id=vm.org if foundation else "",
                space_id="",
                app_id="",
                refusal_code="",
                refusal="",
            )
        )
    return sorted(rows, key=lambda row: (row.kind, row.name, row.id))


def _containers(snapshot: Snapshot, named: Naming) -> Sequence[WorkloadRow]:
    rows = []
    for cell in snapshot.cells.values():
        for workload, port in cell.ports.items():
            org, space, app = (
                str(qualify(cell.foundation, guid)) if guid else "" for guid in (port.org, port.space, port.app)
            )
            names = named.app(QualifiedId(app)) if app else (named.org(org), "", "")
            untrue = claims.contradiction(port, snapshot.inventory[cell.foundation])
            refused = untrue or snapshot.held.refusals.get(workload, _NOTHING)
            held = tuple(lease.address for lease in snapshot.held.leases.get(workload, ()))
            rows.append(
                WorkloadRow(
                    id=workload,
                    name=named.workload(workload),
                    kind="container",
                    lifecycle=port.lifecycle,
                    addresses=held or port.addresses,
                    cell=cell.name,
                    foundation=cell.foundation,
                    org=names[0],
                    space=names[1],
                    app=names[2],
                    instance=port.instance_index if port.instance_index >= 0 else None,
                    mapped_ports=tuple(PortMapping(p.host_port, p.container_port) for p in port.mapped_ports),
                    org_id=org,
                    space_id=space,
                    app_id=app,
                    refusal_code=refused.code,
                    refusal=refused.message,
                )
            )
    return rows


def revisions(facade: Facade) -> Sequence[RevisionRow]:
    return [
        RevisionRow(
            id=str(each.number),
            published_at=datetime.fromtimestamp(each.at, UTC),
            author=each.author,
            reason=each.reason,
            summary=each.summary,
            in_force=each is facade.history[0],
        )
        for each in facade.history
    ]


def drafts(facade: Facade) -> Sequence[DraftRow]:
    return [
        DraftRow(
            id=draft.name,
            author=draft.author,
            changed_at=datetime.fromtimestamp(draft.at, UTC),
            edits=tuple(f"{edit.verb} {edit.kind} {edit.name}" for edit in draft.edits),
        )
        for draft in facade.drafted.values()
    ]
