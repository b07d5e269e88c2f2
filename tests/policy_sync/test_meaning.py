"""What do the clauses of the firewall's meaning say? Each is a sentence, asked of oracle and compiled ruleset alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from egress.values import QualifiedId, parse_range, qualify
from policy_sync import compiler, ruleset, translate, verdict
from policy_sync.model import (
    ANY,
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

FRONT, BACK = "10.1.0.3", "10.1.0.4"
FRONT2, STAGING, TASK = "10.1.0.5", "10.1.0.6", "10.1.0.7"
FRONT6, BACK6 = "fd00::3", "fd00::4"
FREE = "10.1.0.99"
VM, VM_IN_POOL = "10.0.5.1", "10.1.0.200"
OUTSIDE, ROUTER = "203.0.113.7", "198.51.100.1"
CELL, DNS = "10.0.1.1", "169.254.0.53"
METADATA = "169.254.169.254"
APP_FRONT, APP_BACK = qualify("cf", "front"), qualify("cf", "back")
DEV, PROD = qualify("cf", "dev"), qualify("cf", "prod")
EVERYTHING = (parse_range("0.0.0.0/0"), parse_range("::/0"))


def container(handle: str, app: QualifiedId, *addresses: str, lifecycle: Lifecycle = Lifecycle.APP) -> Workload:
    return Workload(f"cf:{handle}", Kind.CONTAINER, addresses, "c1", qualify("cf", "acme"), DEV, app, lifecycle, handle)


BOX = World(
    workloads=(
        container("front-0", APP_FRONT, FRONT, FRONT6),
        container("front-1", APP_FRONT, FRONT2),
        container("back-0", APP_BACK, BACK, BACK6),
        container("stage", APP_FRONT, STAGING, lifecycle=Lifecycle.STAGING),
        container("task", APP_FRONT, TASK, lifecycle=Lifecycle.TASK),
        Workload("vm:db", Kind.VM, (VM,), name="db"),
        Workload("vm:pet", Kind.VM, (VM_IN_POOL,), name="pet", protected=False),
    ),
    rules=(
        *translate.system_rules(dns_listeners=(DNS,), metadata_addresses=(METADATA,)),
        *translate.baseline_rules(),
    ),
    asgs_known=frozenset({"cf"}),
    container_pools=("10.1.0.0/24", "fd00::/64"),
    cell_addresses=(CELL, DNS),
)
OPEN = Asg(qualify("cf", "open"), "open", (GardenRule(Protocol.ALL, EVERYTHING),), running_default=True)
POLICY = CfPolicy(APP_FRONT, APP_BACK, Protocol.TCP, 8080, 8090)


def tcp(source: str, destination: str, port: int = 8080, *, mapped: bool = False) -> Packet:
    return Packet(source, destination, Protocol.TCP, port, mapped=mapped)


def numbers(world: World) -> dict[str, int]:
    return {key: number for number, key in enumerate(dict.fromkeys(compiler.rule_keys(world)), 1)}


def judge(world: World, packet: Packet, now: float | None = None, ids: Mapping[str, int] | None = None):
    """The oracle's verdict; the compiled ruleset must say the same."""
    ids = ids or numbers(world)
    judged = verdict.verdict(world, packet, ids, now)
    compiled = compiler.compile_ruleset(world, ids, now).ruleset
    action, number = ruleset.decide(compiled, packet)
    assert (action, compiled.labels[number].key if number else "") == (judged.action, judged.rule)
    return judged


def rule(name: str, tier: Tier, action: Action, sources=ANY, destinations=ANY, **more) -> Rule:
    return Rule(f"rule:{name}", name, tier, tuple(sources), tuple(destinations), action, **more)


def with_rules(*rules: Rule, **more) -> World:
    return replace(BOX, rules=(*rules, *BOX.rules), **more)


def at(address: str) -> tuple[Selector]:
    return (Selector(SelectorKind.RANGE, address),)


