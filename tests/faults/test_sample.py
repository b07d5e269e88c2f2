"""Is nothing lost, passed or cut when bridge or agent die between two operations? Ten points of the hundreds that
`make faults` dies at: of both daemons, in the kernel, on disk and in the store, in service and on the way back."""

from __future__ import annotations

import asyncio

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


def find(box: FaultyBox, role: str, phase: str, when: str, kind: str, named: str) -> list[Point]:
    """The points that are like that: storms differ, and each comes by one of them at least."""
    known = box.seen[role].points.values()
    like = [p for p in known if (p.phase, p.when, p.kind) == (phase, when, kind) and named in p.path]
    assert like, f"no storm has come by {when} {kind} in {named or role}, {phase}"
    return like


async def _sample() -> dict[str, list[str]]:
    """What was wrong, by point."""
    wrong: dict[str, list[str]] = {}
    async with FaultyBox() as box:
        stage = await Stage.open(box, WITHIN_SECONDS)
        for sample in (None, *SAMPLE):
            for _ in range(3):  # what runs side by side may come by another way once
                outcome = await stage.round(find(box, *sample) if sample else ())
                if outcome.hit or outcome.wrong or sample is None:
                    break
            missed = ["nobody came by"] if sample and not outcome.hit else []
            if outcome.wrong or missed:
                wrong[" ".join(sample or ["a storm without a death"])] = [*missed, *outcome.wrong]
    return wrong


def test_nothing_is_lost_passed_or_cut_when_bridge_or_agent_die_at_ten_points() -> None:
    assert asyncio.run(_sample()) == {}
