"""What does the withdrawal guard decide? Tables of small worlds, and properties of all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfbridge.foundation import guard
from cfbridge.foundation.guard import Belief, Limits

LIMITS = Limits()
KEYS = frozenset(range(100))


def seen(*answers: tuple[float, frozenset[int]], limits: Limits = LIMITS) -> Belief[int]:
    belief: Belief[int] = Belief()
    for now, answer in answers:
        belief = guard.follow(belief, answer, now, limits)
    return belief


def first(count: int) -> frozenset[int]:
    return frozenset(range(count))


def test_the_first_answer_is_the_truth() -> None:
    assert seen((0, KEYS)).confirmed == KEYS


@pytest.mark.parametrize(
    ("known", "left", "held"),
    [
        (100, 89, False),  # more than ten, not more than a fifth
        (100, 80, False),
        (100, 79, True),
        (12, 2, False),  # more than a fifth, not more than ten
        (12, 1, True),
        (12, 0, True),
        (10, 0, False),
    ],
)
def test_much_is_more_than_a_fifth_and_more_than_ten(known: int, left: int, held: bool) -> None:
    belief = seen((0, first(known)), (1, first(left)))
    assert bool(belief.held) is held
    assert belief.confirmed == first(known if held else left)


def test_what_is_held_goes_after_its_time_and_three_looks() -> None:
    held = seen((0, KEYS), (1, first(50)))
    assert guard.follow(held, first(50), 61, LIMITS).confirmed == KEYS  # two looks
    twice = guard.follow(held, first(50), 30, LIMITS)
    assert guard.follow(twice, first(50), 60.5, LIMITS).confirmed == KEYS  # 59.5 s
    over = guard.follow(twice, first(50), 61, LIMITS)
    assert (over.confirmed, over.missing) == (first(50), {})


def test_what_an_answer_has_again_is_held_no_more() -> None:
    belief = seen((0, KEYS), (1, frozenset()), (2, KEYS))
    assert (belief.confirmed, belief.missing) == (KEYS, {})


def test_what_is_left_when_most_is_back_is_little_and_goes() -> None:
    assert seen((0, KEYS), (1, frozenset()), (2, first(97))).confirmed == first(97)


def test_an_addition_is_there_at_once_while_much_is_held() -> None:
    belief = seen((0, KEYS), (1, frozenset({500})))
    assert belief.confirmed == KEYS | {500}
    assert belief.held == KEYS


def test_ten_small_withdrawals_in_ten_minutes_count_together() -> None:
    belief = seen((0, first(50)))
    for n in range(1, 11):
        belief = guard.follow(belief, first(50 - n), 30.0 * n, LIMITS)
        assert belief.confirmed == first(50 - n)
    assert guard.follow(belief, first(39), 330, LIMITS).held == {39}
    assert guard.follow(belief, first(39), 1000, LIMITS).confirmed == first(39)


def test_what_comes_and_goes_one_by_one_never_adds_up() -> None:
    belief = seen((0, first(12)))
    for n in range(100):
        belief = guard.follow(belief, first(12) | {1000 + n}, 2.0 * n + 1, LIMITS)
        belief = guard.follow(belief, first(12), 2.0 * n + 2, LIMITS)
        assert not belief.missing


def test_what_was_made_together_a_minute_ago_is_protected_too() -> None:
    belief = seen((0, frozenset()), (10, KEYS), (70, frozenset()))
    assert belief.held == KEYS


def test_all_replaced_by_as_many_others_is_held() -> None:
    others = frozenset(range(1000, 1100))
    belief = seen((0, KEYS), (1, others))
    assert belief.held == KEYS
    assert belief.confirmed == KEYS | others


def test_what_is_known_to_be_gone_goes_at_once_and_is_no_measure_for_the_rest() -> None:
    belief = guard.follow(seen((0, KEYS)), first(50), 1, LIMITS, KEYS - first(53))
    assert belief.confirmed == first(50)  # of the other three, that is little
    assert guard.follow(belief, first(45), 2, LIMITS).confirmed == first(45)


def test_after_a_hold_the_next_small_withdrawal_goes_at_once() -> None:
    belief = seen((0, KEYS), (1, first(50)), (31, first(50)), (61, first(50)), (62, first(49)))
    assert belief.confirmed == first(49)


def test_applied_is_gone_and_the_next_small_withdrawal_goes_at_once() -> None:
    belief = guard.apply(seen((0, KEYS), (1, first(50))))
    assert belief.confirmed == first(50)
    assert guard.follow(belief, first(49), 2, LIMITS).confirmed == first(49)


def test_discarded_stays_whatever_time_passes() -> None:
    belief = guard.discard(seen((0, KEYS), (1, first(50))))
    for n in range(10):
        belief = guard.follow(belief, first(50) | {500 + n}, 1000.0 * n, LIMITS)
    assert belief.confirmed > KEYS
    assert guard.apply(belief).confirmed == first(50) | {509}


def test_a_discard_ends_when_an_answer_has_some_of_it_again() -> None:
    belief = guard.discard(seen((0, KEYS), (1, frozenset())))
    little = guard.follow(belief, first(98), 2, LIMITS)
    assert (little.confirmed, little.missing) == (first(98), {})
    much = guard.follow(belief, first(60), 2, LIMITS)
    assert (much.held, much.discarded) == (KEYS - first(60), frozenset())


def test_beside_a_discard_a_small_withdrawal_goes_at_once() -> None:
    belief = guard.discard(seen((0, KEYS), (1, first(50))))
    assert guard.follow(belief, first(48), 2, LIMITS).confirmed == KEYS - {48, 49}


def test_what_a_delta_shows_is_there_and_the_rest_stays_held() -> None:
    belief = guard.learn(seen((0, KEYS), (1, frozenset())), frozenset({3, 500}), 2, LIMITS)
    assert belief.confirmed == KEYS | {500}
    assert belief.held == KEYS - {3}


def test_little_settles_first_where_it_is_said_to() -> None:
    limits = replace(LIMITS, settle_seconds=10)
    belief = seen((0, KEYS), (1, first(99)), limits=limits)
    assert belief.confirmed == KEYS
    assert not belief.held
    assert guard.follow(belief, first(99), 10.9, limits).confirmed == KEYS
    assert guard.follow(belief, first(99), 11, limits).confirmed == first(99)
    assert guard.follow(belief, KEYS, 11, limits).missing == {}


def test_what_an_earlier_bridge_left_is_the_measure() -> None:
    belief = guard.remembered(KEYS, frozenset(), 0)
    assert guard.follow(belief, frozenset(), 1, LIMITS).held == KEYS
    said = guard.remembered(KEYS, KEYS - first(50), 0)
    assert guard.follow(said, first(50), 10_000, LIMITS).discarded == KEYS - first(50)


def test_a_clock_that_is_set_back_does_not_hold_longer() -> None:
    belief = seen((10_000, KEYS), (10_001, first(50)), (5, first(50)), (64, first(50)))
    assert belief.held
    assert guard.follow(belief, first(50), 65, LIMITS).confirmed == first(50)


# Of all worlds --------------------------------------------------------------------------------------------------------

_ANSWERS = st.one_of(
    st.frozensets(st.integers(0, 39)),
    st.integers(0, 40).map(first),
    st.just(first(40)),
    st.just(frozenset[int]()),
)


@dataclass(frozen=True)
class Step:
    after: float
    answer: frozenset[int]
    gone: frozenset[int]
    said: str


_STEPS = st.lists(
    st.builds(
        Step,
        after=st.sampled_from([0.0, 0.2, 5.0, 30.0, 61.0, 601.0]),
        answer=_ANSWERS,
        gone=st.frozensets(st.integers(0, 39), max_size=3),
        said=st.sampled_from(["", "", "", "", "apply", "discard", "delta"]),
    ),
    max_size=12,
)
_LIMITS = st.sampled_from([LIMITS, replace(LIMITS, settle_seconds=10.0), replace(LIMITS, hold_looks=1, count=3)])


def _after(steps: list[Step], limits: Limits) -> tuple[Belief[int], float]:
    belief: Belief[int] = Belief()
    now = 0.0
    for step in steps:
        now += step.after
        if step.said == "apply":
            belief = guard.apply(belief)
        elif step.said == "discard":
            belief = guard.discard(belief)
        elif step.said == "delta":
            belief = guard.learn(belief, step.answer, now, limits)
        else:
            belief = guard.follow(belief, step.answer, now, limits, step.gone)
    return belief, now


@settings(max_examples=400, deadline=None)
@given(_STEPS, _ANSWERS, st.frozensets(st.integers(0, 39), max_size=3), st.sampled_from([0.0, 1.0, 59.0]), _LIMITS)
def test_every_answer_is_in_force_and_nothing_is_that_nobody_said(
    steps: list[Step], answer: frozenset[int], gone: frozenset[int], later: float, limits: Limits
) -> None:
    belief, now = _after(steps, limits)
    after = guard.follow(belief, answer, now + later, limits, gone)
    assert answer <= after.confirmed <= answer | belief.confirmed
    assert after.missing.keys() == after.confirmed - answer
    assert not (after.confirmed - answer) & gone


@settings(max_examples=400, deadline=None)
@given(_STEPS, _ANSWERS, _LIMITS)
def test_one_answer_never_withdraws_much_unasked(steps: list[Step], answer: frozenset[int], limits: Limits) -> None:
    belief, now = _after(steps, limits)
    after = guard.follow(belief, answer, now, limits)
    long_enough = {k for k, m in belief.missing.items() if m.since + limits.hold_seconds <= now}
    lost = belief.confirmed - after.confirmed - long_enough
    assert len(lost) <= max(limits.count, limits.share * len(belief.confirmed))


@settings(max_examples=400, deadline=None)
@given(_STEPS, _ANSWERS, _LIMITS)
def test_an_answer_that_stays_is_believed_in_the_end_unless_it_was_discarded(
    steps: list[Step], answer: frozenset[int], limits: Limits
) -> None:
    belief, now = _after(steps, limits)
    for n in range(1, limits.hold_looks + 2):
        belief = guard.follow(belief, answer, now + 61.0 * n, limits)
    assert belief.confirmed == answer | belief.discarded


@settings(max_examples=200, deadline=None)
@given(_STEPS, _ANSWERS, _LIMITS)
def test_a_discarded_answer_withdraws_nothing_of_what_it_held(
    steps: list[Step], answer: frozenset[int], limits: Limits
) -> None:
    belief, now = _after(steps, limits)
    belief = guard.discard(guard.follow(belief, answer, now, limits))
    kept = belief.held
    for n in range(1, 6):
        belief = guard.follow(belief, answer, now + 300.0 * n, limits)
    assert kept <= belief.confirmed


@settings(max_examples=200, deadline=None)
@given(_STEPS, _ANSWERS, _LIMITS)
def test_whatever_was_withdrawn_what_is_seen_again_is_in_force(
    steps: list[Step], answer: frozenset[int], limits: Limits
) -> None:
    belief, now = _after(steps, limits)
    every = belief.confirmed | answer
    after = guard.follow(guard.follow(belief, answer, now, limits), every, now + 1, limits)
    assert (after.confirmed, after.missing) == (every, {})
