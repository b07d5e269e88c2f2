"""Which network policies exist, and which tags do their apps have? The policy server's tables, with what it would send.

A policy keeps its rendered JSON, because the whole list is asked for several times a second and is a join then.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import orjson

from egress.values import Refused, RefusedError

MAX_TAG = 0xFFFF


@dataclass(frozen=True, slots=True)
class PolicyKey:
    source: str
    destination: str
    protocol: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PolicyRow:
    id: int
    key: PolicyKey
    external: bytes
    internal: bytes


@dataclass(slots=True)
class _Tag:
    number: int
    type: str
    policies: int = 0


def go_json(value: object) -> bytes:
    """JSON as Go writes it: no spaces, and the three characters that are special in HTML escaped."""
    encoded = orjson.dumps(value)
    if b"&" in encoded or b"<" in encoded or b">" in encoded:
        encoded = encoded.replace(b"&", b"\\u0026").replace(b"<", b"\\u003c").replace(b">", b"\\u003e")
    return encoded


def render(key: PolicyKey) -> bytes:
    destination = {"id": key.destination, "protocol": key.protocol, "ports": {"start": key.start, "end": key.end}}
    return go_json({"source": {"id": key.source}, "destination": destination})


def _render_internal(key: PolicyKey, source_tag: str, destination_tag: str) -> bytes:
    return go_json(
        {
            "source": {"id": key.source, "tag": source_tag},
            "destination": {
                "id": key.destination,
                "tag": destination_tag,
                "protocol": key.protocol,
                "ports": {"start": key.start, "end": key.end},
            },
        }
    )


def document(policies: Sequence[bytes]) -> bytes:
    return b'{"total_policies":%d,"policies":[%s]}' % (len(policies), b",".join(policies))


@dataclass(slots=True)
class PolicyTable:
    clock_ns: Callable[[], int] = time.time_ns
    last_updated: int = 0
    """Nanoseconds with microsecond steps, as the database keeps them; it only grows."""
    _rows: dict[PolicyKey, PolicyRow] = field(default_factory=dict)
    _by_source: dict[str, dict[PolicyKey, None]] = field(default_factory=dict)
    _by_destination: dict[str, dict[PolicyKey, None]] = field(default_factory=dict)
    _tags: dict[str, _Tag] = field(default_factory=dict)
    _free_tags: list[int] = field(default_factory=list)
    _next_tag: int = 1
    _next_id: int = 1
    _documents: dict[bool, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._touch()

    def __len__(self) -> int:
        return len(self._rows)

    def _touch(self) -> None:
        self.last_updated = max(self.clock_ns() // 1000 * 1000, self.last_updated + 1000)
        self._documents.clear()

    def create(self, keys: Iterable[PolicyKey]) -> int:
        """All or nothing; policies that exist already are left alone. Returns how many are new."""
        wanted = [key for key in dict.fromkeys(keys) if key not in self._rows]
        apps = {app for key in wanted for app in (key.source, key.destination)}
        unheard = sum(1 for app in apps if app not in self._tags)
        if unheard > MAX_TAG + 1 - self._next_tag + len(self._free_tags) or any(
            self._tags[app].type != "app" for app in apps if app in self._tags
        ):
            raise RefusedError(Refused("DATABASE", "database create failed"))
        for key in wanted:
            tags = [self._use(app) for app in (key.source, key.destination)]
            internal = _render_internal(key, tags[0], tags[1])
            self._rows[key] = PolicyRow(self._next_id, key, render(key), internal)
            self._next_id += 1
            self._by_source.setdefault(key.source, {})[key] = None
            self._by_destination.setdefault(key.destination, {})[key] = None
        if wanted:
            self._touch()
        return len(wanted)

    def delete(self, keys: Iterable[PolicyKey]) -> int:
        """Only exact matches; what does not exist is no error. Returns how many went."""
        gone = [key for key in dict.fromkeys(keys) if self._rows.pop(key, None) is not None]
        for key in gone:
            for index, app in ((self._by_source, key.source), (self._by_destination, key.destination)):
                index[app].pop(key)
                if not index[app]:
                    del index[app]
                self._release(app)
        if gone:
            self._touch()
        return len(gone)

    def rows(self) -> list[PolicyRow]:
        return list(self._rows.values())

    def of_source(self, app: str) -> int:
        return len(self._by_source.get(app, ()))

    def touching(self, apps: Iterable[str]) -> list[PolicyRow]:
        """Source or destination is one of these."""
        keys: dict[PolicyKey, None] = {}
        for app in apps:
            keys |= self._by_source.get(app, {})
            keys |= self._by_destination.get(app, {})
        return sorted((self._rows[key] for key in keys), key=lambda row: row.id)

    def between(self, sources: Sequence[str] | None, destinations: Sequence[str] | None) -> list[PolicyRow]:
        """Source in `sources` and destination in `destinations`; None = any."""
        if sources is not None:
            found = [self._rows[key] for app in dict.fromkeys(sources) for key in self._by_source.get(app, ())]
            if destinations is not None:
                wanted = set(destinations)
                found = [row for row in found if row.key.destination in wanted]
        elif destinations is not None:
            by_destination = self._by_destination
            found = [self._rows[key] for app in dict.fromkeys(destinations) for key in by_destination.get(app, ())]
        else:
            return self.rows()
        return sorted(found, key=lambda row: row.id)

    def everything(self, *, internal: bool) -> bytes:
        """The document of all policies, kept until something changes."""
        if internal not in self._documents:
            policies = [row.internal if internal else row.external for row in self._rows.values()]
            self._documents[internal] = document(policies)
        return self._documents[internal]

    def apps(self) -> set[str]:
        return self._by_source.keys() | self._by_destination.keys()

    def tags(self) -> list[tuple[str, str, str]]:
        """(id, tag, type) by number."""
        return [
            (app, f"{tag.number:04X}", tag.type) for app, tag in sorted(self._tags.items(), key=lambda i: i[1].number)
        ]

    def tag(self, identity: str, kind: str) -> str:
        """The tag of a thing that is no app, such as a router; given on first use, kept for good."""
        held = self._tags.get(identity)
        if held is not None and held.type != kind:
            raise RefusedError(Refused("DATABASE", "database create failed"))
        if held is None:
            # One reference that no policy holds: it is never released.
            held = self._tags[identity] = _Tag(self._lowest_free(), kind, 1)
        return f"{held.number:04X}"

    def _use(self, app: str) -> str:
        held = self._tags.get(app)
        if held is None:
            held = self._tags[app] = _Tag(self._lowest_free(), "app")
        held.policies += 1
        return f"{held.number:04X}"

    def _release(self, app: str) -> None:
        held = self._tags[app]
        held.policies -= 1
        if held.policies == 0:
            del self._tags[app]
            heapq.heappush(self._free_tags, held.number)

    def _lowest_free(self) -> int:
        if self._free_tags:
            return heapq.heappop(self._free_tags)
        if self._next_tag > MAX_TAG:
            raise RefusedError(Refused("DATABASE", "database create failed"))
        self._next_tag += 1
        return self._next_tag - 1
