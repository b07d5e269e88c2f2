"""Which groups are made of which, which of themselves, and how far can they be trusted? Inner ones come first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from policy_sync import criteria
from policy_sync.criteria import Trust
from policy_sync.model import Group, SelectorKind


def inner(group: Group) -> frozenset[str]:
    """Names of the groups that it is made of, negated or not."""
    listed = frozenset(member.value for member in group.members if member.kind is SelectorKind.GROUP)
    return listed if group.criteria is None else listed | criteria.groups(group.criteria)


def order(groups: Mapping[str, Group]) -> tuple[frozenset[str], Sequence[str]]:
    """Groups that reach themselves, however many steps away, negated or not; and all groups, inner before outer, so
    that groups nested thousands deep need no deep stack."""

    def nested(name: str) -> Sequence[str]:
        return sorted(each for each in inner(groups[name]) if each in groups)

    return _components(tuple(groups), nested)


def trust(groups: Mapping[str, Group]) -> Mapping[str, Trust]:
    """Who can change whom each group names: the least of what it and its inner groups are made of."""
    cyclic, inner_first = order(groups)
    found: dict[str, Trust] = {}

    def of(name: str) -> Trust:
        return found.get(name, Trust.ADMIN)  # nobody is in an unknown group, or in one that contains itself

    for name in inner_first:
        if name not in cyclic:
            own = groups[name].criteria
            least = Trust.ADMIN if own is None else criteria.trust(own, of)
            found[name] = min([least, *map(of, inner(groups[name]))])
    return {name: of(name) for name in groups}


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