def group(name: str, negated: bool = False) -> tuple[Selector]:
    return (Selector(SelectorKind.GROUP, name, negated),)


@pytest.mark.parametrize(
    ("packet", "action", "by"),
    [
        (tcp(FRONT, BACK), Action.REJECT, "baseline:container-to-container"),
        (tcp(FRONT, FRONT2), Action.REJECT, "baseline:container-to-container"),
        (tcp(FRONT6, BACK6), Action.REJECT, "baseline:container-to-container"),
        (tcp(FRONT, FREE), Action.REJECT, "baseline:container-to-container"),
        (tcp(FRONT, OUTSIDE), Action.REJECT, "baseline:container-to-any"),
        (tcp(FRONT, VM), Action.REJECT, "baseline:container-to-any"),
        (tcp(FRONT, VM_IN_POOL), Action.REJECT, "baseline:container-to-any"),
        (tcp(FRONT, CELL, 53), Action.REJECT, "baseline:container-to-any"),
        (tcp(FRONT, DNS, 53), Action.ALLOW, "system:dns"),
        (tcp(FRONT, DNS, 54), Action.REJECT, "baseline:container-to-any"),
        (tcp(FRONT, METADATA, 80), Action.REJECT, "system:metadata"),
        (tcp(OUTSIDE, FRONT), Action.REJECT, "baseline:any-to-container"),
        (tcp(OUTSIDE, FRONT, mapped=True), Action.ALLOW, "baseline:platform-ingress"),
        (tcp(CELL, FRONT), Action.ALLOW, "baseline:cell-to-container"),
        (tcp(VM, FRONT), Action.REJECT, "baseline:any-to-container"),
        (tcp(VM_IN_POOL, FRONT), Action.REJECT, "baseline:any-to-container"),
        (tcp(VM, VM_IN_POOL), Action.ALLOW, "baseline:any-to-any"),
        (tcp(VM, OUTSIDE), Action.ALLOW, "baseline:any-to-any"),
        (tcp(OUTSIDE, VM), Action.ALLOW, "baseline:any-to-any"),
        (tcp(VM, CELL), Action.ALLOW, "baseline:any-to-any"),
    ],
)
def test_when_nobody_said_anything_the_defaults_decide(packet, action, by):
    judged = judge(BOX, packet)
    assert (judged.action, judged.rule) == (action, by)


def test_without_any_baseline_rule_everything_is_refused():
    assert judge(World(), tcp(VM, OUTSIDE)).action is Action.REJECT


@pytest.mark.parametrize(
    ("packet", "allowed"),
    [
        (tcp(FRONT, BACK, 8079), False),
        (tcp(FRONT, BACK, 8080), True),
        (tcp(FRONT, BACK, 8090), True),
        (tcp(FRONT, BACK, 8091), False),
        (tcp(FRONT6, BACK6, 8080), True),
        (tcp(FRONT2, BACK, 8080), True),
        (tcp(TASK, BACK, 8080), True),
        (tcp(STAGING, BACK, 8080), False),
        (tcp(BACK, FRONT, 8080), False),
        (tcp(FRONT, FRONT2, 8080), False),
        (Packet(FRONT, BACK, Protocol.UDP, 8080), False),
    ],
)
def test_a_network_policy_opens_its_ports_from_app_to_app_and_nothing_else(packet, allowed):
    assert judge(replace(BOX, policies=frozenset({POLICY})), packet).allowed is allowed


def test_staging_containers_are_no_destination_of_a_policy_either():
    world = replace(BOX, policies=frozenset({CfPolicy(APP_BACK, APP_FRONT, Protocol.TCP, 8080, 8080)}))
    assert judge(world, tcp(BACK, FRONT)).allowed
    assert not judge(world, tcp(BACK, STAGING)).allowed


def test_instances_of_one_app_need_a_policy_to_themselves():
    world = replace(BOX, policies=frozenset({CfPolicy(APP_FRONT, APP_FRONT, Protocol.TCP, 8080, 8080)}))
    assert judge(world, tcp(FRONT, FRONT2)).allowed


