"""Which links, routes and addresses does a cell get from a topology? Pure; the packets are in tests/packets."""

from __future__ import annotations

import json
from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import example, given

from egress.topology import Port, PortKind, Segment, SourceNat, Topology
from egress.values import QualifiedId, text
from garden_plugin.cell import plug
from garden_plugin.dataplane.cell import LocalPort, LocalState, device_name
from garden_plugin.dataplane.linux import links
from garden_plugin.dataplane.linux.links import PortItem, RouteItem, SnatAddressItem, VmPortItem

ACME = QualifiedId("cf:acme")
LOCAL = LocalState("cell-1", "192.0.2.10", ("up0",))


def container(handle: str, *addresses: str, isolated: bool = False) -> LocalPort:
    return LocalPort(f"cf:{handle}", handle, device_name(handle), f"/netns/{handle}", addresses, isolated)


def commands(topology: Topology, *ports: LocalPort) -> list[str]:
    local = replace(LOCAL, ports={port.workload: port for port in ports})
    items = links.render(topology, local).values()
    return [str(item) for item in sorted(items, key=lambda item: (item.rank, item.key))]


def test_an_empty_cell_has_the_ways_to_its_workloads_and_black_holes_where_none_is() -> None:
    assert commands(Topology(pools=("10.240.0.0/16",))) == [
        "ip -4 rule add fwmark 0x77120000/0xffff0000 lookup 7712 priority 7712 protocol 112",
        "ip -4 rule add iif lo lookup 7712 priority 7713 protocol 112",
        "ip -4 rule add iif lo goto 7716 priority 7714 protocol 112",
        "ip -4 rule add from 10.240.0.0/16 fwmark 0x0/0xffff0000 blackhole priority 7715 protocol 112",
        "ip -4 rule add nop priority 7716 protocol 112",
        "ip -6 rule add fwmark 0x77120000/0xffff0000 lookup 7712 priority 7712 protocol 112",
        "ip -6 rule add iif lo lookup 7712 priority 7713 protocol 112",
        "ip route replace blackhole 10.240.0.0/16 proto 112",
    ]


def test_a_container_is_a_link_and_a_route_for_each_address() -> None:
    link, *routes = commands(Topology(), container("a", "10.240.1.5", "2001:db8:f::5"))[4:]
    assert link == (
        "ip link add cf-ca978112ca1 address ee:ee:ee:ee:ee:ee type veth peer name eth0 address 0a:58:0a:f0:01:05 "
        "netns /netns/a  # 10.240.1.5 2001:db8:f::5"
    )
    assert routes == [
        "ip route replace 10.240.1.5/32 dev cf-ca978112ca1 table 7712 proto 112 src 192.0.2.10",
        "ip route replace 2001:db8:f::5/128 dev cf-ca978112ca1 table 7712 proto 112",
    ]


def test_a_health_check_has_no_route() -> None:
    items = links.render(Topology(), replace(LOCAL, ports={"c": container("c", "169.254.64.2", isolated=True)}))
    assert [item for item in items.values() if isinstance(item, RouteItem)] == []
    assert [item.isolated for item in items.values() if isinstance(item, PortItem)] == [True]


def test_a_container_that_is_only_in_the_span_is_not_made() -> None:
    elsewhere = Port("cf:x", PortKind.CONTAINER, "cell-1", ("10.240.1.9",), handle="x")
    assert commands(Topology(ports={"cf:x": elsewhere})) == commands(Topology())


def test_a_thousand_containers_of_other_cells_cost_this_one_no_route_and_no_neighbour() -> None:
    """cf-networking-release#54: the ARP cache overflowed above 250 cells."""
    addresses = [f"10.240.{n // 200}.{n % 200 + 3}" for n in range(1000)]
    far = {f"cf:{a}": Port(f"cf:{a}", PortKind.CONTAINER, f"cell-{a}", (a,), handle=a) for a in addresses}
    here = container("a", "10.241.1.5")
    assert commands(Topology(ports=far), here) == commands(Topology(), here)


def test_a_vm_belongs_to_its_own_cell_alone() -> None:
    here = Port("vm:1", PortKind.VM, "cell-1", ("10.30.0.5",), device="tap-1")
    away = Port("vm:2", PortKind.VM, "cell-2", ("10.30.0.6",), device="tap-2")
    items = links.render(Topology(ports={"vm:1": here, "vm:2": away}), LOCAL)
    assert [item.device for item in items.values() if isinstance(item, VmPortItem)] == ["tap-1"]
    assert [item.prefix for item in items.values() if isinstance(item, RouteItem)] == ["10.30.0.5/32"]


def test_the_cell_is_the_router_of_a_vm_in_its_orgs_segment_only() -> None:
    vm = Port("vm:1", PortKind.VM, "cell-1", ("10.240.1.9", "2001:db8:f::9"), org=ACME, device="tap-1")
    segments = {prefix: Segment(prefix, ACME, "main") for prefix in ("10.240.1.0/24", "10.240.2.0/24")}
    other = {"10.240.1.0/24": Segment("10.240.1.0/24", QualifiedId("cf:other"), "main")}
    inside = links.render(Topology(ports={vm.id: vm}, segments=segments), LOCAL)["vm port", "tap-1"]
    outside = links.render(Topology(ports={vm.id: vm}, segments=other), LOCAL)["vm port", "tap-1"]
    assert inside == VmPortItem("tap-1", ("10.240.1.1/32", "fe80::1/64"))
    assert outside == VmPortItem("tap-1", ("fe80::1/64",))


def test_the_uplink_holds_leaving_addresses_but_not_the_cells_own_again() -> None:
    nats = {
        "10.240.1.0/25": SourceNat("10.240.1.0/25", "192.0.2.66", ACME),
        "10.240.1.128/25": SourceNat("10.240.1.128/25", "192.0.2.66", ACME),
        "10.240.2.0/24": SourceNat("10.240.2.0/24", "192.0.2.10", ACME),
        "10.240.3.0/24": SourceNat("10.240.3.0/24", "", ACME),
    }
    items = links.render(Topology(source_nats=nats), LOCAL).values()
    assert [item for item in items if isinstance(item, SnatAddressItem)] == [SnatAddressItem("192.0.2.66", "up0")]


@example("\U0001f600" * 80, bytes(4), bytes([255] * 16))
@given(st.text(max_size=300), st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
def test_whatever_the_handle_the_alias_fits_the_kernel_and_tells_what_was_made(
    handle: str, four: bytes, six: bytes
) -> None:
    port = container(handle, text(four), text(six))
    item = links.render(Topology(), replace(LOCAL, ports={"p": port}))["port", port.device]
    assert isinstance(item, PortItem)
    assert len(item.alias.encode()) < 256
    assert tuple(json.loads(item.alias)["addresses"]) == item.addresses


@given(st.sampled_from([4, 6]), st.integers(0, 1))
def test_every_way_to_a_workload_is_before_the_main_table(family: int, which: int) -> None:
    rule = [each for each in plug.POLICY_RULES if each.family == family][which]
    assert 0 < rule.priority < 32766
