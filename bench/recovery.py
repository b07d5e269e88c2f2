"""How soon is a killed agent's cell true again? 250 containers, 10,000 policies.

From the start of its process until a new container is up: then what is there was adopted, the bridge was heard, and
the newest revision is in force. The floor is a python that imports what the agent imports, and ends.
"""

from __future__ import annotations

import asyncio
import sys
import time

from bench import busy, figures
from bench.figures import Figure
from bench.filled import filled
from cfbridge.demo.box import Box
from cfbridge.simulator.garden import GardenError

_FLOOR = (sys.executable, "-c", "import cfbridge.commands.daemons, garden_plugin.dataplane.linux.driver")


def run(quick: bool) -> list[Figure]:
    return asyncio.run(_measure(*((4, 40, 1) if quick else (250, 10_000, 5))))


async def _measure(containers: int, policies: int, samples: int) -> list[Figure]:
    async with filled(containers, policies) as box:
        seconds, floors = [], []
        for number in range(samples):
            seconds.append(await _recovered(box, f"after-{number}"))
            began = time.perf_counter()
            floor = await asyncio.create_subprocess_exec(*_FLOOR)
            await floor.wait()
            floors.append(time.perf_counter() - began)
    value, floor_seconds = figures.median(seconds), figures.median(floors)
    said = f"{containers} containers, {policies} policies, worst of {samples}: {max(seconds):.2f}; reach 3 s"
    return [Figure("recovery", value, "s", value / floor_seconds, "its imports alone", said)]


async def _recovered(box: Box, handle: str) -> float:
    box.kill("agent")
    began = time.perf_counter()
    box.start_agent()
    while True:
        try:
            await box.diego.guardian.create(busy.spec(handle, 0))
        except GardenError:  # nobody listens yet
            await asyncio.sleep(0.02)
            continue
        took = time.perf_counter() - began
        await box.diego.guardian.destroy(handle)
        return took
