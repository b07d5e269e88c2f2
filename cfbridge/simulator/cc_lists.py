"""Which of these things did they ask for, and which page? Cloud Controller's query parameters and pagination, pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode


class Listed(Protocol):
    @property
    def guid(self) -> str: ...
    @property
    def created_at(self) -> str: ...
    @property
    def updated_at(self) -> str: ...


class BadQueryError(ValueError):
    """What is wrong with the query, as Cloud Controller would say it."""


Keep = Callable[[Any], bool]
Filter = Callable[[str], Keep]
"""From a parameter's value to the test that an object must pass."""

MAX_PER_PAGE = 5000
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_RELATIONS: Mapping[str, Callable[[str, str], bool]] = {
    "lt": lambda had, asked: had < asked,
    "lte": lambda had, asked: had <= asked,
    "gt": lambda had, asked: had > asked,
    "gte": lambda had, asked: had >= asked,
}
_TIMES = ("created_ats", "updated_ats")


@dataclass(frozen=True, slots=True)
class ListKind:
    filters: Mapping[str, Filter]
    order_by: tuple[str, ...] = ("created_at", "updated_at")
    include: tuple[str, ...] = ()
    labels: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    rows: Sequence[Any]
    pagination: Mapping[str, Any]
    include: tuple[str, ...]


def one_of(attribute: str, *, any_case: bool = False) -> Filter:
    def parse(text: str) -> Keep:
        wanted = set((text.lower() if any_case else text).split(","))
        if any_case:
            return lambda row: getattr(row, attribute).lower() in wanted
        return lambda row: getattr(row, attribute) in wanted

    return parse


def any_of(attribute: str) -> Filter:
    """The attribute is a collection that shares something with the list."""

    def parse(text: str) -> Keep:
        wanted = set(text.split(","))
        return lambda row: not wanted.isdisjoint(getattr(row, attribute))

    return parse


def flag(attribute: str) -> Filter:
    def parse(text: str) -> Keep:
        if text not in ("true", "false"):
            raise BadQueryError(f"{attribute.capitalize()} must be 'true' or 'false'")
        return lambda row: bool(getattr(row, attribute)) is (text == "true")

    return parse


def _times(key: str, text: str) -> Keep:
    name, _, relation = key.partition("[")
    attribute = name[:-1]
    stamps = text.split(",")
    if not all(_TIMESTAMP.fullmatch(stamp) for stamp in stamps):
        raise BadQueryError(
            f"{name.replace('_', ' ').capitalize()} has an invalid timestamp format. "
            "Timestamps should be formatted as 'YYYY-MM-DDThh:mm:ssZ'"
        )
    if not relation:
        wanted = set(stamps)
        return lambda row: getattr(row, attribute) in wanted
    compare = _RELATIONS.get(relation.removesuffix("]"))
    if compare is None or not relation.endswith("]"):
        raise BadQueryError(f"Invalid relational operator: '{relation.removesuffix(']')}'")
    if len(stamps) != 1:
        raise BadQueryError(
            f"{name.replace('_', ' ').capitalize()} only accepts one value when using a relational operator"
        )
    return lambda row: compare(getattr(row, attribute), stamps[0])


_REQUIREMENT = re.compile(
    r"(?P<key>[\w./-]+)\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\)"
    r"|(?P<key2>[\w./-]+)\s*(?P<compare>!=|==|=)\s*(?P<value>[\w.-]*)"
    r"|(?P<absent>!)?(?P<key3>[\w./-]+)"
)


def label_selector(text: str) -> Keep:
    """`k=v`, `k!=v`, `k in (a,b)`, `k notin (a,b)`, `k`, `!k`, joined by commas: all must hold."""
    tests = [_requirement(part.strip()) for part in re.split(r",(?![^()]*\))", text)]
    return lambda row: all(test(row.labels) for test in tests)


