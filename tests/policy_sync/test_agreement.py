"""Do compiler and oracle mean the same? Any small world, however odd, and packets all over it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egress.values import QualifiedId, parse_range
from policy_sync import compiler, ruleset, verdict
from policy_sync.criteria import All, Attribute, Comparison, Either, Not, Within
from policy_sync.model import (
    Action,
    Asg,
    CfPolicy,
    GardenRule,
    Group,
    Kind,
    Lifecycle,
    Mode,
    Packet,
    Protocol,
    Rule,
    Selector,
    SelectorKind,
    Service,
    Tier,
    Workload,
    World,
)

V4 = ("10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.9", "10.9.0.1", "192.0.2.7", "192.0.2.8", "10.0.0.1", "10.1.0.254")
V6 = ("fd00::1", "fd00::2", "fd00::9", "2001:db8::1", "fd01::1")
RANGES = ("10.1.0.2", "10.1.0.0/30", "10.1.0.3-192.0.2.7", "0.0.0.0/0", "::/0", "fd00::/64", "192.0.2.0/24", "nonsense")
APPS = tuple(QualifiedId(f"{foundation}:{app}") for foundation in ("cf", "two") for app in ("a", "b"))
SPACES = tuple(QualifiedId(f"{foundation}:s{number}") for foundation in ("cf", "two") for number in (1, 2))
GROUPS = ("g", "h", "i", "nobody")
NOW = 1000.0

few = st.integers(0, 3)
ports = st.tuples(st.sampled_from((1, 80, 443, 65535)), st.sampled_from((0, 1, 10))).map(
    lambda each: (each[0], min(65535, each[0] + each[1]))
)
protocols = st.sampled_from(tuple(Protocol))
icmp = st.sampled_from((None, 0, 8, 128))
booleans = st.booleans()


def tuples(of: st.SearchStrategy, low: int = 0, high: int = 3) -> st.SearchStrategy:
    return st.lists(of, min_size=low, max_size=high).map(tuple)


KIND, TAG, LABEL = Attribute("kind"), Attribute("tag", "env"), Attribute("label", "a b")
VALUES = st.sampled_from(("prod", "stage", "p*", "?r*d", "*"))
comparisons = st.one_of(
    st.builds(Comparison, st.sampled_from((KIND, TAG, LABEL)), st.sampled_from(("=", "!=", "~")), st.tuples(VALUES)),
    st.builds(Comparison, st.sampled_from((TAG, LABEL)), st.sampled_from(("in", "not in")), st.tuples(VALUES, VALUES)),
    st.builds(Comparison, st.sampled_from((TAG, LABEL)), st.just("exists")),
    st.builds(
        Comparison,
        st.just(Attribute("group")),
        st.sampled_from(("=", "!=", "in", "not in")),
        st.tuples(st.sampled_from(GROUPS)),
    ),
    st.sampled_from(RANGES[:-1]).map(lambda each: Within(each, parse_range(each))),
)
criterias = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: All(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Either(tuple(parts))),
    ),
    max_leaves=5,
)
attributes = st.dictionaries(st.sampled_from((TAG, LABEL)), st.sampled_from(("prod", "stage", "")))
selectors = st.one_of(
    st.builds(Selector, st.just(SelectorKind.ANY), negated=st.sampled_from((False, False, True))),
    st.builds(Selector, st.just(SelectorKind.GROUP), st.sampled_from(GROUPS), booleans),
    st.builds(Selector, st.just(SelectorKind.ORG), st.sampled_from(("cf:o", "two:o"))),
    st.builds(Selector, st.just(SelectorKind.SPACE), st.sampled_from(SPACES)),
    st.builds(Selector, st.just(SelectorKind.APP), st.sampled_from(APPS), booleans),
    st.builds(Selector, st.just(SelectorKind.WORKLOAD), st.sampled_from(("cf:w0", "vm:w1", "cf:w2"))),
    st.builds(
        Selector,
        st.just(SelectorKind.KIND),
        st.sampled_from(("container", "vm", "cell", "running", "staging", "ghost")),
        booleans,
    ),
    st.builds(Selector, st.just(SelectorKind.RANGE), st.sampled_from(RANGES), booleans),
)
services = st.builds(Service, protocols, tuples(ports, 0, 2), icmp, icmp)
garden_rules = st.builds(
    GardenRule,
    protocols,
    tuples(st.sampled_from([parse_range(each) for each in RANGES[:-1]]), 0, 2),
    tuples(ports, 0, 2),
    icmp,
    icmp,
    booleans,
)
policies = st.builds(
    lambda source, destination, protocol, ports: CfPolicy(source, destination, protocol, *ports),
    st.sampled_from(APPS),
    st.sampled_from(APPS),
    st.sampled_from((Protocol.TCP, Protocol.TCP, Protocol.UDP, Protocol.ICMP)),
    st.one_of(ports, st.sampled_from(((0, 80), (80, 79), (70, 90), (85, 600)))),
)
asgs = st.builds(
    lambda foundation, number, *rest: Asg(QualifiedId(f"{foundation}:asg{number}"), "asg", *rest),
    st.sampled_from(("cf", "two")),
    few,
    tuples(garden_rules),
    booleans,
    booleans,
    st.frozensets(st.sampled_from(SPACES)),
    st.frozensets(st.sampled_from(SPACES)),
)


@st.composite
def workloads(draw: st.DrawFn) -> tuple[Workload, ...]:
    made = []
    for number in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from((Kind.CONTAINER, Kind.CONTAINER, Kind.CONTAINER, Kind.VM, Kind.HOST)))
        foundation = "vm" if kind is Kind.VM else draw(st.sampled_from(("cf", "cf", "two")))
        made.append(
            Workload(
                id=f"{foundation}:w{number}",
                kind=kind,
                addresses=draw(tuples(st.sampled_from((*V4[:6], *V6[:4], "rubbish")), 0, 2)),
                org=QualifiedId(f"{foundation}:o") if draw(booleans) else None,
                space=draw(st.sampled_from((None, *SPACES))),
                app=draw(st.sampled_from((None, *APPS, *APPS))) if kind is Kind.CONTAINER else None,
                lifecycle=draw(st.sampled_from((Lifecycle.APP, *Lifecycle))),
                protected=draw(booleans),
                garden_rules=draw(tuples(garden_rules, 0, 2)),
                net_out=draw(tuples(garden_rules, 0, 1)),
                attributes={KIND: kind.value, **draw(attributes)},
            )
        )
    return tuple(made)


rules = st.builds(
    Rule,
    key=st.sampled_from(tuple(f"rule:{number}" for number in range(12))),
    name=st.just("any 'name'"),
    tier=st.sampled_from(tuple(Tier)),
    sources=tuples(selectors, 0, 2),
    destinations=tuples(selectors, 0, 2),
    action=st.sampled_from(tuple(Action)),
    services=st.one_of(st.just((Service(),)), tuples(services, 0, 2)),
    applied_to=st.one_of(st.just(()), tuples(selectors, 1, 2)),
    mode=st.sampled_from((Mode.ENFORCE, Mode.ENFORCE, Mode.WATCH)),
    enabled=st.sampled_from((True, True, True, False)),
    expires_at=st.sampled_from((None, NOW - 1, NOW, NOW + 1)),
    mapped_only=st.sampled_from((False, False, True)),
)
worlds = st.builds(
    World,
    workloads=workloads(),
    groups=tuples(st.builds(Group, st.sampled_from(GROUPS[:-1]), tuples(selectors), st.none() | criterias), 0, 4),
    rules=tuples(rules, 0, 6),
    policies=st.frozensets(policies, max_size=8),
    asgs=st.lists(asgs, max_size=3, unique_by=lambda asg: asg.id).map(tuple),
    asgs_known=st.frozensets(st.sampled_from(("cf", "two"))),
    container_pools=st.sampled_from(((), ("10.1.0.0/24",), ("10.1.0.0/30", "fd00::/64"))),
    cell_addresses=st.sampled_from(((), ("10.0.0.1",), ("10.0.0.1", "10.1.0.254", "fd01::1"))),
)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    places = st.sampled_from(draw(st.sampled_from((V4, V4, V6))))
    protocol = draw(st.sampled_from((Protocol.TCP, Protocol.TCP, Protocol.UDP, Protocol.ICMP, Protocol.ICMPV6, 6, 47)))
    port = draw(st.sampled_from((1, 2, 79, 80, 81, 90, 91, 443, 454, 65535)))
    kind, code = draw(st.sampled_from((8, 0, 128))), draw(st.sampled_from((0, 8)))
    return Packet(draw(places), draw(places), protocol, port, kind, code, draw(booleans))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    world=worlds,
    sent=st.lists(packets(), min_size=10, max_size=30),
    shuffle=st.randoms(),
    now=st.sampled_from((None, NOW)),
)
def test_the_compiled_ruleset_decides_every_packet_as_the_oracle_does(world, sent, shuffle, now):
    keys = [*dict.fromkeys(compiler.rule_keys(world))]
    shuffle.shuffle(keys)
    ids = {key: number for number, key in enumerate(keys, 1)}
    compiled = compiler.compile_ruleset(world, ids, now).ruleset
    decider = ruleset.Decider(compiled)
    for packet in sent:
        action, number = decider.decide(packet)
        label = compiled.labels.get(number)
        judged = verdict.verdict(world, packet, ids, now)
        assert (action, label.key if label else "") == (judged.action, judged.rule), packet


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(steps=st.lists(worlds, min_size=2, max_size=3), kept=st.frozensets(policies, max_size=6))
def test_a_compile_that_starts_from_the_last_one_finds_what_a_fresh_one_finds(steps, kept):
    memo = compiler.Memo()
    keys = dict.fromkeys(key for world in steps for key in compiler.rule_keys(world))
    ids = {key: number for number, key in enumerate(keys, 1)}
    first = steps[0]
    apart = [
        World(**{**{n: getattr(first, n) for n in World.__slots__}, "policies": each}) for each in (kept, frozenset())
    ]
    ids |= {key: len(ids) + n for n, key in enumerate(set(compiler.rule_keys(apart[0])) - set(ids), 1)}
    for world in (*steps, *apart, first):
        again, fresh = compiler.compile_ruleset(world, ids, memo=memo), compiler.compile_ruleset(world, ids)
        assert again.ruleset == fresh.ruleset
        assert sorted(map(repr, again.quarantined)) == sorted(map(repr, fresh.quarantined))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(before=worlds, now=worlds, kept=st.frozensets(policies, max_size=6), same_people=st.booleans())
def test_keys_asked_for_after_a_settled_world_leave_out_only_its_own(before, now, kept, same_people):
    before = replace(before, policies=before.policies | kept)
    now = replace(now, policies=now.policies | kept, workloads=before.workloads if same_people else now.workloads)
    settled, needed = frozenset(compiler.rule_keys(before)), frozenset(compiler.rule_keys(now))
    assert needed - settled <= frozenset(compiler.rule_keys(now, before)) <= needed


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(world=worlds)
def test_policies_own_disjoint_ports_and_every_set_that_a_rule_names_is_there(world):
    ids = {key: number for number, key in enumerate(dict.fromkeys(compiler.rule_keys(world)), 1)}
    compiled = compiler.compile_ruleset(world, ids).ruleset
    last: dict[tuple[int, int, int], int] = {}
    for match in sorted(compiled.policies):
        assert last.get(match[:3], 0) < match.first_port <= match.last_port
        last[match[:3]] = match.last_port
    lines = [rule for each in (*compiled.tiers.values(), *compiled.profiles.values()) for rule in each]
    assert {name for rule in lines for name in (rule.sources, rule.destinations) if name} <= compiled.sets.keys()
    assert {rule.id for rule in lines} | set(compiled.policies.values()) <= compiled.labels.keys()
    assert all(len(name) <= 60 and name.isidentifier() and name.islower() for name in compiled.sets)
    assert all(each.v4 or each.v6 for each in compiled.sets.values())
