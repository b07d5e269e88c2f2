"""Which links, routes and addresses make a cell's part of the topology, and how do they get there?

render (pure): topology + what is on this cell → items          observe: what carries our mark → items
apply: changes → rtnetlink, in an order in which no reference dangles
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from egress.topology import GATEWAY6, GATEWAY_MAC, Port, PortKind, Topology, container_mac
from egress.values import Refused, contains, merge, next_address, pack, prefix_range, text
from garden_plugin.cell import netlink_messages as rtnl
from garden_plugin.cell import plug
from garden_plugin.cell.netlink import Netlink
from garden_plugin.cell.netlink_answers import BLACKHOLE, GO_TO, NOTHING, Link, Rule
from garden_plugin.cell.netlink_messages import Message
from garden_plugin.dataplane.base import Change, Item, Key
from garden_plugin.dataplane.cell import LocalState

RULE_RANK, BLACKHOLE_RANK, ADDRESS_RANK = 10, 11, 12
PORT_RANK, ROUTE_RANK = 500, 600
"""Between them and those above come tables, sets and elements: what judges a workload is there before its link."""

LABEL = "cfb"
"""Marks an IPv4 address as ours (`up0:cfb`) on kernels that don't keep an address's protocol."""


@dataclass(frozen=True, slots=True)
class PolicyRuleItem:
    rule: Rule

    @property
    def key(self) -> Key:
        return ("ip rule", str(self.rule.family), str(self.rule.priority), self.rule.source)

    @property
    def rank(self) -> int:
        return RULE_RANK

    def __str__(self) -> str:
        of = self.rule
        said = [f"from {of.source}"] if of.source else []
        said += [f"to {of.prefix}"] if of.prefix else []
        said += [f"fwmark {of.mark:#x}/{of.mask:#x}"] if of.mask else []
        said += [f"iif {of.interface}"] if of.interface else []
        does = {GO_TO: f"goto {of.target}", NOTHING: "nop", BLACKHOLE: "blackhole"}
        said.append(does.get(of.action, f"lookup {of.table}"))
        return f"ip -{of.family} rule add {' '.join(said)} priority {of.priority} protocol {of.protocol}"


@dataclass(frozen=True, slots=True)
class BlackholeItem:
    """A pool in the main table: an address without a workload leads nowhere, not around a loop."""

    prefix: str

    @property
    def key(self) -> Key:
        return ("blackhole", self.prefix)

    @property
    def rank(self) -> int:
        return BLACKHOLE_RANK

    def __str__(self) -> str:
        return f"ip route replace blackhole {self.prefix} proto {rtnl.PROTOCOL}"


@dataclass(frozen=True, slots=True)
class SnatAddressItem:
    """An address that packets leave by: the cell holds it, so that the segment's router finds it."""

    address: str
    device: str

    @property
    def key(self) -> Key:
        return ("address", self.device, self.address)

    @property
    def rank(self) -> int:
        return ADDRESS_RANK

    def __str__(self) -> str:
        return f"ip address add {_host_prefix(self.address)} dev {self.device} proto {rtnl.PROTOCOL}"


@dataclass(frozen=True, slots=True)
class PortItem:
    """A container's link, both ends. What it was made of is written into its alias, last of all."""

    device: str
    addresses: tuple[str, ...]
    mtu: int = 0
    """0 = the uplink's, less what an encapsulation needs."""
    isolated: bool = False
    handle: str = field(default="", compare=False)
    netns: str = field(default="", compare=False)
    uplinks: tuple[str, ...] = field(default=(), compare=False)
    wrong: str = field(default="", compare=False)
    """In what it is not as it was made; only of one that was observed."""

    @property
    def key(self) -> Key:
        return ("port", self.device)

    @property
    def rank(self) -> int:
        return PORT_RANK

    @property
    def alias(self) -> str:
        handle = self.handle if len(json.dumps(self.handle)) <= 100 else ""  # an alias has room for 255 bytes
        said: dict[str, object] = {"cfbridge": handle, "addresses": self.addresses, "mtu": self.mtu}
        if self.isolated:
            said["isolated"] = True
        return json.dumps(said, separators=(",", ":"))

    def __str__(self) -> str:
        mac = container_mac(self.addresses[0]) if self.addresses else "?"
        size = f" mtu {self.mtu}" if self.mtu else ""
        return (
            f"ip link add {self.device} address {GATEWAY_MAC}{size} type veth "
            f"peer name {plug.INTERFACE} address {mac}{size} netns {self.netns}  # {' '.join(self.addresses)}"
        )


