"""How long is each of 250 containers waited for that start at once, beside 250 that run? As `container_up` measures.

And when those 250 stop at the same moment: each of 500 requests, what failed, and what it took in memory.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence

from bench import busy, container_up, figures
from bench.figures import Figure
from bench.filled import filled
from cfbridge.simulator.garden import Guardian


def run(quick: bool) -> list[Figure]:
    containers, policies, crowd, rounds = (4, 40, 12, 1) if quick else (250, 10_000, 250, 2)
    measured = container_up.measure(containers, policies, 1, crowd, rounds)
    names = {
        f"container_up_{crowd}_at_once": "container_up_250",
        f"container_down_{crowd}_at_once": "container_up_250_down",
    }
    found = {figure.name: figure for figure in asyncio.run(measured)}
    alone = [Figure(name, *_rest(found[had])) for had, name in names.items()]
    return [*alone, *asyncio.run(_swap(containers, policies, 2 * rounds))]


def _rest(figure: Figure) -> tuple[float, str, float | None, str, str]:
    return figure.value, figure.unit, figure.ratio, figure.to, figure.note


async def _swap(containers: int, policies: int, rounds: int) -> list[Figure]:
    """All that run stop while as many start, again and again."""
    async with filled(containers, policies) as box, Guardian(container_up.NO_OP[0], container_up.NO_OP[1:]) as idle:
        guardians = {"real": box.diego.guardian, "idle": idle}
        present = {name: [f"stands-{number}" for number in range(containers)] for name in guardians}
        await container_up.up(idle, present["idle"])
        gc.collect()
        gc.freeze()  # what fills the cell is no load of Guardian's
        seconds: dict[str, list[float]] = {name: [] for name in guardians}
        failed = 0
        for round_ in range(rounds):
            for name, guardian in guardians.items():
                coming = [f"swap-{round_}-{number}" for number in range(containers)]
                took, errors = await _at_once(guardian, coming, present[name])
                seconds[name].append(took / (2 * containers))
                failed += errors
                present[name] = coming
        resident = {process: figures.most_resident(box.pid(process)) for process in ("bridge", "agent")}
    each, floor = (1000 * min(seconds[name]) for name in ("real", "idle"))
    said = f"{containers} start and {containers} stop, best of {rounds}, worst {1000 * max(seconds['real']):.1f}"
    return [
        Figure("container_up_250_and_down", each, "ms each", each / floor, "no-op networker", said),
        Figure("container_up_250_and_down_errors", failed, "requests", note=f"of {4 * containers * rounds}"),
        Figure(
            "container_up_250_bridge", resident["bridge"], "MiB", resident["bridge"] / 400, "reach 400 MiB", "at most"
        ),
        Figure("container_up_250_agent", resident["agent"], "MiB", resident["agent"] / 100, "reach 100 MiB", "at most"),
    ]


async def _at_once(guardian: Guardian, coming: Sequence[str], going: Sequence[str]) -> tuple[float, int]:
    """(seconds until all are answered, how many of them by an error)"""
    began = time.perf_counter()
    starts = (guardian.create(busy.spec(handle, number)) for number, handle in enumerate(coming))
    answers = await asyncio.gather(*starts, *map(guardian.destroy, going), return_exceptions=True)
    took = time.perf_counter() - began
    return took, sum(isinstance(answer, Exception) for answer in answers)
