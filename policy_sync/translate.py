"""What do Cloud Foundry and Garden say, in our nouns? ASG entries, rule keys, and the rules there from the start.

A key is what a rule is, for life: it is built from what the rule says, and names its foundation.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence

from egress.values import PackedRange, QualifiedId, Refused, merge, parse_range, subtract, text
from policy_sync.model import (
    ANY,
    Action,
    CfPolicy,
    GardenRule,
    Protocol,
    Rule,
    Selector,
    SelectorKind,
    Service,
    Tier,
)

EVERYWHERE: tuple[PackedRange, ...] = ((bytes(4), b"\xff" * 4), (bytes(16), b"\xff" * 16))
_GARDEN_PROTOCOLS = (Protocol.ALL, Protocol.TCP, Protocol.UDP, Protocol.ICMP, Protocol.ICMPV6)
_WITH_PORTS = (Protocol.TCP, Protocol.UDP)
_WITH_ICMP = (Protocol.ICMP, Protocol.ICMPV6)

CONTAINERS = (Selector(SelectorKind.KIND, "container"),)
CELL = (Selector(SelectorKind.KIND, "cell"),)


def garden_rule(
    protocol: int,
    networks: Sequence[tuple[str, str]],
    ports: Sequence[tuple[int, int]],
    icmp_type: int | None,
    icmp_code: int | None,
    log: bool,
) -> GardenRule | Refused:
    """Garden's `NetOutRule`. No networks = every address; 255 = any, for type and code apart."""
    if not 0 <= protocol < len(_GARDEN_PROTOCOLS):
        return _unreadable(
            f"protocol {protocol} is none of Garden's (0 all, 1 tcp, 2 udp, 3 icmp, 4 icmpv6)", "protocol"
        )
    try:
        destinations = merge(_span(first, last) for first, last in networks) if networks else EVERYWHERE
    except ValueError as error:
        return _unreadable(str(error), "networks")
    return _entry(_GARDEN_PROTOCOLS[protocol], destinations, ports, icmp_type, icmp_code, log)


def asg_rule(
    protocol: str, destination: str, ports: str, icmp_type: int | None, icmp_code: int | None, log: bool
) -> GardenRule | Refused:
    """One entry of an ASG as Cloud Controller and the policy server write it. -1 = any, for type and code apart."""
    try:
        known = Protocol(protocol.strip().lower())
    except ValueError:
        return _unreadable(f"protocol {_short(protocol)} is none of tcp, udp, icmp, icmpv6, all", "protocol")
    try:
        destinations = merge(_written(each.strip()) for each in destination.split(","))
    except ValueError as error:
        return _unreadable(_short(str(error)), "destination")
    try:
        ranges = [_ports(each.strip()) for each in ports.split(",") if each.strip()] if known in _WITH_PORTS else []
    except ValueError as error:
        return _unreadable(_short(str(error)), "ports")
    return _entry(known, destinations, ranges, icmp_type, icmp_code, log)


def _entry(
    protocol: Protocol,
    destinations: tuple[PackedRange, ...],
    ports: Sequence[tuple[int, int]],
    icmp_type: int | None,
    icmp_code: int | None,
    log: bool,
) -> GardenRule | Refused:
    if protocol in _WITH_PORTS:
        if not ports:
            return _nothing(f"an entry for {protocol.value} without ports matches nothing; name its ports", "ports")
        for first, last in ports:
            if not 0 <= first <= last <= 65535:
                return _unreadable(f"{first}-{last} is no range of ports within 0 to 65535", "ports")
        return GardenRule(protocol, destinations, tuple(sorted(set(ports))), log=log)
    if protocol in _WITH_ICMP:
        if icmp_type is None:
            return _nothing(f"an entry for {protocol.value} without a type matches nothing; -1 means any", "type")
        for number, field in ((icmp_type, "type"), (icmp_code, "code")):
            if number is not None and not -1 <= number <= 255:
                return _unreadable(f"{number} is no icmp {field}; -1 to 255", field)
        return GardenRule(protocol, destinations, (), _or_any(icmp_type), _or_any(icmp_code), log)
    return GardenRule(protocol, destinations, log=log)


def _or_any(number: int | None) -> int | None:
    return None if number in (-1, 255) else number


def _span(first: str, last: str) -> PackedRange:
    return parse_range(f"{first}-{last}" if last else first)


def _written(written: str) -> PackedRange:
    if "/" in written and "-" not in written:
        # Host bits set are tolerated, as upstream does: 10.0.0.7/24 means 10.0.0.0/24.
        if "%" in written:
            raise ValueError(f"{written!r} carries a zone")
        network = ipaddress.ip_network(written, strict=False)
        return network.network_address.packed, network.broadcast_address.packed
    return parse_range(written)


def _ports(written: str) -> tuple[int, int]:
    first, dash, last = (each.strip() for each in written.partition("-"))
    for each in (first, last) if dash else (first,):
        if not (each.isascii() and each.isdigit() and len(each) <= 5):
            raise ValueError(f"{written!r} is no port")
    return int(first), int(last if dash else first)


def _short(written: str) -> str:
    return repr(written[:80] + "…" if len(written) > 80 else written)


def _nothing(message: str, field: str) -> Refused:
    return Refused("ASG_ENTRY_MATCHES_NOTHING", message, field)


def _unreadable(message: str, field: str) -> Refused:
    return Refused("ASG_ENTRY_UNREADABLE", message, field)


def policy_key(policy: CfPolicy) -> str:
    # Joined rather than formatted: it is made for each of 20,000 policies.
    ports = f"{policy.first_port}-{policy.last_port}"
    return "".join(("policy:", policy.source, ">", policy.destination, ":", policy.protocol, ":", ports))


