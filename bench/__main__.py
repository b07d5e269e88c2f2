"""`make bench`: run the benchmarks one after the other, print a table, write bench/results/latest.json."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from bench import figures

BENCHMARKS = (
    "compile_change",
    "kernel_change",
    "connect_overhead",
    "container_up",
    "container_up_250",
    "recovery",
    "idle_cost",
    "cold_start",
    "policy_latency",
    "policy_latency_60k",
)
"""Modules of this package, each with `run(quick: bool) -> list[Figure]`."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="run only this one (may be repeated)")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, measures nothing")
    arguments = parser.parse_args()
    measured_on = figures.machine()
    found: list[figures.Figure] = []
    for name in arguments.only or BENCHMARKS:
        print(f"{name} …", file=sys.stderr, flush=True)
        found += importlib.import_module(f"bench.{name}").run(quick=arguments.quick)
    print(figures.table(found))
    figures.write(found, measured_on, Path(__file__).parent / "results" / "latest.json")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
