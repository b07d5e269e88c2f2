"""What did people ask for, since when, and which answers to a packet were right in a span of time?

    note(part, content)     the simulated foundation, or the intent file, says something new from now on
    due                     `settle` seconds later, all of them without a disturbance, the old no longer counts
    answers(way, a, b)      the oracle's verdicts in every mixture of what counted between a and b

The parts (policies, groups, orders, names) are read from different servers, so any mixture of theirs may be in force
for a moment; where all agree on a packet, it is judged. Nothing here knows what the bridge makes of it.
"""

from __future__ import annotations

import ipaddress
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from egress.values import QualifiedId
from policy_sync import translate, verdict
from policy_sync.model import (
    ANY,
    Action,
    Asg,
    CfPolicy,
    Group,
    Lifecycle,
    Packet,
    Protocol,
    Rule,
    Selector,
    SelectorKind,
    Service,
    Tier,
    Workload,
    World,
)

PARTS = ("policies", "groups", "orders", "names")
KEPT_SECONDS = 120.0
"""What stopped to count so long ago is asked by nobody."""


@dataclass(frozen=True, slots=True)
class End:
    """Who sends or receives: a container, a machine, or a host of the data centre."""

    address: str
    netns: str = ""
    """Where its sockets are made; empty where none is."""
    workload: Workload | None = None
    isolated: bool = False
    """A health check: nobody reaches it, it reaches nobody."""

    @property
    def name(self) -> str:
        return (self.workload.name or self.workload.id) if self.workload else self.address


@dataclass(frozen=True, slots=True)
class Way:
    """A connection that somebody may try."""

    source: End
    destination: End
    protocol: Protocol
    port: int
    by: tuple[str, int] | None = None
    """The mapped port that it comes by: address and port."""
    to_cell: bool = False
    """The cell itself receives it: without our table nobody keeps it from that (decisions 4)."""

    @property
    def dialled(self) -> tuple[str, int]:
        return self.by or (self.destination.address, self.port)

    def __str__(self) -> str:
        by = f", by {self.by[0]}:{self.by[1]}" if self.by else ""
        return f"{self.source.name} → {self.destination.name} {self.protocol.value}/{self.port}{by}"


@dataclass(frozen=True, slots=True)
class Order:
    """A rule of people, in the words of the intent file."""

    name: str
    tier: Tier
    action: Action
    source: str = "any"
    destination: str = "any"
    service: str = "all"

    def written(self) -> dict[str, str]:
        said = {"name": self.name, "action": self.action.value, "services": self.service}
        return {**said, "from": self.source, "to": self.destination}


