"""Are Cloud Foundry's and Garden's words understood?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.values import Refused, parse_range, qualify
from policy_sync import translate
from policy_sync.model import Action, CfPolicy, GardenRule, Protocol, Tier


def span(*written: str):
    return tuple(map(parse_range, written))


def test_garden_without_a_protocol_means_all_and_without_networks_every_address():
    rule = translate.garden_rule(0, (), (), None, None, False)
    assert rule == GardenRule(Protocol.ALL, span("0.0.0.0/0", "::/0"))


def test_garden_ports_may_have_several_ranges():
    rule = translate.garden_rule(1, [("10.0.11.0", "10.0.11.255")], [(80, 80), (443, 444)], None, None, True)
    assert rule == GardenRule(Protocol.TCP, span("10.0.11.0/24"), ((80, 80), (443, 444)), log=True)


@pytest.mark.parametrize(
    ("kind", "code", "meant"),
    [(255, 255, (None, None)), (8, 255, (8, None)), (255, 0, (None, 0)), (0, None, (0, None)), (8, 0, (8, 0))],
)
def test_255_means_any_for_icmp_type_and_code_apart(kind, code, meant):
    rule = translate.garden_rule(3, (), (), kind, code, False)
    assert isinstance(rule, GardenRule)
    assert (rule.protocol, rule.icmp_type, rule.icmp_code) == (Protocol.ICMP, *meant)


@pytest.mark.parametrize(("protocol", "kind"), [(1, None), (2, None), (3, None), (4, None)])
def test_tcp_and_udp_without_ports_and_icmp_without_icmps_match_nothing_and_alarm(protocol, kind):
    refused = translate.garden_rule(protocol, (), (), kind, None, False)
    assert isinstance(refused, Refused)
    assert refused.code == "ASG_ENTRY_MATCHES_NOTHING"


def test_all_ignores_ports():
    assert translate.garden_rule(0, [("10.0.0.1", "")], [(80, 80)], None, None, False) == translate.asg_rule(
        "all", "10.0.0.1", "80", None, None, False
    )


@pytest.mark.parametrize(
    ("destination", "meant"),
    [
        ("10.0.0.1", ("10.0.0.1",)),
        ("10.0.0.0/8", ("10.0.0.0/8",)),
        ("10.0.0.7/24", ("10.0.0.0/24",)),
        ("10.0.0.1-10.0.0.9", ("10.0.0.1-10.0.0.9",)),
        ("10.0.0.1 - 10.0.0.9", ("10.0.0.1-10.0.0.9",)),
        ("192.0.2.1, 10.0.0.0/24 ,10.0.1.0/24", ("10.0.0.0/23", "192.0.2.1")),
        ("2001:db8::/32", ("2001:db8::/32",)),
    ],
)
def test_a_destination_is_an_address_a_prefix_a_range_or_a_list_of_them(destination, meant):
    rule = translate.asg_rule("all", destination, "", None, None, False)
    assert isinstance(rule, GardenRule)
    assert rule.destinations == span(*meant)


@pytest.mark.parametrize(
    ("ports", "meant"),
    [
        ("80", ((80, 80),)),
        ("443,80", ((80, 80), (443, 443))),
        ("8000-8999", ((8000, 8999),)),
        (" 80 , 8000 - 8999 ", ((80, 80), (8000, 8999))),
    ],
)
def test_ports_are_numbers_ranges_and_lists(ports, meant):
    rule = translate.asg_rule("tcp", "10.0.0.1", ports, None, None, False)
    assert isinstance(rule, GardenRule)
    assert rule.ports == meant


def test_minus_one_means_any_icmp():
    rule = translate.asg_rule("icmp", "10.0.0.1", "", -1, -1, False)
    assert rule == GardenRule(Protocol.ICMP, span("10.0.0.1"))


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (("gre", "10.0.0.1", "", None, None), "protocol"),
        (("tcp", "10.0.0.300", "80", None, None), "destination"),
        (("tcp", "10.0.0.9-10.0.0.1", "80", None, None), "destination"),
        (("tcp", "10.0.0.1-::1", "80", None, None), "destination"),
        (("tcp", "", "80", None, None), "destination"),
        (("tcp", "10.0.0.1", "80-", None, None), "ports"),
        (("tcp", "10.0.0.1", "90-80", None, None), "ports"),
        (("tcp", "10.0.0.1", "65536", None, None), "ports"),
        (("tcp", "10.0.0.1", "٨٠", None, None), "ports"),
        (("icmp", "10.0.0.1", "", 256, 0), "type"),
        (("icmp", "10.0.0.1", "", 8, -2), "code"),
    ],
)
def test_an_entry_that_cannot_be_read_is_refused_by_the_name_of_its_field(entry, field):
    refused = translate.asg_rule(*entry, False)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.field) == ("ASG_ENTRY_UNREADABLE", field)


icmp = st.one_of(st.none(), st.integers(-300, 300))


@given(st.text(), st.text(), st.text(), icmp, icmp, st.booleans())
def test_no_text_makes_the_reading_of_an_asg_entry_fail(protocol, destination, ports, kind, code, log):
    assert isinstance(translate.asg_rule(protocol, destination, ports, kind, code, log), GardenRule | Refused)


@given(
    st.sampled_from(tuple(Protocol)),
    st.text("0123456789./-, :ab%", max_size=40),
    st.text("0123456789-, ", max_size=20),
    icmp,
    icmp,
)
def test_nearly_right_text_is_read_or_refused(protocol, destination, ports, kind, code):
    read = translate.asg_rule(protocol.value, destination, ports, kind, code, False)
    if isinstance(read, GardenRule):
        assert read.destinations
        assert all(0 <= first <= last <= 65535 for first, last in read.ports)
        assert bool(read.ports) == (protocol in (Protocol.TCP, Protocol.UDP))


@given(
    st.integers(-1, 300),
    st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8))),
    st.lists(st.tuples(st.integers(-5, 70000), st.integers(-5, 70000))),
    icmp,
    icmp,
)
def test_nothing_that_garden_sends_makes_the_reading_fail(protocol, networks, ports, kind, code):
    assert isinstance(translate.garden_rule(protocol, networks, ports, kind, code, False), GardenRule | Refused)


def test_a_key_says_its_foundation_and_everything_that_makes_the_rule_another():
    one = CfPolicy(qualify("cf", "a"), qualify("cf", "b"), Protocol.TCP, 80, 90)
    two = CfPolicy(qualify("two", "a"), qualify("two", "b"), Protocol.TCP, 80, 90)
    assert translate.policy_key(one) == "policy:cf:a>cf:b:tcp:80-90"
    assert translate.policy_key(one) != translate.policy_key(two)
    narrow = translate.asg_rule("tcp", "10.0.0.1", "80", None, None, False)
    wide = translate.asg_rule("tcp", "10.0.0.0/8", "80", None, None, False)
    assert isinstance(narrow, GardenRule)
    assert isinstance(wide, GardenRule)
    keys = {translate.asg_key(qualify(where, "asg"), rule) for where in ("cf", "two") for rule in (narrow, wide)}
    keys |= {translate.garden_key(rule, where) for where in ("cf", "two") for rule in (narrow, wide)}
    assert len(keys) == 8


def test_an_asg_entry_keeps_its_key_for_life():
    rule = translate.asg_rule("tcp", "10.0.0.0/8", "80,443", None, None, True)
    assert isinstance(rule, GardenRule)
    assert translate.asg_key(qualify("cf", "g"), rule) == "asg:cf:g:1e756e486cdc1f2275e8"


def test_denied_networks_leave_the_container_pools_alone():
    (rule,) = translate.system_rules(deny_always=("10.0.0.0/8",), container_pools=("10.0.0.0/9",))
    assert (rule.key, rule.action) == ("system:deny-networks-always", Action.REJECT)
    assert [each.value for each in rule.destinations] == ["10.128.0.0-10.255.255.255"]


def test_a_host_service_is_read_with_its_port_in_both_families():
    v4, v6 = translate.system_rules(host_tcp_services=("169.254.0.2:8080", "[fd00::1]:53"))
    assert (v4.destinations[0].value, v4.services[0].ports) == ("169.254.0.2", ((8080, 8080),))
    assert (v6.destinations[0].value, v6.services[0].ports) == ("fd00::1", ((53, 53),))


def test_disabling_container_network_policy_is_a_rule_that_people_see():
    (rule,) = translate.system_rules(disable_container_network_policy=True)
    assert (rule.tier, rule.action, "disabled" in rule.name) == (Tier.APPLICATION, Action.ALLOW, True)
