"""Do routers, segments and translations follow from what is held? Each org leaves by its own way or not at all."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.model import Defaults, NetworkMode, OrgNetwork, OrgWish, Pool, PoolKind, SnatAddress
from egress.topology import Port, PortKind, Router, Segment, SourceNat, Topology, compile_topology, container_mac
from egress.values import QualifiedId

ACME = QualifiedId("cf:acme")
OVERLAY = Pool("overlay", PoolKind.CONTAINER, ("10.240.0.0/16", "fd00:cf::/48"))
ROUTABLE = Pool("routable", PoolKind.CONTAINER, ("172.20.0.0/16",), routable=True)
SNAT = Pool("snat", PoolKind.SNAT, ("203.0.113.0/26",))
FOUR = OrgNetwork(ACME, "10.240.0.0/24", "overlay")
SIX = OrgNetwork(ACME, "fd00:cf::/64", "overlay")
PUBLIC = OrgNetwork(ACME, "172.20.0.0/24", "routable", 1)


def compiled(
    mode: NetworkMode | None, *networks: OrgNetwork, snat: tuple[str, ...] = (), ports: tuple[Port, ...] = ()
) -> Topology:
    held = {ACME: tuple(SnatAddress(ACME, address, "snat", n) for n, address in enumerate(snat))}
    wish = OrgWish(ACME, mode, name="acme")
    return compile_topology([OVERLAY, ROUTABLE, SNAT], [wish], networks, ports, held, Defaults())


def translations(topology: Topology) -> dict[str, str]:
    assert all(source == nat.source and nat.org == ACME for source, nat in topology.source_nats.items())
    return {source: nat.address for source, nat in topology.source_nats.items()}


def test_a_nat_org_leaves_by_its_snat_address() -> None:
    topology = compiled(NetworkMode.NAT, FOUR, snat=("203.0.113.1",))
    assert topology.source_nats == {FOUR.prefix: SourceNat(FOUR.prefix, "203.0.113.1", ACME)}
    assert topology.segments == {FOUR.prefix: Segment(FOUR.prefix, ACME, "overlay")}
    assert topology.routers == {ACME: Router(ACME, "acme", NetworkMode.NAT)}
    assert topology.blocked_sources == ()


def test_a_routed_org_leaves_untranslated() -> None:
    topology = compiled(NetworkMode.ROUTED, PUBLIC)
    assert (translations(topology), topology.blocked_sources) == ({}, ())


def test_a_shared_org_leaves_as_its_cell() -> None:
    assert translations(compiled(NetworkMode.SHARED, FOUR, SIX)) == {FOUR.prefix: "", SIX.prefix: ""}


def test_an_org_without_a_wish_is_served_by_the_defaults() -> None:
    topology = compile_topology([OVERLAY], [], [FOUR], [], {}, Defaults())
    assert translations(topology) == {FOUR.prefix: ""}
    assert topology.routers[ACME].name == ACME


def test_several_snat_addresses_share_the_subnet_by_power_of_two_blocks() -> None:
    topology = compiled(NetworkMode.NAT, FOUR, snat=("203.0.113.1", "203.0.113.2", "203.0.113.3"))
    assert translations(topology) == {
        "10.240.0.0/26": "203.0.113.1",
        "10.240.0.64/26": "203.0.113.2",
        "10.240.0.128/26": "203.0.113.3",
        "10.240.0.192/26": "203.0.113.1",
    }


def test_a_nat_org_without_a_v6_snat_address_has_no_v6_way_out() -> None:
    topology = compiled(NetworkMode.NAT, FOUR, SIX, snat=("203.0.113.1",))
    assert translations(topology) == {FOUR.prefix: "203.0.113.1"}
    assert topology.blocked_sources == (SIX.prefix,)


def test_a_nat_org_with_a_v6_snat_address_leaves_by_it() -> None:
    topology = compiled(NetworkMode.NAT, FOUR, SIX, snat=("203.0.113.1", "2001:db8::1"))
    assert translations(topology) == {FOUR.prefix: "203.0.113.1", SIX.prefix: "2001:db8::1"}
    assert topology.blocked_sources == ()


def test_a_nat_org_that_was_refused_a_snat_address_leaves_not_at_all() -> None:
    topology = compiled(NetworkMode.NAT, FOUR)
    assert (translations(topology), topology.blocked_sources) == ({}, (FOUR.prefix,))


@pytest.mark.parametrize(("snat", "leaves_as"), [(("203.0.113.1",), "203.0.113.1"), ((), "")])
def test_a_newly_routed_orgs_old_subnet_leaves_as_before(snat: tuple[str, ...], leaves_as: str) -> None:
    assert translations(compiled(NetworkMode.ROUTED, FOUR, PUBLIC, snat=snat)) == {FOUR.prefix: leaves_as}


def test_a_machine_outside_the_pools_leaves_like_its_org() -> None:
    machine = Port("vm:db", PortKind.VM, "cell-1", ("192.0.2.7", "2001:db8::7"), ACME)
    topology = compiled(NetworkMode.NAT, FOUR, snat=("203.0.113.1",), ports=(machine,))
    assert translations(topology) == {FOUR.prefix: "203.0.113.1", "192.0.2.7/32": "203.0.113.1"}
    assert topology.blocked_sources == ("2001:db8::7/128",)


def test_a_machine_of_no_org_is_not_translated() -> None:
    machine = Port("vm:db", PortKind.VM, "cell-1", ("192.0.2.7",))
    assert translations(compiled(NetworkMode.NAT, ports=(machine,))) == {}


def test_a_machine_in_its_orgs_segment_needs_nothing_of_its_own() -> None:
    machine = Port("vm:db", PortKind.VM, "cell-1", ("10.240.0.9",), ACME)
    topology = compiled(NetworkMode.SHARED, FOUR, ports=(machine,))
    assert list(topology.source_nats) == [FOUR.prefix]
    assert topology.ports == {"vm:db": machine}


def test_container_addresses_are_the_container_pools_and_what_outlived_one() -> None:
    old = OrgNetwork(ACME, "10.99.0.0/24", "gone")
    topology = compiled(NetworkMode.SHARED, FOUR, old)
    assert topology.pools == ("10.240.0.0/16", "fd00:cf::/48", "172.20.0.0/16", "10.99.0.0/24")


def test_the_order_of_what_is_given_does_not_matter() -> None:
    ports = tuple(Port(f"cf:{n}", PortKind.CONTAINER, "cell-1", (f"10.240.0.{n}",), ACME) for n in range(3, 9))
    snat = ("203.0.113.1", "203.0.113.2")
    one = compiled(NetworkMode.NAT, FOUR, SIX, PUBLIC, snat=snat, ports=ports)
    other = compiled(NetworkMode.NAT, PUBLIC, SIX, FOUR, snat=snat, ports=ports[::-1])
    assert repr(one) == repr(other)


@given(st.integers(1, 40), st.integers(24, 29), st.sampled_from([*NetworkMode]))
def test_every_address_leaves_by_exactly_one_way(addresses: int, length: int, mode: NetworkMode) -> None:
    snat = tuple(f"203.0.113.{n + 1}" for n in range(addresses))
    network = replace(FOUR, prefix=f"10.240.0.0/{length}")
    topology = compiled(mode, network, SIX, snat=snat)
    ways = [ipaddress.ip_network(prefix) for prefix in (*topology.source_nats, *topology.blocked_sources)]
    for whole in (ipaddress.ip_network(network.prefix), ipaddress.ip_network(SIX.prefix)):
        mine = [way for way in ways if way.version == whole.version]
        assert sum(way.num_addresses for way in mine) == whole.num_addresses
        assert all(way.subnet_of(whole) for way in mine)  # type: ignore[arg-type]
        assert not any(a.overlaps(b) for i, a in enumerate(mine) for b in mine[i + 1 :])


def test_a_containers_mac_follows_from_its_address() -> None:
    assert container_mac("10.240.0.255") == "0a:58:0a:f0:00:ff"
