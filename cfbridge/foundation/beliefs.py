"""What of an answer does a foundation's state take over? Each kind by its own measure of what is withdrawn. Pure.

    orgs, spaces, apps   one that is missing
    policies             one that is missing
    asgs                 one that is missing, has lost an entry, or a binding: then the version before stays in force
                         beside the new one, which opens no more than the two did

Processes are no part of any rule, so whatever is said of them is believed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cfbridge.foundation import guard
from cfbridge.foundation.guard import Belief, Limits
from cfbridge.inventory import RULED, FoundationState, HeldBack
from egress.values import QualifiedId
from policy_sync.model import Asg

GUARDED = RULED
Beliefs = Mapping[str, Belief[Any]]
"""By kind, of those that are guarded."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a look saw of one kind."""

    kind: str
    content: Any
    """A mapping by id; of policies, the set."""
    whole: bool = True
    """Else only what came or changed: what is not in it may be there all the same."""
    gone: frozenset[Any] = frozenset()
    """What is known to be gone, each by a question of its own: ids, or policies."""


def unknown() -> Beliefs:
    """Nothing was ever confirmed."""
    return {kind: Belief() for kind in GUARDED}


def remembered(state: FoundationState, now: float) -> Beliefs:
    """`state` is what an earlier bridge left; kinds that it never saw are empty."""
    beliefs = dict(unknown())
    discarded = {held.kind: held.discarded for held in state.held}
    for kind, look in state.looks.items():
        if kind in beliefs and look.complete_at is not None:
            confirmed = keys(kind, getattr(state, kind)) | frozenset(state.lingering_asgs if kind == "asgs" else ())
            beliefs[kind] = guard.remembered(confirmed, discarded.get(kind, frozenset()), now)
    return beliefs


def keys(kind: str, content: Any) -> frozenset[Hashable]:
    """What is counted of a kind."""
    if kind == "policies":
        assert isinstance(content, frozenset)
        return content
    return frozenset(content.values() if kind == "asgs" else content)


def weigh(belief: Belief[Any], answer: Answer, now: float, limits: Limits) -> Belief[Any]:
    """The belief after an answer."""
    there = keys(answer.kind, answer.content)
    if answer.kind == "asgs":
        told: Mapping[QualifiedId, Asg] = answer.content
        old = (asg for asg in belief.confirmed if asg not in there)
        belief = guard.without(belief, frozenset(asg for asg in old if asg.id in told and says(told[asg.id], asg)))
    if not answer.whole:
        return guard.without(guard.learn(belief, there, now, limits), answer.gone)
    return guard.follow(belief, there, now, limits, answer.gone)


def says(now: Asg, before: Asg) -> bool:
    """Whether nothing of it was lost."""
    return (
        {*now.rules} >= {*before.rules}
        and (now.running_default or (not before.running_default and now.running_spaces >= before.running_spaces))
        and (now.staging_default or (not before.staging_default and now.staging_spaces >= before.staging_spaces))
    )


def take(state: FoundationState, answer: Answer, belief: Belief[Any]) -> FoundationState:
    """The state with what is believed of an answer. Objects that are equal to known ones stay the known ones, and so
    does the state where nothing differs."""
    kind, known, now = answer.kind, getattr(state, answer.kind), answer.content
    lingering = state.lingering_asgs
    if kind == "policies":
        now = belief.confirmed
    elif kind == "asgs":
        now, lingering = _versions(now, belief)
    else:
        now = {**{key: known[key] for key in (belief.missing if answer.whole else known)}, **now}
        now = {key: value for key, value in now.items() if key not in answer.gone}
    if now == known and lingering == state.lingering_asgs:
        return state
    if isinstance(now, Mapping):
        now = {key: known[key] if known.get(key) == value else value for key, value in now.items()}
    return replace(state, **{kind: now, "lingering_asgs": lingering})


def applied(state: FoundationState, kind: str, belief: Belief[Any]) -> FoundationState:
    """The state without what is no more believed."""
    if kind == "policies":
        return replace(state, policies=belief.confirmed)
    if kind == "asgs":
        newest = {asg.id: asg for asg in state.asgs.values() if asg in belief.confirmed}
        return replace(state, asgs=newest, lingering_asgs=())
    stays = {key: value for key, value in getattr(state, kind).items() if key in belief.confirmed}
    return replace(state, **{kind: stays})  # type: ignore[arg-type]


def _versions(
    told: Mapping[QualifiedId, Asg], belief: Belief[Any]
) -> tuple[Mapping[QualifiedId, Asg], tuple[Asg, ...]]:
    """By id the newest that is in force, and what lingers beside it."""
    newest = dict(told)
    lingering = []
    for asg in sorted(belief.missing, key=lambda each: (-belief.missing[each].since, each.id, repr(each))):
        if asg.id in newest:
            lingering.append(asg)
        else:
            newest[asg.id] = asg
    return newest, tuple(lingering)


def held_back(beliefs: Beliefs, limits: Limits) -> tuple[HeldBack, ...]:
    """What is to be shown to people."""
    return tuple(
        _held_back(kind, beliefs[kind], limits)
        for kind in GUARDED
        if any(m.held for m in beliefs[kind].missing.values())
    )


def _held_back(kind: str, belief: Belief[Any], limits: Limits) -> HeldBack:
    held = {key: each for key, each in belief.missing.items() if each.held}
    waiting = [each for each in held.values() if not each.discarded]
    return HeldBack(
        kind=kind,
        objects=frozenset(held),
        known=len(belief.confirmed),
        since=min(each.since for each in held.values()),
        until=max((guard.until(each, limits) for each in waiting), default=None),
        looks=min((each.looks for each in waiting), default=0),
        looks_needed=limits.hold_looks if waiting else 0,
        discarded=belief.discarded,
    )
