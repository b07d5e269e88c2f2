"""Does a connection pass, which rule says so, and what would let it pass? One answer for the person who asks.

ends ─> every pair of their addresses ─> what is in force decides ─> by which rule, whose it is, where
                                                                  └> refused: who could allow it, by which command
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from cfbridge.api import ends, rulings
from cfbridge.api.ends import End, Ends, Place
from cfbridge.api.naming import Naming
from cfbridge.api.resources import DecidedBy, Explained, Otherwise, RuleRow, WouldAllow
from cfbridge.api.views import Facade
from egress.values import QualifiedId, Refused, RefusedError, contains, merge, pack, prefix_range
from policy_sync import verdict
from policy_sync.model import Action, Kind, Lifecycle, Packet, Protocol, Tier, Workload
from policy_sync.ruleset import Decider, Ruleset

PAIRS_AT_MOST = 64
"""Instances of two apps are alike but for their place: so many pairs are asked."""
_NOBODY = DecidedBy("", "", "baseline", "", "nobody said anything, so it is refused", "", "cfbridge")


@dataclass(frozen=True, slots=True)
class Question:
    source: str
    destination: str
    protocol: Protocol
    port: int
    org: str = ""
    space: str = ""


@dataclass(frozen=True, slots=True)
class _Case:
    """One pair of addresses, judged."""

    packet: Packet
    sender: Workload | None
    receiver: Workload | None
    action: Action
    rule: str
    """`R42`, or a key that has no number; empty: nobody said anything."""
    tier: Tier


Rules = Callable[[Facade], Mapping[str, RuleRow]]
"""Every rule by its id."""


def _rules(facade: Facade) -> Mapping[str, RuleRow]:
    return {row.id: row for row in rulings.rules(facade)}


class Explainer:
    """Keeps what it takes to answer, for as long as the same ruleset is in force."""

    def __init__(self, rules: Rules = _rules) -> None:
        self._rules = rules
        self._decider: Decider | None = None

    def explain(self, facade: Facade, question: Question) -> Explained:
        """RefusedError where the question is about nobody, or makes no sense."""
        named = Naming(facade.snapshot)
        look = Ends(facade, named)
        source = look.find(question.source, "source", question.org, question.space)
        destination = look.find(question.destination, "destination", question.org, question.space)
        cases = [*self._cases(facade, question, source, destination)]
        if not cases:
            message = "The two ends have no address of one family, or are the same one: nothing passes between them."
            raise RefusedError(Refused("NO_WAY_BETWEEN", message, "destination"))
        refused = [case for case in cases if case.action is not Action.ALLOW]
        told = (refused or cases)[0]
        decided = self._decided_by(facade, told)
        remedy = None if told.action is Action.ALLOW else _remedy(facade, named, question, told, decided)
        return Explained(
            verdict=str(told.action),
            sentence=_sentence(question, source, destination, told.action),
            source=source.name,
            destination=destination.name,
            protocol=str(question.protocol),
            port=question.port,
            decided_by=decided,
            enforced_at=_enforced_at(named, told),
            grade=_grade(told),
            path=tuple(_path(facade, source, destination, told)),
            would_allow=remedy,
            otherwise=tuple(
                Otherwise(case.packet.source, case.packet.destination, str(case.action), case.rule)
                for case in cases
                if (case.action, case.rule) != (told.action, told.rule)
            ),
            assumed=tuple(end.name for end in (source, destination) if end.assumed),
            evaluated_at_revision=facade.snapshot.revision,
        )

    def _cases(self, facade: Facade, question: Question, source: End, destination: End) -> Iterator[_Case]:
        assumed = source.assumed or destination.assumed
        world = ends.with_made_up(facade.world, source, destination) if assumed else facade.world
        every = product(source.addresses, destination.addresses)
        pairs = [pair for pair in every if _can_meet(*pair)]
        for (sent_by, sender), (to, receiver) in pairs[:PAIRS_AT_MOST]:
            packet = _packet(facade, question, sent_by, to, sender, receiver)
            if assumed:
                # Without numbers: a policy of an app that never ran has none yet, and would get one with it.
                judged = verdict.verdict(world, packet, now=time.time())
                number = facade.snapshot.held.rule_ids.get(judged.rule)
                rule = f"R{number}" if number is not None else judged.rule
                yield _Case(packet, sender, receiver, judged.action, rule, judged.tier)
            else:
                action, number = self._decide(facade.ruleset, packet)
                label = facade.ruleset.labels.get(number)
                tier = Tier(label.tier) if label else Tier.BASELINE
                yield _Case(packet, sender, receiver, action, f"R{number}" if number else "", tier)

    def _decide(self, ruleset: Ruleset, packet: Packet) -> tuple[Action, int]:
        if self._decider is None or self._decider.ruleset is not ruleset:
            self._decider = Decider(ruleset)
        return self._decider.decide(packet)

    def _decided_by(self, facade: Facade, case: _Case) -> DecidedBy:
        row = self._rules(facade).get(case.rule)
        if row is None:
            return _NOBODY if not case.rule else DecidedBy(case.rule, "", case.tier.name.lower(), "", "", "", "")
        return DecidedBy(row.id, row.name, row.tier, row.section, row.sentence, row.owner, row.provenance)


def _can_meet(one: Place, other: Place) -> bool:
    """Addresses of one family, of two who are not the same."""
    same = one[0] == other[0] or (one[1] is not None and one[1] is other[1])
    return not same and len(pack(one[0])) == len(pack(other[0]))


def _packet(
    facade: Facade, question: Question, sent_by: str, to: str, sender: Workload | None, receiver: Workload | None
) -> Packet:
    """Who comes from outside to a container comes by a mapped port, where the container has one for it."""
    icmp = question.protocol in (Protocol.ICMP, Protocol.ICMPV6)
    protocol = question.protocol
    if icmp:
        protocol = Protocol.ICMPV6 if ":" in to else Protocol.ICMP
    kind = {Protocol.ICMP: 8, Protocol.ICMPV6: 128}.get(protocol, 0)
    mapped = sender is None and receiver is not None and question.port in _mapped(facade, receiver)
    return Packet(sent_by, to, protocol, 0 if icmp else question.port, kind, 0, mapped and protocol is Protocol.TCP)


def _mapped(facade: Facade, receiver: Workload) -> frozenset[int]:
    cell = facade.snapshot.cells.get(receiver.cell)
    port = cell.ports.get(receiver.id) if cell else None
    return frozenset(each.container_port for each in port.mapped_ports) if port else frozenset()


def _sentence(question: Question, source: End, destination: End, action: Action) -> str:
    what = str(question.protocol) if not question.port else f"{question.protocol}/{question.port}"
    may = "may" if action is Action.ALLOW else "may not"
    return f"{source.name} {may} open {what} to {destination.name}"


# Where ---------------------------------------------------------------------------------------------------------------


def _enforced_at(named: Naming, case: _Case) -> str:
    """At the destination's port where that is protected, else at the source's; an emergency refuses at both."""
    ports = [each for each in (case.receiver, case.sender) if each is not None and each.protected]
    if not (case.tier is Tier.EMERGENCY and case.action is not Action.ALLOW):
        ports = ports[:1]
    return " and ".join(each.name or named.workload(each.id) for each in ports) or "nowhere"


def _grade(case: _Case) -> str:
    if case.receiver is not None and case.receiver.protected:
        return "outside"
    if case.sender is not None and case.sender.protected:
        return "outside" if case.receiver is None else "peer"
    return "none"


def _path(facade: Facade, source: End, destination: End, case: _Case) -> Iterator[str]:
    yield _at(source, case.packet.source)
    if case.packet.mapped:
        yield "a mapped port of the cell"
    outside = case.receiver is None and not _in_pool(facade, case.packet.destination)
    if case.sender is not None and case.sender.org and outside:
        leaving = facade.snapshot.held.snat_addresses.get(case.sender.org, ())
        if leaving:
            yield f"leaves as {', '.join(each.address for each in leaving)}"
    yield _at(destination, case.packet.destination)


def _at(end: End, address: str) -> str:
    return end.name if address in end.name else f"{end.name} at {address}"


def _in_pool(facade: Facade, address: str) -> bool:
    return contains(merge(map(prefix_range, facade.world.container_pools)), pack(address))


# Who could allow it --------------------------------------------------------------------------------------------------


def _remedy(facade: Facade, named: Naming, question: Question, case: _Case, decided: DecidedBy) -> WouldAllow:
    if case.tier is not Tier.BASELINE:
        whose = decided.owner or {
            "emergency": "the security team",
            "infrastructure": "the platform operator",
            "environment": "the security team",
        }.get(decided.tier, "the security team")
        return WouldAllow("", f"{whose}: rule {decided.rule} of tier {decided.tier} goes before what apps ask for")
    source, destination = _app(case.sender), _app(case.receiver)
    if source and destination:
        if question.protocol in (Protocol.TCP, Protocol.UDP):
            return _policy(named, source, destination, question)
        return WouldAllow("", "the security team, by a rule: cf network policies are for tcp and udp only")
    to = case.packet.destination
    outside = not _in_pool(facade, to) and to not in facade.world.cell_addresses
    if source and outside and case.sender is not None and case.sender.space:
        where = named.space_path(case.sender.space)
        return WouldAllow("", f"an admin, by a security group with {to} for {where}; or the security team, by a rule")
    return WouldAllow("", "the security team, by a rule")


def _policy(named: Naming, source: QualifiedId, destination: QualifiedId, question: Question) -> WouldAllow:
    org, space, name = named.app(source)
    to_org, to_space, to_name = named.app(destination)
    words = ["cf", "add-network-policy", name, to_name, "--protocol", str(question.protocol)]
    words += ["--port", str(question.port), "-s", to_space, "-o", to_org]
    spaces = f"{org}/{space}" if (org, space) == (to_org, to_space) else f"{org}/{space} and of {to_org}/{to_space}"
    whose = f"a space developer of {spaces} with the scope network.write, or an admin; with {org}/{space} targeted"
    return WouldAllow(shlex.join(words), whose)


def _app(workload: Workload | None) -> QualifiedId | None:
    """That network policies are about, if they are about this one."""
    if workload is None or workload.kind is not Kind.CONTAINER:
        return None
    return workload.app if workload.lifecycle in (Lifecycle.APP, Lifecycle.TASK) else None


def check(given: Mapping[str, Any]) -> Question:
    """A question as the query says it. RefusedError that names what is missing."""
    protocol, port = Protocol(given["protocol"]), given["port"] or 0
    if protocol in (Protocol.TCP, Protocol.UDP) and not port:
        raise RefusedError(Refused("PORT_NEEDED", f"{protocol} has ports: say which one.", "port"))
    return Question(given["source"], given["destination"], protocol, port, given["org"] or "", given["space"] or "")
