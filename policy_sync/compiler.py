"""How does a world become a ruleset? Groups to address sets, policies to matches, security groups to profiles.

A part whose inputs did not change since the last compile is taken as it was (`Memo`); policies are compiled one by one
as they come and go. What can't be compiled is quarantined alone, and the others are in force.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from egress.values import (
    Packed,
    QualifiedId,
    Refused,
    contains,
    merge,
    subtract,
    text,
    unqualify,
)
from policy_sync import policies, translate
from policy_sync.membership import Membership, Ranges
from policy_sync.model import (
    Action,
    Asg,
    GardenRule,
    Kind,
    Lifecycle,
    Mode,
    Protocol,
    Rule,
    Selector,
    SelectorKind,
    Service,
    Tier,
    Workload,
    World,
)
from policy_sync.part import Part, short
from policy_sync.ruleset import IDENTITY_BIT, AddressSet, CompiledRule, RuleLabel, Ruleset

T = TypeVar("T")


class Compiled(NamedTuple):
    """The ruleset, and what could not be compiled, each object alone: the others are in force."""

    ruleset: Ruleset
    quarantined: tuple[Refused, ...]


class Memo:
    """What the last compile found, by the inputs it depends on. Given again, unchanged parts are taken as they are."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[tuple[object, ...], Part]] = {}
        self._joined: dict[str, tuple[tuple[object, ...], Any]] = {}
        self._membership: tuple[tuple[object, ...], Membership] | None = None
        self.book = policies.Book()

    def part(self, name: str, inputs: tuple[object, ...], ids: Mapping[str, int], make: Callable[[], Part]) -> Part:
        before = self._parts.get(name)
        if before and before[0] == inputs and all(ids.get(key) == number for key, number in before[1].used.items()):
            return before[1]
        part = make()
        self._parts[name] = (inputs, part)
        return part

    def joined(self, name: str, parts: tuple[object, ...], make: Callable[[], T]) -> T:
        """What several parts make together: the same object while they are."""
        before = self._joined.get(name)
        if before is None or any(was is not now for was, now in zip(before[0], parts, strict=True)):
            before = self._joined[name] = (parts, make())
        made: T = before[1]
        return made

    def membership(self, world: World) -> Membership:
        inputs = (world.workloads, world.groups, world.container_pools, world.cell_addresses)
        if self._membership is None or self._membership[0] != inputs:
            self._membership = (inputs, Membership(*inputs))
        return self._membership[1]


def rule_keys(world: World, settled: World | None = None) -> Iterator[str]:
    """Every key that needs an id before `compile_ruleset`: rules, apps' identities, ASG and Garden rules, policies.
    Policies of `settled`, a world whose keys have their ids, may be left out: 20,000 stay, one is added."""
    yield from (rule.key for rule in world.rules)
    apps = _apps(world)
    yield from map(translate.app_key, apps)
    for asg in world.asgs:
        yield from (translate.asg_key(asg.id, rule) for rule in asg.rules)
    handed = {(_foundation(w), w.garden_rules, w.net_out): None for w in world.workloads if w.kind is Kind.CONTAINER}
    for foundation, garden_rules, net_out in handed:
        first_truth = () if foundation in world.asgs_known else garden_rules
        yield from (translate.garden_key(rule, foundation) for rule in (*first_truth, *net_out))
    same = settled is not None and _apps(settled).keys() == apps.keys()
    for policy in world.policies - settled.policies if settled is not None and same else world.policies:
        if policy.source in apps and policy.destination in apps:
            yield translate.policy_key(policy)


def _apps(world: World) -> dict[QualifiedId, None]:
    """Those that network policies concern, in order."""
    return {workload.app: None for workload in world.workloads if workload.app and _takes_part(workload)}


