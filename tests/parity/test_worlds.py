"""Do the worlds and packets of the parity runner meet everything, and are disagreements said well?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import pytest

from egress.values import qualify
from policy_sync import compiler, ruleset, verdict
from policy_sync.model import Action, CfPolicy, Kind, Packet, Protocol, World
from tests.parity import coverage, saying, worlds
from tests.parity.coverage import Coverage


def made(seed: int, packets: int = 40) -> tuple[World, list[Packet]]:
    rng = random.Random(seed)
    world = worlds.random_world(rng)
    return world, worlds.random_packets(rng, world, packets)


def test_a_seed_makes_the_same_world_and_packets_again():
    assert made(7) == made(7)
    assert made(7) != made(8)


def covered(seeds: Iterable[int], only: Callable[[Packet], bool] = lambda _: True) -> Coverage:
    found = Coverage()
    for seed in seeds:
        world, sent = made(seed)
        ids = worlds.numbered(world)
        found.add(world, [each for each in sent if only(each)], partial(verdict.verdict, world, ids=ids), ids)
    return found


def test_worlds_meet_everything_that_decides_often_enough():
    found = covered(range(150))
    assert found.lacking() == []
    shares = found.shares()
    assert all(shares[f"by:{kind}"] > 0.01 for kind in ("policy", "asg", "garden", "rule", "system"))
    assert shares["mapped"] > 0.01


def test_what_is_met_too_seldom_is_said_with_its_share():
    found = covered(range(3), lambda packet: packet.protocol is not Protocol.ICMP and ":" not in packet.source)
    assert "an ICMP type or code: 0.00% of at least 1%" in found.lacking()


def test_half_of_the_packets_are_ipv6_and_everything_that_decides_decides_on_it_too():
    assert 0.4 < covered(range(60)).shares()["v6"] < 0.6
    six = covered(range(60), lambda packet: ":" in packet.source).shares()
    wanted = {f"action:{action.value}" for action in Action if action is not Action.PASS}
    wanted |= {f"by:{kind}" for kind in ("policy", "asg", "garden", "rule", "system")}
    assert all(six[name] for name in wanted | coverage.DEFAULTS | {"mapped", "a pass"})


def test_compiler_and_oracle_agree_in_these_worlds():
    for seed in range(40):
        world, packets = made(seed)
        ids = worlds.numbered(world)
        compiled = compiler.compile_ruleset(world, ids).ruleset
        decider = ruleset.Decider(compiled)
        for packet in packets:
            action, number = decider.decide(packet)
            judged = verdict.verdict(world, packet, ids)
            assert (action, compiled.labels[number].key) == (judged.action, judged.rule), saying.in_words(
                world, packet, judged, action.value
            )


def test_packets_are_such_as_a_wire_can_carry():
    for seed in range(20):
        world, packets = made(seed)
        owners = {address: each for each in world.workloads for address in each.addresses}
        for packet in packets:
            assert packet.source != packet.destination
            assert (":" in packet.source) == (":" in packet.destination)
            assert packet.protocol in (Protocol.TCP, Protocol.UDP, Protocol.ICMP, Protocol.ICMPV6)
            if packet.mapped:
                assert owners[packet.destination].kind is Kind.CONTAINER
                assert packet.protocol is Protocol.TCP


def forgetful(world: World, packet: Packet) -> bool:
    """A dataplane that knows no network policies: disagrees where one decides."""
    return (
        verdict.verdict(world, packet).allowed != verdict.verdict(replace(world, policies=frozenset()), packet).allowed
    )


def test_a_disagreement_is_shrunk_to_what_it_needs():
    found = next(
        (world, each) for seed in range(200) for world, sent in [made(seed)] for each in sent if forgetful(world, each)
    )
    world, packet = found
    small = saying.shrink(world, packet, forgetful)
    assert forgetful(small, packet)
    assert len(small.policies) == 1
    assert len(small.workloads) == 2
    assert not small.rules
    assert not small.asgs
    said = saying.in_words(small, packet, verdict.verdict(small, packet), "reject")
    (policy,) = small.policies
    assert f"{policy.source} may open" in said
    assert f"expected  allow by policy:{policy.source}>{policy.destination}" in said
    assert "seen      reject" in said


def broken_ports(compiled: ruleset.Ruleset) -> ruleset.Ruleset:
    return replace(compiled, policies={m._replace(last_port=m.last_port + 1): n for m, n in compiled.policies.items()})


def broken_profiles(compiled: ruleset.Ruleset) -> ruleset.Ruleset:
    wide = {
        name: tuple(replace(rule, destinations=None) for rule in rules) for name, rules in compiled.profiles.items()
    }
    return replace(compiled, profiles=wide)


def broken_cell(compiled: ruleset.Ruleset) -> ruleset.Ruleset:
    everything = {name: tuple(replace(rule, destinations=None) for rule in p) for name, p in compiled.profiles.items()}
    return replace(compiled, cell_addresses=(), profiles=everything)


def broken_order(compiled: ruleset.Ruleset) -> ruleset.Ruleset:
    return replace(compiled, tiers={tier: rules[::-1] for tier, rules in compiled.tiers.items()})


def broken_pass(compiled: ruleset.Ruleset) -> ruleset.Ruleset:
    kept = {t: tuple(each for each in rules if each.action is not Action.PASS) for t, rules in compiled.tiers.items()}
    return replace(compiled, tiers=kept)


def broken_watch(compiled: ruleset.Ruleset) -> ruleset.Ruleset:
    return replace(
        compiled, tiers={t: tuple(replace(each, watch=False) for each in rules) for t, rules in compiled.tiers.items()}
    )


def broken_mapped(compiled: ruleset.Ruleset) -> ruleset.Ruleset:
    return replace(
        compiled, tiers={t: tuple(replace(r, mapped_only=False) for r in rules) for t, rules in compiled.tiers.items()}
    )


def broken_staging(compiled: ruleset.Ruleset) -> ruleset.Ruleset:
    some = next(iter(compiled.identities.values()), 0)
    return replace(compiled, identities=dict.fromkeys(compiled.egress, some) | dict(compiled.identities))


@pytest.mark.parametrize(
    "fault",
    [
        broken_ports,
        broken_profiles,
        broken_cell,
        broken_order,
        broken_pass,
        broken_watch,
        broken_mapped,
        broken_staging,
    ],
)
def test_a_planted_fault_is_found_within_a_few_hundred_worlds(fault):
    for seed in range(400):
        world, packets = made(seed)
        ids = worlds.numbered(world)
        decider = ruleset.Decider(fault(compiler.compile_ruleset(world, ids).ruleset))
        if any(decider.decide(each)[0] is not verdict.verdict(world, each, ids).action for each in packets):
            return
    pytest.fail("nobody noticed")


def test_words_say_the_packet_first_and_then_the_world():
    policy = CfPolicy(qualify("cf", "a"), qualify("cf", "b"), Protocol.TCP, 80, 80)
    packet = Packet("10.0.0.1", "10.0.0.2", Protocol.TCP, 80, mapped=True)
    world = World(policies=frozenset({policy}))
    said = saying.in_words(world, packet, verdict.verdict(world, packet), "allow")
    assert said.splitlines()[0] == "10.0.0.1 opens tcp 80 to 10.0.0.2, by a mapped port"
    assert "cf:a may open tcp 80 to cf:b · cf network policy" in said
