"""What would be another? The difference between two intents, thing by thing and in words. Pure.

+ group databases              criteria: tag tier = "db"
~ rule web to database         services: tcp/5432 → tcp/5432, tcp/5433
> rule quarantine              now after: block list
- VM db-1
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cfbridge import export
from cfbridge.intent import Intent, Intents, together
from policy_sync.model import Group, Rule, Tier


class Deed(StrEnum):
    ADD = "add"
    CHANGE = "change"
    MOVE = "move"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Change:
    deed: Deed
    kind: str
    """`group`, `rule`, `tenant`, `vm` or `tags`."""
    name: str
    scope: str
    """Whose it is afterwards; of what is removed, whose it was."""
    details: tuple[str, ...]
    """Field by field: `log: true`, `services: tcp/80 → tcp/81`, `now after: block list`."""


Said = Mapping[str, str]
"""A thing's fields, as people read them."""
_Known = Mapping[tuple[str, str], tuple[str, Said]]
"""By kind and name: scope and fields."""


def changes(before: Intents, after: Intents) -> tuple[Change, ...]:
    """Groups first, then what may name them; what goes comes last. Empty where both say the same."""
    old, new = _known(before), _known(after)
    moved = _moved(together(before).rules, together(after).rules)
    found = []
    for (kind, name), (scope, said) in new.items():
        if (kind, name) not in old:
            found.append(Change(Deed.ADD, kind, name, scope, tuple(f"{key}: {value}" for key, value in said.items())))
            continue
        was_scope, was = old[kind, name]
        details = tuple(_differences({"scope": was_scope, **was}, {"scope": scope, **said}))
        place = (f"now {moved[name]}",) if kind == "rule" and name in moved else ()
        if details or place:
            found.append(Change(Deed.CHANGE if details else Deed.MOVE, kind, name, scope, (*details, *place)))
    gone = [Change(Deed.REMOVE, kind, name, scope, ()) for (kind, name), (scope, _) in old.items()]
    return (*found, *(each for each in gone if (each.kind, each.name) not in new))


def said_of(intents: Intents, kind: str, name: str) -> Said | None:
    """What is said of one thing, and whose it is; None where there is none."""
    for scope, intent in intents.items():
        for each, said in _said(kind, intent):
            if each == name:
                return {"scope": scope, **said}
    return None


def summary(found: Iterable[Change]) -> str:
    """`2 to add, 1 to remove`"""
    counts = Counter(each.deed for each in found)
    said = [f"{counts[deed]} to {deed}" for deed in Deed if counts[deed]]
    return ", ".join(said) or "nothing changes"


def _differences(was: Said, now: Said) -> Iterator[str]:
    for key in dict.fromkeys((*now, *was)):
        if was.get(key, "") != now.get(key, ""):
            yield f"{key}: {was.get(key) or 'nothing'} → {now.get(key) or 'nothing'}"


# What is there -------------------------------------------------------------------------------------------------------


def _known(intents: Intents) -> _Known:
    found: dict[tuple[str, str], tuple[str, Said]] = {}
    for kind in ("group", "tenant", "vm", "tags", "rule"):
        for scope in sorted(intents):
            found |= {(kind, name): (scope, said) for name, said in _said(kind, intents[scope])}
    return found


def _said(kind: str, intent: Intent) -> Iterator[tuple[str, Said]]:
    match kind:
        case "group":
            yield from ((group.name, _group(group)) for group in intent.groups)
        case "tenant":
            yield from ((wish.name, _fields(export.tenant_said(wish))) for wish in intent.tenants)
        case "vm":
            yield from ((vm.name, _fields(export.vm_said(vm))) for vm in intent.vms)
        case "tags":
            yield from ((name, _fields(tags)) for name, tags in map(export.tags_said, intent.tags))
        case "rule":
            yield from ((rule.name, _rule(rule)) for rule in intent.rules)


def _group(group: Group) -> Said:
    said = export.group_said(group)
    return _fields(said if isinstance(said, dict) else {"criteria" if isinstance(said, str) else "members": said})


def _rule(rule: Rule) -> Said:
    said = {key: value for key, value in export.rule_said(rule).items() if key != "name"}
    return {"tier": export.tier_said(rule.tier), "section": rule.section, **_fields(said)}


def _fields(said: Mapping[str, Any]) -> Said:
    return {key: _plain(value) for key, value in said.items()}


def _plain(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case list():
            return ", ".join(map(_plain, value))
        case dict():
            return ", ".join(f"{key}={_plain(each)}" for key, each in value.items())
    return str(value)


# Order ---------------------------------------------------------------------------------------------------------------


def _moved(before: Sequence[Rule], after: Sequence[Rule]) -> Mapping[str, str]:
    """Rules that others of their tier overtook, and where they stand now. As few as explain the new order."""
    tiers_before = {rule.name: rule.tier for rule in before}
    places = {rule.name: place for place, rule in enumerate(before)}
    found: dict[str, str] = {}
    for tier in Tier:
        stayed = [rule.name for rule in after if rule.tier is tier and tiers_before.get(rule.name) is tier]
        still = _longest_ascent([places[name] for name in stayed])
        in_tier = [rule.name for rule in after if rule.tier is tier]
        follows = dict(zip(in_tier[1:], in_tier, strict=False))
        for name in stayed:
            if places[name] not in still:
                found[name] = f"after: {follows[name]}" if name in follows else "first of its tier"
    return found


def _longest_ascent(numbers: Sequence[int]) -> frozenset[int]:
    """As many of them as possible that ascend as they stand."""
    ends: list[int] = []
    below: dict[int, int | None] = {}
    for number in numbers:
        at = bisect_left(ends, number)
        below[number] = ends[at - 1] if at else None
        ends[at : at + 1] = [number]
    chosen: set[int] = set()
    last = ends[-1] if ends else None
    while last is not None:
        chosen.add(last)
        last = below[last]
    return frozenset(chosen)