def asg_key(asg: QualifiedId, rule: GardenRule) -> str:
    return f"asg:{asg}:{_content(rule)}"


def garden_key(rule: GardenRule, foundation: str = "") -> str:
    """A rule that Garden handed over, of `up` or `net-out`: the same words mean the same rule within a foundation."""
    return f"garden:{foundation}:{_content(rule)}"


def app_key(app: QualifiedId) -> str:
    """Not a rule: an app's identity number comes from the same store as rule ids, so that it is stable too."""
    return f"app:{app}"


def _content(rule: GardenRule) -> str:
    said = "|".join(
        (
            rule.protocol.value,
            ",".join(f"{first.hex()}-{last.hex()}" for first, last in rule.destinations),
            ",".join(f"{first}-{last}" for first, last in rule.ports),
            f"{rule.icmp_type}/{rule.icmp_code}",
            "log" if rule.log else "",
        )
    )
    return hashlib.sha256(said.encode()).hexdigest()[:20]


def system_rules(
    *,
    dns_listeners: Sequence[str] = (),
    host_tcp_services: Sequence[str] = (),
    host_udp_services: Sequence[str] = (),
    metadata_addresses: Sequence[str] = (),
    deny_always: Sequence[str] = (),
    deny_running: Sequence[str] = (),
    deny_staging: Sequence[str] = (),
    container_pools: Sequence[str] = (),
    disable_container_network_policy: bool = False,
) -> tuple[Rule, ...]:
    """Upstream's knobs as visible rules. The settings were read before: an unreadable one is a fault (ValueError)."""
    rules: list[Rule] = []

    def add(
        key: str,
        name: str,
        destinations: tuple[Selector, ...],
        action: Action,
        services: tuple[Service, ...] = (Service(),),
        sources: tuple[Selector, ...] = CONTAINERS,
        tier: Tier = Tier.INFRASTRUCTURE,
    ) -> None:
        if destinations:
            rules.append(Rule(f"system:{key}", name, tier, sources, destinations, action, services, section="system"))

    dns = (Service(Protocol.UDP, ((53, 53),)), Service(Protocol.TCP, ((53, 53),)))
    add("dns", "containers to the cell's DNS listeners", _addresses(dns_listeners), Action.ALLOW, dns)
    for protocol, services in ((Protocol.TCP, host_tcp_services), (Protocol.UDP, host_udp_services)):
        for written in services:
            host, _, port = written.rpartition(":")
            address = _addresses((host.removeprefix("[").removesuffix("]"),))
            service = (Service(protocol, (_ports(port),)),)
            key = f"host-{protocol.value}:{written}"
            add(key, f"containers to the cell's {protocol.value} service {written}", address, Action.ALLOW, service)
    add("metadata", "containers to metadata addresses", _addresses(metadata_addresses), Action.REJECT)
    for key, who, networks in (
        ("always", "container", deny_always),
        ("running", "running", deny_running),
        ("staging", "staging", deny_staging),
    ):
        outside = subtract(map(parse_range, networks), map(parse_range, container_pools))
        sources = (Selector(SelectorKind.KIND, who),)
        name = f"deny_networks.{key}: {'all' if key == 'always' else key} containers to denied networks"
        add(f"deny-networks-{key}", name, _ranges(outside), Action.REJECT, sources=sources)
    if disable_container_network_policy:
        key, name = "container-network-policy-off", "container network policy is disabled: container to container"
        add(key, name, CONTAINERS, Action.ALLOW, tier=Tier.APPLICATION)
    return tuple(rules)


def shut_off(workloads: Iterable[str]) -> tuple[Rule, ...]:
    """Rules by which these containers reach nobody and nobody reaches them; none where there are none."""
    ends = tuple(Selector(SelectorKind.WORKLOAD, workload) for workload in sorted(workloads))
    if not ends:
        return ()

    def rule(key: str, name: str, sources: tuple[Selector, ...], destinations: tuple[Selector, ...]) -> Rule:
        return Rule(f"system:{key}", name, Tier.EMERGENCY, sources, destinations, Action.REJECT, section="system")

    return (
        rule("untrue-from", "containers that are not what they say: to anything", ends, ANY),
        rule("untrue-to", "anything to containers that are not what they say", ANY, ends),
    )


def baseline_rules() -> tuple[Rule, ...]:
    """What happens when nobody said anything. They decide everything, so they come last in their tier."""

    def rule(
        key: str,
        name: str,
        to: tuple[Selector, ...],
        action: Action,
        by: tuple[Selector, ...] = ANY,
        mapped: bool = False,
    ) -> Rule:
        return Rule(f"baseline:{key}", name, Tier.BASELINE, by, to, action, mapped_only=mapped, section="defaults")

    return (
        rule("container-to-container", "container to container", CONTAINERS, Action.REJECT, CONTAINERS),
        rule(
            "platform-ingress", "platform ingress: from outside to mapped ports", CONTAINERS, Action.ALLOW, mapped=True
        ),
        rule("cell-to-container", "the cell to its containers", CONTAINERS, Action.ALLOW, CELL),
        rule("any-to-container", "anything to a container", CONTAINERS, Action.REJECT),
        rule("container-to-any", "container to anything: the cell, VMs, outside", ANY, Action.REJECT, CONTAINERS),
        rule("any-to-any", "VMs, outside and the cell among each other", ANY, Action.ALLOW),
    )


def _addresses(written: Sequence[str]) -> tuple[Selector, ...]:
    return _ranges([parse_range(each) for each in written])


def _ranges(ranges: Sequence[PackedRange]) -> tuple[Selector, ...]:
    return tuple(
        Selector(SelectorKind.RANGE, text(first) if first == last else f"{text(first)}-{text(last)}")
        for first, last in ranges
    )
