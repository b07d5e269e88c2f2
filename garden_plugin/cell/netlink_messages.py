"""What can be said in rtnetlink? One function for each thing that a cell needs, named after what it does.

pyroute2's message classes encode; `Message.what` is the same in the words of the `ip` command.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from garden_plugin.cell.netlink_answers import Rule

PROTOCOL = 112
"""Our mark on routes, rules, neighbours and addresses."""
TABLE = 7712
"""The routing table of workloads: reached by our mark alone, so without our firewall nothing is forwarded to them."""
GROUP = 7712
"""Our mark on links, from the moment they exist (an alias can't be given in the message that creates a link)."""
DOOMED = 77120
"""The group that links are moved to in order to be deleted together: one RCU wait for all of them."""

MAIN_TABLE = 254
_AF = {4: socket.AF_INET, 6: socket.AF_INET6}

_NEWLINK, _DELLINK, _GETLINK, _SETLINK, _NEWADDR, _DELADDR, _GETADDR = 16, 17, 18, 19, 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE, _NEWNEIGH, _DELNEIGH, _GETNEIGH = 24, 25, 26, 28, 29, 30
_NEWRULE, _DELRULE, _GETRULE, _NEWLINKPROP, _DELLINKPROP = 32, 33, 34, 108, 109
_REQUEST, _ACK, _DUMP, _REPLACE, _EXCLUSIVE, _CREATE, _APPEND = 1, 4, 0x300, 0x100, 0x200, 0x400, 0x800
_UP = 1
_PERMANENT = 0x80
_NO_DAD = 0x02
_FOR_EVER = 0xFFFFFFFF
_UNICAST, _BLACKHOLE = 1, 6
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_SKIP_STATISTICS = 8


@dataclass(frozen=True, slots=True)
class Message:
    """One request, encoded; `harmless` are the errors that mean it is already so."""

    encoded: bytearray
    what: str
    harmless: tuple[int, ...] = ()


def _encode(
    kind: Any,
    number: int,
    flags: int,
    fields: Mapping[str, int],
    attributes: Sequence[tuple[str, Any]],
    what: str,
    harmless: tuple[int, ...] = (),
) -> Message:
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attributes)
    message["header"]["type"] = number
    message["header"]["flags"] = _REQUEST | flags
    message.encode()
    encoded = bytearray(message.data)
    encoded.extend(bytes(-len(encoded) % 4))
    return Message(encoded, "ip " + what, harmless)


def _split(prefix: str) -> tuple[int, str, int]:
    """(address family, address, length); a plain address is its own /32 or /128. Host bits stay."""
    interface = ipaddress.ip_interface(prefix)
    return _AF[interface.version], str(interface.ip), interface.network.prefixlen


def get_links() -> Message:
    return _encode(ifinfmsg, _GETLINK, _DUMP, {}, [("IFLA_EXT_MASK", _SKIP_STATISTICS)], "link show")


def get_link(name: str) -> Message:
    """`name` may be an alternative name too."""
    attributes = [("IFLA_EXT_MASK", _SKIP_STATISTICS), ("IFLA_IFNAME", name)]
    return _encode(ifinfmsg, _GETLINK, _ACK, {}, attributes, f"link show {name}", (errno.ENODEV,))


def get_routes(family: int) -> Message:
    """The kernel leaves out other protocols than ours, where it is new enough to."""
    fields = {"family": _AF[family], "proto": PROTOCOL}
    return _encode(rtmsg, _GETROUTE, _DUMP, fields, [], f"-{family} route show table all", (errno.ENOENT,))


def get_rules(family: int) -> Message:
    return _encode(fibmsg, _GETRULE, _DUMP, {"family": _AF[family]}, [], f"-{family} rule show")


def get_neighbours(family: int) -> Message:
    return _encode(ndmsg, _GETNEIGH, _DUMP, {"family": _AF[family]}, [], f"-{family} neigh show")


def get_addresses(family: int) -> Message:
    return _encode(ifaddrmsg, _GETADDR, _DUMP, {"family": _AF[family]}, [], f"-{family} address show")


def add_veth(device: str, mac: str, netns: int, peer: str, peer_mac: str, mtu: int) -> Message:
    """Both ends in place, named and with their MACs in one message: set later, udev may have rewritten them."""
    other = [("IFLA_IFNAME", peer), ("IFLA_ADDRESS", peer_mac), ("IFLA_MTU", mtu), ("IFLA_NET_NS_FD", netns)]
    attributes = [
        ("IFLA_IFNAME", device),
        ("IFLA_ADDRESS", mac),
        ("IFLA_MTU", mtu),
        ("IFLA_GROUP", GROUP),
        (
            "IFLA_LINKINFO",
            {
                "attrs": [
                    ("IFLA_INFO_KIND", "veth"),
                    ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": other})]}),
                ]
            },
        ),
    ]
    what = f"link add {device} address {mac} mtu {mtu} type veth peer name {peer} netns {netns}"
    return _encode(ifinfmsg, _NEWLINK, _ACK | _CREATE | _EXCLUSIVE, {}, attributes, what)


