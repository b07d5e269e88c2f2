"""What does the bridge compile anew when something changed, and what is the same object again?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from cfbridge import compile as compile_module
from cfbridge.compile import Compiled, Compiler
from cfbridge.inventory import App, FoundationState
from cfbridge.settings import FirewallConfig
from cfbridge.snapshot import CellState, Snapshot
from egress.model import Lease, OrgNetwork, Pool, PoolKind
from egress.values import qualify
from garden_plugin.wire import NetOut, PortReport
from policy_sync.model import CfPolicy, Protocol

NOW = 1_700_000_000.0
POOLS = (Pool("overlay", PoolKind.CONTAINER, ("10.240.0.0/14",), 24),)


def policy(port: int) -> CfPolicy:
    return CfPolicy(qualify("cf", "front"), qualify("cf", "back"), Protocol.TCP, port, port)


class Bridge:
    """As much of one as numbers rules and compiles: one cell, two apps with an instance each."""

    def __init__(self) -> None:
        self.compiler = Compiler(FirewallConfig(), POOLS)
        state = FoundationState("cf", policies=frozenset({policy(80)}))
        self.snapshot = Snapshot(inventory={"cf": state}, cells={"cell-1": CellState("cell-1", "cf")}, pools=POOLS)
        for number, app in enumerate(("front", "back"), 2):
            self.up(app, f"10.240.0.{number}")

    def up(self, app: str, address: str, *net_out: NetOut) -> None:
        cell, held = self.snapshot.cells["cell-1"], self.snapshot.held
        workload = qualify("cf", f"{app}-{address}")
        port = PortReport(
            f"{app}-{address}", (address,), org="acme", space="dev", app=app, lifecycle="app", net_out=net_out
        )
        lease = Lease(address, workload, qualify("cf", "acme"), "cell-1")
        self.snapshot = replace(
            self.snapshot,
            cells={"cell-1": replace(cell, ports={**cell.ports, workload: port})},
            held=replace(held, leases={**held.leases, workload: (lease,)}),
        )

    def foundation(self, **change: object) -> None:
        state = replace(self.snapshot.inventory["cf"], **change)  # type: ignore[arg-type]
        self.snapshot = replace(self.snapshot, inventory={"cf": state})

    def policies(self, *ports: int) -> None:
        self.foundation(policies=frozenset(map(policy, ports)))

    def number(self) -> frozenset[str]:
        """The keys that had no id yet."""
        missing = self.compiler.missing_ids(self.snapshot)
        known = {**self.snapshot.held.rule_ids}
        known |= {key: number for number, key in enumerate(sorted(missing), len(known) + 1)}
        self.snapshot = replace(self.snapshot, held=replace(self.snapshot.held, rule_ids=known))
        return missing

    def compile(self) -> Compiled:
        return self.compiler.compile(self.snapshot, NOW)


def test_a_new_policy_is_the_only_thing_that_needs_an_id():
    bridge = Bridge()
    bridge.number()
    bridge.compile()
    bridge.policies(80, 443)
    (key,) = bridge.number()
    assert "443" in key
    assert len(bridge.compile().network.ruleset.policies) == 2


def test_a_policy_compiled_without_an_id_is_asked_for_again():
    bridge = Bridge()
    assert bridge.compile().quarantined
    bridge.number()
    compiled = bridge.compile()
    assert not compiled.quarantined
    assert len(compiled.network.ruleset.policies) == 1


def test_policies_of_an_app_that_starts_later_get_their_ids_then():
    bridge = Bridge()
    late = CfPolicy(qualify("cf", "front"), qualify("cf", "late"), Protocol.UDP, 53, 53)
    bridge.foundation(policies=frozenset({policy(80), late}))
    bridge.number()
    assert len(bridge.compile().network.ruleset.policies) == 1
    bridge.up("late", "10.240.0.9")
    assert any("late" in key and "53" in key for key in bridge.number())
    assert len(bridge.compile().network.ruleset.policies) == 2


def test_workloads_stay_the_same_objects_while_another_starts():
    bridge = Bridge()
    before = bridge.compile().world.workloads
    bridge.up("front", "10.240.0.9")
    after = bridge.compile().world.workloads
    assert all(was is now for was, now in zip(before, after, strict=False))
    assert len(after) == len(before) + 1


def test_a_renamed_app_renames_its_workloads():
    bridge = Bridge()
    bridge.compile()
    front = qualify("cf", "front")
    bridge.foundation(apps={front: App(front, "fresh", qualify("cf", "dev"))})
    assert any("fresh" in workload.name for workload in bridge.compile().world.workloads)


def test_rules_of_garden_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compile_module, "UNDERSTOOD_AT_MOST", 3)
    bridge = Bridge()
    for number in range(10):
        bridge.up("front", f"10.240.1.{number}", NetOut(1, (("192.0.2.1", ""),), ((number + 1, number + 1),)))
    workloads = bridge.compile().world.workloads
    assert sum(len(workload.garden_rules) for workload in workloads) == 10
    assert len(bridge.compiler._garden) <= 3


def test_addresses_of_a_prefix_that_was_taken_out_of_its_pool_stay_containers_until_they_are_given_back() -> None:
    bridge = Bridge()
    assert bridge.compile().network.ruleset.container_pools == ("10.240.0.0/14",)
    held = OrgNetwork(qualify("cf", "acme"), "fd00:cf:0:1::/64", "overlay")
    bridge.snapshot = replace(bridge.snapshot, held=replace(bridge.snapshot.held, org_networks=(held,)))
    compiled = bridge.compile()
    assert compiled.network.ruleset.container_pools == ("10.240.0.0/14", "fd00:cf:0:1::/64")
    assert compiled.network.topology.pools == compiled.network.ruleset.container_pools
    bridge.snapshot = replace(bridge.snapshot, held=replace(bridge.snapshot.held, org_networks=()))
    assert bridge.compile().network.ruleset.container_pools == ("10.240.0.0/14",)
