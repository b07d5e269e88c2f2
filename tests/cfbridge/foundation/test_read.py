from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfbridge.foundation import read
from cfbridge.inventory import Org
from egress.values import Refused, Unavailable
from policy_sync.model import CfPolicy, GardenRule, Protocol

SAMPLES = Path(__file__).parent / "samples"
READERS = (read.orgs, read.spaces, read.apps, read.processes, read.controller_asgs)


def page(*rows: Any, total: int | None = None, pages: int = 1) -> bytes:
    total = len(rows) if total is None else total
    return json.dumps({"pagination": {"total_results": total, "total_pages": pages}, "resources": rows}).encode()


def policy(source: str = "a", destination: str = "b", tag: str = "0001", **wrong: Any) -> dict[str, Any]:
    end = {"id": destination, "protocol": "tcp", "ports": {"start": 80, "end": 81}, **wrong}
    return {"source": {"id": source, "tag": tag}, "destination": end}


def policy_list(*rows: Any) -> bytes:
    return json.dumps({"total_policies": len(rows), "policies": rows}).encode()


def asg_page(*groups: Any, following: int = 0) -> bytes:
    return json.dumps({"next": following, "security_groups": groups}).encode()


def test_the_recorded_policy_list_is_read_whole() -> None:
    seen = read.policies("cf", (SAMPLES / "internal-policies.json").read_bytes())
    assert len(seen.policies) == 66
    assert not seen.refused
    source, destination = "cf:1cfc7f0b-41cd-5e8c-a8e0-d8437ad8c5e1", "cf:35466616-ff56-5553-832b-fb67ae76623a"
    assert CfPolicy(source, destination, Protocol.UDP, 9000, 9010) in seen.policies  # type: ignore[arg-type]


def test_the_recorded_security_groups_are_read_whole() -> None:
    seen = read.internal_asgs("cf", [(SAMPLES / "internal-security-groups.json").read_bytes()])
    (group,) = seen.found.values()
    assert (group.name, group.running_default, group.staging_default) == ("public_networks", True, True)
    assert [rule.protocol for rule in group.rules] == [Protocol.ALL, Protocol.TCP, Protocol.ICMP]
    assert group.rules[1].ports == ((443, 443), (8080, 8090))
    assert group.rules[1].log


@pytest.mark.parametrize(
    "wrong",
    [
        {"protocol": "sctp"},
        {"protocol": "TCP"},
        {"ports": {"start": 0, "end": 5}},
        {"ports": {"start": 9, "end": 5}},
        {"ports": {"start": 1, "end": 70000}},
        {"ports": None},
        {"id": ""},
    ],
)
def test_a_bad_policy_allows_nothing_and_the_others_are_read(wrong: dict[str, Any]) -> None:
    seen = read.policies("cf", policy_list(policy(), policy("x", "y", **wrong), policy("c")))
    assert {each.source for each in seen.policies} == {"cf:a", "cf:c"}
    (refused,) = seen.refused
    assert refused.code == "CF_POLICY_UNREADABLE"


def test_unchanged_policies_stay_the_same_objects() -> None:
    before = read.policies("cf", policy_list(policy("a"), policy("b")))
    after = read.policies("cf", policy_list(policy("b"), policy("a"), policy("c")), before)
    known = {each.source: each for each in before.policies}
    assert len(after.policies) == 3
    assert all(known.get(each.source, each) is each for each in after.policies)


def test_the_same_list_in_another_order_is_the_same_value() -> None:
    before = read.policies("cf", policy_list(policy("a"), policy("b")))
    after = read.policies("cf", policy_list(policy("b"), policy("a")), before)
    assert after.policies is before.policies


def test_a_policy_stays_while_one_of_its_two_rows_stays() -> None:
    before = read.policies("cf", policy_list(policy(tag="0001"), policy(tag="0002")))
    after = read.policies("cf", policy_list(policy(tag="0002")), before)
    assert after.policies == before.policies
    assert not read.policies("cf", policy_list(), after).policies


rows = st.builds(
    policy,
    st.sampled_from("abc"),
    st.sampled_from("abc"),
    st.sampled_from("12"),
    protocol=st.sampled_from(["tcp", "x"]),
)


@given(st.lists(st.lists(rows, max_size=6), max_size=5))
def test_a_list_read_after_others_is_as_if_it_were_the_first(lists: list[list[dict[str, Any]]]) -> None:
    before = read.Policies()
    for each in lists:
        before = read.policies("cf", policy_list(*each), before)
        fresh = read.policies("cf", policy_list(*each))
        assert (before.policies, before.refused) == (fresh.policies, fresh.refused)


