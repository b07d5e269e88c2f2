"""Which addresses does a list of selectors name? Groups, kinds, orgs, spaces, apps and ranges, by index.

Answers in merged address ranges. What cannot be read names nothing and is reported;
so does a group that contains itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

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
from policy_sync.model import Group, Kind, Lifecycle, Selector, SelectorKind, Workload

Ranges = tuple[PackedRange, ...]
EVERYTHING: Ranges = ((bytes(4), b"\xff" * 4), (bytes(16), b"\xff" * 16))


@lru_cache(maxsize=1 << 16)
def packed(address: str) -> Packed | None:
    """None for what is no address."""
    try:
        return pack(address)
    except ValueError:
        return None


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
        self._index: dict[tuple[SelectorKind, str], list[PackedRange]] = {}
        self._resolved: dict[tuple[Selector, ...], Ranges] = {}
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
            self._enter(workload, [(each, each) for each in addresses])
        self.protected = merge(protected)
        self.vms = merge(self._index.get((SelectorKind.KIND, "vm"), ()))
        self.containers = subtract(self.pools, self.vms)
        self._groups: dict[str, Group] = {}
        for group in groups:
            if self._groups.setdefault(group.name, group) is not group:
                self._refuse(
                    "GROUP_TWICE", f"there are two groups {_short(group.name)}; the first is used, rename the other"
                )
        self._cyclic, inner_first = _nesting(self._groups)
        for name in sorted(self._cyclic):
            self._refuse("GROUP_CYCLE", f"group {_short(name)} contains itself and matches nothing; take it out")
        for name in inner_first:
            self.ranges(self._groups[name].members)

    def _enter(self, workload: Workload, ranges: list[PackedRange]) -> None:
        names: list[tuple[SelectorKind, str]] = [(SelectorKind.WORKLOAD, workload.id)]
        if workload.org:
            names.append((SelectorKind.ORG, workload.org))
        if workload.space:
            names.append((SelectorKind.SPACE, workload.space))
        if workload.app:
            names.append((SelectorKind.APP, workload.app))
        if workload.kind is Kind.VM:
            names.append((SelectorKind.KIND, "vm"))
        elif workload.kind is Kind.CONTAINER and workload.lifecycle is Lifecycle.STAGING:
            names.append((SelectorKind.KIND, "staging"))
        elif workload.kind is Kind.CONTAINER and workload.lifecycle is not Lifecycle.NONE:
            names.append((SelectorKind.KIND, "running"))
        for name in names:
            self._index.setdefault(name, []).extend(ranges)

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
                group = self._groups.get(selector.value)
                return self.ranges(group.members) if group and group.name not in self._cyclic else ()
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
        return merge(self._index.get((selector.kind, selector.value), ()))

    def _unknown(self, selector: Selector, why: str) -> Ranges:
        if selector not in self._reported:
            self._reported.add(selector)
            self._refuse("SELECTOR_UNREADABLE", f"{_short(selector.value)} {why}; it matches nothing")
        return ()

    def _refuse(self, code: str, message: str) -> None:
        self.quarantined.append(Refused(code, message))


def _nesting(groups: dict[str, Group]) -> tuple[frozenset[str], Sequence[str]]:
    """Groups that reach themselves, however many steps away, negated or not; and all groups, inner before outer, so
    that groups nested thousands deep need no deep stack."""

    def nested(name: str) -> Sequence[str]:
        return [
            member.value
            for member in groups[name].members
            if member.kind is SelectorKind.GROUP and member.value in groups
        ]

    return _components(tuple(groups), nested)


def _components(names: Sequence[str], nested: Callable[[str], Sequence[str]]) -> tuple[frozenset[str], Sequence[str]]:
    """Names on a cycle, and all names in the order in which their components are complete."""
    done: list[str] = []
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    waiting: list[str] = []
    pending: set[str] = set()
    cyclic: set[str] = set()
    for root in names:
        if root in number:
            continue
        path = [(root, iter(nested(root)))]
        number[root] = low[root] = len(number)
        waiting.append(root)
        pending.add(root)
        while path:
            name, rest = path[-1]
            for inner in rest:
                if inner == name:
                    cyclic.add(name)
                if inner not in number:
                    number[inner] = low[inner] = len(number)
                    waiting.append(inner)
                    pending.add(inner)
                    path.append((inner, iter(nested(inner))))
                    break
                if inner in pending:
                    low[name] = min(low[name], number[inner])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[name])
                if low[name] == number[name]:
                    component = waiting[waiting.index(name) :]
                    del waiting[-len(component) :]
                    pending.difference_update(component)
                    done += component
                    if len(component) > 1:
                        cyclic.update(component)
    return frozenset(cyclic), done


def _short(written: str) -> str:
    return repr(written[:80] + "…" if len(written) > 80 else written)
