"""Does an export say the same intent again, and do teams with a scope of their own keep out of each other's way?"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import assume, event, given
from hypothesis import strategies as st

from cfbridge import export, intent, policyfile
from cfbridge.intent import Intents
from egress.values import Refused, RefusedError

EXAMPLE = """\
cfbridge: v1
groups:
  databases: tag tier = "db"
  mainframe:
  - 10.20.0.0/16
  - 10.21.0.7
  not-prod: not tag env = "prod"
rules:
  emergency:
    quarantine:
    - name: 'no'
      from: not databases
      to: vm:db-1
      services:
      - tcp/5432,6000-6010
      - icmp/8
      action: drop
      applied_to:
      - databases
      - org:acme
      log: true
      reason: 'SEC: 112'
      owner: platform
  application:
    payments:
    - name: web to database
      from: acme/prod/web
      to: mainframe
      action: allow
      mode: watch
      expires: 2027-06-30
      enabled: false
    - name: until noon
      action: allow
      expires: '2027-06-30T12:00:00Z'
tenants:
  '0123': {}
  acme:
    mode: nat
    snat:
    - 203.0.113.7
  globex:
    mode: routed
    pool: routable-a
vms:
  db-1:
    org: acme
    port: tap-db1
    addresses:
    - 10.240.3.11
    - fd00::11
    tags:
      tier: db
tags:
  acme/prod/web:
    'on': 'yes'
  org:acme:
    env: prod
  space:6f2c1111-2222-3333-4444-555566667777:
    env: dev
"""
TEAM = """\
cfbridge: v1
scope: payments
groups:
  web: ["org:acme"]
rules:
  application:
    payments: [{name: out, from: web, to: shared, action: allow}]
