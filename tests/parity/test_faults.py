"""Does the parity runner find what is broken, and nothing where nothing is? With real packets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.parity import plays, runner
from tests.parity.faults import FAULTS, Fault
from tests.parity.plays import OnLinux

pytestmark = pytest.mark.packets
SEED, WORLDS, FRESH, AT_MOST, PACKETS = 1, 60, 440, 80, 40
"""No fault: no disagreement in these worlds. So one that is seen with a fault is seen because of it."""


@contextmanager
def stage() -> Iterator[OnLinux]:
    player = OnLinux()
    try:
        yield player
    finally:
        player.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("seed", "worlds"), [(SEED, WORLDS), (None, FRESH)], ids=["a known seed", "a fresh seed"])
def test_kernel_and_oracle_agree_about_five_hundred_worlds(seed: int | None, worlds: int) -> None:
    seed = plays.random_seed() if seed is None else seed
    print(f"seed {seed}")
    with stage() as player:
        outcome = runner.run(player, seed, worlds)
    assert outcome.worlds == worlds
    assert outcome.packets > 20 * worlds
    assert outcome.disagreements == 0, "\n".join([f"seed {seed}", *outcome.said])


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_planted_fault_is_found_within_these_worlds(fault: Fault) -> None:
    worlds = [number for number in range(AT_MOST) if fault.shows == "at once" or runner.made(SEED, number, 1).changed]
    for number in worlds:
        runner.made(SEED, number, PACKETS)  # remembered: a broken compiler would aim at other places
    with fault.plant(), stage() as player:
        found = any(runner.run(player, SEED, 1, PACKETS, first=number, stop_at=1).disagreements for number in worlds)
    assert found, f"nobody noticed that {fault.breaks}"
