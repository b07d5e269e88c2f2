"""Is a rule said so that a person understands it?"""

from __future__ import annotations

import pytest

from egress.values import parse_range, qualify
from policy_sync import describe, translate
from policy_sync.model import (
    ANY,
    Action,
    CfPolicy,
    GardenRule,
    Mode,
    Packet,
    Protocol,
    Rule,
    Selector,
    SelectorKind,
    Service,
    Tier,
)

NAMES = {"cf:1": "frontend (acme/dev)", "cf:2": "backend (acme/dev)"}


def names(qualified: str) -> str:
    return NAMES.get(qualified, qualified)


def test_a_network_policy_is_said_with_names():
    policy = CfPolicy(qualify("cf", "1"), qualify("cf", "2"), Protocol.TCP, 8080, 8080)
    said = describe.policy(policy, names)
    assert said == "frontend (acme/dev) may open tcp 8080 to backend (acme/dev) · cf network policy"


def test_a_rule_says_every_circumstance_that_changes_what_it_does():
    rule = Rule(
        "rule:x",
        "x",
        Tier.EMERGENCY,
        (Selector(SelectorKind.GROUP, "prod", negated=True),),
        (Selector(SelectorKind.APP, "cf:2"), Selector(SelectorKind.RANGE, "10.0.0.0/8")),
        Action.DROP,
        (Service(Protocol.UDP, ((53, 53), (100, 200))), Service(Protocol.ICMP, (), 8)),
        applied_to=(Selector(SelectorKind.KIND, "vm"),),
        mode=Mode.WATCH,
        enabled=False,
        mapped_only=True,
    )
    assert describe.rule(rule, names) == (
        "everything known but group prod may not open udp 53, 100-200 or icmp type 8 code any"
        " to backend (acme/dev) or 10.0.0.0/8 (dropped)"
        " · emergency · only by mapped ports · applied to any VM · watches only · disabled"
    )


@pytest.mark.parametrize(
    "rule", [*translate.baseline_rules(), *translate.system_rules(dns_listeners=("169.254.0.53",))]
)
def test_our_own_rules_are_sentences(rule):
    assert describe.rule(rule).endswith(("· defaults", "· system", "· only by mapped ports"))


def test_a_security_group_says_that_it_opens_no_container():
    rule = GardenRule(Protocol.TCP, (parse_range("0.0.0.0/0"), parse_range("192.0.2.1")), ((443, 443),))
    assert describe.garden(rule) == (
        "its containers may open tcp 443 to any IPv4 address or 192.0.2.1, outside the container pools"
        " · cf security group"
    )


def test_an_entry_that_matches_nothing_is_said_to():
    assert "nothing: udp without ports" in describe.garden(GardenRule(Protocol.UDP, (parse_range("0.0.0.0/0"),)))


def test_a_packet_is_said_with_the_names_of_its_ends():
    packet = Packet("10.0.0.1", "10.0.0.2", 47)
    assert describe.packet(packet, {"10.0.0.1": "db"}) == "db (10.0.0.1) opens protocol 47 to 10.0.0.2"


def test_a_rule_that_names_nobody_says_nothing():
    assert describe.ends(()) == "nothing"
    assert describe.ends(ANY) == "anything"
