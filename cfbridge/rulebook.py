"""How do people write groups and rules? Sections of the intent file, read with place, hint and what was meant.

groups:
  prod:      tag env = "prod"                          an expression (`policy_sync.criteria_text`)
  databases: ["vm:db-1", 10.20.0.0/16, "group:old"]    members by name
rules:
  emergency:                                           tier
    quarantine:                                        section
      - {name: cut, from: not prod, to: databases, services: [tcp/5432], action: drop}
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cfbridge.document import Node, choice, nearest, short
from egress import values
from egress.values import RefusedError
from policy_sync import criteria, criteria_text, nesting
from policy_sync.criteria import Criteria, Trust
from policy_sync.model import ANY, Action, Group, Mode, Protocol, Rule, Selector, SelectorKind, Service, Tier

_RULE = (
    *("name", "from", "to", "services", "action", "applied_to"),
    *("log", "mode", "reason", "owner", "expires", "enabled"),
)
_KINDS = ("container", "vm", "cell")
_TIERS = {tier.name.lower(): tier for tier in Tier}
GUID = re.compile(r"([A-Za-z0-9._-]+:)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""As Cloud Foundry gives them; with several foundations behind the name of one. It stays when a name changes."""


@dataclass(frozen=True, slots=True)
class Defined:
    """Names that may be used, so that one that dangles is found where it stands."""

    groups: Collection[str]
    vms: Collection[str]


def groups(written: Mapping[str, Node], defined: Defined) -> tuple[Group, ...]:
    return tuple(_group(name, node, defined) for name, node in written.items())


def refuse_rings(written: Mapping[str, Node], found: Mapping[str, Group]) -> None:
    """`found`: every group, those of other documents too."""
    cyclic, _ = nesting.order(found)
    for name, node in written.items():
        if name in cyclic:
            node.refuse(f"a group can not hold itself: {' → '.join(_ring(name, found))}")


def _group(name: str, node: Node, defined: Defined) -> Group:
    """A list of members, an expression, or both: {members: [...], criteria: ...}."""
    if not name.isprintable() or not 0 < len(name) <= 128 or name == "any" or re.search(r"[:/]|^not |^\s|\s$", name):
        node.refuse(f"{short(name)} is no group name: at most 128 printable characters, no ':' or '/', not any, no not")
    if _is_range(name):
        node.refuse(f"{short(name)} reads as an address, and in a rule it would; give the group another name")
    if node.kind == "map":
        said = node.only(("members", "criteria"))
        listed = said["members"].items() if "members" in said else ()
        expression = said.get("criteria")
    else:
        listed, expression = ((), node) if node.kind == "str" else (node.items(), None)
    members = []
    for item in listed:
        selector = _selector(item, defined, bare_groups=False)
        if selector.kind is SelectorKind.ANY or selector.negated:
            item.refuse("a group has members by name; any and not are for rules")
        members.append(selector)
    return Group(name, tuple(members), _criteria(expression, defined) if expression else None)


def _criteria(node: Node, defined: Defined) -> Criteria:
    try:
        found = criteria_text.parse(node.text())
    except RefusedError as wrong:
        node.refuse(f"in the expression, {wrong.refused.message}", wrong.refused.code)
    for name in sorted(criteria.groups(found)):
        _known(node, name, defined.groups, "group")
    return found


def _ring(name: str, found: Mapping[str, Group]) -> list[str]:
    """The shortest way from a group back to itself."""
    ways = deque([[name]])
    seen: set[str] = set()
    while ways:
        way = ways.popleft()
        for inner in sorted(nesting.inner(found[way[-1]]) & found.keys()):
            if inner == name:
                return [*way, inner]
            if inner not in seen:
                seen.add(inner)
                ways.append([*way, inner])
    return [name]


def rules(node: Node, defined: Defined, trust: Mapping[str, Trust], provenance: str) -> tuple[Rule, ...]:
    """`trust`: of every group that they may name."""
    rules: list[Rule] = []
    seen: set[str] = set()
    for tier_name, sections in node.only(_TIERS).items():
        for section, listed in sections.entries().items():
            for each in listed.items():
                rule = _rule(each, _TIERS[tier_name], section, defined, provenance)
                if rule.key in seen:
                    each.refuse(f"a second rule is named {short(rule.name)}; rules are known by their names")
                seen.add(rule.key)
                if message := untrusted(rule, trust):
                    each.refuse(message, "TRUST_TOO_LOW")
                rules.append(rule)
    return tuple(sorted(rules, key=lambda rule: rule.tier))


