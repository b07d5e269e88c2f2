"""Do criteria name whom their writer meant, and is what is written wrong refused at its place?"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.values import Packed, RefusedError, pack, parse_range, text
from policy_sync import criteria, criteria_text
from policy_sync.criteria import (
    FIELDS,
    KEYED,
    All,
    Attribute,
    Comparison,
    Criteria,
    Either,
    Not,
    Trust,
    Within,
)
from policy_sync.matching import Matching, Ranges

WEB = (
    {
        Attribute("org"): "acme",
        Attribute("space"): "prod",
        Attribute("app"): "web-canary",
        Attribute("label", "team"): "blue",
        Attribute("tag", "env"): "stage",
    },
    (pack("10.1.2.3"), pack("fd00::7")),
)
DATABASE = ({Attribute("kind"): "vm", Attribute("vm.name"): "db-1"}, (pack("10.9.0.4"),))
Place = tuple[dict[Attribute, str], tuple[Packed, ...]]


def named(written: str, who: Place = WEB, groups: tuple[str, ...] = ()) -> bool:
    def in_group(name: str) -> Ranges:
        return ((who[1][0], who[1][0]),) if name in groups else ()

    return Matching([who], in_group).workloads(criteria_text.parse(written)) == {0}


@pytest.mark.parametrize(
    ("written", "web", "database"),
    [
        ('org = "acme" and space in ("prod", "stage") and not app ~ "*-canary"', False, False),
        ('org = "acme" and app ~ "web-??nary"', True, False),
        ('tag tier = "db" or vm.name ~ "db-*"', False, True),
        ('org = "acme" or kind = "vm"', True, True),
        ('ORG = "acme" AND NOT Space = "dev"', True, False),
        ("cidr 10.1.0.0/16", True, False),
        ('cidr "10.9.0.1-10.9.0.9"', False, True),
        ("cidr fd00::7", True, False),
        ("label team exists", True, False),
        ("not label team exists", False, True),
        ('not (org = "acme" and space = "prod")', False, True),
        ('kind = "vm" or org = "acme" and space = "dev"', False, True),
    ],
)
def test_an_expression_names_whom_it_says(written: str, web: bool, database: bool):
    assert (named(written, WEB), named(written, DATABASE)) == (web, database)


def test_who_lacks_an_attribute_satisfies_no_test_of_it_and_so_every_negation():
    assert not named('tag env != "prod"', DATABASE)
    assert not named('tag env not in ("prod")', DATABASE)
    assert named('not tag env = "prod"', DATABASE)
    assert named('tag env != "prod"', WEB)
    assert not named('tag env != "stage"', WEB)


def test_a_group_is_asked_by_its_name():
    assert named('group = "databases"', groups=("databases",))
    assert named('group in ("databases", "caches")', groups=("caches",))
    assert not named('group in ("databases", "caches")')
    assert named('group != "databases"')


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_a_glob_takes_what_the_standard_librarys_does(pattern: str, written: str):
    assert criteria.globs(pattern, written) == fnmatchcase(written, pattern)


def test_brackets_in_a_glob_are_brackets():
    assert criteria.globs("[ab]*", "[ab]x")
    assert not criteria.globs("[ab]", "a")


# Addresses


def members(written: str, *places: Place, **groups: str) -> list[str]:
    def in_group(name: str) -> Ranges:
        return (parse_range(groups[name]),) if name in groups else ()

    found = Matching(places, in_group).ranges(criteria_text.parse(written))
    return [text(first) if first == last else f"{text(first)}-{text(last)}" for first, last in found]


def test_who_has_one_address_in_a_prefix_is_named_with_all_of_them():
    assert members("cidr 10.1.0.0/16", WEB) == ["10.1.0.0-10.1.255.255", "fd00::7"]


def test_an_address_that_nobody_has_is_named_by_prefix_and_by_group_and_by_no_negation():
    assert members("cidr 192.0.2.0/30 and not cidr 192.0.2.1", WEB) == []
    assert members('cidr 192.0.2.0/30 and group = "servers"', WEB, servers="192.0.2.2-192.0.2.9") == [
        "192.0.2.2-192.0.2.3"
    ]
    assert members('not group = "servers"', WEB, servers="192.0.2.2") == ["10.1.2.3", "fd00::7"]


def test_an_address_of_a_prefix_that_somebody_has_is_named_only_where_they_satisfy_the_rest():
    written = 'cidr 10.9.0.4-10.9.0.5 and not vm.name = "db-1"'
    assert members(written, DATABASE) == []
    assert members('cidr 10.9.0.4-10.9.0.5 or vm.name = "db-2"', DATABASE) == ["10.9.0.4-10.9.0.5"]


# Trust


@pytest.mark.parametrize(
    ("written", "least"),
    [
        ('tag env = "prod"', Trust.ADMIN),
        ('org = "acme"', Trust.ORG_MANAGER),
        ('org = "acme" and space = "prod"', Trust.SPACE_MANAGER),
        ('tag env = "prod" or app = "web"', Trust.DEVELOPER),
        ('tag env = "prod" and not label team = "blue"', Trust.DEVELOPER),
        ('space.label team = "blue"', Trust.SPACE_MANAGER),
        ('org.label team = "blue"', Trust.ORG_MANAGER),
        ("cidr 10.0.0.0/8", Trust.ADMIN),
        ('group = "by-app" and vm.name ~ "db-*"', Trust.DEVELOPER),
        ('group = "by-org"', Trust.ORG_MANAGER),
    ],
)
def test_the_least_trusted_word_counts_negated_and_nested_too(written: str, least: Trust):
    groups = {"by-app": Trust.DEVELOPER, "by-org": Trust.ORG_MANAGER}
    assert criteria.trust(criteria_text.parse(written), groups.__getitem__) is least


def test_the_groups_that_criteria_are_made_of_are_found():
    written = 'group = "a" or not (group in ("b", "c") and org = "acme")'
    assert criteria.groups(criteria_text.parse(written)) == {"a", "b", "c"}


# The language

NAMES = st.text(st.characters(codec="utf-8"), max_size=12)
PLAIN = st.sampled_from([Attribute(name) for name in FIELDS if name != "group"])
KEYS = st.builds(Attribute, st.sampled_from([*KEYED]), NAMES)
TESTS = st.one_of(
    st.builds(Comparison, PLAIN | KEYS, st.sampled_from(["=", "!=", "~"]), st.tuples(NAMES)),
    st.builds(
        Comparison, PLAIN | KEYS, st.sampled_from(["in", "not in"]), st.lists(NAMES, min_size=1, max_size=3).map(tuple)
    ),
    st.builds(Comparison, PLAIN | KEYS, st.just("exists")),
    st.builds(Comparison, st.just(Attribute("group")), st.sampled_from(["=", "!="]), st.tuples(NAMES)),
    st.sampled_from(["10.0.0.0/8", "10.0.0.1", "fd00::/16", "10.0.0.1-10.0.0.7"]).map(
        lambda each: Within(each, parse_range(each))
    ),
)


def _compound(inner: st.SearchStrategy[Criteria]) -> st.SearchStrategy[Criteria]:
    return st.one_of(
        inner.map(Not),
        st.lists(inner.filter(lambda part: not isinstance(part, All)), min_size=2, max_size=3).map(
            lambda parts: All(tuple(parts))
        ),
        st.lists(inner.filter(lambda part: not isinstance(part, Either)), min_size=2, max_size=3).map(
            lambda parts: Either(tuple(parts))
        ),
    )


@given(st.recursive(TESTS, _compound, max_leaves=8))
def test_what_is_written_is_read_as_the_same(expression: Criteria):
    assert criteria_text.parse(criteria_text.said(expression)) == expression


@pytest.mark.parametrize(
    ("written", "place", "says"),
    [
        ("", "line 1, column 1", "a field, `not` or `(` is expected here, not the end"),
        ('org = "acme" or', "line 1, column 16", "not the end"),
        ('org = "acme"\n  and spce = "dev"', "line 2, column 7", "did you mean space?"),
        ("org = acme", "line 1, column 7", "a value in double quotes is expected here, not acme"),
        ('org = "acme', "line 1, column 7", "no closing quote"),
        ('org = "a\\q"', "line 1, column 9", "\\q means nothing"),
        ('org not = "acme"', "line 1, column 9", "after org, in is expected"),
        ('org "acme"', "line 1, column 5", "after org, =, !=, ~, exists or in is expected"),
        ('group ~ "db*"', "line 1, column 7", "after group, =, != or in is expected"),
        ('org in ("a" "b")', "line 1, column 13", "`,` or `)` is expected here"),
        ('(org = "a"', "line 1, column 11", "`)` is expected here, not the end"),
        ('org = "a" space = "b"', "line 1, column 11", "`and`, `or` or the end is expected here, not space"),
        ("cidr 10.1.0.1/16", "line 1, column 6", "has host bits set"),
        ('label in ("x")', "line 1, column 7", "in quotes, if it is in"),
        ('org = "a" & space = "b"', "line 1, column 11", "'&' means nothing"),
        ("not " * 70 + 'org = "a"', "line 1, column", "deep"),
        ("(" * 5000, "line 1, column", "deep"),
        ("x" * 20_000, "line 1, column", "at most 16384 characters"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(written: str, place: str, says: str):
    with pytest.raises(RefusedError) as refused:
        criteria_text.parse(written)
    assert place in refused.value.refused.message
    assert says in refused.value.refused.message
    assert refused.value.refused.code == "CRITERIA_INVALID"


@given(st.text(st.sampled_from('orgtagandnotin=!~(),."\\\n 10/x'), max_size=40))
def test_no_text_makes_reading_fail_but_by_a_refusal(written: str):
    try:
        found = criteria_text.parse(written)
    except RefusedError as refused:
        said = refused.refused.message
    else:
        said = "line 1, column 1: " if criteria_text.parse(criteria_text.said(found)) == found else "another"
    assert re.match(r"line \d+, column \d+: ", said)
