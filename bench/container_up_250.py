"""How long is each of 250 containers waited for that start at once, beside 250 that run? As `container_up` measures."""

from __future__ import annotations

import asyncio

from bench import container_up
from bench.figures import Figure


def run(quick: bool) -> list[Figure]:
    measured = container_up.measure(*((4, 40, 1, 12, 1) if quick else (250, 10_000, 1, 250, 2)))
    names = {"container_up_12_at_once" if quick else "container_up_250_at_once": "container_up_250"}
    names["container_down_12_at_once" if quick else "container_down_250_at_once"] = "container_up_250_down"
    found = {figure.name: figure for figure in asyncio.run(measured)}
    return [Figure(name, *_rest(found[had])) for had, name in names.items()]


def _rest(figure: Figure) -> tuple[float, str, float | None, str, str]:
    return figure.value, figure.unit, figure.ratio, figure.to, figure.note
