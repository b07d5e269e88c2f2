"""Is nothing lost, passed or cut when bridge or agent die between two operations? Ten points of the hundreds that
`make faults` dies at: of both daemons, in the kernel, on disk and in the store, in service and on the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.faults.points import SERVING, STARTING, Point
from tests.faults.rounds import Stage
from tests.faults.storm import FaultyBox

pytestmark = [pytest.mark.packets, pytest.mark.timeout(600)]

WITHIN_SECONDS = 45.0
"""Generous: that all is whole again is judged here; how fast, by `make faults`."""

SAMPLE = (
    ("agent", SERVING, "after", "mount", "Namespaces.hold"),
    ("agent", SERVING, "before", "file replace", "Records.write"),
    ("agent", SERVING, "after", "netlink", "Table.fill"),
    ("agent", SERVING, "after", "nft run", "Table.fill"),
    ("agent", SERVING, "after", "netlink", "plug:_plug"),
    ("agent", SERVING, "before", "netlink", "Conntrack.forget"),
    ("agent", STARTING, "after", "netlink", "_converge"),
    ("bridge", SERVING, "after", "sql INSERT INTO leases", ""),
    ("bridge", SERVING, "after", "sql commit", ""),
    ("bridge", STARTING, "after", "sql UPDATE leader SET", ""),
)
"""Role, phase, when, kind, and whom its path names."""


def find(known: Sequence[Point], role: str, phase: str, when: str, kind: str, named: str) -> Point:
    """The first of the points that are like that; so it is the same one each time."""
    like = [p for p in known if (p.role, p.phase, p.when, p.kind) == (role, phase, when, kind) and named in p.path]
    assert like, f"no storm has come by {when} {kind} in {named or role}, {phase}"
    return min(like, key=lambda point: point.path)


async def _sample() -> dict[str, list[str]]:
    """What was wrong, by point."""
    wrong: dict[str, list[str]] = {}
    async with FaultyBox() as box:
        stage = await Stage.open(box, WITHIN_SECONDS)
        outcome = await stage.round(None)
        if outcome.wrong:
            wrong["a storm without a death"] = outcome.wrong
        for sample in SAMPLE:
            point = find([*box.seen["agent"].points.values(), *box.seen["bridge"].points.values()], *sample)
            outcome = await stage.round(point)
            missed = [] if outcome.hit else ["nobody came by"]
            if outcome.wrong or missed:
                wrong[str(point)] = [*missed, *outcome.wrong]
    return wrong


def test_nothing_is_lost_passed_or_cut_when_bridge_or_agent_die_at_ten_points() -> None:
    assert asyncio.run(_sample()) == {}
