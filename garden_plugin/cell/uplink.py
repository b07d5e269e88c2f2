"""What are the address and the MTU of the device that leads outside? Asked of the namespace that the agent runs in."""

from __future__ import annotations

import fcntl
import socket
import struct

from egress.values import Unavailable
from garden_plugin.cell.netlink import Netlink
from garden_plugin.cell.netlink_messages import PROTOCOL

_SIOCGIFADDR = 0x8915
_SIOCGIFMTU = 0x8921
OVERHEAD_BYTES = 58
"""Kept free on every dataplane, so that changing it renumbers nothing (an overlay's header on IPv4)."""


def address(device: str) -> str:
    """Its first IPv4 address."""
    return socket.inet_ntoa(_ask(device, _SIOCGIFADDR)[20:24])


def address6(device: str) -> str:
    """Its oldest lasting global IPv6 address; "" when it has none. What orgs leave by lies there too, and is not it."""
    with Netlink() as netlink:
        link = netlink.link(device)
        held = netlink.addresses() if link is not None else []
    ours = [each.address for each in held if link is not None and each.device == link.index and ":" in each.address]
    strange = {each.address for each in held if each.protocol == PROTOCOL or not each.lasting}
    # The kernel names the youngest first.
    return next((each for each in reversed(ours) if each not in strange), "")


def container_mtu(device: str) -> int:
    return int(struct.unpack_from("i", _ask(device, _SIOCGIFMTU), 16)[0]) - OVERHEAD_BYTES


def _ask(device: str, question: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            return fcntl.ioctl(asker, question, struct.pack("16s24x", device.encode()))
        except OSError as fault:
            raise Unavailable(f"uplink {device!r}: {fault.strerror}; set uplinks to devices of this cell") from None
