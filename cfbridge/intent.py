"""What did people ask for? Tenants, VMs, groups and rules, at one revision. (Their language, API and drafts come later;
today it is read from the bridge's intent file.)"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cfbridge.document import Node, choice, nearest, parse, short
from cfbridge.inventory import Inventory
from cfbridge.names import UNRESOLVED, Names
from egress import values
from egress.model import NetworkMode, OrgWish
from egress.values import QualifiedId, Refused, RefusedError
from policy_sync.model import ANY, Action, Group, Mode, Protocol, Rule, Selector, SelectorKind, Service, Tier


@dataclass(frozen=True, slots=True)
class Vm:
    """A machine next to the containers. With a `port` we protect it outside the guest; without, it is a `peer`."""

    name: str
    addresses: tuple[str, ...]
    org: str = ""
    """Name or qualified id."""
    port: str = ""
    """Host device: tap or veth."""
    cell: str = ""


@dataclass(frozen=True, slots=True)
class Intent:
    tenants: tuple[OrgWish, ...] = ()
    """`org` may be a name here (`name` set, `org` empty id); the snapshot resolves it."""
    vms: tuple[Vm, ...] = ()
    groups: tuple[Group, ...] = ()
    rules: tuple[Rule, ...] = ()


_TENANT = ("mode", "pool", "snat_pool", "snat")
_VM = ("org", "addresses", "port", "cell")
_RULE = (
    *("name", "from", "to", "services", "action", "applied_to"),
    *("log", "mode", "reason", "owner", "expires", "enabled"),
)
_KINDS = ("container", "vm", "cell")
_TIERS = {tier.name.lower(): tier for tier in Tier}
_GUID = re.compile(r"([A-Za-z0-9._-]+:)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""As Cloud Foundry gives them; with several foundations behind the name of one. It stays when a name changes."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def load(path: str) -> Intent:
    """The intent file. Raises RefusedError with line and column for anything unknown, dangling or contradictory."""
    try:
        written = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RefusedError(Refused("INTENT_UNREADABLE", f"{path} can not be read: {reason}")) from error
    return read(written)


def read(written: str | bytes) -> Intent:
    entries = parse(written).only(("cfbridge", "groups", "rules", "tenants", "vms"))
    if "cfbridge" in entries and entries["cfbridge"].text() != "v1":
        entries["cfbridge"].refuse("this bridge reads cfbridge: v1")
    groups = entries["groups"].entries() if "groups" in entries else {}
    vms = entries["vms"].entries() if "vms" in entries else {}
    defined = _Defined(groups, vms)
    found = tuple(_group(name, node, defined) for name, node in groups.items())
    _refuse_cycles(found, groups)
    return Intent(
        tenants=_tenants(entries.get("tenants")),
        vms=tuple(_vm(name, node) for name, node in vms.items()),
        groups=found,
        rules=_rules(entries["rules"], defined) if "rules" in entries else (),
    )


@dataclass(frozen=True, slots=True)
class _Defined:
    """What the file itself defines, so that a name that dangles is found where it stands."""

    groups: Mapping[str, Node]
    vms: Mapping[str, Node]


def _tenants(node: Node | None) -> tuple[OrgWish, ...]:
    wishes = []
    for name, each in node.entries().items() if node else ():
        said = each.only(_TENANT)
        mode = choice(said["mode"], NetworkMode) if "mode" in said else None
        snat = tuple(_address(item) for item in said["snat"].items()) if "snat" in said else ()
        if snat and mode is not None and mode is not NetworkMode.NAT:
            said["snat"].refuse(f"an org in mode {mode} leaves by no SNAT address; write mode: nat, or take snat out")
        if twice := [address for address in snat if snat.count(address) > 1]:
            said["snat"].refuse(f"{twice[0]} is here twice")
        pool, snat_pool = (said[key].text() if key in said else "" for key in ("pool", "snat_pool"))
        wishes.append(OrgWish(QualifiedId(""), mode, pool, snat_pool, snat, name))
    holders: dict[str, str] = {}
    for wish in wishes:
        for address in wish.snat:
            if address in holders and node:
                node.refuse(f"{address} is wished for {short(holders[address])} and for {short(wish.name)}")
            holders[address] = wish.name
    return tuple(wishes)


def _vm(name: str, node: Node) -> Vm:
    if not _NAME.fullmatch(name):
        node.refuse(f"{short(name)} is no VM name: letters, digits, '.', '_' and '-', at most 63")
    said = node.only(_VM)
    if "addresses" not in said or not said["addresses"].items():
        node.refuse("addresses: at least one is needed")
    addresses = tuple(_address(item) for item in said["addresses"].items())
    port = said["port"].text() if "port" in said else ""
    if port and (not re.fullmatch(r"[!-.0-~]{1,15}", port) or port in (".", "..")):
        said["port"].refuse(f"{short(port)} is no name of a host device (at most 15 characters)")
    org, cell = (said[key].text() if key in said else "" for key in ("org", "cell"))
    return Vm(name, addresses, org, port, cell)


def _group(name: str, node: Node, defined: _Defined) -> Group:
    if not name.isprintable() or not 0 < len(name) <= 128 or name == "any" or re.search(r"[:/]|^not |^\s|\s$", name):
        node.refuse(f"{short(name)} is no group name: at most 128 printable characters, no ':' or '/', not any, no not")
    members = []
    for item in node.items():
        selector = _selector(item, defined, bare_groups=False)
        if selector.kind is SelectorKind.ANY or selector.negated:
            item.refuse("a group has members by name; any and not are for rules")
        members.append(selector)
    return Group(name, tuple(members))


def _refuse_cycles(groups: tuple[Group, ...], nodes: Mapping[str, Node]) -> None:
    inner = {g.name: [m.value for m in g.members if m.kind is SelectorKind.GROUP] for g in groups}
    done: set[str] = set()
    for start in inner:
        way: dict[str, Iterator[str]] = {} if start in done else {start: iter(inner[start])}
        while way:
            name, rest = next(reversed(way.items()))
            below = next(rest, None)
            if below is None:
                done.add(name)
                del way[name]
            elif below in way:
                ring = [*list(way)[list(way).index(below) :], below]
                nodes[below].refuse(f"a group can not hold itself: {' → '.join(ring)}")
            elif below not in done:
                way[below] = iter(inner[below])


def _rules(node: Node, defined: _Defined) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    seen: set[str] = set()
    for tier_name, sections in node.only(_TIERS).items():
        for section, listed in sections.entries().items():
            for each in listed.items():
                rule = _rule(each, _TIERS[tier_name], section, defined)
                if rule.key in seen:
                    each.refuse(f"a second rule is named {short(rule.name)}; rules are known by their names")
                seen.add(rule.key)
                rules.append(rule)
    return tuple(sorted(rules, key=lambda rule: rule.tier))


def _rule(node: Node, tier: Tier, section: str, defined: _Defined) -> Rule:
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
        provenance="intent file",
    )


def _one_or_more(node: Node) -> tuple[Node, ...]:
    return (node,) if isinstance(node.content, str) and node.kind != "null" else node.items()


def _ends(node: Node | None, defined: _Defined) -> tuple[Selector, ...]:
    """Left out means any. Written and empty is refused, since it could be meant either way."""
    if node is None:
        return ANY
    found = tuple(_selector(item, defined, bare_groups=True) for item in _one_or_more(node))
    if not found:
        node.refuse("nobody is named; write any, or name somebody")
    return ANY if any(s.kind is SelectorKind.ANY for s in found) else found


def _applied_to(node: Node | None, defined: _Defined) -> tuple[Selector, ...]:
    ends = _ends(node, defined)
    return () if ends == ANY else ends


def _selector(node: Node, defined: _Defined, *, bare_groups: bool) -> Selector:
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
    if prefix == "org" and rest:
        return Selector(SelectorKind.ORG, rest)
    if prefix == "space":
        if len(_steps(rest)) != 2 and not _GUID.fullmatch(rest):
            node.refuse(f"{short(written)}: a space is written space:ORG/SPACE, or space:GUID")
        return Selector(SelectorKind.SPACE, rest)
    if prefix == "app" and _GUID.fullmatch(rest):
        return Selector(SelectorKind.APP, rest)
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


def _steps(path: str) -> list[str]:
    steps = path.split("/")
    return steps if all(steps) else []


def _known(node: Node, name: str, known: Mapping[str, Node], what: str) -> None:
    if name not in known:
        node.refuse(f"no {what} is named {short(name)}{nearest(name, known)}", "DANGLING_NAME")


def _address(node: Node) -> str:
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


def resolve(intent: Intent, inventory: Inventory) -> Intent:
    """The same intent with qualified ids in place of the names of orgs, spaces and apps. A name that nothing has, or
    that several foundations have, matches nothing: it becomes a value that is no id (a tenant's `org` stays empty)."""
    look = Names(inventory)

    def each(selectors: tuple[Selector, ...]) -> tuple[Selector, ...]:
        return tuple(look.selector(s) for s in selectors)

    return replace(
        intent,
        tenants=tuple(wish if wish.org else replace(wish, org=look.find("org", wish.name)) for wish in intent.tenants),
        vms=tuple(replace(vm, org=look.find("org", vm.org)) if vm.org else vm for vm in intent.vms),
        groups=tuple(replace(group, members=each(group.members)) for group in intent.groups),
        rules=tuple(
            replace(
                rule,
                sources=each(rule.sources),
                destinations=each(rule.destinations),
                applied_to=each(rule.applied_to),
            )
            for rule in intent.rules
        ),
    )


def unresolved(intent: Intent, inventory: Inventory, bound: Collection[str] = ()) -> tuple[Refused, ...]:
    """Each name in the (unresolved) intent that matches nothing now, in words. `bound`: tenants that are some org's,
    whatever it is called now."""
    look = Names(inventory)
    listed = [s for g in intent.groups for s in g.members]
    listed += [s for rule in intent.rules for s in (*rule.sources, *rule.destinations, *rule.applied_to)]
    missing = {(str(s.kind), s.value) for s in listed if look.selector(s).value.startswith(UNRESOLVED)}
    unbound = [wish for wish in intent.tenants if not wish.org and wish.name not in bound]
    missing |= {("org", wish.name) for wish in unbound if not look.find("org", wish.name)}
    missing |= {("org", vm.org) for vm in intent.vms if vm.org and not look.find("org", vm.org)}
    return tuple(
        Refused(
            "NAME_UNKNOWN", f"no {kind} {short(name)} is known, or several foundations have one: it matches nothing"
        )
        for kind, name in sorted(missing)
    )