def test_of_overlapping_policies_the_lowest_id_owns_the_port():
    wide, narrow = replace(POLICY, first_port=8000, last_port=9000), replace(POLICY, first_port=8080, last_port=8080)
    world = replace(BOX, policies=frozenset({wide, narrow}))
    for first, second in ((wide, narrow), (narrow, wide)):
        ids = numbers(world)
        ids |= {translate.policy_key(first): 500, translate.policy_key(second): 501}
        assert judge(world, tcp(FRONT, BACK, 8080), ids=ids).rule == translate.policy_key(first)
        assert judge(world, tcp(FRONT, BACK, 8081), ids=ids).rule == translate.policy_key(wide)


@pytest.mark.parametrize(
    ("destination", "allowed"),
    [
        (OUTSIDE, True),
        (VM, True),
        (BACK, False),
        (FREE, False),
        (VM_IN_POOL, False),
        (CELL, False),
        (METADATA, False),
    ],
)
def test_an_asg_for_everything_opens_the_outside_but_no_container_address_and_not_the_cell(destination, allowed):
    assert judge(replace(BOX, asgs=(OPEN,)), tcp(FRONT, destination)).allowed is allowed


@pytest.mark.parametrize(
    ("asg", "running", "staging"),
    [
        (replace(OPEN, running_default=True), True, False),
        (replace(OPEN, running_default=False, staging_default=True), False, True),
        (replace(OPEN, running_default=False, running_spaces=frozenset({DEV})), True, False),
        (replace(OPEN, running_default=False, staging_spaces=frozenset({DEV})), False, True),
        (replace(OPEN, running_default=False, running_spaces=frozenset({PROD})), False, False),
        (replace(OPEN, id=qualify("two", "open")), False, False),
    ],
)
def test_an_asg_is_for_running_or_staging_containers_of_its_spaces_or_its_foundation(asg, running, staging):
    world = replace(BOX, asgs=(asg,))
    assert judge(world, tcp(FRONT, OUTSIDE)).allowed is running
    assert judge(world, tcp(TASK, OUTSIDE)).allowed is running
    assert judge(world, tcp(STAGING, OUTSIDE)).allowed is staging


def test_what_garden_handed_over_stands_until_the_foundation_was_read():
    handed = replace(BOX.workloads[0], garden_rules=(GardenRule(Protocol.ALL, EVERYTHING),))
    world = replace(BOX, workloads=(handed, *BOX.workloads[1:]))
    assert not judge(world, tcp(FRONT, OUTSIDE)).allowed
    assert judge(replace(world, asgs_known=frozenset()), tcp(FRONT, OUTSIDE)).allowed


def test_what_net_out_added_stays_beside_the_asgs():
    handed = replace(BOX.workloads[0], net_out=(GardenRule(Protocol.TCP, EVERYTHING, ((443, 443),)),))
    world = replace(BOX, workloads=(handed, *BOX.workloads[1:]))
    assert judge(world, tcp(FRONT, OUTSIDE, 443)).allowed
    assert not judge(world, tcp(FRONT, OUTSIDE, 442)).allowed
    assert not judge(world, tcp(FRONT2, OUTSIDE, 443)).allowed


def test_an_entry_for_tcp_without_ports_matches_nothing():
    world = replace(BOX, asgs=(replace(OPEN, rules=(GardenRule(Protocol.TCP, EVERYTHING),)),))
    assert not judge(world, tcp(FRONT, OUTSIDE)).allowed


@pytest.mark.parametrize("tier", [Tier.EMERGENCY, Tier.INFRASTRUCTURE, Tier.ENVIRONMENT, Tier.APPLICATION])
def test_a_refusal_of_an_earlier_tier_or_line_stands_before_policies_and_asgs(tier):
    world = with_rules(rule("stop", tier, Action.DROP, at(FRONT)), policies=frozenset({POLICY}), asgs=(OPEN,))
    for packet in (tcp(FRONT, BACK), tcp(FRONT, OUTSIDE)):
        assert judge(world, packet).rule == "rule:stop"