def untrusted(rule: Rule, trust: Mapping[str, Trust]) -> str:
    """Why its groups can't be trusted enough, in words: whoever could name an app into a rule of the security team, or
    out of it, would be who decides."""
    if rule.tier is Tier.APPLICATION:
        return ""
    for each in (*rule.sources, *rule.destinations, *rule.applied_to):
        if each.kind is SelectorKind.GROUP and trust.get(each.value, Trust.ADMIN) < Trust.ADMIN:
            who = trust[each.value].name.lower().replace("_", " ")
            return (
                f"who is in group {short(each.value)} can be changed by any {who}, and tier {rule.tier.name.lower()} "
                "takes only what admins can change: name them by tag, by GUID or as members, or put the rule into "
                "tier application"
            )
    return ""


def _rule(node: Node, tier: Tier, section: str, defined: Defined, provenance: str) -> Rule:
    said = node.only(_RULE)
    for needed in ("name", "action"):
        if needed not in said:
            node.refuse(f"{needed} is missing")
    name = said["name"].text()
    if not name or not name.isprintable() or len(name) > 128:
        said["name"].refuse("a rule's name is 1 to 128 printable characters")
    action = choice(said["action"], Action)
    if action is Action.PASS and tier > Tier.ENVIRONMENT:
        said["action"].refuse("pass leaves a tier for the next: in emergency, infrastructure and environment only")
    expires = _expiry(said["expires"]) if "expires" in said else None
    if expires is not None and action is not Action.ALLOW:
        said["expires"].refuse("only an allow expires: a refusal that ends by itself would open something unseen")
    services = tuple(_service(item) for item in _one_or_more(said["services"])) if "services" in said else (Service(),)
    if not services:
        said["services"].refuse("no service is named; write all, or leave services out for all of them")
    return Rule(
        key=f"rule:{name}",
        name=name,
        tier=tier,
        sources=_ends(said.get("from"), defined),
        destinations=_ends(said.get("to"), defined),
        action=action,
        services=services,
        applied_to=_applied_to(said.get("applied_to"), defined),
        section=section,
        log=said["log"].flag() if "log" in said else False,
        mode=choice(said["mode"], Mode) if "mode" in said else Mode.ENFORCE,
        enabled=said["enabled"].flag() if "enabled" in said else True,
        expires_at=expires,
        reason=said["reason"].text() if "reason" in said else "",
        owner=said["owner"].text() if "owner" in said else "",
        provenance=provenance,
    )


def _one_or_more(node: Node) -> tuple[Node, ...]:
    return (node,) if isinstance(node.content, str) and node.kind != "null" else node.items()


def _ends(node: Node | None, defined: Defined) -> tuple[Selector, ...]:
    """Left out means any. Written and empty is refused, since it could be meant either way."""
    if node is None:
        return ANY
    found = tuple(_selector(item, defined, bare_groups=True) for item in _one_or_more(node))
    if not found:
        node.refuse("nobody is named; write any, or name somebody")
    return ANY if any(s.kind is SelectorKind.ANY for s in found) else found


def _applied_to(node: Node | None, defined: Defined) -> tuple[Selector, ...]:
    ends = _ends(node, defined)
    return () if ends == ANY else ends


def _selector(node: Node, defined: Defined, *, bare_groups: bool) -> Selector:
    written = node.text()
    if bare_groups and written in defined.groups:
        return Selector(SelectorKind.GROUP, written)
    if written.startswith("not "):
        rest = written[4:].strip()
        inner = (
            None
            if rest.startswith("not ")
            else _selector(replace(node, content=rest), defined, bare_groups=bare_groups)
        )
        if inner is None or inner.kind is not SelectorKind.GROUP:
            node.refuse("not stands before the name of a group, once; make a group of what it shall negate")
        return replace(inner, negated=True)
    if written == "any":
        return ANY[0]
    prefix, _, rest = written.partition(":")
    if prefix == "group":
        _known(node, rest, defined.groups, "group")
        return Selector(SelectorKind.GROUP, rest)
    if prefix == "vm":
        _known(node, rest, defined.vms, "VM")
        return Selector(SelectorKind.WORKLOAD, written)
    if prefix == "kind":
        if rest not in _KINDS:
            node.refuse(f"{short(rest)} is none of {', '.join(_KINDS)}{nearest(rest, _KINDS)}")
        return Selector(SelectorKind.KIND, rest)
    if named := _by_kind(node, prefix, rest):
        return named
    try:
        values.parse_range(written)
        return Selector(SelectorKind.RANGE, written)
    except ValueError as error:
        if re.fullmatch(r"[0-9a-fA-F:.]+(/[0-9]+|-[0-9a-fA-F:.]+)?", written) and re.search(r"[.:]", written):
            node.refuse(str(error))
    steps = _steps(written)
    if len(steps) == 3:
        return Selector(SelectorKind.APP, written)
    if len(steps) == 4:
        node.refuse("an instance can not be named in a rule; name the app: ORG/SPACE/APP")
    if bare_groups and len(steps) == 1 and ":" not in written:
        _known(node, written, defined.groups, "group")
    return node.refuse(
        f"{short(written)} names nothing; write ORG/SPACE/APP, org:ORG, space:ORG/SPACE, vm:NAME, group:NAME, "
        "an address, a prefix or a range"
    )


