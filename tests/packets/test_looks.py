"""What does a whole look do between a container's end and the next change? It brings nobody back."""

from __future__ import annotations

import asyncio

import pytest

from garden_plugin.dataplane.cell import device_name
from tests.packets.cell import Cell, cell

__all__ = ["cell"]
pytestmark = pytest.mark.packets

A, B = "10.240.1.5", "10.240.1.6"


async def test_a_look_right_after_a_down_does_not_bring_its_container_back(cell: Cell) -> None:
    cell.container("a", A)
    cell.container("b", B)
    await cell.converge()
    await cell.dataplane.detach([cell.local.ports["cf:a"]])
    cell.lab.cell.run("ip", "route", "del", f"{B}/32", "table", "7712")
    for _ in range(300):
        if cell.drifts:
            break
        await asyncio.sleep(0.01)
    assert cell.drifts
    assert device_name("a") not in cell.lab.cell.run("ip", "-o", "link")
    assert A not in cell.lab.cell.run("nft", "list", "set", "inet", "cfbridge", "workload4")
    assert f"{B} dev" in cell.lab.cell.run("ip", "route", "show", "table", "7712")
