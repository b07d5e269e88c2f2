"""How is a group's criteria expression written? Reads and writes the small language of dynamic membership.

    org = "acme" and space in ("prod", "stage") and not app ~ "*-canary"
    tag tier = "db" or vm.name ~ "db-*"
    cidr 10.1.0.0/16

    expr  := both { "or" both }            both := one { "and" one }
    one   := "not" one | "(" expr ")" | test
    test  := "cidr" RANGE | attribute "exists"
           | attribute ( "=" | "!=" | "~" ) VALUE | attribute [ "not" ] "in" "(" VALUE { "," VALUE } ")"
    attribute := FIELD | ( "label" | "space.label" | "org.label" | "tag" ) KEY

Keywords and fields in any case. Values in double quotes, where a backslash goes before a quote, a backslash, n, r, t.
Keys too, where they are no plain word or a keyword. In a glob (`~`) `*` is any text and `?` one character. What it all
means, and who can change it: `criteria`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, NoReturn

from egress.values import Refused, RefusedError, parse_range
from policy_sync.criteria import FIELDS, KEYED, All, Attribute, Comparison, Criteria, Either, Not, Within

LONGEST = 16_384
"""Characters of one expression."""
DEEPEST = 64
"""Parentheses and `not`s within each other."""

# Write ---------------------------------------------------------------------------------------------------------------


def said(criteria: Criteria) -> str:
    """As a person would write it; `parse` makes the same criteria of it."""
    match criteria:
        case Comparison(attribute, "exists"):
            return f"{_named(attribute)} exists"
        case Comparison(attribute, ("in" | "not in") as operator, values):
            return f"{_named(attribute)} {operator} ({', '.join(map(_quoted, values))})"
        case Comparison(attribute, operator, (value,)):
            return f"{_named(attribute)} {operator} {_quoted(value)}"
        case Within(written):
            return f"cidr {written}"
        case Not(All() | Either() as inner):
            return f"not ({said(inner)})"
        case Not(inner):
            return f"not {said(inner)}"
        case All(parts):
            return " and ".join(f"({said(part)})" if isinstance(part, Either) else said(part) for part in parts)
        case Either(parts):
            return " or ".join(map(said, parts))
    raise AssertionError(criteria)


_ESCAPES = {"\\": "\\", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_ESCAPED = {each: f"\\{letter}" for letter, each in _ESCAPES.items()}


def _quoted(value: str) -> str:
    return '"' + "".join(_ESCAPED.get(each, each) for each in value) + '"'


def _named(attribute: Attribute) -> str:
    if attribute.field not in KEYED:
        return attribute.field
    plain = re.fullmatch(r"[A-Za-z0-9_.:/-]+", attribute.key) and attribute.key.lower() not in _KEYWORDS
    return f"{attribute.field} {attribute.key if plain else _quoted(attribute.key)}"


# Read ----------------------------------------------------------------------------------------------------------------

_KEYWORDS = ("and", "or", "not", "in", "exists", "cidr")
_TOKEN = re.compile(r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<word>[A-Za-z0-9_.:/-]+)|(?P<sign>!=|[=~(),]))', re.DOTALL)


class _Token(NamedTuple):
    kind: str
    """`text`, `word`, `sign` or `end`."""
    written: str
    at: int

    def is_(self, *written: str) -> bool:
        return self.kind != "text" and self.written.lower() in written


def parse(written: str) -> Criteria:
    """RefusedError with line, column, what was expected, and the nearest name where one is unknown."""
    parser = _Parser(written)
    found = parser.either(0)
    parser.expect("end", "`and`, `or` or the end")
    return found


class _Parser:
    def __init__(self, written: str) -> None:
        self._written = written
        if len(written) > LONGEST:
            self.refuse(LONGEST, f"an expression has at most {LONGEST} characters; make groups of its parts")
        self._tokens = [*self._read()]
        self._next = 0

    def _read(self) -> Iterator[_Token]:
        at, end = 0, len(self._written.rstrip())
        while at < end:
            found = _TOKEN.match(self._written, at)
            if found is None:
                at += len(self._written[at:]) - len(self._written[at:].lstrip())
                unclosed = self._written[at] == '"'
                self.refuse(
                    at, "this text has no closing quote" if unclosed else f"{self._written[at]!r} means nothing"
                )
            kind = str(found.lastgroup)
            yield _Token(kind, found[kind], found.start(kind))
            at = found.end()
        yield _Token("end", "", end)

    @property
    def token(self) -> _Token:
        return self._tokens[self._next]

    def take(self) -> _Token:
        token = self.token
        self._next += token.kind != "end"
        return token

    def expect(self, what: str, said: str) -> _Token:
        """A token of a kind, or a sign."""
        token = self.token
        if token.kind != what and not token.is_(what):
            there = "the end" if token.kind == "end" else token.written[:40]
            self.refuse(token.at, f"{said} is expected here, not {there}")
        return self.take()

    def refuse(self, at: int, message: str) -> NoReturn:
        before = self._written[:at]
        line, column = before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1
        raise RefusedError(Refused("CRITERIA_INVALID", f"line {line}, column {column}: {message}"))

    def either(self, depth: int) -> Criteria:
        parts = [self.both(depth)]
        while self.token.is_("or"):
            self.take()
            parts.append(self.both(depth))
        return _joined(Either, parts)

    def both(self, depth: int) -> Criteria:
        parts = [self.one(depth)]
        while self.token.is_("and"):
            self.take()
            parts.append(self.one(depth))
        return _joined(All, parts)

    def one(self, depth: int) -> Criteria:
        if depth > DEEPEST:
            self.refuse(self.token.at, f"parentheses and `not`s are at most {DEEPEST} deep; make groups of the parts")
        if self.token.is_("not"):
            self.take()
            return Not(self.one(depth + 1))
        if self.token.is_("("):
            self.take()
            inner = self.either(depth + 1)
            self.expect(")", "`)`")
            return inner
        if self.token.is_("cidr"):
            self.take()
            return self.within()
        return self.test()

    def within(self) -> Within:
        token = self.take() if self.token.kind == "text" else self.expect("word", "an address, a prefix or a range")
        written = self.value(token) if token.kind == "text" else token.written
        try:
            return Within(written, parse_range(written))
        except ValueError as error:
            self.refuse(token.at, str(error))

    def test(self) -> Comparison:
        attribute = self.attribute()
        token = self.token
        negated = token.is_("not")
        if negated:
            self.take()
        if self.token.is_("in"):
            self.take()
            return Comparison(attribute, "not in" if negated else "in", self.several())
        if not negated and token.is_("exists") and attribute.field != "group":
            self.take()
            return Comparison(attribute, "exists")
        operators = ("=", "!=") if attribute.field == "group" else ("=", "!=", "~")
        if not negated and token.is_(*operators):
            self.take()
            return Comparison(attribute, token.written, (self.text(),))
        exists = "" if attribute.field == "group" else ", exists"
        expected = "in" if negated else f"{', '.join(operators)}{exists} or in"
        return self.refuse(self.token.at, f"after {_named(attribute)}, {expected} is expected")

    def attribute(self) -> Attribute:
        token = self.expect("word", "a field, `not` or `(`")
        name = token.written.lower()
        if name in KEYED:
            if self.token.is_(*_KEYWORDS):
                self.refuse(
                    self.token.at, f"the key of the {name} is expected here; in quotes, if it is {self.token.written}"
                )
            key = self.take() if self.token.kind == "text" else self.expect("word", f"the key of the {name}")
            return Attribute(name, self.value(key) if key.kind == "text" else key.written)
        if name not in FIELDS:
            known = [*FIELDS, *KEYED, "cidr"]
            close = difflib.get_close_matches(name[:40], known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
            self.refuse(token.at, f"{token.written[:40]} is no field; {hint}")
        return Attribute(name)

    def several(self) -> tuple[str, ...]:
        self.expect("(", "`(`")
        values = [self.text()]
        while self.token.is_(","):
            self.take()
            values.append(self.text())
        self.expect(")", "`,` or `)`")
        return tuple(values)

    def text(self) -> str:
        return self.value(self.expect("text", "a value in double quotes"))

    def value(self, token: _Token) -> str:
        def plain(found: re.Match[str]) -> str:
            if found[1] not in _ESCAPES:
                self.refuse(token.at + 1 + found.start(), f'\\{found[1]} means nothing; \\\\ \\" \\n \\r \\t do')
            return _ESCAPES[found[1]]

        return re.sub(r"\\(.)", plain, token.written[1:-1], flags=re.DOTALL)


def _joined(kind: type[All] | type[Either], parts: Iterable[Criteria]) -> Criteria:
    """One alone is itself; of the same kind within each other they are one."""
    flat = [each for part in parts for each in (part.parts if isinstance(part, kind) else (part,))]
    return kind(tuple(flat)) if len(flat) > 1 else flat[0]
