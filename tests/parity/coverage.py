"""What have packets met: which action, tier and default decided, and on which finer points did the verdict hang? Pure.

A point is decisive for a packet where the verdict is another one in a world without it: groups unnested, negations
dropped, and so on. That is asked for a sample, since each takes another verdict.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from egress.values import contains, intersect, merge, pack, parse_range, prefix_range
from policy_sync import translate, verdict
from policy_sync.criteria import All, Attribute, Comparison, Criteria, Either, Not
from policy_sync.model import ANY, Action, Packet, Rule, Selector, SelectorKind, Service, Tier, Verdict, World

SAMPLED = 5
"""One packet of so many is asked on which points it hangs."""
ALLOWED, DECIDED, DECISIVE = 0.4, 0.03, 0.01
"""Least shares: of allowed packets, of each tier, action and default, of each finer point."""
DEFAULTS = frozenset(rule.key for rule in translate.baseline_rules())
_NOBODY = "nobody at all"
Change = Callable[[World], World]


@dataclass(slots=True)
class Coverage:
    packets: int = 0
    sampled: int = 0
    decided: Counter[str] = field(default_factory=Counter)
    hung_on: Counter[str] = field(default_factory=Counter)

    def add(
        self, world: World, packets: Sequence[Packet], judged: Callable[[Packet], Verdict], ids: Mapping[str, int]
    ) -> None:
        without = _worlds_without(world)
        for packet in packets:
            found = judged(packet)
            self.decided.update(_labels(packet, found))
            if self.packets % SAMPLED == 0:
                self.sampled += 1
                self.hung_on.update(_points(world, without, packet, found, ids))
            self.packets += 1

    def __iadd__(self, other: Coverage) -> Coverage:
        self.packets += other.packets
        self.sampled += other.sampled
        self.decided += other.decided
        self.hung_on += other.hung_on
        return self

    def shares(self) -> dict[str, float]:
        shares = {name: round(number / max(1, self.packets), 4) for name, number in self.decided.items()}
        shares |= {name: round(self.hung_on[name] / max(1, self.sampled), 4) for name in POINTS}
        return dict(sorted(shares.items()))

    def lacking(self) -> list[str]:
        """What was met too seldom for an agreement to mean much."""
        shares = self.shares()
        wanted = {"action:allow": ALLOWED, **dict.fromkeys(POINTS, DECISIVE)}
        wanted |= {f"action:{action.value}": DECIDED for action in (Action.DROP, Action.REJECT)} | {"a pass": DECIDED}
        wanted |= {f"tier:{tier.name.lower()}": DECIDED for tier in Tier}
        wanted |= dict.fromkeys(DEFAULTS, DECIDED)
        return [
            f"{name}: {shares.get(name, 0.0):.2%} of at least {least:.0%}"
            for name, least in sorted(wanted.items())
            if shares.get(name, 0.0) < least
        ]


def _labels(packet: Packet, judged: Verdict) -> Iterator[str]:
    yield f"action:{judged.action.value}"
    yield f"tier:{judged.tier.name.lower()}"
    yield judged.rule if judged.rule in DEFAULTS else f"by:{judged.rule.partition(':')[0]}"
    yield f"protocol:{getattr(packet.protocol, 'value', packet.protocol)}"
    if packet.mapped:
        yield "mapped"
    if ":" in packet.source:
        yield "v6"


def balanced(
    rng: random.Random, world: World, candidates: Sequence[Packet], count: int, ids: Mapping[str, int]
) -> list[Packet]:
    """So many of the candidates that a bit more than two of five are allowed, and that what decides seldom is met as
    often as what decides often."""
    by: dict[bool, dict[str, dict[str, list[Packet]]]] = {True: {}, False: {}}
    for packet in candidates:
        judged = verdict.verdict(world, packet, ids)
        tier = f"{judged.tier.name} {judged.action}"
        rule = judged.rule if judged.rule in DEFAULTS else judged.rule.partition(":")[0]
        rule += " against an ASG" if _asg_would_open(world, packet, judged) else ""
        by[judged.allowed].setdefault(tier, {}).setdefault(rule, []).append(packet)
    chosen: list[Packet] = []
    for _ in range(min(count, len(candidates))):
        tiers = by[rng.random() < 0.47] or by[True] or by[False]
        tier = rng.choice(sorted(tiers))
        rule = rng.choice(sorted(tiers[tier]))
        left = tiers[tier][rule]
        chosen.append(left.pop(rng.randrange(len(left))))
        if not left:
            del tiers[tier][rule]
        if not tiers[tier]:
            del tiers[tier]
    return chosen


# Finer points --------------------------------------------------------------------------------------------------------


def _points(
    world: World, without: Mapping[str, Sequence[World]], packet: Packet, judged: Verdict, ids: Mapping[str, int]
) -> Iterator[str]:
    for point, others in without.items():
        if any(verdict.verdict(other, packet, ids).action is not judged.action for other in others):
            yield point
    if _asg_would_open(world, packet, judged):
        yield "an ASG over a pool address"


def _worlds_without(world: World) -> Mapping[str, Sequence[World]]:
    """By point, the worlds that differ from this one by it alone. A point that this world has not is left out."""
    found = {
        point: [other for change in changes if (other := change(world)) != world] for point, changes in _POINTS.items()
    }
    return {point: others for point, others in found.items() if others}


def _unnested(world: World) -> World:
    def plain(members: Sequence[Selector]) -> tuple[Selector, ...]:
        return tuple(each for each in members if each.kind is not SelectorKind.GROUP)

    def lonely(criteria: Criteria) -> Criteria:
        named = isinstance(criteria, Comparison) and criteria.attribute == Attribute("group")
        return replace(criteria, values=(_NOBODY,)) if named else criteria  # type: ignore[type-var]

    groups = tuple(replace(g, members=plain(g.members), criteria=_mapped(g.criteria, lonely)) for g in world.groups)
    return replace(world, groups=groups)


def _unnegated(world: World) -> World:
    def plain(criteria: Criteria) -> Criteria:
        return criteria.inner if isinstance(criteria, Not) else criteria

    changed = _with_ends(world, lambda each: replace(each, negated=False))
    return replace(changed, groups=tuple(replace(g, criteria=_mapped(g.criteria, plain)) for g in world.groups))


def _empty_is_any(world: World) -> World:
    known = {group.name for group in world.groups if group.members or group.criteria is not None}

    def opened(each: Selector) -> Selector:
        empty = each.kind is SelectorKind.GROUP and not each.negated and each.value not in known
        return ANY[0] if empty else each

    return _with_ends(world, opened)


def _no_prefix_over_a_pool(world: World) -> World:
    pools = merge(map(prefix_range, world.container_pools))

    def elsewhere(each: Selector) -> Selector:
        over = each.kind is SelectorKind.RANGE and intersect((parse_range(each.value),), pools)
        return Selector(SelectorKind.GROUP, _NOBODY) if over else each

    return _with_ends(world, elsewhere)


def _ports_moved(by: int) -> Change:
    """Every range of ports wider (or narrower) by one at both ends."""

    def moved(ports: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        return tuple((first - by, last + by) for first, last in ports if first - by <= last + by)

    def service(each: Service) -> Service:
        ports = moved(each.ports)
        return replace(each, ports=ports if ports or not each.ports else ((0, 0),))

    def change(world: World) -> World:
        policies = (
            replace(p, first_port=max(1, p.first_port - by), last_port=min(65535, p.last_port + by))
            for p in world.policies
        )
        asgs = (replace(a, rules=tuple(replace(r, ports=moved(r.ports)) for r in a.rules)) for a in world.asgs)
        return replace(
            _with_rules(world, lambda rule: replace(rule, services=tuple(map(service, rule.services)))),
            policies=frozenset(policies),
            asgs=tuple(asgs),
        )

    return change


def _any_icmp(world: World) -> World:
    def plain(each: Service) -> Service:
        return replace(each, icmp_type=None, icmp_code=None)

    asgs = (replace(a, rules=tuple(replace(r, icmp_type=None, icmp_code=None) for r in a.rules)) for a in world.asgs)
    changed = _with_rules(world, lambda rule: replace(rule, services=tuple(map(plain, rule.services))))
    return replace(changed, asgs=tuple(asgs))


def _without_pass(world: World) -> World:
    return replace(world, rules=tuple(rule for rule in world.rules if rule.action is not Action.PASS))


def _applied_everywhere(world: World) -> World:
    return _with_rules(world, lambda rule: replace(rule, applied_to=()))


def _asg_would_open(world: World, packet: Packet, judged: Verdict) -> bool:
    """Whether it would pass if an ASG could open addresses of container pools."""
    pools, destination = merge(map(prefix_range, world.container_pools)), pack(packet.destination)
    if judged.tier is not Tier.BASELINE or judged.allowed or not contains(pools, destination):
        return False
    sender = next((each for each in world.workloads if packet.source in each.addresses), None)
    return sender is not None and any(
        verdict._entry_matches(rule, destination, packet) for _, rule in verdict._outward(world, sender)
    )


_POINTS: Mapping[str, Sequence[Change]] = {
    "a nested group": (_unnested,),
    "a negation": (_unnegated,),
    "an empty group": (_empty_is_any,),
    "a prefix over a pool": (_no_prefix_over_a_pool,),
    "a bound of ports": (_ports_moved(1), _ports_moved(-1)),
    "an ICMP type or code": (_any_icmp,),
    "a pass": (_without_pass,),
    "applied_to": (_applied_everywhere,),
}
POINTS = (*_POINTS, "an ASG over a pool address")


def _with_rules(world: World, change: Callable[[Rule], Rule]) -> World:
    return replace(world, rules=tuple(map(change, world.rules)))


def _with_ends(world: World, change: Callable[[Selector], Selector]) -> World:
    def each(selectors: tuple[Selector, ...]) -> tuple[Selector, ...]:
        return tuple(map(change, selectors))

    return _with_rules(
        world,
        lambda rule: replace(
            rule, sources=each(rule.sources), destinations=each(rule.destinations), applied_to=each(rule.applied_to)
        ),
    )


def _mapped(criteria: Criteria | None, change: Callable[[Criteria], Criteria]) -> Criteria | None:
    """Every part changed, from the inside out."""
    match criteria:
        case Not(inner):
            return change(Not(_sure(_mapped(inner, change))))
        case All(parts):
            return change(All(tuple(_sure(_mapped(part, change)) for part in parts)))
        case Either(parts):
            return change(Either(tuple(_sure(_mapped(part, change)) for part in parts)))
        case None:
            return None
    return change(criteria)


def _sure(criteria: Criteria | None) -> Criteria:
    assert criteria is not None
    return criteria
