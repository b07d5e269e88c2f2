"""How is one thing of the intent set, changed or taken away? The rest of its scope stays as it was said. Pure.

set      a group, a machine               whole, as a policy file says it
add      a rule                           before or after another, or last of its section
change   a rule, tags                     only fields that are named; None takes one away; a rule moves by its place
remove   a group, a rule, a machine, tags
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

from cfbridge import export, policyfile
from cfbridge.document import nearest, short
from cfbridge.intent import Intent, Intents
from egress.values import Refused, RefusedError

Tree = dict[str, Any]
_PLACE = ("tier", "section", "before", "after")
"""Of a rule: where it stands, rather than what it says."""


class Verb(StrEnum):
    SET = "set"
    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Edit:
    verb: Verb
    kind: str
    """`group`, `rule`, `vm` or `tags`."""
    name: str
    """Of tags, whose: `org:acme`, `space:acme/dev`, `acme/dev/web`, `vm:db-1`."""
    said: Any = None
    scope: str = ""
    """Of what is new. What is there stays in its scope."""


def edited(intents: Intents, edit: Edit) -> Intents:
    """RefusedError for what is not there, is there already, or can't be."""
    if edit.kind == "tags" and edit.name.startswith("vm:"):
        edit = _of_machine(edit)
    scope = _home(intents, edit)
    tree = export.tree(scope, intents.get(scope, Intent()))
    _DEEDS[edit.kind](tree, edit)
    return policyfile.with_scope(intents, scope, tree)


def _of_machine(edit: Edit) -> Edit:
    """Tags of a machine stand with it."""
    said = None if edit.verb is Verb.REMOVE else edit.said
    return Edit(Verb.CHANGE, "vm", edit.name.removeprefix("vm:"), said)


_WHERE = {"group": "groups", "rule": "rules", "vm": "vms", "tags": "tags"}


def _home(intents: Intents, edit: Edit) -> str:
    """Whose it is, or will be."""
    names = {scope: {*_names(intent, edit.kind)} for scope, intent in intents.items()}
    for scope, known in names.items():
        if edit.name in known:
            if edit.verb is Verb.ADD:
                _refuse("NAME_TAKEN", f"A {edit.kind} is named {short(edit.name)} already.", "name")
            return scope
    if edit.verb is Verb.REMOVE or (edit.verb is Verb.CHANGE and edit.kind != "tags"):
        every = {name for known in names.values() for name in known}
        sentence = f"No {edit.kind} of a policy file is named {short(edit.name)}{nearest(edit.name, every)}."
        _refuse(f"{edit.kind.upper()}_UNKNOWN", sentence, "id")
    return edit.scope


def _names(intent: Intent, kind: str) -> list[str]:
    if kind == "tags":
        return [export.tags_said(tagged)[0] for tagged in intent.tags]
    return [*policyfile.names_of(intent, _WHERE[kind])]


# What is done to a scope's tree ---------------------------------------------------------------------------------------


def _thing(tree: Tree, edit: Edit) -> None:
    """A group or a machine."""
    things: Tree = tree.setdefault(_WHERE[edit.kind], {})
    match edit.verb:
        case Verb.REMOVE:
            del things[edit.name]
        case Verb.CHANGE:  # a machine's tags
            machine: Tree = things[edit.name]
            machine["tags"] = {} if edit.said is None else _patched(machine.get("tags", {}), edit.said)
        case _:
            things[edit.name] = edit.said


def _tags(tree: Tree, edit: Edit) -> None:
    tagged: Tree = tree.setdefault("tags", {})
    pairs = {} if edit.verb is Verb.REMOVE else _patched(tagged.get(edit.name, {}), edit.said)
    tagged[edit.name] = pairs
    if not pairs:
        del tagged[edit.name]


def _patched(was: Mapping[str, Any], patch: Mapping[str, Any]) -> Tree:
    return {key: value for key, value in {**was, **patch}.items() if value is not None}


def _rule(tree: Tree, edit: Edit) -> None:
    rules: dict[str, dict[str, list[Tree]]] = tree.setdefault("rules", {})
    if edit.verb is Verb.ADD:
        _insert(rules, {"name": edit.name, **_saying(edit.said)}, _place(edit.said))
        return
    where = _found(rules, edit.name)
    assert where is not None, "its scope has it"
    tier, section, at = where
    rule = rules[tier][section].pop(at)
    if edit.verb is Verb.CHANGE:
        place = _place(edit.said)
        changed = _patched(rule, _saying(edit.said))
        if place:
            _insert(rules, changed, {"tier": tier, "section": section, **place})
        else:
            rules[tier][section].insert(at, changed)
    _tidy(rules)


def _saying(said: Mapping[str, Any]) -> Tree:
    return {key: value for key, value in said.items() if key not in _PLACE}


def _place(said: Mapping[str, Any]) -> dict[str, str]:
    return {key: said[key] for key in _PLACE if said.get(key) is not None}


def _insert(rules: dict[str, dict[str, list[Tree]]], rule: Tree, place: Mapping[str, str]) -> None:
    beside = [key for key in ("before", "after") if key in place]
    if len(beside) == 2:
        _refuse("PLACE_UNCLEAR", "A rule stands before another or after it: name one of them.", "before")
    if beside:
        (key,) = beside
        found = _found(rules, place[key])
        if found is None:
            _refuse("DANGLING_NAME", f"{key}: no rule of this scope is named {short(place[key])}.", key)
        tier, section, at = found
        rules[tier][section].insert(at + (key == "after"), rule)
        return
    for needed in ("tier", "section"):
        if needed not in place:
            _refuse("PLACE_UNCLEAR", f"{needed} is missing: say it, or before or after which rule.", needed)
    rules.setdefault(place["tier"], {}).setdefault(place["section"], []).append(rule)


def _found(rules: Mapping[str, Mapping[str, list[Tree]]], name: str) -> tuple[str, str, int] | None:
    for tier, sections in rules.items():
        for section, listed in sections.items():
            for at, rule in enumerate(listed):
                if rule["name"] == name:
                    return tier, section, at
    return None


def _tidy(rules: dict[str, dict[str, list[Tree]]]) -> None:
    for tier in [*rules]:
        rules[tier] = {section: listed for section, listed in rules[tier].items() if listed}
        if not rules[tier]:
            del rules[tier]


_DEEDS: Mapping[str, Callable[[Tree, Edit], None]] = {"group": _thing, "vm": _thing, "tags": _tags, "rule": _rule}


def _refuse(code: str, message: str, field: str) -> NoReturn:
    raise RefusedError(Refused(code, message, field))
