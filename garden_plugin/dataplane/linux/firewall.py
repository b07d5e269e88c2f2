"""What must the linux firewall contain, for a network and what is on this cell? Pure.

ruleset.tiers, profiles ─> chains of lines ─ name ─> sets of addresses      policies ─> allow, allow_range, identity4/6
ruleset.egress ─> asg4/6 ─ jump ─> profile chains                           every rule id ─> live or refused, logged
topology ─> snat4/6, blocked4/6, pools4/6, vm_ports, vm_src                 local ─> port_src, workload, netin
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from egress.model import NetworkMode
from egress.topology import Port, PortKind, Router, Segment, SourceNat, container_mac
from egress.values import PackedRange, merge, pack, parse_range, prefix_range, subtract
from garden_plugin.cell.nft_sets import Elements, Shape, device, ether, interval, mark, ordered_mark, protocol, service
from garden_plugin.dataplane.base import Item, Key, LogicalNetwork
from garden_plugin.dataplane.cell import LocalState
from garden_plugin.dataplane.grown import Grown, touched
from garden_plugin.dataplane.linux.items import ChainItem, Line, SetItem
from garden_plugin.dataplane.linux.skeleton import SETS, TIERS
from policy_sync.model import PROTOCOL_NUMBER, Action, Protocol, Service
from policy_sync.ruleset import AddressSet, CompiledRule, PolicyMatch, RuleLabel

_DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_HASHED, _INTERVALS = (
    {4: Shape(("ipv4_addr",)), 6: Shape(("ipv6_addr",))},
    {
        4: Shape(("ipv4_addr",), interval=True),
        6: Shape(("ipv6_addr",), interval=True),
    },
)
_LEAVING = ("snat", "snat_address", "blocked")
_EMPTY: Elements = MappingProxyType({})
T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class Firewall:
    """Renders, and keeps each part with the inputs it was made of: a part whose inputs are the same objects is the same
    object (decisions 20), so that a change costs what it changes."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[tuple[Any, ...], Any]] = {}
        self._followed: dict[str, tuple[Any, Any, Elements]] = {}
        self._sets: dict[str, tuple[AddressSet, tuple[Item, ...]]] = {}
        self._lines: dict[tuple[Any, ...], tuple[Line, ...]] = {}

    def _once(self, part: str, make: Callable[..., T], *inputs: Any) -> T:
        kept = self._kept.get(part)
        if kept is not None and all(map(_same, kept[0], inputs)):
            made: T = kept[1]
            return made
        fresh = make(*inputs)
        self._kept[part] = (inputs, fresh)
        return fresh

    def render(self, network: LogicalNetwork, local: LocalState) -> dict[Key, Item]:
        ruleset, topology = network.ruleset, network.topology
        sets: dict[str, Elements] = dict.fromkeys(SETS, _EMPTY)
        rules = (ruleset.tiers, ruleset.profiles)
        leaving = (topology.segments, topology.routers, topology.source_nats, topology.blocked_sources)
        used = self._once("used", _used, *rules)
        vms = self._once("vms", vms_here, topology.ports, local)
        sets |= self._once("local", _local, local, vms)
        sets |= self._once("leaving", _leaving, *leaving, local.host_address, local.host_address6)
        sets |= self._once("pools", _pools, ruleset.container_pools)
        sets |= self._once("identity", _identities, ruleset.identities)
        sets |= self._once("jumps", _jumps, ruleset.egress, ruleset.profiles)
        sets["allow"] = self._follow("allow", ruleset.policies, _exact)
        sets["allow_range"] = self._follow("allow_range", ruleset.policies, _ranged)
        ruled, sets["refused"], logged = self._once("ids", _ids, *rules)
        admit = self._once("admit", lambda refused: partial(_live, refused), sets["refused"])
        sets["live"] = self._with(ruled, "live", ruleset.labels, admit)
        sets["logged"] = self._with(logged, "logged", ruleset.labels, _logged)
        items: list[Item] = [
            self._once(f"set {name}", lambda e, n=name: SetItem(n, SETS[n], e), elements)
            for name, elements in sets.items()
        ]
        names = self._once("names", kernel_names, ruleset.sets)
        items += self._once("addresses", self._address_sets, ruleset.sets, names, used)
        items += self._once("chains", self._chains, *rules, names)
        return {item.key: item for item in items}

    def _address_sets(
        self, sets: Mapping[str, AddressSet], names: KernelNames, used: frozenset[str]
    ) -> tuple[Item, ...]:
        """One that holds what it held is the same item."""
        before, self._sets = self._sets, {}
        for name in sorted(used):
            kept = before.get(name)
            same = kept is not None and kept[0] == sets[name]
            self._sets[name] = kept if kept and same else (sets[name], _address_set(sets[name], names[name]))
        return tuple(item for _, items in self._sets.values() for item in items)

    def _chains(self, tiers: Tiers, profiles: Profiles, names: KernelNames) -> tuple[Item, ...]:
        """A rule that is written as it was is not written again: its members may come and go."""
        before, self._lines = self._lines, {}

        def written(rule: CompiledRule) -> tuple[Line, ...]:
            made_of = rule, names.get(rule.sources or ""), names.get(rule.destinations or "")
            found = self._lines[made_of] = before.get(made_of) or tuple(lines(rule, names))
            return found

        chains = {f"tier{tier}": tiers.get(tier, ()) for tier in range(TIERS)}
        chains |= {profile_chain(profile): rules for profile, rules in profiles.items()}
        return tuple(
            ChainItem(name, tuple(line for rule in rules for line in written(rule))) for name, rules in chains.items()
        )

    def _follow(self, part: str, source: Mapping[K, V], encode: Callable[[K, V], _Element | None]) -> Elements:
        """What `encode` makes of every entry; of an earlier source only what was touched since is encoded anew. Two
        entries never make the same key."""
        kept = self._followed.get(part)
        before: Mapping[K, V] = {}
        elements: Elements = _EMPTY
        if kept is not None and kept[1] is encode:
            before, elements = kept[0], kept[2]
        if kept is None or before is not source:
            news: dict[bytes, bytes | None] = {}
            gone: list[bytes] = []
            for entry in touched(before, source):
                was = encode(entry, before[entry]) if entry in before else None
                now = encode(entry, source[entry]) if entry in source else None
                if was is not None and (now is None or now[0] != was[0]):
                    gone.append(was[0])
                if now is not None and now != was:
                    news[now[0]] = now[1]
            if news or gone:
                elements = Grown(elements, news, gone)
            self._followed[part] = (source, encode, elements)
        return elements

    def _with(
        self, few: Elements, part: str, source: Mapping[K, V], encode: Callable[[K, V], _Element | None]
    ) -> Elements:
        """Those few as well, where the many do not have them already."""
        many = self._follow(part, source, encode)
        more = {key: data for key, data in few.items() if key not in many}
        return Grown(many, more) if more else many


