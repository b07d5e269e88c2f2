"""Which VMs may ask for their neighbours by ARP? A table of its own, since family `inet` does not see ARP.

guest: who has 10.240.1.5? ─> chain `neighbours`: the mark ─> route by table 7712 ─> the cell answers (proxy ARP)

To whatever carries no mark a pool is a black hole (decisions 4), and the cell would keep silent about the containers of
the VM's own segment. What the guest may send to a neighbour is the firewall's to say. One rule a port; with no VM here
there is no table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from garden_plugin.cell.nft import ARP, Nft
from garden_plugin.cell.nft_answers import ChainSeen, TableSeen
from garden_plugin.dataplane.base import Key
from garden_plugin.dataplane.linux.items import SET_RANK
from garden_plugin.dataplane.linux.skeleton import ROUTE_MARK

TABLE = "arp cfbridge"
_CHAIN = "neighbours"
_KEY: Key = ("arp", _CHAIN)
_COMMENT = "cfbridge arp 1"
_ABSENT = f"add table {TABLE}\ndelete table {TABLE}\n"
_Chains = dict[str, ChainSeen]


@dataclass(frozen=True, slots=True)
class ArpItem:
    """The whole table."""

    devices: tuple[str, ...]

    @property
    def key(self) -> Key:
        return _KEY

    @property
    def rank(self) -> int:
        return SET_RANK

    def __str__(self) -> str:
        rules = "".join(
            f'\t\tiifname "{device}" meta mark set {ROUTE_MARK:#x} comment "{device}"\n' for device in self.devices
        )
        hook = "\t\ttype filter hook input priority filter; policy accept;\n"
        return f'table {TABLE} {{\n\tcomment "{_COMMENT}"\n\tchain {_CHAIN} {{\n{hook}{rules}\t}}\n}}\n'


_TOUCHED = ArpItem(())
"""A table that is not as we left it: nobody wants it as it is."""


def render(devices: Iterable[str]) -> dict[Key, ArpItem]:
    """Pure. Devices have names that a device can have."""
    item = ArpItem(tuple(sorted(devices)))
    return {item.key: item} if item.devices else {}


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
