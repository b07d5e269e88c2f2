"""Does everybody keep what they have, get what is missing, and share nothing? State in, holdings out."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from egress import assignment, choice, pools
from egress.ledger import Holding, Ledger
from egress.model import Defaults, Lease, NetworkMode, OrgNetwork, OrgWish, Pool, PoolKind, SnatAddress
from egress.values import QualifiedId, Refused

OVERLAY = Pool("overlay", PoolKind.CONTAINER, ("10.240.0.0/20", "fd00:cf::/60"))
ROUTABLE = Pool("routable", PoolKind.CONTAINER, ("172.20.0.0/22",), routable=True)
SNAT = Pool("snat", PoolKind.SNAT, ("203.0.113.0/29",), reserved=(("acme", ("203.0.113.5",)),))
POOLS = (OVERLAY, ROUTABLE, SNAT)
DAY = 86_400.0


def org(name: str, mode: NetworkMode | None = None, foundation: str = "cf") -> OrgWish:
    return OrgWish(QualifiedId(f"{foundation}:{name}"), mode, name=name)


def ledger(*pools_: Pool, holding: Holding | None = None) -> Ledger:
    return Ledger(pools_ or POOLS, Defaults(), holding or Holding())


def lease(book: Ledger, workload: str, wish: OrgWish, now: float = 0.0, fixed: tuple[str, ...] = ()) -> list[str]:
    answer = assignment.lease(book, workload, wish, "cell-1", now, fixed)
    assert not isinstance(answer, Refused), answer
    return [held.address for held in answer]


def refusal(answer: object) -> str:
    assert isinstance(answer, Refused), answer
    return answer.code


def prefixes(book: Ledger, wish: OrgWish) -> list[str]:
    return [network.prefix for network in book.by_org.get(wish.org, ())]


def snat(book: Ledger, wish: OrgWish) -> list[str]:
    return [held.address for held in book.snat_by_org.get(wish.org, ())]


# ---- subnets and leases


def test_an_org_gets_a_subnet_of_each_family_that_its_pool_has() -> None:
    book = ledger()
    assert assignment.settle(book, org("acme"), 0) is None
    assert prefixes(book, org("acme")) == ["10.240.0.0/24", "fd00:cf::/64"]


def test_an_org_of_a_pool_without_v6_has_v4_alone() -> None:
    book = ledger()
    assert lease(book, "w", org("acme", NetworkMode.ROUTED)) == ["172.20.0.3"]


def test_an_org_keeps_its_subnet_when_another_leaves() -> None:
    book = ledger()
    for name in ("acme", "globex", "initech"):
        lease(book, name, org(name))
    before = prefixes(book, org("initech"))
    assignment.release(book, "acme", 0)
    assignment.depart(book, [org("acme").org], 0)
    assignment.sweep(book, DAY)
    assert prefixes(book, org("acme")) == []
    assert prefixes(book, org("initech")) == before


def test_orgs_of_one_name_on_two_foundations_share_nothing() -> None:
    book = ledger()
    lease(book, "a", org("acme", foundation="east"))
    lease(book, "b", org("acme", foundation="west"))
    assert not set(prefixes(book, org("acme", foundation="east"))) & set(prefixes(book, org("acme", foundation="west")))


def test_a_full_org_gets_a_further_subnet_and_later_leases_fill_the_lowest_first() -> None:
    small = Pool("small", PoolKind.CONTAINER, ("10.0.0.0/24",), 29)
    book = ledger(small)
    given_ = [lease(book, f"w{n}", org("acme"))[0] for n in range(5)]
    assert given_ == ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.11"]
    assignment.release(book, "w1", 100)
    assert lease(book, "w5", org("acme"), 399) == ["10.0.0.12"]
    assert lease(book, "w6", org("acme"), 400) == ["10.0.0.4"]


def test_a_full_pool_refuses_in_words_and_others_go_on() -> None:
    small = Pool("small", PoolKind.CONTAINER, ("10.0.0.0/29",), 29)
    book = ledger(small)
    lease(book, "a", org("acme"))
    refused = assignment.lease(book, "b", org("globex"), "cell-1", 0)
    assert refusal(refused) == "IP_POOL_EXHAUSTED"
    assert isinstance(refused, Refused)
    assert "small" in refused.message
    assert "globex" in refused.message
    assert lease(book, "c", org("acme")) == ["10.0.0.4"]


def test_a_refused_lease_takes_no_address() -> None:
    lopsided = Pool("lopsided", PoolKind.CONTAINER, ("10.0.0.0/24", "fd00::/64"), 29)
    book = ledger(lopsided)
    lease(book, "a", org("acme"))
    assert refusal(assignment.lease(book, "b", org("globex"), "cell-1", 0)) == "IP_POOL_EXHAUSTED"
    assert {held.workload for held in book.leases.values()} == {"a"}
    assert prefixes(book, org("globex")) == []
    assert book.pool_use(0)["lopsided"] == 1


def test_a_lease_moves_with_its_workload_to_another_cell() -> None:
    book = ledger()
    before = lease(book, "a", org("acme"))
    answer = assignment.lease(book, "a", org("acme"), "cell-2", 0)
    assert not isinstance(answer, Refused)
    assert [held.address for held in answer] == before
    assert {held.cell for held in answer} == {"cell-2"}


def test_a_workload_keeps_its_lease_when_its_org_is_refused_something_new() -> None:
    book = ledger(OVERLAY)
    before = lease(book, "a", org("acme"))
    nat = org("acme", NetworkMode.NAT)
    assert refusal(assignment.settle(book, nat, 0)) == "NO_SNAT_POOL"
    assert lease(book, "a", nat) == before
    assert refusal(assignment.lease(book, "b", nat, "cell-1", 0)) == "NO_SNAT_POOL"


def test_a_workload_of_another_org_is_refused() -> None:
    book = ledger()
    lease(book, "a", org("acme"))
    assert refusal(assignment.lease(book, "a", org("globex"), "cell-1", 0)) == "WORKLOAD_OF_ANOTHER_ORG"


def test_an_org_whose_pool_left_the_settings_keeps_its_leases_and_gets_new_ones_elsewhere() -> None:
    book = ledger()
    old = lease(book, "a", org("acme"))
    book = ledger(ROUTABLE, holding=book.holding())
    assert [held.address for held in book.live["a"]] == old
    assert lease(book, "b", org("acme")) == ["172.20.0.3"]


def test_a_subnet_held_in_another_length_is_never_cut_again() -> None:
    wide = Pool("p", PoolKind.CONTAINER, ("10.0.0.0/22",), 24)
    book = ledger(wide)
    lease(book, "a", org("acme"))
    book = ledger(replace(wide, org_prefix_length=26), holding=book.holding())
    lease(book, "b", org("globex"))
    assert prefixes(book, org("globex")) == ["10.0.1.0/26"]


def test_a_deleted_org_that_comes_back_in_time_keeps_its_subnet() -> None:
    book = ledger()
    lease(book, "a", org("globex"))
    before = prefixes(book, org("globex"))
    assignment.release(book, "a", 0)
    assignment.depart(book, [org("globex").org], 0)
    lease(book, "b", org("acme"), DAY - 1)
    assert lease(book, "c", org("globex"), DAY - 1)
    assert prefixes(book, org("globex")) == before
    assert all(network.emptied_at is None for network in book.by_org[org("globex").org])


# ---- modes


def test_an_org_keeps_its_subnet_when_its_mode_changes_and_the_pool_suits() -> None:
    book = ledger(ROUTABLE, SNAT)
    lease(book, "a", org("globex", NetworkMode.NAT))
    before = prefixes(book, org("globex"))
    for mode in (NetworkMode.ROUTED, NetworkMode.SHARED, NetworkMode.NAT, NetworkMode.ROUTED):
        assert assignment.settle(book, org("globex", mode), 0) is None
        assert prefixes(book, org("globex")) == before


def test_a_newly_routed_org_gets_new_leases_from_a_routable_pool_and_keeps_the_old() -> None:
    book = ledger()
    old = lease(book, "a", org("globex"))
    assert lease(book, "b", org("globex", NetworkMode.ROUTED)) == ["172.20.0.3"]
    assert [held.address for held in book.live["a"]] == old
    assert lease(book, "c", org("globex"))[0] == "10.240.0.4"


def test_a_routed_org_is_refused_a_pool_that_is_not_routable() -> None:
    wish = replace(org("acme", NetworkMode.ROUTED), pool="overlay")
    assert refusal(assignment.settle(ledger(), wish, 0)) == "POOL_NOT_ROUTABLE"


def test_a_routed_org_is_refused_where_no_pool_is_routable() -> None:
    assert refusal(assignment.settle(ledger(OVERLAY), org("acme", NetworkMode.ROUTED), 0)) == "NO_ROUTABLE_POOL"


def test_an_unknown_pool_is_refused_and_the_known_ones_are_named() -> None:
    refused = assignment.settle(ledger(), replace(org("acme"), pool="snat"), 0)
    assert refusal(refused) == "POOL_UNKNOWN"
    assert isinstance(refused, Refused)
    assert "overlay, routable" in refused.message


def test_nat_by_default_is_shared_where_there_is_no_snat_pool() -> None:
    nat = Defaults(mode=NetworkMode.NAT)
    assert choice.effective_mode(org("acme"), nat, [OVERLAY]) is NetworkMode.SHARED
    assert choice.effective_mode(org("acme"), nat, POOLS) is NetworkMode.NAT


def test_nat_by_wish_is_refused_where_there_is_no_snat_pool() -> None:
    assert refusal(assignment.settle(ledger(OVERLAY), org("acme", NetworkMode.NAT), 0)) == "NO_SNAT_POOL"


# ---- reservations


@pytest.mark.parametrize("called", ["acme", "cf:acme"])
def test_a_reserved_prefix_goes_to_its_org_alone(called: str) -> None:
    pool = Pool("p", PoolKind.CONTAINER, ("10.0.0.0/22",), 24, reserved=((called, ("10.0.0.0/24", "10.0.2.9")),))
    book = ledger(pool)
    lease(book, "g", org("globex"))
    lease(book, "a", org("acme"))
    assert prefixes(book, org("globex")) == ["10.0.1.0/24"]
    assert prefixes(book, org("acme")) == ["10.0.0.0/24"]
    lease(book, "i", org("initech"))
    assert prefixes(book, org("initech")) == ["10.0.3.0/24"]
    assert refusal(assignment.lease(book, "u", org("umbrella"), "cell-1", 0)) == "IP_POOL_EXHAUSTED"


def test_a_pool_that_is_all_anothers_is_passed_over() -> None:
    mine = Pool("mine", PoolKind.CONTAINER, ("10.0.0.0/22",), 24, reserved=(("acme", ("10.0.0.0/22",)),))
    book = ledger(mine, OVERLAY)
    assert lease(book, "g", org("globex"))[0] == "10.240.0.3"
    assert lease(book, "a", org("acme")) == ["10.0.0.3"]
    assert refusal(assignment.settle(book, replace(org("initech"), pool="mine"), 0)) == "POOL_RESERVED"


# ---- SNAT


def test_a_nat_org_gets_one_address_and_keeps_it() -> None:
    book = ledger()
    for _ in range(2):
        assert assignment.settle(book, org("globex", NetworkMode.NAT), 0) is None
        assert snat(book, org("globex")) == ["203.0.113.1"]


def test_a_reserved_snat_address_goes_to_its_org_alone() -> None:
    book = ledger()
    for n in range(5):
        assert assignment.settle(book, org(f"o{n}", NetworkMode.NAT), 0) is None
    assert refusal(assignment.settle(book, org("late", NetworkMode.NAT), 0)) == "SNAT_POOL_EXHAUSTED"
    assert refusal(assignment.settle(book, replace(org("late", NetworkMode.NAT), snat=("203.0.113.5",)), 0)) == (
        "SNAT_RESERVED"
    )
    assert assignment.settle(book, org("acme", NetworkMode.NAT), 0) is None
    assert snat(book, org("acme")) == ["203.0.113.5"]


def test_exact_snat_addresses_are_held_in_order() -> None:
    book = ledger()
    wish = replace(org("globex", NetworkMode.NAT), snat=("203.0.113.4", "203.0.113.2"))
    assert assignment.settle(book, wish, 0) is None
    assert snat(book, org("globex")) == ["203.0.113.4", "203.0.113.2"]
    assert assignment.settle(book, replace(wish, snat=("203.0.113.2", "203.0.113.3")), 0) is None
    assert snat(book, org("globex")) == ["203.0.113.2", "203.0.113.3"]


def test_an_address_that_is_wished_for_twice_is_held_once_and_nothing_flutters() -> None:
    book = ledger()
    wish = replace(org("globex", NetworkMode.NAT), snat=("203.0.113.4", "203.0.113.4"))
    assignment.settle(book, wish, 0)
    assert snat(book, org("globex")) == ["203.0.113.4"]
    book.drain()
    assignment.settle(book, wish, 0)
    assert not book.drain()


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("203.0.113.1", "SNAT_TAKEN"),
        ("198.51.100.1", "SNAT_OUTSIDE_POOL"),
        ("203.0.113.5", "SNAT_RESERVED"),
        ("203.0.113.500", "ADDRESS_BAD"),
        ("2001:DB8::1", "ADDRESS_BAD"),
    ],
)
def test_an_exact_snat_address_that_cannot_be_is_refused_in_words(address: str, code: str) -> None:
    book = ledger()
    assignment.settle(book, org("initech", NetworkMode.NAT), 0)
    wish = replace(org("globex", NetworkMode.NAT), snat=(address,))
    assert refusal(assignment.settle(book, wish, 0)) == code
    assert snat(book, org("globex")) == []


def test_a_snat_address_goes_to_another_org_only_after_a_day_and_to_its_own_at_once() -> None:
    single = Pool("snat", PoolKind.SNAT, ("203.0.113.1/32",))
    book = ledger(OVERLAY, single)
    assignment.settle(book, org("acme", NetworkMode.NAT), 0)
    assignment.settle(book, org("acme", NetworkMode.SHARED), 10)
    assert snat(book, org("acme")) == []
    assert refusal(assignment.settle(book, org("globex", NetworkMode.NAT), DAY + 9)) == "SNAT_POOL_EXHAUSTED"
    wished = replace(org("globex", NetworkMode.NAT), snat=("203.0.113.1",))
    assert refusal(assignment.settle(book, wished, DAY + 9)) == "SNAT_AT_REST"
    assert assignment.settle(book, org("acme", NetworkMode.NAT), DAY + 9) is None
    assignment.settle(book, org("acme", NetworkMode.SHARED), DAY + 9)
    assert assignment.settle(book, org("globex", NetworkMode.NAT), 2 * DAY + 9) is None
    assert snat(book, org("globex")) == ["203.0.113.1"]


def test_a_v6_snat_address_is_given_where_the_pools_have_v6() -> None:
    book = ledger(OVERLAY, Pool("snat", PoolKind.SNAT, ("203.0.113.0/29", "2001:db8::/64")))
    assert assignment.settle(book, org("acme", NetworkMode.NAT), 0) is None
    assert snat(book, org("acme")) == ["203.0.113.1", "2001:db8::1"]


def test_an_org_without_a_v6_snat_address_to_be_had_is_served_and_leaves_by_v4_alone() -> None:
    book = ledger(OVERLAY, Pool("snat", PoolKind.SNAT, ("203.0.113.0/29", "2001:db8::/128")))
    for name in ("acme", "globex"):
        assert assignment.settle(book, org(name, NetworkMode.NAT), 0) is None
    assert snat(book, org("acme")) == ["203.0.113.1", "2001:db8::"]
    assert snat(book, org("globex")) == ["203.0.113.2"]


def test_an_orgs_addresses_of_both_families_come_back_after_a_restart_and_after_a_change_of_mode() -> None:
    pools_ = (OVERLAY, Pool("snat", PoolKind.SNAT, ("203.0.113.0/29", "2001:db8::/64")))
    book = ledger(*pools_)
    for name in ("globex", "acme"):
        lease(book, name, org(name, NetworkMode.NAT))
    before = snat(book, org("acme")), prefixes(book, org("acme")), lease(book, "acme", org("acme", NetworkMode.NAT))
    assert [":" in each for each in before[0] + before[1] + before[2]] == [False, True] * 3
    book = ledger(*pools_, holding=book.holding())
    assignment.settle(book, org("acme", NetworkMode.SHARED), 1)
    lease(book, "late", org("late", NetworkMode.NAT), 2)
    assignment.settle(book, org("acme", NetworkMode.NAT), 3)
    after = snat(book, org("acme")), prefixes(book, org("acme")), lease(book, "acme", org("acme", NetworkMode.NAT))
    assert after == before


# ---- pools that get IPv6, or lose it

PLAIN = Pool("overlay", PoolKind.CONTAINER, ("10.240.0.0/20",))


def test_a_pool_that_gets_v6_gives_it_to_new_workloads_and_renumbers_nobody() -> None:
    book = ledger(PLAIN)
    assert lease(book, "old", org("acme")) == ["10.240.0.3"]
    book = ledger(OVERLAY, holding=book.holding())
    assert lease(book, "old", org("acme")) == ["10.240.0.3"]
    assert lease(book, "new", org("acme")) == ["10.240.0.4", "fd00:cf::3"]
    assert prefixes(book, org("acme")) == ["10.240.0.0/24", "fd00:cf::/64"]


def test_a_pool_that_loses_v6_takes_it_from_nobody_and_gives_it_to_nobody_new() -> None:
    book = ledger(OVERLAY)
    both = lease(book, "old", org("acme"))
    book = ledger(PLAIN, holding=book.holding())
    assert lease(book, "old", org("acme")) == both
    assert not assignment.adopt(book, "cell-1", {"old": (org("acme"), tuple(both))}, 1)
    assert lease(book, "new", org("acme")) == ["10.240.0.4"]
    assert lease(book, "other", org("globex")) == ["10.240.1.3"]
    assignment.release(book, "old", 2)
    book = ledger(OVERLAY, holding=book.holding())
    assert lease(book, "again", org("acme"), 3)[1] != both[1]  # it rests


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4)), min_size=1, max_size=60))
def test_however_many_orgs_each_has_one_v6_subnet_of_its_own_while_its_v4_ones_grow(
    starts: list[tuple[int, int]],
) -> None:
    """An org of a /48 never needs a second /64: only v4 runs out, and says so."""
    book = ledger(Pool("p", PoolKind.CONTAINER, ("10.0.0.0/22", "fd00:cf::/48"), 29))
    for workload, (number, copies) in enumerate(starts):
        for copy in range(copies + 1):
            assignment.lease(book, f"w{workload}.{copy}", org(f"o{number}"), "cell-1", 0.0)
    check(book.holding())
    six = [network for network in book.networks.values() if ":" in network.prefix]
    assert len({network.org for network in six}) == len(six)
    assert all(ipaddress.ip_network(network.prefix).prefixlen == 64 for network in six)
    assert all({":" in held.address for held in held_by} == {False, True} for held_by in book.live.values())


def test_a_newly_routed_org_keeps_its_snat_address_while_workloads_live_where_nothing_is_announced() -> None:
    book = ledger()
    lease(book, "a", org("globex", NetworkMode.NAT))
    assignment.settle(book, org("globex", NetworkMode.ROUTED), 0)
    assert snat(book, org("globex")) == ["203.0.113.1"]
    assignment.release(book, "a", 0)
    assignment.settle(book, org("globex", NetworkMode.ROUTED), 0)
    assert snat(book, org("globex")) == []


# ---- machines


def test_a_machines_own_address_outside_the_pools_is_recorded() -> None:
    given_ = lease(ledger(), "vm:db", org("acme"), fixed=("2001:db8::7", "203.0.113.77"))
    assert given_ == ["203.0.113.77", "2001:db8::7"]


def test_a_machines_address_is_given_to_nobody_when_a_pool_grows_around_it() -> None:
    book = ledger(ROUTABLE)
    lease(book, "vm:db", org("acme"), fixed=("10.240.0.3",))
    book = ledger(holding=book.holding())
    assert lease(book, "g", org("globex"))[0] == "10.240.0.4"
    assert refusal(assignment.lease(book, "vm:other", org("globex"), "", 0, ("10.240.0.3",))) == "ADDRESS_TAKEN"


def test_a_machines_address_in_a_pool_brings_its_subnet_to_the_org_and_is_given_to_no_container() -> None:
    book = ledger()
    assert lease(book, "vm:db", org("acme"), fixed=("10.240.1.3",)) == ["10.240.1.3"]
    for n in range(5):
        lease(book, f"g{n}", org(f"o{n}"))
        assert "10.240.1.0/24" not in prefixes(book, org(f"o{n}"))
    assert "10.240.1.0/24" in prefixes(book, org("acme"))
    given_ = {lease(book, f"w{n}", org("acme"))[0] for n in range(300)}
    assert "10.240.1.3" not in given_


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("10.240.0.9", "SUBNET_OF_ANOTHER_ORG"),
        ("10.240.5.1", "ADDRESS_RESERVED"),
        ("10.240.5.2", "ADDRESS_RESERVED"),
        ("10.240.5.255", "ADDRESS_RESERVED"),
        ("192.0.2.9", "ADDRESS_TAKEN"),
        ("192.0.2.8", "ADDRESS_AT_REST"),
        ("2001:DB8::1", "ADDRESS_BAD"),
        ("nowhere", "ADDRESS_BAD"),
    ],
)
def test_a_machines_address_that_cannot_be_is_refused_in_words(address: str, code: str) -> None:
    book = ledger()
    lease(book, "g", org("globex"))
    lease(book, "vm:other", org("globex"), fixed=("192.0.2.9",))
    lease(book, "vm:gone", org("globex"), fixed=("192.0.2.8",))
    assignment.release(book, "vm:gone", 0)
    assert refusal(assignment.lease(book, "vm:db", org("acme"), "cell-1", 299, (address,))) == code


def test_a_machine_whose_address_changed_rests_the_old_one() -> None:
    book = ledger()
    lease(book, "vm:db", org("acme"), fixed=("192.0.2.7",))
    assert lease(book, "vm:db", org("acme"), 5, ("192.0.2.8",)) == ["192.0.2.8"]
    assert book.leases["192.0.2.7"].released_at == 5


def test_a_machine_may_move_to_another_org_and_takes_along_a_subnet_that_is_its_alone() -> None:
    book = ledger()
    lease(book, "vm:db", org("acme"), fixed=("10.240.1.3", "192.0.2.7"))
    assert lease(book, "vm:db", org("globex"), fixed=("10.240.1.3", "192.0.2.7")) == ["10.240.1.3", "192.0.2.7"]
    assert "10.240.1.0/24" in prefixes(book, org("globex"))
    assert "10.240.1.0/24" not in prefixes(book, org("acme"))
    assert {held.org for held in book.live["vm:db"]} == {org("globex").org}
    assert not book.live_in_org[org("acme").org]


def test_a_machine_that_moves_leaves_a_subnet_that_others_had_addresses_of_and_is_told_so() -> None:
    book = ledger()
    first = lease(book, "a", org("acme"))[0]
    neighbour = first.removesuffix(".3") + ".9"
    lease(book, "vm:db", org("acme"), fixed=("192.0.2.7", neighbour))
    assignment.release(book, "a", 0)
    before = book.holding()
    book.drain()
    answer = assignment.lease(book, "vm:db", org("globex"), "cell-1", 1, ("192.0.2.7", neighbour))
    assert refusal(answer) == "SUBNET_OF_ANOTHER_ORG"
    assert {n.prefix for n in before.org_networks} <= {n.prefix for n in book.holding().org_networks}
    assert book.holding().leases == before.leases


# ---- what cells report


def test_what_is_in_use_wins_over_a_subnet_that_another_org_was_given_and_never_used() -> None:
    """A store from backup knows of no container, and gave the orgs their subnets in another order."""
    book = ledger()
    assert assignment.settle(book, org("globex"), 0) is None
    assert prefixes(book, org("globex"))[0] == "10.240.0.0/24"
    book.drain()
    refused = assignment.adopt(book, "cell-1", {"a": (org("acme"), ("10.240.0.7",))}, 1)
    assert refused == {}
    assert "10.240.0.0/24" in prefixes(book, org("acme"))
    steps = [(b and b.org, a and a.org) for b, a in book.drain().org_networks if "10.240.0.0/24" in str((b, a))]
    assert steps == [(org("globex").org, None), (None, org("acme").org)]
    assert lease(book, "g", org("globex"), 2)[0] == "10.240.1.3"


def test_a_subnet_that_another_org_has_an_address_at_rest_of_is_not_claimed() -> None:
    book = ledger()
    lease(book, "g", org("globex"))
    assignment.release(book, "g", 0)
    refused = assignment.adopt(book, "cell-1", {"a": (org("acme"), ("10.240.0.7",))}, 1)
    assert refusal(refused["a"]) == "SUBNET_OF_ANOTHER_ORG"
    assert "10.240.0.0/24" in prefixes(book, org("globex"))


def test_a_report_that_is_refused_takes_no_subnet_from_anybody() -> None:
    book = ledger(Pool("overlay", PoolKind.CONTAINER, ("10.240.0.0/20",), reserved=(("globex", ("10.240.0.0/24",)),)))
    assert assignment.settle(book, org("globex"), 0) is None
    book.drain()
    refused = assignment.adopt(book, "cell-1", {"a": (org("acme"), ("10.240.0.7",))}, 1)
    assert refusal(refused["a"]) == "ADDRESS_RESERVED"
    assert prefixes(book, org("globex")) == ["10.240.0.0/24"]
    assert not book.drain()


# ---- alarms


def test_the_share_of_a_pool_that_is_held_is_its_fuller_familys() -> None:
    book = ledger(Pool("p", PoolKind.CONTAINER, ("10.0.0.0/22", "fd00::/60")), SNAT)
    for n in range(3):
        lease(book, f"w{n}", org(f"o{n}"))
    assert book.pool_use(0) == {"p": 0.75, "snat": 0.0}


def test_a_resting_snat_address_counts_as_held() -> None:
    book = ledger()
    assignment.settle(book, org("globex", NetworkMode.NAT), 0)
    held = book.pool_use(0)["snat"]
    assignment.settle(book, org("globex", NetworkMode.SHARED), 0)
    assert book.pool_use(DAY - 1)["snat"] == held > 0
    assert book.pool_use(DAY)["snat"] == 0


# ---- always

TIGHT = (
    Pool(
        "tight",
        PoolKind.CONTAINER,
        ("10.0.0.0/27", "10.0.0.40/29", "fd00::/61"),
        29,
        reserved=(("o1", ("10.0.0.16/29",)), ("cf:o2", ("10.0.0.41",))),
    ),
    Pool("routable", PoolKind.CONTAINER, ("172.16.0.0/27",), 29, routable=True),
    Pool("snat", PoolKind.SNAT, ("203.0.113.0/29",), reserved=(("o1", ("203.0.113.3",)),)),
)
WISHES = st.builds(
    org, st.sampled_from(["o0", "o1", "o2", "o3", "o4"]), st.sampled_from([None, *NetworkMode]), st.just("cf")
)
WORKLOADS = st.sampled_from([f"w{n}" for n in range(24)])
FIXED = st.sampled_from([(), (), (), ("192.0.2.1",), ("10.0.0.3",), ("10.0.0.12",), ("10.0.0.41",), ("172.16.0.4",)])


def check(holding: Holding) -> None:
    """Nothing overlaps, nothing is held twice, everything is in its org's place."""
    networks = [ipaddress.ip_network(network.prefix) for network in holding.org_networks]
    for index, one in enumerate(networks):
        assert not any(one.version == other.version and one.overlaps(other) for other in networks[index + 1 :])
    assert len({held.address for held in holding.leases}) == len(holding.leases)
    assert len({held.address for held in holding.snat_addresses}) == len(holding.snat_addresses)
    for held in holding.leases:
        address = ipaddress.ip_address(held.address)
        homes = [n for n in holding.org_networks if address in ipaddress.ip_network(n.prefix)]
        if homes and held.released_at is None:
            first, last = pools.usable(homes[0].prefix)
            assert homes[0].org == held.org
            assert first <= int(address) <= last


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(WISHES, st.lists(WORKLOADS, max_size=6)), max_size=12))
def test_assigning_twice_changes_nothing_and_the_same_input_gives_the_same_answer(
    wishes: list[tuple[OrgWish, list[str]]],
) -> None:
    first = assignment.assign(TIGHT, wishes, Holding(), 0)
    check(first.holding)
    assert assignment.assign(TIGHT, wishes, Holding(), 0) == first
    last_wishes = list({wish.org: (wish, workloads) for wish, workloads in wishes}.values())
    settled = assignment.assign(TIGHT, last_wishes, first.holding, 0)
    assert assignment.assign(TIGHT, last_wishes, settled.holding, 0) == settled


