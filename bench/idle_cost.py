"""What do bridge and agent use while nothing happens? 250 containers, 10,000 policies, looked at as often
as a bridge does that nobody told otherwise.

The floor is a python whose event loop wakes five times a second, as often as the policy server is asked.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import fields
from pathlib import Path

from bench.figures import Figure
from bench.filled import filled
from cfbridge.settings import FoundationConfig

_TICKS = os.sysconf("SC_CLK_TCK")
_AS_ALWAYS = {
    each.name: each.default for each in fields(FoundationConfig) if each.name in ("delta_seconds", "asg_seconds")
}
_FLOOR = "import asyncio\nasync def main():\n    while True: await asyncio.sleep(0.2)\nasyncio.run(main())"


def run(quick: bool) -> list[Figure]:
    return asyncio.run(_measure(*((4, 40, 2.0) if quick else (250, 10_000, 60.0))))


async def _measure(containers: int, policies: int, seconds: float) -> list[Figure]:
    async with filled(containers, policies, _AS_ALWAYS) as box:
        floor = await asyncio.create_subprocess_exec(sys.executable, "-c", _FLOOR)
        try:
            await asyncio.sleep(seconds / 4)  # what the filling left to do
            processes = {"bridge": box.pid("bridge"), "agent": box.pid("agent"), "floor": floor.pid}
            before = {name: _cpu_seconds(pid) for name, pid in processes.items()}
            await asyncio.sleep(seconds)
            share = {name: (_cpu_seconds(pid) - before[name]) / seconds for name, pid in processes.items()}
        finally:
            floor.kill()
            await floor.wait()
    both = share["bridge"] + share["agent"]
    ratio = both / max(share["floor"], 1 / _TICKS / seconds)  # less than a tick can't be seen
    said = f"bridge {share['bridge']:.2%}, agent {share['agent']:.2%}, over {seconds:.0f} s; reach 2 %"
    return [Figure("idle_cost", 100 * both, "% of a core", ratio, "a loop that wakes 5 times a second", said)]


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
