"""Which rules do nothing, or more than somebody may have meant? Found in the compiled form, as it is in force now.

shadowed     an earlier rule of its tier decides otherwise for everything that it says
redundant    an earlier rule of its tier decides the same for everything that it says
empty        one of its ends is nobody at the moment, or it is an allow that expired
wide         it allows everything to everybody

Only one earlier rule at a time is held against each line: what several together cover is not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from egress.values import PackedRange
from policy_sync.model import Action, Protocol, Rule, Service, Tier
from policy_sync.ruleset import CompiledRule, Ruleset


@dataclass(frozen=True, slots=True)
class Finding:
    kind: str
    rule: str
    """Key."""
    other: str = ""
    """Key of the rule that goes before it."""


def review(rules: Sequence[Rule], ruleset: Ruleset, now: float) -> Iterator[Finding]:
    """`rules`: those of people, in order; the platform's own count as earlier ones. Disabled ones and such on watch are
    no finding: somebody is at work there."""
    keys = {number: label.key for number, label in ruleset.labels.items()}
    lines: dict[str, list[tuple[Tier, int, CompiledRule]]] = {}
    for tier in Tier:
        for at, line in enumerate(ruleset.tiers.get(tier, ())):
            lines.setdefault(keys.get(line.id, ""), []).append((tier, at, line))
    covers = _Covers(ruleset)
    for rule in rules:
        mine = lines.get(rule.key, [])
        if not rule.enabled or any(line.watch for _, _, line in mine):
            continue
        if not mine:
            yield Finding("empty", rule.key)
            continue
        if rule.action is Action.ALLOW and any(_is_everything(line) for _, _, line in mine):
            yield Finding("wide", rule.key)
        earlier = [covers.first_before(tier, at, line) for tier, at, line in mine]
        if None not in earlier:
            decides = next(each for each in earlier if each is not None)
            same = all(each is not None and each.action is rule.action for each in earlier)
            yield Finding("redundant" if same else "shadowed", rule.key, keys.get(decides.id, ""))


class _Covers:
    """Asked about many lines of one ruleset: each pair of sets is compared once."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._tiers = ruleset.tiers
        self._sets = ruleset.sets
        self._within = cache(self._is_within)

    def first_before(self, tier: Tier, at: int, line: CompiledRule) -> CompiledRule | None:
        """The first of its tier that decides, or passes on, everything that it says."""
        for other in self._tiers[tier][:at]:
            if other.id != line.id and not other.watch and self._covers(other, line):
                return other
        return None

    def _covers(self, other: CompiledRule, line: CompiledRule) -> bool:
        return (
            (line.mapped_only or not other.mapped_only)
            and self._within(line.sources, other.sources)
            and self._within(line.destinations, other.destinations)
            and all(any(_serves(wide, narrow) for wide in other.services) for narrow in line.services)
        )

    def _is_within(self, inner: str | None, outer: str | None) -> bool:
        if outer is None or inner == outer:
            return True
        if inner is None:
            return False
        small, large = self._sets[inner], self._sets[outer]
        return _within(small.v4, large.v4) and _within(small.v6, large.v6)


def _within(small: Sequence[PackedRange], large: Sequence[PackedRange]) -> bool:
    """Both merged and sorted."""
    at = 0
    for first, last in small:
        while at < len(large) and large[at][1] < first:
            at += 1
        if at == len(large) or not (large[at][0] <= first and last <= large[at][1]):
            return False
    return True


def _serves(wide: Service, narrow: Service) -> bool:
    if wide.protocol is Protocol.ALL:
        return True
    if wide.protocol is not narrow.protocol:
        return False
    kinds = (wide.icmp_type in (None, narrow.icmp_type), wide.icmp_code in (None, narrow.icmp_code))
    if wide.ports and not narrow.ports:
        return False
    inside = all(any(low <= first and last <= high for low, high in wide.ports) for first, last in narrow.ports)
    return all(kinds) and (inside or not wide.ports)


def _is_everything(line: CompiledRule) -> bool:
    every = any(service.protocol is Protocol.ALL for service in line.services)
    return line.sources is None and line.destinations is None and every and not line.mapped_only