def test_the_first_rule_of_a_tier_wins():
    world = with_rules(rule("yes", Tier.EMERGENCY, Action.ALLOW), rule("no", Tier.EMERGENCY, Action.DROP))
    assert judge(world, tcp(OUTSIDE, FRONT)).rule == "rule:yes"


@pytest.mark.parametrize("tier", [Tier.EMERGENCY, Tier.INFRASTRUCTURE, Tier.ENVIRONMENT])
def test_pass_leaves_its_tier_for_the_next(tier):
    world = with_rules(
        rule("pass", tier, Action.PASS, at(FRONT)),
        rule("no", tier, Action.DROP),
        rule("later", Tier(tier + 1), Action.ALLOW),
    )
    assert judge(world, tcp(FRONT, BACK)).rule == "rule:later"
    assert judge(world, tcp(BACK, FRONT)).rule == "rule:no"


def test_pass_in_the_application_tier_is_quarantined_and_the_rest_is_in_force():
    world = with_rules(rule("pass", Tier.APPLICATION, Action.PASS), rule("yes", Tier.APPLICATION, Action.ALLOW))
    assert judge(world, tcp(FRONT, BACK)).rule == "rule:yes"
    assert [each.code for each in compiler.compile_ruleset(world, numbers(world)).quarantined] == ["PASS_TOO_LATE"]


def test_a_watching_rule_is_compiled_and_decides_nothing():
    world = with_rules(rule("watch", Tier.EMERGENCY, Action.DROP, mode=Mode.WATCH))
    assert judge(world, tcp(VM, OUTSIDE)).allowed
    (line,) = compiler.compile_ruleset(world, numbers(world)).ruleset.tiers[Tier.EMERGENCY]
    assert line.watch


def test_only_allows_expire():
    world = with_rules(
        rule("allow", Tier.EMERGENCY, Action.ALLOW, at(FRONT), expires_at=10.0),
        rule("drop", Tier.EMERGENCY, Action.DROP, at(BACK), expires_at=10.0),
    )
    assert judge(world, tcp(FRONT, BACK), now=9.0).rule == "rule:allow"
    assert judge(world, tcp(FRONT, BACK), now=10.0).rule == "baseline:container-to-container"
    assert judge(world, tcp(BACK, FRONT), now=99.0).rule == "rule:drop"


def test_an_expired_rule_takes_none_of_its_name_with_it():
    first = rule("twice", Tier.EMERGENCY, Action.ALLOW, at(FRONT))
    world = with_rules(first, replace(first, expires_at=10.0))
    assert judge(world, tcp(FRONT, BACK), now=99.0).rule == "rule:twice"


def test_a_disabled_rule_and_one_whose_ends_name_nobody_are_not_compiled():
    world = with_rules(
        rule("off", Tier.EMERGENCY, Action.DROP, enabled=False),
        rule("nobody", Tier.EMERGENCY, Action.DROP, group("unknown")),
        rule("empty", Tier.EMERGENCY, Action.DROP, ANY, group("empty")),
        groups=(Group("empty"),),
    )
    assert not compiler.compile_ruleset(world, numbers(world)).ruleset.tiers[Tier.EMERGENCY]
    assert judge(world, tcp(VM, OUTSIDE)).allowed


def test_the_negation_of_an_unknown_group_is_everything_known_and_not_what_is_unknown():
    world = with_rules(rule("no", Tier.EMERGENCY, Action.DROP, group("unknown", negated=True)))
    assert judge(world, tcp(VM, OUTSIDE)).rule == "rule:no"
    assert judge(world, tcp(OUTSIDE, VM)).allowed
    assert judge(world, tcp(FREE, VM)).rule != "rule:no"


