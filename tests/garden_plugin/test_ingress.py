"""Is a host port given once, in order, and not again before it has rested?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.values import RefusedError
from garden_plugin.cell import ingress
from garden_plugin.cell.ingress import Pool
from garden_plugin.wire import MappedPort

NOW = 1_000_000.0
ANY = MappedPort(0, 8080)


def test_never_used_ports_are_given_in_order() -> None:
    pool = Pool(61000, 61002, 300)
    assert [pool.take("a", NOW) for _ in range(4)] == [61000, 61001, 61002, None]


def test_what_rests_longest_is_given_first_and_not_before_it_has_rested() -> None:
    pool = Pool(61000, 61001, 300)
    pool.take("a", NOW), pool.take("b", NOW)
    pool.give_back(61001, "b", NOW)
    pool.give_back(61000, "a", NOW + 10)
    assert pool.take("c", NOW + 299) is None
    assert pool.take("c", NOW + 300) == 61001
    assert pool.take("c", NOW + 300) is None
    assert pool.take("c", NOW + 310) == 61000


def test_only_its_holder_gives_a_port_back() -> None:
    pool = Pool(61000, 61000, 0)
    pool.take("a", NOW)
    pool.give_back(61000, "b", NOW)
    assert pool.holder(61000) == "a"


def test_rests_survive_and_a_clock_set_back_does_not_lengthen_them() -> None:
    before = Pool(61000, 61000, 300)
    before.take("a", NOW)
    before.give_back(61000, "a", NOW)
    after = Pool(61000, 61000, 300)
    after.remember(before.resting(NOW), NOW - 10_000)
    assert after.take("b", NOW - 9_800) is None
    assert after.take("b", NOW - 9_700) == 61000


def test_an_explicit_port_is_given_as_asked_even_outside_the_range() -> None:
    pool = Pool(61000, 61001, 300)
    assert ingress.allocate(pool, "a", (MappedPort(8443, 443), ANY), NOW) == (
        MappedPort(8443, 443),
        MappedPort(61000, 8080),
    )


def test_an_explicit_port_of_the_range_is_not_given_to_the_next() -> None:
    pool = Pool(61000, 61001, 300)
    assert ingress.allocate(pool, "a", (ANY, MappedPort(61000, 1)), NOW) == (
        MappedPort(61001, 8080),
        MappedPort(61000, 1),
    )


def test_a_container_port_of_zero_is_the_host_port() -> None:
    assert ingress.allocate(Pool(61000, 61000, 300), "a", (MappedPort(0, 0),), NOW) == (MappedPort(61000, 61000),)


def test_a_port_in_use_is_refused_and_nothing_is_kept() -> None:
    pool = Pool(61000, 61001, 300)
    ingress.allocate(pool, "a", (ANY,), NOW)
    with pytest.raises(RefusedError, match="61000 is in use by a"):
        ingress.allocate(pool, "b", (MappedPort(9000, 1), MappedPort(61000, 1)), NOW)
    assert pool.holder(9000) is None


def test_an_exhausted_pool_is_refused_and_what_was_taken_is_free_at_once() -> None:
    pool = Pool(61000, 61001, 300)
    with pytest.raises(RefusedError, match="allocating port: port pool exhausted"):
        ingress.allocate(pool, "a", (ANY, ANY, ANY), NOW)
    assert ingress.allocate(pool, "b", (ANY, ANY), NOW) == (MappedPort(61000, 8080), MappedPort(61001, 8080))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40), st.booleans()), max_size=80))
def test_no_port_has_two_holders_and_none_is_reused_before_its_rest(steps: list[tuple[int, int, bool]]) -> None:
    pool, now = Pool(1, 4, 30), NOW
    held: dict[int, str] = {}
    released: dict[int, float] = {}
    for who, seconds, gives in steps:
        now += seconds
        handle = str(who)
        mine = [number for number, holder in held.items() if holder == handle]
        if gives and mine:
            pool.give_back(mine[0], handle, now)
            del held[mine[0]]
            released[mine[0]] = now
        elif (number := pool.take(handle, now)) is not None:
            assert number not in held
            assert now - released.get(number, 0.0) >= 30
            held[number] = handle
        else:
            free = [n for n in range(1, 5) if n not in held and now - released.get(n, 0.0) >= 30]
            assert not free
