"""What passes while somebody has flushed our table? (decisions 4) Nothing that is forwarded; then it is healed."""

from __future__ import annotations

import asyncio

import pytest

from cfbridge.simulator.lab import CELL, EXT
from egress.model import NetworkMode
from garden_plugin.dataplane.cell import device_name
from policy_sync.model import Action, Tier
from tests.packets.cell import Cell, at, cell, tcp

__all__ = ["cell"]
pytestmark = pytest.mark.packets

A, B = "10.240.1.5", "10.240.1.6"
A6, B6 = "2001:db8:f:1::5", "2001:db8:f:1::6"


async def healed(cell: Cell) -> str:
    for _ in range(300):
        if cell.drifts:
            return cell.drifts[-1]
        await asyncio.sleep(0.01)
    raise AssertionError("not healed within three seconds")


async def test_without_our_table_nothing_is_forwarded_in_any_direction(cell: Cell) -> None:
    a, b = cell.container("a", A, A6), cell.container("b", B, B6)
    outside = cell.lab.probe("ext")
    for probe in (a, b, outside):
        probe.listen("tcp", 8080)
    cell.policy("a", "b", 8080)
    cell.asg("out", ("0.0.0.0/0", 8080))
    cell.org("10.240.1.0/24", NetworkMode.ROUTED)
    cell.rule("in", Tier.APPLICATION, Action.ALLOW, at(EXT), at(B), tcp(8080))
    for prefix in cell.topology.pools:
        cell.lab.announce(prefix)
    await cell.converge()
    assert [a.tcp(B, 8080).result, a.tcp(B6, 8080).result] == ["open", "open"]
    assert [a.tcp(EXT, 8080).result, outside.tcp(B, 8080).result] == ["open", "open"]
    await cell.dataplane.close()  # so that nobody heals it
    cell.lab.cell.run("nft", "flush", "ruleset")
    cut = {
        "container to container": a.tcp(B, 8080, timeout=0.3).result,
        "on IPv6": a.tcp(B6, 8080, timeout=0.3).result,
        "container to outside": a.tcp(EXT, 8080, timeout=0.3).result,
        "outside to container": outside.tcp(B, 8080, timeout=0.3).result,
    }
    assert "open" not in cut.values(), cut
    cell.dataplane = cell._new()
    await cell.dataplane.open()
    await cell.converge()
    assert [a.tcp(B, 8080).result, a.tcp(EXT, 8080).result, outside.tcp(B, 8080).result] == ["open"] * 3


async def test_a_flushed_ruleset_is_healed_and_live_connections_go_on(cell: Cell) -> None:
    a, b = cell.container("a", A, mapped=[(61001, 8080)]), cell.container("b", B)
    for probe in (a, b):
        probe.listen("tcp", 8080)
    cell.policy("a", "b", 8080)
    await cell.converge()
    a.open_stream("s", B, 8080)
    assert a.flows("s")
    cell.lab.cell.run("nft", "flush", "ruleset")
    assert "table" in await healed(cell)
    assert a.flows("s", timeout=3)
    assert a.tcp(B, 8080).result == "open"
    assert a.tcp(B, 8081).result == "refused"
    assert cell.lab.probe("router").tcp(CELL, 61001).result == "open"


@pytest.mark.parametrize(
    "touch",
    [
        "flush chain inet cfbridge tier4",
        "insert rule inet cfbridge tier0 ct mark set 0x1 goto admit",
        "insert rule inet cfbridge forward accept",
        "add element inet cfbridge workload4 { 10.240.9.9 }",
        "flush set inet cfbridge live",
        "flush set inet cfbridge pools4",
        "add set inet cfbridge foreign { type mark; }",
    ],
)
async def test_every_foreign_touch_is_undone(cell: Cell, touch: str) -> None:
    a, b = cell.container("a", A), cell.container("b", B)
    b.listen("tcp", 8080)
    cell.policy("a", "b", 8080)
    await cell.converge()
    before = cell.listing()
    cell.lab.cell.run("nft", "-f", "-", stdin=touch)
    await healed(cell)
    assert sorted(cell.listing().splitlines()) == sorted(before.splitlines())
    assert a.tcp(B, 8080).result == "open"


async def test_other_tables_are_not_ours_and_nobody_is_alarmed_by_them(cell: Cell) -> None:
    await cell.converge()
    generation = cell.generation()
    cell.lab.cell.run("nft", "-f", "-", stdin="table ip foreign { chain c { }; }")
    for _ in range(30):
        await asyncio.sleep(0.01)
    await cell.dataplane.addresses()
    assert not cell.drifts
    assert cell.generation() == generation + 1
    assert "foreign" in cell.lab.cell.run("nft", "list", "tables")


@pytest.mark.parametrize(
    "harm",
    [
        "ip route flush table 7712",
        "ip -6 route flush table 7712",
        f"ip route del {B}/32 table 7712",
        "ip rule del priority 7712",
        "ip -6 rule del priority 7713",
        "ip route del blackhole 10.240.0.0/16",
        f"ip link delete {device_name('b')}",
        f"ip link set {device_name('b')} down",
        f"ip link set {device_name('b')} address 02:00:00:00:00:01",
        "ip address del 192.0.2.66/32 dev up0",
        "nft delete table inet cfbridge",
    ],
)
async def test_what_somebody_takes_from_us_is_back_within_three_seconds_and_reported(cell: Cell, harm: str) -> None:
    a, b = cell.container("a", A, A6), cell.container("b", B, B6)
    b.listen("tcp", 8080)
    cell.policy("a", "b", 8080)
    cell.org("10.240.1.0/24", NetworkMode.NAT, "192.0.2.66")
    await cell.converge()
    before = cell.routing()
    cell.lab.cell.run(*harm.split())
    await healed(cell)
    assert cell.routing() == before
    assert [a.tcp(B, 8080).result, a.tcp(B6, 8080).result] == ["open", "open"]


async def test_our_own_changes_are_no_drift(cell: Cell) -> None:
    cell.container("a", A, A6)
    cell.org("10.240.1.0/24", NetworkMode.NAT, "192.0.2.66")
    await cell.converge()
    cell.container("b", B, B6)
    await cell.converge()
    await cell.dataplane.detach([cell.local.ports["cf:b"]])
    generation = cell.generation()
    for _ in range(30):
        await asyncio.sleep(0.01)
    await cell.dataplane.addresses()
    assert not cell.drifts
    assert cell.generation() == generation


async def test_healing_leaves_foreign_tables_as_they_are(cell: Cell) -> None:
    cell.container("a", A)
    await cell.converge()
    cell.lab.cell.run("nft", "-f", "-", stdin='table inet foreign { chain c { counter comment "theirs"; }; }')
    before = cell.lab.cell.run("nft", "list", "table", "inet", "foreign")
    cell.lab.cell.run("nft", "delete", "table", "inet", "cfbridge")
    await healed(cell)
    assert cell.lab.cell.run("nft", "list", "table", "inet", "foreign") == before


async def test_a_bug_while_healing_is_told_and_not_passed_over(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException] = []
    heard = asyncio.Event()

    def broken(bug: BaseException) -> None:
        told.append(bug)
        heard.set()

    def heal() -> str:
        raise KeyError("a bug")

    await cell.converge()
    cell.dataplane.broken = broken
    monkeypatch.setattr(cell.dataplane, "_heal", heal)
    cell.lab.cell.run("nft", "flush", "ruleset")
    await asyncio.wait_for(heard.wait(), 30)
    assert [str(bug) for bug in told] == ["'a bug'"]
