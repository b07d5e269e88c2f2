"""What did somebody change, in words? What we left against what is there.

Names of foreign things are theirs: nothing unprintable of them gets into a log or onto a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from garden_plugin.cell.nft_sets import Elements, Shape, spell
from garden_plugin.dataplane import plan
from garden_plugin.dataplane.base import Change, Item, Key
from garden_plugin.dataplane.linux.arp import ArpItem
from garden_plugin.dataplane.linux.items import ChainItem, SetItem
from garden_plugin.dataplane.linux.links import (
    BlackholeItem,
    PolicyRuleItem,
    PortItem,
    RouteItem,
    SnatAddressItem,
    VmPortItem,
)

_LINES = 12
_SHOWN = 3
"""Elements of a set that are spelled."""
_WIDTH = 200


def sentences(left: Mapping[Key, Item], found: Mapping[Key, Item]) -> Iterator[str]:
    """Chains are told by `written`, which knows their rules."""
    for change in plan.diff(left, found).changes:
        if not isinstance(change.before or change.after, ChainItem):
            yield from _said(change)


def report(said: Iterable[str]) -> str:
    """Bounded, printable, one line each."""
    lines = list(dict.fromkeys(_printable(each) for each in said))
    more = [f"and {len(lines) - _LINES} more"] if len(lines) > _LINES else []
    return "; ".join([*lines[:_LINES], *more])


def setting(name: str, value: str) -> str:
    return f"setting {name.replace('/', '.')} was changed to {value}"


def _printable(words: str) -> str:
    clean = "".join(each if each.isprintable() else "?" for each in words)
    return clean if len(clean) <= _WIDTH else f"{clean[: _WIDTH - 1]}…"


def _said(change: Change) -> Iterator[str]:
    match change.before, change.after:
        case SetItem() as was, SetItem() as now:
            yield from _of_elements(now.name, now.shape, was.elements, now.elements)
        case RouteItem() as was, RouteItem() as now:
            yield from _of_route(was, now)
        case PortItem() as was, PortItem() as now:
            yield f"link {was.device} of {was.handle or was.addresses[0]} was changed: {now.wrong or 'another alias'}"
        case VmPortItem() as was, VmPortItem():
            yield f"device {was.device} of a VM was changed"
        case was, None:
            yield f"{_named(was)} was deleted"
        case None, now:
            yield f"{_named(now)} was added"
        case was, _:
            yield f"{_named(was)} was changed"


def _of_elements(name: str, shape: Shape, was: Elements, now: Elements) -> Iterator[str]:
    lost = [key for key in was if key not in now]
    gained = [key for key in now if key not in was]
    changed = [key for key in now if key in was and was[key] != now[key]]
    for deed, keys, elements in (("lost", lost, was), ("gained", gained, now), ("has other data for", changed, now)):
        if keys:
            shown = ", ".join(spell(shape, key, elements[key]) for key in keys[:_SHOWN])
            shown += ", …" if len(keys) > _SHOWN else ""
            yield f"set {name} {deed} {len(keys)} {'element' if len(keys) == 1 else 'elements'} ({shown})"


def _of_route(was: RouteItem, now: RouteItem) -> Iterator[str]:
    if was.mac != now.mac:
        yield f"the permanent neighbour {was.address} was {f'given the MAC {now.mac}' if now.mac else 'deleted'}"
    if (was.device, was.source) != (now.device, now.source):
        yield f"route {was.address} was led to {now.device or 'nowhere'}"


def _named(item: object) -> str:
    match item:
        case PortItem(device=device, handle=handle):
            return f"link {device}{f' of {handle}' if handle else ''}"
        case VmPortItem(device=device):
            return f"device {device} of a VM"
        case RouteItem(address=address):
            return f"route {address}"
        case BlackholeItem(prefix=prefix):
            return f"blackhole {prefix}"
        case PolicyRuleItem(rule=rule):
            return f"IPv{rule.family} rule {rule.priority}"
        case SnatAddressItem(address=address, device=device):
            return f"address {address} of {device}"
        case SetItem(name=name):
            return f"set {name}"
        case ArpItem():
            return "table arp cfbridge"
    return "something"
