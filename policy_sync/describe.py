"""How is a rule said to a person? One sentence each; ids become names where a resolver knows them.

frontend (acme/dev) may open tcp 8080 to backend (acme/dev) · cf network policy
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from egress.values import PackedRange, text
from policy_sync import criteria_text
from policy_sync.model import (
    Action,
    CfPolicy,
    GardenRule,
    Group,
    Mode,
    Packet,
    Protocol,
    Rule,
    Selector,
    SelectorKind,
    Service,
)

Names = Callable[[str], str]
"""A qualified id → what people call it. What it does not know, it gives back as it came."""

_DEEDS = {
    Action.ALLOW: "may open {what} to {to}",
    Action.REJECT: "may not open {what} to {to} (rejected)",
    Action.DROP: "may not open {what} to {to} (dropped)",
    Action.PASS: "to {to} with {what}: left to the next tier",
}
_EVERY = ("0.0.0.0-255.255.255.255", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")


def as_it_came(name: str) -> str:
    return name


def rule(rule: Rule, names: Names = as_it_came) -> str:
    """A rule of people or of the system, and every circumstance that changes what it does."""
    what = either([service(each) for each in rule.services])
    deed = _DEEDS[rule.action].format(what=what, to=ends(rule.destinations, names))
    circumstances = [rule.section or rule.tier.name.lower()]
    if rule.mapped_only:
        circumstances.append("only by mapped ports")
    if rule.applied_to:
        circumstances.append(f"applied to {ends(rule.applied_to, names)}")
    if rule.mode is Mode.WATCH:
        circumstances.append("watches only")
    if not rule.enabled:
        circumstances.append("disabled")
    return " · ".join((f"{ends(rule.sources, names)} {deed}", *circumstances))


def group(group: Group, names: Names = as_it_came) -> str:
    """Whom it is made of. One of nobody says so: it matches nothing."""
    listed = [_selector(each, names) for each in group.members]
    found = [] if group.criteria is None else [f"whoever has {criteria_text.said(group.criteria)}"]
    return f"group {group.name} is {', '.join((*listed, *found)) or 'nobody'}"


def policy(policy: CfPolicy, names: Names = as_it_came) -> str:
    what = service(Service(policy.protocol, ((policy.first_port, policy.last_port),)))
    return f"{names(policy.source)} may open {what} to {names(policy.destination)} · cf network policy"


def garden(rule: GardenRule, whose: str = "its containers") -> str:
    """One entry of an ASG, or of what Garden handed over. It never opens containers or the cell, and says so."""
    if rule.protocol in (Protocol.TCP, Protocol.UDP) and not rule.ports:
        return f"{whose} may open nothing: {rule.protocol.value} without ports · cf security group"
    what = service(Service(rule.protocol, rule.ports, rule.icmp_type, rule.icmp_code))
    to = either([_range(each) for each in rule.destinations])
    return f"{whose} may open {what} to {to}, outside the container pools · cf security group"


def packet(packet: Packet, names: Mapping[str, str]) -> str:
    """`names` by address."""
    known = packet.protocol if isinstance(packet.protocol, Protocol) else f"protocol {packet.protocol}"
    if known in (Protocol.TCP, Protocol.UDP):
        what = f"{known} {packet.port}"
    elif known in (Protocol.ICMP, Protocol.ICMPV6):
        what = f"{known} {packet.icmp_type}/{packet.icmp_code}"
    else:
        what = known

    def end(address: str) -> str:
        return f"{names[address]} ({address})" if address in names else address

    by = ", by a mapped port" if packet.mapped else ""
    return f"{end(packet.source)} opens {what} to {end(packet.destination)}{by}"


def service(service: Service) -> str:
    if service.protocol is Protocol.ALL:
        return "anything"
    if service.protocol in (Protocol.TCP, Protocol.UDP):
        return f"{service.protocol.value} {_ports(service.ports)}" if service.ports else f"any {service.protocol.value}"
    if service.icmp_type is None and service.icmp_code is None:
        return f"any {service.protocol.value}"
    kind, code = ("any" if number is None else number for number in (service.icmp_type, service.icmp_code))
    return f"{service.protocol.value} type {kind} code {code}"


def ends(selectors: Sequence[Selector], names: Names = as_it_came) -> str:
    return either([_selector(each, names) for each in selectors])


def either(said: Sequence[str]) -> str:
    if not said:
        return "nothing"
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} or {said[-1]}"


def _selector(selector: Selector, names: Names) -> str:
    match selector.kind:
        case SelectorKind.ANY:
            said = "anything"
        case SelectorKind.KIND:
            said = {
                "container": "any container",
                "vm": "any VM",
                "cell": "the cell",
                "running": "any running container",
                "staging": "any staging container",
            }.get(selector.value, selector.value)
        case SelectorKind.RANGE:
            said = selector.value
        case SelectorKind.GROUP:
            said = f"group {selector.value}"
        case SelectorKind.ORG | SelectorKind.SPACE:
            said = f"{selector.kind.value} {names(selector.value)}"
        case _:
            said = names(selector.value)
    return f"everything known but {said}" if selector.negated else said


def _ports(ports: Sequence[tuple[int, int]]) -> str:
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ports)


def _range(span: PackedRange) -> str:
    first, last = map(text, span)
    if f"{first}-{last}" in _EVERY:
        return "any IPv4 address" if "." in first else "any IPv6 address"
    return first if first == last else f"{first}-{last}"
