"""Is the intent file read as its writer meant it, or refused where it stands?"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cfbridge import intent, policyfile
from cfbridge.intent import Intent, Vm
from cfbridge.inventory import App, FoundationState, Org, Space
from egress.model import NetworkMode, OrgWish
from egress.values import QualifiedId, Refused, RefusedError
from policy_sync.criteria import All, Attribute, Comparison
from policy_sync.model import ANY, Action, Group, Mode, Protocol, Rule, Selector, SelectorKind, Service, Tier

WHOLE = """
cfbridge: v1
groups:
  frontends: [acme/dev/frontend, "cf-prod:acme/prod/frontend"]
  databases: ["vm:db-1", 10.20.0.0/16, 10.21.0.1-10.21.0.9]
  all-acme:  ["org:acme", "space:globex/dev", "group:databases"]
rules:
  application:
    payments:
      - {name: web to database, from: frontends, to: databases, services: [tcp/5432, icmp/8], action: allow,
         expires: 2027-06-30, owner: payments, reason: SEC-112, log: true}
      - {name: watched, from: [10.0.0.1, "org:acme"], to: any, action: reject, mode: watch, enabled: false}
  emergency:
    quarantine:
      - {name: cut, from: not all-acme, to: "vm:db-1", action: drop, applied_to: databases}
tenants:
  acme:   {mode: nat, snat: [203.0.113.7, 203.0.113.8]}
  globex: {mode: routed, pool: routable-a}
vms:
  db-1: {org: acme, addresses: [10.240.3.11, "fd00::11"], port: tap-db1, cell: cell-1}
"""


def q(written: str) -> QualifiedId:
    return QualifiedId(written)


STATE = FoundationState(
    "cf-prod",
    orgs={q("cf-prod:o1"): Org(q("cf-prod:o1"), "acme"), q("cf-prod:o2"): Org(q("cf-prod:o2"), "globex")},
    spaces={q("cf-prod:s1"): Space(q("cf-prod:s1"), "dev", q("cf-prod:o1"))},
    apps={q("cf-prod:a1"): App(q("cf-prod:a1"), "frontend", q("cf-prod:s1"))},
)
OTHER = FoundationState("cf-test", orgs={q("cf-test:o9"): Org(q("cf-test:o9"), "acme")})


def whole(written: str | bytes) -> Intent:
    return intent.together(policyfile.read(written, provenance="intent file"))


def refusal(written: str | bytes) -> Refused:
    with pytest.raises(RefusedError) as raised:
        whole(written)
    return raised.value.refused


def rule(text: str) -> str:
    return f"groups: {{web: [acme/dev/web]}}\nrules:\n  application:\n    s:\n      - {text}\n"


DYNAMIC = """
groups:
  prod:  tag env = "prod"
  late:  {members: [10.9.0.1], criteria: 'group = "prod" and app ~ "late-*"'}
  loose: label team = "blue"
  inner: ["group:loose"]
tags:
  org:acme: {env: prod}
  space:acme/dev: {env: dev}
  acme/dev/frontend: {tier: web}
vms:
  db-1: {addresses: [10.240.3.11], tags: {tier: db}}
