"""What does the network look like, for any dataplane? Routers, segments, ports, routes, translations.

org ── Router ── Segment (prefix) ── Port (a workload's place)
         └────── SourceNat (block of the segment → address)      absent for a routed org
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from egress import choice
from egress.model import Defaults, NetworkMode, OrgNetwork, OrgWish, Pool, PoolKind, SnatAddress
from egress.pools import Network
from egress.values import QualifiedId

GATEWAY4 = "169.254.1.1"
"""What every container sees as its IPv4 gateway, on every dataplane."""
GATEWAY6 = "fe80::1"
GATEWAY_MAC = "ee:ee:ee:ee:ee:ee"


class PortKind(StrEnum):
    CONTAINER = "container"
    VM = "vm"


@dataclass(frozen=True, slots=True)
class Port:
    """Where a workload is plugged in, and where we enforce."""

    id: str
    """The workload's id."""
    kind: PortKind
    cell: str
    addresses: tuple[str, ...]
    """One IPv4, then at most one IPv6, for containers; any for VMs."""
    org: QualifiedId | None = None
    handle: str = ""
    """Garden's handle, for containers."""
    device: str = ""
    """Host device of a VM (tap or veth). A container's device name follows from its handle."""
    mtu: int = 0
    """0 = the cell's own `auto`."""


@dataclass(frozen=True, slots=True)
class Segment:
    prefix: str
    org: QualifiedId
    pool: str


@dataclass(frozen=True, slots=True)
class Router:
    org: QualifiedId
    name: str
    mode: NetworkMode


@dataclass(frozen=True, slots=True)
class SourceNat:
    """Packets that leave by an uplink from `source` are translated to `address` ("" = the cell's own)."""

    source: str
    """A CIDR prefix, a power-of-two block of one org's segment."""
    address: str
    org: QualifiedId


@dataclass(frozen=True, slots=True)
class Topology:
    ports: Mapping[str, Port] = field(default_factory=dict)
    """By workload id."""
    segments: Mapping[str, Segment] = field(default_factory=dict)
    """By prefix."""
    routers: Mapping[str, Router] = field(default_factory=dict)
    """By org."""
    source_nats: Mapping[str, SourceNat] = field(default_factory=dict)
    """By source prefix; disjoint within a family."""
    pools: tuple[str, ...] = ()
    """Every prefix of every container pool: black holes where no workload's route is, and "a container address"."""
    blocked_sources: tuple[str, ...] = ()
    """Prefixes whose packets may not leave by an uplink at all: a NAT org without a SNAT address of that family.
    Disjoint from `source_nats`. East-west traffic is not concerned."""


def container_mac(address: str) -> str:
    """`0a:58:` and the four bytes of the IPv4 address: the same on every dataplane, so nothing is renumbered."""
    return "0a:58:" + ":".join(f"{int(octet):02x}" for octet in address.split("."))


def compile_topology(
    pools: Sequence[Pool],
    wishes: Iterable[OrgWish],
    networks: Iterable[OrgNetwork],
    ports: Iterable[Port],
    snat_addresses: Mapping[QualifiedId, Sequence[SnatAddress]],
    defaults: Defaults,
) -> Topology:
    """Everything held and plugged in, as routers, segments and translations. `wishes` carry ids; an org without one is
    served by the defaults."""
    by_org = {wish.org: wish for wish in wishes}
    networks = sorted(networks, key=lambda network: (network.org, network.position, network.prefix))
    all_ports = {port.id: port for port in sorted(ports, key=lambda port: port.id)}
    routable = {pool.name for pool in pools if pool.routable}

    routers: dict[str, Router] = {}
    segments: dict[str, Segment] = {}
    leaving: list[tuple[QualifiedId, str, bool]] = []
    for network in networks:
        segments[network.prefix] = Segment(network.prefix, network.org, network.pool)
        leaving.append((network.org, network.prefix, network.pool in routable))
    held = [ipaddress.ip_network(prefix) for prefix in segments]
    for org, address in _addresses_outside(all_ports.values(), held):
        leaving.append((org, address, True))  # a machine's own address, in no pool: `routed` leaves it as it is

    source_nats: dict[str, SourceNat] = {}
    blocked: list[str] = []
    for org, source, announced in leaving:
        wish = by_org.get(org, OrgWish(org))
        mode = choice.effective_mode(wish, defaults, pools)
        routers.setdefault(org, Router(org, wish.name or org, mode))
        if mode is NetworkMode.ROUTED and announced:
            continue
        chosen = [s.address for s in snat_addresses.get(org, ()) if (":" in s.address) == (":" in source)]
        if mode is NetworkMode.SHARED or (mode is NetworkMode.ROUTED and not chosen):
            chosen = [
                ""
            ]  # `routed`, but from before the switch: workloads in a pool that nobody announces leave as before
        if not chosen:
            blocked.append(source)
        for block, address in _blocks(source, chosen):
            source_nats[block] = SourceNat(block, address, org)

    return Topology(
        ports=all_ports,
        segments=segments,
        routers=routers,
        source_nats=source_nats,
        pools=container_prefixes(pools, segments),
        blocked_sources=tuple(blocked),
    )


def container_prefixes(pools: Iterable[Pool], held: Iterable[str]) -> tuple[str, ...]:
    """What counts as a container's address: the container pools, leased or not. A held subnet outlives a pool, or a
    prefix of one, that was taken out of the settings: its addresses are containers' until it goes."""
    prefixes = [prefix for pool in pools if pool.kind is PoolKind.CONTAINER for prefix in pool.prefixes]
    known = [ipaddress.ip_network(prefix) for prefix in prefixes]
    networks = ((prefix, ipaddress.ip_network(prefix)) for prefix in held)
    return (*prefixes, *(prefix for prefix, n in networks if not any(_within(n, pool) for pool in known)))


def _blocks(source: str, addresses: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The source cut into the least power of two of blocks that gives each address one, in turn."""
    if not addresses:
        return
    network = ipaddress.ip_network(source)
    bits = min((len(addresses) - 1).bit_length(), network.max_prefixlen - network.prefixlen)
    for index, block in enumerate(network.subnets(prefixlen_diff=bits)):
        yield str(block), addresses[index % len(addresses)]


def _addresses_outside(ports: Iterable[Port], held: Sequence[Network]) -> Iterator[tuple[QualifiedId, str]]:
    """(org, address as a prefix) of machines of an org whose address lies in no held subnet."""
    seen: set[str] = set()
    for port in ports:
        if port.kind is not PortKind.VM or port.org is None:
            continue
        for address in port.addresses:
            alone = ipaddress.ip_network(address)
            if str(alone) not in seen and not any(_within(alone, network) for network in held):
                seen.add(str(alone))
                yield port.org, str(alone)


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]
