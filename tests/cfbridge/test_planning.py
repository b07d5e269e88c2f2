"""Is every difference between two intents told, in words, and nothing else?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfbridge import planning, policyfile
from cfbridge.planning import Change, Deed

BEFORE = """
groups:
  db: tag tier = "db"
  old: [10.0.0.1]
rules:
  application:
    s:
      - {name: a, from: db, services: [tcp/80], action: allow}
      - {name: b, action: allow}
      - {name: c, action: drop}
tenants: {acme: {mode: nat}}
vms: {m: {addresses: [10.1.0.1], tags: {tier: db}}}
tags: {"org:acme": {env: prod}}
"""


def changes(after: str, before: str = BEFORE) -> list[Change]:
    return [*planning.changes(policyfile.read(before), policyfile.read(after))]


def only(after: str, before: str = BEFORE) -> Change:
    (change,) = changes(after, before)
    return change


def test_the_same_is_no_change_however_it_is_written() -> None:
    assert changes(BEFORE.replace("[tcp/80]", "tcp/80").replace("[10.0.0.1]", "['10.0.0.1']")) == []
    assert planning.summary(()) == "nothing changes"


def test_what_is_new_is_told_with_all_it_says() -> None:
    added = only(BEFORE.replace("old:", 'new: {members: ["org:acme"], criteria: app ~ "x"}\n  old:'))
    assert added == Change(Deed.ADD, "group", "new", "", ("members: org:acme", 'criteria: app ~ "x"'))


def test_what_changed_is_told_field_by_field() -> None:
    changed = only(BEFORE.replace("services: [tcp/80], ", "services: [tcp/80, icmp], log: true, "))
    assert changed == Change(Deed.CHANGE, "rule", "a", "", ("services: tcp/80 → tcp/80, icmp", "log: nothing → true"))


def test_what_goes_is_told_last() -> None:
    found = changes("rules: {application: {s: [{name: d, action: drop}]}}")
    assert found[0].deed is Deed.ADD
    assert {each.deed for each in found[1:]} == {Deed.REMOVE}
    assert [(each.kind, each.name) for each in found[1:]] == [
        *(("group", "db"), ("group", "old"), ("tenant", "acme"), ("vm", "m"), ("tags", "org:acme")),
        *(("rule", "a"), ("rule", "b"), ("rule", "c")),
    ]
    assert planning.summary(found) == "1 to add, 8 to remove"


@pytest.mark.parametrize(
    ("old", "new", "kind", "detail"),
    [
        ("mode: nat", "mode: routed", "tenant", "mode: nat → routed"),
        ("{tier: db}", "{tier: db, a: b}", "vm", "tags: tier=db → a=b, tier=db"),
        ("{env: prod}", "{env: dev}", "tags", "env: prod → dev"),
        ("application:", "environment:", "rule", "tier: application → environment"),
        ("    s:", "    t:", "rule", "section: s → t"),
    ],
)
def test_each_kind_of_thing_is_told(old: str, new: str, kind: str, detail: str) -> None:
    first = changes(BEFORE.replace(old, new))[0]
    assert (first.kind, first.details) == (kind, (detail,))


def test_a_rule_that_others_overtook_is_told_alone() -> None:
    moved = only(
        BEFORE.replace("      - {name: c, action: drop}\n", "").replace(
            "    s:\n", "    s:\n      - {name: c, action: drop}\n"
        )
    )
    assert moved == Change(Deed.MOVE, "rule", "c", "", ("now first of its tier",))


def test_a_rule_behind_a_new_one_did_not_move() -> None:
    new = only(BEFORE.replace("    s:\n", "    s:\n      - {name: z, action: drop}\n"))
    assert (new.deed, new.name) == (Deed.ADD, "z")


def test_what_goes_to_another_scope_is_told() -> None:
    after = BEFORE.replace('tags: {"org:acme": {env: prod}}', "---\nscope: t\ntags: {'org:acme': {env: prod}}")
    assert only(after) == Change(Deed.CHANGE, "tags", "org:acme", "t", ("scope: nothing → t",))


@given(st.permutations(range(7)))
def test_as_few_moves_are_told_as_make_the_new_order_of_the_old_one(order: list[int]) -> None:
    def file(numbers: list[int]) -> str:
        listed = ", ".join(f"{{name: r{number}, action: drop}}" for number in numbers)
        return f"rules: {{baseline: {{s: [{listed}]}}}}"

    moved = {each.name for each in changes(file(order), file(sorted(order)))}
    still = [number for number in order if f"r{number}" not in moved]
    assert still == sorted(still)
    for name in moved:  # none of them could have stayed as well
        more = [number for number in order if number in still or f"r{number}" == name]
        assert more != sorted(more)
