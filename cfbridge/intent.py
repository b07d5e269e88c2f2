"""What did people ask for? Tenants, VMs, tags, groups and rules, at one revision. (`policyfile` reads them.)"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from cfbridge.document import short
from cfbridge.inventory import Inventory
from cfbridge.names import UNRESOLVED, Names
from egress.model import OrgWish
from egress.values import Refused
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


Intents = Mapping[str, Intent]
"""By scope: what each team's policy file says, and under "" what is nobody's in particular."""


def together(intents: Intents) -> Intent:
    """Of all scopes. Within a tier the rules of no scope come first, then scope by scope in the order of names."""
    parts = [intents[scope] for scope in sorted(intents)]
    return Intent(
        tenants=tuple(each for part in parts for each in part.tenants),
        vms=tuple(each for part in parts for each in part.vms),
        groups=tuple(each for part in parts for each in part.groups),
        rules=tuple(sorted((each for part in parts for each in part.rules), key=lambda rule: rule.tier)),
        tags=tuple(each for part in parts for each in part.tags),
    )


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
