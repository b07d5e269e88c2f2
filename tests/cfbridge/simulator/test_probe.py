"""Do the probes tell what really happened to a packet? In a box whose physical firewall we can turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cfbridge.simulator import runs
from cfbridge.simulator.lab import CELL, CELL6, EXT, EXT6, ROUTER, ROUTER6, Lab
from cfbridge.simulator.probe import Fate, Outcome, Packet, Probe, ProbeFailed, volley

pytestmark = pytest.mark.packets

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
ENDS = [(CELL, EXT), (CELL6, EXT6)]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        made.probe("ext").listen("tcp", 80)
        made.probe("ext").listen("udp", 53)
        yield made


@pytest.fixture
def cell(lab: Lab) -> Probe:
    return lab.probe("cell")


@pytest.fixture
def rules(lab: Lab) -> Iterator[None]:
    """At the physical firewall: port 81 dropped, 82 reset, 83 refused by ICMP; ICMP echoes to ext pass."""
    lab.fw.run("nft", "-f", "-", stdin=_RULES)
    yield
    lab.fw.run("nft", "delete", "table", "inet", "turned")


_RULES = """
table inet turned {
  chain forward { type filter hook forward priority filter;
    meta l4proto { tcp, udp } th dport 81 drop
    tcp dport 82 reject with tcp reset
    meta l4proto { tcp, udp } th dport 83 reject with icmpx admin-prohibited
    icmp type timestamp-request drop
    icmpv6 type 200 drop
  }
}
"""


@pytest.mark.parametrize(("source", "destination"), ENDS)
def test_an_open_port_tells_which_source_its_server_saw(cell: Probe, source: str, destination: str) -> None:
    assert cell.tcp(destination, 80) == Outcome("open", source)
    assert cell.udp(destination, 53) == Outcome("open", source)
    assert cell.ping(destination)


@pytest.mark.parametrize(("source", "destination"), ENDS)
@pytest.mark.usefixtures("rules")
def test_refused_dropped_and_unreachable_are_told_apart(cell: Probe, source: str, destination: str) -> None:
    asked = [(destination, port) for port in (80, 81, 82, 83, 8080)]
    results = [each.result for each in cell.tcp_many(asked, timeout=0.2)]
    assert results == ["open", "timeout", "refused", "refused", "refused"]
    asked = [(destination, port) for port in (53, 81, 83, 5353)]
    assert [each.result for each in cell.udp_many(asked, timeout=0.2)] == ["open", "timeout", "refused", "refused"]
    nowhere = "2001:db8:ffff::1" if ":" in source else "203.0.113.1"
    assert cell.tcp(nowhere, 80).result == "unreachable"
    assert cell.udp(nowhere, 80).result == "unreachable"


def fences(source: str, destination: str) -> dict[str, Packet]:
    six = ":" in source
    return {"ext": Packet(source, destination, ICMP6 if six else ICMP, icmp_type=128 if six else 8)}


@pytest.mark.parametrize(("source", "destination"), ENDS)
@pytest.mark.usefixtures("rules")
def test_a_volley_judges_every_packet_without_waiting(lab: Lab, source: str, destination: str) -> None:
    six = ":" in source
    echo, other = (128, 200) if six else (8, 13)
    icmp = ICMP6 if six else ICMP
    packets = [
        *(Packet(source, destination, TCP, port) for port in (80, 81, 82, 83, 7777)),
        *(Packet(source, destination, UDP, port) for port in (53, 81, 83, 7777)),
        *(Packet(source, destination, icmp, icmp_type=kind) for kind in (echo, other)),
    ]
    fates = volley(lab.probe("cell"), packets, {"ext": lab.probe("ext")}, fences(source, destination))
    arrived, dropped, refused = Fate("passed", "ext", source), Fate("dropped"), Fate("refused")
    assert fates == [
        *(arrived, dropped, refused, refused, arrived),
        *(arrived, dropped, refused, arrived),
        *(arrived, dropped),
    ]


def test_a_spoofed_source_is_sent_as_it_is(lab: Lab) -> None:
    spoofed = Packet("192.0.2.99", EXT, UDP, 53)
    fate = volley(lab.probe("cell"), [spoofed], {"ext": lab.probe("ext")}, fences(CELL, EXT))
    assert fate == [Fate("passed", "ext", "192.0.2.99")]


def test_a_fence_that_does_not_come_means_that_nothing_is_known(lab: Lab) -> None:
    cell, ext = lab.probe("cell"), lab.probe("ext")
    ext.hear()
    cell.send([Packet(CELL, EXT, UDP, 53, tag=5)])
    with pytest.raises(ProbeFailed, match="fence 6"):
        ext.heard(6, timeout=0.05)


@pytest.mark.parametrize("push", ["client", "server"])
def test_a_stream_lives_until_it_is_cut(lab: Lab, push: str) -> None:
    router = lab.probe("router")
    assert router.open_stream("long", EXT, 80, push=push).alive
    assert router.flows("long")
    lab.block(ROUTER)
    try:
        # The server's own packets still come through; the client's acknowledgements don't, so it ends soon.
        assert not router.flows("long", lines=1000, timeout=0.2)
        assert router.stream("long").alive
    finally:
        lab.unblock(ROUTER)
    lab.ext.run("ss", "-K", "dst", ROUTER)
    assert not router.flows("long", lines=100_000, timeout=5.0)
    assert router.stream("long").ended == "reset"


def test_the_physical_firewall_notes_and_blocks_by_source_address(lab: Lab) -> None:
    router = lab.probe("router")
    lab.forget()
    assert router.tcp(EXT, 80)
    assert router.tcp(EXT6, 80)
    assert lab.seen() >= {ROUTER, ROUTER6}
    assert CELL not in lab.seen()
    lab.block(ROUTER)
    assert not router.ping(EXT, timeout=0.1)
    assert router.tcp(EXT6, 80)
    lab.unblock(ROUTER)
    assert router.ping(EXT)


def test_listeners_count_what_arrives(lab: Lab) -> None:
    router = lab.probe("router")
    port = lab.probe("ext").listen("tcp", 0)
    router.tcp(EXT, port)
    router.tcp(EXT, port)
    assert lab.probe("ext").counted()[f"tcp:{port}"]["connections"] == 2


def test_a_box_leaves_nothing_behind() -> None:
    with Lab() as made:
        names = {path.name for path in runs.NETNS.glob(f"cfb-{made.run_id}-*")}
        assert len(names) == 4
        made.probe("cell").ping("127.0.0.1")
    assert not list(runs.NETNS.glob(f"cfb-{made.run_id}-*"))
