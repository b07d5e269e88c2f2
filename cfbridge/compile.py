"""What network does a snapshot ask for? Introduces the two thinkers to each other; pure.

Snapshot ─> World ─> Ruleset  ┐
    └─────> ports, orgs ─> Topology ┴─> LogicalNetwork
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cfbridge import claims, identity
from cfbridge.inventory import App, FoundationState, Org, Space
from cfbridge.settings import FirewallConfig
from cfbridge.snapshot import CellState, Snapshot
from egress import topology
from egress.model import OrgNetwork, Pool
from egress.topology import Port, PortKind
from egress.values import QualifiedId, Refused, qualify, unqualify
from garden_plugin.dataplane.base import LogicalNetwork
from garden_plugin.wire import NetOut, PortReport
from policy_sync import compiler, translate
from policy_sync.model import CfPolicy, GardenRule, Kind, Lifecycle, Rule, Workload, World


@dataclass(frozen=True, slots=True)
class Compiled:
    """The network, the world that it was compiled from, and what could not be compiled."""

    network: LogicalNetwork = field(default_factory=LogicalNetwork)
    world: World = field(default_factory=World)
    quarantined: tuple[Refused, ...] = ()
    untrue: tuple[Refused, ...] = ()
    """What containers say of themselves, and Cloud Controller knows otherwise: they are shut off."""


_MadeOf = tuple[object, ...]
UNDERSTOOD_AT_MOST = 20_000
"""Rules of Garden that are remembered; containers come and go for months."""


class Compiler:
    """Compiles snapshots; parts of the network that did not change since the last one are the same objects again."""

    def __init__(self, firewall: FirewallConfig, pools: Sequence[Pool]) -> None:
        self._firewall, self._pools = firewall, tuple(pools)
        self._held: Sequence[OrgNetwork] = ()
        self._container_pools = topology.container_prefixes(pools, ())
        self._platform_rules = _platform_rules(firewall, self._container_pools)
        self._garden: dict[NetOut, GardenRule | Refused] = {}
        self._memo = compiler.Memo()
        self._settled: World | None = None
        """The last one compiled: all its keys have their ids."""
        self._workloads: dict[str, tuple[_MadeOf, Workload, Refused | None]] = {}

    def missing_ids(self, snapshot: Snapshot) -> frozenset[str]:
        """Rule keys that need an id from the store before `compile` may be called."""
        known = snapshot.held.rule_ids
        return frozenset(key for key in compiler.rule_keys(self.world(snapshot), self._settled) if key not in known)

    def compile(self, snapshot: Snapshot, now: float) -> Compiled:
        """`now`: seconds since the epoch, for what expires."""
        world = self.world(snapshot)
        rules, quarantined = compiler.compile_ruleset(world, snapshot.held.rule_ids, now, self._memo)
        if not any(refused.code == "RULE_WITHOUT_ID" for refused in quarantined):
            self._settled = world
        untrue = tuple(refused for _, _, refused in self._workloads.values() if refused is not None)
        return Compiled(LogicalNetwork(snapshot.revision, _topology(snapshot), rules), world, quarantined, untrue)

    def world(self, snapshot: Snapshot) -> World:
        """Everything that the firewall's meaning depends on."""
        states = snapshot.inventory.values()
        self._know_pools(snapshot.held.org_networks)
        tags = identity.by_subject(snapshot.intent.tags)
        containers = tuple(self._containers(snapshot, tags))
        shut_off = translate.shut_off(name for name, (*_, refused) in self._workloads.items() if refused is not None)
        return World(
            workloads=(*containers, *_vms(snapshot, tags)),
            groups=snapshot.intent.groups,
            # People's rules come first in each tier, so that what the platform says by default can be overridden.
            rules=(*snapshot.intent.rules, *shut_off, *self._platform_rules),
            policies=_policies(snapshot),
            asgs=tuple(asg for state in states for asg in (*state.asgs.values(), *state.lingering_asgs)),
            asgs_known=frozenset(state.name for state in states if state.ready),
            container_pools=self._container_pools,
            cell_addresses=tuple(address for cell in snapshot.cells.values() for address in cell.addresses),
        )

    def _know_pools(self, held: Sequence[OrgNetwork]) -> None:
        if held is self._held:
            return
        self._held = held
        prefixes = topology.container_prefixes(self._pools, sorted(network.prefix for network in held))
        if prefixes != self._container_pools:
            self._container_pools = prefixes
            self._platform_rules = _platform_rules(self._firewall, prefixes)

    def _containers(self, snapshot: Snapshot, tags: identity.Tags) -> Iterator[Workload]:
        """Who did not change is the same object again, so that whole worlds are compared at no cost."""
        before, self._workloads = self._workloads, {}
        tagged = snapshot.intent.tags
        for cell in snapshot.cells.values():
            state = snapshot.inventory[cell.foundation]
            for workload, port in cell.ports.items():
                leases = snapshot.held.leases.get(workload, ())
                if not leases:
                    continue
                made_of: _MadeOf = (port, leases, cell.name, state.orgs, state.spaces, state.apps, tagged)
                kept = before.get(workload)
                if kept is None or any(was is not now for was, now in zip(kept[0], made_of, strict=True)):
                    addresses = tuple(lease.address for lease in leases)
                    refused = claims.contradiction(port, state)
                    as_it_says = port if refused is None else PortReport(port.handle)
                    kept = made_of, self._container(workload, as_it_says, cell, state, addresses, tags), refused
                self._workloads[workload] = kept
                yield kept[1]

    def _container(
        self,
        workload: str,
        port: PortReport,
        cell: CellState,
        state: FoundationState,
        addresses: tuple[str, ...],
        tags: identity.Tags,
    ) -> Workload:
        def qualified(guid: str) -> QualifiedId | None:
            return qualify(cell.foundation, guid) if guid else None

        return Workload(
            id=workload,
            kind=Kind.CONTAINER,
            addresses=addresses,
            cell=cell.name,
            org=qualified(port.org),
            space=qualified(port.space),
            app=qualified(port.app),
            lifecycle=Lifecycle(port.lifecycle) if port.lifecycle in _LIFECYCLES else Lifecycle.NONE,
            name=_name(port, cell.foundation, state),
            attributes=identity.of_container(port, cell.name, state, tags),
            garden_rules=self._garden_rules(port.net_out),
            net_out=self._garden_rules(port.added_net_out),
        )

    def _garden_rules(self, rules: tuple[NetOut, ...]) -> tuple[GardenRule, ...]:
        """Containers of one space carry the same rules: each distinct one is understood once."""
        understood = []
        for rule in rules:
            meaning = self._garden.get(rule)
            if meaning is None:
                if len(self._garden) >= UNDERSTOOD_AT_MOST:
                    self._garden.clear()
                meaning = self._garden[rule] = translate.garden_rule(
                    rule.protocol, rule.networks, rule.ports, rule.icmp_type, rule.icmp_code, rule.log
                )
            if isinstance(meaning, GardenRule):
                understood.append(meaning)
        return tuple(understood)


