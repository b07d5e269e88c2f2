"""Do packets find a workload by the links and routes alone, and only when they carry our mark?"""

from __future__ import annotations

import pytest

from cfbridge.simulator.lab import CELL, EXT, EXT6, Namespace
from cfbridge.simulator.probe import Outcome, Packet, Probe
from garden_plugin.cell import netlink_messages as rtnl
from garden_plugin.cell import sysctls
from garden_plugin.dataplane.base import Change
from garden_plugin.dataplane.cell import device_name
from garden_plugin.dataplane.linux import links
from tests.lab import Bench

pytestmark = pytest.mark.packets

A, B = ("10.240.1.5", "2001:db8:f:1::5"), ("10.240.2.6", "2001:db8:f:2::6")


def pair(bench: Bench) -> tuple[Probe, Probe]:
    a, b = bench.container("a", *A), bench.container("b", *B)
    assert not bench.converge()
    b.listen("tcp", 8080)
    return a, b


def arrives(sender: Probe, receiver: Probe, source: str, destination: str) -> bool:
    """Whether a packet comes through; the sender's ping to the cell, which follows the same way in, is the fence."""
    receiver.hear()
    receiver.heard()
    sender.send([Packet(source, destination, 6, 8080, tag=7)])
    assert sender.ping("2001:db8::10" if ":" in source else CELL)
    return 7 in receiver.heard()[0]


def test_two_containers_reach_each_other_with_their_own_addresses_by_marked_packets(bench: Bench) -> None:
    a, _ = pair(bench)
    bench.admit_everything()
    assert a.tcp(B[0], 8080) == Outcome("open", A[0])
    assert a.tcp(B[1], 8080) == Outcome("open", A[1])


@pytest.mark.parametrize("version", [0, 1])
def test_unmarked_packets_reach_no_container(bench: Bench, version: int) -> None:
    a, b = pair(bench)
    assert not arrives(a, b, A[version], B[version])
    bench.admit_everything()
    assert arrives(a, b, A[version], B[version])


def test_the_cell_itself_reaches_its_containers_without_a_mark(bench: Bench) -> None:
    pair(bench)
    assert bench.lab.probe("cell").tcp(B[0], 8080) == Outcome("open", CELL)
    assert bench.lab.probe("cell").tcp(B[1], 8080).result == "open"


def test_a_routed_container_and_the_outside_reach_each_other(bench: Bench) -> None:
    a, b = pair(bench)
    bench.admit_everything()
    for prefix in bench.topology.pools:
        bench.lab.announce(prefix)
    outside = bench.lab.probe("ext")
    outside.listen("tcp", 80)
    assert a.tcp(EXT, 80) == Outcome("open", A[0])
    assert a.tcp(EXT6, 80) == Outcome("open", A[1])
    assert outside.tcp(B[0], 8080) == Outcome("open", EXT)
    assert b.counted()["tcp:8080"]["sources"] == [EXT]


def test_an_address_of_a_pool_without_a_workload_leads_nowhere(bench: Bench) -> None:
    a, _ = pair(bench)
    bench.admit_everything()
    bench.lab.forget()
    a.send([Packet(A[0], "10.240.9.9", 6, 80, tag=1), Packet(A[1], "2001:db8:f:9::9", 6, 80, tag=2)])
    assert a.ping(CELL)
    assert not set(A) & bench.lab.seen()
    assert bench.lab.probe("cell").tcp("10.240.9.9", 80).result == "unreachable"


def test_a_container_without_an_ipv6_lease_has_no_ipv6_at_all(bench: Bench) -> None:
    a = bench.container("a", A[0])
    namespace = Namespace(f"cfb-{bench.lab.run_id}-a")
    bench.converge()
    assert a.tcp(B[1], 8080).result == "unreachable"
    assert namespace.run("ip", "-6", "address", "show", "dev", "eth0") == ""


def test_a_container_may_send_what_the_uplink_carries_less_the_encapsulation(bench: Bench) -> None:
    bench.container("a", *A)
    bench.converge()
    made = bench.netlink.link(device_name("a"))
    assert made is not None
    assert made.mtu == 1442


def test_a_health_check_has_an_address_and_no_way_to_it(bench: Bench) -> None:
    check = bench.container("check", "169.254.64.2", isolated=True)
    bench.converge()
    check.listen("tcp", 8080)
    assert bench.lab.probe("cell").tcp("169.254.64.2", 8080, timeout=0.1).result != "open"
    assert check.counted()["tcp:8080"]["connections"] == 0
    assert check.tcp("169.254.64.2", 8080).result == "open"
    assert not bench.missing()


# --- VMs --------------------------------------------------------------------------------------------------------------


