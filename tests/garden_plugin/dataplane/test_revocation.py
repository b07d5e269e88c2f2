"""Which dying rules need nobody to look for their connections first? Those whose connections nothing else allows."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from garden_plugin.dataplane.grown import Grown
from garden_plugin.dataplane.linux.conntrack import suspects
from garden_plugin.dataplane.linux.revocation import Ranged, hopeless
from policy_sync.model import Action, Service
from policy_sync.ruleset import IDENTITY_BIT, CompiledRule, Decider, PolicyMatch, RuleLabel, Ruleset
from tests.garden_plugin.dataplane.networks import random_network, random_packet

WEB, DB = IDENTITY_BIT | 1, IDENTITY_BIT | 2
AT_80 = PolicyMatch(WEB, DB, 6, 80, 80)


def ruleset(policies: dict[PolicyMatch, int], *rules: CompiledRule, databases: int = 2) -> Ruleset:
    identities = {"10.240.0.1": WEB} | {f"10.240.1.{n}": DB for n in range(databases)}
    labels = {number: RuleLabel(f"k{number}", "", 3) for number in policies.values()}
    return Ruleset(
        tiers={3: rules}, identities=identities, policies=policies, labels=labels, container_pools=("10.240.0.0/16",)
    )


def doomed(old: Ruleset, new: Ruleset) -> frozenset[int]:
    return hopeless(old, new, suspects(old, new), Decider(new).decide)


def test_a_policy_that_stood_alone_leaves_nothing_to_look_for() -> None:
    assert doomed(ruleset({AT_80: 7}), ruleset({})) == {7}


def test_datagrams_are_looked_for() -> None:
    assert doomed(ruleset({AT_80._replace(protocol=17): 7}), ruleset({})) == frozenset()


def test_a_policy_beside_a_rule_that_allows_the_same_is_looked_for() -> None:
    rule = CompiledRule(9, None, None, (Service(),), Action.ALLOW)
    assert doomed(ruleset({AT_80: 7}, rule), ruleset({}, rule)) == frozenset()


def test_a_rule_for_mapped_ports_alone_counts_too() -> None:
    rule = CompiledRule(9, None, None, (Service(),), Action.ALLOW, mapped_only=True)
    assert doomed(ruleset({AT_80: 7}, rule), ruleset({}, rule)) == frozenset()


def test_a_policy_whose_ports_another_takes_over_is_looked_for() -> None:
    wide = PolicyMatch(WEB, DB, 6, 70, 90)
    assert doomed(ruleset({AT_80: 7}), ruleset({wide: 8})) == frozenset()


def test_apps_with_many_instances_are_not_asked_about_one_by_one() -> None:
    assert doomed(ruleset({AT_80: 7}, databases=17), ruleset({}, databases=17)) == frozenset()


def test_where_addresses_moved_too_everybody_is_looked_for() -> None:
    new = replace(ruleset({}), identities={"10.240.0.1": DB})
    assert doomed(ruleset({AT_80: 7}), new) == frozenset()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 30))
def test_whoever_is_given_up_is_allowed_by_nothing(seed: int) -> None:
    dice = random.Random(seed)
    old = random_network(dice)[0].ruleset
    new = replace(old, policies={match: n for match, n in old.policies.items() if dice.random() < 0.5})
    left = {each.id for rules in (*new.tiers.values(), *new.profiles.values()) for each in rules}
    left |= {*new.policies.values()}
    new = replace(new, labels={number: label for number, label in new.labels.items() if number in left})
    before, after = Decider(old), Decider(new)
    found = hopeless(old, new, suspects(old, new), after.decide)
    for _ in range(100):
        packet = random_packet(dice)
        action, rule = before.decide(packet)
        if action is Action.ALLOW and rule in found:
            assert after.decide(packet)[0] is not Action.ALLOW, packet


def test_policies_of_several_ports_are_known_as_they_come_and_go() -> None:
    wide = PolicyMatch(WEB, DB, 6, 70, 79)
    first = Grown({}, {AT_80: 7, wide: 8})
    second = Grown(first, {}, [wide])
    kept = Ranged()
    assert set(kept.of(first)) == {wide}
    assert set(kept.of(second)) == set()
    assert set(kept.of({wide: 8})) == {wide}