def _platform_rules(knobs: FirewallConfig, container_pools: tuple[str, ...]) -> tuple[Rule, ...]:
    return (
        *translate.system_rules(
            dns_listeners=knobs.dns_listeners,
            host_tcp_services=knobs.host_tcp_services,
            host_udp_services=knobs.host_udp_services,
            metadata_addresses=knobs.metadata_addresses,
            deny_always=knobs.deny_networks_always,
            deny_running=knobs.deny_networks_running,
            deny_staging=knobs.deny_networks_staging,
            container_pools=container_pools,
            disable_container_network_policy=knobs.disable_container_network_policy,
        ),
        *translate.baseline_rules(),
    )


_LIFECYCLES = frozenset(Lifecycle)


def _name(port: PortReport, foundation: str, state: FoundationState) -> str:
    """`acme/dev/frontend/0`: Cloud Controller's names where known (they follow renames), else Garden's."""
    app: App | None = state.apps.get(qualify(foundation, port.app))
    space: Space | None = state.spaces.get(qualify(foundation, port.space))
    org: Org | None = state.orgs.get(qualify(foundation, port.org))
    parts = (
        org.name if org else port.org_name or port.org,
        space.name if space else port.space_name or port.space,
        app.name if app else port.app_name or port.app,
    )
    index = str(port.instance_index) if port.instance_index >= 0 else port.handle
    return "/".join((*parts, index))


def _vms(snapshot: Snapshot, tags: identity.Tags) -> Iterator[Workload]:
    for vm in snapshot.intent.vms:
        yield Workload(
            id=f"vm:{vm.name}",
            kind=Kind.VM,
            addresses=vm.addresses,
            cell=vm.cell,
            org=QualifiedId(vm.org) if vm.org else None,
            name=vm.name,
            protected=bool(vm.port),
            attributes=identity.of_vm(vm, snapshot.inventory.get(unqualify(vm.org)[0]), tags),
        )


def _policies(snapshot: Snapshot) -> frozenset[CfPolicy]:
    """All foundations'. With one, its own set as it is, so that caches by identity hold."""
    states = [*snapshot.inventory.values()]
    if len(states) == 1:
        return states[0].policies
    return frozenset().union(*(state.policies for state in states))


def _ports(snapshot: Snapshot) -> dict[str, Port]:
    """By workload id: every container with a lease, and every VM whose host device we were told."""
    ports: dict[str, Port] = {}
    for cell in snapshot.cells.values():
        for workload, report in cell.ports.items():
            leases = snapshot.held.leases.get(workload, ())
            if leases:
                ports[workload] = Port(
                    id=workload,
                    kind=PortKind.CONTAINER,
                    cell=cell.name,
                    addresses=tuple(lease.address for lease in leases),
                    org=leases[0].org,
                    handle=report.handle,
                )
    only = next(iter(snapshot.cells), "")
    for vm in snapshot.intent.vms:
        if vm.port:
            identity = f"vm:{vm.name}"
            held = snapshot.held.leases.get(identity, ())
            org = held[0].org if held else None
            ports[identity] = Port(identity, PortKind.VM, vm.cell or only, vm.addresses, org, device=vm.port)
    return ports


def _topology(snapshot: Snapshot) -> topology.Topology:
    return topology.compile_topology(
        snapshot.pools,
        (wish for wish in snapshot.intent.tenants if wish.org),
        snapshot.held.org_networks,
        _ports(snapshot).values(),
        snapshot.held.snat_addresses,
        snapshot.defaults,
    )
