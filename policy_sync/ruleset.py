"""What is the policy once compiled, for any dataplane? Address sets, ordered rules, identities, policies, profiles.

    connection ─> emergency ─> infrastructure ─> environment ─> application ───────────────────────> baseline
                  ordered rules; first match wins; `pass` = next tier      rules, then one of:
                                                                           policies  (destination in a container pool)
                                                                           a profile (destination elsewhere, no cell)

`compiler.compile_ruleset` resolves groups to address sets, `applied_to` to pairs of sets, policies to (identity,
identity, protocol, ports) and each container's ASGs to a profile. `decide` answers for one packet from the compiled
form alone: what a driver asks when it re-stamps live connections. (The oracle `verdict` shares no code with this.)
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from egress.values import (
    Packed,
    PackedRange,
    contains,
    merge,
    pack,
    prefix_range,
    text,
)
from policy_sync.model import (
    PROTOCOL_NUMBER,
    Action,
    Packet,
    Protocol,
    Service,
    Tier,
)

RULE_ID_BITS = 30
"""Rule ids are 1 … 2³⁰-1; identities carry bit 30. They share the connection mark, and never meet."""
IDENTITY_BIT = 1 << RULE_ID_BITS


@dataclass(frozen=True, slots=True)
class AddressSet:
    """Merged, sorted, disjoint ranges; the two families apart."""

    v4: tuple[PackedRange, ...] = ()
    v6: tuple[PackedRange, ...] = ()


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """One line of a tier or profile. Two lines may carry one id (`applied_to`)."""

    id: int
    sources: str | None
    """Name of an address set; None = any. A rule with an end that resolves to nothing is not compiled at all."""
    destinations: str | None
    services: tuple[Service, ...]
    action: Action
    log: bool = False
    watch: bool = False
    mapped_only: bool = False


class PolicyMatch(NamedTuple):
    """Who to whom, at which ports. Identities carry `IDENTITY_BIT`."""

    source: int
    destination: int
    protocol: int
    """6 or 17."""
    first_port: int
    last_port: int


@dataclass(frozen=True, slots=True)
class RuleLabel:
    """What people call a rule id, in logs, counters and explain."""

    key: str
    name: str
    tier: int
    logged: bool = False


@dataclass(frozen=True, slots=True)
class Ruleset:
    sets: Mapping[str, AddressSet] = field(default_factory=dict)
    """Every set that a rule names, by a name that is safe for nft. It says the hash of the selectors (or of an ASG
    entry's destinations), not of the members: a change of membership changes elements, never names."""
    tiers: Mapping[int, tuple[CompiledRule, ...]] = field(default_factory=dict)
    """By Tier, in order."""
    identities: Mapping[str, int] = field(default_factory=dict)
    """Container address → its app's identity, for containers that policies concern."""
    policies: Mapping[PolicyMatch, int] = field(default_factory=dict)
    """→ rule id. Disjoint in ports per (source, destination, protocol): the lowest rule id owns an overlap."""
    profiles: Mapping[str, tuple[CompiledRule, ...]] = field(default_factory=dict)
    """ASG rules that some containers share, by content hash; each rule's sources are None."""
    egress: Mapping[str, str] = field(default_factory=dict)
    """Container address → profile."""
    container_pools: tuple[str, ...] = ()
    cell_addresses: tuple[str, ...] = ()
    """Connections to them consult neither policies nor profiles."""
    labels: Mapping[int, RuleLabel] = field(default_factory=dict)
    """Every rule id in force."""


class Decider:
    """Answers for many packets of one ruleset: each address's sets and each pair's ports are looked up once. Who has
    the policies of several ports at hand (`ranged`) spares it to look for them among all."""

    def __init__(self, ruleset: Ruleset, ranged: Iterable[PolicyMatch] | None = None) -> None:
        self.ruleset = ruleset
        self._ranged = ranged
        # Per family: name, first addresses, last addresses; a look-up is one bisection.
        self._sets = {
            size: [(name, [low for low, _ in known], [high for _, high in known]) for name, known in sets if known]
            for size, sets in (
                (4, [(name, each.v4) for name, each in ruleset.sets.items()]),
                (16, [(name, each.v6) for name, each in ruleset.sets.items()]),
            )
        }
        self._pools = merge(map(prefix_range, ruleset.container_pools))
        self._cell = frozenset(map(pack, ruleset.cell_addresses))
        self._named: dict[Packed, frozenset[str]] = {}
        self._ports: dict[tuple[int, int, int], list[tuple[int, int, int]]] | None = None

    def decide(self, packet: Packet) -> tuple[Action, int]:
        source, destination = pack(packet.source), pack(packet.destination)
        from_, to = self._sets_of(source), self._sets_of(destination)
        rules = self.ruleset
        number = PROTOCOL_NUMBER.get(packet.protocol, -1) if isinstance(packet.protocol, Protocol) else packet.protocol
        for tier in Tier:
            found = _first(rules.tiers.get(tier, ()), from_, to, number, packet)
            if found is None and tier is Tier.APPLICATION and destination not in self._cell:
                if contains(self._pools, destination):
                    found = self._policy(text(source), text(destination), number, packet.port)
                else:
                    profile = rules.profiles.get(rules.egress.get(text(source), ""), ())
                    found = _first(profile, from_, to, number, packet)
            if found is not None and found[0] is not Action.PASS:
                return found
        return Action.REJECT, 0

    def _sets_of(self, address: Packed) -> frozenset[str]:
        names = self._named.get(address)
        if names is None:
            found = set()
            for name, lows, highs in self._sets[len(address)]:
                at = bisect_right(lows, address)
                if at and highs[at - 1] >= address:
                    found.add(name)
            names = self._named[address] = frozenset(found)
        return names

    def _policy(self, source: str, destination: str, protocol: int, port: int) -> tuple[Action, int] | None:
        pair = self.ruleset.identities.get(source), self.ruleset.identities.get(destination)
        if pair[0] is None or pair[1] is None:
            return None
        exact = self.ruleset.policies.get(PolicyMatch(pair[0], pair[1], protocol, port, port))
        if exact is not None:
            return Action.ALLOW, exact
        if self._ports is None:
            self._ports = {}
            policies = self.ruleset.policies
            # By position: it is asked of each of 20,000 policies.
            for match in (
                self._ranged if self._ranged is not None else (each for each in policies if each[3] != each[4])
            ):
                self._ports.setdefault(match[:3], []).append((match.first_port, match.last_port, policies[match]))
        for first, last, number in self._ports.get((pair[0], pair[1], protocol), ()):
            if first <= port <= last:
                return Action.ALLOW, number
        return None


def decide(ruleset: Ruleset, packet: Packet) -> tuple[Action, int]:
    """(action, rule id). Id 0: no rule said anything, not even baseline. For many packets keep a `Decider`."""
    return Decider(ruleset).decide(packet)


def _first(
    rules: Iterable[CompiledRule], from_: frozenset[str], to: frozenset[str], protocol: int, packet: Packet
) -> tuple[Action, int] | None:
    for rule in rules:
        if rule.sources is not None and rule.sources not in from_:
            continue
        if rule.destinations is not None and rule.destinations not in to:
            continue
        if rule.watch or (rule.mapped_only and not packet.mapped):
            continue
        if any(_serves(service, protocol, packet) for service in rule.services):
            return rule.action, rule.id
    return None


def _serves(service: Service, protocol: int, packet: Packet) -> bool:
    if service.protocol is Protocol.ALL:
        return True
    if PROTOCOL_NUMBER[service.protocol] != protocol:
        return False
    if protocol in (6, 17):
        return not service.ports or any(first <= packet.port <= last for first, last in service.ports)
    kind_fits = service.icmp_type is None or service.icmp_type == packet.icmp_type
    return kind_fits and (service.icmp_code is None or service.icmp_code == packet.icmp_code)
