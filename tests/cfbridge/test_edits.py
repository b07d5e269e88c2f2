"""Does an edit change one thing, leave all others as they were said, and refuse what can't be?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfbridge import edits, export, planning, policyfile
from cfbridge.edits import Edit, Verb
from cfbridge.intent import Intents, together
from egress.values import Refused, RefusedError

FILE = """
groups:
  db: [10.0.0.1]
  used: [10.0.0.2]
vms: {m: {addresses: [10.1.0.1], tags: {tier: db, env: prod}}}
tags: {"org:acme": {env: prod}, acme/dev/web: {tier: web}}
rules:
  environment:
    zones:
      - {name: a, from: used, services: [tcp/80], action: reject, owner: sec}
      - {name: b, action: reject}
  application:
    apps:
      - {name: c, action: allow, expires: 2099-12-31}
---
scope: team
groups: {theirs: ["org:acme"]}
rules: {application: {team: [{name: t, from: theirs, action: allow}]}}
"""
BEFORE = policyfile.read(FILE)


def edited(verb: str, kind: str, name: str, said: Any = None, scope: str = "") -> Intents:
    return edits.edited(BEFORE, Edit(Verb(verb), kind, name, said, scope))


def told(*edit: Any, **more: Any) -> list[str]:
    """What changed, in a line each."""
    found = planning.changes(BEFORE, edited(*edit, **more))
    return [f"{each.deed} {each.kind} {each.name}: {'; '.join(each.details)}" for each in found]


def refusal(*edit: Any, **more: Any) -> Refused:
    with pytest.raises(RefusedError) as raised:
        edited(*edit, **more)
    return raised.value.refused


def order(intents: Intents) -> str:
    return " ".join(rule.name for rule in together(intents).rules)


def test_a_group_is_added_said_anew_and_taken_away() -> None:
    assert told("set", "group", "new", 'tag a = "b"') == ['add group new: criteria: tag a = "b"']
    assert told("set", "group", "db", ["10.9.0.0/16"]) == ["change group db: members: 10.0.0.1 → 10.9.0.0/16"]
    assert told("remove", "group", "db") == ["remove group db: "]


def test_what_is_there_stays_in_its_scope_and_what_is_new_goes_where_it_is_said() -> None:
    assert told("set", "group", "theirs", ["org:globex"]) == ["change group theirs: members: org:acme → org:globex"]
    assert {group.name for group in edited("set", "group", "new", [], scope="team")["team"].groups} == {"new", "theirs"}
    assert {*edited("set", "group", "new", [], scope="other")} == {"", "team", "other"}


def test_a_group_that_something_names_can_not_go() -> None:
    gone = refusal("remove", "group", "used")
    assert gone.code == "DANGLING_NAME"
    assert gone.message.startswith("rules.environment.zones[0].from: no group is named 'used'")


def test_a_machine_is_added_said_anew_and_taken_away() -> None:
    added = told("set", "vm", "n", {"addresses": ["10.1.0.2"], "tags": {}})
    assert added == ["add vm n: addresses: 10.1.0.2"]
    assert told("set", "vm", "m", {"addresses": ["10.1.0.1"]}) == ["change vm m: tags: env=prod, tier=db → nothing"]
    assert told("remove", "vm", "m") == ["remove vm m: "]


def test_tags_are_set_and_taken_away_one_by_one() -> None:
    assert told("change", "tags", "org:acme", {"a": "b"}) == ["change tags org:acme: a: nothing → b"]
    assert told("change", "tags", "org:acme", {"env": None}) == ["remove tags org:acme: "]
    assert told("change", "tags", "org:new", {"a": "b"}) == ["add tags org:new: a: b"]
    assert told("remove", "tags", "acme/dev/web") == ["remove tags acme/dev/web: "]
    assert told("change", "tags", "org:new", {"a": None}) == []


def test_a_machines_tags_are_tagged_like_everybodys() -> None:
    changed = told("change", "tags", "vm:m", {"tier": None, "a": "b"})
    assert changed == ["change vm m: tags: env=prod, tier=db → a=b, env=prod"]
    assert told("remove", "tags", "vm:m") == ["change vm m: tags: env=prod, tier=db → nothing"]
    assert refusal("change", "tags", "vm:n", {"a": "b"}).code == "VM_UNKNOWN"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({"tier": "environment", "section": "zones"}, "a b new c t"),
        ({"tier": "emergency", "section": "fresh"}, "new a b c t"),
        ({"before": "b"}, "a new b c t"),
        ({"after": "a"}, "a new b c t"),
        ({"after": "b"}, "a b new c t"),
        ({"before": "a", "tier": None}, "new a b c t"),
    ],
)
def test_a_rule_is_added_where_it_is_said(place: dict[str, str], expected: str) -> None:
    assert order(edited("add", "rule", "new", {"action": "drop", **place})) == expected


def test_a_rule_changes_in_what_is_named_alone() -> None:
    changed = told("change", "rule", "a", {"services": ["udp/53"], "owner": None, "log": True})
    assert changed == ["change rule a: services: tcp/80 → udp/53; log: nothing → true; owner: sec → nothing"]
    assert order(edited("change", "rule", "a", {"enabled": False})) == "a b c t"


@pytest.mark.parametrize(
    ("name", "place", "expected"),
    [
        ("a", {"after": "b"}, "b a c t"),
        ("b", {"before": "a"}, "b a c t"),
        ("b", {"tier": "emergency"}, "b a c t"),
        ("c", {"tier": "environment", "section": "zones"}, "a b c t"),
        ("c", {"section": "late"}, "a b c t"),
    ],
)
def test_a_rule_moves_by_its_place(name: str, place: dict[str, str], expected: str) -> None:
    assert order(edited("change", "rule", name, place)) == expected


def test_a_section_without_a_rule_is_gone() -> None:
    after = edited("remove", "rule", "c")
    assert "apps" not in export.text(after)
    assert order(after) == "a b t"


@pytest.mark.parametrize(
    ("edit", "code", "says"),
    [
        (("remove", "group", "dbs"), "GROUP_UNKNOWN", "No group of a policy file is named 'dbs'; did you mean 'db'?"),
        (("change", "rule", "z", {}), "RULE_UNKNOWN", "No rule of a policy file is named 'z'"),
        (("add", "rule", "a", {"action": "drop", "before": "b"}), "NAME_TAKEN", "A rule is named 'a' already."),
        (("add", "rule", "n", {"action": "drop", "before": "z"}), "DANGLING_NAME", "before: no rule of this scope"),
        (("change", "rule", "a", {"before": "a"}), "DANGLING_NAME", "before: no rule of this scope is named 'a'"),
        (("change", "rule", "a", {"before": "t"}), "DANGLING_NAME", "before: no rule of this scope is named 't'"),
        (("add", "rule", "n", {"action": "drop", "before": "a", "after": "b"}), "PLACE_UNCLEAR", "name one of them"),
        (("add", "rule", "n", {"action": "drop", "tier": "baseline"}), "PLACE_UNCLEAR", "section is missing"),
        (("add", "rule", "n", {"tier": "baseline", "section": "s"}), "FILE_INVALID", "action is missing"),
        (("add", "rule", "n", {"tier": "basement", "section": "s"}), "UNKNOWN_KEY", "did you mean 'baseline'?"),
        (("change", "rule", "a", {"tier": "baseline", "action": "pass"}), "FILE_INVALID", "pass leaves a tier"),
        (("set", "group", "org:x", []), "FILE_INVALID", "is no group name"),
        (("set", "vm", "m", {"addresses": []}), "FILE_INVALID", "at least one is needed"),
        (("change", "tags", "nobody", {"a": "b"}), "FILE_INVALID", "'nobody' has no tags"),
        (("change", "tags", "org:acme", {"a": ""}), "FILE_INVALID", "1 to 256 printable characters"),
        (("set", "group", "x", [], "no scope"), "FILE_INVALID", "'no scope' is no scope"),
    ],
)
def test_what_can_not_be_is_refused_in_words(edit: tuple[Any, ...], code: str, says: str) -> None:
    refused = refusal(*edit)
    assert refused.code == code
    assert says in refused.message


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["before", "after"]), st.sampled_from("abc"))))
def test_rules_that_move_are_never_lost_or_doubled(moves: list[tuple[str, str, str]]) -> None:
    intents = BEFORE
    for name, side, other in moves:
        if name != other:
            intents = edits.edited(intents, Edit(Verb.CHANGE, "rule", name, {side: other}))
            found = order(intents).split()
            assert found.index(name) - found.index(other) == (1 if side == "after" else -1)
    assert sorted(order(intents).split()) == ["a", "b", "c", "t"]
