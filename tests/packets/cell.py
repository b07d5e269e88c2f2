"""What does a test need to put a firewalled cell together? A world in words, compiled and driven into a lab's cell."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest_asyncio

from cfbridge.simulator.lab import CELL, CELL6, UPLINK, Lab
from cfbridge.simulator.probe import Probe
from egress.model import NetworkMode
from egress.topology import Port, PortKind, Router, Segment, SourceNat, Topology
from egress.values import QualifiedId, parse_range, qualify
from garden_plugin.cell.netlink import inside
from garden_plugin.cell.nft import Nft
from garden_plugin.dataplane.base import LogicalNetwork
from garden_plugin.dataplane.cell import LocalPort, LocalState, device_name
from garden_plugin.dataplane.linux.conntrack import Conntrack
from garden_plugin.dataplane.linux.driver import LinuxDataplane
from garden_plugin.settings import AgentConfig
from garden_plugin.wire import MappedPort, merge, span
from policy_sync import translate
from policy_sync.compiler import Memo, compile_ruleset, rule_keys
from policy_sync.model import (
    ANY,
    Action,
    Asg,
    CfPolicy,
    GardenRule,
    Kind,
    Lifecycle,
    Mode,
    Protocol,
    Rule,
    Selector,
    SelectorKind,
    Service,
    Tier,
    Workload,
    World,
)

POOLS = ("10.240.0.0/16", "2001:db8:f::/48")
TCP = Protocol.TCP
T = TypeVar("T")


def tcp(*ports: int) -> tuple[Service, ...]:
    return (Service(Protocol.TCP, tuple((port, port) for port in ports)),)


def at(*written: str) -> tuple[Selector, ...]:
    """Addresses, prefixes or ranges as an end of a rule."""
    return tuple(Selector(SelectorKind.RANGE, each) for each in written)


class Cell:
    """One cell with the linux dataplane, and the world it is told."""

    def __init__(self, lab: Lab, state_dir: str = "") -> None:
        self.lab = lab
        self._state_dir = state_dir
        self.world = World(rules=translate.baseline_rules(), container_pools=POOLS, asgs_known=frozenset({"cf"}))
        self.topology = Topology(pools=POOLS)
        self.local = LocalState("cell", CELL, (UPLINK,), host_address6=CELL6)
        self._ids: dict[str, int] = {}
        self._memo = Memo()
        self._held: LogicalNetwork | None = None
        self._descriptor = os.open(lab.cell.path, os.O_RDONLY | os.O_CLOEXEC)
        self.drifts: list[str] = []
        self.dataplane = self._new()

    def _new(self) -> LinuxDataplane:
        config = AgentConfig("cell", "", self._state_dir, "", (UPLINK,), host_address=CELL)
        made = LinuxDataplane(config, self._descriptor)
        made.drifted = self.drifts.append
        return made

    async def restart(self) -> None:
        """The agent dies and comes back: another dataplane finds what the first one left."""
        await self.dataplane.close()
        self.dataplane = self._new()
        await self.dataplane.open()

    def forget_chains(self) -> None:
        """The agent's memory of how it wrote the chains."""
        Path(self._state_dir, "chains").unlink()

    async def reopen(self) -> None:
        """After a close: another dataplane comes, and is told what the first one was told."""
        assert self._held is not None
        self.dataplane = self._new()
        await self.dataplane.open()
        await self.dataplane.converge(self._held, self.local)

    async def close(self) -> None:
        await self.dataplane.close()
        os.close(self._descriptor)

    # --- the world ----------------------------------------------------------------------------------------------------

    def container(self, label: str, *addresses: str, app: str = "", mapped: Iterable[tuple[int, int]] = ()) -> Probe:
        self.lab.namespace(label)
        path = f"/run/netns/cfb-{self.lab.run_id}-{label}"
        name = f"cf:{label}"
        ports = tuple(MappedPort(*each) for each in mapped)
        port = LocalPort(name, label, device_name(label), path, addresses, mapped_ports=ports)
        self.local = replace(self.local, ports={**self.local.ports, name: port})
        org, space = qualify("cf", "org"), qualify("cf", "space")
        workload = Workload(
            name, Kind.CONTAINER, addresses, "cell", org, space, qualify("cf", app or label), Lifecycle.APP, label
        )
        self.world = replace(self.world, workloads=(*self.world.workloads, workload))
        topology_port = Port(name, PortKind.CONTAINER, "cell", addresses, org, label)
        self.topology = replace(self.topology, ports={**self.topology.ports, name: topology_port})
        return self.lab.probe(label)

    def isolate(self, label: str) -> None:
        """A container that the bridge knows nothing of."""
        name = f"cf:{label}"
        port = replace(self.local.ports[name], isolated=True)
        self.local = replace(self.local, ports={**self.local.ports, name: port})
        self.world = replace(self.world, workloads=tuple(w for w in self.world.workloads if w.id != name))
        known = {each: port for each, port in self.topology.ports.items() if each != name}
        self.topology = replace(self.topology, ports=known)

    def vm(self, label: str, address: str, gateway: str, org: str = "", address6: str = "") -> Probe:
        device = f"tap-{label}"
        self.lab.vm(label, device, address, gateway, address6)
        plain = tuple(each.partition("/")[0] for each in (address, address6) if each)
        name = f"vm:{label}"
        self.topology = replace(
            self.topology,
            ports={
                **self.topology.ports,
                name: Port(name, PortKind.VM, "cell", plain, QualifiedId(org) if org else None, device=device),
            },
        )
        self.world = replace(
            self.world, workloads=(*self.world.workloads, Workload(name, Kind.VM, plain, "cell", name=label))
        )
        return self.lab.probe(label)

    def forget_vms(self) -> None:
        containers = {name: port for name, port in self.topology.ports.items() if port.kind is not PortKind.VM}
        self.topology = replace(self.topology, ports=containers)
        self.world = replace(
            self.world, workloads=tuple(each for each in self.world.workloads if each.kind is not Kind.VM)
        )

    def policy(self, source: str, destination: str, port: int, last: int = 0, protocol: Protocol = TCP) -> CfPolicy:
        made = CfPolicy(qualify("cf", source), qualify("cf", destination), protocol, port, last or port)
        self.world = replace(self.world, policies=frozenset({*self.world.policies, made}))
        return made

    def without(self, policy: CfPolicy) -> None:
        self.world = replace(self.world, policies=frozenset(self.world.policies) - {policy})

    def asg(self, name: str, *rules: tuple[str, int]) -> None:
        """Bound to every running container: (destination, tcp port)."""
        said = tuple(GardenRule(TCP, (parse_range(to),), ((port, port),)) for to, port in rules)
        made = Asg(qualify("cf", name), name, said, running_default=True)
        self.world = replace(self.world, asgs=(*self.world.asgs, made))

    def unbind_asgs(self) -> None:
        self.world = replace(self.world, asgs=())

    def rule(
        self,
        name: str,
        tier: Tier,
        action: Action,
        sources: tuple[Selector, ...] = ANY,
        destinations: tuple[Selector, ...] = ANY,
        services: tuple[Service, ...] = (Service(),),
        mode: Mode = Mode.ENFORCE,
        log: bool = False,
    ) -> None:
        """In the place of the rule of that name, or before all others."""
        made = Rule(f"rule:{name}", name, tier, sources, destinations, action, services, mode=mode, log=log)
        rules = [made if rule.key == made.key else rule for rule in self.world.rules]
        self.world = replace(self.world, rules=tuple(rules if made in rules else [made, *rules]))

    def drop_rule(self, name: str) -> None:
        self.world = replace(self.world, rules=tuple(r for r in self.world.rules if r.key != f"rule:{name}"))

    def org(self, prefix: str, mode: NetworkMode, address: str = "") -> None:
        org = QualifiedId("cf:org")
        self.topology = replace(
            self.topology,
            segments={**self.topology.segments, prefix: Segment(prefix, org, "main")},
            routers={org: Router(org, "org", mode)},
        )
        if address or mode is NetworkMode.SHARED or (mode is NetworkMode.NAT and ":" not in prefix):
            nats = {**self.topology.source_nats, prefix: SourceNat(prefix, address, org)}
            self.topology = replace(self.topology, source_nats=nats)

    # --- what is in the kernel ----------------------------------------------------------------------------------------

    def inside(self, label: str, act: Callable[[], T]) -> T:
        """Done where a container or the cell is."""
        with open(f"/run/netns/cfb-{self.lab.run_id}-{label}") as netns:
            return inside(netns.fileno(), act)

    def conntrack(self) -> Conntrack:
        return inside(self._descriptor, Conntrack)

    def generation(self) -> int:
        """Of the ruleset: rises by every change."""
        opened = inside(self._descriptor, Nft)
        try:
            return opened.generation()
        finally:
            opened.close()

    def listing(self) -> str:
        """Our table but for what it counts."""
        return re.sub(r"packets \d+ bytes \d+", "", self.lab.cell.run("nft", "list", "table", "inet", "cfbridge"))

    def routing(self) -> list[str]:
        """Rules, routes, links and the uplink's addresses, in words that don't change by healing."""
        words = ("rule", "-6 rule", "route show table 7712", "-6 route show table 7712", "route", "-6 route")
        said = [self.lab.cell.run("ip", *each.split()) for each in (*words, "-brief address show dev up0")]
        devices = self.lab.cell.run("ip", "-brief", "link").splitlines()
        return [*said, *sorted(" ".join((line.split("@")[0], *line.split()[1:3])) for line in devices)]

    # --- into force ---------------------------------------------------------------------------------------------------

    def id_of(self, key: str) -> int:
        return self._ids[key]

    async def converge(self) -> LogicalNetwork:
        for key in sorted(rule_keys(self.world) - self._ids.keys()):
            self._ids[key] = len(self._ids) + 1
        world = replace(self.world, cell_addresses=await self.dataplane.addresses())
        compiled = compile_ruleset(world, self._ids, memo=self._memo)
        assert not compiled.quarantined, compiled.quarantined
        revision = 1 if self._held is None else self._held.revision + 1
        fresh = LogicalNetwork(revision, self.topology, compiled.ruleset)
        self._held = merge(self._held, span(self._held, fresh))
        await self.dataplane.converge(self._held, self.local)
        return self._held


@pytest_asyncio.fixture
async def cell(lab: Lab) -> AsyncIterator[Cell]:
    made = Cell(lab)
    await made.dataplane.open()
    try:
        yield made
    finally:
        await made.close()
