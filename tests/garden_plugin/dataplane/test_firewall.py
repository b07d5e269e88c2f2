"""What does the firewall's renderer make of a network? Items, and their native words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from egress.model import NetworkMode
from egress.topology import Port, PortKind, Router, Segment, SourceNat, Topology
from egress.values import QualifiedId, pack, parse_range
from garden_plugin.cell.nft_sets import interval, mark, protocol, service, spell
from garden_plugin.dataplane.base import LogicalNetwork
from garden_plugin.dataplane.cell import LocalPort, LocalState
from garden_plugin.dataplane.linux.firewall import Firewall, kernel_names, lines
from garden_plugin.dataplane.linux.items import ChainItem, SetItem
from garden_plugin.dataplane.linux.skeleton import SETS
from garden_plugin.wire import MappedPort, merge, span
from policy_sync.model import Action, Protocol, Service
from policy_sync.ruleset import IDENTITY_BIT, AddressSet, CompiledRule, PolicyMatch, RuleLabel, Ruleset

NOBODY, NOWHERE = Ruleset(), Topology()
LOCAL = LocalState("cell", "192.0.2.10", ("up0",))
FRONT, BACK = IDENTITY_BIT | 1, IDENTITY_BIT | 2
ONE = AddressSet((parse_range("10.240.1.5"),), (parse_range("2001:db8:f::5"),))
WIDE = AddressSet((parse_range("10.0.0.0/8"),))


def elements(
    name: str, ruleset: Ruleset = NOBODY, topology: Topology = NOWHERE, local: LocalState = LOCAL
) -> list[str]:
    item = Firewall().render(LogicalNetwork(1, topology, ruleset), local)[("set", name)]
    assert isinstance(item, SetItem)
    return [spell(item.shape, key, data) for key, data in item.elements.items()]


@pytest.mark.parametrize(
    ("rule", "written"),
    [
        (
            CompiledRule(17, "one", "wide", (Service(Protocol.TCP, ((80, 80), (8000, 8009))),), Action.ALLOW),
            ["ip saddr @one_h4 ip daddr @wide_i4 tcp dport { 80, 8000-8009 } ct mark set 0x11 goto admit"],
        ),
        (
            CompiledRule(17, "one", None, (Service(),), Action.REJECT),
            [
                "ip saddr @one_h4 meta mark set 0x11 goto refuse_reject",
                "ip6 saddr @one_h6 meta mark set 0x11 goto refuse_reject",
            ],
        ),
        (CompiledRule(17, None, None, (Service(),), Action.PASS), ["return"]),
        (
            CompiledRule(17, None, None, (Service(Protocol.ICMP, (), 3, 4),), Action.DROP, watch=True),
            ["meta nfproto ipv4 icmp type 3 icmp code 4 meta mark set 0x11 jump watched"],
        ),
        (
            CompiledRule(17, None, None, (Service(Protocol.UDP),), Action.DROP),
            ["meta l4proto 17 meta mark set 0x11 goto refuse_drop"],
        ),
        (
            CompiledRule(17, None, "wide", (Service(),), Action.ALLOW, mapped_only=True),
            ["ip daddr @wide_i4 ct status dnat ip daddr . tcp dport @netin_ok4 ct mark set 0x11 goto admit"],
        ),
        (CompiledRule(17, "one", "wide", (Service(Protocol.ICMPV6),), Action.ALLOW), []),
    ],
)
def test_a_rule_is_written_once_for_each_family_that_both_its_ends_have(rule: CompiledRule, written: list[str]) -> None:
    sets = {"one": ONE, "wide": WIDE}
    assert [str(line) for line in lines(rule, kernel_names(sets))] == [f'{text} comment "r17"' for text in written]


def test_ports_that_overlap_are_written_as_one_range() -> None:
    rule = CompiledRule(1, None, None, (Service(Protocol.TCP, ((80, 90), (85, 99), (100, 100))),), Action.ALLOW)
    assert "tcp dport { 80-100 }" in str(next(lines(rule, {})))


def test_a_policy_for_one_port_is_hashed_and_a_range_is_an_interval() -> None:
    ruleset = Ruleset(policies={PolicyMatch(FRONT, BACK, 6, 80, 80): 5, PolicyMatch(FRONT, BACK, 17, 90, 99): 6})
    assert elements("allow", ruleset) == ["0x40000001 . 0x40000002 . 6 . 80 : 0x5"]
    assert elements("allow_range", ruleset) == ["0x40000001 . 0x40000002 . 17 . 90-99 : 0x6"]


def test_an_id_that_refuses_is_counted_and_never_live() -> None:
    rules = (
        CompiledRule(1, None, None, (Service(),), Action.ALLOW),
        CompiledRule(2, None, None, (Service(),), Action.DROP),
        CompiledRule(3, None, None, (Service(),), Action.ALLOW, watch=True),
    )
    ruleset = Ruleset(tiers={0: rules}, labels={n: RuleLabel("", "", 0, logged=n == 1) for n in (1, 2, 3, 4)})
    assert elements("live", ruleset) == ["0x1", "0x4"]
    assert elements("refused", ruleset) == ["0x2", "0x3"]
    assert elements("logged", ruleset) == ["0x1"]


ORG = QualifiedId("cf:acme")
TOPOLOGY = Topology(
    segments={p: Segment(p, ORG, "main") for p in ("10.240.1.0/24", "2001:db8:f:1::/64")},
    routers={ORG: Router(ORG, "acme", NetworkMode.NAT)},
    source_nats={"10.240.1.0/25": SourceNat("10.240.1.0/25", "192.0.2.66", ORG)},
)


def test_an_org_leaves_by_its_address_and_what_has_none_may_not_leave() -> None:
    assert elements("snat4", topology=TOPOLOGY) == ["10.240.1.0-10.240.1.127 : 192.0.2.66"]
    assert elements("blocked4", topology=TOPOLOGY) == ["10.240.1.128-10.240.1.255"]
    assert elements("blocked6", topology=TOPOLOGY) == ["2001:db8:f:1::-2001:db8:f:1:ffff:ffff:ffff:ffff"]


def test_a_routed_org_leaves_as_it_is_and_a_shared_one_as_the_cell() -> None:
    routed = replace(TOPOLOGY, routers={ORG: Router(ORG, "acme", NetworkMode.ROUTED)}, source_nats={})
    assert elements("snat4", topology=routed) == elements("blocked4", topology=routed) == []
    shared = replace(TOPOLOGY, source_nats={"10.240.1.0/24": SourceNat("10.240.1.0/24", "", ORG)})
    assert elements("snat4", topology=shared) == ["10.240.1.0-10.240.1.255 : 192.0.2.10"]


def test_who_is_to_leave_as_a_cell_without_ipv6_may_not_leave_by_it_whatever_its_orgs_mode() -> None:
    nats = {"2001:db8:f:1::/64": SourceNat("2001:db8:f:1::/64", "", ORG)}
    for mode in (NetworkMode.SHARED, NetworkMode.ROUTED):  # routed, but where nobody announces it
        topology = replace(TOPOLOGY, routers={ORG: Router(ORG, "acme", mode)}, source_nats=nats)
        assert elements("snat6", topology=topology) == []
        assert elements("blocked6", topology=topology) == ["2001:db8:f:1::-2001:db8:f:1:ffff:ffff:ffff:ffff"]
        both = replace(LOCAL, host_address6="2001:db8::10")
        assert elements("blocked6", topology=topology, local=both) == []
        assert elements("snat6", topology=topology, local=both) == [
            "2001:db8:f:1::-2001:db8:f:1:ffff:ffff:ffff:ffff : 2001:db8::10"
        ]


def test_a_machine_of_a_translated_org_leaves_by_no_address_that_lies_in_no_segment_either() -> None:
    assert elements("blocked6", topology=Topology(blocked_sources=("2001:db8:30::5/128",))) == ["2001:db8:30::5"]


def test_a_mapped_port_is_an_element_of_the_agents_making() -> None:
    port = LocalPort("cf:a", "a", "cf-a", "", ("10.240.1.5",), mapped_ports=(MappedPort(61001, 8080),))
    local = replace(LOCAL, ports={"cf:a": port})
    assert elements("netin4", local=local) == ["192.0.2.10 . 61001 : 10.240.1.5 . 8080"]
    assert elements("netin_ok4", local=local) == ["10.240.1.5 . 8080"]
    assert elements("port_src4", local=local) == ['"cf-a" . 10.240.1.5 . 0a:58:0a:f0:01:05']
    both = replace(port, addresses=("10.240.1.5", "2001:db8:f::5"))
    assert elements("netin6", local=replace(local, ports={"cf:a": both})) == []
    local = replace(local, ports={"cf:a": both}, host_address6="2001:db8::10")
    assert elements("netin6", local=local) == ["2001:db8::10 . 61001 : 2001:db8:f::5 . 8080"]


def test_a_vm_with_a_name_that_no_device_can_have_is_no_port() -> None:
    bad = Port("vm:x", PortKind.VM, "cell", ("10.9.0.5",), device='tap" ; drop')
    assert elements("vm_ports", topology=Topology(ports={"vm:x": bad})) == []
    good = replace(bad, device="tap0")
    assert elements("vm_ports", topology=Topology(ports={"vm:x": good})) == ['"tap0"']


def test_only_what_changed_is_another_object() -> None:
    policies = {PolicyMatch(FRONT, BACK, 6, port, port): port for port in range(1, 50)}
    first = LogicalNetwork(
        1, TOPOLOGY, Ruleset(policies=policies, labels={n: RuleLabel("", "", 3) for n in range(1, 50)})
    )
    firewall = Firewall()
    before = firewall.render(first, LOCAL)
    key = PolicyMatch(FRONT, BACK, 6, 99, 99)
    ruleset = replace(
        first.ruleset, policies={**policies, key: 99}, labels={**first.ruleset.labels, 99: RuleLabel("", "", 3)}
    )
    second = merge(first, span(first, LogicalNetwork(2, TOPOLOGY, ruleset)))
    after = firewall.render(second, LOCAL)
    assert {name[1] for name in after if after[name] is not before[name]} == {"allow", "live"}
    assert after == Firewall().render(LogicalNetwork(2, TOPOLOGY, ruleset), LOCAL)
    third = merge(second, span(second, replace(first, revision=3)))
    assert firewall.render(third, LOCAL) == before


def test_every_chain_of_a_profile_and_tier_is_there_even_when_it_is_empty() -> None:
    items = Firewall().render(
        LogicalNetwork(1, Topology(), Ruleset(profiles={"p": ()}, egress={"10.240.1.5": "p"})), LOCAL
    )
    chains = {item.name for item in items.values() if isinstance(item, ChainItem)}
    assert chains == {"tier0", "tier1", "tier2", "tier3", "tier4", "asg_p"}
    assert {item.name for item in items.values() if isinstance(item, SetItem)} == SETS.keys()


def test_elements_are_padded_as_the_kernel_pads_them() -> None:
    assert SETS["allow"].key_size == len(mark(1) * 2 + protocol(6) + service(80)) == 16
    assert interval(parse_range("10.0.0.0/8")) == pack("10.0.0.0") + pack("10.255.255.255")
