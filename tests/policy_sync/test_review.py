"""Are rules found that do nothing, or too much, and none of those that do something?"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from policy_sync import compiler, verdict
from policy_sync.model import ANY, Action, Mode, Protocol, Rule, Selector, SelectorKind, Service, Tier, World
from policy_sync.review import Finding, review
from tests.parity import worlds

TCP80, TCP = Service(Protocol.TCP, ((80, 80),)), Service(Protocol.TCP)
NOW = 1_000.0


def near(address: str) -> tuple[Selector, ...]:
    return (Selector(SelectorKind.RANGE, address),)


def rule(name: str, action: Action = Action.DROP, **said: object) -> Rule:
    return replace(Rule(f"rule:{name}", name, Tier.ENVIRONMENT, ANY, ANY, action), **said)  # type: ignore[arg-type]


def found(*rules: Rule) -> list[tuple[str, str, str]]:
    """Kind, rule and the other one, by name."""
    world = World(rules=rules)
    ids = {key: number for number, key in enumerate(compiler.rule_keys(world), 1)}
    compiled = compiler.compile_ruleset(world, ids, now=NOW).ruleset
    return [
        (each.kind, each.rule.removeprefix("rule:"), each.other.removeprefix("rule:"))
        for each in review(rules, compiled, NOW)
    ]


NARROW = rule("narrow", sources=near("10.0.0.1"), services=(TCP80,))


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (rule("first"), "redundant"),
        (rule("first", Action.REJECT), "shadowed"),
        (rule("first", Action.PASS), "shadowed"),
        (rule("first", sources=near("10.0.0.0/24"), services=(TCP,)), "redundant"),
        (rule("first", services=(Service(Protocol.TCP, ((1, 100),)),)), "redundant"),
        (rule("first", services=(Service(Protocol.UDP), TCP)), "redundant"),
        (rule("first", sources=near("10.0.0.2")), ""),
        (rule("first", sources=near("10.0.0.1"), destinations=near("10.9.0.0/16")), ""),
        (rule("first", services=(Service(Protocol.TCP, ((81, 90),)),)), ""),
        (rule("first", services=(Service(Protocol.UDP),)), ""),
        (rule("first", tier=Tier.BASELINE), ""),
        (rule("first", mode=Mode.WATCH), ""),
        (rule("first", enabled=False), ""),
    ],
)
def test_a_rule_is_held_against_those_before_it(first: Rule, kind: str) -> None:
    assert found(first, NARROW) == ([(kind, "narrow", "first")] if kind else [])


def test_what_stands_behind_covers_nothing() -> None:
    assert found(NARROW, rule("later")) == []


def test_a_rule_that_names_nobody_or_expired_is_empty() -> None:
    nobody = rule("nobody", sources=(Selector(SelectorKind.GROUP, "none"),))
    expired = rule("expired", Action.ALLOW, sources=near("10.0.0.1"), expires_at=NOW - 1)
    assert found(nobody, expired) == [("empty", "nobody", ""), ("empty", "expired", "")]


def test_what_is_disabled_or_on_watch_is_no_finding() -> None:
    off = rule("off", enabled=False, sources=(Selector(SelectorKind.GROUP, "none"),))
    assert found(rule("first"), off, replace(NARROW, mode=Mode.WATCH)) == []


def test_an_allow_of_everything_to_everybody_is_wide() -> None:
    assert found(rule("all", Action.ALLOW)) == [("wide", "all", "")]
    assert found(rule("some", Action.ALLOW, services=(TCP,)), rule("none")) == []


def test_a_type_of_icmp_is_covered_by_all_types_and_not_the_other_way_round() -> None:
    ping, icmp = Service(Protocol.ICMP, icmp_type=8), Service(Protocol.ICMP)
    assert found(rule("a", services=(icmp,)), rule("b", services=(ping,))) == [("redundant", "b", "a")]
    assert found(rule("a", services=(ping,)), rule("b", services=(icmp,))) == []


@pytest.mark.parametrize("seed", range(60))
def test_without_what_is_shadowed_redundant_or_empty_every_packet_is_decided_as_before(seed: int) -> None:
    rng = random.Random(seed)
    world = worlds.random_world(rng)
    ids = worlds.numbered(world)
    compiled = compiler.compile_ruleset(world, ids).ruleset
    findings: list[Finding] = [each for each in review(world.rules, compiled, NOW) if each.kind != "wide"]
    idle = {each.rule for each in findings}
    without = replace(world, rules=tuple(each for each in world.rules if each.key not in idle))
    for packet in worlds.random_packets(rng, world, 30):
        assert verdict.verdict(without, packet, ids) == verdict.verdict(world, packet, ids)


def test_random_worlds_have_such_rules() -> None:
    kinds = set()
    for seed in range(60):
        world = worlds.random_world(random.Random(seed))
        compiled = compiler.compile_ruleset(world, worlds.numbered(world)).ruleset
        kinds |= {each.kind for each in review(world.rules, compiled, NOW)}
    assert kinds >= {"shadowed", "redundant", "empty"}
