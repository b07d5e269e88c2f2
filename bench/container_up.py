"""How long does Guardian wait for a container's network, on a cell with 250 containers and 10,000 policies?

Real networker, agent, bridge on SQLite, linux dataplane; a container is created whole, its namespace included. The
floor is a Guardian whose networker is a python that does nothing, measured in turns with the real one.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence

from bench import busy, figures
from bench.figures import Figure
from bench.filled import filled
from cfbridge.simulator.garden import Guardian

NO_OP = ("/usr/bin/python3", "-I", "-S", "-c", "pass")


def run(quick: bool) -> list[Figure]:
    return asyncio.run(measure(*((4, 40, 3, 8, 1) if quick else (250, 10_000, 25, 100, 3))))


async def measure(containers: int, policies: int, samples: int, crowd: int, rounds: int) -> list[Figure]:
    async with filled(containers, policies) as box, Guardian(NO_OP[0], NO_OP[1:]) as idle:
        real = box.diego.guardian
        gc.collect()
        gc.freeze()  # what fills the cell is no load of Guardian's
        alone: dict[Guardian, list[float]] = {real: [], idle: []}
        for number in range(samples):
            for guardian, seconds in alone.items():
                handle = [f"alone-{number}"]
                seconds.append(await up(guardian, handle))
                await down(guardian, handle)
        networker = [call.seconds for call in real.calls if call.action == "up" and call.handle.startswith("alone-")]
        together: dict[Guardian, list[float]] = {real: [], idle: []}
        gone: dict[Guardian, list[float]] = {real: [], idle: []}
        for number in range(rounds):
            for guardian in together:
                handles = [f"crowd-{number}-{each}" for each in range(crowd)]
                together[guardian].append(await up(guardian, handles) / crowd)
                gone[guardian].append(await down(guardian, handles) / crowd)
    where = f"{containers} containers, {policies} policies"
    one, floor = (1000 * figures.median(alone[guardian]) for guardian in (real, idle))
    said = f"{where}, {samples} samples; reach 120 ms"
    found = [
        Figure("container_up_alone", one, "ms", one / floor, "no-op networker", said),
        Figure("container_up_alone_best", 1000 * min(alone[real]), "ms"),
        Figure("container_up_networker", 1000 * figures.median(networker), "ms", note="of that, the `up` call itself"),
    ]
    for name, of, reach in (("up", together, "; reach 60 ms"), ("down", gone, "")):
        each, floor = (1000 * min(of[guardian]) for guardian in (real, idle))
        said = f"{where}, best of {rounds}, worst {1000 * max(of[real]):.1f}{reach}"
        found.append(
            Figure(f"container_{name}_{crowd}_at_once", each, "ms each", each / floor, "no-op networker", said)
        )
    return found


async def up(guardian: Guardian, handles: Sequence[str]) -> float:
    """Seconds until all of them have their network."""
    began = time.perf_counter()
    await asyncio.gather(*(guardian.create(busy.spec(handle, number)) for number, handle in enumerate(handles)))
    return time.perf_counter() - began


async def down(guardian: Guardian, handles: Sequence[str]) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(guardian.destroy(handle) for handle in handles))
    return time.perf_counter() - began
