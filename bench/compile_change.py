"""What does one change cost the bridge, from the world to the difference in kernel items, in a large foundation?

20,000 workloads, 2,000 groups, 60,000 policies, 5,000 rules: compile (with what the last compile left), render, diff. A
policy is added, a workload gets a tag that makes it a member, a rule is added; beside each, all of it from nothing.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.figures import Figure, median, percentile
from egress.values import QualifiedId
from garden_plugin.dataplane import plan
from garden_plugin.dataplane.base import Item, Key, LogicalNetwork
from garden_plugin.dataplane.cell import LocalState
from garden_plugin.dataplane.linux.firewall import Firewall
from policy_sync import compiler, translate
from policy_sync.criteria import Attribute, Comparison
from policy_sync.model import (
    Action,
    CfPolicy,
    Group,
    Kind,
    Lifecycle,
    Protocol,
    Rule,
    Selector,
    SelectorKind,
    Service,
    Tier,
    Workload,
    World,
)

_AT_MOST_MS = 150
_PER_APP = 5
_TIERS = (Tier.EMERGENCY, Tier.INFRASTRUCTURE, Tier.ENVIRONMENT, Tier.APPLICATION, Tier.BASELINE)


@dataclass(frozen=True, slots=True)
class Size:
    workloads: int
    groups: int
    policies: int
    rules: int


FULL, SMALL = Size(20_000, 2_000, 60_000, 5_000), Size(200, 20, 100, 50)


def run(quick: bool) -> list[Figure]:
    size, samples = (SMALL, 3) if quick else (FULL, 20)
    half = replace(size, workloads=size.workloads // 2, groups=size.groups // 2, policies=size.policies // 2)
    half = replace(half, rules=size.rules // 2)
    bridge = _Bridge(_world(size))
    of_half = _world(half)
    whole, half_whole = _anew(bridge.world), _anew(of_half)
    grows = whole / half_whole
    figures = [
        Figure("compile_change_whole", whole * 1000, "ms", whole, "the 1 s to reach", f"{grows:.1f} times that of half")
    ]
    smaller = _Bridge(of_half)
    for name, change in {"policy": _policy, "member": _member, "rule": _rule}.items():
        took = _changes(bridge, change, samples)
        half_took = median(_changes(smaller, change, samples))
        figures.append(
            Figure(
                f"compile_change_{name}",
                median(took) * 1000,
                "ms",
                median(took) * 1000 / _AT_MOST_MS,
                f"the {_AT_MOST_MS} ms to reach",
                f"p99 {percentile(took, 0.99) * 1000:.0f} ms; {median(took) / half_took:.1f} times that of half",
            )
        )
    return figures


class _Bridge:
    """Bridge and agent, but for the wire between them: what they keep from one change to the next."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._memo, self._firewall = compiler.Memo(), Firewall()
        self._ids: dict[str, int] = {}
        self._settled: World | None = None
        self._items: dict[Key, Item] = {}
        self.to(world)

    def to(self, world: World) -> int:
        """Compile, render, diff; how many items change."""
        for key in compiler.rule_keys(world, self._settled):
            self._ids.setdefault(key, len(self._ids) + 1)
        ruleset = compiler.compile_ruleset(world, self._ids, None, self._memo).ruleset
        items = self._firewall.render(LogicalNetwork(1, ruleset=ruleset), LocalState("cell-1", "10.0.0.1", ()))
        changes = plan.diff(self._items, items).changes
        self.world, self._settled, self._items = world, world, items
        return len(changes)


def _anew(world: World) -> float:
    return min(_timed(lambda: _Bridge(world)) for _ in range(3))


def _changes(bridge: _Bridge, change: Callable[[World, int], World], samples: int) -> list[float]:
    """There and back again, so that each one starts from the same."""
    took = []
    for number in range(samples):
        before = bridge.world
        after = change(before, number)
        took.append(_timed(lambda world=after: _assert_some(bridge.to(world))))  # type: ignore[misc]
        bridge.to(before)
    return took


def _assert_some(changed: int) -> None:
    assert changed, "a change that changes nothing measures nothing"


def _timed(deed: Callable[[], object]) -> float:
    gc.collect()
    began = time.perf_counter()
    deed()
    return time.perf_counter() - began


# The world and its changes --------------------------------------------------------------------------------------------


def _id(kind: str, number: int) -> QualifiedId:
    return QualifiedId(f"cf:{kind}-{number}")


def _workload(number: int, groups: int) -> Workload:
    app = number // _PER_APP
    address = f"10.{240 + number // 62_500}.{number // 250 % 250}.{number % 250 + 3}"
    tags = {Attribute("tag", "group"): str(number % groups), Attribute("app"): f"app-{app}"}
    place = _id("org", app // 100), _id("space", app // 25), _id("app", app)
    kind = Kind.CONTAINER, (address,), "cell-1"
    return Workload(_id("w", number), *kind, *place, Lifecycle.APP, str(number), attributes=tags)


def _world(size: Size) -> World:
    apps = size.workloads // _PER_APP
    return World(
        workloads=tuple(_workload(number, size.groups) for number in range(size.workloads)),
        groups=tuple(
            Group(f"g{number}", criteria=Comparison(Attribute("tag", "group"), "=", (str(number),)))
            for number in range(size.groups)
        ),
        rules=(*(_rule_of(number, size.groups) for number in range(size.rules)), *translate.baseline_rules()),
        policies=frozenset(_policy_of(number, apps) for number in range(size.policies)),
        asgs_known=frozenset({"cf"}),
        container_pools=("10.240.0.0/14",),
    )


def _rule_of(number: int, groups: int) -> Rule:
    def end(which: int) -> tuple[Selector, ...]:
        return (Selector(SelectorKind.GROUP, f"g{which % groups}"),)

    return Rule(
        key=f"rule:{number}",
        name=str(number),
        tier=_TIERS[number % len(_TIERS)],
        sources=end(number * 7),
        destinations=end(number * 13 + 1),
        action=Action.ALLOW if number % 3 else Action.REJECT,
        services=(Service(Protocol.TCP, ((1024 + number % 1000, 1024 + number % 1000),)),),
    )


def _policy_of(number: int, apps: int) -> CfPolicy:
    port = 1024 + number // apps
    return CfPolicy(_id("app", number % apps), _id("app", (number * 31 + 1) % apps), Protocol.TCP, port, port)


def _policy(world: World, number: int) -> World:
    apps = len({workload.app for workload in world.workloads})
    fresh = replace(_policy_of(number, apps), first_port=9, last_port=9)
    return replace(world, policies=world.policies | {fresh})


def _member(world: World, number: int) -> World:
    at = number * 997 % len(world.workloads)
    who = world.workloads[at]
    other = {**who.attributes, Attribute("tag", "group"): str((at + 1) % len(world.groups))}
    changed = replace(who, attributes=other)
    return replace(world, workloads=(*world.workloads[:at], changed, *world.workloads[at + 1 :]))


def _rule(world: World, number: int) -> World:
    fresh = replace(_rule_of(number, len(world.groups)), key=f"rule:new-{number}")
    return replace(world, rules=(fresh, *world.rules))
