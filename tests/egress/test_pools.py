"""Are pools that can't work refused by name, and is what is cut out of them free?"""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress import pools
from egress.model import Pool, PoolKind
from egress.pools import Places, Spans

OVERLAY = Pool("overlay", PoolKind.CONTAINER, ("10.240.0.0/14", "fd00:cf::/48"))
ROUTABLE = Pool("routable", PoolKind.CONTAINER, ("172.20.0.0/16",), routable=True)
SNAT = Pool("snat", PoolKind.SNAT, ("203.0.113.0/26",), reserved=(("acme", ("203.0.113.7",)),))


def container(*prefixes: str, length: int = 24, reserved: tuple[tuple[str, tuple[str, ...]], ...] = ()) -> Pool:
    return Pool("blue", PoolKind.CONTAINER, prefixes, length, reserved=reserved)


def test_sound_pools_are_not_complained_about() -> None:
    assert pools.validate([OVERLAY, ROUTABLE, SNAT], underlay=["192.168.0.0/24"]) == ()


@pytest.mark.parametrize(
    ("bad", "code", "field"),
    [
        pytest.param(container("10.243.0.0/16"), "POOL_OVERLAP", "prefixes/0", id="overlap with another pool"),
        pytest.param(container("10.1.0.0/16", "10.1.2.0/24"), "POOL_OVERLAP", "prefixes/1", id="overlap with itself"),
        pytest.param(container("192.168.0.0/16"), "POOL_OVERLAP", "prefixes/0", id="overlap with the underlay"),
        pytest.param(container("10.1.0.0/16", "fd00:cf:0:1::/64"), "POOL_OVERLAP", "prefixes/1", id="overlap in v6"),
        pytest.param(container("10.1.0.1/16"), "POOL_PREFIX_BAD", "prefixes/0", id="host bits"),
        pytest.param(container("ten.one/16"), "POOL_PREFIX_BAD", "prefixes/0", id="no prefix"),
        pytest.param(container("224.0.0.0/8"), "POOL_PREFIX_BAD", "prefixes/0", id="multicast"),
        pytest.param(container("169.254.0.0/16"), "POOL_PREFIX_BAD", "prefixes/0", id="link-local"),
        pytest.param(container("10.1.0.0/16", "fd01::/65"), "POOL_PREFIX_BAD", "prefixes/1", id="v6 below /64"),
        pytest.param(container(), "POOL_EMPTY", "prefixes", id="empty"),
        pytest.param(container("fd01::/48"), "POOL_EMPTY", "prefixes", id="no v4"),
        pytest.param(container("10.1.0.0/26"), "POOL_ORG_PREFIX_LENGTH", "org_prefix_length", id="pool below subnet"),
        pytest.param(container("10.1.0.0/16", length=30), "POOL_ORG_PREFIX_LENGTH", "org_prefix_length", id="/30"),
        pytest.param(container("10.1.0.0/16", length=0), "POOL_ORG_PREFIX_LENGTH", "org_prefix_length", id="/0"),
        pytest.param(
            container("10.1.0.0/16", reserved=(("acme", ("10.2.0.0/24",)),)),
            "POOL_RESERVED_OUTSIDE",
            "reserved/acme/0",
            id="reserved outside",
        ),
        pytest.param(
            container("10.1.0.0/16", reserved=(("acme", ("10.1.0.300",)),)),
            "POOL_RESERVED_BAD",
            "reserved/acme/0",
            id="reserved no address",
        ),
        pytest.param(
            container("10.1.0.0/16", reserved=(("acme", ("10.1.3.7",)), ("globex", ("10.1.3.9",)))),
            "POOL_RESERVED_OVERLAP",
            "reserved/globex/0",
            id="one subnet for two orgs",
        ),
    ],
)
def test_a_pool_that_cannot_work_is_refused_by_name_and_field(bad: Pool, code: str, field: str) -> None:
    refused = pools.validate([OVERLAY, bad], underlay=["192.168.7.0/24"])
    assert [(problem.code, problem.field) for problem in refused] == [(code, f"/pools/1/{field}")]
    assert "Pool blue" in refused[0].message


def test_two_pools_of_one_name_are_refused() -> None:
    twin = Pool("overlay", PoolKind.SNAT, ("203.0.113.0/26",))
    assert [problem.code for problem in pools.validate([OVERLAY, twin])] == ["POOL_NAME"]


@given(st.text(max_size=30), st.text(max_size=30), st.integers(-200, 200))
def test_no_text_in_the_settings_breaks_the_validation(prefix: str, reserved: str, length: int) -> None:
    bad = Pool("blue", PoolKind.CONTAINER, (prefix,), length, reserved=(("acme", (reserved,)),))
    assert pools.validate([bad])


