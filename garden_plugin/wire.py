"""What do networker, agent and bridge say to each other?

Agent ↔ bridge: a unix socket (mTLS across hosts later); `frames` says how messages cross it.
    agent → bridge   Hello (first), Attach, Update, Detached, Reached, Drifted
    bridge → agent   Welcome (first), Granted | Denied (to an Attach), Acknowledged (to a Detached), Span
A `Span` carries what changed against the last one on the same connection; `merge` makes it whole again. The first
is whole.

Networker → agent: one request per connection on the agent's own socket; see `networker.py` (it can import nothing) and
the golden test that pins both ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import msgspec

from garden_plugin.dataplane.base import LogicalNetwork
from garden_plugin.dataplane.grown import Grown
from policy_sync.ruleset import PolicyMatch

VERSION = 1
FRAME_LIMIT = 256 << 20
"""Bytes. A longer frame is a peer gone mad; the connection is closed."""


class NetOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """Garden's NetOutRule as it came (cf-contracts 1.3); meaning is made of it in `policy_sync.translate`."""

    protocol: int = 0
    networks: tuple[tuple[str, str], ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    icmp_type: int | None = None
    """None = no `icmps` at all; 255 = any."""
    icmp_code: int | None = None
    """None = any (absent), 255 = any."""
    log: bool = False


class MappedPort(msgspec.Struct, frozen=True):
    host_port: int
    container_port: int


class PortReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a cell knows of one container, first-hand: Garden's own properties."""

    handle: str
    addresses: tuple[str, ...] = ()
    """Empty while it asks for some."""
    org: str = ""
    space: str = ""
    app: str = ""
    """Bare GUIDs as Garden gave them; the bridge qualifies them with the cell's foundation."""
    lifecycle: str = ""
    org_name: str = ""
    space_name: str = ""
    app_name: str = ""
    instance_index: int = -1
    listed_ports: tuple[int, ...] = ()
    mapped_ports: tuple[MappedPort, ...] = ()
    net_out: tuple[NetOut, ...] = ()
    """From `up`."""
    added_net_out: tuple[NetOut, ...] = ()
    """From `net-out` and `bulk-net-out`."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    version: int
    cell: str
    boot_id: str
    addresses: tuple[str, ...]
    """The cell's own, DNS listener included."""
    ports: tuple[PortReport, ...]
    """All of them: a lease of a handle that is not here is free."""
    epoch: int = 0
    """The highest leader epoch that the agent followed since it started. A bridge that leads by less has a store from
    backup, or leads no more (decisions 40)."""


class Attach(msgspec.Struct, frozen=True, tag="attach"):
    request: int
    port: PortReport


class Update(msgspec.Struct, frozen=True, tag="update"):
    """A port's `mapped_ports` or `added_net_out` changed. Answered with Granted when the change is in a span."""

    request: int
    port: PortReport


class Detached(msgspec.Struct, frozen=True, tag="detached"):
    """The container's rules, flows and link are gone from the cell: its lease may begin to rest."""

    handle: str


class Reached(msgspec.Struct, frozen=True, tag="reached"):
    """Everything of this revision is in force on the cell."""

    revision: int


class Drifted(msgspec.Struct, frozen=True, tag="drifted"):
    """Somebody changed what is ours; it was healed."""

    what: str
    count: int = 1
    """More than one: it is done again and again, and these are told together."""


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    version: int
    epoch: int
    """Leader epoch; an agent follows the highest it has seen."""
    foundation: str


class Granted(msgspec.Struct, frozen=True, tag="granted"):
    request: int
    addresses: tuple[str, ...]
    revision: int
    """Wait until this revision is in force on your cell before you answer Garden."""
    mtu: int = 0


class Denied(msgspec.Struct, frozen=True, tag="denied"):
    request: int
    code: str
    message: str
    retry: bool
    """True: ask again until your deadline (the bridge is not ready); False: a refusal."""


class Acknowledged(msgspec.Struct, frozen=True, tag="acknowledged"):
    handle: str


class Span(msgspec.Struct, frozen=True, tag="span"):
    """The part of the network that concerns the cell."""

    revision: int
    base: int
    """Revision it is a change against; 0 = whole."""
    network: LogicalNetwork
    """base 0: everything. Else: mappings hold changed and new entries only; other fields hold their new value."""
    gone: dict[str, tuple[Any, ...]]
    """`topology.ports` → keys that left."""


FromAgent = Hello | Attach | Update | Detached | Reached | Drifted
FromBridge = Welcome | Granted | Denied | Acknowledged | Span


_PARTS = ("topology", "ruleset")


def span(old: LogicalNetwork | None, new: LogicalNetwork) -> Span:
    """What an agent that holds `old` needs in order to hold `new`. `old` None: everything."""
    if old is None:
        return Span(new.revision, 0, new, {})
    gone: dict[str, tuple[Any, ...]] = {}
    parts = {}
    for part in _PARTS:
        before, after = getattr(old, part), getattr(new, part)
        changed: dict[str, Any] = {}
        for each in fields(after):
            was, now = getattr(before, each.name), getattr(after, each.name)
            if not isinstance(now, Mapping):
                continue
            changed[each.name], left = ({}, ()) if was is now else _differences(was, now)
            if left:
                gone[f"{part}.{each.name}"] = left
        parts[part] = replace(after, **changed)
    return Span(new.revision, old.revision, LogicalNetwork(new.revision, **parts), gone)


def _differences(was: Mapping[Any, Any], now: Mapping[Any, Any]) -> tuple[dict[Any, Any], tuple[Any, ...]]:
    """(what is new or another, the keys that left). Of 20,000 entries most are the very same objects: only others are
    compared, and who left is looked for only where the numbers say that somebody did."""
    known = was.get
    news = {k: v for k, v in now.items() if (old := known(k, _MISSING)) is not v and old != v}
    left: tuple[Any, ...] = ()
    if len(was) + sum(k not in was for k in news) != len(now):
        left = tuple(k for k in was if k not in now)
    return news, left


_MISSING = object()


def merge(held: LogicalNetwork | None, news: Span) -> LogicalNetwork:
    """The whole network after `news`. A mapping without news stays the same object, so that renderers may cache by
    identity. Raises ValueError when `news` is a change against a revision that is not held."""
    if news.base == 0:
        return news.network
    if held is None or held.revision != news.base:
        raise ValueError(f"span {news.revision} is a change against {news.base}, held is {held and held.revision}")
    parts = {}
    for part in _PARTS:
        before, after = getattr(held, part), getattr(news.network, part)
        merged: dict[str, Any] = {}
        for each in fields(after):
            was, now = getattr(before, each.name), getattr(after, each.name)
            if not isinstance(now, Mapping):
                continue
            left = news.gone.get(f"{part}.{each.name}", ())
            if not now and not left:
                merged[each.name] = was
                continue
            # The one key that is no text or number came as a plain list.
            keys = [PolicyMatch(*key) if isinstance(key, (list, tuple)) else key for key in left]
            merged[each.name] = Grown(was, now, keys)
        parts[part] = replace(after, **merged)
    return LogicalNetwork(news.revision, **parts)
