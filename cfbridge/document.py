"""What does a file that a person wrote say, and where? YAML (or JSON) as nodes that know line, column and path.

Read from YAML's events rather than through its constructors, because those guess: they make 41135085296 of an unquoted
MAC address, False of `no`, 511 of `0777`. Here what a value is depends on what is expected at its place, and where
YAML would guess otherwise than the writer meant, the file is refused and asked for quotes. Anchors and aliases are
refused: no file of ours needs them, and they are how a kilobyte becomes a gigabyte.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from datetime import date
from enum import StrEnum
from types import UnionType
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from yaml.resolver import Resolver

from egress.values import Refused, RefusedError

DEPTH_LIMIT = 32
SIZE_LIMIT = 64 << 20
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_resolve: Any = Resolver().resolve
_GUESSED = {"bool": "true or false", "int": "a number", "float": "a number", "timestamp": "a date", "null": "nothing"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Node:
    """One value of the file. `content` by `kind`: a dict of nodes, a tuple of nodes, or a scalar as written."""

    kind: str
    """`map`, `list`, or what YAML takes the scalar for: `str bool int float null timestamp`."""
    content: Mapping[str, Node] | tuple[Node, ...] | str
    path: str
    """`foundations[0].policy_server.url`"""
    line: int
    """From 1; 0 where the file is JSON and the place is not known."""
    column: int

    def refuse(self, message: str, code: str = "FILE_INVALID") -> NoReturn:
        where = f"line {self.line}, column {self.column}: " if self.line else ""
        at = f"{self.path}: " if self.path else ""
        raise RefusedError(Refused(code, f"{where}{at}{message}", self.path))

    def entries(self) -> Mapping[str, Node]:
        if self.kind == "null":
            return {}
        if not isinstance(self.content, Mapping):
            self.refuse(f"a mapping (key: value) is expected here, not {self._said()}")
        return self.content

    def items(self) -> tuple[Node, ...]:
        if self.kind == "null":
            return ()
        if not isinstance(self.content, tuple):
            self.refuse(f"a list is expected here, not {self._said()}")
        return self.content

    def text(self) -> str:
        if not isinstance(self.content, str):
            self.refuse(f"one value is expected here, not {self._said()}")
        if self.kind != "str":
            self.refuse(f"YAML reads {self._said()} as {_GUESSED[self.kind]}; put it in quotes: '{self.content[:80]}'")
        return self.content

    def number(self) -> int:
        if not isinstance(self.content, str) or not re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", self.content):
            self.refuse(f"a whole number is expected here, not {self._said()}")
        return int(self.content)

    def seconds(self) -> float:
        if not isinstance(self.content, str) or not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", self.content):
            self.refuse(f"a number of seconds is expected here, not {self._said()}")
        return float(self.content)

    def flag(self) -> bool:
        if self.content not in ("true", "false") or self.kind != "bool":
            self.refuse(f"true or false is expected here, not {self._said()}")
        return self.content == "true"

    def only(self, known: Collection[str]) -> Mapping[str, Node]:
        """The entries, all of them with known keys."""
        entries = self.entries()
        for key, value in entries.items():
            if key not in known:
                value.refuse(f"unknown key {short(key)}{nearest(key, known)}", "UNKNOWN_KEY")
        return entries

    def nearest_to(self, steps: Sequence[str]) -> Node:
        """The node at a JSON pointer's steps, or the last one on the way."""
        at = self
        for step in steps:
            if isinstance(at.content, tuple) and step.isdigit() and int(step) < len(at.content):
                at = at.content[int(step)]
            elif isinstance(at.content, Mapping) and step in at.content:
                at = at.content[step]
        return at

    def _said(self) -> str:
        if isinstance(self.content, str):
            return "nothing" if self.kind == "null" and not self.content else short(self.content)
        return "a mapping" if self.kind == "map" else "a list"


