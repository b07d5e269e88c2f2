"""Does everything survive a death at any point? Finds the points as it goes, dies at each, and counts.

    python -m tests.faults --minutes 60 --seed 7 [--only agent] [--point agent:serving:0a1b2c3d4e@3] [--json]

First storms without an armed death show what points there are; every later storm adds those that only it has met. A
point that was not met in its storm is tried again, at its first passing, up to three times. When time is short the
points that are left are named by number: their order is drawn by the seed, so that none is favoured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import points
from tests.faults.points import ROLES, Point
from tests.faults.rounds import PLAIN, Stage, Way
from tests.faults.seams import ROOT
from tests.faults.storm import FaultyBox

ATTEMPTS = 3
RECOVERY_SECONDS = 10.0
FLUSHED, LOST = Way(flush=True), Way(lost_store=True)
_MOST_PASSINGS = 40


@dataclass
class Tally:
    known: dict[str, Point] = field(default_factory=dict)
    hit: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """Point → how to see it again."""
    rounds: int = 0
    sent: int = 0
    slowest: float = 0.0
    recoveries: list[float] = field(default_factory=list)
    passings: Counter[str] = field(default_factory=Counter)
    """At most, in one storm."""
    left: int = 0
    """Points for which there was no time."""
    seconds: float = 0.0

    def missed(self) -> list[Point]:
        return [point for id_, point in self.known.items() if id_ not in self.hit]

    def never_reached(self) -> list[points.Site]:
        """What stands in the source, and no storm has come by."""
        paths = [point.path for point in self.known.values()]
        return [site for site in points.sites() if not any(site.on(path) for path in paths)]

    def line(self) -> str:
        ordered = sorted(self.recoveries) or [0.0]
        whole = f"whole again after {ordered[len(ordered) // 2]:.1f} s, at most {ordered[-1]:.1f} s"
        rest = f", {self.left} for want of time" if self.left else ""
        return (
            f"hit {len(self.hit)} of {len(self.known)} points{rest}, {len(self.failed)} failed; {self.rounds} storms "
            f"in {self.seconds:.0f} s; {self.sent} refused packets sent; {whole}"
        )


class Run:
    def __init__(self, seed: int, recovery_seconds: float, only: str = "", say: Callable[[str], None] = print) -> None:
        self._seed, self._recovery_seconds, self._only, self._say = seed, recovery_seconds, only, say
        self._rng = random.Random(seed)
        self._todo: deque[tuple[Point, int]] = deque()
        """(point, attempts so far)"""
        self._alone = False
        """Only points that were asked for."""
        self._ways: dict[str, Way] = {}
        """Of the storm in which a point was met first."""
        self.tally = Tally()

    async def all(self, minutes: float, asked: Sequence[tuple[str, int]] = ()) -> Tally:
        """`asked`: these alone, each as often as it is named."""
        began = time.monotonic()
        wanted, self._alone = deque(asked), bool(asked)
        explored = deque([("", PLAIN), *((role, PLAIN) for role in ROLES), *(("", FLUSHED), ("bridge", LOST))])
        while True:
            async with FaultyBox() as box:
                stage = await Stage.open(box, self._recovery_seconds)
                healthy = True
                while healthy and time.monotonic() - began < 60 * minutes:
                    if explored:
                        kill, way = explored.popleft()
                        healthy = await self._play(stage, None, way=way, kill=kill)
                    elif wanted:
                        id_, passing = wanted.popleft()
                        point = self.tally.known.get(id_) or Point(*id_.split(":"))
                        healthy = await self._play(stage, point, passing)
                    elif self._todo and not asked:
                        point, attempts = self._todo.popleft()
                        healthy = await self._play(stage, point, self._passing(point, attempts), attempts)
                    else:
                        break
            if healthy:
                break
        self.tally.left = len([each for each in self._todo if each[1] < ATTEMPTS and not asked])
        self.tally.seconds = time.monotonic() - began
        return self.tally

    def _passing(self, point: Point, attempts: int) -> int:
        most = min(self.tally.passings[point.id], _MOST_PASSINGS)
        return 1 if attempts else self._rng.randint(1, max(1, most // 2))  # storms differ: not all pass it so often

    async def _play(
        self,
        stage: Stage,
        point: Point | None,
        passing: int = 1,
        attempts: int = 0,
        *,
        way: Way = PLAIN,
        kill: str = "",
    ) -> bool:
        """Whether the box is as good as before."""
        tally = self.tally
        way = self._ways.get(point.id, PLAIN) if point else way
        outcome = await stage.round(
            [point] if point else (), passing, way, kill=kill, seed=f"{self._seed}:{point and point.id}"
        )
        tally.rounds += 1
        tally.sent += outcome.sent
        self._learn(stage, way)
        if outcome.recovered_seconds:
            tally.recoveries.append(outcome.recovered_seconds)
        again = f"{point.id}@{passing}" if point else f"a storm, with a plain kill of the {kill}" if kill else "a storm"
        if outcome.hit and point is not None:
            tally.hit.add(point.id)
        elif point is not None and self._alone:
            self._say(f"NOT HIT --point {again}: nobody came by")
        elif point is not None and attempts + 1 < ATTEMPTS:
            self._todo.append((point, attempts + 1))
        if outcome.wrong:
            tally.failed[again] = "; ".join(outcome.wrong)
            self._say(f"FAILED --seed {self._seed} --point {again}\n  {point or 'nobody was armed'}")
            for each in outcome.wrong:
                self._say(f"  {each}")
            self._say(f"  logs: {self._keep_logs(stage, again)}")
            return False
        return True

    def _learn(self, stage: Stage, way: Way) -> None:
        new = []
        for role, seen in stage.box.seen.items():
            for point in seen.points.values():
                passed = seen.passed[point.name]
                self.tally.passings[point.id] = max(self.tally.passings[point.id], passed)
                if point.id not in self.tally.known and f"{role}:{point.phase}".startswith(self._only):
                    if point.phase == points.STARTING and not self._is_met_again(stage, point):
                        continue
                    self.tally.known[point.id], self._ways[point.id] = point, way
                    new.append((point, 0))
        self._rng.shuffle(new)
        self._todo.extend(new)

    @staticmethod
    def _keep_logs(stage: Stage, name: str) -> Path:
        kept = ROOT / ".run" / "faults" / re.sub(r"[^\w@]+", "-", name)
        kept.mkdir(parents=True, exist_ok=True)
        for role in ROLES:
            (kept / f"{role}.log").write_text(stage.box.log(role))
        return kept

    @staticmethod
    def _is_met_again(stage: Stage, point: Point) -> bool:
        """The very first start of all is not what comes after a death: a box has only one."""
        return stage.box.seen[point.role].passed[point.name] > 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.faults", description="Bridge and agent die at every point.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="default: a fresh one")
    parser.add_argument("--only", default="", metavar="ROLE[:PHASE]", help="agent, bridge, agent:starting, …")
    parser.add_argument("--point", action="append", default=[], metavar="ID@PASSING", help="these alone")
    parser.add_argument("--within", type=float, default=RECOVERY_SECONDS, help="seconds until all is whole again")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    asked = parse(arguments)
    seed = random.SystemRandom().randrange(1 << 31) if asked.seed is None else asked.seed
    print(f"seed {seed}", file=sys.stderr if asked.json else sys.stdout, flush=True)
    named = [(id_, int(passing or 1)) for id_, _, passing in (each.partition("@") for each in asked.point)]
    run = Run(seed, asked.within, asked.only, lambda said: print(said, file=sys.stderr, flush=True))
    tally = asyncio.run(run.all(asked.minutes, named))
    for point in tally.missed() if not named and not tally.left else ():
        print(f"NOT HIT {point.id}  {point}", file=sys.stderr)
    sites = tally.never_reached() if not named and not asked.only else []
    for site in sites:
        print(f"NEVER REACHED {site}  ({points.ELSEWHERE.get(str(site), 'no reason is known')})", file=sys.stderr)
    if asked.json:
        print(
            json.dumps(
                {
                    "known": len(tally.known),
                    "hit": len(tally.hit),
                    "failed": tally.failed,
                    "left": tally.left,
                    "storms": tally.rounds,
                    "sent": tally.sent,
                    "slowest_seconds": max(tally.recoveries, default=0.0),
                    "never_reached": [str(site) for site in sites],
                    "seconds": tally.seconds,
                }
            )
        )
    else:
        print(tally.line())
    unhit = not tally.hit if named else tally.missed() and not tally.left
    return 1 if tally.failed or unhit else 0
