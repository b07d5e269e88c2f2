"""What does a policy file say? One document per scope, read into an Intent each or refused with line and column.

    cfbridge: v1                      no scope: the file is the whole intent, and what it leaves out goes
    groups: {…}
    ---
    cfbridge: v1
    scope: payments-team              every document has a scope: the file is about these alone
    rules: {…}

Names of groups and machines are everybody's; each belongs to the scope that says it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from cfbridge import document, rulebook
from cfbridge.document import Node, choice, nearest, parse_all, short
from cfbridge.intent import Intent, Intents, Tagged, Vm
from cfbridge.rulebook import Defined
from egress.model import NetworkMode, OrgWish
from egress.values import QualifiedId, Refused, RefusedError
from policy_sync import criteria, nesting
from policy_sync.criteria import Trust
from policy_sync.model import Group, Selector, SelectorKind

_SECTIONS = ("cfbridge", "scope", "groups", "rules", "tags", "tenants", "vms")
_KINDS = ("groups", "rules", "tags", "tenants", "vms")
_TENANT = ("mode", "pool", "snat_pool", "snat")
_VM = ("org", "addresses", "port", "cell", "tags")
LONGEST_TAG = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def load(path: str) -> Intents:
    """The intent file. Raises RefusedError with line and column for anything unknown, dangling or contradictory."""
    try:
        written = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RefusedError(Refused("INTENT_UNREADABLE", f"{path} can not be read: {reason}")) from error
    return read(written, provenance="intent file")


@dataclass(frozen=True, slots=True)
class _Document:
    """One of the file's, its sections not read yet."""

    node: Node
    scope: str
    sections: Mapping[str, Node]

    def entries(self, section: str) -> Mapping[str, Node]:
        return self.sections[section].entries() if section in self.sections else {}


def read(written: str | bytes, before: Intents | None = None, provenance: str = "policy file") -> Intents:
    """What is said then, of every scope: by this file, and by `before` of scopes that the file is not about."""
    documents = [_document(node) for node in parse_all(written)]
    for at, each in enumerate(documents):
        if each.scope in (other.scope for other in documents[:at]):
            which = f"of scope {short(each.scope)}" if each.scope else "without a scope"
            each.node.refuse(f"here begins a second document {which}; make one of both")
    scoped = all(each.scope for each in documents)
    named = {each.scope for each in documents}
    kept = {scope: intent for scope, intent in (before or {}).items() if scoped and scope not in named}
    return _beside(kept, documents, provenance)


def with_scope(before: Intents, scope: str, tree: Mapping[str, Any], provenance: str = "policy file") -> Intents:
    """`tree` instead of what this scope said; what it holds is of `export.tree`'s kind."""
    kept = {other: intent for other, intent in before.items() if other != scope}
    return _beside(kept, [_document(document.of(tree))], provenance)


def _beside(kept: Intents, documents: Sequence[_Document], provenance: str) -> Intents:
    defined = Defined(
        groups={*_names(kept, "groups"), *(name for each in documents for name in each.entries("groups"))},
        vms={*_names(kept, "vms"), *(name for each in documents for name in each.entries("vms"))},
    )
    groups = {each.scope: rulebook.groups(each.entries("groups"), defined) for each in documents}
    every = {group.name: group for group in chain(*(intent.groups for intent in kept.values()), *groups.values())}
    for each in documents:
        rulebook.refuse_rings(each.entries("groups"), every)
    trust = nesting.trust(every)
    found = dict(kept)
    holders = {kind: {name: scope for scope in kept for name in names_of(kept[scope], kind)} for kind in _KINDS}
    for each in documents:
        said = _intent(each, defined, groups[each.scope], trust, provenance)
        _take(each, said, holders)
        if said != Intent():
            found[each.scope] = said
    _refuse_broken(kept, defined, trust)
    return found


def _document(node: Node) -> _Document:
    sections = node.only(_SECTIONS)
    if "cfbridge" in sections and sections["cfbridge"].text() != "v1":
        sections["cfbridge"].refuse("this bridge reads cfbridge: v1")
    scope = sections["scope"].text() if "scope" in sections else ""
    if "scope" in sections and not _NAME.fullmatch(scope):
        sections["scope"].refuse(f"{short(scope)} is no scope: letters, digits, '.', '_' and '-', at most 63")
    return _Document(node, scope, sections)


def _intent(
    said: _Document, defined: Defined, groups: tuple[Group, ...], trust: Mapping[str, Trust], provenance: str
) -> Intent:
    sections = said.sections
    origin = f"{provenance}, scope {said.scope}" if said.scope else provenance
    return Intent(
        tenants=_tenants(sections.get("tenants")),
        vms=tuple(_vm(name, node) for name, node in said.entries("vms").items()),
        groups=groups,
        rules=rulebook.rules(sections["rules"], defined, trust, origin) if "rules" in sections else (),
        tags=_tags(sections.get("tags")),
    )


# Scopes beside each other ---------------------------------------------------------------------------------------------


def _names(intents: Intents, kind: str) -> Iterator[str]:
    return chain.from_iterable(names_of(intent, kind) for intent in intents.values())


