"""Does the judge see what is wrong, and only that? The truth of a soak by itself, with a clock that the test sets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from egress.values import QualifiedId
from policy_sync.model import Action, Asg, CfPolicy, GardenRule, Kind, Lifecycle, Protocol, Tier, Workload
from tests.soak import leaks, runner
from tests.soak.judge import Judge
from tests.soak.leaks import Required, Seen
from tests.soak.memory import Memory, Sample
from tests.soak.soak import Plan, Report
from tests.soak.truth import End, Names, Order, Orders, Truth, Way, platform

POOLS = ("10.240.0.0/14",)
SETTLE = {"policies": 3.0, "groups": 4.0, "orders": 3.0, "names": 5.0}
A, B, SPACE = (QualifiedId(f"cf:{name}") for name in ("a", "b", "space"))
POLICY = {(A, B): (CfPolicy(A, B, Protocol.TCP, 8080, 8080),)}
DROP = Orders((Order("drop", Tier.EMERGENCY, Action.DROP, "acme/dev/a", "any"),))


def container(name: str, address: str) -> End:
    app = QualifiedId(f"cf:{name}")
    workload = Workload(f"cf:{name}-0", Kind.CONTAINER, (address,), space=SPACE, app=app, lifecycle=Lifecycle.APP)
    return End(address, workload=workload)


WAY = Way(container("a", "10.240.0.4"), container("b", "10.240.0.5"), Protocol.TCP, 8080)
OUT = Way(container("a", "10.240.0.4"), End("198.51.100.10"), Protocol.TCP, 80)
CELL = replace(OUT, destination=End("192.0.2.10"), to_cell=True)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.truth = Truth(
            SETTLE, pools=POOLS, cell_addresses=("192.0.2.10",), platform=platform(POOLS), clock=self.clock
        )
        self.judge = Judge(self.truth, self.clock)

    def later(self, seconds: float) -> float:
        self.clock.now += seconds
        self.truth.tick()
        return self.clock.now

    def answers(self, way: Way = WAY) -> set[bool]:
        return {*self.truth.answers(way, self.clock.now, self.clock.now)}


@pytest.fixture
def world() -> World:
    return World()


def test_nobody_may_reach_anybody_before_somebody_said_so(world: World):
    assert world.answers() == {False}
    assert world.answers(OUT) == {False}


def test_a_change_is_judged_when_it_had_its_time_and_not_before(world: World):
    world.truth.note("policies", POLICY)
    assert world.answers() == {True, False}
    world.later(2.9)
    assert world.answers() == {True, False}
    world.later(0.2)
    assert world.answers() == {True}


def test_a_packet_that_was_sent_before_the_change_was_due_is_in_flight(world: World):
    sent = world.clock.now
    world.truth.note("policies", POLICY)
    world.later(4)
    world.truth.note("policies", {})
    arrived = world.later(4)
    assert {*world.truth.answers(WAY, sent, arrived)} == {True, False}
    assert {*world.truth.answers(WAY, arrived, arrived)} == {False}


def test_while_somebody_is_away_old_and_new_both_count(world: World):
    with world.truth.disturbance("the bridge dies"):
        world.truth.note("policies", POLICY)
        world.later(100)
        assert world.answers() == {True, False}
    world.later(2.9)
    assert world.answers() == {True, False}
    world.later(0.2)
    assert world.answers() == {True}


def test_what_no_change_concerns_is_judged_while_others_are_in_flight_and_somebody_is_away(world: World):
    with world.truth.disturbance("the bridge dies"):
        world.truth.note("policies", {(B, A): (CfPolicy(B, A, Protocol.TCP, 8080, 8080),)})
        assert world.answers() == {False}


def test_two_servers_may_be_read_in_either_order(world: World):
    """The policy went before the drop was lifted; who hears of the second first sees the policy for a moment."""
    world.truth.note("names", Names({"app:acme/dev/a": A}))
    world.truth.note("policies", POLICY)
    world.truth.note("orders", DROP)
    world.later(10)
    assert world.answers() == {False}
    world.truth.note("policies", {})
    world.truth.note("orders", Orders())
    assert world.answers() == {True, False}
    world.later(10)
    assert world.answers() == {False}


def test_an_order_for_an_app_that_has_another_name_now_concerns_nobody(world: World):
    world.truth.note("names", Names({"app:acme/dev/a": A}))
    world.truth.note("policies", POLICY)
    world.truth.note("orders", DROP)
    world.later(10)
    world.truth.note("names", Names({"app:acme/dev/z": A}))
    world.later(10)
    assert world.answers() == {True}


def test_a_security_group_opens_the_outside_and_neither_cell_nor_container(world: World):
    everywhere = GardenRule(Protocol.ALL, ((bytes(4), b"\xff" * 4),))
    world.truth.note("groups", (Asg(QualifiedId("cf:g"), "g", (everywhere,), running_spaces=frozenset((SPACE,))),))
    world.later(10)
    assert [world.answers(way) for way in (OUT, WAY, CELL)] == [{True}, {False}, {False}]


def test_what_was_taken_from_us_excuses_a_refusal_and_no_passage_but_to_the_cell(world: World):
    world.truth.note("policies", POLICY)
    world.later(10)
    with world.truth.closure():
        begin = world.later(1)
        world.judge.failed("connect", WAY, begin, begin, "timeout")
        assert world.answers(CELL) == {True, False}
        assert world.answers(OUT) == {False}
    assert not world.judge.said
    world.later(1)
    world.judge.failed("connect", WAY, world.clock.now, world.clock.now, "timeout")
    assert world.judge.counts["wrongly_refused"] == 1


def test_a_packet_that_passed_although_it_was_refused_all_the_time_is_said(world: World):
    world.judge.passed("datagram", WAY, world.clock.now, world.later(1))
    assert world.judge.counts["wrongly_passed"] == 1
    assert "datagram" in world.judge.said[0]


def test_a_stream_that_was_cut_although_it_was_allowed_all_the_time_is_said(world: World):
    world.truth.note("policies", POLICY)
    world.later(10)
    world.judge.cut(WAY, world.clock.now, world.later(1), "reset")
    assert world.judge.counts["wrongly_cut"] == 1


def test_a_stream_comes_through_a_flush_and_may_end_where_its_link_was_taken(world: World):
    world.truth.note("policies", POLICY)
    last = world.later(10)
    with world.truth.closure(unplugged=WAY.source.address):
        assert world.judge.cut(WAY, last, world.later(1), "nothing comes")
    last = world.later(10)
    with world.truth.closure():
        assert not world.judge.cut(WAY, last, world.later(1), "nothing comes")


def test_a_stream_that_is_translated_may_end_with_the_whole_table(world: World):
    mapped = replace(WAY, source=End("192.0.2.20"), by=("192.0.2.10", 61001))
    last = world.clock.now
    with world.truth.closure():
        assert not world.judge.cut(mapped, last, world.later(1), "reset")
    last = world.later(10)
    with world.truth.closure(untranslated=True):
        assert world.judge.cut(mapped, last, world.later(1), "reset")
        assert world.truth.may_end(OUT, last, world.clock.now)
        assert not world.truth.may_end(WAY, last, world.clock.now)


def test_a_stream_that_was_cut_when_its_policy_went_is_right(world: World):
    world.truth.note("policies", POLICY)
    last = world.later(10)
    world.truth.note("policies", {})
    world.judge.cut(WAY, last, world.later(0.5), "reset")
    assert not world.judge.said


def test_what_belongs_to_nobody_who_is_there_is_a_leak():
    there = Required(frozenset(("there",)), frozenset(("10.240.0.4",)))
    device = leaks.device_name("there")
    well = Seen(
        links=frozenset((device,)),
        routes=frozenset(("10.240.0.4",)),
        sets={"workload4": ('"10.240.0.4"',), "pools4": ('{"prefix": {"addr": "10.240.0.0", "len": 14}}',)},
        files=frozenset((f"agent/ports/{leaks.hash_of('there')}",)),
        leases=frozenset(("10.240.0.4",)),
    )
    assert leaks.surplus(well, there) == []
    leaked = Seen(
        links=frozenset(("cf-00000000000",)),
        routes=frozenset(("10.240.0.9",)),
        sets={"workload4": ('"10.240.0.9"',), "port_src4": ('["cf-00000000000", "10.240.0.4"]',)},
        mounts=frozenset(("agent/netns/0",)),
        files=frozenset(("spool/x.down",)),
        leases=frozenset(("10.240.0.9",)),
        connections=frozenset(("udp 17 src=10.240.0.4 dst=10.240.0.9",)),
    )
    assert [each.partition(" ")[0] for each in leaks.surplus(leaked, there)] == [
        *("connection", "element", "element", "file", "lease", "link", "mount", "route")
    ]


def test_what_is_there_at_the_end_and_was_not_at_the_start_is_a_leak():
    before = Seen(sets={"live": ('"0x1"',)}, chains=frozenset(("tier0",)))
    sets = {"live": ('"0x1"', '"0x2"'), "g_1_h4": (), "g_2_h4": ('"10.240.0.4"',), "g_3_h4": ('"192.0.2.10"',)}
    after = Seen(sets=sets, chains=frozenset(("tier0", "p_1")))
    assert leaks.left_over(before, before) == []
    assert leaks.left_over(before, after) == [
        "chain p_1",
        'element "0x2" of live',
        'element "10.240.0.4" of g_2_h4',
        "set g_1_h4",
        "set g_2_h4",
    ]


def test_a_process_is_as_large_as_its_median_of_the_first_and_the_last_third():
    memory = Memory(lambda name: None)
    memory.samples["bridge"] = [Sample(float(at), 1, (100 + (at >= 20) * 6) << 20) for at in range(30)]
    assert memory.judged(0, 30)["bridge"] == {"first_mib": 100.0, "last_mib": 106.0, "growth": 0.06}


def report(world: World, **said: object) -> Report:
    world.judge.counts |= {"judged": 100}
    return replace(Report(Plan(1, 1800), world.judge), **said)  # type: ignore[arg-type]


def test_a_soak_is_well_when_nothing_is_wrong(world: World):
    assert runner.failures(report(world)) == []


def test_a_soak_fails_for_each_of_what_can_go_wrong(world: World):
    grown = {"memory": {"agent": {"first_mib": 50.0, "last_mib": 55.0, "growth": 0.1}}}
    held = {"held": {"before": {"bridge": {"threads": 8}}, "after": {"bridge": {"threads": 80}}}}
    assert runner.failures(report(world, leaked=["a route"])) == ["leaked: a route"]
    assert runner.failures(report(world, figures=grown)) == ["the agent grew by 10.0%, from 50.0 MiB"]
    assert runner.failures(report(world, figures=held)) == ["the bridge has 80 threads, and had 8"]
    world.judge.counts |= {"in_flight": 101}
    assert runner.failures(report(world)) == ["too little was judged: 100 of 201 probes"]
