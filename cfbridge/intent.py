"""What did people ask for? Tenants, VMs, groups and rules, at one revision. (Their language, API and drafts come later;
today it is read from the bridge's intent file.)"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cfbridge import rulebook
from cfbridge.document import Node, choice, parse, short
from cfbridge.inventory import Inventory
from cfbridge.names import UNRESOLVED, Names
from cfbridge.rulebook import Defined
from egress.model import NetworkMode, OrgWish
from egress.values import QualifiedId, Refused, RefusedError
from policy_sync.model import Group, Rule, Selector


@dataclass(frozen=True, slots=True)
class Vm:
    """A machine next to the containers. With a `port` we protect it outside the guest; without, it is a `peer`."""

    name: str
    addresses: tuple[str, ...]
    org: str = ""
    """Name or qualified id."""
    port: str = ""
    """Host device: tap or veth."""
    cell: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Tagged:
    """Our own tags of an org, a space or an app; what is in it has them too."""

    subject: Selector
    tags: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Intent:
    tenants: tuple[OrgWish, ...] = ()
    """`org` may be a name here (`name` set, `org` empty id); the snapshot resolves it."""
    vms: tuple[Vm, ...] = ()
    groups: tuple[Group, ...] = ()
    rules: tuple[Rule, ...] = ()
    tags: tuple[Tagged, ...] = ()


_TENANT = ("mode", "pool", "snat_pool", "snat")
_VM = ("org", "addresses", "port", "cell", "tags")
LONGEST_TAG = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def load(path: str) -> Intent:
    """The intent file. Raises RefusedError with line and column for anything unknown, dangling or contradictory."""
    try:
        written = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RefusedError(Refused("INTENT_UNREADABLE", f"{path} can not be read: {reason}")) from error
    return read(written)


def read(written: str | bytes) -> Intent:
    entries = parse(written).only(("cfbridge", "groups", "rules", "tags", "tenants", "vms"))
    if "cfbridge" in entries and entries["cfbridge"].text() != "v1":
        entries["cfbridge"].refuse("this bridge reads cfbridge: v1")
    groups = entries["groups"].entries() if "groups" in entries else {}
    vms = entries["vms"].entries() if "vms" in entries else {}
    defined = Defined(groups, vms)
    found = rulebook.groups(groups, defined)
    return Intent(
        tenants=_tenants(entries.get("tenants")),
        vms=tuple(_vm(name, node) for name, node in vms.items()),
        groups=found,
        rules=rulebook.rules(entries["rules"], defined, found) if "rules" in entries else (),
        tags=_tags(entries.get("tags")),
    )


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


def resolve(intent: Intent, inventory: Inventory) -> Intent:
    """The same intent with qualified ids in place of the names of orgs, spaces and apps. A name that nothing has, or
    that several foundations have, matches nothing: it becomes a value that is no id (a tenant's `org` stays empty)."""
    look = Names(inventory)

    def each(selectors: tuple[Selector, ...]) -> tuple[Selector, ...]:
        return tuple(look.selector(s) for s in selectors)

    return replace(
        intent,
        tenants=tuple(wish if wish.org else replace(wish, org=look.find("org", wish.name)) for wish in intent.tenants),
        vms=tuple(replace(vm, org=look.find("org", vm.org)) if vm.org else vm for vm in intent.vms),
        groups=tuple(replace(group, members=each(group.members)) for group in intent.groups),
        tags=tuple(replace(tagged, subject=look.selector(tagged.subject)) for tagged in intent.tags),
        rules=tuple(
            replace(
                rule,
                sources=each(rule.sources),
                destinations=each(rule.destinations),
                applied_to=each(rule.applied_to),
            )
            for rule in intent.rules
        ),
    )


def unresolved(intent: Intent, inventory: Inventory, bound: Collection[str] = ()) -> tuple[Refused, ...]:
    """Each name in the (unresolved) intent that matches nothing now, in words. `bound`: tenants that are some org's,
    whatever it is called now."""
    look = Names(inventory)
    listed = [s for g in intent.groups for s in g.members]
    listed += [tagged.subject for tagged in intent.tags]
    listed += [s for rule in intent.rules for s in (*rule.sources, *rule.destinations, *rule.applied_to)]
    missing = {(str(s.kind), s.value) for s in listed if look.selector(s).value.startswith(UNRESOLVED)}
    unbound = [wish for wish in intent.tenants if not wish.org and wish.name not in bound]
    missing |= {("org", wish.name) for wish in unbound if not look.find("org", wish.name)}
    missing |= {("org", vm.org) for vm in intent.vms if vm.org and not look.find("org", vm.org)}
    return tuple(
        Refused(
            "NAME_UNKNOWN", f"no {kind} {short(name)} is known, or several foundations have one: it matches nothing"
        )
        for kind, name in sorted(missing)
    )
