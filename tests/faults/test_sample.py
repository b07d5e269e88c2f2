"""Is nothing lost, passed or cut when bridge or agent die between two operations? Ten points of the hundreds that
`make faults` dies at: of both daemons, in the kernel, on disk and in the store, in service and on the way back."""

from __future__ import annotations

import asyncio
from collections import Counter

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
    ("agent", SERVING, "before", "netlink", "Conntrack"),
    ("agent", STARTING, "after", "netlink", "_converge"),
    ("bridge", SERVING, "after", "sql INSERT INTO leases", ""),
    ("bridge", SERVING, "after", "sql commit", ""),
    ("bridge", STARTING, "after", "sql UPDATE leader SET", ""),
)
"""Role, phase, when, kind, and whom its path names."""


def find(box: FaultyBox, passed: Counter[str], role: str, phase: str, when: str, kind: str, named: str) -> Point:
    """Of the points that are like that the one that was passed most often, so that this storm comes by it as well."""
    known = box.seen[role].points.values()
    like = [p for p in known if (p.phase, p.when, p.kind) == (phase, when, kind) and named in p.path]
    assert like, f"no storm has come by {when} {kind} in {named or role}, {phase}"
    return max(like, key=lambda point: (passed[point.name], point.path))


async def _sample() -> dict[str, list[str]]:
    """What was wrong, by point."""
    wrong: dict[str, list[str]] = {}
    passed: Counter[str] = Counter()
    async with FaultyBox() as box:
        stage = await Stage.open(box, WITHIN_SECONDS)
        for sample in (None, *SAMPLE):
            for _ in range(2):  # what runs side by side may come by another way once
                point = find(box, passed, *sample) if sample else None
                outcome = await stage.round(point)
                for seen in box.seen.values():
                    passed += seen.passed
                if outcome.hit or point is None:
                    break
            missed = ["nobody came by"] if point and not outcome.hit else []
            if outcome.wrong or missed:
                wrong[str(point or "a storm without a death")] = [*missed, *outcome.wrong]
    return wrong


def test_nothing_is_lost_passed_or_cut_when_bridge_or_agent_die_at_ten_points() -> None:
    assert asyncio.run(_sample()) == {}