def test_a_vm_and_a_container_reach_each_other_by_the_vms_own_arp(bench: Bench) -> None:
    a, _ = pair(bench)
    bench.lab.vm("vm1", "tap-db1", "10.30.0.5/24", "10.30.0.1", "2001:db8:30::5/64")
    bench.wants_vm("tap-db1", "10.30.0.5", "2001:db8:30::5")
    bench.admit_everything()
    assert not bench.converge()
    vm = bench.lab.probe("vm1")
    vm.listen("tcp", 5432)
    assert a.tcp("10.30.0.5", 5432) == Outcome("open", A[0])
    assert a.tcp("2001:db8:30::5", 5432) == Outcome("open", A[1])
    assert vm.tcp(B[0], 8080) == Outcome("open", "10.30.0.5")
    assert vm.tcp(B[1], 8080) == Outcome("open", "2001:db8:30::5")
    assert not bench.missing()


def test_a_vm_in_its_orgs_segment_finds_router_and_neighbours_though_the_pool_is_a_black_hole(bench: Bench) -> None:
    a, _ = pair(bench)
    a.listen("tcp", 8080)
    bench.wants_segment("10.240.1.0/24", "cf:acme")
    bench.lab.vm("vm1", "tap-db1", "10.240.1.9/24", "10.240.1.1")
    bench.wants_vm("tap-db1", "10.240.1.9", org="cf:acme")
    bench.admit_everything()
    assert not bench.converge()
    vm = bench.lab.probe("vm1")
    assert vm.ping("10.240.1.1")
    assert vm.tcp(A[0], 8080) == Outcome("open", "10.240.1.9")
    assert vm.tcp(B[0], 8080) == Outcome("open", "10.240.1.9")
    assert not bench.missing()


def test_a_vm_whose_device_is_away_is_refused_and_adopted_when_it_appears(bench: Bench) -> None:
    bench.wants_vm("tap-db1", "10.30.0.5")
    a = bench.container("a", *A)
    bench.admit_everything()
    refused = bench.converge()
    assert {each.code for each in refused.values()} == {"DEVICE_IS_GONE"}
    assert set(refused) == {("vm port", "tap-db1"), ("route", "10.30.0.5/32")}
    bench.lab.vm("vm1", "tap-db1", "10.30.0.5/24", "10.30.0.1")
    assert not bench.converge()
    bench.lab.probe("vm1").listen("tcp", 5432)
    assert a.tcp("10.30.0.5", 5432) == Outcome("open", A[0])


def test_a_vm_that_leaves_keeps_its_device_without_our_mark(bench: Bench) -> None:
    bench.lab.vm("vm1", "tap-db1", "10.30.0.5/24", "10.30.0.1", "2001:db8:30::5/64")
    before = bench.topology
    bench.wants_vm("tap-db1", "10.30.0.5", "2001:db8:30::5")
    bench.converge()
    bench.topology = before
    bench.converge()
    device = bench.netlink.link("tap-db1")
    assert device is not None
    assert (device.names, device.settings.proxy_arp) == (frozenset(), False)
    assert not bench.missing()


# --- again, and after harm --------------------------------------------------------------------------------------------


def test_what_is_there_is_left_alone_when_it_is_made_again(bench: Bench) -> None:
    a, _ = pair(bench)
    bench.lab.vm("vm1", "tap-db1", "10.30.0.5/24", "10.30.0.1")
    bench.wants_vm("tap-db1", "10.30.0.5")
    bench.admit_everything()
    bench.converge()
    before = bench.netlink.links()
    a.open_stream("kept", B[0], 8080)
    everything = [Change(key, None, item) for key, item in bench.wanted().items()]
    assert links.apply(bench.netlink, everything) == ()
    assert bench.netlink.links() == before
    assert not bench.missing()
    assert a.flows("kept")


@pytest.mark.parametrize(
    "harm",
    [
        "ip route flush table 7712",
        "ip -6 route flush table 7712",
        f"ip link delete {device_name('b')}",
        f"ip link set {device_name('b')} down",
        f"ip link set {device_name('b')} address 02:00:00:00:00:01",
        f"ip neigh del {B[0]} dev {device_name('b')}",
        "ip rule del priority 7712",
        "ip -6 rule del priority 7712",
        "ip route del blackhole 10.240.0.0/16",
    ],
)
def test_what_somebody_else_removed_is_seen_and_made_again(bench: Bench, harm: str) -> None:
    a, b = pair(bench)
    bench.admit_everything()
    bench.lab.cell.run(*harm.split())
    assert bench.missing()
    assert not bench.converge()
    assert not bench.missing()
    assert a.tcp(B[0], 8080) == Outcome("open", A[0])
    assert a.tcp(B[1], 8080) == Outcome("open", A[1])
    assert b.counted()["tcp:8080"]["connections"] == 2


def test_a_link_that_was_left_half_made_is_finished(bench: Bench) -> None:
    a = bench.container("a", *A)
    bench.lab.cell.ip(
        f"link add {device_name('a')} group {rtnl.GROUP} address ee:ee:ee:ee:ee:ee type veth "
        f"peer name eth0 address 0a:58:0a:f0:01:05 netns cfb-{bench.lab.run_id}-a\n"
    )
    assert ("port", device_name("a")) in bench.missing()
    assert not bench.converge()
    assert not bench.missing()
    a.listen("tcp", 8080)
    assert bench.lab.probe("cell").tcp(A[0], 8080)