small_changes = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.lists(rows, max_size=2)))


@given(st.lists(rows, max_size=9), small_changes, st.integers(1, 4), st.integers(0, 4))
def test_a_list_read_after_small_changes_is_as_if_it_were_the_first(
    listed: list[dict[str, Any]], changes: list[tuple[int, int, list[dict[str, Any]]]], window: int, gaps: int
) -> None:
    with patch.object(read, "_WINDOW", window), patch.object(read, "_GAPS", gaps):
        before = read.policies("cf", policy_list(*listed))
        for at, gone, come in changes:
            listed[at : at + gone] = come
            before = read.policies("cf", policy_list(*listed), before)
            fresh = read.policies("cf", policy_list(*listed))
            assert (before.policies, before.refused) == (fresh.policies, fresh.refused)
            assert [*before.meanings] == [*fresh.meanings]


def test_rows_that_stay_are_not_looked_into_where_others_come_and_go() -> None:
    listed = [policy(f"a{number}") for number in range(3_000)]
    before = read.policies("cf", policy_list(*listed))
    changed = [*listed[1:1_000], policy("new"), *listed[1_000:2_000], *listed[2_002:], policy("newer")]
    looked_into: list[bytes] = []

    def understood(foundation: str, text: bytes) -> Refused:
        looked_into.append(text)
        return Refused("LOOKED_INTO", "it is counted alone")

    with patch.object(read, "_policy", understood):
        after = read.policies("cf", policy_list(*changed), before)
    assert len(looked_into) == 2
    assert len(after.policies) == 2_997
    runs = [*read._runs(before.rows, after.rows)]
    assert sum(count for _, _, count in runs) == 2_997


def test_a_list_shorter_than_it_says_is_no_list() -> None:
    with pytest.raises(Unavailable, match="says 2"):
        read.policies("cf", json.dumps({"total_policies": 2, "policies": [policy()]}).encode())


def test_a_bad_row_is_left_out_with_its_guid_and_reason() -> None:
    seen = read.orgs("cf", [page({"guid": "o1", "name": "acme"}, {"guid": "o2", "name": 7}, {"name": "no guid"}, {})])
    assert seen.found == {"cf:o1": Org("cf:o1", "acme")}  # type: ignore[arg-type, comparison-overlap]
    assert "Expected `str`, got `int`" in seen.refused["o2"].message
    assert len(seen.refused) == 3


def test_two_rows_without_guid_do_not_make_the_look_incomplete() -> None:
    assert len(read.orgs("cf", [page({"guid": "o1", "name": "acme"}, {}, {})]).found) == 1


def test_a_stamp_of_another_shape_is_no_reason_to_leave_a_row_out() -> None:
    seen = read.orgs("cf", [page({"guid": "o1", "name": "acme", "updated_at": 7})])
    assert len(seen.found) == 1
    assert seen.newest == ""


@pytest.mark.parametrize(
    "pages",
    [
        [],
        [page({"guid": "1"}, total=2, pages=1)],
        [page({"guid": "1"}, total=2, pages=2)],
        [page({"guid": "1"}, total=2, pages=2), page({"guid": "1"}, total=2, pages=2)],
        [page({"guid": "1"}, total=2, pages=2), page({"guid": "2"}, total=3, pages=2)],
        [page({"guid": "1"}, {"guid": "2"}, total=4, pages=3), page({"guid": "3"}, total=4, pages=3)],
    ],
)
def test_pages_that_do_not_fit_are_no_list(pages: list[bytes]) -> None:
    with pytest.raises(Unavailable):
        read.listing(pages)


def test_a_bad_asg_entry_is_left_out_and_its_group_keeps_the_others() -> None:
    rules = json.dumps(
        [
            {"protocol": "tcp", "destination": "10.0.0.0/8", "ports": "443"},
            {"protocol": "tcp", "destination": "10.0.0.0/8"},
            {"protocol": "nonsense", "destination": "10.0.0.0/8"},
            {"protocol": "all", "destination": 5},
            "all",
        ]
    )
    seen = read.internal_asgs("cf", [asg_page({"guid": "g1", "name": "web", "rules": rules})])
    (group,) = seen.found.values()
    assert [type(rule) for rule in group.rules] == [GardenRule]
    assert sorted(seen.refused) == ["g1/rules/1", "g1/rules/2", "g1/rules/3", "g1/rules/4"]


