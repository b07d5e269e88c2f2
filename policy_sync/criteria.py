"""Which nouns is a group's criteria expression made of, and who can change whom it names?

Who lacks an attribute satisfies no test of it, `!=` included: `not tag env = "prod"` names what nobody tagged yet,
`tag env != "prod"` does not. (`criteria_text` reads and writes the language; `matching` finds who satisfies it.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from egress.values import PackedRange


class Trust(IntEnum):
    """Who can change whether a workload matches. The least of what an expression uses is its own."""

    DEVELOPER = 0
    SPACE_MANAGER = 1
    ORG_MANAGER = 2
    ADMIN = 3


FIELDS = {
    "kind": Trust.ADMIN,
    "foundation": Trust.ADMIN,
    "isolation_segment": Trust.ADMIN,
    "cell": Trust.ADMIN,
    "org": Trust.ORG_MANAGER,
    "space": Trust.SPACE_MANAGER,
    "app": Trust.DEVELOPER,
    "org.guid": Trust.ADMIN,
    "space.guid": Trust.ADMIN,
    "app.guid": Trust.ADMIN,
    "process": Trust.DEVELOPER,
    "workload": Trust.DEVELOPER,
    "instance": Trust.DEVELOPER,
    "group": Trust.ADMIN,  # of the name; what the group itself is made of counts as well
    "vm.name": Trust.ADMIN,
    "vm.deployment": Trust.ADMIN,
    "vm.instance_group": Trust.ADMIN,
    "vm.az": Trust.ADMIN,
    "host.name": Trust.ADMIN,
}
KEYED = {
    "label": Trust.DEVELOPER,
    "space.label": Trust.SPACE_MANAGER,
    "org.label": Trust.ORG_MANAGER,
    "tag": Trust.ADMIN,
}
"""Fields that need a key: an app's labels, those of its space and its org, and our own tags."""


class Attribute(NamedTuple):
    field: str
    key: str = ""
    """Of labels and tags."""


@dataclass(frozen=True, slots=True)
class Comparison:
    attribute: Attribute
    operator: str
    """`= != ~ in`, `not in` or `exists`."""
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Within:
    """The addresses that a prefix, a range or a single address names."""

    written: str
    range: PackedRange


@dataclass(frozen=True, slots=True)
class Not:
    inner: Criteria


@dataclass(frozen=True, slots=True)
class All:
    """Both, or all: two parts or more, none of them an `All`."""

    parts: tuple[Criteria, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """At least one: two parts or more, none of them an `Either`."""

    parts: tuple[Criteria, ...]


Criteria = Comparison | Within | Not | All | Either


# Trust ---------------------------------------------------------------------------------------------------------------


def trust(criteria: Criteria, of_group: Callable[[str], Trust]) -> Trust:
    """`of_group`: how far the group of that name can be trusted; an unknown one has no member that anybody added."""
    least = Trust.ADMIN
    for test in comparisons(criteria):
        least = min(least, FIELDS.get(test.attribute.field, Trust.ADMIN), KEYED.get(test.attribute.field, Trust.ADMIN))
        if test.attribute.field == "group":
            least = min(least, *map(of_group, test.values))
    return least


def comparisons(criteria: Criteria) -> Iterator[Comparison]:
    """Every test of attributes, negated or not."""
    match criteria:
        case Comparison():
            yield criteria
        case Not(inner):
            yield from comparisons(inner)
        case All(parts) | Either(parts):
            for part in parts:
                yield from comparisons(part)


def groups(criteria: Criteria) -> frozenset[str]:
    """Names of the groups that it is made of."""
    return frozenset(
        value for test in comparisons(criteria) if test.attribute.field == "group" for value in test.values
    )


# Globs --------------------------------------------------------------------------------------------------------------


def globs(pattern: str, written: str) -> bool:
    """`*` is any text, `?` one character, everything else itself. Never slower than length by length."""
    at = there = 0
    star, resume = -1, 0
    while there < len(written):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, there
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", written[there]):
            at += 1
            there += 1
        elif star >= 0:  # the last star takes one character more
            at = star + 1
            resume += 1
            there = resume
        else:
            return False
    return not pattern[at:].strip("*")
