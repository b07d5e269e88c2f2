"""Does a VM meet its neighbours, though its org's pool is a black hole to whatever carries no mark?"""

from __future__ import annotations

import asyncio

import pytest

from cfbridge.simulator.probe import Outcome
from egress.model import NetworkMode
from policy_sync.model import Action, Tier
from tests.packets.cell import Cell, at, cell, tcp

__all__ = ["cell"]
pytestmark = pytest.mark.packets

A, B, VM, GATEWAY = "10.240.1.5", "10.240.1.6", "10.240.1.9", "10.240.1.1"


async def test_a_vm_reaches_a_container_of_its_own_segment_by_rule_only(cell: Cell) -> None:
    a, b, vm = cell.container("a", A), cell.container("b", B), cell.vm("db", f"{VM}/24", GATEWAY, "cf:org")
    for probe in (a, b):
        probe.listen("tcp", 8080)
    vm.listen("tcp", 5432)
    cell.org("10.240.1.0/24", NetworkMode.ROUTED)
    await cell.converge()
    assert vm.tcp(A, 8080).result == "refused"
    cell.rule("db to web", Tier.APPLICATION, Action.ALLOW, at(VM), at(A), tcp(8080))
    cell.rule("web to db", Tier.APPLICATION, Action.ALLOW, at(A), at(VM), tcp(5432))
    await cell.converge()
    assert vm.tcp(A, 8080) == Outcome("open", VM)
    assert a.tcp(VM, 5432) == Outcome("open", A)
    assert vm.tcp(B, 8080).result == "refused"


@pytest.mark.parametrize("harm", ["delete table arp cfbridge", "flush table arp cfbridge", "flush ruleset"])
async def test_what_lets_a_vm_ask_is_healed(cell: Cell, harm: str) -> None:
    cell.container("a", A)
    vm = cell.vm("db", f"{VM}/24", GATEWAY, "cf:org")
    cell.org("10.240.1.0/24", NetworkMode.ROUTED)
    await cell.converge()
    before = cell.lab.cell.run("nft", "list", "table", "arp", "cfbridge")
    cell.lab.cell.run("nft", "-f", "-", stdin=harm)
    for _ in range(300):
        if cell.drifts:
            break
        await asyncio.sleep(0.01)
    assert cell.lab.cell.run("nft", "list", "table", "arp", "cfbridge") == before
    assert vm.tcp(A, 8080).result == "refused"  # an answer, so it was found


async def test_a_restart_finds_the_arp_table_as_it_was_and_the_last_vm_leaves_nothing_in_it(cell: Cell) -> None:
    cell.vm("db", f"{VM}/24", GATEWAY, "cf:org")
    cell.org("10.240.1.0/24", NetworkMode.ROUTED)
    await cell.converge()
    await cell.converge()  # the cell has one more address, its segment's gateway
    generation = cell.generation()
    await cell.restart()
    await cell.converge()
    assert cell.generation() == generation
    cell.forget_vms()
    await cell.converge()
    assert "tap-db" not in cell.lab.cell.run("nft", "list", "table", "arp", "cfbridge")


async def test_a_device_that_appears_late_is_adopted_without_anybody_asking(cell: Cell) -> None:
    a = cell.container("a", A)
    cell.vm("db", f"{VM}/24", GATEWAY, "cf:org")
    cell.org("10.240.1.0/24", NetworkMode.ROUTED)
    cell.rule("web to db", Tier.APPLICATION, Action.ALLOW, at(A), at(VM))
    cell.lab.cell.run("ip", "link", "delete", "tap-db")
    cell.lab.discard("db")
    await cell.converge()
    assert cell.dataplane.refused["vm port", "tap-db"].code == "DEVICE_IS_GONE"
    cell.lab.vm("db", "tap-db", f"{VM}/24", GATEWAY)
    cell.lab.probe("db").listen("tcp", 5432)
    for _ in range(300):
        if not cell.dataplane.refused:
            break
        await asyncio.sleep(0.01)
    assert a.tcp(VM, 5432) == Outcome("open", A)


async def test_a_container_that_cannot_be_plugged_holds_up_nobody(cell: Cell) -> None:
    a, b = cell.container("a", A), cell.container("b", B)
    b.listen("tcp", 8080)
    cell.policy("a", "b", 8080)
    cell.container("bad", "10.240.1.7")
    cell.lab.discard("bad")
    await cell.converge()
    device = cell.local.ports["cf:bad"].device
    assert cell.dataplane.refused["port", device].code == "NETNS_GONE"
    assert a.tcp(B, 8080).result == "open"
    generation = cell.generation()
    await cell.converge()
    assert cell.generation() == generation
    assert not cell.drifts
