"""Does the memory dataplane decide as the ruleset means, and refuse what a kernel refuses?"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.values import pack
from garden_plugin.cell.nft_sets import Shape, interval
from garden_plugin.dataplane import plan
from garden_plugin.dataplane.base import Change, Plan
from garden_plugin.dataplane.linux.items import ChainItem, Line, SetItem
from garden_plugin.dataplane.memory import Memory, Rejected
from policy_sync.model import Action
from policy_sync.ruleset import Decider
from tests.garden_plugin.dataplane.networks import random_network, random_packet

ADDRESSES = Shape(("ipv4_addr",))
RANGES = Shape(("ipv4_addr",), interval=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30))
async def test_what_was_applied_decides_as_the_ruleset_means(seed: int) -> None:
    dice = random.Random(seed)
    memory = Memory()
    for _ in range(3):
        network, memory.local = random_network(dice)
        await memory.apply(plan.diff(await memory.observe(), memory.render(network)))
        decider = Decider(network.ruleset)
        for _ in range(40):
            packet = random_packet(dice)
            assert memory.decide(packet) == decider.decide(packet), packet


async def test_without_a_table_nothing_passes() -> None:
    dice = random.Random(1)
    memory = Memory()
    network, memory.local = random_network(dice)
    await memory.apply(plan.diff({}, memory.render(network)))
    memory.flush()
    assert memory.decide(random_packet(dice)) == (Action.DROP, 0)


def created(*items: SetItem | ChainItem) -> Plan:
    return Plan(tuple(Change(item.key, None, item) for item in items))


async def test_a_chain_may_not_name_a_set_that_is_not_there() -> None:
    with pytest.raises(Rejected, match="names the set nobody"):
        await Memory().apply(created(ChainItem("c", (Line(Action.ALLOW, 1, 4, "nobody"),))))


async def test_a_map_may_not_jump_to_a_chain_that_is_not_there() -> None:
    asg = SetItem("asg4", Shape(("ipv4_addr",), ("verdict",)), {pack("10.0.0.1"): b"nowhere"})
    with pytest.raises(Rejected, match="jumps to the chain nowhere"):
        await Memory().apply(created(asg))


async def test_intervals_of_one_set_may_not_overlap() -> None:
    low, middle, high = map(pack, ("10.0.0.0", "10.0.0.5", "10.0.0.9"))
    with pytest.raises(Rejected, match="overlap"):
        await Memory().apply(
            created(SetItem("s", RANGES, {interval((low, middle)): None, interval((middle, high)): None}))
        )


async def test_what_is_still_named_may_not_go() -> None:
    memory = Memory()
    named = SetItem("s", ADDRESSES, {pack("10.0.0.1"): None})
    await memory.apply(created(named, ChainItem("c", (Line(Action.ALLOW, 1, 4, "s"),))))
    with pytest.raises(Rejected, match="still named"):
        await memory.apply(Plan((Change(named.key, named, None),)))
    assert named.key in await memory.observe()


async def test_a_plan_against_something_else_than_what_is_there_is_refused_whole() -> None:
    memory = Memory()
    first, second = SetItem("a", ADDRESSES), SetItem("b", ADDRESSES)
    other = replace(second, elements={pack("10.0.0.1"): None})
    with pytest.raises(Rejected, match="not as it was believed"):
        await memory.apply(Plan((Change(first.key, None, first), Change(second.key, other, second))))
    assert await memory.observe() == {}
