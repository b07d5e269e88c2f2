"""Whose connections can no rule take over? They need not be looked for before their rule dies (decisions 1). Pure.

A removed policy admitted connections between two apps' addresses to a port: few enough to ask about each beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from garden_plugin.dataplane.grown import touched
from garden_plugin.dataplane.linux.conntrack import Judge, Suspects
from policy_sync.model import PROTOCOL_NUMBER, Action, Packet, Protocol
from policy_sync.ruleset import PolicyMatch, Ruleset

_FEW_PAIRS = 16
"""Of addresses. To ask about more costs as much as to look for the connections."""
_TCP = PROTOCOL_NUMBER[Protocol.TCP]


class Ranged:
    """The matches that span several ports, of a mapping of policies that changes little from one time to the next."""

    def __init__(self) -> None:
        self._of: Mapping[PolicyMatch, int] = {}
        self._found: set[PolicyMatch] = set()

    def of(self, policies: Mapping[PolicyMatch, int]) -> Iterable[PolicyMatch]:
        for match in touched(self._of, policies):
            if match.first_port != match.last_port:
                (self._found.add if match in policies else self._found.discard)(match)
        self._of = policies
        return self._found


def hopeless(old: Ruleset, new: Ruleset, suspects: Suspects, judge: Judge) -> frozenset[int]:
    """Of the suspected ids, those of policies whose connections nothing in `new` allows, whatever they are. TCP only: a
    datagram's entry has to go before its ports may begin anew from the other side."""
    if suspects.everything or touched(old.identities, new.identities):
        return frozenset()
    gone: dict[int, PolicyMatch] = {}
    for match in touched(old.policies, new.policies):
        number = old.policies.get(match)
        exact = match.protocol == _TCP and match.first_port == match.last_port
        if exact and number in suspects.marks and number not in new.labels:
            gone[number] = match
    if not gone:
        return frozenset()
    concerned = {identity for match in gone.values() for identity in match[:2]}
    addresses: dict[int, list[str]] = {identity: [] for identity in concerned}
    for address, identity in new.identities.items():
        if identity in concerned:
            addresses[identity].append(address)
    return frozenset(number for number, match in gone.items() if not _allowed(match, addresses, judge))


def _allowed(match: PolicyMatch, addresses: Mapping[int, list[str]], judge: Judge) -> bool:
    """Whether something may allow one of its connections; where there are too many to ask, it may."""
    pairs = [(source, to) for source in addresses[match.source] for to in addresses[match.destination]]
    if len(pairs) > _FEW_PAIRS:
        return True
    return any(
        judge(Packet(source=source, destination=to, protocol=Protocol.TCP, port=match.first_port, mapped=mapped))[0]
        is Action.ALLOW
        for source, to in pairs
        for mapped in (False, True)
    )
