"""How many worlds agree? Makes them from a seed, plays them, shrinks what disagrees, says it in words, counts.

python -m tests.parity --dataplane linux --worlds 200 --seed 7 [--first 41]
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from policy_sync import verdict
from policy_sync.model import Packet, World
from tests.parity import changes, plays, saying, worlds
from tests.parity.coverage import Coverage
from tests.parity.plays import Disagreement, InMemory, OnLinux, Play

_TELLING = 5_000
"""Of so many packets on, it must have been met often enough what decides."""
_SHOWN = 5
"""Disagreements are shrunk and said; after so many the others are only counted."""


class Player(Protocol):
    followed: Counter[str]

    def play(self, play: Play) -> list[Disagreement]: ...
    def close(self) -> None: ...


PLAYERS: Mapping[str, Callable[[], Player]] = {"memory": InMemory, "linux": OnLinux}


@dataclass(slots=True)
class Outcome:
    worlds: int = 0
    packets: int = 0
    disagreements: int = 0
    seconds: float = 0.0
    coverage: Coverage = field(default_factory=Coverage)
    followed: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, object]:
        return {
            "worlds": self.worlds,
            "packets": self.packets,
            "disagreements": self.disagreements,
            "seconds": round(self.seconds, 2),
            "coverage": self.coverage.shares(),
            **{name.replace(" ", "_"): number for name, number in sorted(self.followed.items())},
        }


@functools.lru_cache(maxsize=256)
def made(seed: int, number: int, packets: int) -> Play:
    """World `number` of a seed: always the same, whichever came before."""
    rng = random.Random(f"{seed}:{number}")
    world = worlds.random_world(rng)
    sent = _sendable(world, worlds.random_packets(rng, world, packets))
    if number % 2:
        return Play(world, sent)
    changed = changes.random_change(rng, world, sent)
    return Play(world, sent, changed, _sendable(changed, worlds.random_packets(rng, changed, packets // 2)))


def _sendable(world: World, packets: Sequence[Packet]) -> tuple[Packet, ...]:
    return tuple(each for each in packets if worlds.passes_us(world, each))


def run(
    player: Player,
    seed: int,
    count: int,
    packets: int = 40,
    first: int = 0,
    say: Callable[[str], None] = print,
    stop_at: int | None = None,
) -> Outcome:
    """`stop_at`: so many disagreements are enough."""
    outcome = Outcome(followed=player.followed)
    began = time.monotonic()
    for number in range(first, first + count):
        play = made(seed, number, packets)
        found = player.play(play)
        _count(outcome, play)
        outcome.disagreements += len(found)
        if stop_at is not None and outcome.disagreements >= stop_at:
            break
        for each in found[: max(0, _SHOWN - len(outcome.said))]:
            outcome.said.append(_said(player, play, each, seed, number))
            say(outcome.said[-1])
    outcome.seconds = time.monotonic() - began
    return outcome


def _count(outcome: Outcome, play: Play) -> None:
    outcome.worlds += 1
    for world, packets in ((play.world, play.packets), (play.changed or play.world, play.later)):
        ids = worlds.numbered(world)
        outcome.coverage.add(world, packets, functools.partial(plays.judged, world, ids=ids), ids)
        outcome.packets += len(packets)


def _said(player: Player, play: Play, found: Disagreement, seed: int, number: int) -> str:
    again = f"seed {seed}, world {number}: --seed {seed} --first {number} --worlds 1"
    one = replace(play, packets=(found.packet,), later=(found.packet,) if play.changed else ())
    if not found.after:
        one = replace(one, changed=None, later=())

    def still(candidate: Play) -> bool:
        return any(each.packet == found.packet and each.after == found.after for each in player.play(candidate))

    if not still(one):
        one, again = play, f"{again} (only with all its packets)"
        if not still(one):
            again = f"seed {seed}, world {number}: it did not come again; perhaps it needs the world before"
    else:
        one = replace(one, world=saying.shrink(one.world, found.packet, lambda w, _: still(replace(one, world=w))))
        if one.changed is not None:
            small = saying.shrink(one.changed, found.packet, lambda w, _: still(replace(one, changed=w)))
            one = replace(one, changed=small)
    world = one.changed if found.after and one.changed is not None else one.world
    expected = verdict.verdict(world, found.packet, worlds.numbered(world))
    if found.expected.rule.startswith("nobody"):
        expected = found.expected
    said = f"DISAGREEMENT ({again})\n{saying.in_words(world, found.packet, expected, found.seen)}"
    if found.after:
        said += "\n  after it was connected in, or followed on,\n" + saying.in_words(
            one.world, found.packet, verdict.verdict(one.world, found.packet), "that"
        )
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.parity", description="The oracle against dataplanes.")
    parser.add_argument("--dataplane", choices=(*PLAYERS, "both"), default="both")
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--packets", type=int, default=40, help="per world")
    parser.add_argument("--seed", type=int, help="default: a fresh one")
    parser.add_argument("--first", type=int, default=0, help="number of the first world")
    asked = parser.parse_args(arguments)
    seed = plays.random_seed() if asked.seed is None else asked.seed
    print(f"seed {seed}", flush=True)
    whole = Outcome()
    for name in PLAYERS if asked.dataplane == "both" else (asked.dataplane,):
        player = PLAYERS[name]()
        try:
            part = run(player, seed, asked.worlds, asked.packets, asked.first)
        finally:
            player.close()
        print(f"{name}: {part.worlds} worlds, {part.disagreements} disagreements, {part.seconds:.1f} s", flush=True)
        whole.worlds += part.worlds
        whole.packets += part.packets
        whole.disagreements += part.disagreements
        whole.seconds += part.seconds
        whole.coverage += part.coverage
        whole.followed += part.followed
    print(json.dumps({**whole.summary(), "seed": seed, "dataplane": asked.dataplane}))
    lacking = whole.coverage.lacking() if whole.packets >= _TELLING else []
    for each in lacking:
        print(f"MET TOO SELDOM {each}")
    return 1 if whole.disagreements or lacking else 0
