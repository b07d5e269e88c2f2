"""Which things does the linux firewall consist of? Whole sets with their elements, chains of lines.

Elements (cell/nft_sets.py) are bytes; lines are values, so that a dataplane in memory can follow them too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from garden_plugin.cell.nft_sets import TABLE, Elements, Shape, add_text
from garden_plugin.dataplane.base import Key
from policy_sync.model import Action

SET_RANK, CHAIN_RANK, JUMP_RANK = 10, 20, 30
"""Chains name sets, verdict maps name chains. Links come after 40."""


@dataclass(frozen=True, slots=True, eq=False)
class SetItem:
    """A whole set (decisions 20): one item, however many elements."""

    name: str
    shape: Shape
    elements: Elements = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return ("set", self.name)

    @property
    def rank(self) -> int:
        return JUMP_RANK if self.shape.verdict else SET_RANK

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, SetItem):
            return NotImplemented
        if self.name != other.name or self.shape != other.shape:
            return False
        return self.elements is other.elements or self.elements == other.elements

    def __hash__(self) -> int:
        return hash((self.name, len(self.elements)))

    def __str__(self) -> str:
        lines = [f"add {self.shape.declaration(self.name).replace(' ', f' {TABLE} ', 1)}"]
        return "\n".join([*lines, *add_text(self.name, self.shape, self.elements)])


@dataclass(frozen=True, slots=True)
class Line:
    """One rule of a chain, for one family (4, 6) or for both (0)."""

    action: Action
    rule: int
    family: int = 0
    sources: str | None = None
    destinations: str | None = None
    protocol: int | None = None
    ports: tuple[tuple[int, int], ...] = ()
    icmp_type: int | None = None
    icmp_code: int | None = None
    mapped: bool = False
    watch: bool = False

    def __str__(self) -> str:
        return " ".join([*self._matches(), self._verdict(), f'comment "r{self.rule}"'])

    def _matches(self) -> Iterator[str]:
        ip = {4: "ip", 6: "ip6"}.get(self.family, "")
        ends = [
            (end, name) for end, name in (("saddr", self.sources), ("daddr", self.destinations)) if name is not None
        ]
        # Plain addresses first: whom they rule out need not be looked for among intervals.
        for end, name in sorted(ends, key=lambda each: each[1][-3:-1] == "_i"):
            yield f"{ip} {end} @{name}"
        if ip and self.sources is None and self.destinations is None:
            yield f"meta nfproto ipv{self.family}"
        if self.mapped:
            yield f"ct status dnat {ip} daddr . tcp dport @netin_ok{self.family}"
        if self.ports:
            spelled = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in self.ports)
            yield f"{'tcp' if self.protocol == 6 else 'udp'} dport {{ {spelled} }}"
        elif self.icmp_type is not None:
            name = "icmp" if self.protocol == 1 else "icmpv6"
            yield f"{name} type {self.icmp_type}"
            if self.icmp_code is not None:
                yield f"{name} code {self.icmp_code}"
        elif self.protocol is not None:
            yield f"meta l4proto {self.protocol}"

    def _verdict(self) -> str:
        if self.watch:
            return f"meta mark set {self.rule:#x} jump watched"
        if self.action is Action.ALLOW:
            return f"ct mark set {self.rule:#x} goto admit"
        if self.action is Action.PASS:
            return "return"
        return f"meta mark set {self.rule:#x} goto refuse_{self.action.value}"


@dataclass(frozen=True, slots=True)
class ChainItem:
    name: str
    lines: tuple[Line, ...] = ()

    @property
    def key(self) -> Key:
        return ("chain", self.name)

    @property
    def rank(self) -> int:
        return CHAIN_RANK

    def __str__(self) -> str:
        head = [f"add chain {TABLE} {self.name}", f"flush chain {TABLE} {self.name}"]
        return "\n".join([*head, *(f"add rule {TABLE} {self.name} {line}" for line in self.lines)])
