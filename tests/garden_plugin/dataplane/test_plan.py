"""Is a plan in an order in which no reference dangles, and empty when there is nothing to do?"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from garden_plugin.cell.nft_sets import Shape
from garden_plugin.dataplane import plan
from garden_plugin.dataplane.grown import Grown, touched
from garden_plugin.dataplane.linux.items import ChainItem, Line, SetItem
from policy_sync.model import Action

PLAIN = SetItem("s", Shape(("ipv4_addr",)), {b"\x0a\0\0\1": None})
CHAIN = ChainItem("c", (Line(Action.ALLOW, 1, 4, "s"),))
JUMPS = SetItem("asg4", Shape(("ipv4_addr",), ("verdict",)), {b"\x0a\0\0\1": b"c"})
ALL = {item.key: item for item in (JUMPS, CHAIN, PLAIN)}

small = st.dictionaries(st.integers(0, 5), st.integers(0, 2))


def test_sets_come_before_chains_before_jumps_and_go_the_other_way() -> None:
    assert [change.key for change in plan.diff({}, ALL).changes] == [PLAIN.key, CHAIN.key, JUMPS.key]
    assert [change.key for change in plan.diff(ALL, {}).changes] == [JUMPS.key, CHAIN.key, PLAIN.key]


def test_equal_means_nothing_to_do() -> None:
    copy = SetItem("s", Shape(("ipv4_addr",)), dict(PLAIN.elements))
    assert not plan.diff(ALL, {**ALL, copy.key: copy})
    assert plan.describe(plan.diff(ALL, ALL)) == "nothing to do"


def test_a_plan_is_readable() -> None:
    more = SetItem("s", PLAIN.shape, {b"\x0a\0\0\2": None, b"\x0a\0\0\3": None})
    said = plan.describe(plan.diff({PLAIN.key: PLAIN, CHAIN.key: CHAIN}, {more.key: more}))
    assert said == "~ set s: +2 -1 elements\n- chain c"


@given(small, small, st.sets(st.integers(0, 5)))
def test_a_mapping_that_grew_is_one_like_any_other_and_knows_where(
    base: dict[int, int], news: dict[int, int], gone: set[int]
) -> None:
    first = Grown(base, {})
    second = Grown(first, news, gone)
    assert second == {key: value for key, value in {**base, **news}.items() if key not in gone}
    different = {key for key in {*first, *second} if first.get(key) != second.get(key)}
    assert different <= set(touched(first, second)) <= {*news, *gone}
    assert different == set(touched(dict(first), dict(second)))
