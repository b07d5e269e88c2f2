"""What must a kernel setting be? Read before write: a second look changes nothing, and a foreign hand is seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Mapping

ROOT = "/proc/sys/net/"


def read(name: str) -> str | None:
    """The value of `ipv4/ip_forward`, or None where this kernel has no such setting (a module not loaded yet)."""
    try:
        with open(ROOT + name, encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def ensure(wanted: Mapping[str, str]) -> dict[str, str]:
    """Make them so, in the network namespace of the calling thread. What was otherwise, with its old value; settings
    that this kernel has not are left out."""
    changed = {}
    for name, value in wanted.items():
        before = read(name)
        if before is None or before == value:
            continue
        with open(ROOT + name, "w", encoding="ascii") as file:
            file.write(value)
        changed[name] = before
    return changed


def ensure_forwarding(ours: Callable[[], Container[str]] = frozenset) -> dict[str, str]:
    """A cell forwards for its workloads, and judges where a packet came from by the route that its mark leads to.
    `ours` are the workloads' devices; asked for where it matters."""
    return ensure(
        {
            "ipv4/ip_forward": "1",
            "ipv4/conf/all/src_valid_mark": "1",  # or a reverse path check would look into the main table: black hole
            "ipv4/conf/all/send_redirects": "0",  # two workloads behind one cell are no neighbours of each other
            **_reverse_path_per_device(ours),
            "netfilter/nf_conntrack_tcp_loose": "0",  # a flow that was cut must not come back as its own reply
        }
    )


def ensure_ipv6_forwarding() -> dict[str, str]:
    """Only where somebody has an IPv6 address: who forwards is a router, and routers listen to no other router."""
    return ensure({**_routers_heard_on(), "ipv6/conf/all/forwarding": "1"})


def _routers_heard_on() -> dict[str, str]:
    """A device that took its addresses and default route from router advertisements goes on doing so (2 = although
    this host forwards), or the cell itself would lose its IPv6 when they run out."""
    devices = {}
    for device in os.listdir(ROOT + "ipv6/conf") if os.path.isdir(ROOT + "ipv6/conf") else ():
        listens = read(f"ipv6/conf/{device}/accept_ra") == "1" and read(f"ipv6/conf/{device}/forwarding") == "0"
        if device not in ("all", "default") and listens:
            devices[f"ipv6/conf/{device}/accept_ra"] = "2"
    return devices


def _reverse_path_per_device(ours: Callable[[], Container[str]]) -> dict[str, str]:
    """The effective check is the stricter of `all` and the device. Ours are checked by the firewall instead, and a
    VM's ARP request arrives unmarked, so `all` has to be 0; every other device keeps what it had by its own value."""
    common = read("ipv4/conf/all/rp_filter")
    if common in (None, "0"):
        return {}
    devices, kept = {}, ours()
    for device in os.listdir(ROOT + "ipv4/conf"):
        own = read(f"ipv4/conf/{device}/rp_filter")
        if device not in ("all", "default") and device not in kept and own is not None:
            devices[f"ipv4/conf/{device}/rp_filter"] = str(max(int(own), int(common or 0)))
    return devices | {"ipv4/conf/default/rp_filter": str(common), "ipv4/conf/all/rp_filter": "0"}


def is_consequence(name: str) -> bool:
    """Whether it is only written because another setting was changed."""
    return name.endswith(("/rp_filter", "/accept_ra")) and name != "ipv4/conf/all/rp_filter"


def ensure_workload_device(device: str, *, ipv6: bool | None, proxy_arp: bool) -> dict[str, str]:
    """The host end of a workload's link. Without IPv6 the cell's stack takes none from it, whatever our table says;
    None leaves that as it is, on a device that is not ours."""
    wanted = {
        f"ipv4/conf/{device}/rp_filter": "0",
        f"ipv4/conf/{device}/send_redirects": "0",
        f"ipv4/conf/{device}/accept_source_route": "0",
        f"ipv4/conf/{device}/forwarding": "1",
        f"ipv6/conf/{device}/accept_ra": "0",
    }
    if ipv6 is not None:
        wanted[f"ipv6/conf/{device}/disable_ipv6"] = "0" if ipv6 else "1"
    if ipv6:
        wanted[f"ipv6/conf/{device}/forwarding"] = "1"
    wanted[f"ipv4/conf/{device}/proxy_arp"] = "1" if proxy_arp else "0"
    if proxy_arp:
        wanted[f"ipv4/neigh/{device}/proxy_delay"] = "0"
    return ensure(wanted)


def ensure_container(interfaces: tuple[str, ...], *, ipv6: bool) -> dict[str, str]:
    """Inside a container: no address but the leased ones, no router but ours, no IPv6 where none was leased.
    `default` is among the interfaces before the real one exists, so that it is born right and never chatters."""
    wanted: dict[str, str] = {}
    for interface in interfaces:
        wanted |= {
            f"ipv6/conf/{interface}/accept_ra": "0",
            f"ipv6/conf/{interface}/addr_gen_mode": "1",
            f"ipv6/conf/{interface}/disable_ipv6": "0" if ipv6 else "1",
        }
    return ensure(wanted)