def test_a_group_whose_rules_are_no_list_is_left_out_alone() -> None:
    good = {"guid": "g1", "name": "web", "rules": "[]"}
    seen = read.internal_asgs("cf", [asg_page(good, {"guid": "g2", "name": "bad", "rules": "{"})])
    assert set(seen.found) == {"cf:g1"}
    assert set(seen.refused) == {"g2"}


def test_a_group_that_changed_between_two_batches_makes_the_look_incomplete() -> None:
    first = {"guid": "g1", "name": "web", "rules": "[]"}
    assert len(read.internal_asgs("cf", [asg_page(first), asg_page(first)]).found) == 1
    with pytest.raises(Unavailable, match="changed while"):
        read.internal_asgs("cf", [asg_page(first), asg_page({**first, "running_default": True})])


def test_both_sources_of_asgs_say_the_same() -> None:
    entry = {"protocol": "icmp", "destination": "10.0.0.0/8", "type": 8, "code": 0}
    internal = {
        "guid": "g1",
        "name": "web",
        "rules": json.dumps([entry]),
        "running_default": True,
        "staging_space_guids": ["s1"],
        "running_space_guids": ["s2", "s3"],
    }
    controller = {
        "guid": "g1",
        "name": "web",
        "rules": [entry],
        "globally_enabled": {"running": True, "staging": False},
        "relationships": {
            "staging_spaces": {"data": [{"guid": "s1"}]},
            "running_spaces": {"data": [{"guid": "s2"}, {"guid": "s3"}]},
        },
    }
    assert read.internal_asgs("cf", [asg_page(internal)]).found == read.controller_asgs("cf", [page(controller)]).found


@pytest.mark.parametrize(
    ("newest", "begin"),
    [
        ("2026-11-23T10:00:01Z", "2026-11-23T09:59:59Z"),
        ("2026-11-23T10:00:01+02:00", "2026-11-23T07:59:59Z"),
        ("", ""),
        ("yesterday", ""),
        ("2026-11-23", ""),
        ("0001-01-01T00:00:00Z", ""),
    ],
)
def test_a_delta_begins_two_seconds_before_the_newest_change(newest: str, begin: str) -> None:
    assert read.since(newest) == begin


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = """guid name rules relationships data instances type updated_at state globally_enabled space organization app
running_spaces source destination id protocol ports start"""
keys = st.sampled_from(NAMES.split())
rows_of_sorts = st.recursive(
    json_values, lambda inner: st.dictionaries(keys, inner, max_size=6) | st.lists(inner, max_size=3), max_leaves=20
)
bodies = st.binary(max_size=60) | rows_of_sorts.map(lambda value: json.dumps(value).encode())


@given(st.lists(bodies | st.lists(rows_of_sorts, max_size=4).map(lambda rows: page(*rows)), max_size=2))
def test_no_page_brings_a_reader_down(pages: list[bytes]) -> None:
    for reader in READERS:
        try:
            seen = reader("cf", pages)
        except Unavailable:
            continue
        assert all(isinstance(refused, Refused) for refused in seen.refused.values())


@given(bodies | st.lists(rows_of_sorts, max_size=4).map(lambda rows: policy_list(*rows)))
def test_no_policy_list_brings_the_reader_down(body: bytes) -> None:
    try:
        seen = read.policies("cf", body)
    except Unavailable:
        return
    assert all(isinstance(each, CfPolicy) for each in seen.policies)


groups = st.fixed_dictionaries(
    {
        "guid": st.sampled_from(["g1", "g2", 3]),
        "name": st.text(max_size=4),
        "rules": bodies.map(lambda b: b.decode("latin1")),
    }
)


@given(st.lists(bodies | st.lists(groups, max_size=2).map(lambda g: asg_page(*g)), max_size=2))
def test_no_list_of_security_groups_brings_the_reader_down(pages: list[bytes]) -> None:
    try:
        seen = read.internal_asgs("cf", pages)
    except Unavailable:
        return
    assert all(isinstance(refused, Refused) for refused in seen.refused.values())


@given(bodies)
def test_no_small_answer_brings_its_reader_down(body: bytes) -> None:
    for reader in (
        read.number,
        read.root,
        read.access_token,
        read.next_row,
        read.total_pages,
        read.newest,
        read.error_code,
        read.token_error,
        read.says_not_found,
        read.guid_of,
    ):
        try:
            reader(body)  # type: ignore[operator]
        except Unavailable:
            continue


@given(st.text())
def test_no_stamp_brings_since_down(stamp: str) -> None:
    assert read.since(stamp) == "" or read.since(stamp).endswith("Z")