@dataclass(frozen=True, slots=True)
class Orders:
    rules: tuple[Order, ...] = ()
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(name, members as written)"""


@dataclass(slots=True)
class Version:
    number: int
    content: Any
    began: float
    due: float | None = None
    """From then on it counts alone, until the next one begins."""


@dataclass(slots=True)
class Closure:
    begins: float
    unplugged: str
    untranslated: bool
    ends: float = float("inf")
    asleep: bool = False


@dataclass(frozen=True, slots=True)
class Names:
    """`org:acme`, `space:acme/dev`, `app:acme/dev/web` → qualified id."""

    ids: Mapping[str, QualifiedId] = field(default_factory=dict)


Ruling = tuple[tuple[Rule, ...], tuple[Group, ...]]
Policies = Mapping[tuple[QualifiedId, QualifiedId], tuple[CfPolicy, ...]]
_FIRST: Mapping[str, Any] = {"policies": {}, "groups": (), "orders": Orders(), "names": Names()}


class Truth:
    def __init__(
        self,
        settle: Mapping[str, float],
        *,
        pools: Sequence[str],
        cell_addresses: Sequence[str] = (),
        platform: Sequence[Rule] = (),
        bystanders: Sequence[Workload] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`settle`: by part, how long after a change the old may still be met. `bystanders`: machines, always there."""
        self._settle = settle
        self._pools = tuple(pools)
        self._cell = tuple(cell_addresses)
        self._platform = tuple(platform)
        self._bystanders = tuple(bystanders)
        self._clock = clock
        now = clock()
        self._numbers = itertools.count(1)
        self._parts = {part: [Version(0, _FIRST[part], now, now)] for part in PARTS}
        self._standing: list[str] = []
        self._quiet_since: float | None = now
        self._closed: list[Closure] = []
        self._judged: dict[tuple[object, ...], bool] = {}
        self._bound: dict[tuple[object, ...], tuple[Asg, ...]] = {}
        self._rulings: dict[tuple[int, int, int, int], tuple[int, ...]] = {}
        self._resolutions: dict[tuple[int, int], int] = {}
        self._rulesets: dict[Ruling, int] = {}
        self._by_number: dict[int, Ruling] = {}
        self.changes = 0

    # ---- what happens

    def note(self, part: str, content: object) -> None:
        """Said right after it was done, with nothing awaited in between."""
        versions = self._parts[part]
        if content != versions[-1].content:
            versions.append(Version(next(self._numbers), content, self._clock()))
            self.changes += 1

    def content(self, part: str) -> Any:
        return self._parts[part][-1].content

    @property
    def disturbed(self) -> tuple[str, ...]:
        return tuple(self._standing)

    def calm_since(self, moment: float) -> bool:
        return self._quiet_since is not None and self._quiet_since <= moment

    @contextmanager
    def disturbance(self, what: str) -> Iterator[None]:
        """Meanwhile old and new both count: nobody can have brought what is new into force."""
        self._standing.append(what)
        self._quiet_since = None
        try:
            yield
        finally:
            self._standing.remove(what)
            if not self._standing:
                self._quiet_since = self._clock()

    @contextmanager
    def closure(self, unplugged: str = "", untranslated: bool = False) -> Iterator[None]:
        """Meanwhile what is allowed may fail: somebody took from us what carries it. What is refused stays so, and live
        streams come through it, but those of the address whose link was taken, and with the whole table those that are
        translated: without a NAT chain the kernel translates nothing, and the cell itself answers them with a reset."""
        span = Closure(self._clock(), unplugged, untranslated)
        self._closed.append(span)
        try:
            yield
        finally:
            span.ends = self._clock()

    def tick(self, well_at: float | None = None) -> None:
        """What has settled counts alone from now on. `well_at`: when all was last known to be well; None = now."""
        now = self._clock()
        well = now if well_at is None else well_at
        for part, versions in self._parts.items():
            if self._quiet_since is not None:
                for version in versions:
                    ready = max(version.began, self._quiet_since) + self._settle[part]
                    if version.due is None and ready <= well:
                        version.due = now
            while len(versions) > 1 and versions[1].due is not None and versions[1].due < now - KEPT_SECONDS:
                del versions[0]
        self._closed = [span for span in self._closed if span.ends > now - KEPT_SECONDS]
        for known in (self._judged, self._bound, self._rulings):
            if len(known) > 100_000:
                known.clear()

    # ---- what was right

    def answers(self, way: Way, since: float, until: float) -> frozenset[bool]:
        """Whether it passes, by everything that counted at some moment from `since` to `until`."""
        if way.source.isolated or way.destination.isolated:
            return frozenset((False,))
        found: set[bool] = set()
        for meeting in itertools.product(
            self._between(way, since, until), self._outward(way, since, until), self._ruled(since, until)
        ):
            found.add(self._verdict(way, *meeting))
            if len(found) == 2:
                break
        if way.to_cell and any(not s.asleep and s.begins <= until and since <= s.ends for s in self._closed):
            found.add(True)
        return frozenset(found)

    def allowed_now(self, way: Way) -> bool:
        now = self._clock()
        return self.answers(way, now, now) == {True}

    def slept(self, since: float, until: float) -> None:
        """The soak itself did nothing in that time: what did not come may have come."""
        self._closed.append(Closure(since, "", False, until, asleep=True))

    def was_asleep(self, since: float, until: float) -> bool:
        return any(span.asleep and span.begins <= until and since <= span.ends for span in self._closed)

    def was_closed(self, since: float, until: float) -> bool:
        return any(span.begins <= until and since <= span.ends for span in self._closed)

    def may_end(self, way: Way, since: float, until: float) -> bool:
        """Whether somebody took from a stream what it can not do without."""
        addresses = (way.source.address, way.destination.address)
        translated = way.by is not None or way.destination.workload is None
        return any(
            span.begins <= until
            and since <= span.ends
            and (span.unplugged in addresses or (span.untranslated and translated))
            for span in self._closed
        )

    def _counted(self, part: str, since: float, until: float) -> list[Version]:
        versions = self._parts[part]
        first = max(number for number, each in enumerate(versions) if number == 0 or _is_due(each, since))
        return [version for version in versions[first:] if version.began <= until]

    # Most changes do not concern most ways: of each part, what differs for this one.

    def _between(self, way: Way, since: float, until: float) -> set[tuple[CfPolicy, ...]]:
        sender, receiver = way.source.workload, way.destination.workload
        if sender is None or receiver is None or not sender.app or not receiver.app:
            return {()}
        pair = sender.app, receiver.app
        return {version.content.get(pair, ()) for version in self._counted("policies", since, until)}

    def _outward(self, way: Way, since: float, until: float) -> set[tuple[Asg, ...]]:
        sender = way.source.workload
        if sender is None or way.destination.workload is not None:
            return {()}
        bound: set[tuple[Asg, ...]] = set()
        for version in self._counted("groups", since, until):
            key = (version.number, sender.space, sender.lifecycle)
            if key not in self._bound:
                self._bound[key] = tuple(group for group in version.content if _is_bound(group, sender))
            bound.add(self._bound[key])
        return bound

    def _ruled(self, since: float, until: float) -> tuple[int, ...]:
        """Numbers of rulesets: most names are in no rule."""
        orders, names = (self._counted(part, since, until) for part in ("orders", "names"))
        key = (orders[0].number, orders[-1].number, names[0].number, names[-1].number)
        if key not in self._rulings:
            self._rulings[key] = tuple({self._resolved(*each) for each in itertools.product(orders, names)})
        return self._rulings[key]

    def _resolved(self, orders: Version, names: Version) -> int:
        """In each tier in the order of the file."""
        key = (orders.number, names.number)
        if key not in self._resolutions:
            said: Orders = orders.content
            known = frozenset(name for name, _ in said.groups)
            rules = tuple(_rule(order, names.content, known) for order in said.rules)
            groups = tuple(
                Group(name, tuple(_selector(each, names.content, known) for each in members))
                for name, members in said.groups
            )
            self._resolutions[key] = self._rulesets.setdefault((rules, groups), len(self._rulesets))
            self._by_number[self._resolutions[key]] = rules, groups
        return self._resolutions[key]

    def _verdict(self, way: Way, between: tuple[CfPolicy, ...], outward: tuple[Asg, ...], ruling: int) -> bool:
        key = (way, between, outward, ruling)
        known = self._judged.get(key)
        if known is None:
            rules, groups = self._by_number[ruling]
            ends = (way.source.workload, way.destination.workload)
            there = tuple(end for end in ends if end is not None and end not in self._bystanders)
            world = World(
                workloads=(*there, *self._bystanders),
                groups=groups,
                rules=(*rules, *self._platform),
                policies=frozenset(between),
                asgs=outward,
                asgs_known=frozenset(("cf",)),
                container_pools=self._pools,
                cell_addresses=self._cell,
            )
            packet = Packet(
                way.source.address, way.destination.address, way.protocol, way.port, mapped=way.by is not None
            )
            known = self._judged[key] = verdict.verdict(world, packet).allowed
        return known


