"""Is every live connection that a change concerns among the suspects, and is no other disturbed?"""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from egress.values import pack
from garden_plugin.dataplane.linux.connection import Flow
from garden_plugin.dataplane.linux.conntrack import Suspects, suspects
from policy_sync.model import PROTOCOL_NUMBER, Action, Packet, Protocol, Service
from policy_sync.ruleset import AddressSet, CompiledRule, Decider, Ruleset
from tests.garden_plugin.dataplane.networks import random_network, random_packet

A, B, C = (pack(f"10.240.0.{n}") for n in (1, 2, 3))


def flow_of(packet: Packet, mark: int) -> Flow:
    number = PROTOCOL_NUMBER[packet.protocol] if isinstance(packet.protocol, Protocol) else packet.protocol
    ends = pack(packet.source), pack(packet.destination)
    return Flow(*ends, number, packet.port, packet.icmp_type, packet.icmp_code, packet.mapped, mark, b"")


def changed(dice: random.Random, old: Ruleset, other: Ruleset) -> Ruleset:
    """One step, of those that people make."""
    tier = dice.randrange(5)
    rules = list(old.tiers[tier])
    match dice.randrange(7):
        case 0 if rules:
            rules.pop(dice.randrange(len(rules)))
        case 1 if other.tiers[tier]:
            new = replace(dice.choice(other.tiers[tier]), sources=dice.choice([None, *old.sets]), destinations=None)
            rules.insert(dice.randrange(len(rules) + 1), new)
        case 2 if old.sets and other.sets:
            name = dice.choice(list(old.sets))
            return replace(old, sets={**old.sets, name: dice.choice(list(other.sets.values()))})
        case 3:
            return replace(old, policies=dice.choice([other.policies, {}]))
        case 4:
            return replace(old, identities=other.identities)
        case 5:
            return replace(old, egress=dict(list(old.egress.items())[1:]))
        case 6 if rules:
            at = dice.randrange(len(rules))
            rules[at] = replace(rules[at], action=dice.choice(list(Action)[: 4 if tier < 3 else 3]))
    return replace(old, tiers={**old.tiers, tier: tuple(rules)})


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 30))
def test_no_connection_that_lost_its_rule_escapes(seed: int) -> None:
    dice = random.Random(seed)
    old, other = (random_network(dice)[0].ruleset for _ in range(2))
    new = old
    for _ in range(dice.randrange(1, 3)):
        new = changed(dice, new, other)
    found = suspects(old, new)
    before, after = Decider(old), Decider(new)
    for _ in range(60):
        packet = random_packet(dice)
        action, rule = before.decide(packet)
        if action is Action.ALLOW and after.decide(packet)[0] is not Action.ALLOW:
            assert found.has(flow_of(packet, rule)), packet


def ruleset(*rules: CompiledRule, **sets: AddressSet) -> Ruleset:
    return Ruleset(sets=sets, tiers={3: rules})


def of(*addresses: bytes) -> AddressSet:
    return AddressSet(tuple((each, each) for each in addresses))


def test_nothing_changed_means_nobody_is_suspected() -> None:
    same = ruleset(CompiledRule(1, None, None, (Service(),), Action.DROP))
    assert not suspects(same, same)
    assert not suspects(same, replace(same))


def test_a_new_allow_concerns_nobody() -> None:
    assert not suspects(ruleset(), ruleset(CompiledRule(1, None, None, (Service(),), Action.ALLOW)))


def test_a_new_refusal_concerns_the_smaller_of_its_ends() -> None:
    rule = CompiledRule(1, "a", "b", (Service(),), Action.DROP)
    found = suspects(ruleset(a=of(A), b=of(B, C)), ruleset(rule, a=of(A), b=of(B, C)))
    assert found == Suspects(ranges=((A, A),))


def test_a_member_that_leaves_an_allowing_rule_makes_its_connections_suspect_and_no_others() -> None:
    rule = CompiledRule(7, "a", None, (Service(),), Action.ALLOW)
    assert suspects(ruleset(rule, a=of(A, B)), ruleset(rule, a=of(B))) == Suspects(marks=frozenset({7}))
    assert not suspects(ruleset(rule, a=of(B)), ruleset(rule, a=of(A, B)))


def test_a_member_that_joins_a_refusing_rule_is_suspect() -> None:
    rule = CompiledRule(7, "a", None, (Service(),), Action.REJECT)
    assert suspects(ruleset(rule, a=of(B)), ruleset(rule, a=of(A, B))) == Suspects(ranges=((A, A),))