def test_groups_hold_groups_and_a_negated_group_is_every_known_workload_outside_it():
    inner = Group("inner", (Selector(SelectorKind.APP, APP_FRONT),))
    world = with_rules(
        rule("in", Tier.EMERGENCY, Action.ALLOW, group("outer")),
        rule("out", Tier.EMERGENCY, Action.DROP, group("outer", negated=True)),
        groups=(Group("outer", group("inner")), inner),
    )
    assert judge(world, tcp(FRONT6, BACK6)).rule == "rule:in"
    assert judge(world, tcp(BACK, FRONT)).rule == "rule:out"
    assert judge(world, tcp(OUTSIDE, VM)).rule == "baseline:any-to-any"


def test_a_group_that_contains_itself_matches_nothing_and_is_named():
    loop = (Group("a", group("b")), Group("b", (*group("a"), *at(FRONT))), Group("c", (*group("a"), *at(BACK))))
    world = with_rules(rule("no", Tier.EMERGENCY, Action.DROP, (*group("a"), *group("c"))), groups=loop)
    assert judge(world, tcp(FRONT, BACK)).rule != "rule:no"
    assert judge(world, tcp(BACK, FRONT)).rule == "rule:no"
    assert [each.code for each in compiler.compile_ruleset(world, numbers(world)).quarantined] == ["GROUP_CYCLE"] * 2


def test_groups_may_be_nested_deeply():
    deep = tuple(Group(f"g{n}", group(f"g{n + 1}")) for n in range(3000))
    world = with_rules(rule("no", Tier.EMERGENCY, Action.DROP, group("g0")), groups=(*deep, Group("g3000", at(FRONT))))
    compiled = compiler.compile_ruleset(world, numbers(world)).ruleset
    assert ruleset.decide(compiled, tcp(FRONT, BACK))[0] is Action.DROP


def test_applied_to_needs_one_protected_end_in_it():
    def world(*applied: str) -> World:
        ends = tuple(each for address in applied for each in at(address))
        return with_rules(rule("no", Tier.EMERGENCY, Action.DROP, applied_to=ends))

    assert judge(world(FRONT), tcp(FRONT, OUTSIDE)).rule == "rule:no"
    assert judge(world(FRONT), tcp(OUTSIDE, FRONT)).rule == "rule:no"
    assert judge(world(FRONT), tcp(BACK, OUTSIDE)).rule != "rule:no"
    # An unprotected VM and an address that nobody has are no protected ends.
    assert judge(world(VM_IN_POOL, OUTSIDE, FREE), tcp(VM_IN_POOL, OUTSIDE)).rule != "rule:no"
    both = compiler.compile_ruleset(world(FRONT), numbers(world(FRONT))).ruleset.tiers[Tier.EMERGENCY]
    assert [line.id for line in both] == [both[0].id] * 2


def test_a_mapped_port_can_be_refused_by_any_tier():
    world = with_rules(rule("no", Tier.ENVIRONMENT, Action.REJECT, at(ROUTER), mapped_only=True))
    assert judge(world, tcp(ROUTER, FRONT, mapped=True)).rule == "rule:no"
    assert judge(world, tcp(OUTSIDE, FRONT, mapped=True)).allowed


def test_a_vm_in_a_pool_is_no_end_of_a_policy_and_only_rules_open_it():
    world = with_rules(rule("db", Tier.APPLICATION, Action.ALLOW, at(FRONT), at(VM_IN_POOL)), asgs=(OPEN,))
    assert judge(world, tcp(FRONT, VM_IN_POOL)).rule == "rule:db"
    assert not judge(world, tcp(FRONT2, VM_IN_POOL)).allowed


def test_disabled_container_network_policy_opens_containers_to_each_other_only():
    world = with_rules(*translate.system_rules(disable_container_network_policy=True))
    assert judge(world, tcp(FRONT, BACK)).allowed
    assert not judge(world, tcp(FRONT, VM_IN_POOL)).allowed
    assert not judge(world, tcp(OUTSIDE, FRONT)).allowed