def _same(before: object, now: object) -> bool:
    """Mappings stay the same object from revision to revision; what is small comes anew with each, and is compared."""
    return before is now or (isinstance(now, str | tuple) and before == now)


_Element = tuple[bytes, bytes | None]


def _exact(match: PolicyMatch, rule: int) -> _Element | None:
    return (_policy_key(match), mark(rule)) if match.first_port == match.last_port else None


def _ranged(match: PolicyMatch, rule: int) -> _Element | None:
    return (_policy_key(match), mark(rule)) if match.first_port != match.last_port else None


def _live(refused: Elements, rule: int, label: RuleLabel) -> _Element | None:
    """An id that refuses admits nothing; everything else that is in force may."""
    return None if (key := mark(rule)) in refused else (key, None)


def _logged(rule: int, label: RuleLabel) -> _Element | None:
    return (mark(rule), None) if label.logged else None


def _policy_key(match: PolicyMatch) -> bytes:
    if match.first_port == match.last_port:
        ends = mark(match.source) + mark(match.destination)
        return ends + protocol(match.protocol) + service(match.first_port)
    head = ordered_mark(match.source) + ordered_mark(match.destination) + protocol(match.protocol)
    return head + service(match.first_port) + head + service(match.last_port)


# --- what is on the cell ----------------------------------------------------------------------------------------------


def vms_here(ports: Mapping[str, Port], local: LocalState) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(device, addresses) of the VMs here. A name that no device can have is no port."""
    here = (port for port in ports.values() if port.kind is PortKind.VM and port.cell == local.cell)
    return tuple((vm.device, vm.addresses) for vm in here if _DEVICE.fullmatch(vm.device))


def port_elements(name: str, addresses: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """(set, key) of what a container's port needs in order to be heard at all. The first address is an IPv4 one."""
    mac = b""
    for address in addresses:
        packed = pack(address)
        n = 4 if len(packed) == 4 else 6
        mac = mac or ether(container_mac(address))
        yield f"port_src{n}", device(name) + packed + mac
        yield f"workload{n}", packed


