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
    for event in heard:
        match event.kind:
            case watch.NEWLINK | watch.DELLINK:
                touched.add(answers.read_link(event.body).name)
            case watch.NEWROUTE | watch.DELROUTE:
                harmed = harmed or (event.port != netlink.port and _of_route(event, believed))
            case watch.NEWRULE | watch.DELRULE:
                rule = answers.read_rule(event.body)
                harmed = harmed or (event.port != netlink.port and rule.protocol == rtnl.PROTOCOL)
            case watch.NEWADDR | watch.DELADDR:
                address = answers.read_address(event.body)
                ours = address.protocol == rtnl.PROTOCOL or address.label.endswith(f":{links.LABEL}")
                harmed = harmed or (event.port != netlink.port and ours)
            case watch.LOST:
                harmed = True
    names = {name for name in touched for key in _keys(name) if key in believed or key in refused}
    if harmed or not names:
        return harmed
    seen = netlink.links() if len(names) > _FEW else {name: netlink.link(name) for name in names}
    return any(_other(name, seen.get(name), believed, refused) for name in names)


def _keys(device: str) -> tuple[Key, Key]:
    return ("port", device), ("vm port", device)


def _of_route(event: Heard, believed: Mapping[Key, Item]) -> bool:
    route = answers.read_route(event.body)
    if route.table == rtnl.TABLE:
        return ("route", route.prefix) in believed
    return route.table == rtnl.MAIN_TABLE and ("blackhole", route.prefix) in believed


def _other(device: str, link: Link | None, believed: Mapping[Key, Item], refused: Container[Key]) -> bool:
    port, vm = _keys(device)
    if port in refused or vm in refused:
        return link is not None
    if link is None:
        return True
    if port in believed:
        return links.observed_port(link) != believed[port]
    return not (link.up and link.proxy_arp and link.forwarding and plug.vm_mark(device) in link.names)
