"""What of a cell's things belongs to whom that is here, and to whom that goes? Pure.

without: ports go ─> changes, and what is left          kept: nobody told us yet who may talk to whom
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from egress.values import pack
from garden_plugin.cell.nft_sets import device
from garden_plugin.dataplane.base import Change, Item, Key
from garden_plugin.dataplane.cell import LocalPort, LocalState
from garden_plugin.dataplane.linux import links
from garden_plugin.dataplane.linux.firewall import port_elements
from garden_plugin.dataplane.linux.items import SetItem
from garden_plugin.dataplane.linux.skeleton import SETS

_LOCAL = {f"{name}{n}" for name in ("port_src", "workload", "netin", "netin_ok", "hairpin") for n in (4, 6)}


def without(believed: Mapping[Key, Item], ports: Sequence[LocalPort]) -> tuple[list[Change], dict[Key, Item]]:
    """(what has to be done, what is there then) when these leave: elements, routes, links."""
    left = dict(believed)
    addresses = {address for port in ports for address in port.addresses}
    doomed = {(where, key) for port in ports for where, key in port_elements(port.device, port.addresses)}
    packed = [pack(address) for address in addresses]
    changes: list[Change] = []
    for key, item in believed.items():
        if isinstance(item, SetItem) and item.name in _LOCAL:
            stay = {
                key: data
                for key, data in item.elements.items()
                if (item.name, key) not in doomed and not _names(item.name, key, data, packed)
            }
            if len(stay) != len(item.elements):
                left[key] = SetItem(item.name, item.shape, stay)
                changes.append(Change(key, item, left[key]))
        elif isinstance(item, links.RouteItem) and item.address in addresses:
            changes.append(Change(key, left.pop(key), None))
    for port in ports:
        key = ("port", port.device)
        made = left.pop(key, None) or links.PortItem(port.device, port.addresses, handle=port.handle)
        changes.append(Change(key, made, None))
    return changes, left


def kept(there: Mapping[Key, Item], fresh: Mapping[Key, Item], local: LocalState) -> dict[Key, Item]:
    """What is in force, with isolated ports (`fresh`) added and absent ports removed."""
    present = {port.device for port in local.ports.values()}
    stays = {key: item for key, item in there.items() if not _absent(item, present)}
    for key, item in fresh.items():
        held = stays.get(key)
        if isinstance(item, SetItem) and isinstance(held, SetItem):
            stay = {key: data for key, data in held.elements.items() if not _of_absent(held.name, key, present)}
            if item.name in ("uplinks", "vm_ports"):
                stay = dict(held.elements)
            stays[key] = SetItem(item.name, item.shape, {**stay, **item.elements})
        elif held is None:
            stays[key] = item
    return stays


def isolated(local: LocalState) -> dict[str, LocalPort]:
    return {name: port for name, port in local.ports.items() if port.isolated}


def addresses_gone(changes: Iterable[Change]) -> list[str]:
    """Of workloads that left: their connections must not wait for the next holder."""
    return [
        change.before.address
        for change in changes
        if isinstance(change.before, links.RouteItem) and change.after is None
    ]


def _names(name: str, key: bytes, data: bytes | None, addresses: Iterable[bytes]) -> bool:
    """Whether an element of a mapped port concerns one of the addresses."""
    if name.startswith("netin"):
        where = key if data is None else data
        return any(where.startswith(address) and len(where) == len(address) + 4 for address in addresses)
    return name.startswith("hairpin") and any(key == address + address for address in addresses)


def _absent(item: Item, present: Collection[str]) -> bool:
    if isinstance(item, links.PortItem):
        return item.device not in present
    return isinstance(item, links.RouteItem) and bool(item.mac) and item.device not in present


def _of_absent(name: str, key: bytes, present: Collection[str]) -> bool:
    if not name.startswith("port_src"):
        return False
    whose = key[:16].rstrip(b"\0").decode()
    return whose.startswith("cf-") and whose not in present and device(whose) == key[:16]


assert SETS.keys() >= _LOCAL