def _requirement(text: str) -> Callable[[Mapping[str, str]], bool]:
    match = _REQUIREMENT.fullmatch(text)
    if match is None:
        raise BadQueryError("Label selector is invalid")
    if match["set"]:
        values = {value.strip() for value in match["values"].split(",")}
        return lambda labels: (labels.get(match["key"]) in values) is (match["set"] == "in")
    if match["compare"]:
        return lambda labels: (labels.get(match["key2"]) == match["value"]) is (match["compare"] != "!=")
    return lambda labels: (match["key3"] in labels) is (match["absent"] is None)


def _whole(query: Mapping[str, str], name: str, default: int, top: int, complaint: str) -> int:
    text = query.get(name, "")
    if name not in query:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19 and 1 <= int(text) <= top):
        raise BadQueryError(complaint)
    return int(text)


def page(kind: ListKind, rows: Iterable[Listed], query: Mapping[str, str], url: str) -> Page:
    """The rows that pass every filter, in order, cut to the page asked for. Raises BadQueryError."""
    known = [*kind.filters, "page", "per_page", "order_by", *_TIMES, "guids"]
    known += ["include"] if kind.include else []
    known += ["label_selector"] if kind.labels else []
    unknown = [key for key in query if key.partition("[")[0] not in known or ("[" in key and key[:11] not in _TIMES)]
    if unknown:
        names = ", ".join(f"'{key}'" for key in unknown)
        valid = ", ".join(f"'{key}'" for key in sorted(known))
        raise BadQueryError(f"Unknown query parameter(s): {names}. Valid parameters are: {valid}")
    number = _whole(query, "page", 1, 2**62, "Page must be a positive integer")
    size = _whole(query, "per_page", 50, MAX_PER_PAGE, f"Per page must be between 1 and {MAX_PER_PAGE}")
    tests = _tests(kind, query)
    found = _ordered(kind, [row for row in rows if all(test(row) for test in tests)] if tests else list(rows), query)
    include = tuple(query["include"].split(",")) if query.get("include") else ()
    for name in include:
        if name not in kind.include:
            wanted = ", ".join(f"'{option}'" for option in kind.include)
            raise BadQueryError(f"Invalid included resource: '{name}'. Valid included resources are: {wanted}")
    pages = max(1, -(-len(found) // size))
    return Page(
        found[(number - 1) * size : number * size], _pagination(query, url, len(found), pages, number, size), include
    )


def _tests(kind: ListKind, query: Mapping[str, str]) -> list[Keep]:
    tests: list[Keep] = []
    for key, text in query.items():
        if key.partition("[")[0] in _TIMES:
            tests.append(_times(key, text))
        elif key == "label_selector":
            tests.append(label_selector(text))
        elif key in kind.filters:
            tests.append(kind.filters[key](text))
        elif key == "guids":
            tests.append(one_of("guid")(text))
    return tests


def _ordered(kind: ListKind, rows: list[Listed], query: Mapping[str, str]) -> list[Listed]:
    if "order_by" not in query:
        return rows
    order = query["order_by"]
    # A bare + in a query is a space.
    attribute = order.lstrip("+- ")
    if attribute not in kind.order_by:
        raise BadQueryError(f"Order by can only be: {', '.join(kind.order_by)}")
    return sorted(rows, key=lambda row: (getattr(row, attribute), row.guid), reverse=order.startswith("-"))


def _pagination(
    query: Mapping[str, str], url: str, total: int, pages: int, number: int, size: int
) -> Mapping[str, Any]:
    filters = {key: query[key] for key in sorted(query) if key not in ("page", "per_page", "order_by")}
    prefix = f"{urlencode(filters)}&" if filters else ""
    if order := query.get("order_by"):
        prefix += f"order_by={'-' if order.startswith('-') else '%2B'}{order.lstrip('+- ')}&"

    def link(to: int) -> Mapping[str, str]:
        return {"href": f"{url}?{prefix}page={to}&per_page={size}"}

    return {
        "total_results": total,
        "total_pages": pages,
        "first": link(1),
        "last": link(pages),
        "next": link(number + 1) if number < pages else None,
        "previous": link(number - 1) if 1 < number <= pages + 1 else None,
    }
