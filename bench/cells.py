"""What is measured on one cell without a bridge? Containers on the real linux dataplane, and N network policies."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from cfbridge.settings import FirewallConfig
from cfbridge.simulator.lab import CELL, UPLINK, Lab
from egress.topology import Port, PortKind, Topology
from egress.values import qualify
from garden_plugin.cell import netlink
from garden_plugin.dataplane.base import LogicalNetwork
from garden_plugin.dataplane.cell import LocalPort, LocalState, device_name
from garden_plugin.dataplane.linux.driver import LinuxDataplane
from garden_plugin.settings import AgentConfig
from garden_plugin.wire import merge, span
from policy_sync import translate
from policy_sync.compiler import Memo, compile_ruleset, rule_keys
from policy_sync.model import CfPolicy, Kind, Lifecycle, Protocol, Workload, World

T = TypeVar("T")
POOLS = ("10.240.0.0/16",)
APPS = 250
PORT = 8080
"""Where the two measured containers, `c0` to `c1`, talk."""


def address(number: int) -> str:
    return f"10.240.{number // 250}.{number % 250 + 2}"


def pairs(count: int, apps: int = APPS) -> Iterator[tuple[int, int]]:
    """So many (source, destination), each once, every app as often as another."""
    return ((n % apps, (n + 1 + n // apps) % apps) for n in range(count))


def policy(source: int, destination: int, port: int = PORT) -> CfPolicy:
    return CfPolicy(qualify("cf", f"app{source}"), qualify("cf", f"app{destination}"), Protocol.TCP, port, port)


@dataclass(frozen=True, slots=True)
class Inside:
    """Runs things in a network namespace, each in a thread that ends with it."""

    descriptor: int

    def __call__(self, act: Callable[[], T]) -> T:
        return netlink.inside(self.descriptor, act)


@contextmanager
def entered(netns: str) -> Iterator[Inside]:
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Inside(descriptor)
    finally:
        os.close(descriptor)


class Wanted:
    """What a bridge would say to the cell as policies come and go: compiled, and merged from spans as an agent does."""

    def __init__(self, containers: Sequence[str]) -> None:
        org, space = qualify("cf", "org"), qualify("cf", "space")
        workloads = tuple(
            Workload(
                f"cf:c{n}", Kind.CONTAINER, (address(n),), "cell", org, space, qualify("cf", f"app{n}"), Lifecycle.APP
            )
            for n in range(APPS)
        )
        ports = {
            f"cf:{c}": Port(f"cf:{c}", PortKind.CONTAINER, "cell", (address(n),), org, c)
            for n, c in enumerate(containers)
        }
        self.topology = Topology(pools=POOLS, ports=ports)
        self._world = World(
            workloads=workloads,
            # As `cfbridge serve` has them when nobody configured anything.
            rules=(
                *translate.system_rules(
                    dns_listeners=FirewallConfig().dns_listeners,
                    metadata_addresses=FirewallConfig().metadata_addresses,
                    container_pools=POOLS,
                ),
                *translate.baseline_rules(),
            ),
            container_pools=POOLS,
            asgs_known=frozenset({"cf"}),
            cell_addresses=(CELL,),
        )
        self._ids: dict[str, int] = {}
        self._memo = Memo()
        self._held: LogicalNetwork | None = None

    def network(self, policies: frozenset[CfPolicy]) -> LogicalNetwork:
        world = replace(self._world, policies=policies)
        for key in rule_keys(world):
            self._ids.setdefault(key, len(self._ids) + 1)
        compiled = compile_ruleset(world, self._ids, memo=self._memo)
        assert not compiled.quarantined, compiled.quarantined
        revision = 1 if self._held is None else self._held.revision + 1
        fresh = LogicalNetwork(revision, self.topology, compiled.ruleset)
        self._held = merge(self._held, span(self._held, fresh))
        return self._held


def containers(lab: Lab, count: int) -> Mapping[str, LocalPort]:
    """So many namespaces, as ports that the cell should have."""
    ports = {}
    for n in range(count):
        label = f"c{n}"
        netns = lab.namespace(label).path
        ports[f"cf:{label}"] = LocalPort(f"cf:{label}", label, device_name(label), netns, (address(n),))
    return ports


@asynccontextmanager
async def cell(
    lab: Lab, count: int, made: Callable[[AgentConfig, int], LinuxDataplane] = LinuxDataplane
) -> AsyncIterator[tuple[LinuxDataplane, LocalState]]:
    """The lab's cell with the linux dataplane, and `count` containers that the next converge plugs in."""
    local = LocalState("cell", CELL, (UPLINK,), containers(lab, count))
    descriptor = os.open(lab.cell.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        dataplane = made(AgentConfig("cell", "", "", "", (UPLINK,), host_address=CELL), descriptor)
        await dataplane.open()
        try:
            yield dataplane, local
        finally:
            await dataplane.close()
    finally:
        os.close(descriptor)