def compile_ruleset(
    world: World, ids: Mapping[str, int], now: float | None = None, memo: Memo | None = None
) -> Compiled:
    """`ids`: rule key → id, for every key of `rule_keys(world)`. Without `now` nothing expires."""
    memo = memo or Memo()
    membership = memo.membership(world)
    places = (world.workloads, world.groups, world.container_pools, world.cell_addresses)
    expired = frozenset(at for at, rule in enumerate(world.rules) if _expired(rule, now))
    tiers = memo.part(
        "tiers", (*places, world.rules, expired), ids, lambda: _tiers(world.rules, expired, membership, ids)
    )
    who = memo.part("identities", places, ids, lambda: _identities(membership, ids))
    memo.book = policies.follow(memo.book, world.policies, who, ids)
    matches = memo.book.part
    outward = (*places, world.asgs, world.asgs_known)
    profiles = memo.part("profiles", outward, ids, lambda: _profiles(world, membership, ids))
    ruleset = Ruleset(
        sets=memo.joined("sets", (tiers, profiles), lambda: {**tiers.sets, **profiles.sets}),
        tiers=memo.joined("tiers", (tiers,), lambda: {int(tier): tuple(tiers.tiers.get(tier, ())) for tier in Tier}),
        identities=who.identities,
        policies=matches.policies,
        profiles=profiles.profiles,
        egress=profiles.egress,
        container_pools=world.container_pools,
        cell_addresses=world.cell_addresses,
        labels=memo.joined(
            "labels", (matches, profiles, tiers), lambda: {**matches.labels, **profiles.labels, **tiers.labels}
        ),
    )
    parts = (tiers, who, matches, profiles)
    return Compiled(ruleset, (*membership.quarantined, *(each for part in parts for each in part.quarantined)))


def _expired(rule: Rule, now: float | None) -> bool:
    """Only allows expire: a refusal that ended by itself would open something."""
    return now is not None and rule.expires_at is not None and rule.expires_at <= now and rule.action is Action.ALLOW


def _takes_part(workload: Workload) -> bool:
    """In network policies. Staging containers do not, nor does what runs no app."""
    running = workload.lifecycle in (Lifecycle.APP, Lifecycle.TASK)
    return workload.kind is Kind.CONTAINER and workload.app is not None and running


def _foundation(workload: Workload) -> str:
    return unqualify(workload.id)[0]


def _tiers(rules: Iterable[Rule], expired: frozenset[int], membership: Membership, ids: Mapping[str, int]) -> Part:
    """`expired`: positions, since a rule that was named twice is in force by its first alone."""
    part = Part()
    seen: set[str] = set()
    for at, rule in enumerate(rules):
        if rule.key in seen:
            part.refuse(
                "RULE_TWICE", f"there are two rules {short(rule.key)}; the first is in force, name the other anew"
            )
            continue
        seen.add(rule.key)
        if rule.action is Action.PASS and rule.tier >= Tier.APPLICATION:
            part.refuse(
                "PASS_TOO_LATE", f"{short(rule.key)} passes in tier {rule.tier.name.lower()}; only the first three can"
            )
            continue
        if not rule.enabled or at in expired:
            continue
        number = part.id_of(rule.key, ids)
        if number is None:
            continue
        lines = [
            CompiledRule(
                number, sources, to, rule.services, rule.action, rule.log, rule.mode is Mode.WATCH, rule.mapped_only
            )
            for sources, to in _pairs(rule, membership, part.sets)
        ]
        if lines and rule.services:
            part.tiers.setdefault(rule.tier, []).extend(lines)
            part.labels[number] = RuleLabel(rule.key, rule.name, rule.tier, rule.log)
    return part


def _pairs(rule: Rule, membership: Membership, sets: dict[str, AddressSet]) -> Iterator[tuple[str | None, str | None]]:
    """Names of source and destination sets. With `applied_to`: (src∩A → dst) and (src → dst∩A)."""
    sources, destinations = (membership.ranges(each) for each in (rule.sources, rule.destinations))
    if not sources or not destinations:
        return
    from_, to = _side(rule.sources, sources, sets), _side(rule.destinations, destinations, sets)
    if not rule.applied_to:
        yield from_, to
        return
    for near_source, selectors, ranges in ((True, rule.sources, sources), (False, rule.destinations, destinations)):
        near = membership.applied(ranges, rule.applied_to)
        if near:
            name = f"a_{_hash((selectors, rule.applied_to))}"
            sets[name] = _address_set(near)
            yield (name, to) if near_source else (from_, name)


def _side(selectors: tuple[Selector, ...], ranges: Ranges, sets: dict[str, AddressSet]) -> str | None:
    if any(selector.kind is SelectorKind.ANY and not selector.negated for selector in selectors):
        return None
    name = _set_name(selectors)
    if name not in sets:
        sets[name] = _address_set(ranges)
    return name


@lru_cache(1 << 16)
def _set_name(selectors: tuple[Selector, ...]) -> str:
    return f"g_{_hash(selectors)}"


def _hash(said: object) -> str:
    return hashlib.sha256(repr(said).encode("utf-8", "backslashreplace")).hexdigest()[:24]


