"""How does a workload get onto the network of its cell, and off it? Containers by a veth of ours, VMs by their device.

container eth0 (0a:58:…, /32, gateway 169.254.1.1) ── veth ── cf-… (ee:ee:…) cell     no ARP: neighbours are permanent
guest NIC (its own subnet, real ARP)               ── tap  ── adopted by name cell    the cell answers ARP for the rest

A link's alias is written last and says how it was made: a link of our group without it is half-made.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from functools import partial

from egress.topology import GATEWAY4, GATEWAY6, GATEWAY_MAC, container_mac
from egress.values import Refused, pack
from garden_plugin.cell import netlink_messages as rtnl
from garden_plugin.cell import sysctls
from garden_plugin.cell.netlink import Netlink, Rejected
from garden_plugin.cell.netlink_answers import BLACKHOLE, GO_TO, NOTHING, Link, Rule
from garden_plugin.cell.netlink_messages import DOOMED, GROUP, Message

INTERFACE = "eth0"
OVERHEAD = 58
"""Bytes that the widest encapsulation of any dataplane adds: MTU `auto` leaves room for it everywhere."""
ALIAS = '{"cfbridge":'
"""How the alias of every link of ours begins."""
MARK, MARK_MASK = 0x77120000, 0xFFFF0000

POLICY_RULES = tuple(
    rule
    for family in (4, 6)
    for rule in (
        Rule(family, 7712, MARK, MARK_MASK, "", "", rtnl.TABLE, rtnl.PROTOCOL),
        Rule(family, 7713, 0, 0, "lo", "", rtnl.TABLE, rtnl.PROTOCOL),
    )
)
"""What leads to the workloads: our firewall's mark, and being the cell itself. (The second is not limited to the pools:
VMs live outside them, and the table holds nothing but workloads.)"""


def closing_rules(sources: Iterable[str]) -> Iterable[Rule]:
    """What keeps workloads from sending while nobody marks (decisions 4): from these prefixes only the cell itself may,
    whose resets and errors carry their addresses too."""
    by_family: dict[int, list[str]] = {4: [], 6: []}
    for source in sources:
        by_family[6 if ":" in source else 4].append(source)
    for family, mine in by_family.items():
        if mine:
            yield Rule(family, 7714, 0, 0, "lo", "", 0, rtnl.PROTOCOL, action=GO_TO, target=7716)
            for source in mine:
                yield Rule(family, 7715, 0, MARK_MASK, "", "", 0, rtnl.PROTOCOL, source, BLACKHOLE)
            yield Rule(family, 7716, 0, 0, "", "", 0, rtnl.PROTOCOL, action=NOTHING)


def plug_container(
    netlink: Netlink,
    *,
    device: str,
    netns: str,
    addresses: Sequence[str],
    mtu: int,
    alias: str,
) -> Refused | None:
    """Make what is missing between host device and container; nothing, if all is there. Not its route: see
    `attach_routes`."""
    try:
        inner = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return Refused("NETNS_GONE", f"The network namespace {netns} of {device} can't be opened ({error.strerror}).")
    try:
        ipv6 = any(":" in address for address in addresses)
        with Netlink(inner, partial(sysctls.ensure_container, ("default", INTERFACE), ipv6=ipv6)) as container:
            return _plug(netlink, container, inner, device, addresses, mtu, alias)
    except Rejected as error:
        if error.errno in (errno.ENETDOWN, errno.ENODEV, errno.ENOENT, errno.EINVAL):
            return Refused("NETNS_GONE", f"The network namespace of {device} vanished: {error.what}: {error.strerror}.")
        raise
    except OSError as error:
        return Refused("NETNS_GONE", f"The network namespace {netns} of {device} can't be entered ({error}).")
    finally:
        os.close(inner)


def _plug(
    netlink: Netlink, container: Netlink, netns: int, device: str, addresses: Sequence[str], mtu: int, alias: str
) -> Refused | None:
    outer, inner = netlink.link(device), container.link(INTERFACE)
    if outer is not None and not is_ours(outer):
        return Refused("DEVICE_IS_FOREIGN", f"A device {device} exists on the cell, and is not ours: remove it.")
    mac = container_mac(next(address for address in addresses if ":" not in address))
    foreign_end = outer is not None and (inner is None or inner.peer != outer.index or inner.mac != mac)
    if outer is not None and (foreign_end or outer.group == DOOMED):
        netlink.exchange(rtnl.delete_links([outer.index]))  # its other end is elsewhere: an earlier life of the handle
        outer, inner = None, container.link(INTERFACE)
    if outer is None:
        if inner is not None:
            return Refused("INTERFACE_TAKEN", f"The container of {device} has an {INTERFACE} that is not ours.")
        netlink.exchange([rtnl.add_veth(device, GATEWAY_MAC, netns, INTERFACE, mac, mtu)])
        outer, inner = netlink.link(device), container.link(INTERFACE)
        if outer is None or inner is None:
            return Refused("NETNS_GONE", f"The link {device} vanished while it was made.")
    assert inner is not None
    ipv6 = any(":" in address for address in addresses)
    netlink.inside(partial(sysctls.ensure_workload_device, device, ipv6=ipv6, proxy_arp=False))
    healed: dict[str, object] = {} if outer.mac == GATEWAY_MAC else {"address": GATEWAY_MAC}
    healed |= {} if outer.group == GROUP else {"group": GROUP}
    healed |= {"master": 0} if outer.master else {}
    netlink.exchange([rtnl.no_link_local(outer.index), rtnl.set_up(outer.index, mtu=mtu, **healed)])
    container.exchange([rtnl.set_up(1), rtnl.set_up(inner.index, mtu=mtu), *_inside(inner, addresses)])
    netlink.exchange([rtnl.set_alias(outer.index, alias)])
    return None


def _inside(link: Link, addresses: Sequence[str]) -> Iterable[Message]:
    for address in addresses:
        yield rtnl.add_address(link.index, address)
    for gateway, everywhere in ((GATEWAY4, "0.0.0.0/0"), (GATEWAY6, "::/0")):
        if any((":" in address) == (":" in gateway) for address in addresses):
            if ":" not in gateway:
                yield rtnl.add_route(gateway, link.index)
            yield rtnl.add_neighbour(link.index, gateway, GATEWAY_MAC)
            yield rtnl.add_route(everywhere, link.index, via=gateway)


def is_ours(link: Link) -> bool:
    """By its group, or by its alias where somebody took it out of the group."""
    return link.group in (GROUP, DOOMED) or link.alias.startswith(ALIAS)


def unplug_containers(netlink: Netlink, devices: Iterable[str]) -> None:
    """All at once. Devices that are gone, or are not ours, are passed over."""
    wanted = set(devices)
    if not wanted:
        return
    found = [netlink.link(device) for device in wanted] if len(wanted) < 5 else netlink.links().values()
    indexes = [link.index for link in found if link and link.name in wanted and is_ours(link)]
    if indexes:
        netlink.exchange(rtnl.delete_links(indexes))


def vm_mark(device: str) -> str:
    """The alternative name that an adopted device gets: our mark on what somebody else made."""
    return f"cfbridge:{device}"


def plug_vm(netlink: Netlink, device: str, *, ipv6: bool) -> Refused | None:
    """Adopt a device that the hypervisor made."""
    link = netlink.link(device)
    if link is None:
        return Refused("DEVICE_IS_GONE", f"There is no device {device} on the cell; it is adopted when it appears.")
    netlink.inside(partial(sysctls.ensure_workload_device, device, ipv6=ipv6 or None, proxy_arp=True))
    netlink.exchange([rtnl.set_up(link.index), rtnl.add_name(link.index, vm_mark(device))])
    return None


def unplug_vm(netlink: Netlink, device: str) -> None:
    """Let go of it; the device stays the hypervisor's."""
    link = netlink.link(device)
    if link is not None:
        netlink.inside(lambda: sysctls.ensure({f"ipv4/conf/{device}/proxy_arp": "0"}))
        netlink.exchange([rtnl.remove_name(link.index, vm_mark(device))])


