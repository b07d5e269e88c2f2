"""Which faults must the parity runner find? Each is planted into compiler or driver by a context, and taken out after.

A fault is entered before the dataplane is made: the frame of the table is read when the table is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from egress.values import subtract
from garden_plugin.dataplane.linux import conntrack, driver, firewall, items, skeleton
from garden_plugin.dataplane.linux.conntrack import Restamped
from policy_sync import compiler
from policy_sync.criteria import All, Comparison, Criteria, Either, Not
from policy_sync.matching import Matching, Positions
from policy_sync.membership import EVERYTHING, Membership
from policy_sync.model import Action, Rule
from policy_sync.ruleset import AddressSet, PolicyMatch


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    breaks: str
    plant: Callable[[], contextlib.AbstractContextManager[None]]
    shows: Literal["at once", "after a change"] = "at once"
    """`after a change`: in connections that live through a changed world."""


@contextlib.contextmanager
def _instead(owner: Any, name: str, made: Callable[[Any], Any]) -> Iterator[None]:
    """`made` gets what was there and answers what is there for now."""
    before = getattr(owner, name)
    setattr(owner, name, made(before))
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _rewritten(old: str, new: str, *chains: str) -> Iterator[None]:
    """Other text in the frame; it must have been there, or the fault is none."""
    before = {chain: skeleton.CHAINS[chain] for chain in chains}
    for chain, rules in before.items():
        if old not in rules:
            raise LookupError(f"chain {chain} does not say {old!r}")
    skeleton.CHAINS.update({chain: rules.replace(old, new) for chain, rules in before.items()})
    try:
        yield
    finally:
        skeleton.CHAINS.update(before)


def _dead_connections_live_on() -> contextlib.AbstractContextManager[None]:
    return _rewritten("ct mark @live accept", "accept", "forward", "received", "sent")


def _one_port_further() -> contextlib.AbstractContextManager[None]:
    def further(match: PolicyMatch) -> PolicyMatch:
        return match._replace(first_port=match.first_port + 1, last_port=match.last_port + 1)

    return _instead(firewall, "_policy_key", lambda key: lambda match: key(further(match)))


@contextlib.contextmanager
def _asg_opens_containers() -> Iterator[None]:
    """Two walls stand before this: the compiled set has holes, and a pool address never comes to the profile."""
    profiles = "ip saddr vmap @asg4\nip6 saddr vmap @asg6\n"
    pools = "ip daddr @pools4 goto policies4\nip6 daddr @pools6 goto policies6\n"
    with (
        _instead(compiler, "subtract", lambda _: lambda ranges, holes: tuple(ranges)),
        _rewritten(pools + profiles, profiles + pools, "forwarded"),
    ):
        yield


def _emergency_comes_late() -> contextlib.AbstractContextManager[None]:
    before, after = ("".join(f"\njump tier{tier}" for tier in order) for order in ((0, 1, 2, 3), (1, 2, 3, 0)))
    return _rewritten(before, after, "tiers")


def _line_without(**changed: Any) -> contextlib.AbstractContextManager[None]:
    return _instead(firewall, "_line", lambda line: lambda *said: replace(line(*said), **changed))


def _applied_to_ignored() -> contextlib.AbstractContextManager[None]:
    def everywhere(pairs: Any) -> Any:
        return lambda rule, membership, sets: pairs(replace(rule, applied_to=()), membership, sets)

    return _instead(compiler, "_pairs", everywhere)


def _no_v6_members() -> contextlib.AbstractContextManager[None]:
    return _instead(compiler, "_address_set", lambda made: lambda ranges: AddressSet(made(ranges).v4))


def _reject_is_silent() -> contextlib.AbstractContextManager[None]:
    said = "meta l4proto tcp counter reject with tcp reset\ncounter reject with icmpx port-unreachable"
    return _rewritten(said, "counter drop", "refuse_reject")


def _any_source() -> contextlib.AbstractContextManager[None]:
    return _rewritten("iifname . ip saddr . ether saddr @port_src4 ", "", "port")


def _nobody_restamps() -> contextlib.AbstractContextManager[None]:
    return _instead(conntrack, "restamp", lambda _: lambda *said: Restamped())


def _cut_datagrams_stay() -> contextlib.AbstractContextManager[None]:
    return _instead(conntrack.Conntrack, "delete", lambda _: lambda self, flows: None)


def _pass_goes_on() -> contextlib.AbstractContextManager[None]:
    def verdict(spelled: Any) -> Any:
        return lambda line: "continue" if line.action is Action.PASS and not line.watch else spelled(line)

    return _instead(items.Line, "_verdict", verdict)


def _staging_takes_part() -> contextlib.AbstractContextManager[None]:
    return _instead(compiler, "_takes_part", lambda _: lambda workload: workload.app is not None)


def _sections_upside_down() -> contextlib.AbstractContextManager[None]:
    def turned(tiers: Any) -> Any:
        def compiled(rules: tuple[Rule, ...], *said: Any) -> Any:
            return tiers(tuple(reversed(rules)), *said)

        return compiled

    return _instead(compiler, "_tiers", turned)


def _nobody_is_marked_again() -> contextlib.AbstractContextManager[None]:
    """The second half of a change is forgotten: what was in force stays judged by the world before."""
    return _instead(driver.LinuxDataplane, "_rejudge", lambda _: lambda self, ruleset, changes: Restamped())


def _negation_is_everything() -> contextlib.AbstractContextManager[None]:
    return _instead(Membership, "_one", lambda one: lambda self, s: EVERYTHING if s.negated else one(self, s))


def _without_criteria() -> contextlib.AbstractContextManager[None]:
    return _instead(
        Membership, "_members", lambda members: lambda self, group: members(self, replace(group, criteria=None))
    )


def _meaning(kind: type[Criteria], made: Callable[[Matching, Any, Positions], Positions]) -> Any:
    """Another meaning of one kind of expression; `made` gets what it should be."""

    def satisfying(right: Any) -> Any:
        def wrong(self: Matching, criteria: Criteria) -> Positions:
            found = right(self, criteria)
            return made(self, criteria, found) if isinstance(criteria, kind) else found

        return wrong

    return _instead(Matching, "_satisfying", satisfying)


def _absent_is_another() -> contextlib.AbstractContextManager[None]:
    def made(matching: Matching, test: Any, found: Positions) -> Positions:
        positive = {"!=": "=", "not in": "in"}.get(test.operator)
        return matching.workloads(Not(replace(test, operator=positive))) if positive else found

    return _meaning(Comparison, made)


def _or_is_and() -> contextlib.AbstractContextManager[None]:
    return _meaning(Either, lambda matching, either, _: matching.workloads(All(either.parts)))


def _and_is_its_first_part() -> contextlib.AbstractContextManager[None]:
    return _meaning(All, lambda matching, both, _: matching.workloads(both.parts[0]))


def _one_family_is_enough() -> contextlib.AbstractContextManager[None]:
    """Whoever satisfies a criteria expression is named by the first address alone."""

    def ranges(right: Any) -> Any:
        def wrong(self: Matching, criteria: Criteria) -> Any:
            lost = [(each, each) for at in self.workloads(criteria) for each in self._places[at][1][1:]]
            return subtract(right(self, criteria), lost)

        return wrong

    return _instead(Matching, "ranges", ranges)


def _nobody_is_named() -> contextlib.AbstractContextManager[None]:
    return _instead(Matching, "_nobodys", lambda _: lambda self, criteria: ())


def _nobody_is_named_by_negation() -> contextlib.AbstractContextManager[None]:
    def nobodys(right: Any) -> Any:
        return lambda self, criteria: EVERYTHING if isinstance(criteria, Not) else right(self, criteria)

    return _instead(Matching, "_nobodys", nobodys)


def _last_port_is_missing() -> contextlib.AbstractContextManager[None]:
    def shorter(match: PolicyMatch) -> PolicyMatch:
        # Of two ports one would be left, which lies in another set.
        return match._replace(last_port=match.last_port - 1) if match.last_port > match.first_port + 1 else match

    return _instead(firewall, "_policy_key", lambda key: lambda match: key(shorter(match)))


FAULTS = (
    Fault(
        "dead_connections_live_on",
        "a connection whose rule is dead is accepted because it is established",
        _dead_connections_live_on,
        "after a change",
    ),
    Fault("one_port_further", "a network policy opens the port after its own", _one_port_further),
    Fault("asg_opens_containers", "a security group opens addresses of container pools", _asg_opens_containers),
    Fault("emergency_comes_late", "the emergency tier is asked after the application tier", _emergency_comes_late),
    Fault(
        "mapped_only_ignored",
        "a rule for mapped ports lets in whoever comes by the container's own address",
        lambda: _line_without(mapped=False),
    ),
    Fault("watch_decides", "a rule that only watches decides", lambda: _line_without(watch=False)),
    Fault("applied_to_ignored", "a rule holds beyond the ports it is applied to", _applied_to_ignored),
    Fault("no_v6_members", "sets hold no IPv6 addresses", _no_v6_members),
    Fault("reject_is_silent", "a refused sender hears nothing", _reject_is_silent),
    Fault("any_source", "a container may send with an address of others", _any_source),
    Fault(
        "nobody_restamps", "a live connection keeps the rule that once admitted it", _nobody_restamps, "after a change"
    ),
    Fault(
        "rejudge_forgotten", "a change puts rules in and leaves connections", _nobody_is_marked_again, "after a change"
    ),
    Fault("cut_datagrams_stay", "a udp or icmp connection is never deleted", _cut_datagrams_stay, "after a change"),
    Fault("pass_goes_on", "a pass does not leave its tier", _pass_goes_on),
    Fault("staging_takes_part", "a network policy opens staging containers", _staging_takes_part),
    Fault("sections_upside_down", "within a tier the last rule wins", _sections_upside_down),
    Fault("negation_is_everything", "not in a group means any address at all", _negation_is_everything),
    Fault("without_criteria", "the criteria of a group name nobody", _without_criteria),
    Fault("absent_is_another", "who lacks an attribute satisfies its `!=`", _absent_is_another),
    Fault("or_is_and", "`or` in criteria means both", _or_is_and),
    Fault("and_is_its_first_part", "`and` in criteria forgets what comes after it", _and_is_its_first_part),
    Fault("one_family_is_enough", "criteria name the first address of a workload alone", _one_family_is_enough),
    Fault("nobody_is_named", "a prefix in criteria names no address that nobody has", _nobody_is_named),
    Fault(
        "nobody_is_named_by_negation", "`not` in criteria names addresses that nobody has", _nobody_is_named_by_negation
    ),
    Fault("last_port_is_missing", "a network policy opens all ports of its range but the last", _last_port_is_missing),
)