"""
SHARED = "groups: {shared: [10.0.0.0/8]}\nvms: {db-1: {addresses: [10.1.0.1]}}"


def refusal(written: str, before: Intents | None = None) -> Refused:
    with pytest.raises(RefusedError) as raised:
        policyfile.read(written, before)
    return raised.value.refused


def said(written: str, before: Intents | None = None) -> Intents:
    return policyfile.read(written, before)


# Export ---------------------------------------------------------------------------------------------------------------


def test_an_export_is_byte_for_byte_what_it_was_read_from() -> None:
    assert export.text(said(EXAMPLE)) == EXAMPLE


def test_of_scopes_each_is_a_document_and_the_whole_is_said_again() -> None:
    whole = said(TEAM, said(SHARED))
    written = export.text(whole)
    assert written.count("---\n") == 1
    assert said(written) == whole
    assert export.text(said(written)) == written


def test_a_whole_of_scopes_alone_says_that_there_is_nothing_else() -> None:
    alone = said("{scope: a, groups: {x: [10.0.0.1]}}")
    assert said(export.text(alone), said(SHARED)) == alone


def test_an_empty_intent_is_a_file_too() -> None:
    assert export.text({}) == "cfbridge: v1\n"
    assert said(export.text({})) == {}


_words = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
_names = _words.filter(lambda name: not (set(name) & set(":/")) and name != "any")
_tag_maps = st.dictionaries(_words, _words, max_size=2)
_ends = st.sampled_from(["any", "g", "not g", "group:g", "org:o", "space:o/s", "o/s/a", "vm:m", "10.0.0.1", "kind:vm"])
_services = st.sampled_from(["all", "tcp", "tcp/1-9,80", "udp/53", "icmp", "icmp/8", "icmp/3/1", "icmpv6/128"])
_rules = st.fixed_dictionaries(
    {"action": st.sampled_from(["allow", "drop", "reject"])},
    optional={
        "from": st.lists(_ends, min_size=1, max_size=3) | _ends,
        "to": _ends,
        "services": st.lists(_services, min_size=1, max_size=3),
        "applied_to": _ends,
        "log": st.booleans(),
        "mode": st.sampled_from(["watch", "enforce"]),
        "reason": st.text(st.characters(codec="utf-8"), max_size=20),
        "owner": _words,
        "enabled": st.booleans(),
    },
)
_criteria = st.sampled_from(['tag a = "b"', 'not (org = "x" or cidr 10.0.0.0/8)', 'app ~ "*-\\"x\\n" and group = "g"'])
_groups = st.one_of(
    _criteria,
    st.lists(st.sampled_from(["org:o", "10.0.0.0/8", "vm:m", "group:g", "o/s/a"]), max_size=3, unique=True),
    st.fixed_dictionaries({"members": st.lists(st.sampled_from(["org:o", "vm:m"]), max_size=2), "criteria": _criteria}),
)
_files: st.SearchStrategy[Mapping[str, Any]] = st.fixed_dictionaries(
    {
        "groups": st.dictionaries(_names, _groups, max_size=3).map(lambda found: {**found, "g": ["10.9.0.1"]}),
        "rules": st.dictionaries(
            st.just("application"), st.dictionaries(_words, st.lists(_rules, max_size=3), max_size=2)
        ),
        "tags": st.dictionaries(st.sampled_from(["org:o", "space:o/s", "o/s/a"]), _tag_maps),
        "tenants": st.dictionaries(_words, st.just({"mode": "nat", "snat": ["203.0.113.7"]}), max_size=1),
    }
)


@given(_files)
def test_whatever_can_be_said_is_said_again_by_its_export(file: Mapping[str, Any]) -> None:
    numbered = iter(range(1000))
    for listed in (rules for sections in file["rules"].values() for rules in sections.values()):
        for rule in listed:
            rule["name"] = f"{next(numbered)}{string.punctuation}"
    try:
        first = said(yaml.safe_dump({**file, "vms": {"m": {"addresses": ["10.1.0.1"]}}}, allow_unicode=True))
    except RefusedError as refused:  # a name that reads as an address, or begins with `not`
        event(refused.refused.message)
        assume(False)
    again = said(export.text(first))
    assert intent.together(again).rules == intent.together(first).rules
    assert {*intent.together(again).groups} == {*intent.together(first).groups}
    assert {each.subject: each.tags for each in again[""].tags} == {each.subject: each.tags for each in first[""].tags}
    assert export.text(again) == export.text(first)


# Scopes ---------------------------------------------------------------------------------------------------------------


def test_a_file_with_a_scope_is_about_that_scope_alone() -> None:
    before = said(TEAM, said(SHARED))
    after = said("{scope: payments, groups: {web: ['org:globex']}}", before)
    assert after[""] == before[""]
    assert [group.name for group in after["payments"].groups] == ["web"]
    assert after["payments"].rules == ()


def test_a_file_without_a_scope_is_the_whole() -> None:
    assert {*said("groups: {shared: [10.0.0.0/8]}", said(TEAM, said(SHARED)))} == {""}


def test_a_scope_that_says_nothing_any_more_is_gone() -> None:
    assert {*said("{scope: payments}", said(TEAM, said(SHARED)))} == {""}


def test_rules_of_no_scope_come_before_those_of_teams_in_each_tier() -> None:
    own = "{cfbridge: v1, rules: {application: {a: [{name: first, action: drop}]}}, groups: {shared: [10.0.0.0/8]}}"
    whole = intent.together(said(TEAM, said(own)))
    assert [rule.name for rule in whole.rules] == ["first", "out"]
    assert [rule.provenance for rule in whole.rules] == ["policy file", "policy file, scope payments"]


def test_a_name_of_another_scope_can_be_used_and_not_taken() -> None:
    taken = refusal("{scope: other, groups: {shared: [10.9.0.0/16]}}", said(TEAM, said(SHARED)))
    assert taken.code == "NAME_TAKEN"
    assert taken.field == "groups.shared"
    assert taken.message.endswith("'shared' is in groups of the document without a scope already")
    machine = refusal("{scope: other, vms: {db-1: {addresses: [10.1.0.9]}}}", said(SHARED))
    assert "'db-1' is in vms of the document without a scope already" in machine.message
    assert refusal("{scope: o, rules: {baseline: {s: [{name: out, action: drop}]}}}", said(TEAM, said(SHARED)))


def test_a_group_that_another_scope_names_can_not_go() -> None:
    gone = refusal("groups: {other: [10.0.0.1]}\n---\n" + TEAM)
    assert (gone.code, gone.message[:4]) == ("DANGLING_NAME", "line")
    kept = said("{scope: b, groups: {theirs: ['group:web']}}", said(TEAM, said(SHARED)))
    refused = refusal("{scope: payments, groups: {wob: ['org:acme']}}", kept)
    assert refused.code == "DANGLING_NAME"
    assert refused.message == "group 'web' is named in scope 'b', and would be gone; did you mean 'wob'?"


def test_a_machine_that_another_scope_names_can_not_go() -> None:
    kept = said("{scope: b, groups: {theirs: ['vm:m']}}", said("{scope: a, vms: {m: {addresses: [10.0.0.1]}}}"))
    assert refusal("{scope: a}", kept).message == "VM 'm' is named in scope 'b', and would be gone"


def test_a_ring_of_groups_through_two_scopes_is_refused() -> None:
    before = said("{scope: a, groups: {x: ['group:y']}}\n---\n{scope: b, groups: {y: [10.0.0.1]}}")
    assert "a group can not hold itself: y → x → y" in refusal("{scope: b, groups: {y: ['group:x']}}", before).message


def test_a_group_that_a_rule_of_another_scope_trusts_can_not_be_opened_to_developers() -> None:
    strict = "{scope: sec, rules: {emergency: {s: [{name: cut, from: web, action: drop}]}}}"
    before = said(strict, said(TEAM, said(SHARED)))
    opened = refusal("{scope: payments, groups: {web: 'app ~ \"web-*\"'}}", before)
    assert opened.code == "TRUST_TOO_LOW"
    assert opened.message.startswith("rule 'cut' in scope 'sec': who is in group 'web' can be changed by any developer")


def test_two_documents_of_one_scope_are_refused() -> None:
    assert "a second document of scope 'a'" in refusal("{scope: a}\n---\n{scope: a}").message
    assert "a second document without a scope" in refusal("cfbridge: v1\n---\ncfbridge: v1").message


def test_a_group_can_not_be_called_like_an_address() -> None:
    assert "'10.0.0.1' reads as an address" in refusal("groups: {'10.0.0.1': ['org:acme']}").message
