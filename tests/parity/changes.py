"""What may change in a world while its connections live? Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from policy_sync import verdict
from policy_sync.model import Action, Lifecycle, Mode, Packet, Rule, World
from tests.parity import worlds

Change = Callable[[random.Random, World], World]


def random_change(rng: random.Random, world: World, packets: Sequence[Packet]) -> World:
    """One to three changes; every second time one of them takes away what decided about one of the packets."""
    if packets and rng.random() < 0.5:
        world = _undecided(rng, world, rng.choice(packets))
    for _ in range(rng.randint(1, 2)):
        world = rng.choice(_CHANGES)(rng, world)
    return world


def _undecided(rng: random.Random, world: World, packet: Packet) -> World:
    key = verdict.verdict(world, packet, worlds.numbered(world)).rule
    kind = key.partition(":")[0]
    if kind == "policy":
        return _fewer_policies(rng, world)
    if kind == "asg":
        return _other_bindings(rng, world)
    return replace(world, rules=tuple(each for each in world.rules if each.key != key or kind != "rule"))


def _fewer_policies(rng: random.Random, world: World) -> World:
    return replace(world, policies=frozenset(each for each in world.policies if rng.random() < 0.5))


def _more_policies(rng: random.Random, world: World) -> World:
    return replace(world, policies=world.policies | worlds.random_world(rng).policies)


def _fewer_rules(rng: random.Random, world: World) -> World:
    return replace(world, rules=tuple(e for e in world.rules if not e.key.startswith("rule:") or rng.random() < 0.6))


def _another_rule(rng: random.Random, world: World) -> World:
    return replace(world, rules=(worlds.random_rule(rng, 900 + rng.randrange(90), world.workloads), *world.rules))


def _changed_rule(rng: random.Random, world: World) -> World:
    said = [each for each in world.rules if each.key.startswith("rule:")]
    if not said:
        return _another_rule(rng, world)
    chosen = rng.choice(said)
    other = worlds.random_rule(rng, 0, world.workloads)
    changed: Rule = rng.choice(
        (
            replace(chosen, action=rng.choice((Action.ALLOW, Action.DROP, Action.REJECT))),
            replace(chosen, sources=other.sources),
            replace(chosen, destinations=other.destinations),
            replace(chosen, services=other.services),
            replace(chosen, applied_to=other.applied_to),
            replace(chosen, enabled=not chosen.enabled),
            replace(chosen, mode=Mode.WATCH if chosen.mode is Mode.ENFORCE else Mode.ENFORCE),
            replace(chosen, tier=other.tier),
        )
    )
    return replace(world, rules=tuple(changed if each is chosen else each for each in world.rules))


def _other_order(rng: random.Random, world: World) -> World:
    said = [each for each in world.rules if each.key.startswith("rule:")]
    rng.shuffle(said)
    return replace(world, rules=(*said, *(each for each in world.rules if not each.key.startswith("rule:"))))


def _other_groups(rng: random.Random, world: World) -> World:
    fresh = {each.name: each for each in worlds.random_groups(rng, world.workloads)}
    return replace(world, groups=tuple(fresh[e.name] if rng.random() < 0.5 else e for e in world.groups))


def _other_bindings(rng: random.Random, world: World) -> World:
    asgs = []
    for each in world.asgs:
        drawn = rng.random()
        if drawn < 0.3:
            asgs.append(each)
        elif drawn < 0.6:
            asgs.append(replace(each, running_spaces=frozenset(), running_default=not each.running_default))
        elif drawn < 0.8:
            asgs.append(replace(each, rules=each.rules[1:]))
    return replace(world, asgs=tuple(asgs))


def _asgs_read(rng: random.Random, world: World) -> World:
    """What Garden handed over gives way to what Cloud Controller says, or the other way round."""
    return replace(world, asgs_known=frozenset() if world.asgs_known else frozenset({worlds.FOUNDATION}))


def _one_goes(rng: random.Random, world: World) -> World:
    gone = rng.choice(world.workloads)
    return replace(world, workloads=tuple(each for each in world.workloads if each is not gone))


def _another_app(rng: random.Random, world: World) -> World:
    """An address has another holder now."""
    containers = [each for each in world.workloads if each.app]
    if not containers:
        return world
    one, other = rng.choice(containers), rng.choice(containers)
    changed = replace(one, app=other.app, space=other.space, org=other.org, lifecycle=rng.choice((*Lifecycle,)))
    return replace(world, workloads=tuple(changed if each is one else each for each in world.workloads))


_CHANGES: tuple[Change, ...] = (
    _fewer_policies,
    _more_policies,
    _fewer_rules,
    _another_rule,
    _another_rule,
    _changed_rule,
    _changed_rule,
    _other_order,
    _other_groups,
    _other_bindings,
    _asgs_read,
    _one_goes,
    _another_app,
)