def names_of(intent: Intent, kind: str) -> Iterator[str]:
    """What each thing of a kind is known by, among all scopes."""
    for each in getattr(intent, kind):
        yield f"{each.subject.kind}:{each.subject.value}" if isinstance(each, Tagged) else each.name


def _take(whose: _Document, said: Intent, holders: Mapping[str, dict[str, str]]) -> None:
    """`holders`: by kind, whose each name is. What another scope has is not this one's to say."""
    for kind, taken in holders.items():
        for name in names_of(said, kind):
            if name in taken:
                place = whose.sections[kind].nearest_to((name,))
                place.refuse(f"{short(name)} is in {kind} of {_whose(taken[name])} already", "NAME_TAKEN")
            taken[name] = whose.scope


def _refuse_broken(kept: Intents, defined: Defined, trust: Mapping[str, Trust]) -> None:
    """What other scopes name must be there after this file, too."""
    for scope, intent in kept.items():
        whose = _whose(scope)
        for name in sorted(_groups_named(intent) - set(defined.groups)):
            message = f"group {short(name)} is named in {whose}, and would be gone{nearest(name, defined.groups)}"
            raise RefusedError(Refused("DANGLING_NAME", message))
        for name in sorted(_vms_named(intent) - set(defined.vms)):
            raise RefusedError(Refused("DANGLING_NAME", f"VM {short(name)} is named in {whose}, and would be gone"))
        for rule in intent.rules:
            if message := rulebook.untrusted(rule, trust):
                raise RefusedError(Refused("TRUST_TOO_LOW", f"rule {short(rule.name)} in {whose}: {message}"))


def _whose(scope: str) -> str:
    return f"scope {short(scope)}" if scope else "the document without a scope"


def _selectors(intent: Intent) -> Iterator[Selector]:
    for group in intent.groups:
        yield from group.members
    for rule in intent.rules:
        yield from (*rule.sources, *rule.destinations, *rule.applied_to)


def _groups_named(intent: Intent) -> set[str]:
    in_criteria = (criteria.groups(group.criteria) for group in intent.groups if group.criteria is not None)
    return {s.value for s in _selectors(intent) if s.kind is SelectorKind.GROUP}.union(*in_criteria)


def _vms_named(intent: Intent) -> set[str]:
    return {s.value.removeprefix("vm:") for s in _selectors(intent) if s.kind is SelectorKind.WORKLOAD}


# Sections -------------------------------------------------------------------------------------------------------------


def _tenants(node: Node | None) -> tuple[OrgWish, ...]:
    wishes = []
    for name, each in node.entries().items() if node else ():
        said = each.only(_TENANT)
        mode = choice(said["mode"], NetworkMode) if "mode" in said else None
        snat = tuple(rulebook.address(item) for item in said["snat"].items()) if "snat" in said else ()
        if snat and mode is not None and mode is not NetworkMode.NAT:
            said["snat"].refuse(f"an org in mode {mode} leaves by no SNAT address; write mode: nat, or take snat out")
        if twice := [address for address in snat if snat.count(address) > 1]:
            said["snat"].refuse(f"{twice[0]} is here twice")
        pool, snat_pool = (said[key].text() if key in said else "" for key in ("pool", "snat_pool"))
        wishes.append(OrgWish(QualifiedId(""), mode, pool, snat_pool, snat, name))
    holders: dict[str, str] = {}
    for wish in wishes:
        for address in wish.snat:
            if address in holders and node:
                node.refuse(f"{address} is wished for {short(holders[address])} and for {short(wish.name)}")
            holders[address] = wish.name
    return tuple(wishes)


def _vm(name: str, node: Node) -> Vm:
    if not _NAME.fullmatch(name):
        node.refuse(f"{short(name)} is no VM name: letters, digits, '.', '_' and '-', at most 63")
    said = node.only(_VM)
    if "addresses" not in said or not said["addresses"].items():
        node.refuse("addresses: at least one is needed")
    addresses = tuple(rulebook.address(item) for item in said["addresses"].items())
    port = said["port"].text() if "port" in said else ""
    if port and (not re.fullmatch(r"[!-.0-~]{1,15}", port) or port in (".", "..")):
        said["port"].refuse(f"{short(port)} is no name of a host device (at most 15 characters)")
    org, cell = (said[key].text() if key in said else "" for key in ("org", "cell"))
    return Vm(name, addresses, org, port, cell, _pairs(said["tags"]) if "tags" in said else {})


def _tags(node: Node | None) -> tuple[Tagged, ...]:
    written = node.entries() if node else {}
    return tuple(Tagged(rulebook.tenants_own(each, name), _pairs(each)) for name, each in written.items())


def _pairs(node: Node) -> dict[str, str]:
    """Tags: key and value, as they are compared. `true` and `7` want quotes, since YAML would read them otherwise."""
    pairs = {key: each.text() for key, each in node.entries().items()}
    for said in (*pairs, *pairs.values()):
        if not said.isprintable() or not 0 < len(said) <= LONGEST_TAG:
            node.refuse(f"{short(said)}: a tag's key and value have 1 to {LONGEST_TAG} printable characters")
    return pairs
