"""What if somebody deletes, changes or adds to what is ours? It is healed and said, and nothing denied passes."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from cfbridge.simulator.lab import CELL, EXT, UPLINK, Lab, Namespace
from cfbridge.simulator.probe import Packet, Probe
from egress.model import NetworkMode
from egress.topology import container_mac
from garden_plugin.cell import netlink, sysctls
from garden_plugin.dataplane.cell import device_name
from garden_plugin.dataplane.linux.pace import FREE, Pace
from garden_plugin.dataplane.linux.skeleton import SETS
from policy_sync import translate
from policy_sync.model import Action, Protocol, Tier
from tests.packets.cell import Cell, at, tcp

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

A, B, C = "10.240.1.5", "10.240.1.6", "10.240.1.7"
A6, B6, C6 = "2001:db8:f:1::5", "2001:db8:f:1::6", "2001:db8:f:1::7"
VM, TAP = "10.30.0.5", "tap-vm1"
DEVICE = device_name("b")
FENCE = 0x7F000001
SOON_SECONDS = 30.0
"""Generous: three seconds are promised, of a machine that has time."""

FLOOD = """
import socket, sys, time
wires = [(socket.socket(family, socket.SOCK_DGRAM), to) for family, to in
         ((socket.AF_INET, sys.argv[1]), (socket.AF_INET6, sys.argv[2]))]
sent = 0
while True:
    for wire, to in wires:
        sent += 1
        try:
            wire.sendto(b"cfbridge" + (0x01000000 + sent).to_bytes(4, "big"), (to, 5000))
        except OSError:
            pass
    time.sleep(0.001)