def test_a_subnet_keeps_network_router_cell_port_and_broadcast() -> None:
    first, last = pools.usable("10.240.7.0/24")
    assert (pools.address_text(4, first), pools.address_text(4, last)) == ("10.240.7.3", "10.240.7.254")


def test_a_v6_subnet_keeps_its_first_three_addresses() -> None:
    first, last = pools.usable("fd00:cf::/64")
    assert (pools.address_text(6, first), pools.address_text(6, last)) == ("fd00:cf::3", "fd00:cf::ffff:ffff:ffff:ffff")


def test_an_address_reserved_in_a_container_pool_keeps_its_whole_subnet() -> None:
    pool = container("10.1.0.0/22", reserved=(("acme", ("10.1.2.77",)),))
    kept = pools.span("10.1.2.0/24")[1]
    assert pools.shares(pool)["acme", 4] == (kept,)
    assert all(kept[1] < first or last < kept[0] for first, last in pools.shares(pool)["", 4])


def test_a_snat_pool_gives_neither_network_nor_broadcast() -> None:
    assert pools.shares(Pool("snat", PoolKind.SNAT, ("203.0.113.0/30",)))["", 4] == (
        (pools.number("203.0.113.1")[1], pools.number("203.0.113.2")[1]),
    )


def test_a_snat_pool_of_single_addresses_gives_them_all() -> None:
    pool = Pool("snat", PoolKind.SNAT, ("203.0.113.8/31", "203.0.113.20/32"))
    assert pools.capacity(pool, 4) == 3


@given(st.sets(st.tuples(st.integers(0, 63), st.sampled_from([1, 2, 4, 8]))), st.sampled_from([1, 2, 4, 8, 16]))
def test_the_next_block_is_the_lowest_that_meets_nothing_held(wanted: set[tuple[int, int]], size: int) -> None:
    held, taken = Spans.empty(), set[int]()
    for place, length in sorted(wanted):
        block = set(range(place // length * length, place // length * length + length))
        if not block & taken:
            taken |= block
            held.add((min(block), max(block)), "x")
    expected = next((at for at in range(0, 64, size) if not taken & set(range(at, at + size))), None)
    assert pools.next_block((0, 63), size, held) == expected


@given(st.lists(st.tuples(st.sampled_from(["take", "release", "claim"]), st.integers(0, 5), st.integers(0, 20))))
def test_addresses_come_unused_first_then_longest_rested_and_never_from_rest(
    steps: list[tuple[str, int, int]],
) -> None:
    places, now, rest = Places((10, 14)), 0.0, 30.0
    unused, used, resting = [10, 11, 12, 13, 14], list[int](), dict[int, float]()
    for step, index, wait in steps:
        now += wait
        if step == "release" and used:
            value = used.pop(index % len(used))
            resting[value] = now
            places.rest(value, now)
        elif step == "claim":  # a report or a machine's own address, even from rest
            value = 10 + index % 5
            if value not in used:
                places.occupy(value)
                used.append(value)
                resting.pop(value, None)
                unused = [other for other in unused if other != value]
        elif step == "take":
            rested = sorted((since, value) for value, since in resting.items() if since + rest <= now)
            expected = unused[0] if unused else rested[0][1] if rested else None
            assert places.take(now, rest) == expected
            if expected is not None:
                used.append(expected)
                resting.pop(expected, None)
                unused = [value for value in unused if value != expected]


def test_an_orgs_subnet_can_be_cut_from_a_pool_of_millions() -> None:
    wide = Pool("wide", PoolKind.CONTAINER, ("10.0.0.0/8", "fd00::/16"), 28)
    assert pools.capacity(wide, 4) == 1 << 20
    held = Spans.empty()
    first = pools.next_block(pools.shares(wide)["", 6][0], 1 << 64, held)
    assert first == int(ipaddress.ip_address("fd00::"))


def test_a_pool_of_the_widest_ipv6_prefix_is_never_listed() -> None:
    """Every question of it is arithmetic: listed, its 2⁶⁴ subnets, or one subnet's addresses, would end no test."""
    wide = Pool("wide", PoolKind.CONTAINER, ("10.0.0.0/8", "2000::/3"), reserved=(("acme", ("2000:0:0:1::7",)),))
    assert pools.validate([wide]) == ()
    assert pools.capacity(wide, 6) == 1 << 61
    spans, held = pools.shares(wide)["", 6], Spans.empty()
    cut = []
    for _ in range(3):
        first = next(at for at in (pools.next_block(span, 1 << 64, held) for span in spans) if at is not None)
        held.add((first, first + (1 << 64) - 1), "")
        cut.append(pools.prefix_text(6, first, 64))
    assert cut == ["2000::/64", "2000:0:0:2::/64", "2000:0:0:3::/64"]
    places = Places(pools.usable(cut[0]))
    assert [pools.address_text(6, places.take(0, 300) or 0) for _ in range(2)] == ["2000::3", "2000::4"]