def set_up(index: int, **attributes: Any) -> Message:
    """Up, with any of `mtu`, `address`, `ifalias` besides."""
    given = [(f"IFLA_{name.upper()}", value) for name, value in attributes.items()]
    fields = {"index": index, "flags": _UP, "change": _UP}
    return _encode(ifinfmsg, _SETLINK, _ACK, fields, given, f"link set dev if{index} up {attributes or ''}".rstrip())


def no_link_local(index: int) -> Message:
    """No IPv6 link-local address on it, hence none of its chatter."""
    spec = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}
    what = f"link set dev if{index} addrgenmode none"
    harmless = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL)  # a kernel without IPv6, or IPv6 disabled on it
    return _encode(ifinfmsg, _SETLINK, _ACK, {"index": index}, [("IFLA_AF_SPEC", spec)], what, harmless)


def set_alias(index: int, alias: str) -> Message:
    what = f"link set dev if{index} alias {alias!r}"
    return _encode(ifinfmsg, _SETLINK, _ACK, {"index": index}, [("IFLA_IFALIAS", alias)], what)


def add_name(index: int, name: str) -> Message:
    properties = [("IFLA_PROP_LIST", {"attrs": [("IFLA_ALT_IFNAME", name)]})]
    what = f"link property add dev if{index} altname {name}"
    flags = _ACK | _CREATE | _EXCLUSIVE | _APPEND
    return _encode(ifinfmsg, _NEWLINKPROP, flags, {"index": index}, properties, what, (errno.EEXIST,))


def remove_name(index: int, name: str) -> Message:
    properties = [("IFLA_PROP_LIST", {"attrs": [("IFLA_ALT_IFNAME", name)]})]
    what = f"link property del dev if{index} altname {name}"
    return _encode(
        ifinfmsg, _DELLINKPROP, _ACK, {"index": index}, properties, what, (errno.ENODEV, errno.EINVAL, errno.ENOENT)
    )


def delete_links(indexes: Iterable[int]) -> list[Message]:
    """Together, so that a hundred cost one wait for the kernel's readers instead of a hundred."""
    doomed = [
        _encode(
            ifinfmsg,
            _SETLINK,
            _ACK,
            {"index": index},
            [("IFLA_GROUP", DOOMED)],
            f"link set dev if{index} group {DOOMED}",
            (errno.ENODEV,),
        )
        for index in indexes
    ]
    group = [("IFLA_GROUP", DOOMED)]
    return [
        *doomed,
        _encode(ifinfmsg, _DELLINK, _ACK, {}, group, f"link delete group {DOOMED}", (errno.ENODEV, errno.EINVAL)),
    ]


def add_address(index: int, prefix: str, label: str = "", *, only_for_others: bool = False) -> Message:
    """Without duplicate address detection: who holds it is decided by the lease. `only_for_others`: the cell itself
    must not choose it to speak by. (In IPv6 any address of a device may be chosen; in IPv4 none but its first.)"""
    number, address, length = _split(prefix)
    fields = {"family": number, "prefixlen": length, "index": index, "flags": _NO_DAD if ":" in address else 0}
    attributes = [("IFA_LOCAL", address), ("IFA_ADDRESS", address), ("IFA_PROTO", PROTOCOL)]
    if label and ":" not in address:
        attributes.append(("IFA_LABEL", label))
    if only_for_others and ":" in address:
        attributes.append(("IFA_CACHEINFO", {"ifa_preferred": 0, "ifa_valid": _FOR_EVER}))
    what = f"address add {address}/{length} dev if{index}"
    return _encode(ifaddrmsg, _NEWADDR, _ACK | _CREATE | _EXCLUSIVE, fields, attributes, what, (errno.EEXIST,))


def remove_address(index: int, prefix: str) -> Message:
    number, address, length = _split(prefix)
    fields = {"family": number, "prefixlen": length, "index": index}
    attributes = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    what = f"address del {address}/{length} dev if{index}"
    return _encode(ifaddrmsg, _DELADDR, _ACK, fields, attributes, what, (errno.EADDRNOTAVAIL, errno.ENODEV))