@dataclass(frozen=True, slots=True)
class VmPortItem:
    """A device that the hypervisor made and we adopt."""

    device: str
    gateways: tuple[str, ...] = ()
    """What the cell answers to as the guest's router, with prefix lengths: its org segment's first address, fe80::1."""

    @property
    def key(self) -> Key:
        return ("vm port", self.device)

    @property
    def rank(self) -> int:
        return PORT_RANK

    def __str__(self) -> str:
        return f"sysctl net.ipv4.conf.{self.device}.proxy_arp=1  # gateways {' '.join(self.gateways) or 'by proxy'}"


@dataclass(frozen=True, slots=True)
class RouteItem:
    """Where a workload is: the only way to it, and seen by marked packets only."""

    prefix: str
    device: str
    source: str = ""
    """The cell's own address toward it; empty = the kernel's choice."""
    mac: str = ""
    """Of the permanent neighbour; empty = the guest is asked."""

    @property
    def key(self) -> Key:
        return ("route", self.prefix)

    @property
    def rank(self) -> int:
        return ROUTE_RANK

    @property
    def address(self) -> str:
        return self.prefix.rpartition("/")[0]

    def __str__(self) -> str:
        source = f" src {self.source}" if self.source else ""
        return f"ip route replace {self.prefix} dev {self.device} table {rtnl.TABLE} proto {rtnl.PROTOCOL}{source}"


KINDS = (PolicyRuleItem, BlackholeItem, SnatAddressItem, PortItem, VmPortItem, RouteItem)
LinkItem = PolicyRuleItem | BlackholeItem | SnatAddressItem | PortItem | VmPortItem | RouteItem


# --- pure -------------------------------------------------------------------------------------------------------------


def render(topology: Topology, local: LocalState) -> dict[Key, Item]:
    """Every link, route, address and rule of this cell."""
    items: list[LinkItem] = [PolicyRuleItem(rule) for rule in plug.POLICY_RULES]
    items += (BlackholeItem(prefix) for prefix in topology.pools)
    if local.uplinks:
        held = {nat.address for nat in topology.source_nats.values()} - {"", local.host_address, local.host_address6}
        items += (SnatAddressItem(address, local.uplinks[0]) for address in sorted(held))
    for port in local.ports.values():
        items.append(
            PortItem(port.device, port.addresses, port.mtu, port.isolated, port.handle, port.netns, local.uplinks)
        )
        if not port.isolated:
            mac = container_mac(port.addresses[0])
            items += (_route(address, port.device, local.host_address, mac) for address in port.addresses)
    here = [p for p in topology.ports.values() if p.kind is PortKind.VM and p.cell == local.cell and p.device]
    items += (PolicyRuleItem(rule) for rule in plug.closing_rules((*topology.pools, *_outside_pools(here, topology))))
    for vm in here:
        items.append(VmPortItem(vm.device, tuple(_gateways(vm, topology))))
        items += (_route(address, vm.device, local.host_address) for address in vm.addresses)
    return {item.key: item for item in items}


def _outside_pools(vms: Iterable[Port], topology: Topology) -> Iterator[str]:
    """Prefixes of machines' own addresses."""
    pools = merge(map(prefix_range, topology.pools))
    addresses = {address for vm in vms for address in vm.addresses}
    return (_host_prefix(each) for each in sorted(addresses) if not contains(pools, pack(each)))


