"""What is on the cell, on its disk and in the store that nobody who is there needs?

seen        everything of ours, by kind, as it is
surplus     what belongs to no container (or machine) that is there           at any quiet moment
left_over   what is there at the end, beside what was there at the start      when all are gone
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfbridge.demo.box import Box
from cfbridge.demo.installation import VM_ADDRESS
from garden_plugin.cell.spool import hash_of
from garden_plugin.dataplane.cell import device_name

_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")
_DEVICE = re.compile(r"cf-[0-9a-f]{11}")
_POOLS = tuple(map(ipaddress.ip_network, ("10.240.0.0/14", "172.20.0.0/16", "169.254.64.0/18")))
_RESTING = frozenset(("cell", "chains", "lock"))
"""Files of the agent that stay: what it remembers across restarts."""


_ALWAYS = frozenset((VM_ADDRESS, VM_ADDRESS.rpartition(".")[0] + ".1"))
"""The machine, and the cell's own address on its device."""


@dataclass(frozen=True, slots=True)
class Required:
    """Who is there."""

    handles: frozenset[str] = frozenset()
    addresses: frozenset[str] = _ALWAYS


@dataclass(frozen=True, slots=True)
class Seen:
    links: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By set or map of our table: its elements, without counters."""
    chains: frozenset[str] = frozenset()
    mounts: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    """Records, spooled `down`s, unacknowledged ends: below the agent's folder."""
    leases: frozenset[str] = frozenset()
    connections: frozenset[str] = frozenset()
    """Conntrack's."""


def required(box: Box) -> Required:
    containers = box.diego.guardian.containers.values()
    return Required(
        frozenset(container.handle for container in containers),
        frozenset((*_ALWAYS, *(container.address for container in containers if container.address))),
    )


async def see(box: Box) -> Seen:
    run = box.lab.cell.run
    links, routes, table, connections = await asyncio.gather(
        asyncio.to_thread(run, "ip", "-j", "link", "show"),
        asyncio.to_thread(run, "ip", "-j", "route", "show", "table", "7712"),
        asyncio.to_thread(run, "nft", "-j", "list", "table", "inet", "cfbridge"),
        asyncio.to_thread(run, "conntrack", "-L", "-o", "extended"),
    )
    objects = json.loads(table)["nftables"]
    agent = box.directory / "agent"
    spools = (box.directory / "spool", agent)
    return Seen(
        links=frozenset(each["ifname"] for each in json.loads(links) if each.get("ifname", "").startswith("cf-")),
        routes=frozenset(each["dst"] for each in json.loads(routes)),
        sets=dict(_elements(objects)),
        chains=frozenset(each["chain"]["name"] for each in objects if "chain" in each),
        mounts=frozenset(_mounts_below(box.directory)),
        files=frozenset(
            str(path.relative_to(box.directory))
            for place in spools
            if place.exists()
            for path in place.rglob("*")
            if not path.is_dir() and path.name not in _RESTING
        ),
        leases=frozenset(row["address"] for row in await box.api("leases")),
        connections=frozenset(line for line in connections.splitlines() if _pooled(line)),
    )


def surplus(seen: Seen, there: Required) -> list[str]:
    """In words, what belongs to nobody who is there."""
    devices = {device_name(handle) for handle in there.handles}
    files = {f"agent/{place}/{hash_of(handle)}" for place in ("ports", "netns") for handle in there.handles}
    found = [f"link {name}" for name in seen.links - devices]
    found += [f"route {route}" for route in seen.routes if set(_pooled(route)) - there.addresses]
    for name, elements in seen.sets.items():
        for element in elements:
            foreign = set(_DEVICE.findall(element)) - devices
            if name not in _OF_ORGS and not _SPAN.search(element):
                foreign |= set(_pooled(element)) - there.addresses
            if foreign:
                found.append(f"element {element} of {name}")
    found += [f"mount {mount}" for mount in seen.mounts - files]
    found += [f"file {name}" for name in seen.files - files]
    found += [f"lease {address}" for address in seen.leases - there.addresses]
    for line in seen.connections:
        if set(_pooled(line)) - there.addresses:
            found.append(f"connection {' '.join(line.split())}")
    return sorted(found)


def left_over(before: Seen, after: Seen) -> list[str]:
    """Subnets that orgs hold for good are none; nor is another set of the cell's own addresses, which has its name by
    what they were when the agent started."""
    found = [f"chain {name}" for name in after.chains - before.chains]
    for name, elements in after.sets.items():
        news = set(elements) - set(before.sets.get(name, ()))
        if name in _OF_ORGS or (name.startswith("g_") and elements and not any(map(_of_workload, elements))):
            continue
        if name not in before.sets:
            found.append(f"set {name}")
        found += [f"element {element} of {name}" for element in news]
    for kind in ("links", "routes", "mounts", "files", "leases", "connections"):
        found += [f"{kind}: {each}" for each in getattr(after, kind) - getattr(before, kind)]
    return sorted(found)


def _of_workload(element: str) -> bool:
    return not _SPAN.search(element) and bool(set(_pooled(element)) - _ALWAYS)


_SPAN = re.compile(r'"(prefix|range)"')
_OF_ORGS = frozenset(("pools4", "snat4", "snat_address4", "blocked4"))
"""What orgs hold for good: whole subnets, and what they leave by. An org that had nobody when its mode changed gets its
address when somebody comes."""


def _elements(objects: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, tuple[str, ...]]]:
    for each in objects:
        if said := each.get("set") or each.get("map"):
            yield said["name"], tuple(sorted(json.dumps(_bare(element)) for element in said.get("elem", ())))


def _bare(element: Any) -> Any:
    """An element without its counter."""
    if isinstance(element, dict) and "elem" in element:
        return _bare(element["elem"]["val"])
    if isinstance(element, list):
        return [_bare(each) for each in element]
    return element


def _pooled(text: str) -> list[str]:
    """The addresses of workloads in it."""
    found = _ADDRESS.findall(text)
    return [each for each in found if any(ipaddress.ip_address(each) in pool for pool in _POOLS)]


def _mounts_below(directory: Path) -> Iterable[str]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        target = line.split()[1]
        if Path(target).is_relative_to(directory):
            yield str(Path(target).relative_to(directory))
