"""Which small worlds and packets does the parity runner try? Pure.

random_world ─> random_packets ─> (someone sends them) ─> a disagreement, for `saying`
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from egress.values import QualifiedId, contains, merge, pack, parse_range, prefix_range, qualify, text
from policy_sync import compiler, ruleset, translate
from policy_sync.criteria import All, Attribute, Comparison, Criteria, Either, Not, Within
from policy_sync.model import (
    ANY,
    Action,
    Asg,
    CfPolicy,
    GardenRule,
    Group,
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
    Workload,
    World,
)
from tests.parity import coverage

FOUNDATION = "cf"
POOL4, POOL6 = "10.240.0.0/16", "fd42:240::/48"
CELL4, CELL6, DNS = "10.0.1.10", "fd42:1::10", "169.254.0.53"
OUTSIDE4 = ("203.0.113.7", "203.0.113.8", "198.51.100.20")
OUTSIDE6 = ("2001:db8::7", "2001:db8::8")
METADATA, METADATA6 = "169.254.169.254", "fd00:ec2::254"
_PORTED, _ICMP = (Protocol.TCP, Protocol.UDP), (Protocol.ICMP, Protocol.ICMPV6)
PORTS = (22, 53, 80, 443, 8080, 9000)
ORGS = 3
_DRAWN = 3
"""So many packets are drawn for one that is sent."""


@dataclass(frozen=True, slots=True)
class Size:
    """How big a world may be."""

    containers: int = 8
    vms: int = 2
    policies: int = 6
    rules: int = 8
    v6: bool = True


def random_world(rng: random.Random, size: Size | None = None) -> World:
    """Two or three orgs, apps with instances, tasks and staging, VMs, policies, ASGs, rules in every tier."""
    size = size or Size()
    workloads = (*_containers(rng, size), *_vms(rng, size))
    apps = sorted({each.app for each in workloads if each.app})
    groups = random_groups(rng, workloads)
    return World(
        workloads=workloads,
        groups=groups,
        rules=(
            *translate.system_rules(
                dns_listeners=(DNS,),
                host_tcp_services=(f"{CELL4}:8080",) if rng.random() < 0.4 else (),
                metadata_addresses=(METADATA, METADATA6),
                deny_running=("203.0.113.6/31", "2001:db8::6/127") if rng.random() < 0.2 else (),
                deny_staging=("198.51.100.0/24", "2001:db8::8/128") if rng.random() < 0.2 else (),
                container_pools=(POOL4, POOL6),
                disable_container_network_policy=rng.random() < 0.05,
            ),
            *_rules(rng, rng.randint(0, size.rules), workloads),
            *translate.baseline_rules(),
        ),
        policies=frozenset(_policy(rng, apps) for _ in range(rng.randint(1, size.policies))),
        asgs=tuple(_asg(rng, number, workloads) for number in range(rng.randint(0, 3))),
        asgs_known=frozenset({FOUNDATION}) if rng.random() < 0.8 else frozenset(),
        container_pools=(POOL4, POOL6),
        cell_addresses=(CELL4, DNS, CELL6),
    )


def _containers(rng: random.Random, size: Size) -> Iterator[Workload]:
    orgs = rng.sample(("acme", "globex", "initech"), rng.randint(2, 3))
    for number in range(rng.randint(3, max(3, size.containers))):
        org = rng.randrange(len(orgs))
        space, app = rng.choice(("dev", "prod")), rng.choice(("front", "back"))
        path = f"{orgs[org]}/{space}/{app}"
        addresses = container_addresses(org, number)[: 2 if size.v6 and rng.random() < 0.9 else 1]
        yield Workload(
            id=f"{FOUNDATION}:handle-{number}",
            kind=Kind.CONTAINER,
            addresses=addresses,
            cell="cell-1",
            org=qualify(FOUNDATION, orgs[org]),
            space=qualify(FOUNDATION, f"{orgs[org]}.{space}"),
            app=qualify(FOUNDATION, path.replace("/", ".")),
            lifecycle=rng.choices((Lifecycle.APP, Lifecycle.TASK, Lifecycle.STAGING), (7, 1, 2))[0],
            name=f"{path}/{number}",
            garden_rules=tuple(_entry(rng) for _ in range(rng.randint(0, 2))),
            net_out=(_entry(rng),) if rng.random() < 0.1 else (),
            attributes={
                Attribute("kind"): "container",
                Attribute("org"): orgs[org],
                Attribute("space"): space,
                Attribute("app"): app,
                **_tagged(rng),
            },
        )


def _vms(rng: random.Random, size: Size) -> Iterator[Workload]:
    for number in range(rng.randint(min(1, size.vms), size.vms)):
        inside = rng.random() < 0.4
        protected = inside or rng.random() < 0.7
        addresses = vm_addresses(number, inside, protected)[: 2 if size.v6 and rng.random() < 0.9 else 1]
        org = qualify(FOUNDATION, "acme") if inside else None
        name = f"db-{number}"
        attributes = {Attribute("kind"): "vm", Attribute("vm.name"): name, **_tagged(rng)}
        yield Workload(
            f"vm:{name}", Kind.VM, addresses, "cell-1", org, name=name, protected=protected, attributes=attributes
        )


def _tagged(rng: random.Random) -> dict[Attribute, str]:
    """Our tags and their labels; who has none is what negations are about."""
    drawn = ((_TAG, rng.choice(("prod", "dev"))), (_LABEL, rng.choice(("blue", "blue-green"))))
    return {attribute: value for attribute, value in drawn if rng.random() < 0.6}


def container_addresses(org: int, number: int) -> tuple[str, str]:
    """IPv4, IPv6, as the compiler spells them. A place has the same ones in every world."""
    return f"10.240.{org}.{number + 3}", text(pack(f"fd42:240:0:{org}::{number + 3:x}"))


def vm_addresses(number: int, inside: bool, protected: bool) -> tuple[str, str]:
    """`inside` a container pool. What is not protected has no port on the cell, and is reached from outside."""
    if inside:
        return f"10.240.0.{200 + number}", f"fd42:240::{200 + number:x}"
    return (
        (f"10.0.2.{20 + number}", f"fd42:2::{20 + number:x}")
        if protected
        else (f"10.0.3.{20 + number}", f"fd42:3::{20 + number:x}")
    )


def random_groups(rng: random.Random, workloads: Sequence[Workload]) -> tuple[Group, ...]:
    members = [tuple(_member(rng, workloads) for _ in range(rng.randint(1, 3))) for _ in range(2)]
    outer = (Selector(SelectorKind.GROUP, "g0"), *((_member(rng, workloads),) if rng.random() < 0.4 else ()))
    loop = (Selector(SelectorKind.GROUP, "loop"), _member(rng, workloads))
    return (
        Group("g0", members[0]),
        Group("g1", members[1]),
        Group("outer", outer),
        Group("empty"),
        Group("loop", loop),
        Group("dynamic", criteria=random_criteria(rng, workloads)),
        Group("mixed", (_member(rng, workloads),), random_criteria(rng, workloads)),
    )


def random_criteria(rng: random.Random, workloads: Sequence[Workload], depth: int = 2) -> Criteria:
    """Of two or three tests, negated, nested in other groups and beside prefixes."""
    if depth and rng.random() < 0.65:
        drawn = rng.random()
        if drawn < 0.25:
            return Not(random_criteria(rng, workloads, depth - 1))
        parts = tuple(random_criteria(rng, workloads, depth - 1) for _ in range(2))
        return All(parts) if drawn < 0.65 else Either(parts)
    if rng.random() < 0.25:
        written = rng.choice((*_NETWORKS4, *_NETWORKS6))
        return Within(written, parse_range(written))
    if rng.random() < 0.3:
        group = rng.choice(("g0", "g1", "outer", "empty", "loop", "unknown"))
        return Comparison(Attribute("group"), rng.choice(("=", "!=")), (group,))
    attribute, value = rng.choice(sorted(rng.choice(workloads).attributes.items()))
    operator = rng.choice(("=", "=", "!=", "!=", "in", "not in", "exists", "~"))
    if operator in ("!=", "not in") and rng.random() < 0.7:
        attribute, value = rng.choice(((_TAG, "prod"), (_LABEL, "blue")))  # which some have not
    if operator == "~":
        value = rng.choice((f"{value[:2]}*", f"?{value[1:]}"))
    return Comparison(attribute, operator, () if operator == "exists" else (value,))


def _member(rng: random.Random, workloads: Sequence[Workload]) -> Selector:
    one = rng.choice(workloads)
    choices = [Selector(SelectorKind.WORKLOAD, one.id), Selector(SelectorKind.RANGE, rng.choice(OUTSIDE4 + OUTSIDE6))]
    if one.org:
        choices.append(Selector(SelectorKind.ORG, one.org))
    if one.space and one.app:
        choices += [Selector(SelectorKind.SPACE, one.space), Selector(SelectorKind.APP, one.app)]
    return rng.choice(choices)


_TAG, _LABEL = Attribute("tag", "env"), Attribute("label", "team")
_GROUPS = ("g0", "g1", "outer", "empty", "loop", "unknown", "dynamic", "mixed")
_NETWORKS4 = ("10.240.0.0/24", "10.240.1.0-10.240.1.9", "203.0.113.0/24", "10.0.0.0/8")
_NETWORKS6 = ("fd42:240::/64", "fd42:240:0:1::3-fd42:240:0:1::9", "2001:db8::/64", "fd42::/16")


def _end(rng: random.Random, workloads: Sequence[Workload]) -> tuple[Selector, ...]:
    drawn = rng.random()
    if drawn < 0.15:
        return ANY
    if drawn < 0.3:
        return (Selector(SelectorKind.KIND, rng.choice(("container", "vm", "cell", "running", "staging"))),)
    if drawn < 0.4:
        network = rng.choice((*_NETWORKS4, *_NETWORKS6))
        return (Selector(SelectorKind.RANGE, network),)
    if drawn < 0.75:
        group = rng.choices(_GROUPS, (3, 3, 9, 3, 1, 2, 7, 5))[0]
        return (Selector(SelectorKind.GROUP, group, negated=rng.random() < 0.25),)
    return tuple(_member(rng, workloads) for _ in range(rng.randint(1, 2)))


def _rules(rng: random.Random, count: int, workloads: Sequence[Workload]) -> Iterator[Rule]:
    for number in range(count):
        rule = random_rule(rng, number, workloads)
        yield rule
        if rule.action is Action.PASS and rng.random() < 0.95:
            # A pass decides only where something behind it in its tier would have.
            action = rng.choice((Action.ALLOW, Action.DROP))
            name = f"{rule.name}-behind"
            yield replace(rule, key=f"rule:{name}", name=name, action=action, services=(Service(),), applied_to=())


def random_rule(rng: random.Random, number: int, workloads: Sequence[Workload]) -> Rule:
    tier = rng.choice(tuple(Tier))
    actions = [Action.ALLOW, Action.ALLOW, Action.DROP, Action.REJECT]
    if tier < Tier.APPLICATION:
        actions += [Action.PASS] * 8
    action = rng.choice(actions)
    return Rule(
        key=f"rule:r{number}",
        name=f"r{number}",
        tier=tier,
        sources=_end(rng, workloads),
        destinations=_end(rng, workloads),
        action=action,
        services=tuple(_service(rng) for _ in range(rng.choice((1, 1, 2)))),
        applied_to=_end(rng, workloads) if rng.random() < (0.2 if action is Action.PASS else 0.9) else (),
        mode=Mode.WATCH if rng.random() < 0.1 else Mode.ENFORCE,
        enabled=rng.random() < 0.95,
        mapped_only=rng.random() < 0.05,
        log=rng.random() < 0.1,
    )


def _ports(rng: random.Random) -> tuple[int, int]:
    first = rng.choice(PORTS)
    return first, first + rng.choice((0, 0, 1, 100))


def _service(rng: random.Random) -> Service:
    protocol = rng.choice((Protocol.ALL, *_PORTED, Protocol.TCP, *_ICMP, *_ICMP))
    if protocol in (Protocol.TCP, Protocol.UDP):
        return Service(protocol, tuple(_ports(rng) for _ in range(rng.choice((0, 1, 1, 2)))))
    if protocol is Protocol.ALL:
        return Service()
    kind, code = rng.choice(((None, None), (8, None), (8, 0), (8, 1), (128, 0), (128, 1), (13, 0)))
    return Service(protocol, (), kind, code)


def _policy(rng: random.Random, apps: Sequence[QualifiedId]) -> CfPolicy:
    protocol = rng.choice((Protocol.TCP, Protocol.TCP, Protocol.UDP))
    return CfPolicy(rng.choice(apps), rng.choice(apps), protocol, *_ports(rng))


def _entry(rng: random.Random) -> GardenRule:
    networks = ["203.0.113.0/24", "203.0.113.7", "0.0.0.0/0", "10.0.0.0-10.255.255.255"]
    networks += ["2001:db8::/32", "2001:db8::7", "::/0", "fd42::-fd42:ffff::"]
    protocol = rng.choice(("tcp", "tcp", "udp", "icmp", "icmpv6", "all"))
    ports = ",".join(f"{first}-{last}" for first, last in (_ports(rng) for _ in range(rng.choice((1, 2)))))
    kind, code = rng.choice(((-1, -1), (8, 0), (8, -1), (128, 0)))
    rule = translate.asg_rule(protocol, rng.choice(networks), ports, kind, code, rng.random() < 0.1)
    assert isinstance(rule, GardenRule)
    return rule


def _asg(rng: random.Random, number: int, workloads: Sequence[Workload]) -> Asg:
    spaces = sorted({each.space for each in workloads if each.space})
    running, staging = ([each for each in spaces if rng.random() < 0.4] for _ in range(2))
    rules = tuple(_entry(rng) for _ in range(rng.randint(1, 3)))
    defaults = rng.random() < 0.25, rng.random() < 0.25
    name = f"asg-{number}"
    return Asg(qualify(FOUNDATION, name), name, rules, *defaults, frozenset(running), frozenset(staging))


def random_packets(rng: random.Random, world: World, count: int) -> list[Packet]:
    """Half aimed at what some rule, policy or ASG entry says (ports at its bounds and one beside), half anywhere; of
    those so many that nothing that decides is met too seldom."""
    aims = _aims(world)
    packets: list[Packet] = []
    while len(packets) < _DRAWN * count:
        # First what kind of thing is aimed at, then which: a few policies are met as often as many rules.
        kind = rng.choice(tuple(aims))
        packet = _aimed(rng, world, *rng.choice(aims[kind])) if rng.random() < 0.6 else _anywhere(rng, world)
        if packet:
            packets.append(packet)
    return coverage.balanced(rng, world, packets, count, numbered(world))


Aim = tuple[tuple[str, ...], tuple[str, ...], tuple[Service, ...], bool]


def _aims(world: World) -> dict[str, list[Aim]]:
    """(sources, destinations, services, mapped) that somebody said something about; only addresses that exist here."""
    sources, destinations = _senders(world), _receivers(world)
    named = compiler.compile_ruleset(world, numbered(world)).ruleset
    inside = {
        name: frozenset(each for each in (*sources, *destinations) if _holds(known, each))
        for name, known in named.sets.items()
    }

    def among(addresses: tuple[str, ...], name: str | None) -> tuple[str, ...]:
        return addresses if name is None else tuple(each for each in addresses if each in inside[name])

    aims: dict[str, list[Aim]] = {}
    for tier, rules in named.tiers.items():
        for rule in rules:
            aim = (
                among(sources, rule.sources),
                among(destinations, rule.destinations),
                rule.services,
                rule.mapped_only,
            )
            aims.setdefault(f"tier {tier}", []).append(aim)
            if rule.action is Action.PASS:
                aims.setdefault("pass", []).append(aim)
    for address, profile in named.egress.items():
        for rule in named.profiles[profile]:
            outside = among(destinations, rule.destinations)
            aims.setdefault("profiles", []).append(((address,), outside, rule.services, False))
    aims |= {"profiles beyond": beyond} if (beyond := [*_beyond_profiles(world, destinations)]) else {}
    apps: dict[str | None, list[str]] = {}
    for workload in world.workloads:
        # Staging containers too: they look like their app, and a policy must not open them.
        apps.setdefault(workload.app, []).extend(workload.addresses)
    for policy in sorted(world.policies, key=translate.policy_key):
        ends = tuple(apps.get(policy.source, ())), tuple(apps.get(policy.destination, ()))
        service = Service(policy.protocol, ((policy.first_port, policy.last_port),))
        aims.setdefault("policies", []).append((*ends, (service,), False))
    return aims


def _beyond_profiles(world: World, destinations: tuple[str, ...]) -> Iterator[Aim]:
    """What ASGs and Garden say of pool addresses, which they must not open."""
    inside = merge(map(prefix_range, world.container_pools))
    free = tuple(each for each in destinations if contains(inside, pack(each)))
    for workload in world.workloads:
        said = (*workload.net_out, *workload.garden_rules, *(rule for asg in world.asgs for rule in asg.rules))
        for rule in said if workload.kind is Kind.CONTAINER else ():
            service = Service(rule.protocol, rule.ports, rule.icmp_type, rule.icmp_code)
            yield (
                workload.addresses,
                tuple(each for each in free if contains(rule.destinations, pack(each))),
                (service,),
                False,
            )


def _holds(known: ruleset.AddressSet, address: str) -> bool:
    packed = pack(address)
    return any(first <= packed <= last for first, last in (known.v4 if len(packed) == 4 else known.v6))


def numbered(world: World) -> dict[str, int]:
    """Ids for everything that the world says, as a store would give them."""
    return {key: number for number, key in enumerate(dict.fromkeys(sorted(compiler.rule_keys(world))), 1)}


def _senders(world: World) -> tuple[str, ...]:
    return (*(each for workload in world.workloads for each in workload.addresses), *OUTSIDE4, *OUTSIDE6, CELL4, CELL6)


def _receivers(world: World) -> tuple[str, ...]:
    return (*_senders(world), DNS, METADATA, METADATA6, "10.240.7.77", "fd42:240:0:7::77")


def _aimed(
    rng: random.Random,
    world: World,
    sources: tuple[str, ...],
    destinations: tuple[str, ...],
    services: tuple[Service, ...],
    mapped: bool,
) -> Packet | None:
    if not sources or not destinations:
        return None
    source = rng.choice(sources)
    service = rng.choice(services)
    # Of the source's family, where the rule has it: else half of all that is drawn could not be on a wire.
    destinations = _alike(source, destinations)
    port = rng.choice(PORTS)
    if service.ports:
        first, last = rng.choice(service.ports)
        port = min(65535, max(1, rng.choice((first, last, first - 1, last + 1))))
    protocol = service.protocol
    if protocol is Protocol.ALL:
        protocol = rng.choice((Protocol.TCP, Protocol.UDP, Protocol.ICMP))
    kind = service.icmp_type if service.icmp_type is not None and rng.random() < 0.6 else rng.choice((8, 13))
    return _packet(world, source, rng.choice(destinations), protocol, port, kind, mapped or rng.random() < 0.1)


def _anywhere(rng: random.Random, world: World) -> Packet | None:
    protocol = rng.choices((Protocol.TCP, Protocol.UDP, Protocol.ICMP), (5, 2, 1))[0]
    source = rng.choice(_alike(rng.choice((CELL4, CELL6)), _senders(world)))
    destination = rng.choice(_alike(source, _receivers(world)))
    return _packet(world, source, destination, protocol, rng.choice(PORTS), 8, rng.random() < 0.25)


def _alike(like: str, addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Those of its family; all of them when there is none."""
    return tuple(each for each in addresses if (":" in each) == (":" in like)) or addresses