def _is_due(version: Version, at: float) -> bool:
    return version.due is not None and version.due <= at


def _is_bound(group: Asg, sender: Workload) -> bool:
    if sender.lifecycle is Lifecycle.STAGING:
        return group.staging_default or sender.space in group.staging_spaces
    return group.running_default or sender.space in group.running_spaces


def _rule(order: Order, names: Names, groups: frozenset[str]) -> Rule:
    return Rule(
        key=f"rule:{order.name}",
        name=order.name,
        tier=order.tier,
        sources=(_selector(order.source, names, groups),),
        destinations=(_selector(order.destination, names, groups),),
        action=order.action,
        services=(_service(order.service),),
    )


def _selector(written: str, names: Names, groups: frozenset[str]) -> Selector:
    """A name that nobody has matches nobody."""
    if written == "any":
        return ANY[0]
    if written.startswith("not "):
        return replace(_selector(written[4:], names, groups), negated=True)
    if written in groups:
        return Selector(SelectorKind.GROUP, written)
    kind, _, rest = written.partition(":")
    if kind in ("org", "space"):
        return Selector(SelectorKind(kind), names.ids.get(written, f"?{written}"))
    if kind == "kind":
        return Selector(SelectorKind.KIND, rest)
    if kind == "vm":
        return Selector(SelectorKind.WORKLOAD, written)
    try:
        ipaddress.ip_network(written)
        return Selector(SelectorKind.RANGE, written)
    except ValueError:
        return Selector(SelectorKind.APP, names.ids.get(f"app:{written}", f"?{written}"))


def _service(written: str) -> Service:
    name, _, ports = written.partition("/")
    first, _, last = ports.partition("-")
    return Service(Protocol(name), ((int(first), int(last or first)),) if ports else ())


def platform(pools: Sequence[str]) -> tuple[Rule, ...]:
    """The rules that are there before anybody said anything."""
    metadata = ("169.254.169.254", "168.63.129.16", "fd00:ec2::254")
    system = translate.system_rules(
        dns_listeners=("169.254.0.53",), metadata_addresses=metadata, container_pools=tuple(pools)
    )
    return (*system, *translate.baseline_rules())
