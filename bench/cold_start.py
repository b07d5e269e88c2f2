"""How soon does a bridge that knows nothing rule a large foundation? 5,000 apps, 250 of them on the cell, and 20,000
policies, all among those 250: nothing may be left out.

From the start of both processes on a new store until the cell says that it reached a complete picture. The floor is
a python that imports what the bridge imports, and ends.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

from bench import figures
from bench.figures import Figure
from cfbridge.client import AdminClient
from cfbridge.demo.box import Box
from cfbridge.demo.installation import until
from cfbridge.simulator import control
from cfbridge.simulator.policy_table import PolicyKey
from egress.values import Unavailable

_FLOOR = (sys.executable, "-c", "import cfbridge.bridge, cfbridge.commands.daemons")


def run(quick: bool) -> list[Figure]:
    return asyncio.run(_measure(*((20, 40, 3) if quick else (5_000, 20_000, 250))))


async def _measure(apps: int, policies: int, containers: int) -> list[Figure]:
    async with Box(log_level="warning") as box:
        state = box.foundation.state
        for number in range(apps):
            org, space = f"org-{number % 50}", f"space-{number % 200}"
            body = {"org": org, "space": space, "name": f"app-{number}", "instances": int(number < containers)}
            control.push(state, body)
        guids = [app.guid for app in state.apps.values()]
        chance = random.Random(7)
        state.policies.create(
            PolicyKey(*chance.sample(guids[:containers], 2), "tcp", 20_000 + number, 20_000 + number)
            for number in range(policies)
        )
        await box.settled()
        for name in ("agent", "bridge"):
            box.kill(name)
        for left in box.directory.glob("state.db*"):
            left.unlink()
        began = time.perf_counter()
        box.start_bridge()
        box.start_agent()
        if not await until(lambda: _rules(box, policies), 300):
            raise RuntimeError(f"not there after 300 s:\n{box.log('bridge')[-2000:]}")
        took = time.perf_counter() - began
        resident = {name: figures.most_resident(box.pid(name)) for name in ("bridge", "agent")}
    began = time.perf_counter()
    floor = await asyncio.create_subprocess_exec(*_FLOOR)
    await floor.wait()
    imports = time.perf_counter() - began
    where = f"{apps} apps, {policies} policies, {containers} containers"
    return [
        Figure("cold_start", took, "s", took / imports, "its imports alone", f"{where}; reach 20 s"),
        Figure("cold_start_bridge", resident["bridge"], "MiB", resident["bridge"] / 400, "reach 400 MiB", "at most"),
        Figure("cold_start_agent", resident["agent"], "MiB", resident["agent"] / 100, "reach 100 MiB", "at most"),
    ]


async def _rules(box: Box, policies: int) -> bool:
    """The bridge has read and compiled all of it, and the cell enforces that."""
    try:
        async with AdminClient.local(str(box.directory / "api.sock"), attempts=1) as client:
            said = await client.status()
            (cell,) = [cell async for cell in client.list("cells")]
            return said.verdict == "ok" and said.rules >= policies and cell.reached_revision >= said.revision > 0
    except (OSError, Unavailable, ValueError):  # not there yet
        return False
