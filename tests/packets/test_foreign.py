"""What can others' tables, rules and translations beside us do? Close, never open; and they stay as they are."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cfbridge.simulator.lab import CELL, EXT, UPLINK
from cfbridge.simulator.probe import Packet
from tests.packets.test_meddling import C6, A, B, Scene, lab, played, scene

__all__ = ["lab", "played", "scene"]
pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

ACCEPT = """
table inet theirs {
  chain early { type filter hook prerouting priority -400; policy accept; accept; }
  chain before { type filter hook forward priority -500; policy accept; accept; }
  chain after { type filter hook forward priority 500; policy accept; accept; }
  chain into { type filter hook input priority -500; policy accept; accept; }
}
"""
DROP = """
table inet theirs {
  chain before { type filter hook forward priority -500; policy drop; }
}
"""
NAT = f"""
table ip theirs {{
  chain in {{ type nat hook prerouting priority -150; policy accept;
    ip daddr {EXT} tcp dport 8080 dnat to {B}
    ip daddr {CELL} tcp dport 7777 dnat to {B}:8080
  }}
  chain out {{ type nat hook postrouting priority 50; policy accept;
    ip daddr {B} snat to {A}
  }}
}}
"""


@contextmanager
def beside(scene: Scene, script: str, family: str = "inet") -> Iterator[None]:
    """A table of theirs, that is there in the end as it was in the beginning."""
    run = scene.cell.lab.cell.run
    run("nft", "-f", "-", stdin=script)
    try:
        before = run("nft", "-s", "list", "table", family, "theirs")
        yield
        assert run("nft", "-s", "list", "table", family, "theirs") == before
    finally:
        run("nft", "delete", "table", family, "theirs")


async def denied(scene: Scene) -> bool:
    """Whether `c` still reaches nobody."""
    scene.c.send([Packet(C6, "2001:db8:f:1::6", 17, 5000, tag=1)])
    return await scene.arrived() == set() and scene.c.tcp(B, 8080).result == "refused"


async def test_an_accept_of_theirs_opens_nothing_before_ours_or_after(scene: Scene) -> None:
    with beside(scene, ACCEPT):
        assert await denied(scene)
        assert await scene.live()
    assert not scene.cell.drifts


async def test_a_drop_of_theirs_closes_and_is_left_to_them(scene: Scene) -> None:
    with beside(scene, DROP):
        assert scene.a.tcp(B, 8080, timeout=0.3).result == "timeout"
        assert await asyncio.to_thread(scene.c.tcp, B, 8080, timeout=0.3) != "open"
    assert scene.a.tcp(B, 8080, timeout=3).result == "open"
    assert not scene.cell.drifts


async def test_a_translation_of_theirs_leads_nobody_where_he_may_not_go(scene: Scene) -> None:
    """What is judged is where a packet goes to in the end."""
    outside = scene.cell.lab.probe("ext")
    outside.listen("tcp", 8080)
    assert scene.c.tcp(EXT, 8080).result == "open"
    before = scene.b.counted()["tcp:8080"]["connections"]
    with beside(scene, NAT, "ip"):
        assert scene.c.tcp(EXT, 8080).result == "refused"
        assert scene.cell.lab.probe("router").tcp(CELL, 7777).result == "refused"
        assert await denied(scene)
    assert scene.b.counted()["tcp:8080"]["connections"] == before
    assert scene.c.tcp(EXT, 8080).result == "open"


@pytest.mark.parametrize("tool", ["iptables-nft", "ip6tables-nft"])
async def test_iptables_beside_us_opens_nothing_and_stays_as_it_is_when_we_heal(scene: Scene, tool: str) -> None:
    run = scene.cell.lab.cell.run
    before = scene.there()
    run(tool, "-I", "FORWARD", "-j", "ACCEPT")
    run(tool, "-I", "INPUT", "-j", "ACCEPT")
    run(tool, "-t", "nat", "-A", "POSTROUTING", "-o", UPLINK, "-j", "MASQUERADE")
    save = f"{tool}-save"
    theirs = _rules(run(save))
    assert await denied(scene)
    scene.does("nft delete table inet cfbridge")
    assert await scene.healed(before)
    assert _rules(run(save)) == theirs
    assert await denied(scene)
    assert await scene.live()
    for table in ("filter", "nat"):
        run(tool, "-t", table, "-F")
    run("nft", "delete", "table", "ip6" if tool[2] == "6" else "ip", "filter")
    run("nft", "delete", "table", "ip6" if tool[2] == "6" else "ip", "nat")


def _rules(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if line.startswith(("-A", "*"))]


async def test_everything_of_theirs_is_as_it_was_when_we_have_healed_everything(scene: Scene) -> None:
    """Links, routes, rules, addresses and tables: even those that look like ours."""
    run = scene.cell.lab.cell.run
    run("nft", "-f", "-", stdin=ACCEPT)
    scene.cell.lab.cell.ip(
        """
        link add cf-foreign type veth peer name cf-other
        route add 10.99.0.0/16 dev lo table 7712
        route add blackhole 10.98.0.0/16
        rule add fwmark 0x1 lookup 7712 priority 100
        address add 192.0.2.77/32 dev up0
        """
    )
    before = [line for line in scene.there() if "theirs" not in line]
    asked = (
        ("nft", "-s", "list", "table", "inet", "theirs"),
        ("ip", "-o", "link", "show", "cf-foreign"),
        ("ip", "route", "show", "10.99.0.0/16", "table", "7712"),
        ("ip", "route", "show", "10.98.0.0/16"),
        ("ip", "rule", "show", "priority", "100"),
        ("ip", "-o", "address", "show", "to", "192.0.2.77"),
    )
    theirs = [run(*each) for each in asked]
    assert all(theirs)
    scene.does(
        """nft delete table inet cfbridge
        ip link delete <b>
        ip rule del priority 7712
        ip route del blackhole 10.240.0.0/16"""
    )
    await scene.healed(before)
    assert [run(*each) for each in asked] == theirs
    scene.cell.lab.cell.ip(
        """
        link delete cf-foreign
        route del 10.99.0.0/16 dev lo table 7712
        route del blackhole 10.98.0.0/16
        rule del fwmark 0x1 lookup 7712 priority 100
        address del 192.0.2.77/32 dev up0
        """
    )
    run("nft", "delete", "table", "inet", "theirs")


async def test_a_rule_of_theirs_before_ours_closes_and_opens_nothing(scene: Scene) -> None:
    """It is theirs, so it stays: what they lead away comes to no workload."""
    scene.cell.lab.cell.ip("route add default dev up0 table 99\nrule add from all lookup 99 priority 99\n")
    try:
        assert scene.a.tcp(B, 8080, timeout=0.3).result != "open"
        scene.c.send([Packet("10.240.1.7", B, 17, 5000, tag=1)])
    finally:
        scene.cell.lab.cell.ip("rule del from all lookup 99 priority 99\nroute flush table 99\n")
    assert await denied(scene)
    assert scene.a.tcp(B, 8080, timeout=3).result == "open"


async def test_nobody_waits_for_the_lock_of_iptables(scene: Scene) -> None:
    """We have tables of our own and no lock (silk-release#5)."""
    path = Path("/run/xtables.lock")
    there = path.exists()
    held = os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        newcomer = scene.cell.container("d", "10.240.1.8")
        await asyncio.wait_for(scene.cell.converge(), 30)
        assert newcomer.tcp(EXT, 8080).result == "open"
    finally:
        os.close(held)
        if not there:
            path.unlink(missing_ok=True)