"""
"""What is denied, a thousand times a second on each family, for ever."""


@dataclass
class Scene:
    """`a` may reach `b`, with a stream that lives; `c` may not, and tries all the time."""

    cell: Cell
    a: Probe
    b: Probe
    c: Probe
    admits: int
    """Id of the rule by which `a` may send datagrams to `b`."""

    def there(self) -> list[str]:
        """Everything of ours in the kernel, in words that don't change by healing."""
        run = self.cell.lab.cell.run
        rules = [*self.cell.listing().splitlines(), *run("nft", "list", "table", "arp", "cfbridge").splitlines()]
        neighbours = run("ip", "neigh", "show", "nud", "permanent").splitlines()
        return [*sorted(rules), *sorted(neighbours), *self.cell.routing(), *self._settings()]

    def _settings(self) -> list[str]:
        names = [f"ipv4/conf/{d}/{s}" for d in ("all", DEVICE, TAP) for s in ("rp_filter", "forwarding", "proxy_arp")]
        names += ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/src_valid_mark"]
        names += ["ipv4/conf/all/send_redirects", f"ipv6/conf/{DEVICE}/disable_ipv6"]
        names += ["netfilter/nf_conntrack_tcp_loose"]
        descriptor = self.cell._descriptor
        return netlink.inside(descriptor, lambda: [f"{name}={sysctls.read(name)}" for name in names])

    def does(self, deed: str) -> None:
        """As root on the cell would; `nft …` is one script, lines of `ip` and `sysctl` are commands."""
        words = {"b": DEVICE, **{name: f"{number:#x}" for name, number in self.identities().items()}}
        words["live"] = f"{self.admits:#x}"
        for line in deed.strip().splitlines():
            said = re.sub(r"<(\w+)>", lambda found: words[found[1]], line.strip())
            said = re.sub(r"#(\w+)/(\d+)", lambda found: self._handle(found[1], int(found[2])), said)
            tool, _, rest = said.partition(" ")
            if tool == "nft":
                self.cell.lab.cell.run("nft", "-f", "-", stdin=rest)
            elif tool == "sysctl":
                self.cell.lab.cell.sysctl(rest)
            else:
                self.cell.lab.cell.run(tool, *rest.split())

    def _handle(self, chain: str, number: int) -> str:
        listed = self.cell.lab.cell.run("nft", "-a", "list", "chain", "inet", "cfbridge", chain)
        return re.findall(r"# handle (\d+)$", listed, re.MULTILINE)[number + 1]

    def identities(self) -> dict[str, int]:
        held = self.cell._held
        assert held is not None
        return {name: held.ruleset.identities[address] for name, address in (("A", A), ("B", B), ("C", C))}

    async def healed(self, before: list[str]) -> str:
        """What was said, once all is as it was before."""
        deadline = time.monotonic() + SOON_SECONDS
        while time.monotonic() < deadline:
            if self.cell.drifts and await asyncio.to_thread(self._same, before):
                return "; ".join(self.cell.drifts)
            await asyncio.sleep(0.02)
        now = self.there()
        gone, come = [x for x in before if x not in now], [x for x in now if x not in before]
        raise AssertionError(f"not healed; said {self.cell.drifts}; lost {gone}; gained {come}")

    def _same(self, before: list[str]) -> bool:
        try:
            return self.there() == before
        except RuntimeError:  # a table that is listed is away
            return False

    async def arrived(self) -> set[int]:
        """Tags of what came to `b` since the last call, up to a packet that may."""

        def ask() -> set[int]:
            self.a.send([Packet(A, B, 17, 5000, tag=FENCE)])
            return set(self.b.heard(FENCE, timeout=10)[0])

        return await asyncio.to_thread(ask) - {FENCE}

    async def live(self) -> bool:
        return await asyncio.to_thread(self.a.flows, "mine", timeout=10)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def played(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    cell = Cell(lab, str(tmp_path_factory.mktemp("state")))
    await cell.dataplane.open()
    a = cell.container("a", A, A6, mapped=[(61001, 8080)])
    b, c = cell.container("b", B, B6), cell.container("c", C, C6)
    cell.vm("vm1", f"{VM}/24", "10.30.0.1")
    b.listen("tcp", 8080)
    b.listen("udp", 5000)  # it answers: only then is what slipped in a connection that has to be cut
    a.listen("tcp", 8080)
    cell.policy("a", "b", 8080)
    cell.policy("a", "b", 9000, 9010)
    datagrams = cell.policy("a", "b", 5000, protocol=Protocol.UDP)
    cell.asg("out", ("0.0.0.0/0", 8080), ("::/0", 8080))
    cell.org("10.240.1.0/24", NetworkMode.NAT, "192.0.2.66")
    cell.org("10.240.2.0/24", NetworkMode.NAT)
    cell.rule("seen", Tier.APPLICATION, Action.ALLOW, at(EXT), at(B), tcp(8080), log=True)
    cell.rule("never", Tier.EMERGENCY, Action.DROP, at("10.240.3.0/24"), at(B), tcp(22))
    await cell.converge()
    scene = Scene(cell, a, b, c, cell.id_of(translate.policy_key(datagrams)))
    a.open_stream("mine", B, 8080)
    b.hear()
    flood = Namespace(f"cfb-{lab.run_id}-c").command(sys.executable, "-S", "-c", FLOOD, B, B6)
    child = await asyncio.to_thread(subprocess.Popen, flood)
    try:
        yield scene
    finally:
        child.kill()
        child.wait()
        await cell.close()


@pytest_asyncio.fixture(loop_scope="module")
async def scene(played: Scene) -> Scene:
    """As it should be, with nothing said yet and no haste."""
    played.cell.drifts.clear()
    played.cell.dataplane._pace = Pace()
    await played.arrived()
    return played


CLOSES = {
    "the table": ("nft delete table inet cfbridge", "table inet cfbridge was deleted"),
    "everything": ("nft flush ruleset", "table inet cfbridge was deleted"),
    "the table for ARP": ("nft delete table arp cfbridge", "table arp cfbridge was deleted"),
    "the table, made dormant": ("nft add table inet cfbridge { flags dormant; }", "was made dormant"),
    "all rules of the guard": ("nft flush chain inet cfbridge guard", "taken from chain guard"),
    "all rules of a tier": ("nft flush chain inet cfbridge tier4", "taken from chain tier4"),
    "one rule of the frame": ("nft delete rule inet cfbridge forward handle #forward/1", "1 rule was taken from chain"),
    "one rule of a tier": ("nft delete rule inet cfbridge tier4 handle #tier4/1", "1 rule was taken from chain tier4"),
    "a rule that drops": ("nft insert rule inet cfbridge forward drop", "1 rule was added to chain forward"),
    "the policy of a chain": ("nft add chain inet cfbridge forward { policy drop; }", "given the policy drop"),
    "a chain of theirs": (
        "nft add chain inet cfbridge theirs { type filter hook forward priority -200; policy drop; }",
        "chain theirs was added",
    ),
    "chains of theirs that jump": (
        "nft add chain inet cfbridge t1; add chain inet cfbridge t2; add rule inet cfbridge t2 jump t1",
        "chain t2 was added",
    ),
    "a counter of theirs": ("nft add counter inet cfbridge theirs", "theirs was added to table inet cfbridge"),
    "a set of theirs": ("nft add set inet cfbridge theirs { type mark; }", "set theirs was added"),
    "a workload's route": (f"ip route del {B}/32 table 7712", f"route {B} was deleted"),
    "a route, led elsewhere": (f"ip route replace {B}/32 dev {UPLINK} table 7712", f"route {B} was deleted"),
    "our route, led elsewhere": (
        f"ip route replace {B}/32 dev {UPLINK} table 7712 proto 112",
        f"route {B} was led to {UPLINK}",
    ),
    "a route on IPv6": (f"ip -6 route del {B6}/128 table 7712", f"route {B6} was deleted"),
    "all routes": ("ip route flush table 7712", f"route {A} was deleted"),
    "a rule of routing": ("ip rule del priority 7712", "IPv4 rule 7712 was deleted"),
    "a rule of routing on IPv6": ("ip -6 rule del priority 7713", "IPv6 rule 7713 was deleted"),
    "a black hole": ("ip route del blackhole 10.240.0.0/16", "blackhole 10.240.0.0/16 was deleted"),
    "a black hole on IPv6": ("ip -6 route del blackhole 2001:db8:f::/48", "blackhole 2001:db8:f::/48 was deleted"),
    "a neighbour": (f"ip neigh del {B} dev <b>", f"neighbour {B} was deleted"),
    "a neighbour, replaced": (
        f"ip neigh replace {B} lladdr 02:00:00:00:00:01 dev <b> nud permanent",
        f"neighbour {B} was given the MAC 02:00:00:00:00:01",
    ),
    "a neighbour that may change": (
        f"ip neigh replace {B} lladdr 02:00:00:00:00:01 dev <b> nud reachable",
        f"neighbour {B} was deleted",
    ),
    "a neighbour on IPv6": (f"ip neigh del {B6} dev <b>", f"neighbour {B6} was deleted"),
    "a link": ("ip link delete <b>", f"link {DEVICE} of b was deleted"),
    "a link that is down": ("ip link set <b> down", f"link {DEVICE} of b was changed: it is down"),
    "a link by another name": ("ip link set <b> name theirs", f"link {DEVICE} of b was deleted"),
    "a link's group": ("ip link set <b> group 0", "its group is 0"),
    "a link's alias": ("ip link set <b> alias theirs", "its alias is not what we wrote"),
    "a link's MAC": ("ip link set <b> address 02:00:00:00:00:01", "its MAC is 02:00:00:00:00:01"),
    "the address that an org leaves by": (
        f"ip address del 192.0.2.66/32 dev {UPLINK}",
        f"address 192.0.2.66 of {UPLINK} was deleted",
    ),
    "forwarding": ("sysctl net.ipv4.ip_forward=0", "setting ipv4.ip_forward was changed to 0"),
    "forwarding on IPv6": ("sysctl net.ipv6.conf.all.forwarding=0", "ipv6.conf.all.forwarding was changed to 0"),
    "what a mark means": ("sysctl net.ipv4.conf.all.src_valid_mark=0", "src_valid_mark was changed to 0"),
    "redirects": ("sysctl net.ipv4.conf.all.send_redirects=1", "send_redirects was changed to 1"),
    "flows from the middle": ("sysctl net.netfilter.nf_conntrack_tcp_loose=1", "tcp_loose was changed to 1"),
    "the reverse path check of all": (
        f"""sysctl net.ipv4.conf.all.rp_filter=1
        sysctl net.ipv4.conf.default.rp_filter=1
        sysctl net.ipv4.conf.{DEVICE}.rp_filter=1
        sysctl net.ipv4.conf.{TAP}.rp_filter=1""",
        "ipv4.conf.all.rp_filter was changed to 1",
    ),
    "forwarding of a link": (f"sysctl net.ipv4.conf.{DEVICE}.forwarding=0", "forwarding is off"),
    "IPv6 of a link": (f"sysctl net.ipv6.conf.{DEVICE}.disable_ipv6=1", "IPv6 is off"),
    "proxy ARP of a VM": (f"sysctl net.ipv4.conf.{TAP}.proxy_arp=0", f"device {TAP} of a VM was changed"),
}
"""What somebody takes or adds, and what is to be said of it. None of it opens anything, not for a moment."""


@pytest.mark.parametrize("what", CLOSES)
async def test_what_somebody_does_to_ours_is_undone_and_said_and_opens_nothing(scene: Scene, what: str) -> None:
    deed, expected = CLOSES[what]
    before = scene.there()
    began = time.monotonic()
    scene.does(deed)
    said = await scene.healed(before)
    print(f"healed {what}: {time.monotonic() - began:.2f} s: {said}")
    assert expected in said
    assert await scene.arrived() == set()
    assert await scene.live()
    assert scene.a.tcp(B, 8080).result == "open"
    assert scene.a.tcp(B6, 8080).result == "open"


async def test_a_link_in_somebodys_bridge_is_taken_out_of_it_and_the_bridge_stays(scene: Scene) -> None:
    scene.does("ip link add theirs address 02:00:00:00:00:02 type bridge")
    before = scene.there()
    scene.does("ip link set <b> master theirs")
    assert "it belongs to a bridge" in await scene.healed(before)
    assert "theirs" in scene.cell.lab.cell.run("ip", "-brief", "link", "show", "type", "bridge")
    scene.does("ip link delete theirs")
    assert await scene.arrived() == set()


EMPTY = {"vm_src6", "netin6", "netin_ok6", "hairpin6", "snat6", "snat_address6", "blocked4", "blocked6"}
"""Sets that hold nothing here."""
ADDED = {
    "uplinks": '"theirs"',
    "vm_ports": '"theirs"',
    "port_src4": f'"{device_name("c")}" . {A} . {container_mac(C)}',
    "port_src6": f'"{device_name("c")}" . {A6} . {container_mac(C)}',
    "vm_src4": f'"{TAP}" . {A}',
    "vm_src6": f'"{TAP}" . {A6}',
    "workload4": "10.240.9.9",
    "workload6": "2001:db8:f:9::9",
    "pools4": "10.99.0.0-10.99.255.255",
    "pools6": "2001:db8:9::-2001:db8:9::ffff",
    "live": "0x77",
    "refused": "0x77",
    "logged": "0x77",
    "netin4": f"{CELL} . 61002 : {B} . 8080",
    "netin6": f"2001:db8::10 . 61002 : {B6} . 8080",
    "netin_ok4": f"{B} . 8080",
    "netin_ok6": f"{B6} . 8080",
    "hairpin4": f"{C} . {B}",
    "hairpin6": f"{C6} . {B6}",
    "snat4": "10.240.9.0-10.240.9.255 : 192.0.2.99",
    "snat6": "2001:db8:f:9::-2001:db8:f:9::ffff : 2001:db8::99",
    "snat_address4": "192.0.2.99",
    "snat_address6": "2001:db8::99",
    "blocked4": B,
    "blocked6": "2001:db8:9::-2001:db8:9::ffff",
    "asg4": "10.240.9.9 : jump tier4",
    "asg6": "2001:db8:f:9::9 : jump tier4",
}
"""An element of theirs in each set of ours where it opens nothing by itself."""


async def test_every_set_is_meddled_with() -> None:
    assert SETS.keys() - ADDED.keys() == {"identity4", "identity6", "allow", "allow_range"}  # those open: see below


@pytest.mark.parametrize("name", sorted(SETS.keys() - EMPTY))
async def test_a_set_that_somebody_empties_is_filled_again(scene: Scene, name: str) -> None:
    before = scene.there()
    scene.does(f"nft flush {'map' if SETS[name].data else 'set'} inet cfbridge {name}")
    assert f"set {name} lost" in await scene.healed(before)
    assert await scene.arrived() == set()
    assert await scene.live()
    assert scene.a.tcp(B, 8080).result == "open"


@pytest.mark.parametrize("name", sorted(ADDED))
async def test_an_element_that_somebody_adds_is_taken_out_again(scene: Scene, name: str) -> None:
    before = scene.there()
    scene.does(f"nft add element inet cfbridge {name} {{ {ADDED[name]} }}")
    said = await scene.healed(before)
    assert f"set {name} gained 1 element ({ADDED[name]})" in said
    assert await scene.arrived() == set()
    assert await scene.live()


async def test_an_element_that_somebody_takes_out_is_named(scene: Scene) -> None:
    before = scene.there()
    scene.does(f"nft delete element inet cfbridge workload4 {{ {B} }}")
    assert f"set workload4 lost 1 element ({B})" in await scene.healed(before)


OPENS = {
    "a rule that accepts": "nft insert rule inet cfbridge forward accept",
    "a rule that accepts, in a tier": "nft insert rule inet cfbridge tier0 ct mark set <live> goto admit",
    "a rule of ours, replaced": "nft replace rule inet cfbridge forward handle #forward/1 accept",
    "a policy": "nft add element inet cfbridge allow { <C> . <B> . 17 . 5000 : <live> }",
    "policies for ranges": "nft add element inet cfbridge allow_range { <C> . <B> . 17 . 4000-6000 : <live> }",
    "an identity": f"""nft delete element inet cfbridge identity4 {{ {C} }}; \
        add element inet cfbridge identity4 {{ {C} : <A> }}""",
    "an identity on IPv6": f"""nft delete element inet cfbridge identity6 {{ {C6} }}; \
        add element inet cfbridge identity6 {{ {C6} : <A> }}""",
}
"""What lets pass, until we have seen it, what is denied."""


@pytest.mark.parametrize("what", OPENS)
async def test_what_somebody_opens_is_closed_again_and_what_slipped_in_is_cut(scene: Scene, what: str) -> None:
    before = scene.there()
    scene.does(OPENS[what].replace("\\\n", " "))
    said = await scene.healed(before)
    assert said
    await scene.arrived()  # what came in the meantime
    scene.c.send([Packet(C, B, 17, 5000, tag=number) for number in range(1, 21)])
    assert await scene.arrived() == set()
    assert await scene.live()


@pytest.mark.parametrize("what", OPENS)
async def test_what_somebody_opened_while_no_agent_was_there_is_closed_by_the_next(scene: Scene, what: str) -> None:
    before = scene.there()
    await scene.cell.dataplane.close()
    scene.does(OPENS[what].replace("\\\n", " "))
    scene.c.open_stream("slipped in", B, 8080, timeout=0.3)
    await scene.cell.reopen()
    assert await asyncio.to_thread(scene._same, before)
    await scene.arrived()
    assert not scene.c.flows("slipped in", timeout=0.3)
    scene.c.send([Packet(C, B, 17, 5000, tag=number) for number in range(1, 21)])
    assert await scene.arrived() == set()
    assert await scene.live()


async def test_an_agent_without_memory_adopts_the_table_and_accuses_nobody(scene: Scene) -> None:
    await scene.cell.dataplane.close()
    scene.cell.forget_chains()
    await scene.cell.reopen()
    scene.cell.rule("passing", Tier.APPLICATION, Action.DROP, at("10.240.3.0/24"), at(B), tcp(23))
    await scene.cell.converge()
    scene.cell.drop_rule("passing")
    await scene.cell.converge()
    assert not scene.cell.drifts
    before = scene.there()
    scene.does(f"ip route del {B}/32 table 7712")
    assert await scene.healed(before) == f"route {B} was deleted"


async def test_who_undoes_us_again_and_again_is_healed_at_a_bounded_rate_and_in_the_end(scene: Scene) -> None:
    before = scene.there()
    for _ in range(150):
        await asyncio.to_thread(scene.does, "nft insert rule inet cfbridge tier0 counter")
    fought = len(scene.cell.drifts)
    await scene.healed(before)
    assert 1 <= fought <= FREE + 5
    assert await scene.arrived() == set()
    assert await scene.live()