def _packet(
    world: World, source: str, destination: str, protocol: Protocol, port: int, kind: int, mapped: bool
) -> Packet | None:
    """None for what cannot be on a wire: two families, a host talking to itself, a mapped port without a container."""
    v6 = ":" in source
    if source == destination or v6 != (":" in destination):
        return None
    owners = {address: workload for workload in world.workloads for address in workload.addresses}
    sender, receiver = owners.get(source), owners.get(destination)
    if (sender is not None and sender is receiver) or (
        sender is None and receiver is None and _beyond(source, destination)
    ):
        return None
    to_container = receiver is not None and receiver.kind is Kind.CONTAINER
    if protocol in (Protocol.ICMP, Protocol.ICMPV6):
        # Only echo, timestamp and their kin make a connection; a v6 host needs its neighbour messages for itself.
        return Packet(source, destination, Protocol.ICMPV6 if v6 else Protocol.ICMP, 0, 128 if v6 else _echo4(kind), 0)
    mapped = mapped and to_container and protocol is Protocol.TCP
    return Packet(source, destination, protocol, port, mapped=mapped)


def passes_us(world: World, packet: Packet) -> bool:
    """Whether an end of it is a port of ours: nobody asks us about the others."""
    ports = {address for each in world.workloads if each.protected for address in each.addresses}
    free = packet.destination not in ports and packet.destination.startswith(("10.240.", "fd42:240:"))
    return packet.source in ports or packet.destination in ports or free


def _echo4(kind: int) -> int:
    return kind if kind in (8, 13) else 8


def _beyond(source: str, destination: str) -> bool:
    """Neither end is a workload: only what goes to a free pool address or to the cell passes us."""
    cell = (CELL4, CELL6, DNS)
    return not (destination.startswith(("10.240.", "fd42:240:")) or (destination in cell and source not in cell))