class Tenancy(RuleBasedStateMachine):
    """Any story of wishes, leases, releases, reports and restarts."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.book = Ledger(TIGHT, Defaults(), Holding())
        self.before = Holding()

    @rule(seconds=st.sampled_from([1, 150, 299, 300, 40_000, 86_400]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(wish=WISHES)
    def wished(self, wish: OrgWish) -> None:
        assignment.settle(self.book, wish, self.now)

    @rule(workload=WORKLOADS, wish=WISHES, fixed=FIXED)
    def leased(self, workload: str, wish: OrgWish, fixed: tuple[str, ...]) -> None:
        present = self.book.live.get(workload)
        answer = assignment.lease(self.book, workload, wish, "cell-1", self.now, fixed)
        if not isinstance(answer, Refused):
            assert answer == self.book.live[workload]
            if present and not fixed:
                assert [held.address for held in answer] == [held.address for held in present]
        else:
            assert answer.message

    @rule(workload=WORKLOADS)
    def released(self, workload: str) -> None:
        assignment.release(self.book, workload, self.now)

    @rule(report=st.dictionaries(WORKLOADS, st.tuples(WISHES, FIXED), max_size=3))
    def reported(self, report: dict[str, tuple[OrgWish, tuple[str, ...]]]) -> None:
        refused = assignment.adopt(self.book, "cell-1", report, self.now)
        for workload, (_, addresses) in report.items():
            if workload not in refused and addresses:
                assert [held.address for held in self.book.live[workload]] == list(addresses)
        self.before = self.book.holding()  # a report may end a rest: what a cell uses wins

    @rule(orgs=st.sets(st.sampled_from(["cf:o0", "cf:o1", "cf:o3"])))
    def departed(self, orgs: set[str]) -> None:
        assignment.depart(self.book, [QualifiedId(name) for name in orgs], self.now)

    @rule()
    def restarted(self) -> None:
        restarted = Ledger(TIGHT, Defaults(), self.book.holding())
        assert restarted.holding() == self.book.holding()
        assert restarted.pool_use(self.now) == self.book.pool_use(self.now)
        self.book = restarted

    @invariant()
    def nothing_is_shared(self) -> None:
        check(self.book.holding())

    @invariant()
    def reservations_hold(self) -> None:
        for network in self.book.networks.values():
            if network.prefix == "10.0.0.16/29":
                assert network.org == "cf:o1"
            if network.prefix == "10.0.0.40/29":
                assert network.org == "cf:o2"
        assert all(held.org == "cf:o1" for held in self.book.snat.values() if held.address == "203.0.113.3")

    @invariant()
    def rest_is_respected(self) -> None:
        for old in self.before.leases:
            new = self.book.leases.get(old.address)
            if new is not None and new.workload != old.workload and old.released_at is not None:
                assert old.released_at + 300 <= self.now
        for was in self.before.snat_addresses:
            row = self.book.snat[was.address]
            if row.org != was.org:
                assert was.released_at is not None
                assert was.released_at + DAY <= self.now
        self.before = self.book.holding()

    @invariant()
    def a_drain_says_all_that_changed(self) -> None:
        for before, after in self.book.drain().leases:
            address = (after or before).address  # type: ignore[union-attr]
            assert self.book.leases.get(address) == after


Tenancy.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTenancy = Tenancy.TestCase


@pytest.mark.parametrize(
    "row",
    [
        OrgNetwork(QualifiedId("cf:acme"), "10.240.0.0/24", "overlay"),
        Lease("10.240.0.3", "w", QualifiedId("cf:acme")),
        SnatAddress(QualifiedId("cf:acme"), "203.0.113.1", "snat"),
    ],
)
def test_a_ledger_that_was_only_read_has_nothing_to_write(row: OrgNetwork | Lease | SnatAddress) -> None:
    held = {
        OrgNetwork: lambda: Holding(org_networks=(row,)),  # type: ignore[arg-type]
        Lease: lambda: Holding(leases=(row,)),  # type: ignore[arg-type]
        SnatAddress: lambda: Holding(snat_addresses=(row,)),  # type: ignore[arg-type]
    }[type(row)]()
    assert not ledger(holding=held).drain()