def auto_mtu(netlink: Netlink, uplinks: Sequence[str]) -> int:
    """What a workload may send at most, so that every dataplane can carry it."""
    found = [link.mtu for link in map(netlink.link, uplinks) if link is not None]
    return min(found, default=1500) - OVERHEAD


def announce(netlink: Netlink, device: str, address: str) -> None:
    """Tell the segment that `address` is here now: without it a router keeps the old holder for minutes."""
    link = netlink.link(device)
    if link is not None and link.mac:
        mac, packed = bytes.fromhex(link.mac.replace(":", "")), pack(address)
        if len(packed) == 4:
            netlink.inside(lambda: _send(device, 0x0806, _gratuitous_arp(mac, packed)))
        else:
            netlink.inside(lambda: _send(device, 0x86DD, [_neighbour_advertisement(mac, packed)]))


def _gratuitous_arp(mac: bytes, address: bytes) -> list[bytes]:
    everyone = b"\xff" * 6
    return [
        everyone
        + mac
        + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, operation)
        + mac
        + address
        + (everyone if operation == 2 else bytes(6))
        + address
        for operation in (1, 2)  # some listen to requests only, some to replies only
    ]


def _neighbour_advertisement(mac: bytes, address: bytes) -> bytes:
    """Nobody asked, so it goes to all nodes and overrides what they know."""
    all_nodes = pack("ff02::1")
    override = struct.pack("!I", 0x20000000)
    said = override + address + b"\x02\x01" + mac
    length = 4 + len(said)
    pseudo = address + all_nodes + struct.pack("!II", length, 58) + b"\x88\0\0\0" + said
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    header = struct.pack("!IHBB", 6 << 28, length, 58, 255) + address + all_nodes
    message = b"\x88\0" + struct.pack("!H", ~total & 0xFFFF) + said
    return b"\x33\x33\0\0\0\x01" + mac + b"\x86\xdd" + header + message


def _send(device: str, protocol: int, frames: Iterable[bytes]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as wire:
        try:
            wire.bind((device, protocol))
            for frame in frames:
                wire.send(frame)
        except OSError as error:  # the uplink is down: whoever asks when it is up gets an answer
            if error.errno not in (errno.ENETDOWN, errno.ENODEV, errno.ENXIO):
                raise
