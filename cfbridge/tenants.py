"""Which org does a tenant's name in the intent file mean? The one first found by it, whatever it is called later.

Org managers rename orgs; a mode or a leaving address that followed the name would be lost by that, or taken over by the
next org of that name. A binding ends with its org, or when people write another tenant for it by its present name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from cfbridge.inventory import Inventory, Look, Org
from egress.model import OrgWish
from egress.values import QualifiedId, Refused, unqualify
from policy_sync.part import short

Bound = Mapping[str, QualifiedId]
"""Name as written → org."""


def bind(tenants: Iterable[OrgWish], before: Bound, inventory: Inventory) -> dict[str, QualifiedId]:
    """`tenants`: resolved by the orgs' present names. A name that nobody writes any more is bound to nobody."""
    named = {wish.name: wish.org for wish in tenants}
    present = {org: name for name, org in named.items() if org}
    bound = {}
    for name, org in named.items():
        held = before.get(name)
        if held is not None and _may_be_there(held, inventory) and present.get(held, name) == name:
            bound[name] = held
        elif org:
            bound[name] = org
    return bound


def wishes(tenants: Iterable[OrgWish], bound: Bound, met: Bound) -> Iterator[OrgWish]:
    """The same wishes for the orgs that they are bound to. `met`: orgs that containers named so before anybody else
    told us of them; they count as long as nobody did."""
    tenants = tuple(tenants)
    taken = {*bound.values()}
    for wish in tenants:
        org = bound.get(wish.name)
        if org is None and (named := met.get(wish.name)) not in taken:
            org = named
        yield replace(wish, org=org or QualifiedId(""))


def renamed(bound: Bound, inventory: Inventory) -> Iterator[Refused]:
    """Whose org has another name by now, in words."""
    for name, org in bound.items():
        known = _known(org, inventory)
        if known is not None and name not in (known.name, unqualify(org)[1], f"{unqualify(org)[0]}:{known.name}"):
            message = (
                f"tenant {short(name)} is the org that is called {short(known.name)} now, and keeps what was wished; "
                "write that name into the intent file"
            )
            yield Refused("TENANT_RENAMED", message, name)


def _known(org: QualifiedId, inventory: Inventory) -> Org | None:
    state = inventory.get(unqualify(org)[0])
    return state.orgs.get(org) if state else None


def _may_be_there(org: QualifiedId, inventory: Inventory) -> bool:
    """Only a complete look says that somebody is gone."""
    state = inventory.get(unqualify(org)[0])
    if state is None:
        return False
    return org in state.orgs or state.looks.get("orgs", Look()).complete_at is None
