"""A dataplane in a dictionary: it refuses what a kernel refuses, and decides about packets from what was applied alone.

It holds the linux firewall's items, and follows their lines, sets and maps as the frame's chains do
(linux/skeleton.py); it knows nothing of the ruleset that they were rendered from.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

from egress.values import Unavailable, pack
from garden_plugin.cell.nft_sets import SIZES, mark, ordered_mark, protocol, service
from garden_plugin.dataplane.base import Change, Item, Key, LogicalNetwork, Plan
from garden_plugin.dataplane.cell import LocalState
from garden_plugin.dataplane.linux.firewall import Firewall
from garden_plugin.dataplane.linux.items import ChainItem, Line, SetItem
from policy_sync.model import PROTOCOL_NUMBER, Action, Packet, Protocol


class Rejected(Unavailable):
    """The change refers to what is not there, or contradicts what is. Nothing of the plan was done."""


class Memory:
    """`local`: what is on the cell, as the linux dataplane is told it."""

    def __init__(self, local: LocalState | None = None) -> None:
        self.local = local or LocalState("cell", "", ())
        self._firewall = Firewall()
        self._items: dict[Key, Item] = {}
        self._sorted: dict[str, tuple[object, list[bytes]]] = {}

    def render(self, network: LogicalNetwork) -> Mapping[Key, Item]:
        return self._firewall.render(network, self.local)

    async def observe(self) -> Mapping[Key, Item]:
        return dict(self._items)

    async def apply(self, plan: Plan) -> None:
        """All of it, or Rejected and nothing of it."""
        items = dict(self._items)
        for change in plan.changes:
            _change(items, change)
        self._items = items

    def flush(self) -> None:
        """As a foreign `nft flush ruleset`."""
        self._items = {}

    # --- packets ------------------------------------------------------------------------------------------------------

    def decide(self, packet: Packet, to_the_cell: bool = False) -> tuple[Action, int]:
        """(action, rule id) for the first packet of a connection. `to_the_cell`: delivered here, not forwarded."""
        if not self._items:
            return Action.DROP, 0  # no table: nothing is marked, and nothing is routed to a workload
        for tier in range(4):
            if (verdict := self._chain(f"tier{tier}", packet)) is not None:
                return verdict
        source, destination = pack(packet.source), pack(packet.destination)
        n = 4 if len(destination) == 4 else 6
        if self._in(f"pools{n}", destination):
            if (rule := self._policy(packet, source, destination, n)) is not None:
                return self._admit(rule)
        elif not to_the_cell:
            jump = self._set(f"asg{n}").elements.get(source)
            verdict = self._chain(jump.decode(), packet) if jump is not None else None
            if verdict is not None:
                return verdict
        return self._chain("tier4", packet) or (Action.REJECT, 0)

    def _chain(self, name: str, packet: Packet) -> tuple[Action, int] | None:
        chain = self._items[("chain", name)]
        assert isinstance(chain, ChainItem)
        for line in chain.lines:
            if line.watch or not self._matches(line, packet):
                continue
            if line.action is Action.PASS:
                return None
            return self._admit(line.rule) if line.action is Action.ALLOW else (line.action, line.rule)
        return None

    def _admit(self, rule: int) -> tuple[Action, int]:
        """An id that is not in `live` lets the first packet pass and none that follows."""
        return (Action.ALLOW, rule) if mark(rule) in self._set("live").elements else (Action.REJECT, 0)

    def _matches(self, line: Line, packet: Packet) -> bool:
        source, destination = pack(packet.source), pack(packet.destination)
        number = _number(packet)
        family = 4 if len(source) == 4 else 6
        if line.family not in (0, family):
            return False
        if line.sources is not None and not self._in(line.sources, source):
            return False
        if line.destinations is not None and not self._in(line.destinations, destination):
            return False
        if line.protocol is not None and line.protocol != number:
            return False
        if line.ports and not any(first <= packet.port <= last for first, last in line.ports):
            return False
        if line.icmp_type is not None and line.icmp_type != packet.icmp_type:
            return False
        if line.icmp_code is not None and line.icmp_code != packet.icmp_code:
            return False
        if line.mapped:
            reached = destination + service(packet.port)
            return packet.mapped and number == 6 and reached in self._set(f"netin_ok{family}").elements
        return True

    def _policy(self, packet: Packet, source: bytes, destination: bytes, n: int) -> int | None:
        identities = self._set(f"identity{n}").elements
        ends = [identities.get(each) for each in (source, destination)]
        number = _number(packet)
        if ends[0] is None or ends[1] is None or number not in (6, 17):
            return None
        exact = self._set("allow").elements.get(ends[0] + ends[1] + protocol(number) + service(packet.port))
        if exact is not None:
            return int.from_bytes(exact, "little")
        who = [ordered_mark(int.from_bytes(end, "little")) for end in ends if end is not None]
        key = who[0] + who[1] + protocol(number) + service(packet.port)
        for interval, rule in self._set("allow_range").elements.items():
            if interval[:12] == key[:12] and interval[:16] <= key <= interval[16:] and rule is not None:
                return int.from_bytes(rule, "little")
        return None

    def _set(self, name: str) -> SetItem:
        found = self._items[("set", name)]
        assert isinstance(found, SetItem)
        return found

    def _in(self, name: str, address: bytes) -> bool:
        found = self._set(name)
        if found.shape.key_size != len(address):
            return False
        if not found.shape.interval:
            return address in found.elements
        kept = self._sorted.get(name)
        if kept is None or kept[0] is not found.elements:
            kept = self._sorted[name] = (found.elements, sorted(found.elements))
        size = len(address)
        at = bisect_right(kept[1], address + b"\xff" * size) - 1
        return at >= 0 and kept[1][at][:size] <= address <= kept[1][at][size:]


def _number(packet: Packet) -> int:
    return PROTOCOL_NUMBER.get(packet.protocol, 0) if isinstance(packet.protocol, Protocol) else packet.protocol


# --- what a kernel refuses --------------------------------------------------------------------------------------------


def _change(items: dict[Key, Item], change: Change) -> None:
    held = items.get(change.key)
    if held != change.before:
        raise Rejected(f"{' '.join(change.key)} is not as it was believed to be")
    after = change.after
    if after is None:
        del items[change.key]
        _unused(items, change.key)
    elif isinstance(after, SetItem):
        if isinstance(held, SetItem) and held.shape != after.shape:
            raise Rejected(f"set {after.name} can't become another kind of set")
        _sound(after, items)
        items[change.key] = after
    elif isinstance(after, ChainItem):
        for line in after.lines:
            for name in (line.sources, line.destinations):
                if name is not None and ("set", name) not in items:
                    raise Rejected(f"chain {after.name} names the set {name}, which is not there")
        items[change.key] = after
    else:
        raise Rejected(f"{' '.join(change.key)} is neither a set nor a chain")


def _sound(item: SetItem, items: Mapping[Key, Item]) -> None:
    shape = item.shape
    ends = 2 if shape.interval else 1
    for key, data in item.elements.items():
        if len(key) != ends * shape.key_size:
            raise Rejected(f"set {item.name}: a key of {len(key)} bytes")
        if (data is None) != (not shape.data):
            raise Rejected(f"set {item.name}: an element {'without' if data is None else 'with'} data")
        if data is not None and shape.verdict and ("chain", data.decode()) not in items:
            raise Rejected(f"map {item.name} jumps to the chain {data.decode()}, which is not there")
        size = sum(-(-SIZES[name] // 4) * 4 for name in shape.data) if not shape.verdict else 0
        if data is not None and size and len(data) != size:
            raise Rejected(f"map {item.name}: data of {len(data)} bytes")
    if shape.interval:
        _apart(item)


def _apart(item: SetItem) -> None:
    """Intervals of one set may not overlap; those of a concatenation differ in their last field here."""
    size = item.shape.key_size
    last = b""
    for key in sorted(item.elements):
        if key[:size] > key[size:] or (last and key[:size] <= last):
            raise Rejected(f"set {item.name}: intervals that end before they begin, or overlap")
        last = key[size:]


def _unused(items: Mapping[Key, Item], key: Key) -> None:
    kind, name = key[0], key[1]
    for other, item in items.items():
        lines = item.lines if isinstance(item, ChainItem) else ()
        if kind == "set" and any(name in (line.sources, line.destinations) for line in lines):
            raise Rejected(f"set {name} is still named by chain {other[1]}")
        jumps = item.elements.values() if isinstance(item, SetItem) and item.shape.verdict else ()
        if kind == "chain" and name.encode() in jumps:
            raise Rejected(f"chain {name} is still jumped to by map {other[1]}")
