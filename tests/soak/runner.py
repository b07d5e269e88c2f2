"""How is a soak started, and what does it say in the end? `make soak ARGS="--minutes 30 --json"`."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
from collections.abc import Sequence
from typing import Any

from tests.soak.memory import DESCRIPTORS_ALLOWED, GROWTH_ALLOWED
from tests.soak.soak import Plan, Report, soaked

JUDGED_SHARE = 0.5
"""A soak that judges less than this of what it sent has proven nothing."""
LATE_SHARE = 0.1
WRONG = ("wrongly_passed", "wrongly_cut", "wrongly_refused", "not_recovered", "not_healed", "ended")
MEMORY_MINUTES = 9.0
"""Shorter runs are over before a process has found its size."""


def summary(report: Report) -> dict[str, Any]:
    counts = report.judge.counts if report.judge is not None else {}
    answer: dict[str, Any] = {
        "seed": report.plan.seed,
        "minutes": round(report.plan.seconds / 60, 2),
        **{name: counts.get(name, 0) for name in WRONG[:2]},
        "leaked": len(report.leaked),
        **{name: counts.get(name, 0) for name in (*WRONG[2:], "judged", "in_flight")},
        "probes": {name: number for name, number in sorted(counts.items()) if " " in name},
        **report.figures,
    }
    answer["failures"] = failures(report)
    return answer


def failures(report: Report) -> list[str]:
    """Why it is not well; empty when it is."""
    found = [*(report.judge.said if report.judge is not None else []), *report.wrong]
    found += [f"leaked: {each}" for each in report.leaked[:20]]
    counts = report.judge.counts if report.judge is not None else {}
    judged, unjudged = counts.get("judged", 0), counts.get("in_flight", 0)
    if judged < JUDGED_SHARE * (judged + unjudged) or not judged:
        found.append(f"too little was judged: {judged} of {judged + unjudged} probes")
    if (late := report.figures.get("late_seconds", 0)) > LATE_SHARE * report.plan.seconds:
        found.append(f"the soak itself was late for {late} s: this machine is too busy to judge by")
    if report.plan.memory_judged:
        for name, seen in report.figures.get("memory", {}).items():
            if seen["growth"] > GROWTH_ALLOWED:
                found.append(f"the {name} grew by {seen['growth']:.1%}, from {seen['first_mib']} MiB")
    held = report.figures.get("held", {})
    for name, before in held.get("before", {}).items():
        for what, number in before.items():
            after = held["after"].get(name, {}).get(what, 0)
            if after > number + DESCRIPTORS_ALLOWED:
                found.append(f"the {name} has {after} {what}, and had {number}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.soak", description="Random deeds, faults and traffic, judged.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, help="default: a fresh one")
    parser.add_argument("--containers", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="one line at the end")
    asked = parser.parse_args(arguments)
    seed = secrets.randbelow(1 << 32) if asked.seed is None else asked.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    plan = Plan(seed, asked.minutes * 60, asked.containers, memory_judged=asked.minutes >= MEMORY_MINUTES)
    report = asyncio.run(soaked(plan))
    said = summary(report)
    if asked.json:
        print(json.dumps(said))
    else:
        for name, value in said.items():
            if name != "failures":
                print(f"{name.replace('_', ' '):24}{value}")
        for failure in said["failures"]:
            print(f"FAILED  {failure}")
        print(f"again: make soak ARGS='--minutes {asked.minutes:g} --seed {seed}'")
    return 1 if said["failures"] else 0
