"""What must the firewall do with a packet, and by which rule? The oracle: slow, plain, and independent of the compiler.

    emergency > infrastructure > environment > application > baseline        first match wins; `pass` = next tier
    in application, after its rules:
        destination is the cell              nothing more
        destination is in a container pool   network policies: app's container to app's container
        destination is elsewhere             the source container's ASGs, and what Garden added

It asks each question of the World itself, one packet at a time, and shares no code with `ruleset` or `membership`, so
that the two can be held against each other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence

from egress.values import Packed, pack, parse_range, unqualify
from policy_sync import translate
from policy_sync.model import (
    PROTOCOL_NUMBER,
    Action,
    Asg,
    CfPolicy,
    GardenRule,
    Kind,
    Lifecycle,
    Mode,
    Packet,
    Protocol,
    Rule,
    Selector,
    SelectorKind,
    Service,
    Tier,
    Verdict,
    Workload,
    World,
)

_NOBODY = Verdict(Action.REJECT, "", Tier.BASELINE)
"""No rule said anything, not even baseline: refused."""


def verdict(world: World, packet: Packet, ids: Mapping[str, int] | None = None, now: float | None = None) -> Verdict:
    """Where several network policies or ASG entries allow, the one with the lowest id (then key) is named."""
    for tier in Tier:
        for rule in _rules_in_force(world, tier, now):
            if _matches(world, rule, packet):
                if rule.action is Action.PASS:
                    break
                return Verdict(rule.action, rule.key, tier)
        else:
            if tier is Tier.APPLICATION:
                keys = [key for key in _cloud_foundry(world, packet) if ids is None or key in ids]
                if keys:
                    first = min(keys, key=lambda key: ((ids or {}).get(key, 0), key))
                    return Verdict(Action.ALLOW, first, tier)
    return _NOBODY


# Rules


def _rules_in_force(world: World, tier: Tier, now: float | None) -> Iterator[Rule]:
    seen: set[str] = set()
    for rule in world.rules:
        twice = rule.key in seen
        seen.add(rule.key)
        expired = (
            rule.action is Action.ALLOW and now is not None and rule.expires_at is not None and rule.expires_at <= now
        )
        passes_too_late = rule.action is Action.PASS and tier >= Tier.APPLICATION
        out_of_force = twice or expired or passes_too_late or not rule.enabled or rule.mode is not Mode.ENFORCE
        if rule.tier is tier and not out_of_force:
            yield rule


def _matches(world: World, rule: Rule, packet: Packet) -> bool:
    if rule.mapped_only and not packet.mapped:
        return False
    if not any(_service_matches(service, packet) for service in rule.services):
        return False
    source, destination = pack(packet.source), pack(packet.destination)
    if not (_named(world, rule.sources, source) and _named(world, rule.destinations, destination)):
        return False
    if not rule.applied_to:
        return True
    return any(_protected(world, end) and _named(world, rule.applied_to, end) for end in (source, destination))


def _service_matches(service: Service, packet: Packet) -> bool:
    if service.protocol is Protocol.ALL:
        return True
    if PROTOCOL_NUMBER[service.protocol] != _number(packet):
        return False
    if service.protocol in (Protocol.TCP, Protocol.UDP):
        return not service.ports or any(first <= packet.port <= last for first, last in service.ports)
    return service.icmp_type in (None, packet.icmp_type) and service.icmp_code in (None, packet.icmp_code)


def _number(packet: Packet) -> int:
    protocol = packet.protocol
    return PROTOCOL_NUMBER.get(protocol, -1) if isinstance(protocol, Protocol) else protocol


# Who is meant


def _named(world: World, selectors: Sequence[Selector], address: Packed) -> bool:
    return any(_selects(world, selector, address) for selector in selectors)


def _selects(world: World, selector: Selector, address: Packed) -> bool:
    plain = Selector(selector.kind, selector.value)
    if not selector.negated:
        return _selects_plainly(world, plain, address)
    # The negation: known workloads with no address in it. Unknown addresses are in neither.
    return any(
        not any(_selects_plainly(world, plain, each) for each in _addresses(workload))
        for workload in world.workloads
        if address in _addresses(workload)
    )


def _selects_plainly(world: World, selector: Selector, address: Packed) -> bool:
    there = [workload for workload in world.workloads if address in _addresses(workload)]
    match selector.kind:
        case SelectorKind.ANY:
            return True
        case SelectorKind.ORG:
            return any(workload.org == selector.value for workload in there)
        case SelectorKind.SPACE:
            return any(workload.space == selector.value for workload in there)
        case SelectorKind.APP:
            return any(workload.app == selector.value for workload in there)
        case SelectorKind.WORKLOAD:
            return any(workload.id == selector.value for workload in there)
        case SelectorKind.RANGE:
            try:
                first, last = parse_range(selector.value)
            except ValueError:
                return False
            return len(first) == len(address) and first <= address <= last
        case SelectorKind.KIND:
            return _is_of_kind(world, selector.value, address, there)
        case SelectorKind.GROUP:
            if _contains_itself(world, selector.value):
                return False
            return _named(world, _members(world, selector.value), address)


def _is_of_kind(world: World, kind: str, address: Packed, there: Sequence[Workload]) -> bool:
    containers = [workload for workload in there if workload.kind is Kind.CONTAINER]
    match kind:
        case "container":
            return _is_container(world, address)
        case "vm":
            return _is_vm(world, address)
        case "cell":
            return _is_cell(world, address)
        case "running":
            return any(each.lifecycle in (Lifecycle.APP, Lifecycle.TASK) for each in containers)
        case "staging":
            return any(each.lifecycle is Lifecycle.STAGING for each in containers)
    return False


def _members(world: World, group: str) -> Sequence[Selector]:
    return next((each.members for each in world.groups if each.name == group), ())


def _contains_itself(world: World, group: str) -> bool:
    seen: set[str] = set()
    ahead = [group]
    while ahead:
        for member in _members(world, ahead.pop()):
            if member.kind is SelectorKind.GROUP and member.value == group:
                return True
            if member.kind is SelectorKind.GROUP and member.value not in seen:
                seen.add(member.value)
                ahead.append(member.value)
    return False


def _addresses(workload: Workload) -> list[Packed]:
    readable = []
    for address in workload.addresses:
        try:
            readable.append(pack(address))
        except ValueError:
            continue
    return readable


def _protected(world: World, address: Packed) -> bool:
    return any(workload.protected and address in _addresses(workload) for workload in world.workloads)


def _is_vm(world: World, address: Packed) -> bool:
    return any(workload.kind is Kind.VM and address in _addresses(workload) for workload in world.workloads)


def _is_cell(world: World, address: Packed) -> bool:
    return any(pack(each) == address for each in world.cell_addresses)


def _in_pool(world: World, address: Packed) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(pool) for pool in world.container_pools)


def _is_container(world: World, address: Packed) -> bool:
    return _in_pool(world, address) and not _is_vm(world, address)


def _container_at(world: World, address: Packed) -> Workload | None:
    """Where two containers say the same address, the first."""
    if _is_vm(world, address):
        return None
    containers = (workload for workload in world.workloads if workload.kind is Kind.CONTAINER)
    return next((workload for workload in containers if address in _addresses(workload)), None)


# What Cloud Foundry says


def _cloud_foundry(world: World, packet: Packet) -> Iterator[str]:
    """Keys of the network policies or ASG entries that allow it."""
    source, destination = pack(packet.source), pack(packet.destination)
    sender = _container_at(world, source)
    if sender is None or _is_cell(world, destination):
        return
    if not _in_pool(world, destination):
        for key, rule in _outward(world, sender):
            if _entry_matches(rule, destination, packet):
                yield key
        return
    receiver = _container_at(world, destination)
    if receiver is None or not _is_container(world, source):
        return
    if not (_takes_part_in_policies(sender) and _takes_part_in_policies(receiver)):
        return
    for policy in world.policies:
        if (policy.source, policy.destination) == (sender.app, receiver.app) and _policy_matches(policy, packet):
            yield translate.policy_key(policy)


def _policy_matches(policy: CfPolicy, packet: Packet) -> bool:
    if policy.protocol not in (Protocol.TCP, Protocol.UDP) or PROTOCOL_NUMBER[policy.protocol] != _number(packet):
        return False
    sound = policy.first_port >= 1 and policy.last_port <= 65535
    return sound and policy.first_port <= packet.port <= policy.last_port


def _takes_part_in_policies(workload: Workload) -> bool:
    return workload.app is not None and workload.lifecycle in (Lifecycle.APP, Lifecycle.TASK)


def _outward(world: World, sender: Workload) -> Iterator[tuple[str, GardenRule]]:
    foundation, _ = unqualify(sender.id)
    if foundation in world.asgs_known:
        for asg in world.asgs:
            if unqualify(asg.id)[0] == foundation and _is_bound(asg, sender):
                for rule in asg.rules:
                    yield translate.asg_key(asg.id, rule), rule
    else:
        for rule in sender.garden_rules:
            yield translate.garden_key(rule, foundation), rule
    for rule in sender.net_out:
        yield translate.garden_key(rule, foundation), rule


def _is_bound(asg: Asg, sender: Workload) -> bool:
    if sender.lifecycle in (Lifecycle.APP, Lifecycle.TASK):
        return asg.running_default or sender.space in asg.running_spaces
    if sender.lifecycle is Lifecycle.STAGING:
        return asg.staging_default or sender.space in asg.staging_spaces
    return False


def _entry_matches(rule: GardenRule, destination: Packed, packet: Packet) -> bool:
    if not any(len(first) == len(destination) and first <= destination <= last for first, last in rule.destinations):
        return False
    if rule.protocol in (Protocol.TCP, Protocol.UDP) and not rule.ports:
        return False
    ports = rule.ports if rule.protocol in (Protocol.TCP, Protocol.UDP) else ()
    return _service_matches(Service(rule.protocol, ports, rule.icmp_type, rule.icmp_code), packet)
