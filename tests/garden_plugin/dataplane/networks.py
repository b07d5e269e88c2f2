"""Which networks does a dataplane test try? Small random ones, of few values, so that they overlap and contradict."""

from __future__ import annotations

import random

from egress.topology import Topology
from egress.values import merge, pack
from garden_plugin.dataplane.base import LogicalNetwork
from garden_plugin.dataplane.cell import LocalPort, LocalState
from garden_plugin.wire import MappedPort
from policy_sync.model import Action, Packet, Protocol, Service
from policy_sync.ruleset import IDENTITY_BIT, AddressSet, CompiledRule, PolicyMatch, RuleLabel, Ruleset


def random_network(dice: random.Random) -> tuple[LogicalNetwork, LocalState]:
    """Small, from few values, so that two of them overlap, touch and contradict each other."""

    def addresses(n: int) -> tuple[tuple[bytes, bytes], ...]:
        base = pack("10.240.0.0" if n == 4 else "2001:db8:f::")
        picked = []
        for _ in range(dice.randrange(0, 4)):
            low = dice.randrange(0, 12)
            high = low + dice.choice([0, 0, 1, 3])
            picked.append((base[:-1] + bytes((low,)), base[:-1] + bytes((high,))))
        if dice.random() < 0.1:
            picked.append((bytes(n if n == 4 else 16), b"\xff" * (4 if n == 4 else 16)))
        return merge(picked)

    sets = {}
    for number in range(4):
        made = AddressSet(addresses(4), addresses(6))
        if made.v4 or made.v6:
            sets[f"g{number}"] = made
    services = [
        Service(),
        Service(Protocol.TCP, ((80, 80), (443, 445), (444, 450))),
        Service(Protocol.UDP),
        Service(Protocol.ICMP, (), 8, None),
        Service(Protocol.ICMP, (), 3, 4),
        Service(Protocol.ICMPV6),
    ]

    def rules(first: int) -> tuple[CompiledRule, ...]:
        return tuple(
            CompiledRule(
                (number := first + dice.randrange(6)),
                dice.choice([None, *sets]),
                dice.choice([None, *sets]),
                tuple(dice.sample(services, dice.randrange(1, 3))),
                list(Action)[number % (4 if number < 30 else 3)],  # `pass` is for the first three tiers
                log=dice.random() < 0.3,
                watch=number % 5 == 0,
                mapped_only=dice.random() < 0.2,
            )
            for _ in range(dice.randrange(0, 4))
        )

    profiles = {f"p_{n}": rules(100 + 10 * n) for n in range(dice.randrange(0, 3))}
    containers = [f"10.240.0.{n}" for n in range(6)] + [f"2001:db8:f::{n}" for n in range(1, 4)]
    policies = {}
    for _ in range(dice.randrange(0, 6)):
        ends = [IDENTITY_BIT | dice.randrange(1, 4) for _ in range(2)]
        port = dice.randrange(1, 4) * 100
        policies[PolicyMatch(ends[0], ends[1], 6, port, port + dice.choice([0, 0, 50]))] = dice.randrange(200, 205)
    disjoint = {match[:4]: match for match in policies}
    policies = {match: policies[match] for match in disjoint.values()}
    tiers = {tier: rules(10 * tier + 1) for tier in range(5)}
    used = {rule.id for each in [*tiers.values(), *profiles.values()] for rule in each} | {*policies.values()}
    ruleset = Ruleset(
        labels={number: RuleLabel(f"k{number}", "", 0, number % 3 == 0) for number in used},
        sets=sets,
        tiers=tiers,
        identities={each: IDENTITY_BIT | dice.randrange(1, 4) for each in containers if dice.random() < 0.6},
        policies=policies,
        profiles=profiles,
        egress={each: dice.choice(list(profiles)) for each in containers if profiles and dice.random() < 0.6},
        container_pools=tuple(dice.sample(["10.240.0.0/24", "10.240.1.0/24", "2001:db8:f::/48"], 2)),
    )
    local = {}
    for n in range(dice.randrange(0, 3)):
        mapped = (MappedPort(61000 + dice.randrange(3), 8080),)
        where = (f"10.240.0.{n}", f"2001:db8:f::{n + 1}")
        local[f"c{n}"] = LocalPort(f"c{n}", f"c{n}", f"cf-{n}", "", where, mapped_ports=mapped)
    return LogicalNetwork(1, Topology(), ruleset), LocalState("cell", "192.0.2.10", ("up0",), local)


def random_packet(dice: random.Random) -> Packet:
    """Between addresses that the networks know, and one that they do not."""
    base = dice.choice(["10.240.0.{}", "2001:db8:f::{}"])
    six = ":" in base
    source, destination = (base.format(dice.choice([*range(1, 10), 99])) for _ in range(2))
    if dice.random() < 0.1:
        destination = "2001:db8:e::1" if six else "198.51.100.10"
    kind = dice.choice([Protocol.TCP, Protocol.UDP, Protocol.ICMPV6 if six else Protocol.ICMP, 47])
    if kind in (Protocol.TCP, Protocol.UDP):
        port = dice.choice([80, 100, 120, 150, 200, 300, 443, 447, 451, 8080])
        return Packet(source, destination, kind, port, mapped=False)
    return Packet(source, destination, kind, icmp_type=dice.choice([8, 3]), icmp_code=dice.choice([0, 4]))
