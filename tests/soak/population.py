"""Who is there, and what do the foundation and the intent file say now? The soak's own reading of the simulator."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cfbridge.demo.box import Box
from cfbridge.demo.installation import VM_ADDRESS, VM_DEVICE, VM_NAME
from cfbridge.simulator import lab, runs
from cfbridge.simulator.garden import Container
from egress.values import QualifiedId, qualify
from policy_sync.model import Asg, CfPolicy, GardenRule, Kind, Lifecycle, Protocol, Workload
from tests.soak.truth import End, Names, Orders, Truth, Way

FOUNDATION = "cf"
MACHINE_ORG = "acme"


@dataclass
class Population:
    box: Box
    truth: Truth
    vm: Workload
    modes: dict[str, str] = field(default_factory=dict)
    """Org → mode, as the intent file says it."""
    orders: Orders = field(default_factory=Orders)
    _ends: dict[str, End] = field(default_factory=dict)

    # ---- what was asked for

    def note(self) -> None:
        """Whatever changed in the simulated foundation counts from now on."""
        state = self.box.foundation.state
        policies: dict[tuple[QualifiedId, QualifiedId], tuple[CfPolicy, ...]] = {}
        for row in state.policies.rows():
            pair = _id(row.key.source), _id(row.key.destination)
            policy = CfPolicy(*pair, Protocol(row.key.protocol), row.key.start, row.key.end)
            policies[pair] = (*policies.get(pair, ()), policy)
        self.truth.note("policies", policies)
        groups = tuple(
            Asg(
                id=_id(group.guid),
                name=group.name,
                rules=tuple(_entry(rule) for rule in group.rules),
                running_default=group.running,
                staging_default=group.staging,
                running_spaces=frozenset(map(_id, group.running_spaces)),
                staging_spaces=frozenset(map(_id, group.staging_spaces)),
            )
            for group in state.security_groups.values()
        )
        self.truth.note("groups", groups)
        ids = {f"org:{org.name}": _id(org.guid) for org in state.orgs.values()}
        for space in state.spaces.values():
            ids[f"space:{state.orgs[space.org].name}/{space.name}"] = _id(space.guid)
        for app in state.apps.values():
            space = state.spaces[app.space]
            ids[f"app:{state.orgs[space.org].name}/{space.name}/{app.name}"] = _id(app.guid)
        self.truth.note("names", Names(ids))

    def write(self, orders: Orders | None = None, **modes: str) -> None:
        """The intent file, as people edit it."""
        self.modes |= modes
        self.orders = self.orders if orders is None else orders
        self.box.intent = intent(self.modes, self.orders)
        self.box.add_rules("")
        self.truth.note("orders", self.orders)

    # ---- who is there

    def containers(self) -> Iterator[Container]:
        """Those that have their network."""
        for container in self.box.diego.guardian.containers.values():
            if container.address and container.init is not None:
                yield container

    def ends(self) -> list[End]:
        known, self._ends = self._ends, {}
        for container in self.containers():
            self._ends[container.handle] = known.get(container.handle) or _end(container)
        return [*self._ends.values()]

    def serving(self) -> dict[str, End]:
        """By handle: those whose process listens."""
        there = {end.workload.id: end for end in self.ends() if end.workload is not None}
        running = {instance.handle for instance in self.box.diego.running()}
        return {handle: there[of] for handle in running if (of := f"{FOUNDATION}:{handle}") in there}

    def host(self, label: str, address: str) -> End:
        return End(address, str(runs.NETNS / f"{runs.PREFIX}{self.box.lab.run_id}-{label}"))

    def machine(self) -> End:
        return End(VM_ADDRESS, self.host("vm1", "").netns, self.vm)

    def outside(self) -> End:
        return self.host("ext", lab.EXT)

    def gone(self, netns: str) -> bool:
        """A container's namespace whose container is over."""
        return netns.startswith("/proc/") and all(
            container.init is None or container.netns != netns
            for container in self.box.diego.guardian.containers.values()
        )

    def stands(self, way: Way) -> bool:
        """Both ends live, and are not being ended."""
        return all(self._lives(end) for end in (way.source, way.destination))

    def _lives(self, end: End) -> bool:
        if not end.netns.startswith("/proc/"):
            return True
        for container in self.containers():
            if container.address == end.address:
                init = container.init
                return init is not None and container.netns == end.netns and init.poll() is None
        return False


def machine(org: str) -> Workload:
    return Workload(f"vm:{VM_NAME}", Kind.VM, (VM_ADDRESS,), org=_id(org), name=VM_NAME)


def intent(modes: Mapping[str, str], orders: Orders) -> str:
    tiers: dict[str, dict[str, list[dict[str, str]]]] = {}
    for order in orders.rules:
        tiers.setdefault(order.tier.name.lower(), {}).setdefault("soak", []).append(order.written())
    written = {
        "tenants": {org: {"mode": mode} for org, mode in modes.items()},
        "vms": {VM_NAME: {"org": MACHINE_ORG, "addresses": [VM_ADDRESS], "port": VM_DEVICE}},
        "groups": {name: [*members] for name, members in orders.groups},
        "rules": tiers,
    }
    return json.dumps(written)


def _id(guid: str) -> QualifiedId:
    return qualify(FOUNDATION, guid)


def _end(container: Container) -> End:
    said = container.spec.properties
    if "network.org_id" not in said:
        return End(container.address, container.netns, isolated=True)
    tags = json.loads(said["log_config"])["tags"]
    workload = Workload(
        id=f"{FOUNDATION}:{container.handle}",
        kind=Kind.CONTAINER,
        addresses=(container.address,),
        org=_id(said["network.org_id"]),
        space=_id(said["network.space_id"]),
        app=_id(said["network.app_id"]),
        lifecycle=Lifecycle(said["network.container_workload"]),
        name=f"{tags['app_name']}/{tags.get('instance_id') or said['network.container_workload']}",
    )
    return End(container.address, container.netns, workload)


def _entry(rule: Mapping[str, object]) -> GardenRule:
    """Of the kinds that this soak makes: one prefix, one range of ports, any ICMP."""
    network = ipaddress.ip_network(str(rule["destination"]))
    span = (network[0].packed, network[-1].packed)
    ports: tuple[tuple[int, int], ...] = ()
    if "ports" in rule:
        first, _, last = str(rule["ports"]).partition("-")
        ports = ((int(first), int(last or first)),)
    return GardenRule(Protocol(str(rule["protocol"])), (span,), ports)
