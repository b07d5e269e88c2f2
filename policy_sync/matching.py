"""Who satisfies a criteria expression? Workloads by an index of each attribute, and addresses that are nobody's.

A workload satisfies an expression as a whole: with one of its addresses in `cidr` all of them are members, so that a
refusal holds on both families. An address that no known workload has is named by `cidr` and groups alone: it has no
attributes, and no negation names it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce

from egress.values import Packed, PackedRange, intersect, merge, subtract
from policy_sync.criteria import All, Attribute, Comparison, Criteria, Either, Not, Within, globs

Positions = frozenset[int]
Ranges = tuple[PackedRange, ...]
_NOBODY: Positions = frozenset()


class Matching:
    """Built once per world. Workloads are known by their position; every expression is answered once."""

    def __init__(
        self,
        places: Sequence[tuple[Mapping[Attribute, str], tuple[Packed, ...]]],
        in_group: Callable[[str], Ranges],
    ) -> None:
        """`places`: attributes and addresses of every known workload. `in_group`: the addresses of the group of that
        name; none, where it is unknown."""
        self._places, self._in_group = places, in_group
        self._everybody = frozenset(range(len(places)))
        self._indexes: dict[Attribute, dict[str, list[int]]] = {}
        self._answers: dict[Criteria, Positions] = {}
        self._holders = sorted((address, at) for at, (_, addresses) in enumerate(places) for address in addresses)
        self._known: Ranges = merge((address, address) for address, _ in self._holders)

    def ranges(self, criteria: Criteria) -> Ranges:
        """Every address that the expression names."""
        theirs = ((each, each) for at in self.workloads(criteria) for each in self._places[at][1])
        nobodys = self._nobodys(criteria)
        return merge((*theirs, *subtract(nobodys, self._known))) if nobodys else merge(theirs)

    def workloads(self, criteria: Criteria) -> Positions:
        """Positions of the workloads that satisfy it."""
        found = self._answers.get(criteria)
        if found is None:
            found = self._answers[criteria] = self._satisfying(criteria)
        return found

    def _satisfying(self, criteria: Criteria) -> Positions:
        match criteria:
            case Comparison(Attribute("group"), operator, values):
                inside = self._holding(each for value in values for each in self._in_group(value))
                return inside if operator in ("=", "in") else self._everybody - inside
            case Comparison(attribute, operator, values):
                return self._having(attribute, operator, values)
            case Within(range=within):
                return self._holding((within,))
            case Not(inner):
                return self._everybody - self.workloads(inner)
            case All(parts):
                # Negations take away from what the others left: few are few at once, however many there are in all.
                plain = [self.workloads(part) for part in parts if not isinstance(part, Not)]
                kept = reduce(frozenset.intersection, sorted(plain, key=len)) if plain else self._everybody
                return kept.difference(*(self.workloads(part.inner) for part in parts if isinstance(part, Not)))
            case Either(parts):
                return _NOBODY.union(*map(self.workloads, parts))

    def _having(self, attribute: Attribute, operator: str, values: Sequence[str]) -> Positions:
        index = self._index(attribute)
        match operator:
            case "=" | "in":
                chosen: Iterable[str] = values
            case "~":
                chosen = (has for has in index if any(globs(pattern, has) for pattern in values))
            case "exists":
                chosen = index
            case _:
                chosen = index.keys() - {*values}
        return _NOBODY.union(*(index.get(value, ()) for value in chosen))

    def _index(self, attribute: Attribute) -> dict[str, list[int]]:
        index = self._indexes.get(attribute)
        if index is None:
            index = self._indexes[attribute] = {}
            for at, (attributes, _) in enumerate(self._places):
                if (has := attributes.get(attribute)) is not None:
                    index.setdefault(has, []).append(at)
        return index

    def _holding(self, ranges: Iterable[PackedRange]) -> Positions:
        """Who has an address there."""
        return frozenset(at for each in ranges for at in self._holders_of(each))

    def _holders_of(self, within: PackedRange) -> Iterator[int]:
        first, last = within
        # Both families lie in one sorted list; a longer address may stand between two shorter ones.
        for at in range(bisect_left(self._holders, (first, -1)), len(self._holders)):
            address, position = self._holders[at]
            if address > last:
                return
            if len(address) == len(first):
                yield position

    def _nobodys(self, criteria: Criteria) -> Ranges:
        """Addresses that it would name where nobody is known."""
        match criteria:
            case Comparison(Attribute("group"), "=" | "in", values):
                return merge(each for value in values for each in self._in_group(value))
            case Within(range=within):
                return (within,)
            case All(parts):
                return reduce(intersect, map(self._nobodys, parts))
            case Either(parts):
                return merge(each for part in parts for each in self._nobodys(part))
        return ()
