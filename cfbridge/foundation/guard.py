"""Shall what an answer withdraws go at once? Decides for one kind of thing, looked at whole. Pure.

    little is withdrawn             it goes now, or when it settled
    much                            it is held: `hold_seconds` and `hold_looks` complete looks
    asked for alone, and gone       it goes now
    somebody discarded the answer   it stays until an answer has some of it again
    an answer has it again          nothing ever happened

Much is measured against every state of the last `window_seconds`, so that ten small withdrawals count together, while
what comes and goes one by one never adds up. Additions are never held: an answer is always part of what is in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

K = TypeVar("K")
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Limits:
    share: float = 0.2
    count: int = 10
    """More than this share and more than this many together are much."""
    window_seconds: float = 600.0
    hold_seconds: float = 60.0
    hold_looks: int = 3
    settle_seconds: float = 0.0
    """Before little is withdrawn."""


@dataclass(frozen=True, slots=True)
class Missing:
    """In force, and in no answer since."""

    since: float
    looks: int = 1
    """Complete looks that did not have it."""
    held: bool = False
    """Much was withdrawn; else it only settles."""
    discarded: bool = False
    """A person does not believe the answer."""


@dataclass(frozen=True, slots=True)
class _Life:
    """Of something that came or went within the window."""

    born: float = -_NEVER
    gone: float = _NEVER


@dataclass(frozen=True, slots=True)
class Belief(Generic[K]):
    """What is believed of one kind."""

    confirmed: frozenset[K] = frozenset()
    """What is in force: the last answer, and what is missing in it."""
    missing: Mapping[K, Missing] = field(default_factory=dict)
    lives: Mapping[K, _Life] = field(default_factory=dict)
    looked: bool = False
    """Something was confirmed before: what the first answer has did not just come."""

    @property
    def held(self) -> frozenset[K]:
        return frozenset(key for key, missing in self.missing.items() if missing.held)

    @property
    def discarded(self) -> frozenset[K]:
        return frozenset(key for key, missing in self.missing.items() if missing.discarded)


def remembered(confirmed: frozenset[K], discarded: frozenset[K], now: float) -> Belief[K]:
    """As an earlier bridge left it. What it held is judged anew by the first answer; what a person said stands."""
    kept = {key: Missing(now, held=True, discarded=True) for key in discarded & confirmed}
    return Belief(confirmed, kept, looked=True)


def follow(
    belief: Belief[K], answer: frozenset[K], now: float, limits: Limits, gone: frozenset[K] = frozenset()
) -> Belief[K]:
    """After a complete look. `gone`: what is known to be gone, each by a question of its own."""
    if answer is belief.confirmed and not belief.missing:
        return belief
    absent = belief.confirmed - answer
    lives = _with_births(belief, answer, now, limits, some=len(answer) + len(absent) > len(belief.confirmed))
    if not absent:
        return Belief(answer, {}, lives, looked=True)
    open_ = suspects(belief, answer) - gone
    much = is_much(belief, open_, now, limits)
    # While much is missing all of it is held, also what was little when it began to be missing.
    judged = {key: _again(belief.missing.get(key), now, much) for key in open_}
    kept = {key: belief.missing[key] for key in absent - open_ - gone}
    kept.update({key: each for key, each in judged.items() if not _over(each, now, limits)})
    over = open_ - kept.keys()
    if much and over:  # held long enough to be the truth: what is withdrawn next is measured against it
        lives = {}
    else:
        lives.update({key: _Life(lives[key].born if key in lives else -_NEVER, now) for key in over})
    for key in absent & gone & lives.keys():
        del lives[key]
    return Belief(answer.union(kept) if kept else answer, kept, lives, looked=True)


def learn(belief: Belief[K], found: frozenset[K], now: float, limits: Limits) -> Belief[K]:
    """After a look that shows what came or changed, and nothing of what is gone."""
    if found <= belief.confirmed and belief.missing.keys().isdisjoint(found):
        return belief
    missing = {key: each for key, each in belief.missing.items() if key not in found}
    lives = _with_births(belief, found, now, limits)
    return Belief(belief.confirmed | found, missing, lives, looked=True)


def apply(belief: Belief[K]) -> Belief[K]:
    """A person believes the answer: what is missing is gone, and what is withdrawn next is measured against that."""
    return Belief(belief.confirmed - belief.missing.keys(), looked=belief.looked)


def discard(belief: Belief[K]) -> Belief[K]:
    """A person does not believe the answer: what is held because of it stays, until an answer has some of it again."""
    marked = {key: replace(each, discarded=each.held) for key, each in belief.missing.items()}
    return replace(belief, missing=marked)


def without(belief: Belief[K], those: frozenset[K]) -> Belief[K]:
    """They went, and nobody needs to be asked whether they should."""
    if not those:
        return belief
    missing, lives = (
        {key: each for key, each in known.items() if key not in those} for known in (belief.missing, belief.lives)
    )
    return Belief(belief.confirmed - those, missing, lives, belief.looked)  # type: ignore[arg-type]


def suspects(belief: Belief[K], answer: frozenset[K]) -> frozenset[K]:
    """What an answer withdraws, and has to be judged. A discarded answer was judged; when some of it is there again, it
    is no more, and what is left of it is judged anew."""
    absent = belief.confirmed - answer
    return absent - belief.discarded if belief.discarded <= absent else absent


def is_much(belief: Belief[K], absent: frozenset[K], now: float, limits: Limits) -> bool:
    """Whether some state of the window lost much, if `absent` goes too."""
    if len(absent) + sum(life.gone < _NEVER for life in belief.lives.values()) <= limits.count:
        return False
    begin = now - limits.window_seconds
    size, lost = len(belief.confirmed), len(absent)
    steps: list[tuple[float, bool, int, int]] = []
    for key, life in belief.lives.items():
        is_lost = key in absent or key not in belief.confirmed
        if life.gone <= begin:
            continue
        if life.gone < _NEVER:
            steps.append((life.gone, False, -1, -1))
            size, lost = size + 1, lost + 1
        if life.born > begin:
            steps.append((life.born, True, 1, int(is_lost)))
            size, lost = size - 1, lost - is_lost
    # Walk through the states from the oldest on; of one moment, what went first.
    steps.sort(key=lambda step: step[:2])
    for at, step in enumerate(steps):
        begins = at == 0 or steps[at - 1][0] < step[0]
        if begins and _exceeds(lost, size, limits):
            return True
        size, lost = size + step[2], lost + step[3]
    return _exceeds(lost, size, limits)


def until(missing: Missing, limits: Limits) -> float:
    """When it may go at the earliest."""
    return missing.since + (limits.hold_seconds if missing.held else limits.settle_seconds)


def _exceeds(lost: int, size: int, limits: Limits) -> bool:
    return lost > limits.count and lost > limits.share * size


def _again(before: Missing | None, now: float, held: bool) -> Missing:
    """After one more look without it. A clock that was set back does not lengthen anything, and who was discarded with
    an answer that is no more begins anew."""
    if before is None or before.discarded:
        return Missing(now, held=held)
    return replace(before, since=min(before.since, now), looks=before.looks + 1, held=held)


def _over(missing: Missing, now: float, limits: Limits) -> bool:
    if missing.discarded or now < until(missing, limits):
        return False
    return not missing.held or missing.looks >= limits.hold_looks


def _with_births(
    belief: Belief[K], answer: frozenset[K], now: float, limits: Limits, some: bool = True
) -> dict[K, _Life]:
    """Who came and went within the window, and who came now. What is back never went. Without `some`, nobody came:
    among 60,000, to look for them costs milliseconds."""
    begin = now - limits.window_seconds
    lives = {}
    for key, life in belief.lives.items():
        if life.gone < _NEVER and key in answer:
            life = replace(life, gone=_NEVER)
        if begin < life.born < _NEVER or begin < life.gone < _NEVER:
            lives[key] = life
    if belief.looked and some:
        lives.update({key: _Life(now) for key in answer - belief.confirmed if key not in lives})
    return lives
