"""What must the firewall do with a packet, and by which rule? The oracle: slow, plain, and independent of the compiler.

    emergency > infrastructure > environment > application > baseline        first match wins; `pass` = next tier
    in application, after its rules:
        destination is the cell              nothing more
        destination is in a container pool   network policies: app's container to app's container
        destination is elsewhere             the source container's ASGs, and what Garden added

It asks each question of the World itself, one packet at a time, and shares no code with `ruleset` or `membership`, so
that the two can be held against each other. (`meant` says whom a selector means.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from egress.values import Packed, pack, unqualify
from policy_sync import meant, translate
from policy_sync.model import (
    PROTOCOL_NUMBER,
    Action,
    Asg,
    CfPolicy,
    GardenRule,
    Lifecycle,
    Mode,
    Packet,
    Protocol,
    Rule,
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
    if not (meant.named(world, rule.sources, source) and meant.named(world, rule.destinations, destination)):
        return False
    if not rule.applied_to:
        return True
    ends = (end for end in (source, destination) if meant.protected(world, end))
    return any(meant.named(world, rule.applied_to, end) for end in ends)


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


# What Cloud Foundry says


def _cloud_foundry(world: World, packet: Packet) -> Iterator[str]:
    """Keys of the network policies or ASG entries that allow it."""
    source, destination = pack(packet.source), pack(packet.destination)
    sender = meant.container_at(world, source)
    if sender is None or meant.is_cell(world, destination):
        return
    if not meant.in_pool(world, destination):
        for key, rule in _outward(world, sender):
            if _entry_matches(rule, destination, packet):
                yield key
        return
    receiver = meant.container_at(world, destination)
    if receiver is None or not meant.is_container(world, source):
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