def short(written: str) -> str:
    """Foreign text in a sentence: quoted, on one line, not endless."""
    return repr(written if len(written) <= 80 else written[:77] + "…")


def nearest(written: str, known: Iterable[str]) -> str:
    """`; did you mean 'url'?`, or which there are."""
    names = sorted(map(str, known))
    close = difflib.get_close_matches(written[:80], names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {short(close[0])}?"
    return f"; known are {', '.join(names)}" if 0 < len(names) <= 30 else ""


def parse(written: str | bytes) -> Node:
    """Raises RefusedError for anything that is not one document of mappings, lists and scalars."""
    first, *others = parse_all(written)
    for second in others:
        second.refuse("one document is expected, here begins a second")
    return first


def parse_all(written: str | bytes) -> tuple[Node, ...]:
    """One document or more, each after a line `---`. An empty file is one that says nothing."""
    top = Node("null", "", "", 0, 0)
    if len(written) > SIZE_LIMIT:
        top.refuse(f"the file is longer than {SIZE_LIMIT} bytes")
    if isinstance(written, bytes):
        try:
            written = written.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            top.refuse(f"the file is not UTF-8: {error.reason} at byte {error.start}")
    if written.lstrip()[:1] in ("{", "["):  # JSON as ERB writes it, tabs and surrogate pairs included
        try:
            said = json.loads(written, object_pairs_hook=_Pairs, parse_int=_Raw, parse_float=_Raw)
            return (_from_json(said, "", 0),)
        except (ValueError, RecursionError):
            pass  # perhaps YAML's flow style, whose complaint will name the line
    try:
        return tuple(_from_events(yaml.parse(written, Loader=_LOADER))) or (Node("null", "", "", 1, 1),)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        Node("null", "", "", line, column).refuse(f"this is no YAML: {error.problem or error.context}")
    except yaml.YAMLError as error:
        top.refuse(f"this is no YAML: {str(error).splitlines()[0]}")


def of(value: Any, path: str = "") -> Node:
    """What a file would say that says this: text, numbers, true and false, dates, lists and mappings of them."""
    match value:
        case None:
            return Node("null", "", path, 0, 0)
        case bool():
            return Node("bool", "true" if value else "false", path, 0, 0)
        case Mapping():
            entries = {str(key): of(each, _below(path, str(key))) for key, each in value.items()}
            return Node("map", entries, path, 0, 0)
        case list() | tuple():
            return Node("list", tuple(of(each, f"{path}[{at}]") for at, each in enumerate(value)), path, 0, 0)
    kind = {int: "int", float: "float", date: "timestamp"}.get(type(value), "str")
    here = Node(kind, "", path, 0, 0)
    return replace(here, content=_sound(str(value), here))


class _Raw(str):
    """A JSON number, as written."""


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, with its duplicates."""


def _from_json(value: Any, path: str, depth: int) -> Node:
    here = Node("null", "", path, 0, 0)
    if depth > DEPTH_LIMIT:
        here.refuse(f"nested deeper than {DEPTH_LIMIT}")
    if isinstance(value, _Pairs):
        entries: dict[str, Node] = {}
        for key, each in value:
            if key in entries:
                here.refuse(f"the key {short(key)} is here twice")
            entries[key] = _from_json(each, _below(path, _sound(key, here)), depth + 1)
        return Node("map", entries, path, 0, 0)
    if isinstance(value, list):
        return Node("list", tuple(_from_json(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)), path, 0, 0)
    if value is None:
        return here
    if isinstance(value, bool):
        return Node("bool", "true" if value else "false", path, 0, 0)
    if isinstance(value, _Raw | float):
        return Node("int" if re.fullmatch(r"-?\d+", str(value)) else "float", str(value), path, 0, 0)
    return Node("str", _sound(value, here), path, 0, 0)


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end was not read yet."""

    kind: str
    path: str
    line: int
    column: int
    entries: dict[str, Node]
    items: list[Node]
    key: str | None = None

    def below(self) -> str:
        return f"{self.path}[{len(self.items)}]" if self.kind == "list" else _below(self.path, self.key or "")


def _from_events(events: Iterable[Any]) -> Iterator[Node]:
    """Each document as its end comes by."""
    opened: list[_Open] = []
    for event in events:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        path = opened[-1].below() if opened else ""
        here = Node("null", "", path, line, column)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            here.refuse("anchors and aliases (& and *) are not used here; write the value out, or quote it")
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if opened and opened[-1].kind == "map" and opened[-1].key is None:
                here.refuse("a key must be one plain value")
            if len(opened) >= DEPTH_LIMIT:
                here.refuse(f"nested deeper than {DEPTH_LIMIT}")
            kind = "map" if isinstance(event, yaml.MappingStartEvent) else "list"
            opened.append(_Open(kind, path, line, column, {}, []))
            continue
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            done = opened.pop()
            content = done.entries if done.kind == "map" else tuple(done.items)
            node = Node(done.kind, content, done.path, done.line, done.column)
        elif isinstance(event, yaml.ScalarEvent):
            tag: str = event.tag or _resolve(yaml.ScalarNode, event.value, tuple(event.implicit))
            kind = tag.rpartition(":")[2]
            if event.tag is not None and event.tag != "!" and kind != "str":
                here.refuse(f"the tag {short(event.tag)} is not used here")
            kind = kind if kind in _GUESSED else "str"
            node = Node(kind, _sound(event.value, here), path, line, column)
            if opened and opened[-1].kind == "map" and opened[-1].key is None:
                if kind in ("bool", "null"):
                    here.refuse(f"YAML reads the key {short(event.value)} as {_GUESSED[kind]}; put it in quotes")
                if event.value in opened[-1].entries:
                    here.refuse(f"the key {short(event.value)} is here twice")
                opened[-1].key = event.value
                continue
        else:
            continue
        if not opened:
            yield node
        elif opened[-1].kind == "list":
            opened[-1].items.append(node)
        else:
            opened[-1].entries[opened[-1].key or ""] = node
            opened[-1].key = None


def _below(path: str, key: str) -> str:
    key = key if len(key) <= 80 else key[:77] + "…"
    return f"{path}.{key}" if path else key


def _sound(written: str, here: Node) -> str:
    """Half a surrogate pair can be neither stored nor sent."""
    try:
        written.encode()
    except UnicodeEncodeError:
        here.refuse("the text holds half a surrogate pair")
    return written


def bind(node: Node, noun: type[T], special: Mapping[str, Callable[[Node], Any]] | None = None, **given: Any) -> T:
    """A frozen dataclass from a mapping of its field names. `special` reads a field in its own way; `given` are fields
    that the file does not say. A field without default must be there; its absence names it."""
    special = special or {}
    hints = get_type_hints(noun)
    assert is_dataclass(noun)
    named = {f.name: f for f in fields(noun) if f.name not in given}
    values: dict[str, Any] = dict(given)
    for key, value in node.only(named).items():
        values[key] = special[key](value) if key in special else _typed(value, hints[key])
    for name, field in named.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            node.refuse(f"{name} is missing")
    return noun(**values)


def _typed(node: Node, hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _typed(node, next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        return tuple(_typed(item, arguments[0]) for item in node.items())
    if is_dataclass(hint):
        return bind(node, hint)  # type: ignore[arg-type]
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return choice(node, hint)
    readers: dict[Any, Callable[[], Any]] = {
        str: node.text,
        bool: node.flag,
        int: node.number,
        float: node.seconds,
    }
    return readers[hint]()


E = TypeVar("E", bound=StrEnum)


def choice(node: Node, kind: type[E]) -> E:
    written = node.text()
    known = [str(each) for each in kind]
    if written not in known:
        node.refuse(f"{short(written)} is none of {', '.join(known)}")
    return kind(written)
