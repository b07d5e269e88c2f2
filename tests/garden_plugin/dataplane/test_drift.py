"""Is it said in words what somebody changed, and is it known over a restart that a chain is not as it was written?"""

from __future__ import annotations

from pathlib import Path

from garden_plugin.cell.nft_answers import BaseSeen, ChainSeen, RuleSeen
from garden_plugin.cell.nft_sets import Shape
from garden_plugin.dataplane.base import Item
from garden_plugin.dataplane.linux import drift
from garden_plugin.dataplane.linux.items import SetItem
from garden_plugin.dataplane.linux.links import PortItem, RouteItem
from garden_plugin.dataplane.linux.written import Written

ROUTE = RouteItem("10.240.1.7/32", "cf-a", "", "0a:58:0a:f0:01:07")
PORT = PortItem("cf-a", ("10.240.1.7",), handle="a")
SET = SetItem("policies", Shape(("mark",)), {bytes((n, 0, 0, 0)): None for n in range(5)})
RULE, OTHER = RuleSeen("r1", b"one"), RuleSeen("", b"two")
FORWARD = ChainSeen(BaseSeen("filter", 2, 0, drops=False), (RULE, OTHER))


def said(left: tuple[Item, ...], found: tuple[Item, ...]) -> list[str]:
    return [*drift.sentences({item.key: item for item in left}, {item.key: item for item in found})]


def test_nothing_is_said_of_what_is_as_we_left_it() -> None:
    assert said((ROUTE, PORT, SET), (SET, PORT, ROUTE)) == []


def test_what_is_gone_and_what_is_new_is_named() -> None:
    assert said((ROUTE, PORT), ()) == ["route 10.240.1.7 was deleted", "link cf-a of a was deleted"]
    assert said((), (PORT,)) == ["link cf-a of a was added"]


def test_a_link_says_in_what_it_is_another() -> None:
    down = PortItem("cf-a", (), wrong="it is down")
    assert said((PORT,), (down,)) == ["link cf-a of a was changed: it is down"]


def test_of_a_set_the_number_and_the_first_elements_are_said() -> None:
    fewer = SetItem("policies", SET.shape, {bytes((9, 0, 0, 0)): None, bytes((0, 0, 0, 0)): None})
    assert said((SET,), (fewer,)) == [
        "set policies lost 4 elements (0x1, 0x2, 0x3, …)",
        "set policies gained 1 element (0x9)",
    ]


def test_a_report_is_bounded_and_moves_no_cursor() -> None:
    told = drift.report([f"set \x1b[2J{n} " + "x" * 1000 for n in range(1000)])
    assert told.isprintable()
    assert len(told) < 3000
    assert told.endswith("and 988 more")
    assert drift.report(["twice", "twice"]) == "twice"


def test_rules_that_came_went_or_moved_are_told(tmp_path: Path) -> None:
    written = Written(None, "boot")
    written.keep({"forward": FORWARD})
    for rules, base, expected in (
        ((RULE,), FORWARD.base, "1 rule was taken from chain forward"),
        ((RULE, OTHER, OTHER, OTHER), FORWARD.base, "2 rules were added to chain forward"),
        ((OTHER, RULE), FORWARD.base, "rules of chain forward were put in another order"),
        (FORWARD.rules, BaseSeen("filter", 2, 0, drops=True), "chain forward was given the policy drop at priority 0"),
        (FORWARD.rules, None, "chain forward was taken from its hook"),
    ):
        seen = {"forward": ChainSeen(base, rules)}
        assert [*written.differences(seen)] == [expected]
        assert not written.intact("forward", seen["forward"])
    assert [*written.differences({})] == ["chain forward was deleted"]
    assert [*written.differences({"forward": FORWARD, "theirs": FORWARD})] == ["chain theirs was added"]


def test_how_chains_were_written_is_known_to_the_next_agent_of_this_boot_alone(tmp_path: Path) -> None:
    Written(tmp_path / "chains", "boot").keep({"forward": FORWARD})
    assert Written(tmp_path / "chains", "boot").chains == {"forward": FORWARD}
    assert Written(tmp_path / "chains", "another").chains == {}
    (tmp_path / "chains").write_bytes(b"garbage")
    assert Written(tmp_path / "chains", "boot").chains == {}


def test_whoever_dies_while_writing_leaves_no_memory_that_is_wrong(tmp_path: Path) -> None:
    written = Written(tmp_path / "chains", "boot")
    written.keep({"forward": FORWARD})
    written.begin()
    assert Written(tmp_path / "chains", "boot").chains == {}
