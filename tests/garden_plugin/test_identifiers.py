"""Are two long names two things, everywhere? (NSX cut tags at 20 and 40 characters, and a rule did not apply.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from egress.topology import Topology
from egress.values import QualifiedId, parse_range, qualify
from garden_plugin.cell.attach import Namespaces
from garden_plugin.cell.records import Record, Records
from garden_plugin.cell.spool import hash_of
from garden_plugin.dataplane.base import LogicalNetwork
from garden_plugin.dataplane.cell import LocalPort, LocalState, device_name
from garden_plugin.dataplane.linux import links
from garden_plugin.dataplane.linux.firewall import Firewall
from garden_plugin.wire import PortReport
from policy_sync import translate
from policy_sync.compiler import compile_ruleset, rule_keys
from policy_sync.model import (
    Action,
    Asg,
    CfPolicy,
    GardenRule,
    Group,
    Kind,
    Lifecycle,
    Protocol,
    Rule,
    Selector,
    SelectorKind,
    Tier,
    Workload,
    World,
)

LENGTHS = (63, 128, 250, 1000)


def pair(length: int) -> tuple[str, str]:
    """Two names with the same first characters."""
    return "x" * length + "1", "x" * length + "2"


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", [device_name, hash_of])
def test_devices_records_mounts_and_spools_of_two_handles_are_two(length: int, name: Callable[[str], str]) -> None:
    one, two = pair(length)
    assert name(one) != name(two)
    assert len(device_name(one)) <= 15


@pytest.mark.parametrize("length", LENGTHS)
def test_two_handles_have_two_records_and_two_mounts(tmp_path: Path, length: int) -> None:
    one, two = pair(length)
    records = Records(tmp_path)
    for handle in (one, two):
        records.write(Record(PortReport(handle=handle, org="org", space="space", app="app", lifecycle="app")))
    assert {*Records(tmp_path).by_handle} == {one, two}
    assert Namespaces(tmp_path / "netns").path(one) != Namespaces(tmp_path / "netns").path(two)


@pytest.mark.parametrize("length", LENGTHS)
def test_two_handles_have_two_links_and_two_routes(length: int) -> None:
    ports = {}
    for number, handle in enumerate(pair(length), 5):
        port = LocalPort(f"cf:{handle}", handle, device_name(handle), "/netns", (f"10.240.1.{number}",))
        ports[port.workload] = port
    items = links.render(Topology(), LocalState("cell", "192.0.2.10", ("up0",), ports)).values()
    made = [item for item in items if isinstance(item, links.PortItem)]
    assert len({item.device for item in made}) == 2
    assert len({item.alias for item in made}) == 2
    assert all(len(item.alias.encode()) <= 255 for item in made)


@pytest.mark.parametrize("length", LENGTHS)
def test_two_guids_have_two_keys_for_policies_groups_and_apps(length: int) -> None:
    one, two = (qualify("cf", each) for each in pair(length))
    assert translate.app_key(one) != translate.app_key(two)
    policies = [CfPolicy(a, b, Protocol.TCP, 80, 80) for a in (one, two) for b in (one, two)]
    assert len({translate.policy_key(policy) for policy in policies}) == 4
    rule = GardenRule(Protocol.TCP, (), ((80, 80),))
    assert translate.asg_key(one, rule) != translate.asg_key(two, rule)


@pytest.mark.parametrize("length", LENGTHS)
def test_two_groups_of_long_names_are_two_sets_and_two_spaces_two_profiles(length: int) -> None:
    names = pair(length)
    world = _world(names)
    ids = {key: number for number, key in enumerate(sorted(rule_keys(world)), 1)}
    ruleset = compile_ruleset(world, ids).ruleset
    local = LocalState("cell", "192.0.2.10", ("up0",))
    rendered = Firewall().render(LogicalNetwork(1, Topology(), ruleset), local)
    groups = [key[1] for key in rendered if key[0] == "set" and key[1].startswith("g_")]
    chains = [key[1] for key in rendered if key[0] == "chain" and key[1].startswith("asg_")]
    assert len({*groups}) == len(groups) == 3  # with whom both rules are about
    assert len({*chains}) == len(chains) == 2
    assert all(len(name) <= 63 for name in (*groups, *chains))
    assert len({*ruleset.identities.values()}) == 2


def _world(names: tuple[str, str]) -> World:
    """For each name: a group, a rule for it, an app in a space with a security group of its own."""
    world = World(rules=(), container_pools=("10.240.0.0/16",), asgs_known=frozenset({"cf"}))
    for number, name in enumerate(names, 5):
        space, app = QualifiedId(f"cf:s{name}"), QualifiedId(f"cf:a{name}")
        address = f"10.240.1.{number}"
        workload = Workload(
            f"cf:{name}", Kind.CONTAINER, (address,), "cell", qualify("cf", "org"), space, app, Lifecycle.APP, name
        )
        rule = Rule(
            f"rule:{name}",
            name,
            Tier.APPLICATION,
            (Selector(SelectorKind.GROUP, name),),
            (Selector(SelectorKind.RANGE, "10.240.9.9"),),
            Action.DROP,
        )
        said = GardenRule(Protocol.TCP, (parse_range("0.0.0.0/0"),), ((number, number),))
        asg = Asg(qualify("cf", name), name, (said,), running_spaces=frozenset({space}))
        world = replace(
            world,
            workloads=(*world.workloads, workload),
            groups=(*world.groups, Group(name, (Selector(SelectorKind.APP, app),))),
            rules=(*world.rules, rule),
            asgs=(*world.asgs, asg),
        )
    return world