def _host_prefix(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def _route(address: str, device: str, host_address: str, mac: str = "") -> RouteItem:
    six = ":" in address
    source = host_address if (":" in host_address) == six else ""
    return RouteItem(_host_prefix(address), device, source, mac)


def _gateways(vm: Port, topology: Topology) -> Iterator[str]:
    """A guest outside every segment has a router of its own, whose address the proxy answers for. Inside a segment
    the router is ours; its address lies in a pool, which is a black hole to the proxy."""
    segments = [prefix_range(prefix) for prefix, segment in topology.segments.items() if segment.org == vm.org]
    firsts = {
        next_address(low)
        for low, high in segments
        for address in vm.addresses
        if contains(((low, high),), pack(address))
    }
    yield from sorted(f"{text(first)}/32" for first in firsts if first is not None and len(first) == 4)
    if any(":" in address for address in vm.addresses):
        yield f"{GATEWAY6}/64"


# --- the kernel's side ------------------------------------------------------------------------------------------------


def observe(netlink: Netlink) -> dict[Key, Item]:
    """What is there and carries our mark. Something half-made is seen as an item that nobody wants as it is."""
    links = netlink.links()
    names = {link.index: link.name for link in links.values()}
    items: list[LinkItem] = [PolicyRuleItem(rule) for rule in netlink.rules()]
    items += (observed_port(link) for link in links.values() if plug.is_ours(link))
    own: dict[str, list[str]] = {}
    for address in netlink.addresses():
        if address.protocol == rtnl.PROTOCOL or address.label.endswith(f":{LABEL}"):
            own.setdefault(names.get(address.device, ""), []).append(f"{address.address}/{address.length}")
    for link in links.values():
        mine = own.pop(link.name, [])
        if plug.vm_mark(link.name) in link.names:
            adopted = is_adopted(link)
            ordered = sorted(mine, key=lambda each: (":" in each, each))
            items.append(VmPortItem(link.name, tuple(ordered) if adopted else ("half adopted",)))
        else:
            items += (SnatAddressItem(each.partition("/")[0], link.name) for each in mine)
    macs = {(each.device, each.address): each.mac for each in netlink.neighbours()}
    for route in netlink.routes():
        if route.blackhole and route.table == rtnl.MAIN_TABLE:
            items.append(BlackholeItem(route.prefix))
        elif route.table == rtnl.TABLE:
            mac = macs.get((route.device, route.prefix.rpartition("/")[0]), "")
            items.append(RouteItem(route.prefix, names.get(route.device, ""), route.source, mac))
    return {item.key: item for item in items}


def observed_port(link: Link) -> PortItem:
    try:
        said = json.loads(link.alias)
        wrong = ", ".join(_wrong(link, said["mtu"], any(":" in each for each in said["addresses"])))
        addresses = () if wrong else tuple(said["addresses"])
        isolated = said.get("isolated", False)
        return PortItem(link.name, addresses, said["mtu"], isolated, said["cfbridge"], wrong=wrong)
    except (ValueError, KeyError, TypeError):
        return PortItem(link.name, (), wrong="its alias is not what we wrote")


def _wrong(link: Link, mtu: int, ipv6: bool) -> Iterator[str]:
    found = link.settings
    if not link.up:
        yield "it is down"
    if link.mac != GATEWAY_MAC:
        yield f"its MAC is {link.mac}"
    if link.group != rtnl.GROUP:
        yield f"its group is {link.group}"
    if link.master:
        yield "it belongs to a bridge"
    if mtu and link.mtu != mtu:
        yield f"its MTU is {link.mtu}"
    if not found.forwarding or (ipv6 and not found.forwarding6):
        yield "forwarding is off"
    for name in ("rp_filter", "proxy_arp", "send_redirects", "accept_ra"):
        if value := getattr(found, name):
            yield f"{name} is {int(value)}"
    if ipv6 is not found.ipv6:
        yield f"IPv6 is {'on' if found.ipv6 else 'off'}"


def is_adopted(link: Link) -> bool:
    """A VM's device, as we leave it."""
    return link.up and link.settings.proxy_arp and link.settings.forwarding and not link.settings.rp_filter


def apply(netlink: Netlink, changes: Iterable[Change]) -> tuple[tuple[Key, Refused], ...]:
    """Make the changes that are ours, removals first (routes before links, links in bulk), then creations in the order
    of their ranks. What can't be made for now is answered, not raised: it does not stop the others."""
    ours = [c for c in changes if isinstance(c.before, KINDS) or isinstance(c.after, KINDS)]
    gone = [c.before for c in ours if c.before is not None and (c.after is None or _must_go_first(c.before, c.after))]
    wanted = [c.after for c in ours if c.after is not None]
    _remove(netlink, [item for item in gone if isinstance(item, KINDS)])
    return tuple(_create(netlink, sorted((item for item in wanted if isinstance(item, KINDS)), key=lambda i: i.rank)))


def _must_go_first(before: object, after: object) -> bool:
    """Replacing in place is better wherever the kernel can."""
    if isinstance(before, RouteItem) and isinstance(after, RouteItem):
        return before.device != after.device or (bool(before.mac) and not after.mac)
    return isinstance(before, PolicyRuleItem | VmPortItem)


def _remove(netlink: Netlink, items: Sequence[LinkItem]) -> None:
    messages: list[Message] = []
    doomed = {item.device for item in items if isinstance(item, PortItem)}
    for item in items:
        match item:
            case RouteItem():
                messages.append(rtnl.remove_route(item.prefix, rtnl.TABLE))
                link = netlink.link(item.device) if item.mac and item.device not in doomed else None
                if link is not None:
                    messages.append(rtnl.remove_neighbour(link.index, item.address))
            case PolicyRuleItem():
                messages.append(rtnl.remove_rule(item.rule))
            case BlackholeItem():
                messages.append(rtnl.remove_blackhole(item.prefix))
            case SnatAddressItem():
                messages += _without(netlink, item.device, [_host_prefix(item.address)])
            case VmPortItem():
                messages += _without(netlink, item.device, [each for each in item.gateways if "/" in each])
    netlink.exchange(messages)
    plug.unplug_containers(netlink, [item.device for item in items if isinstance(item, PortItem)])
    for item in items:
        if isinstance(item, VmPortItem):
            plug.unplug_vm(netlink, item.device)


def _without(netlink: Netlink, device: str, prefixes: Iterable[str]) -> list[Message]:
    link = netlink.link(device)
    return [] if link is None else [rtnl.remove_address(link.index, prefix) for prefix in prefixes]


def _create(netlink: Netlink, items: Sequence[LinkItem]) -> Iterator[tuple[Key, Refused]]:
    messages: list[Message] = []
    announced: list[SnatAddressItem] = []
    indexes: dict[str, int | None] = {}
    without_port: dict[str, Refused] = {}

    def index(device: str) -> int | None:
        if indexes.get(device) is None:
            link = netlink.link(device)
            indexes[device] = link.index if link else None
        return indexes[device]

    auto_mtu = functools.cache(functools.partial(plug.auto_mtu, netlink))
    for item in items:
        refused: Refused | None = None
        match item:
            case PolicyRuleItem():
                messages.append(rtnl.add_rule(item.rule))
            case BlackholeItem():
                messages.append(rtnl.add_blackhole(item.prefix))
            case SnatAddressItem():
                if (on := index(item.device)) is None:
                    refused = Refused("DEVICE_IS_GONE", f"There is no uplink {item.device} to hold {item.address}.")
                else:
                    prefix, label = _host_prefix(item.address), _label(item.device)
                    messages.append(rtnl.add_address(on, prefix, label, only_for_others=True))
                    announced.append(item)
            case PortItem():
                refused = plug.plug_container(
                    netlink,
                    device=item.device,
                    netns=item.netns,
                    addresses=item.addresses,
                    mtu=item.mtu or auto_mtu(item.uplinks),
                    alias=item.alias,
                )
            case VmPortItem():
                ipv6 = any(":" in each for each in item.gateways)
                refused = plug.plug_vm(netlink, item.device, ipv6=ipv6)
                if refused is None and (on := index(item.device)) is not None:
                    messages += (rtnl.add_address(on, each, _label(item.device)) for each in item.gateways)
            case RouteItem():
                if (because := without_port.get(item.device)) is not None:
                    refused = because
                elif (on := index(item.device)) is None:
                    refused = Refused("DEVICE_IS_GONE", f"There is no device {item.device} to reach {item.prefix} by.")
                else:
                    if item.mac:
                        messages.append(rtnl.add_neighbour(on, item.address, item.mac))
                    messages.append(rtnl.add_route(item.prefix, on, source=item.source, table=rtnl.TABLE))
        if refused is not None:
            yield item.key, refused
            if isinstance(item, PortItem | VmPortItem):
                without_port[item.device] = refused
    netlink.exchange(messages)
    for each in announced:
        plug.announce(netlink, each.device, each.address)


def _label(device: str) -> str:
    """Labels are 15 characters at most; without one the address's protocol is the mark."""
    label = f"{device}:{LABEL}"
    return label if len(label) <= 15 else ""


def changes_between(observed: Mapping[Key, Item], wanted: Mapping[Key, Item]) -> list[Change]:
    """What `apply` has to be given in order to get from one to the other."""
    keys = [*observed, *(key for key in wanted if key not in observed)]
    pairs = ((key, observed.get(key), wanted.get(key)) for key in keys)
    return [Change(key, before, after) for key, before, after in pairs if before != after]
