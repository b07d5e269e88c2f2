"""Which matches do network policies become? One by one as they come and go: 20,000 stay, one is added.

Per source, destination and protocol the ports are disjoint: the lowest rule id owns an overlap (decisions 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from egress.values import QualifiedId
from policy_sync import translate
from policy_sync.model import CfPolicy, Protocol, Tier
from policy_sync.part import Part, short
from policy_sync.ruleset import IDENTITY_BIT, PolicyMatch, RuleLabel

_Pair = tuple[int, int, int]
"""Source and destination identity, protocol."""
_Claim = tuple[int, int, int]
"""First and last port, and the id of the policy that wants them."""
# Looked up once here: 20,000 policies are compared with them.
_TCP, _UDP = Protocol.TCP, Protocol.UDP
APPLICATION = int(Tier.APPLICATION)


@dataclass(frozen=True, slots=True)
class Book:
    """The network policies as compiled, and what they were compiled from, so that the next compile starts from them."""

    policies: frozenset[CfPolicy] = frozenset()
    identities: Mapping[str, int | None] = field(default_factory=dict)
    claims: Mapping[_Pair, tuple[_Claim, ...]] = field(default_factory=dict)
    part: Part = field(default_factory=Part)


def follow(before: Book, policies: frozenset[CfPolicy], who: Part, ids: Mapping[str, int]) -> Book:
    """Only what was added or removed is compiled anew; from an empty book, that is everything."""
    part = before.part
    stands = before.identities == who.used and not part.quarantined
    if not stands or not part.used.items() <= ids.items():
        before = Book(identities=dict(who.used))
        part = before.part
    added, removed = policies - before.policies, before.policies - policies
    if not added and not removed:
        return before
    start = len(translate.app_key(QualifiedId("")))
    apps = {key[start:]: IDENTITY_BIT | number for key, number in who.used.items() if number is not None}
    part = Part(labels={**part.labels}, policies={**part.policies}, used={**part.used})
    claims = {**before.claims}
    touched: dict[_Pair, list[_Claim]] = {}
    for policy, wanted in (*((each, False) for each in removed), *((each, True) for each in added)):
        source, destination = apps.get(policy.source), apps.get(policy.destination)
        if source is None or destination is None:
            continue
        first, last = policy.first_port, policy.last_port
        key = translate.policy_key(policy)
        protocol = 6 if policy.protocol is _TCP else 17 if policy.protocol is _UDP else 0
        if not protocol or not 1 <= first <= last <= 65535:
            part.refuse("POLICY_UNREADABLE", f"{short(key)} names no tcp or udp ports; it matches nothing")
            continue
        number = part.id_of(key, ids)
        if number is None:
            continue
        pair = (source, destination, protocol)
        mine = touched.get(pair)
        if mine is None:
            mine = touched[pair] = [*claims.get(pair, ())]
        if wanted:
            mine.append((first, last, number))
            part.labels[number] = RuleLabel(key, key, APPLICATION)
        else:
            mine.remove((first, last, number))
            del part.labels[number], part.used[key]
    for pair, wanted_now in touched.items():
        for first, last, _ in disjoint(claims.get(pair, ())):
            del part.policies[PolicyMatch(*pair, first, last)]
        for first, last, number in disjoint(wanted_now):
            part.policies[PolicyMatch(*pair, first, last)] = number
        claims[pair] = tuple(wanted_now)
        if not wanted_now:
            del claims[pair]
    return Book(policies, dict(who.used), claims, part)


def disjoint(claims: Sequence[_Claim]) -> Sequence[_Claim]:
    """The same ports, each owned by the lowest id that claims it; neighbours of one owner joined."""
    if len(claims) < 2:
        return claims
    claims = sorted(claims)
    if all(before[1] < after[0] for before, after in pairwise(claims)):
        return claims
    edges = sorted({edge for first, last, _ in claims for edge in (first, last + 1)})
    owned: list[_Claim] = []
    for first, after in pairwise(edges):
        owners = [number for low, high, number in claims if low <= first <= high]
        if not owners:
            continue
        owner = min(owners)
        if owned and owned[-1][2] == owner and owned[-1][1] == first - 1:
            owned[-1] = (owned[-1][0], after - 1, owner)
        else:
            owned.append((first, after - 1, owner))
    return owned