def _address_set(ranges: Ranges) -> AddressSet:
    return AddressSet(
        tuple(each for each in ranges if len(each[0]) == 4), tuple(each for each in ranges if len(each[0]) == 16)
    )


def _identities(membership: Membership, ids: Mapping[str, int]) -> Part:
    part = Part()
    owners: dict[Packed, str] = {}
    numbers: dict[str, int | None] = {}
    for workload, addresses in membership.places:
        if workload.kind is not Kind.CONTAINER:
            continue
        for address in addresses:
            if not membership.is_container(address):
                continue
            if owners.setdefault(address, workload.id) != workload.id:
                part.refuse(
                    "ADDRESS_TWICE", f"{text(address)} is said to be of two containers; {owners[address]} keeps it"
                )
                continue
            if not workload.app or not _takes_part(workload):
                continue
            if workload.app not in numbers:
                numbers[workload.app] = part.id_of(translate.app_key(workload.app), ids)
            number = numbers[workload.app]
            if number is not None:
                part.identities[text(address)] = IDENTITY_BIT | number
    return part


def _profiles(world: World, membership: Membership, ids: Mapping[str, int]) -> Part:
    """Containers with the same ASGs and the same words of Garden share a profile."""
    part = Part()
    holes = merge((*membership.pools, *membership.cell))
    named: dict[object, str] = {}
    lines: dict[str, CompiledRule | None] = {}
    bound: dict[object, tuple[Asg, ...]] = {}
    owners: dict[Packed, str] = {}
    for workload, addresses in membership.places:
        if workload.kind is not Kind.CONTAINER:
            continue
        foundation = _foundation(workload)
        known = foundation in world.asgs_known
        running = workload.lifecycle in (Lifecycle.APP, Lifecycle.TASK)
        staging = workload.lifecycle is Lifecycle.STAGING
        where = (foundation, workload.space, running, staging)
        if where not in bound:
            bound[where] = tuple(asg for asg in world.asgs if known and _bound(asg, *where))
        share = (where, () if known else workload.garden_rules, workload.net_out)
        name = named.get(share)
        if name is None:
            keyed = [(translate.asg_key(asg.id, rule), asg.name, rule) for asg in bound[where] for rule in asg.rules]
            keyed += [(translate.garden_key(rule, foundation), "garden", rule) for rule in (*share[1], *share[2])]
            for each in keyed:
                if each[0] not in lines:
                    lines[each[0]] = _line(*each, holes, part, ids)
            name = named[share] = _profile((lines[key] for key, _, _ in keyed), part)
        for address in addresses:
            if (
                owners.setdefault(address, workload.id) == workload.id
                and not contains(membership.vms, address)
                and name
            ):
                part.egress[text(address)] = name
    return part


def _bound(asg: Asg, foundation: str, space: QualifiedId | None, running: bool, staging: bool) -> bool:
    if unqualify(asg.id)[0] != foundation:
        return False
    if running:
        return asg.running_default or space in asg.running_spaces
    return staging and (asg.staging_default or space in asg.staging_spaces)


def _profile(lines: Iterable[CompiledRule | None], part: Part) -> str:
    """The name of the profile made of these rules, in the order of their ids; empty when they open nothing."""
    rules = tuple(sorted({line.id: line for line in lines if line}.values(), key=lambda line: line.id))
    if not rules:
        return ""
    name = f"p_{_hash([line.id for line in rules])}"
    part.profiles[name] = rules
    return name


def _line(
    key: str, said_by: str, rule: GardenRule, holes: Ranges, part: Part, ids: Mapping[str, int]
) -> CompiledRule | None:
    service = _service(rule)
    outside = subtract(rule.destinations, holes)
    if service is None or not outside:
        return None
    number = part.id_of(key, ids)
    if number is None:
        return None
    name = f"d_{_hash(rule.destinations)}"
    part.sets[name] = _address_set(outside)
    part.labels[number] = RuleLabel(key, said_by, int(Tier.APPLICATION), rule.log)
    return CompiledRule(number, None, name, (service,), Action.ALLOW, rule.log)


def _service(rule: GardenRule) -> Service | None:
    if rule.protocol in (Protocol.TCP, Protocol.UDP):
        return Service(rule.protocol, rule.ports) if rule.ports else None
    if rule.protocol is Protocol.ALL:
        return Service()
    return Service(rule.protocol, (), rule.icmp_type, rule.icmp_code)
