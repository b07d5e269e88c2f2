"""Which addresses does a list of selectors name? Groups, kinds, orgs, spaces, apps and ranges, by index.

Answers in merged address ranges. What cannot be read names nothing and is reported;
so does a group that contains itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from egress.values import (
    Packed,
    PackedRange,
    Refused,
    contains,
    intersect,
    merge,
    pack,
    parse_range,
    prefix_range,
    subtract,
)
from policy_sync import nesting
from policy_sync.matching import Matching
from policy_sync.model import Group, Kind, Lifecycle, Selector, SelectorKind, Workload

Ranges = tuple[PackedRange, ...]
EVERYTHING: Ranges = ((bytes(4), b"\xff" * 4), (bytes(16), b"\xff" * 16))


def packed(address: str) -> Packed | None:
    """None for what is no address."""
    try:
        return pack(address)
    except ValueError:
        return None


def _kind(workload: Workload) -> str:
    """As a selector of kind names it; empty for what none does."""
    if workload.kind is Kind.VM:
        return "vm"
    if workload.kind is not Kind.CONTAINER or workload.lifecycle is Lifecycle.NONE:
        return ""
    return "staging" if workload.lifecycle is Lifecycle.STAGING else "running"


_NAMES: Mapping[SelectorKind, Callable[[Workload], str | None]] = {
    SelectorKind.WORKLOAD: lambda workload: workload.id,
    SelectorKind.ORG: lambda workload: workload.org,
    SelectorKind.SPACE: lambda workload: workload.space,
    SelectorKind.APP: lambda workload: workload.app,
    SelectorKind.KIND: _kind,
}


class Membership:
    """Built once per world; every question after the first about the same selectors is a look-up."""

    def __init__(
        self,
        workloads: Iterable[Workload],
        groups: Iterable[Group],
        container_pools: Iterable[str],
        cell_addresses: Iterable[str],
    ) -> None:
        self.quarantined: list[Refused] = []
        self.pools = merge(map(prefix_range, container_pools))
        self.cell = merge((each, each) for each in map(pack, cell_addresses))
        self.protected: Ranges
        self.places: list[tuple[Workload, tuple[Packed, ...]]] = []
        self._indexes: dict[SelectorKind, dict[str, list[PackedRange]]] = {}
        self._resolved: dict[tuple[Selector, ...], Ranges] = {}
        self._by_group: dict[str, Ranges] = {}
        self._matching: Matching | None = None
        self._reported: set[Selector] = set()
        protected: list[PackedRange] = []
        for workload in workloads:
            addresses = tuple(filter(None, map(packed, workload.addresses)))
            if len(addresses) != len(workload.addresses):
                self._refuse(
                    "ADDRESS_UNREADABLE", f"an address of {_short(workload.id)} cannot be read; it is left out"
                )
            self.places.append((workload, addresses))
            if workload.protected:
                protected.extend((each, each) for each in addresses)
        self.protected = merge(protected)
        self.vms = merge(self._indexed(SelectorKind.KIND, "vm"))
        self.containers = subtract(self.pools, self.vms)
        self._groups: dict[str, Group] = {}
        for group in groups:
            if self._groups.setdefault(group.name, group) is not group:
                self._refuse(
                    "GROUP_TWICE", f"there are two groups {_short(group.name)}; the first is used, rename the other"
                )
        self._cyclic, inner_first = nesting.order(self._groups)
        for name in sorted(self._cyclic):
            self._refuse("GROUP_CYCLE", f"group {_short(name)} contains itself and matches nothing; take it out")
        for name in inner_first:
            self._of_group(name)

    def _indexed(self, kind: SelectorKind, value: str) -> list[PackedRange]:
        """Addresses of workloads by what they are or are in. What nobody asks for is never indexed."""
        index = self._indexes.get(kind)
        if index is None:
            index = self._indexes[kind] = {}
            for workload, addresses in self.places:
                if name := _NAMES[kind](workload):
                    index.setdefault(name, []).extend((each, each) for each in addresses)
        return index.get(value, [])

    def ranges(self, selectors: tuple[Selector, ...]) -> Ranges:
        """Every address that at least one of the selectors names."""
        found = self._resolved.get(selectors)
        if found is None:
            named = [self._one(selector) for selector in selectors]
            found = named[0] if len(named) == 1 else merge(each for ranges in named for each in ranges)
            self._resolved[selectors] = found
        return found

    def applied(self, ranges: Ranges, applied_to: tuple[Selector, ...]) -> Ranges:
        """Of `ranges`, the addresses of protected workloads that `applied_to` names."""
        return intersect(ranges, intersect(self.ranges(applied_to), self.protected))

    def is_container(self, address: Packed) -> bool:
        return contains(self.containers, address)

    def _one(self, selector: Selector) -> Ranges:
        if not selector.negated:
            return self._plain(selector)
        inside = self.ranges((Selector(selector.kind, selector.value),))
        others = (addresses for _, addresses in self.places if not any(contains(inside, each) for each in addresses))
        return merge((each, each) for addresses in others for each in addresses)

    def _plain(self, selector: Selector) -> Ranges:
        match selector.kind:
            case SelectorKind.ANY:
                return EVERYTHING
            case SelectorKind.GROUP:
                return self._of_group(selector.value)
            case SelectorKind.RANGE:
                try:
                    return (parse_range(selector.value),)
                except ValueError:
                    return self._unknown(selector, "is no address, prefix or range")
            case SelectorKind.KIND if selector.value == "container":
                return self.containers
            case SelectorKind.KIND if selector.value == "cell":
                return self.cell
            case SelectorKind.KIND if selector.value not in ("vm", "running", "staging"):
                return self._unknown(selector, "is no kind; container, vm and cell are")
        return merge(self._indexed(selector.kind, selector.value))

    def _of_group(self, name: str) -> Ranges:
        found = self._by_group.get(name)
        if found is None:
            group = self._groups.get(name)
            found = self._members(group) if group and name not in self._cyclic else ()
            self._by_group[name] = found
        return found

    def _members(self, group: Group) -> Ranges:
        listed = self.ranges(group.members) if group.members else ()
        if group.criteria is None:
            return listed
        if self._matching is None:
            self._matching = Matching([(who.attributes, where) for who, where in self.places], self._of_group)
        matching = self._matching.ranges(group.criteria)
        return merge((*listed, *matching)) if listed else matching

    def _unknown(self, selector: Selector, why: str) -> Ranges:
        if selector not in self._reported:
            self._reported.add(selector)
            self._refuse("SELECTOR_UNREADABLE", f"{_short(selector.value)} {why}; it matches nothing")
        return ()

    def _refuse(self, code: str, message: str) -> None:
        self.quarantined.append(Refused(code, message))


def _short(written: str) -> str:
    return repr(written[:80] + "…" if len(written) > 80 else written)