def _route_message(
    number: int, flags: int, prefix: str, device: int, via: str, source: str, table: int, kind: int, what: str
) -> Message:
    family, address, length = _split(prefix)
    link = not via and kind == _UNICAST and number == _NEWROUTE
    fields = {
        "family": family,
        "dst_len": length,
        "table": table if table < 256 else 252,
        "proto": PROTOCOL,
        "scope": _SCOPE_LINK if link and family == socket.AF_INET else _SCOPE_UNIVERSE,
        "type": kind,
    }
    attributes: list[tuple[str, Any]] = [("RTA_TABLE", table)]
    if length:
        attributes.append(("RTA_DST", address))
    if device:
        attributes.append(("RTA_OIF", device))
    if via:
        attributes.append(("RTA_GATEWAY", via))
    if source:
        attributes.append(("RTA_PREFSRC", source))
    harmless = (errno.ESRCH, errno.ENODEV) if number == _DELROUTE else ()
    if number == _DELROUTE:
        fields["scope"] = _SCOPE_NOWHERE  # whichever it has
    return _encode(rtmsg, number, _ACK | flags, fields, attributes, what, harmless)


def add_route(prefix: str, device: int, via: str = "", source: str = "", table: int = MAIN_TABLE) -> Message:
    what = f"route replace {prefix} {f'via {via} ' if via else ''}dev if{device} proto {PROTOCOL} table {table}"
    return _route_message(_NEWROUTE, _CREATE | _REPLACE, prefix, device, via, source, table, _UNICAST, what)


def remove_route(prefix: str, table: int) -> Message:
    return _route_message(
        _DELROUTE, 0, prefix, 0, "", "", table, 0, f"route del {prefix} proto {PROTOCOL} table {table}"
    )


def add_blackhole(prefix: str) -> Message:
    what = f"route replace blackhole {prefix} proto {PROTOCOL}"
    return _route_message(_NEWROUTE, _CREATE | _REPLACE, prefix, 0, "", "", MAIN_TABLE, _BLACKHOLE, what)


def remove_blackhole(prefix: str) -> Message:
    what = f"route del blackhole {prefix} proto {PROTOCOL}"
    return _route_message(_DELROUTE, 0, prefix, 0, "", "", MAIN_TABLE, _BLACKHOLE, what)


def _rule_message(number: int, flags: int, rule: Rule, harmless: tuple[int, ...]) -> Message:
    fields = {"family": _AF[rule.family], "table": 0 if rule.table > 255 else rule.table, "action": rule.action}
    attributes: list[tuple[str, Any]] = [
        ("FRA_PRIORITY", rule.priority),
        ("FRA_TABLE", rule.table),
        ("FRA_PROTOCOL", rule.protocol),
    ]
    if rule.target:
        attributes.append(("FRA_GOTO", rule.target))
    if rule.mask:
        attributes += [("FRA_FWMARK", rule.mark), ("FRA_FWMASK", rule.mask)]
    if rule.interface:
        attributes.append(("FRA_IIFNAME", rule.interface))
    if rule.prefix:
        _, address, length = _split(rule.prefix)
        fields["dst_len"] = length
        attributes.append(("FRA_DST", address))
    if rule.source:
        _, address, length = _split(rule.source)
        fields["src_len"] = length
        attributes.append(("FRA_SRC", address))
    verb = "add" if number == _NEWRULE else "del"
    what = f"-{rule.family} rule {verb} priority {rule.priority}"
    return _encode(fibmsg, number, _ACK | flags, fields, attributes, what, harmless)


def add_rule(rule: Rule) -> Message:
    return _rule_message(_NEWRULE, _CREATE | _EXCLUSIVE, rule, (errno.EEXIST,))


def remove_rule(rule: Rule) -> Message:
    return _rule_message(_DELRULE, 0, rule, (errno.ENOENT,))


def add_neighbour(index: int, address: str, mac: str) -> Message:
    fields = {"family": _split(address)[0], "ifindex": index, "state": _PERMANENT}
    attributes = [("NDA_DST", address), ("NDA_LLADDR", mac), ("NDA_PROTOCOL", PROTOCOL)]
    what = f"neigh replace {address} lladdr {mac} dev if{index} nud permanent"
    return _encode(ndmsg, _NEWNEIGH, _ACK | _CREATE | _REPLACE, fields, attributes, what)


def remove_neighbour(index: int, address: str) -> Message:
    fields = {"family": _split(address)[0], "ifindex": index}
    what = f"neigh del {address} dev if{index}"
    harmless = (errno.ENOENT, errno.ENODEV, errno.ENXIO)
    return _encode(ndmsg, _DELNEIGH, _ACK, fields, [("NDA_DST", address)], what, harmless)
