"""Which id does a name that a person wrote have? Paths such as `acme/dev/frontend` against what is out there.

Built for one inventory. A name that nothing has, or that several foundations have, has no id: it must match nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from cfbridge.inventory import FoundationState, Inventory
from egress import values
from egress.values import QualifiedId
from policy_sync.model import Selector, SelectorKind

UNRESOLVED = "?"
"""Begins what stands for a name without id. No foundation's name begins so, hence no id does."""

PathKind = Literal["org", "space", "app"]
_KINDS: Mapping[SelectorKind, PathKind] = {
    SelectorKind.ORG: "org",
    SelectorKind.SPACE: "space",
    SelectorKind.APP: "app",
}
_STEPS: Mapping[PathKind, int] = {"org": 1, "space": 2, "app": 3}
_Index = dict[tuple[str, str], list[QualifiedId]]
"""(id of what it is in, name) → ids. Cloud Foundry keeps names distinct; a half-read picture may not."""


class Names:
    """Answers for one inventory; each kind is indexed when the first name of it is asked for."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._indexes: dict[tuple[str, PathKind], _Index] = {}

    def selector(self, selector: Selector) -> Selector:
        """The same selector by id. Kinds that have no path are as they were."""
        kind = _KINDS.get(selector.kind)
        if kind is None:
            return selector
        return replace(selector, value=self.find(kind, selector.value) or f"{UNRESOLVED}{selector.value}")

    def find(self, kind: PathKind, written: str) -> QualifiedId:
        """`acme`, `cf-prod:acme`, or a GUID in place of the path. Empty when it is nobody, or not one."""
        foundation, _, rest = written.partition(":")
        if rest and foundation in self._inventory:
            found = self._within(self._inventory[foundation], kind, rest)
        else:
            found = [each for state in self._inventory.values() for each in self._within(state, kind, written)]
        return found[0] if len(found) == 1 else QualifiedId("")

    def _within(self, state: FoundationState, kind: PathKind, path: str) -> list[QualifiedId]:
        steps = path.split("/", _STEPS[kind] - 1)
        if len(steps) == 1:
            guid = values.qualify(state.name, path)
            if guid in {"org": state.orgs, "space": state.spaces, "app": state.apps}[kind]:
                return [guid]
        if len(steps) != _STEPS[kind]:
            return []
        found: list[QualifiedId] = self._index(state, "org").get(("", steps[0]), [])
        for below, name in zip(("space", "app"), steps[1:], strict=False):
            index = self._index(state, "space" if below == "space" else "app")
            found = [each for outer in found for each in index.get((outer, name), [])]
        return found

    def _index(self, state: FoundationState, kind: PathKind) -> _Index:
        key = (state.name, kind)
        if key not in self._indexes:
            index: _Index = {}
            if kind == "org":
                for org in state.orgs.values():
                    index.setdefault(("", org.name), []).append(org.id)
            elif kind == "space":
                for space in state.spaces.values():
                    index.setdefault((space.org, space.name), []).append(space.id)
            else:
                for app in state.apps.values():
                    index.setdefault((app.space, app.name), []).append(app.id)
            self._indexes[key] = index
        return self._indexes[key]