"""


def test_a_group_is_a_list_of_members_an_expression_or_both() -> None:
    groups = {group.name: group for group in whole(DYNAMIC).groups}
    tagged = Comparison(Attribute("tag", "env"), "=", ("prod",))
    late = All((Comparison(Attribute("group"), "=", ("prod",)), Comparison(Attribute("app"), "~", ("late-*",))))
    assert groups["prod"] == Group("prod", (), tagged)
    assert groups["late"] == Group("late", (Selector(SelectorKind.RANGE, "10.9.0.1"),), late)


def test_an_expression_that_names_an_unknown_group_is_refused_where_it_stands() -> None:
    refused = refusal("groups: {databases: [10.0.0.1], web: 'not group = \"database\"'}")
    assert refused.code == "DANGLING_NAME"
    assert refused.field == "groups.web"
    assert "did you mean 'databases'?" in refused.message


def test_tags_are_of_orgs_spaces_apps_and_machines() -> None:
    read = intent.resolve(whole(DYNAMIC), {"cf-prod": STATE})
    assert {tagged.subject.value: tagged.tags for tagged in read.tags} == {
        "cf-prod:o1": {"env": "prod"},
        "cf-prod:s1": {"env": "dev"},
        "cf-prod:a1": {"tier": "web"},
    }
    assert read.vms[0].tags == {"tier": "db"}


def test_who_is_tagged_and_not_known_is_told() -> None:
    (said,) = intent.unresolved(whole("tags: {'org:acmee': {env: prod}}"), {"cf-prod": STATE})
    assert "'acmee'" in said.message


@pytest.mark.parametrize("group", ["loose", "inner"])
@pytest.mark.parametrize("tier", ["emergency", "infrastructure", "environment", "baseline"])
def test_a_group_that_developers_can_enter_is_for_the_application_tier_alone(group: str, tier: str) -> None:
    def ruled(tier: str) -> str:
        return f"{DYNAMIC}rules: {{{tier}: {{s: [{{name: r, from: {group}, to: any, action: reject}}]}}}}"

    refused = refusal(ruled(tier))
    assert refused.code == "TRUST_TOO_LOW"
    assert "any developer" in refused.message
    assert whole(ruled("application")).rules


def test_a_group_by_tags_and_addresses_is_for_every_tier() -> None:
    written = "rules: {emergency: {s: [{name: r, from: not prod, to: any, action: reject}]}}"
    assert whole(DYNAMIC + written).rules


def test_groups_keep_their_members_by_name() -> None:
    groups = {group.name: group.members for group in whole(WHOLE).groups}
    assert groups["frontends"] == (
        Selector(SelectorKind.APP, "acme/dev/frontend"),
        Selector(SelectorKind.APP, "cf-prod:acme/prod/frontend"),
    )
    assert groups["databases"] == (
        Selector(SelectorKind.WORKLOAD, "vm:db-1"),
        Selector(SelectorKind.RANGE, "10.20.0.0/16"),
        Selector(SelectorKind.RANGE, "10.21.0.1-10.21.0.9"),
    )
    assert groups["all-acme"] == (
        Selector(SelectorKind.ORG, "acme"),
        Selector(SelectorKind.SPACE, "globex/dev"),
        Selector(SelectorKind.GROUP, "databases"),
    )


def test_a_rule_says_all_that_the_file_says() -> None:
    found = {rule.name: rule for rule in whole(WHOLE).rules}
    assert found["web to database"] == Rule(
        key="rule:web to database",
        name="web to database",
        tier=Tier.APPLICATION,
        section="payments",
        sources=(Selector(SelectorKind.GROUP, "frontends"),),
        destinations=(Selector(SelectorKind.GROUP, "databases"),),
        services=(Service(Protocol.TCP, ((5432, 5432),)), Service(Protocol.ICMP, (), 8)),
        action=Action.ALLOW,
        expires_at=datetime(2027, 7, 1, tzinfo=UTC).timestamp(),
        owner="payments",
        reason="SEC-112",
        log=True,
        provenance="intent file",
    )
    assert (found["watched"].mode, found["watched"].enabled, found["watched"].destinations) == (Mode.WATCH, False, ANY)
    assert found["cut"].sources == (Selector(SelectorKind.GROUP, "all-acme", negated=True),)
    assert found["cut"].applied_to == (Selector(SelectorKind.GROUP, "databases"),)


def test_rules_come_in_the_order_of_tiers_and_within_a_tier_as_written() -> None:
    assert [rule.name for rule in whole(WHOLE).rules] == ["cut", "web to database", "watched"]


def test_tenants_and_vms_are_read() -> None:
    read = whole(WHOLE)
    assert read.tenants == (
        OrgWish(q(""), NetworkMode.NAT, snat=("203.0.113.7", "203.0.113.8"), name="acme"),
        OrgWish(q(""), NetworkMode.ROUTED, pool="routable-a", name="globex"),
    )
    assert read.vms == (Vm("db-1", ("10.240.3.11", "fd00::11"), "acme", "tap-db1", "cell-1"),)


def test_an_empty_file_asks_for_nothing() -> None:
    assert whole("") == Intent()


def test_a_moment_with_a_zone_is_that_moment() -> None:
    (read,) = whole(rule("{name: a, action: allow, expires: '2027-06-30T12:00:00+02:00'}")).rules
    assert read.expires_at == datetime(2027, 6, 30, 10, tzinfo=UTC).timestamp()


def test_an_unknown_key_is_refused_with_its_place() -> None:
    refused = refusal(rule("{name: a, action: allow, form: web}"))
    assert refused.code == "UNKNOWN_KEY"
    assert "line 5, column 40" in refused.message
    assert "did you mean 'from'?" in refused.message


@pytest.mark.parametrize(
    ("end", "near"),
    [("wep", "'web'"), ("'group:wbe'", "'web'"), ("'vm:db-1'", "no VM"), ("not webb", "'web'")],
)
def test_a_dangling_name_is_refused_with_its_place(end: str, near: str) -> None:
    refused = refusal(rule(f"{{name: a, action: allow, from: {end}}}"))
    assert refused.code == "DANGLING_NAME"
    assert "line 5" in refused.message
    assert near in refused.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{action: allow}", "name is missing"),
        ("{name: a}", "action is missing"),
        ("{name: a, action: permit}", "allow, drop, reject, pass"),
        ("{name: a, action: pass}", "pass leaves a tier"),
        ("{name: a, action: drop, expires: 2027-01-01}", "only an allow expires"),
        ("{name: a, action: allow, expires: soon}", "no date"),
        ("{name: a, action: allow, expires: 9999-12-31}", "too far"),
        ("{name: a, action: allow, from: []}", "nobody is named"),
        ("{name: a, action: allow, from: }", "nobody is named"),
        ("{name: a, action: allow, from: 10.0.0.1/8}", "host bits"),
        ("{name: a, action: allow, from: 10.0.0.9-10.0.0.1}", "ends before"),
        ("{name: a, action: allow, from: acme/dev/web/0}", "instance"),
        ("{name: a, action: allow, from: 'space:acme'}", "space:ORG/SPACE"),
        ("{name: a, action: allow, from: 'kind:pod'}", "container, vm, cell"),
        ("{name: a, action: allow, from: 'not acme/dev/web'}", "not stands before the name of a group"),
        ("{name: a, action: allow, from: 'not not web'}", "not stands before the name of a group"),
        ("{name: a, action: allow, services: [tpc/80]}", "did you mean 'tcp'?"),
        ("{name: a, action: allow, services: [tcp/0]}", "no port"),
        ("{name: a, action: allow, services: [tcp/90-80]}", "no port"),
        ("{name: a, action: allow, services: [icmp/256]}", "no service"),
        ("{name: a, action: allow, services: []}", "no service is named"),
        ("{name: a, action: allow, log: yes}", "true or false"),
        ("{name: no, action: allow}", "quotes"),
    ],
)
def test_a_bad_rule_is_refused_in_words(text: str, says: str) -> None:
    refused = refusal(rule(text))
    assert says in refused.message
    assert refused.field.startswith("rules.application.s[0]")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cfbridge: v2", "v1"),
        ("groups: {a: ['group:b'], b: ['group:a']}", "a → b → a"),
        ("groups: {a: [any]}", "members by name"),
        ("groups: {'a:b': []}", "no group name"),
        ("groups: {web: org = acme}", "a value in double quotes is expected here, not acme"),
        ("groups: {web: {criteria: 'cidr 10.0.0.0/8', who: []}}", "known are criteria, members"),
        ("groups: {a: 'group = \"b\"', b: ['group:a']}", "a → b → a"),
        ("groups: {a: 'not group = \"a\"'}", "a → a"),
        ("tags: {'vm:db': {tier: db}}", "write org:ORG, space:ORG/SPACE or ORG/SPACE/APP"),
        ("tags: {'org:acme': {tier: ''}}", "1 to 256 printable characters"),
        ("tags: {'org:acme': {critical: true}}", "put it in quotes"),
        ("rules: {aplication: {}}", "did you mean 'application'?"),
        ("rules: {application: {s: [{name: a, action: allow}, {name: a, action: drop}]}}", "a second rule"),
        ("tenants: {acme: {mode: routed, snat: [10.0.0.1]}}", "mode: nat"),
        ("tenants: {a: {snat: [10.0.0.1]}, b: {snat: [10.0.0.1]}}", "wished for 'a' and for 'b'"),
        ("tenants: {acme: {snat: [10.0.0.0/24]}}", "10.0.0.0/24"),
        ("vms: {db: {org: acme}}", "at least one"),
        ("vms: {db: {addresses: [10.0.0.1], port: a-name-far-too-long}}", "host device"),
        ("vms: {d/b: {addresses: [10.0.0.1]}}", "no VM name"),
    ],
)
def test_what_contradicts_itself_is_refused_in_words(text: str, says: str) -> None:
    assert says in refusal(text).message


def test_names_become_ids() -> None:
    resolved = intent.resolve(whole(WHOLE), {"cf-prod": STATE})
    assert [wish.org for wish in resolved.tenants] == ["cf-prod:o1", "cf-prod:o2"]
    assert resolved.vms[0].org == "cf-prod:o1"
    members = {group.name: group.members for group in resolved.groups}
    assert members["frontends"][0] == Selector(SelectorKind.APP, "cf-prod:a1")
    assert members["all-acme"][0] == Selector(SelectorKind.ORG, "cf-prod:o1")
    assert members["databases"] == whole(WHOLE).groups[1].members
    watched = next(rule for rule in resolved.rules if rule.name == "watched")
    assert watched.sources[1] == Selector(SelectorKind.ORG, "cf-prod:o1")


def test_a_name_that_nothing_has_becomes_no_id() -> None:
    resolved = intent.resolve(whole(WHOLE), {"cf-prod": STATE})
    members = {group.name: group.members for group in resolved.groups}
    ids = {*STATE.orgs, *STATE.spaces, *STATE.apps}
    assert members["frontends"][1].value not in ids
    assert members["all-acme"][1].value.startswith("?")


def test_a_name_that_two_foundations_have_becomes_no_id_until_it_is_qualified() -> None:
    both = {"cf-prod": STATE, "cf-test": OTHER}
    asked = Intent(
        groups=(Group("g", (Selector(SelectorKind.ORG, "acme"), Selector(SelectorKind.ORG, "cf-test:acme"))),)
    )
    (group,) = intent.resolve(asked, both).groups
    assert [member.value for member in group.members] == ["?acme", "cf-test:o9"]
    assert len(intent.unresolved(asked, both)) == 1


def test_a_guid_is_as_good_as_a_name() -> None:
    asked = Intent(groups=(Group("g", (Selector(SelectorKind.ORG, "o1"), Selector(SelectorKind.ORG, "cf-prod:o2"))),))
    (group,) = intent.resolve(asked, {"cf-prod": STATE}).groups
    assert [member.value for member in group.members] == ["cf-prod:o1", "cf-prod:o2"]


@pytest.mark.parametrize("foundation", ["", "cf-prod:"])
def test_by_guid_an_app_or_a_space_stays_a_member_when_it_is_renamed(foundation: str) -> None:
    space, app = "5a1b2c3d-0000-4000-8000-00000000000a", "5a1b2c3d-0000-4000-8000-00000000000b"
    written = f"groups: {{held: ['app:{foundation}{app}', 'space:{foundation}{space}']}}"
    for name in ("before", "after"):
        state = replace(
            STATE,
            spaces={q(f"cf-prod:{space}"): Space(q(f"cf-prod:{space}"), name, q("cf-prod:o1"))},
            apps={q(f"cf-prod:{app}"): App(q(f"cf-prod:{app}"), name, q(f"cf-prod:{space}"))},
        )
        (group,) = intent.resolve(whole(written), {"cf-prod": state}).groups
        assert [member.value for member in group.members] == [f"cf-prod:{app}", f"cf-prod:{space}"]


def test_a_renamed_org_leaves_its_name_without_an_id() -> None:
    renamed = replace(STATE, orgs={q("cf-prod:o1"): Org(q("cf-prod:o1"), "acme-2")})
    assert intent.resolve(whole(WHOLE), {"cf-prod": renamed}).tenants[0].org == ""


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(["any", "not web", "org:a", "a/b/c", "allow"])
)
keys = st.sampled_from(
    ["groups", "rules", "tenants", "vms", "application", "name", "from", "to", "action", "services", "expires", "acme"]
)
documents: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(keys | st.text(), inner), max_leaves=12
)


def outcome(written: str | bytes) -> Intent | Refused:
    """The value, or the refusal. Anything else is a bug and ends the test."""
    try:
        return whole(written)
    except RefusedError as raised:
        return raised.refused


@given(documents)
def test_no_document_raises_anything_but_a_refusal(document: Any) -> None:
    for written in (json.dumps(document), yaml.dump(document, allow_unicode=True)):
        assert isinstance(outcome(written), Intent | Refused)


@given(st.sampled_from(["name", "from", "to", "services", "applied_to", "expires", "action", "mode"]), scalars)
def test_no_rule_field_raises_anything_but_a_refusal(key: str, value: Any) -> None:
    document = {"rules": {"emergency": {"s": [{"name": "a", "action": "drop", key: value}]}}}
    assert isinstance(outcome(json.dumps(document)), Intent | Refused)


@given(st.text(max_size=40), st.sampled_from(["from", "services", "expires"]))
def test_no_text_in_a_rule_raises_anything_but_a_refusal(written: str, key: str) -> None:
    document = {"rules": {"application": {"s": [{"name": "a", "action": "allow", key: [written]}]}}}
    assert isinstance(outcome(json.dumps(document)), Intent | Refused)


@given(st.binary())
def test_no_bytes_raise_anything_but_a_refusal(written: bytes) -> None:
    assert isinstance(outcome(written), Intent | Refused)
