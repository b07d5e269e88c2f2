"""Whom does a rule mean? The oracle's other half: selectors and groups, asked of the World, one address at a time.

It shares no code with `membership`, `matching` or the meaning in `criteria`, whose nouns it reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from egress import values
from egress.values import Packed, pack
from policy_sync.criteria import All, Attribute, Comparison, Criteria, Either, Not, Within
from policy_sync.model import Kind, Lifecycle, Selector, SelectorKind, Workload, World

_REMEMBERED = 1 << 16
"""Each packet asks about each rule, and what is asked is read from the same few texts."""
parse_range = lru_cache(_REMEMBERED)(values.parse_range)


def named(world: World, selectors: Sequence[Selector], address: Packed) -> bool:
    return any(_selects(world, selector, address) for selector in selectors)


def _selects(world: World, selector: Selector, address: Packed) -> bool:
    plain = Selector(selector.kind, selector.value)
    if not selector.negated:
        return _selects_plainly(world, plain, address)
    # The negation: known workloads with no address in it. Unknown addresses are in neither.
    return any(
        not any(_selects_plainly(world, plain, each) for each in _addresses(workload))
        for workload in world.workloads
        if address in _addresses(workload)
    )


def _selects_plainly(world: World, selector: Selector, address: Packed) -> bool:
    there = [workload for workload in world.workloads if address in _addresses(workload)]
    match selector.kind:
        case SelectorKind.ANY:
            return True
        case SelectorKind.ORG:
            return any(workload.org == selector.value for workload in there)
        case SelectorKind.SPACE:
            return any(workload.space == selector.value for workload in there)
        case SelectorKind.APP:
            return any(workload.app == selector.value for workload in there)
        case SelectorKind.WORKLOAD:
            return any(workload.id == selector.value for workload in there)
        case SelectorKind.RANGE:
            try:
                first, last = parse_range(selector.value)
            except ValueError:
                return False
            return len(first) == len(address) and first <= address <= last
        case SelectorKind.KIND:
            return _is_of_kind(world, selector.value, address, there)
        case SelectorKind.GROUP:
            return _is_member(world, selector.value, address)


def _is_of_kind(world: World, kind: str, address: Packed, there: Sequence[Workload]) -> bool:
    containers = [workload for workload in there if workload.kind is Kind.CONTAINER]
    match kind:
        case "container":
            return is_container(world, address)
        case "vm":
            return _is_vm(world, address)
        case "cell":
            return is_cell(world, address)
        case "running":
            return any(each.lifecycle in (Lifecycle.APP, Lifecycle.TASK) for each in containers)
        case "staging":
            return any(each.lifecycle is Lifecycle.STAGING for each in containers)
    return False


# Groups


def _is_member(world: World, group: str, address: Packed) -> bool:
    found = next((each for each in world.groups if each.name == group), None)
    if found is None or _contains_itself(world, group):
        return False
    if named(world, found.members, address):
        return True
    return found.criteria is not None and _is_met_at(world, found.criteria, address)


def _is_met_at(world: World, criteria: Criteria, address: Packed) -> bool:
    """By a workload that has the address; where nobody is known, by the address alone."""
    there = [workload for workload in world.workloads if address in _addresses(workload)]
    if not there:
        return _is_met_by_nobody(world, criteria, address)
    return any(_is_met(world, criteria, workload) for workload in there)


def _is_met(world: World, criteria: Criteria, who: Workload) -> bool:
    match criteria:
        case All(parts):
            return all(_is_met(world, part, who) for part in parts)
        case Either(parts):
            return any(_is_met(world, part, who) for part in parts)
        case Not(inner):
            return not _is_met(world, inner, who)
        case Within(range=(first, last)):
            return any(len(first) == len(each) and first <= each <= last for each in _addresses(who))
        case Comparison(Attribute("group"), operator, values):
            inside = any(_is_member(world, group, each) for group in values for each in _addresses(who))
            return inside == (operator in ("=", "in"))
        case Comparison(attribute, operator, values):
            return attribute in who.attributes and _compares(who.attributes[attribute], operator, values)


def _compares(has: str, operator: str, values: Sequence[str]) -> bool:
    match operator:
        case "=" | "in":
            return has in values
        case "!=" | "not in":
            return has not in values
        case "~":
            return any(re.fullmatch(_as_regex(pattern), has, re.DOTALL) for pattern in values)
    return operator == "exists"


def _as_regex(glob: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in glob)


def _is_met_by_nobody(world: World, criteria: Criteria, address: Packed) -> bool:
    """It has no attributes, and no negation names what nobody knows."""
    match criteria:
        case All(parts):
            return all(_is_met_by_nobody(world, part, address) for part in parts)
        case Either(parts):
            return any(_is_met_by_nobody(world, part, address) for part in parts)
        case Within(range=(first, last)):
            return len(first) == len(address) and first <= address <= last
        case Comparison(Attribute("group"), "=" | "in", values):
            return any(_is_member(world, group, address) for group in values)
    return False


def _contains_itself(world: World, group: str) -> bool:
    """However many groups away, and negated or not."""
    seen: set[str] = set()
    ahead = [group]
    while ahead:
        name = ahead.pop()
        for each in world.groups:
            if each.name == name:
                inner = {member.value for member in each.members if member.kind is SelectorKind.GROUP}
                inner |= {*_groups_in(each.criteria)}
                if group in inner:
                    return True
                ahead += inner - seen
                seen |= inner
    return False


def _groups_in(criteria: Criteria | None) -> Iterator[str]:
    match criteria:
        case Comparison(Attribute("group"), _, values):
            yield from values
        case Not(inner):
            yield from _groups_in(inner)
        case All(parts) | Either(parts):
            for part in parts:
                yield from _groups_in(part)


# Addresses


def _addresses(workload: Workload) -> tuple[Packed, ...]:
    return _readable(workload.addresses)


@lru_cache(_REMEMBERED)
def _readable(addresses: tuple[str, ...]) -> tuple[Packed, ...]:
    readable = []
    for address in addresses:
        try:
            readable.append(pack(address))
        except ValueError:
            continue
    return tuple(readable)


def protected(world: World, address: Packed) -> bool:
    return any(workload.protected and address in _addresses(workload) for workload in world.workloads)


def _is_vm(world: World, address: Packed) -> bool:
    return any(workload.kind is Kind.VM and address in _addresses(workload) for workload in world.workloads)


def is_cell(world: World, address: Packed) -> bool:
    return any(pack(each) == address for each in world.cell_addresses)


def in_pool(world: World, address: Packed) -> bool:
    return any(
        first <= address <= last
        for first, last in map(parse_range, world.container_pools)
        if len(first) == len(address)
    )


def is_container(world: World, address: Packed) -> bool:
    return in_pool(world, address) and not _is_vm(world, address)


def container_at(world: World, address: Packed) -> Workload | None:
    """Where two containers say the same address, the first."""
    if _is_vm(world, address):
        return None
    containers = (workload for workload in world.workloads if workload.kind is Kind.CONTAINER)
    return next((workload for workload in containers if address in _addresses(workload)), None)