def _is_range(written: str) -> bool:
    try:
        values.parse_range(written)
    except ValueError:
        return False
    return True


def _by_kind(node: Node, prefix: str, rest: str) -> Selector | None:
    """`org:ORG`, `space:ORG/SPACE`, and GUIDs."""
    if prefix == "org" and rest:
        return Selector(SelectorKind.ORG, rest)
    if prefix == "space":
        if len(_steps(rest)) != 2 and not GUID.fullmatch(rest):
            node.refuse(f"{short(node.text())}: a space is written space:ORG/SPACE, or space:GUID")
        return Selector(SelectorKind.SPACE, rest)
    if prefix == "app" and GUID.fullmatch(rest):
        return Selector(SelectorKind.APP, rest)
    return None


def tenants_own(node: Node, written: str) -> Selector:
    """An org, a space or an app: what carries tags. (Those of a VM stand with the VM.)"""
    prefix, _, rest = written.partition(":")
    found = _by_kind(replace(node, kind="str", content=written), prefix, rest)
    if found is None and len(_steps(written)) == 3:
        found = Selector(SelectorKind.APP, written)
    if found is None:
        node.refuse(f"{short(written)} has no tags; write org:ORG, space:ORG/SPACE or ORG/SPACE/APP")
    return found


def _steps(path: str) -> list[str]:
    steps = path.split("/")
    return steps if all(steps) else []


def _known(node: Node, name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        node.refuse(f"no {what} is named {short(name)}{nearest(name, known)}", "DANGLING_NAME")


def address(node: Node) -> str:
    try:
        return values.text(values.pack(node.text()))
    except ValueError as error:
        node.refuse(str(error))


def _service(node: Node) -> Service:
    """`all`, `tcp/5432`, `udp/5000-5100`, `tcp`, `icmp`, `icmp/8`, `icmp/3/1`."""
    written = node.text()
    name, *rest = written.split("/")
    if name not in list(Protocol):
        node.refuse(f"{short(name)} is none of {', '.join(Protocol)}{nearest(name, list(Protocol))}")
    protocol = Protocol(name)
    if not rest:
        return Service(protocol)
    if protocol in (Protocol.TCP, Protocol.UDP) and len(rest) == 1:
        ports = tuple(_ports(node, part) for part in rest[0].split(","))
        return Service(protocol, ports)
    if protocol in (Protocol.ICMP, Protocol.ICMPV6) and len(rest) <= 2:
        numbers = [int(part) if re.fullmatch(r"[0-9]{1,3}", part) and int(part) < 256 else -1 for part in rest]
        if -1 not in numbers:
            return Service(protocol, (), numbers[0], numbers[1] if len(numbers) == 2 else None)
    return node.refuse(f"{short(written)} is no service; write tcp/5432, udp/5000-5100, icmp/8 or all")


def _ports(node: Node, written: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", written)
    first = int(match[1]) if match else 0
    last = int(match[2] or match[1]) if match else 0
    if not 0 < first <= last < 65536:
        node.refuse(f"{short(written)} is no port (1 to 65535) or range of ports")
    return first, last


def _expiry(node: Node) -> float:
    """A date means through that day, UTC; a time means that moment."""
    written = node.content if isinstance(node.content, str) else node.text()
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        node.refuse(f"{short(written)} is no date (2027-06-30) or time (2027-06-30T12:00:00Z)")
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", written):
        try:
            moment += timedelta(days=1)
        except OverflowError:
            node.refuse(f"{short(written)} is too far away; leave expires out")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