def _vm_elements(name: str, addresses: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Nobody told us a machine's MAC; and behind its device there is nobody else whom it could seem to be."""
    for address in addresses:
        packed = pack(address)
        n = 4 if len(packed) == 4 else 6
        yield f"vm_src{n}", device(name) + packed
        yield f"workload{n}", packed


def _local(local: LocalState, vms: tuple[tuple[str, tuple[str, ...]], ...]) -> dict[str, Elements]:
    made = ("port_src", "vm_src", "workload", "netin", "netin_ok", "hairpin")
    sets: dict[str, dict[bytes, bytes | None]] = {f"{name}{n}": {} for name in made for n in (4, 6)}
    sets["uplinks"] = {device(name): None for name in local.uplinks if _DEVICE.fullmatch(name)}
    sets["vm_ports"] = {device(name): None for name, _ in vms}
    for port in local.ports.values():
        for where, key in port_elements(port.device, port.addresses):
            if not (port.isolated and where.startswith("port_src")):  # whatever it sends is dropped: no egress at all
                sets[where][key] = None
    for name, addresses in vms:
        for where, key in _vm_elements(name, addresses):
            sets[where][key] = None
    for port in local.ports.values():
        for written in port.addresses:
            address, host = pack(written), local.host_address_for(written)
            n = 4 if len(address) == 4 else 6
            for mapped in port.mapped_ports:
                sets[f"netin_ok{n}"][address + service(mapped.container_port)] = None
                sets[f"hairpin{n}"][address + address] = None
                if host:
                    to = address + service(mapped.container_port)
                    sets[f"netin{n}"][pack(host) + service(mapped.host_port)] = to
    return dict(sets)


def _leaving(
    segments: Mapping[str, Segment],
    routers: Mapping[str, Router],
    source_nats: Mapping[str, SourceNat],
    blocked_sources: tuple[str, ...],
    host_address: str,
    host_address6: str,
) -> dict[str, Elements]:
    """Translations, and who may not leave at all: an org that is to be translated, but to what?"""
    sets: dict[str, dict[bytes, bytes | None]] = {f"{name}{n}": {} for name in _LEAVING for n in (4, 6)}
    translated: list[PackedRange] = []
    closed = [prefix_range(source) for source in blocked_sources]
    for nat in source_nats.values():
        source = prefix_range(nat.source)
        n, host = (4, host_address) if len(source[0]) == 4 else (6, host_address6)
        if address := nat.address or host:
            translated.append(source)
            sets[f"snat{n}"][interval(source)] = pack(address)
            if address != host:
                sets[f"snat_address{n}"][pack(address)] = None
        else:  # as the cell, which has no address of this family
            closed.append(source)
    for segment in segments.values():
        router = routers.get(segment.org)
        if router is None or router.mode is not NetworkMode.ROUTED:
            closed.append(prefix_range(segment.prefix))
    for left in subtract(closed, translated):
        sets["blocked4" if len(left[0]) == 4 else "blocked6"][interval(left)] = None
    return dict(sets)


# --- policies and profiles --------------------------------------------------------------------------------------------


def _pools(pools: tuple[str, ...]) -> dict[str, Elements]:
    return _by_family("pools", merge(parse_range(pool) for pool in pools))


def _by_family(name: str, ranges: Iterable[PackedRange]) -> dict[str, Elements]:
    sets: dict[str, dict[bytes, bytes | None]] = {f"{name}4": {}, f"{name}6": {}}
    for each in ranges:
        sets[f"{name}4" if len(each[0]) == 4 else f"{name}6"][interval(each)] = None
    return dict(sets)


def _mapping(name: str, addresses: Iterable[tuple[str, bytes]]) -> dict[str, Elements]:
    sets: dict[str, dict[bytes, bytes | None]] = {f"{name}4": {}, f"{name}6": {}}
    for address, data in addresses:
        packed = pack(address)
        sets[f"{name}4" if len(packed) == 4 else f"{name}6"][packed] = data
    return dict(sets)


def _identities(identities: Mapping[str, int]) -> dict[str, Elements]:
    return _mapping("identity", ((address, mark(number)) for address, number in identities.items()))


def profile_chain(profile: str) -> str:
    return f"asg_{profile}"


def _jumps(egress: Mapping[str, str], profiles: Mapping[str, Any]) -> dict[str, Elements]:
    known = ((address, profile) for address, profile in egress.items() if profile in profiles)
    return _mapping("asg", ((address, profile_chain(profile).encode()) for address, profile in known))


# --- rules ------------------------------------------------------------------------------------------------------------

Tiers = Mapping[int, tuple[CompiledRule, ...]]
Profiles = Mapping[str, tuple[CompiledRule, ...]]


KernelNames = Mapping[str, tuple[str, str]]
"""By name of an address set, what its IPv4 and its IPv6 addresses are called in the kernel; empty where it has none."""


def kernel_names(sets: Mapping[str, AddressSet]) -> KernelNames:
    return {name: (_kernel_set(name, known.v4, 4), _kernel_set(name, known.v6, 6)) for name, known in sets.items()}


def _kernel_set(name: str, ranges: tuple[PackedRange, ...], n: int) -> str:
    """Plain addresses are looked up by hash, at a third of an interval's cost."""
    return f"{name}_{'h' if _single(ranges) else 'i'}{n}" if ranges else ""


def _single(ranges: tuple[PackedRange, ...]) -> bool:
    return all(first == last for first, last in ranges)


def _used(tiers: Tiers, profiles: Profiles) -> frozenset[str]:
    rules = [rule for rules in [*tiers.values(), *profiles.values()] for rule in rules]
    return frozenset(name for rule in rules for name in (rule.sources, rule.destinations) if name is not None)


def _address_set(known: AddressSet, names: tuple[str, str]) -> tuple[Item, ...]:
    items = []
    for n, ranges, name in ((4, known.v4, names[0]), (6, known.v6, names[1])):
        if ranges:
            single = _single(ranges)
            keys = (first if single else interval((first, last)) for first, last in ranges)
            items.append(SetItem(name, (_HASHED if single else _INTERVALS)[n], dict.fromkeys(keys)))
    return tuple(items)


def lines(rule: CompiledRule, names: KernelNames) -> Iterator[Line]:
    """A rule, per family in which both its ends have addresses, and per service."""
    ends = [None if name is None else names[name] for name in (rule.sources, rule.destinations)]
    for wanted in rule.services:
        only = {Protocol.ICMP: 4, Protocol.ICMPV6: 6}.get(wanted.protocol)
        bound = rule.mapped_only or only or any(end is not None for end in ends)
        for family in (4, 6) if bound else (0,):
            if only and family != only:
                continue
            if rule.mapped_only and wanted.protocol not in (Protocol.TCP, Protocol.ALL):
                continue
            sides = [None if end is None else end[family == 6] for end in ends]
            if "" not in sides:
                yield _line(rule, wanted, family, *sides)


def _line(rule: CompiledRule, wanted: Service, family: int, sources: str | None, destinations: str | None) -> Line:
    ported = wanted.protocol in (Protocol.TCP, Protocol.UDP)
    typed = wanted.protocol in (Protocol.ICMP, Protocol.ICMPV6)
    return Line(
        action=rule.action,
        rule=rule.id,
        family=family,
        sources=sources,
        destinations=destinations,
        protocol=PROTOCOL_NUMBER.get(wanted.protocol),
        ports=_merged_ports(wanted.ports) if ported else (),
        icmp_type=wanted.icmp_type if typed else None,
        icmp_code=wanted.icmp_code if typed and wanted.icmp_type is not None else None,
        mapped=rule.mapped_only,
        watch=rule.watch,
    )


def _merged_ports(ports: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Overlapping ranges can't lie in one kernel set."""
    packed = merge((first.to_bytes(4, "big"), last.to_bytes(4, "big")) for first, last in ports)
    return tuple((int.from_bytes(first, "big"), int.from_bytes(last, "big")) for first, last in packed)


def _ids(tiers: Tiers, profiles: Profiles) -> tuple[Elements, Elements, Elements]:
    """(ids that admit, ids that refuse or watch, ids whose admissions are logged)."""
    admit: dict[bytes, bytes | None] = {}
    refuse: dict[bytes, bytes | None] = {}
    logged: dict[bytes, bytes | None] = {}
    for rule in (rule for rules in [*tiers.values(), *profiles.values()] for rule in rules):
        key = mark(rule.id)
        if rule.watch or rule.action in (Action.DROP, Action.REJECT):
            refuse[key] = None
        elif rule.action is Action.ALLOW:
            admit[key] = None
            if rule.log:
                logged[key] = None
    return admit, refuse, logged
