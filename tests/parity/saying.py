"""How is a disagreement said to a person? The smallest world that still has it, in words. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from policy_sync import describe, translate
from policy_sync.model import Packet, Verdict, World


def shrink(world: World, packet: Packet, disagrees: Callable[[World, Packet], bool]) -> World:
    """The world without everything that the disagreement does not need. Greedy, by halves and then one by one."""
    smaller = True
    while smaller:
        smaller = False
        for part in ("rules", "policies", "asgs", "groups", "workloads"):
            kept = _needed(world, part, packet, disagrees)
            if kept is not world:
                world, smaller = kept, True
    return world


def _needed(world: World, part: str, packet: Packet, disagrees: Callable[[World, Packet], bool]) -> World:
    whole: Any = getattr(world, part)
    step = max(1, len(whole) // 2)
    while step:
        at = 0
        while at < len(getattr(world, part)):
            each = sorted(getattr(world, part), key=repr) if part == "policies" else getattr(world, part)
            less = replace(world, **{part: type(whole)((*each[:at], *each[at + step :]))})
            if disagrees(less, packet):
                world = less
            else:
                at += step
        step //= 2
    return world


def in_words(world: World, packet: Packet, expected: Verdict, seen: str) -> str:
    """The disagreement for a person: packet, what should have happened and by which rule, what happened, the world."""
    names = {address: each.name or each.id for each in world.workloads for address in each.addresses}
    lines = [
        describe.packet(packet, names),
        f"  expected  {expected.action.value} by {expected.rule or 'nobody'} in tier {expected.tier.name.lower()}",
        f"  seen      {seen}",
        "  in a world of",
        *(f"    {each.name or each.id} {', '.join(each.addresses)} {each.lifecycle.value}" for each in world.workloads),
        *(f"    {describe.group(each)}" for each in world.groups),
        *(f"    {describe.rule(each)}" for each in world.rules),
        *(f"    {describe.policy(each)}" for each in sorted(world.policies, key=translate.policy_key)),
        *(f"    {each.name}: {describe.garden(rule)}" for each in world.asgs for rule in each.rules),
    ]
    return "\n".join(lines)
