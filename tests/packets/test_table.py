"""Does the kernel hold what was wanted, from whatever it held before?"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from cfbridge.simulator.lab import Lab
from egress.values import pack
from garden_plugin.cell import nft
from garden_plugin.cell.netlink import Netlink
from garden_plugin.cell.nft_answers import Counted
from garden_plugin.cell.nft_sets import Shape, interval, mark, protocol, service
from garden_plugin.dataplane import plan
from garden_plugin.dataplane.base import Item, Key, LogicalNetwork
from garden_plugin.dataplane.cell import LocalState
from garden_plugin.dataplane.linux import skeleton
from garden_plugin.dataplane.linux.firewall import Firewall
from garden_plugin.dataplane.linux.items import SetItem
from garden_plugin.dataplane.linux.table import Table
from policy_sync.ruleset import IDENTITY_BIT
from tests.garden_plugin.dataplane.networks import random_network

pytestmark = pytest.mark.packets


@pytest.fixture
def table(lab: Lab) -> Iterator[Table]:
    descriptor = os.open(lab.cell.path, os.O_RDONLY | os.O_CLOEXEC)
    netlink = Netlink(descriptor)
    made = Table(netlink.inside)
    try:
        yield made
    finally:
        made.close()
        netlink.close()
        os.close(descriptor)


def firewall_of(network: LogicalNetwork, local: LocalState) -> dict[Key, Item]:
    return Firewall().render(network, local)


@pytest.mark.parametrize("seed", range(6))
def test_every_state_is_reached_from_every_other(table: Table, seed: int) -> None:
    dice = random.Random(seed)
    held: dict[Key, Item] = firewall_of(*random_network(dice))
    table.replace(held.values())
    assert table.observe(held) == held
    for _ in range(8):
        wanted = firewall_of(*random_network(dice))
        todo = plan.diff(held, wanted).changes
        table.fill(todo)
        table.retire(todo)
        seen = table.observe(wanted)
        assert seen is not None
        assert not plan.diff(seen, wanted), plan.describe(plan.diff(seen, wanted))
        held = wanted


def test_intervals_that_touch_come_and_go_one_by_one(table: Table) -> None:
    table.replace(())
    shape = skeleton.SETS["snat4"]
    base = pack("10.0.0.0")[:3]
    parts = [interval((base + bytes((low,)), base + bytes((low + 15,)))) for low in range(0, 256, 16)]
    dice = random.Random(1)
    held: dict[bytes, bytes | None] = {}
    for _ in range(60):
        part = dice.choice(parts)
        if part in held:
            table.nft.commit(nft.delete_elements("snat4", shape, {part: held.pop(part)}))
        else:
            held[part] = pack("192.0.2.66")
            table.nft.commit(nft.add_elements("snat4", shape, {part: held[part]}))
        assert table.nft.elements("snat4", shape) == held


def test_a_batch_with_one_bad_change_changes_nothing(table: Table) -> None:
    table.replace(())
    before = table.nft.generation()
    good = nft.add_elements("live", skeleton.SETS["live"], {mark(1): None})
    bad = nft.delete_elements("live", skeleton.SETS["live"], {mark(2): None})
    with pytest.raises(nft.Rejected, match="delete elements of live"):
        table.nft.commit([*good, *bad])
    assert table.nft.generation() == before
    assert table.nft.elements("live", skeleton.SETS["live"]) == {}


def test_a_batch_on_an_old_generation_is_refused(table: Table) -> None:
    table.replace(())
    old = table.nft.generation()
    table.nft.commit(nft.add_elements("live", skeleton.SETS["live"], {mark(1): None}), generation=old)
    with pytest.raises(nft.Rejected):
        table.nft.commit(nft.add_elements("live", skeleton.SETS["live"], {mark(2): None}), generation=old)


def test_twenty_thousand_elements_are_written_and_read_back(table: Table) -> None:
    table.replace(())
    shape = skeleton.SETS["allow"]
    head = mark(IDENTITY_BIT | 1) + mark(IDENTITY_BIT | 2) + protocol(6)
    elements: dict[bytes, bytes | None] = {head + service(port): mark(port) for port in range(1, 20001)}
    table.nft.commit(nft.add_elements("allow", shape, elements))
    assert table.nft.elements("allow", shape) == elements


def test_a_table_of_another_version_is_replaced_as_a_whole(table: Table) -> None:
    held = firewall_of(*random_network(random.Random(3)))
    nft_script = 'table inet cfbridge { comment "cfbridge schema=old"; set left { type mark; }; }'
    table._run(nft_script)
    assert table.observe(held) is None
    table.replace(held.values())
    assert table.observe(held) == held


def test_a_set_shows_what_it_counted(table: Table) -> None:
    table.replace([SetItem("live", skeleton.SETS["live"], {mark(7): None})])
    assert table.nft.counters("live") == {mark(7): Counted(0, 0)}
    assert Shape(("mark",)).key_size == 4
