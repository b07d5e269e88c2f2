"""Who may speak ARP to the cell? A table of its own, since family `inet` does not see ARP.

container: whatever ─> nothing: it and the cell know each other without asking
guest: I, 10.240.1.9, ask: who has 10.240.1.5? ─> the mark ─> route by table 7712 ─> the cell answers (proxy ARP)
guest: by any other address ─> nothing

Whoever is heard is remembered by the cell, and what the cell can remember of neighbours it shares with its uplink: a
container that spoke by a thousand addresses would take the network from all. The mark is for VMs: to whatever carries
none a pool is a black hole (decisions 4), and the cell would keep silent about the containers of the VM's own segment.
What the guest may send to a neighbour is the firewall's to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from garden_plugin.cell.nft import ARP, Nft
from garden_plugin.cell.nft_answers import ChainSeen, TableSeen
from garden_plugin.dataplane import owner
from garden_plugin.dataplane.base import Key
from garden_plugin.dataplane.linux.items import SET_RANK
from garden_plugin.dataplane.linux.skeleton import ROUTE_MARK

TABLE = "arp cfbridge"
_CHAIN = "neighbours"
_KEY: Key = ("arp", _CHAIN)
_COMMENT = "cfbridge arp 2"
_NOBODY = "0.0.0.0"  # noqa: S104 - says who asks whether an address is taken, before using it
_ABSENT = f"add table {TABLE}\ndelete table {TABLE}\n"
_Chains = dict[str, ChainSeen]


@dataclass(frozen=True, slots=True)
class ArpItem:
    """The whole table."""

    seals: tuple[str, ...]
    """Of each rule: its comment. By them the kernel's table is known; its rules are not read back."""
    rules: tuple[str, ...] = field(default=(), compare=False)

    @property
    def key(self) -> Key:
        return _KEY

    @property
    def rank(self) -> int:
        return SET_RANK

    def __str__(self) -> str:
        rules = "".join(f'\t\t{rule} comment "{seal}"\n' for rule, seal in zip(self.rules, self.seals, strict=False))
        hook = "\t\ttype filter hook input priority filter; policy accept;\n"
        return f'table {TABLE} {{\n\tcomment "{_COMMENT}"\n\tchain {_CHAIN} {{\n{hook}{rules}\t}}\n}}\n'


_TOUCHED = ArpItem(())
"""A table that is not as we left it: nobody wants it as it is."""


def render(vms: Iterable[tuple[str, tuple[str, ...]]]) -> dict[Key, ArpItem]:
    """Pure. (device, addresses) of each VM; devices have names that a device can have."""
    rules = ['iifname "cf-*" drop']
    for device, addresses in sorted(vms):
        own = ", ".join((_NOBODY, *sorted(address for address in addresses if ":" not in address)))
        rules.append(f'iifname "{device}" arp saddr ip {{ {own} }} meta mark set {ROUTE_MARK:#x} accept')
        rules.append(f'iifname "{device}" drop')
    item = ArpItem(tuple(owner.seal([rule]) for rule in rules), tuple(rules))
    return {item.key: item}


def script(item: ArpItem | None) -> str:
    """nft commands that put it in the place of whatever table of that name is there."""
    return _ABSENT + ("" if item is None else str(item))


class Neighbours:
    """Remembers how the kernel showed the table after we wrote it."""

    def __init__(self, nft: Nft) -> None:
        self._nft = nft
        self._seen: _Chains | None = None

    def written(self) -> None:
        self._seen = self._nft.chains(ARP)

    def observe(self) -> ArpItem | None:
        table = self._nft.table(ARP)
        if table is None:
            return None
        chains = self._nft.chains(ARP)
        if table != TableSeen(_COMMENT, dormant=False) or chains.keys() != {_CHAIN} or chains != (self._seen or chains):
            return _TOUCHED
        self._seen = chains
        return ArpItem(tuple(rule.comment for rule in chains[_CHAIN].rules))
