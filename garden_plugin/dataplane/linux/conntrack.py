"""Which live connections does a change concern, and what becomes of them? (decisions 1)

suspects (pure): old and new ruleset ─> marks, addresses or everything     flows: kernel-filtered dump of those
restamp: judge each as if it began now ─> its id of today, or the end: mark 0 (TCP: the next packet is judged anew, and
reset; replies are dropped) or deletion (the others)
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from egress.values import PackedRange, Unavailable, contains, merge, pack, subtract
from garden_plugin.dataplane.grown import touched
from garden_plugin.dataplane.linux import connection
from garden_plugin.dataplane.linux.connection import Flow
from policy_sync.model import PROTOCOL_NUMBER, Action, Packet, Protocol
from policy_sync.ruleset import IDENTITY_BIT, AddressSet, CompiledRule, Ruleset

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NETFILTER = 12
_NEW, _GET, _DELETE = 0x100, 0x101, 0x102
_NESTED = 0x8000
_AT_ONCE = 200
_FEW_MARKS, _FEW_ADDRESSES = 8, 16
"""The kernel walks its whole table for each question: more than these, and one whole dump is cheaper."""


Judge = Callable[[Packet], tuple[Action, int]]


@dataclass(frozen=True, slots=True)
class Suspects:
    """Connections that a change may have moved to another rule, or to none."""

    marks: frozenset[int] = frozenset()
    ranges: tuple[PackedRange, ...] = ()
    """Either end."""
    everything: bool = False

    def __bool__(self) -> bool:
        return bool(self.marks or self.ranges or self.everything)

    def has(self, flow: Flow) -> bool:
        if self.everything or flow.mark in self.marks:
            return True
        return bool(self.ranges) and (contains(self.ranges, flow.source) or contains(self.ranges, flow.destination))


@dataclass(frozen=True, slots=True)
class Restamped:
    looked_at: int = 0
    kept: int = 0
    """Allowed by another rule now."""
    cut: int = 0


# --- pure -------------------------------------------------------------------------------------------------------------


def suspects(old: Ruleset, new: Ruleset) -> Suspects:
    found = _Found()
    for match in touched(old.policies, new.policies):
        if match in old.policies and new.policies.get(match) != old.policies[match]:
            found.marks.add(old.policies[match])
    for before, after in ((old.identities, new.identities), (old.egress, new.egress)):
        found.addresses(_moved(before, after))
    for name, rules in old.profiles.items():
        today = new.profiles.get(name, rules)
        if rules is not today or old.sets is not new.sets:
            _compare(_keyed(rules), _keyed(today), old.sets, new.sets, found)
    if old.container_pools != new.container_pools:
        found.everything = True
    for tier in {*old.tiers, *new.tiers}:
        before_rules, after_rules = old.tiers.get(tier, ()), new.tiers.get(tier, ())
        if before_rules is not after_rules or old.sets is not new.sets:
            _compare(_keyed(before_rules), _keyed(after_rules), old.sets, new.sets, found)
    if found.everything:
        return Suspects(everything=True)
    return Suspects(frozenset(found.marks), merge(found.ranges))


class _Found:
    def __init__(self) -> None:
        self.marks: set[int] = set()
        self.ranges: list[PackedRange] = []
        self.everything = False

    def addresses(self, addresses: Iterable[str]) -> None:
        self.ranges.extend((packed, packed) for packed in map(pack, addresses))


def _moved(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    keys = touched(before, after)
    yield from (address for address in keys if address in before and after.get(address) != before[address])


def _keyed(rules: Iterable[CompiledRule]) -> dict[tuple[int, int], CompiledRule]:
    """By id and occurrence: two lines may carry one id."""
    keyed: dict[tuple[int, int], CompiledRule] = {}
    seen: dict[int, int] = {}
    for rule in rules:
        number = seen[rule.id] = seen.get(rule.id, -1) + 1
        keyed[rule.id, number] = rule
    return keyed


_Lines = Mapping[tuple[int, int], CompiledRule]
_Sets = Mapping[str, AddressSet]


def _compare(before: _Lines, after: _Lines, old_sets: _Sets, new_sets: _Sets, found: _Found) -> None:
    stayed = [key for key in before if key in after]
    if stayed != [key for key in after if key in before]:
        found.everything = True  # rules changed places
        return
    for key in stayed:
        old, new = before[key], after[key]
        if (old.action, old.services, old.watch, old.mapped_only) == (
            new.action,
            new.services,
            new.watch,
            new.mapped_only,
        ):
            _ends(old, new, old_sets, new_sets, found)
        else:
            _without(old, old_sets, found)
            _with(new, new_sets, found)
    for key in before.keys() - after.keys():
        _without(before[key], old_sets, found)
    for key in after.keys() - before.keys():
        _with(after[key], new_sets, found)


def _without(rule: CompiledRule, sets: _Sets, found: _Found) -> None:
    """A rule is gone: what it allowed, or saved from a refusal further down."""
    if rule.watch:
        return
    if rule.action is Action.ALLOW:
        found.marks.add(rule.id)
    elif rule.action is Action.PASS:
        _scope(rule, sets, found)


def _with(rule: CompiledRule, sets: _Sets, found: _Found) -> None:
    """A rule is new: what it refuses, or leads past an allow."""
    if not rule.watch and rule.action is not Action.ALLOW:
        _scope(rule, sets, found)


def _scope(rule: CompiledRule, sets: _Sets, found: _Found) -> None:
    named = [_ranges(sets, name) for name in (rule.sources, rule.destinations) if name is not None]
    if not named:
        found.everything = True
    else:
        found.ranges.extend(sorted(named, key=len)[0])


def _ends(old: CompiledRule, new: CompiledRule, old_sets: _Sets, new_sets: _Sets, found: _Found) -> None:
    """The same rule with other addresses."""
    for was, now in ((old.sources, new.sources), (old.destinations, new.destinations)):
        if old.watch or (was is None and now is None):
            continue
        if was is None or now is None:
            _without(old, old_sets, found)
            _with(new, new_sets, found)
            continue
        if (left := old_sets.get(was)) is (right := new_sets.get(now)) or left == right:
            continue
        before, after = _ranges(old_sets, was), _ranges(new_sets, now)
        lost, gained = subtract(before, after), subtract(after, before)
        if old.action is Action.ALLOW and lost:
            found.marks.add(old.id)
        elif old.action is Action.PASS:
            found.ranges.extend([*lost, *gained])
        elif old.action is not Action.ALLOW:
            found.ranges.extend(gained)


def _ranges(sets: _Sets, name: str) -> tuple[PackedRange, ...]:
    named = sets.get(name, AddressSet())
    return (*named.v4, *named.v6)


# --- the kernel's side ------------------------------------------------------------------------------------------------


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


class Conntrack:
    """A socket of our own in the namespace of the thread that made it. Synchronous; used by one thread."""

    def __init__(self, timeout: float = 30.0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
        self._socket.bind((0, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        self._socket.settimeout(timeout)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def flows(self, mark: int | None = None, address: bytes | None = None) -> list[Flow]:
        """Those with the mark, or with the address at either end; all of them. The kernel filters."""
        if address is not None:
            found = {flow.tuple: flow for side in (1, 2) for flow in self._dump(_by_address(address, side), address)}
            return list(found.values())
        body = b""
        if mark is not None:
            body = _attribute(8, struct.pack("!I", mark)) + _attribute(21, b"\xff\xff\xff\xff")
        return list(self._dump(body))

    def suspected(self, suspects: Suspects) -> list[Flow]:
        singles = [first for first, last in suspects.ranges if first == last]
        few = len(suspects.marks) <= _FEW_MARKS and len(suspects.ranges) == len(singles) <= _FEW_ADDRESSES
        if suspects.everything or not few:
            return [flow for flow in self.flows() if suspects.has(flow)]
        found: dict[bytes, Flow] = {}
        for mark in suspects.marks:
            found.update((flow.tuple, flow) for flow in self.flows(mark=mark))
        for address in singles:
            found.update((flow.tuple, flow) for flow in self.flows(address=address))
        return list(found.values())

    def stamp(self, flows: Sequence[tuple[Flow, int]]) -> None:
        """A flow that ended meanwhile is none of ours."""
        marked = ((flow, _attribute(8, struct.pack("!I", mark))) for flow, mark in flows)
        self._each(_NEW, [(flow, extra) for flow, extra in marked])

    def delete(self, flows: Iterable[Flow]) -> None:
        self._each(_DELETE, [(flow, b"") for flow in flows])

    def forget(self, addresses: Iterable[str]) -> int:
        """Deletes every connection of the addresses: the next holder must not inherit one (decisions 2)."""
        wanted = [pack(address) for address in addresses]
        ranges = merge((address, address) for address in wanted)
        found = self.suspected(Suspects(ranges=ranges)) if wanted else []
        self.delete(found)
        return len(found)

    def _each(self, kind: int, todo: Sequence[tuple[Flow, bytes]]) -> None:
        for start in range(0, len(todo), _AT_ONCE):
            parts = []
            batch = todo[start : start + _AT_ONCE]
            for flow, extra in batch:
                self._sequence += 1
                body = _attribute(1 | _NESTED, flow.tuple) + extra
                flags = 1 | (4 if flow is batch[-1][0] else 0)
                parts.append(_message(kind, flags, self._sequence, body, _family(flow.source)))
            self._exchange(b"".join(parts), self._sequence)

    def _exchange(self, data: bytes, last: int) -> None:
        try:
            self._socket.send(data)
            while True:
                answer = self._socket.recv(1 << 20)
                offset = 0
                while offset + 20 <= len(answer):
                    size, kind, _, sequence, _ = _HEADER.unpack_from(answer, offset)
                    number = -struct.unpack_from("=i", answer, offset + 16)[0] if kind == 2 else 0
                    if number not in (0, errno.ENOENT):
                        raise Unavailable(f"conntrack refused: {os.strerror(number)}")
                    if kind == 2 and sequence == last:
                        return
                    offset += (size + 3) & ~3
        except OSError as failed:
            raise Unavailable(f"conntrack did not answer: {failed}") from failed

    def _dump(self, body: bytes, address: bytes | None = None) -> Iterator[Flow]:
        self._sequence += 1
        sequence = self._sequence
        family = _family(address) if address is not None else 0
        try:
            self._socket.send(_message(_GET, 0x301, sequence, body, family))
            while True:
                data = self._socket.recv(1 << 20)
                offset = 0
                while offset + 16 <= len(data):
                    size, kind, _, answered, _ = _HEADER.unpack_from(data, offset)
                    if answered == sequence:
                        if kind == 3:
                            return
                        if kind == 2:
                            number = -struct.unpack_from("=i", data, offset + 16)[0]
                            raise Unavailable(f"conntrack refused to list: {os.strerror(number)}")
                        found = connection.read(data, offset + 20, offset + size)
                        if found is not None:
                            yield found
                    offset += (size + 3) & ~3
        except OSError as failed:
            raise Unavailable(f"conntrack did not answer: {failed}") from failed


def _family(packed: bytes) -> int:
    return int(socket.AF_INET if len(packed) == 4 else socket.AF_INET6)


def _message(kind: int, flags: int, sequence: int, body: bytes, family: int) -> bytes:
    head = _HEADER.pack(20 + len(body), kind, flags, sequence, 0)
    return head + struct.pack("!BBH", family, 0, 0) + body


def _by_address(address: bytes, side: int) -> bytes:
    """Source of the original (1) or of the reply (2) direction: the latter is the destination after translation."""
    ip = _attribute(1 | _NESTED, _attribute(1 if len(address) == 4 else 3, address))
    return _attribute(side | _NESTED, ip) + _attribute(25 | _NESTED, _attribute(side, struct.pack("=I", 1)))


def restamp(conntrack: Conntrack, suspects: Suspects, judge: Judge) -> Restamped:
    """Only flows that a rule admitted: mark 0 is a connection that passes none of our ports, or is dead already."""
    flows = [flow for flow in conntrack.suspected(suspects) if 0 < flow.mark < IDENTITY_BIT]
    verdicts: dict[tuple[object, ...], tuple[Action, int]] = {}
    stamps: list[tuple[Flow, int]] = []
    dead: list[Flow] = []
    kept = cut = 0
    for flow in flows:
        same = flow[:7]
        verdict = verdicts.get(same)
        if verdict is None:
            verdict = verdicts[same] = judge(flow.packet())
        action, rule = verdict
        if action is Action.ALLOW:
            if rule != flow.mark:
                stamps.append((flow, rule))
                kept += 1
        elif flow.protocol == PROTOCOL_NUMBER[Protocol.TCP]:
            stamps.append((flow, 0))
            cut += 1
        else:
            dead.append(flow)
            cut += 1
    conntrack.stamp(stamps)
    conntrack.delete(dead)
    return Restamped(len(flows), kept, cut)
