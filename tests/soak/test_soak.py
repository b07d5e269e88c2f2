"""Does a short soak end well, and would it see what goes wrong? With real packets, in one box, act by act."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from cfbridge.demo.box import Box
from tests.soak import leaks, runner
from tests.soak.soak import Plan, Soak

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]
SHORT = Plan(
    seed=7,
    seconds=15,
    containers=12,
    flows=40,
    streams=10,
    policies=6,
    deed_every=0.5,
    disturb_every=3,
    memory_judged=False,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def soak() -> AsyncIterator[Soak]:
    async with Box(looks={"sweep_seconds": 10.0}) as box:
        made = Soak(SHORT, box, print)
        try:
            await made.begin()
            yield made
        finally:
            await made.deeds.end_visits()
            made.close()


async def test_in_a_short_soak_nothing_passes_is_cut_is_refused_or_leaks(soak: Soak) -> None:
    await soak.play(SHORT.seconds)
    said = runner.summary(soak.report)
    assert said["failures"] == []
    assert (said["wrongly_passed"], said["wrongly_cut"], said["leaked"]) == (0, 0, 0)
    assert sum(said["actions"].values()) > 10
    assert said["disturbances"]
    assert said["probes"]["datagram refused"] > 500


@pytest.mark.timeout(300)  # longer than the soak's own patience, so that it says what is left
async def test_a_short_soak_leaves_nothing_behind(soak: Soak) -> None:
    await soak.end()
    assert soak.report.leaked == []


async def test_a_soak_sees_what_passes_what_is_cut_and_what_leaks(soak: Soak) -> None:
    """The agent is stopped meanwhile, since it would undo all of it in a moment; and nobody else does anything."""
    soak.plan = replace(SHORT, deed_every=1000, disturb_every=1000)
    await soak.deeds.populate()
    playing = asyncio.create_task(soak.play(600))
    counts = soak.judge.counts
    try:
        while len(soak.streams.alive) < 5 or not soak.flows.arrived:
            await asyncio.sleep(0.1)
        os.kill(soak.box.pid("agent"), signal.SIGSTOP)
        for command in (
            "conntrack -F",
            "nft insert rule inet cfbridge forward meta l4proto udp accept",
            "ip route add blackhole 10.240.99.9/32 table 7712",
        ):
            await asyncio.to_thread(soak.box.lab.cell.run, *command.split())
        async with asyncio.timeout(60):
            while not (counts["wrongly_passed"] and counts["wrongly_cut"]):
                await asyncio.sleep(5.0)
                # Those of before may have ended by themselves before anybody could tell.
                await asyncio.to_thread(soak.box.lab.cell.run, "conntrack", "-F")
    finally:
        os.kill(soak.box.pid("agent"), signal.SIGCONT)
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
    leaked = leaks.surplus(await leaks.see(soak.box), leaks.required(soak.box))
    assert "route 10.240.99.9" in leaked
    assert runner.failures(soak.report)
