"""Is it ours, what somebody just changed? Notifications against what we believe, so that only harm costs a look.

Our own changes are told as well: routes, rules and addresses by our netlink port, links by looking as they should.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from garden_plugin.cell import netlink_answers as answers
from garden_plugin.cell import netlink_messages as rtnl
from garden_plugin.cell import netlink_watch as watch
from garden_plugin.cell import plug
from garden_plugin.cell.netlink import Netlink
from garden_plugin.cell.netlink_answers import Link
from garden_plugin.cell.netlink_watch import Heard
from garden_plugin.dataplane.base import Item, Key
from garden_plugin.dataplane.linux import links

_FEW = 50
"""More links than these, and one dump is cheaper than a question for each."""


def done(heard: Iterable[Heard], netlink: Netlink, believed: Mapping[Key, Item], refused: Container[Key]) -> bool:
    """Whether something of ours is not as we left it, or what could not be made may be possible now. Reads all that was
    heard."""
    harmed = False
    touched: set[str] = set()
    configured: set[int] = set()
    for event in heard:
        match event.kind:
            case watch.NEWLINK | watch.DELLINK:
                link = answers.read_link(event.body)
                if link.group == rtnl.GROUP or any(key in believed or key in refused for key in _keys(link.name)):
                    touched.add(link.name)
            case watch.NEWROUTE | watch.DELROUTE:
                harmed = harmed or (event.port != netlink.port and _of_route(event, believed))
            case watch.NEWRULE | watch.DELRULE:
                rule = answers.read_rule(event.body)
                harmed = harmed or (event.port != netlink.port and rule.protocol == rtnl.PROTOCOL)
            case watch.NEWADDR | watch.DELADDR:
                address = answers.read_address(event.body)
                ours = address.protocol == rtnl.PROTOCOL or address.label.endswith(f":{links.LABEL}")
                harmed = harmed or (event.port != netlink.port and ours)
            case watch.NEWNEIGHBOUR | watch.DELNEIGHBOUR:
                harmed = harmed or _of_neighbour(event, believed)
            case watch.NEWSETTINGS:
                device = answers.read_settings_device(event.body)
                configured.add(device)
                harmed = harmed or device < 0  # of all devices, ours among them, and the kernel names none
            case watch.LOST:
                harmed = True
    if harmed or not (touched or configured):
        return harmed
    many = configured or len(touched) > _FEW
    seen = netlink.links() if many else {name: netlink.link(name) for name in touched}
    touched.update(link.name for link in seen.values() if link and link.index in configured)
    return any(_other(name, seen.get(name), believed, refused) for name in touched)


def _keys(device: str) -> tuple[Key, Key]:
    return ("port", device), ("vm port", device)


def _of_route(event: Heard, believed: Mapping[Key, Item]) -> bool:
    route = answers.read_route(event.body)
    if route.table == rtnl.TABLE:
        return ("route", route.prefix) in believed
    return route.table == rtnl.MAIN_TABLE and ("blackhole", route.prefix) in believed


def _of_neighbour(event: Heard, believed: Mapping[Key, Item]) -> bool:
    """One that we made permanent is to be so, whoever speaks of it."""
    neighbour = answers.read_neighbour(event.body)
    route = believed.get(("route", f"{neighbour.address}/{128 if ':' in neighbour.address else 32}"))
    if not isinstance(route, links.RouteItem) or not route.mac:
        return False
    return event.kind == watch.DELNEIGHBOUR or not neighbour.permanent or neighbour.mac != route.mac


def _other(device: str, link: Link | None, believed: Mapping[Key, Item], refused: Container[Key]) -> bool:
    port, vm = _keys(device)
    if port in refused or vm in refused:
        return link is not None
    if port not in believed and vm not in believed:
        return link is not None and link.group == rtnl.GROUP  # ours by its mark, under a name that we never gave
    if link is None:
        return True
    if port in believed:
        return links.observed_port(link) != believed[port]
    return not (links.is_adopted(link) and plug.vm_mark(device) in link.names)