def test_a_handle_that_comes_back_in_another_namespace_gets_its_link_there(bench: Bench) -> None:
    bench.container("a", *A)
    bench.converge()
    anew = bench.container("again", *A, handle="a")
    key = ("port", device_name("a"))
    wanted = bench.wanted()[key]
    assert links.apply(bench.netlink, [Change(key, wanted, wanted)]) == ()
    assert not bench.converge()  # its routes went with the old link
    anew.listen("tcp", 8080)
    assert bench.lab.probe("cell").tcp(A[0], 8080)


def test_a_container_that_died_is_refused_in_words_and_stops_nobody(bench: Bench) -> None:
    a, _ = pair(bench)
    a.listen("tcp", 8080)
    bench.lab.discard("b")
    bench.wants_container("b", *B)
    bench.lab.cell.run("ip", "link", "delete", device_name("b"))  # the kernel would do it in its own time
    refused = bench.converge()
    assert refused["port", device_name("b")].code == "NETNS_GONE"
    assert refused["route", f"{B[0]}/32"].code == "NETNS_GONE"
    assert bench.lab.probe("cell").tcp(A[0], 8080)
    bench.forget("b")
    assert not bench.converge()
    assert not bench.missing()


# --- the end ----------------------------------------------------------------------------------------------------------


def test_many_containers_leave_together_and_nothing_of_ours_stays(bench: Bench) -> None:
    before = bench.netlink.links()
    for number in range(20):
        bench.lab.namespace(f"c{number}")
        bench.wants_container(f"c{number}", f"10.240.3.{number + 2}", f"2001:db8:f:3::{number + 2:x}")
    bench.wants_source("10.240.3.0/24", "192.0.2.66", "cf:acme")
    assert not bench.converge()
    assert len(bench.netlink.links()) == len(before) + 20
    links.apply(bench.netlink, links.changes_between(links.observe(bench.netlink), {}))
    assert links.observe(bench.netlink) == {}
    assert bench.netlink.links() == before
    assert bench.netlink.neighbours() == []


def test_what_is_not_ours_is_neither_seen_nor_removed(bench: Bench) -> None:
    bench.lab.cell.ip(
        """
        link add cf-foreign type veth peer name cf-other
        route add 10.99.0.0/16 dev lo table 7712
        route add blackhole 10.98.0.0/16
        rule add fwmark 0x1 lookup 7712 priority 100
        address add 192.0.2.77/32 dev up0
        """
    )
    assert not links.observe(bench.netlink)
    bench.container("a", *A)
    bench.converge()
    links.apply(bench.netlink, links.changes_between(links.observe(bench.netlink), {}))
    assert "cf-foreign" in bench.netlink.links()
    assert "10.99.0.0/16" in bench.lab.cell.run("ip", "route", "show", "table", "7712")
    assert "blackhole 10.98.0.0/16" in bench.lab.cell.run("ip", "route")
    assert "fwmark 0x1" in bench.lab.cell.run("ip", "rule")
    assert "192.0.2.77" in bench.lab.cell.run("ip", "address", "show", "dev", "up0")


def test_a_device_of_that_name_that_is_not_ours_is_refused_and_kept(bench: Bench) -> None:
    bench.lab.cell.ip(f"link add {device_name('a')} type veth peer name other\n")
    bench.container("a", *A)
    assert bench.converge()["port", device_name("a")].code == "DEVICE_IS_FOREIGN"
    assert "other" in bench.netlink.links()


# --- the cell ---------------------------------------------------------------------------------------------------------


def test_an_orgs_leaving_address_is_held_by_the_uplink_and_announced_to_the_segment(bench: Bench) -> None:
    router = bench.lab.router
    router.ip("neigh replace 192.0.2.66 lladdr 02:00:00:00:00:01 dev eth0 nud stale\n")
    bench.wants_source("10.240.1.0/24", "192.0.2.66", "cf:acme")
    bench.converge()
    uplink = bench.netlink.link("up0")
    assert uplink is not None
    assert bench.lab.probe("cell").ping("192.0.2.20", source="192.0.2.66")
    assert uplink.mac in router.run("ip", "neigh", "show", "192.0.2.66")


def test_a_cells_settings_are_written_once_and_seen_when_changed(bench: Bench) -> None:
    assert bench.netlink.inside(sysctls.ensure_forwarding) == {}
    bench.lab.cell.sysctl("net.netfilter.nf_conntrack_tcp_loose=1")
    assert bench.netlink.inside(sysctls.ensure_forwarding) == {"netfilter/nf_conntrack_tcp_loose": "1"}


def test_other_devices_keep_their_reverse_path_check_when_the_common_one_is_lifted(bench: Bench) -> None:
    bench.lab.cell.sysctl("net.ipv4.conf.all.rp_filter=1\nnet.ipv4.conf.up0.rp_filter=0")
    bench.netlink.inside(sysctls.ensure_forwarding)
    read = bench.netlink.inside(lambda: [sysctls.read(f"ipv4/conf/{name}/rp_filter") for name in ("all", "up0")])
    assert read == ["0", "1"]
