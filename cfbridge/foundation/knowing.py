"""What is known of a foundation after an answer? Its state, and beside it what is believed, left out, and just gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from cfbridge.foundation import beliefs, guard
from cfbridge.foundation.beliefs import Answer
from cfbridge.foundation.guard import Belief, Limits
from cfbridge.inventory import FoundationState, HeldBack
from cfbridge.settings import FoundationConfig
from egress.values import QualifiedId, Refused
from policy_sync.model import CfPolicy

log = structlog.get_logger(__name__)


class Known:
    """`hurry` is called when everything is to be looked at whole at once: more is held than before, or apps went while
    policies were missing."""

    def __init__(
        self, config: FoundationConfig, state: FoundationState, clock: Callable[[], float], hurry: Callable[[], None]
    ) -> None:
        self.state = state
        """Replaced whole, where something differs."""
        self._config = config
        self._clock = clock
        self._hurry = hurry
        self._beliefs = dict(beliefs.remembered(state, clock()))
        self._refused: dict[str, Mapping[str, Refused]] = {kind: {} for kind in state.looks}
        self._gone_apps: dict[QualifiedId, float] = {}
        """When they went; of the last window."""

    def take(self, answer: Answer, refused: Mapping[str, Refused]) -> None:
        """A look brought this, and what of it could not be read."""
        kind = answer.kind
        belief: Belief[Any] = Belief()
        if kind in self._beliefs:
            belief = beliefs.weigh(self._beliefs[kind], answer, self._clock(), self._limits(kind))
            self._believe(kind, belief)
        self._set(beliefs.take(self.state, answer, belief))
        if refused == self._refused[kind]:
            return
        self._refused[kind] = refused
        said = log.warning if refused else log.info
        said("objects left out", foundation=self._config.name, kind=kind, count=len(refused))
        quarantined = tuple(each[key] for each in self._refused.values() for key in sorted(each))
        self.state = replace(self.state, quarantined=quarantined)

    def decide(self, kind: str, apply: bool) -> HeldBack | None:
        """A person says what becomes of all that is held of a kind: the answer is believed now, or not at all. Answers
        what was held; None: nothing."""
        held = next((each for each in self.state.held if each.kind == kind), None)
        if held is None:
            return None
        said = "withdrawal applied" if apply else "withdrawal discarded"
        log.warning(said, foundation=self._config.name, kind=kind, count=len(held.objects))
        before = self._beliefs[kind]
        self._believe(kind, guard.apply(before) if apply else guard.discard(before))
        self._set(beliefs.applied(self.state, kind, self._beliefs[kind]) if apply else self.state)
        return held

    def refused(self, kind: str) -> Mapping[str, Refused]:
        """What of a kind could not be read, by GUID."""
        return self._refused[kind]

    def missing(self, kind: str) -> Mapping[Any, guard.Missing]:
        """What is in force, although the last answer had it no more."""
        return self._beliefs[kind].missing

    def absent(self, kind: str, found: frozenset[QualifiedId]) -> frozenset[QualifiedId]:
        """Who has to be asked for, because a list has no more of them than `found`."""
        unguarded = Belief(frozenset(getattr(self.state, kind)))
        return guard.suspects(self._beliefs.get(kind, unguarded), found)

    def is_much(self, kind: str, absent: frozenset[QualifiedId]) -> bool:
        limits = self._limits(kind)
        return kind in self._beliefs and guard.is_much(self._beliefs[kind], absent, self._clock(), limits)

    def gone_with_their_apps(self, policies: frozenset[CfPolicy]) -> frozenset[CfPolicy]:
        """Policies that an answer has no more, and whose source or destination went."""
        apps = self._gone_apps
        absent = self.state.policies - policies if apps else ()
        return frozenset(policy for policy in absent if policy.source in apps or policy.destination in apps)

    def next_end(self, kind: str) -> float | None:
        """When the first of what only settles has settled."""
        limits = self._limits(kind)
        return min((guard.until(each, limits) for each in self.missing(kind).values() if not each.held), default=None)

    def _believe(self, kind: str, belief: Belief[Any]) -> None:
        before, self._beliefs[kind] = self._beliefs[kind], belief
        if kind == "apps":
            self._apps_went(before.confirmed - belief.confirmed, belief.confirmed)
        if belief.held - before.held:
            counts = {"count": len(belief.held), "known": len(belief.confirmed)}
            log.warning("withdrawal held", foundation=self._config.name, kind=kind, **counts)
            self._hurry()
        elif before.held and not belief.held:
            withdrawn = len(before.held - belief.confirmed)
            log.info("nothing is held any more", foundation=self._config.name, kind=kind, withdrawn=withdrawn)

    def _apps_went(self, went: frozenset[QualifiedId], there: frozenset[QualifiedId]) -> None:
        """Their policies go with them, also those that are held."""
        oldest = self._clock() - self._config.withdrawals.window_seconds
        kept = {app: at for app, at in self._gone_apps.items() if at > oldest and app not in there}
        self._gone_apps = kept | dict.fromkeys(went, self._clock())
        if went and self.missing("policies"):
            self._hurry()

    def _set(self, state: FoundationState) -> None:
        held = beliefs.held_back(self._beliefs, self._limits(""))
        self.state = state if held == state.held else replace(state, held=held)

    def _limits(self, kind: str) -> Limits:
        said = self._config.withdrawals
        return Limits(
            share=said.share,
            count=said.count,
            window_seconds=said.window_seconds,
            hold_seconds=said.hold_seconds,
            hold_looks=said.hold_looks,
            settle_seconds=self._config.asg_settle_seconds if kind == "asgs" else 0.0,
        )