def test_denied_networks_stand_before_asgs_for_those_whom_they_name():
    outside = ("203.0.113.0/24",)
    for knob, running, staging in (("deny_always", 0, 0), ("deny_running", 0, 1), ("deny_staging", 1, 0)):
        world = with_rules(
            *translate.system_rules(**{knob: outside}, container_pools=BOX.container_pools),
            asgs=(replace(OPEN, staging_default=True),),
        )
        assert judge(world, tcp(FRONT, OUTSIDE)).allowed is bool(running)
        assert judge(world, tcp(STAGING, OUTSIDE)).allowed is bool(staging)


def test_services_match_by_protocol_ports_type_and_code():
    echo = Service(Protocol.ICMP, (), 8, None)
    world = with_rules(
        rule("no", Tier.EMERGENCY, Action.DROP, services=(Service(Protocol.UDP, ((53, 53), (100, 200))), echo))
    )
    for packet, stopped in (
        (Packet(VM, OUTSIDE, Protocol.UDP, 53), True),
        (Packet(VM, OUTSIDE, 17, 200), True),
        (Packet(VM, OUTSIDE, Protocol.UDP, 201), False),
        (Packet(VM, OUTSIDE, Protocol.TCP, 53), False),
        (Packet(VM, OUTSIDE, Protocol.ICMP, icmp_type=8, icmp_code=3), True),
        (Packet(VM, OUTSIDE, Protocol.ICMP, icmp_type=13), False),
        (Packet(VM, OUTSIDE, 47), False),
    ):
        assert (judge(world, packet).rule == "rule:no") is stopped


def test_one_bad_object_stops_no_other():
    bad = Workload("cf:bad", Kind.CONTAINER, ("10.1.0.300",), app=APP_FRONT, lifecycle=Lifecycle.APP)
    world = with_rules(
        rule("typo", Tier.EMERGENCY, Action.ALLOW, at("10.0.0.0/33")),
        rule("good", Tier.EMERGENCY, Action.DROP, at(FRONT)),
        rule("good", Tier.EMERGENCY, Action.ALLOW),
        workloads=(bad, *BOX.workloads),
        policies=frozenset({POLICY, replace(POLICY, first_port=9000)}),
    )
    assert judge(world, tcp(FRONT, OUTSIDE)).rule == "rule:good"
    assert not judge(world, tcp(OUTSIDE, FRONT)).allowed
    assert judge(world, tcp(FRONT2, BACK)).allowed
    codes = {each.code for each in compiler.compile_ruleset(world, numbers(world)).quarantined}
    assert codes == {"ADDRESS_UNREADABLE", "SELECTOR_UNREADABLE", "RULE_TWICE", "POLICY_UNREADABLE"}


def test_a_rule_without_an_id_is_not_in_force_and_says_so():
    world = replace(BOX, policies=frozenset({POLICY}))
    ids = {key: number for key, number in numbers(world).items() if not key.startswith("policy:")}
    compiled = compiler.compile_ruleset(world, ids)
    assert not compiled.ruleset.policies
    assert [each.code for each in compiled.quarantined] == ["RULE_WITHOUT_ID"]


def test_a_change_of_membership_changes_elements_and_no_names():
    world = with_rules(rule("no", Tier.EMERGENCY, Action.DROP, group("g")), groups=(Group("g", at(FRONT)),))
    before = compiler.compile_ruleset(world, numbers(world)).ruleset
    after = compiler.compile_ruleset(replace(world, groups=(Group("g", at(BACK)),)), numbers(world)).ruleset
    assert (before.sets.keys(), before.tiers) == (after.sets.keys(), after.tiers)
    assert before.sets != after.sets


def test_containers_with_the_same_asgs_share_a_profile():
    compiled = compiler.compile_ruleset(replace(BOX, asgs=(OPEN,)), numbers(replace(BOX, asgs=(OPEN,)))).ruleset
    assert {FRONT, FRONT2, BACK, TASK, FRONT6, BACK6} == compiled.egress.keys()
    assert set(compiled.egress.values()) == compiled.profiles.keys()
    assert len(compiled.profiles) == 1
