"""What becomes of a foundation when one of its daemons dies at this very point? One storm, one death, one judgement.

serving    armed when all was whole; it dies somewhere in the storm
starting   killed early in the storm, and armed for its way back: it dies while it adopts what is there
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from cfbridge.demo.installation import until
from cfbridge.simulator.garden import GardenError
from cfbridge.simulator.probe import ProbeFailed
from egress.values import Unavailable
from tests.faults import judge
from tests.faults.judge import Logs
from tests.faults.launcher import Arm
from tests.faults.points import ROLES, SERVING, STARTING, Point
from tests.faults.storm import PATIENCE_SECONDS, FaultyBox, Steady, Storm
from tests.scenarios.stage import known_app, spec, start, verdict

POLL_SECONDS = 0.02
STATE_SECONDS = 15.0
"""Until lists agree: what the bridge was not told at once is said again every five seconds."""


@dataclass
class Outcome:
    hit: bool = False
    recovered_seconds: float = 0.0
    """From the last death until agent and bridge agree, status is ok and a new `up` was answered."""
    seconds: float = 0.0
    sent: int = 0
    """Refused packets, meanwhile."""
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Way:
    """What else happens in a storm: the only way to some points."""

    flush: bool = False
    """Somebody deletes our table."""
    lost_store: bool = False
    """The bridge's store is gone when it comes back."""


PLAIN = Way()


@dataclass
class Stage:
    """A box that lives through many rounds."""

    box: FaultyBox
    steady: Steady
    logs: Logs
    recovery_seconds: float
    number: int = 0
    last: Storm | None = None

    @classmethod
    async def open(cls, box: FaultyBox, recovery_seconds: float) -> Stage:
        steady = await Steady.begin(box)
        await known_app(box, "acme", "dev", "fresh")
        for role in ROLES:
            box.arm(role, Arm(SERVING))
        return cls(box, steady, Logs(box), recovery_seconds)

    async def round(
        self, targets: Sequence[Point] = (), passing: int = 1, way: Way = PLAIN, *, kill: str = "", seed: object = 0
    ) -> Outcome:
        """`targets`: of one role and phase; it dies at whichever it comes by first.

        `kill`: this one is killed early in the storm, wherever it is; the way to every point of its start.
        """
        began, outcome, rng = time.monotonic(), Outcome(), random.Random(f"{seed}")
        self.number += 1
        storm = Storm(self.steady, self.number, way.flush, left=dict(self.last.here) if self.last else {})
        for role in ROLES:
            self.box.seen[role].forget()
        sent, self.last = self.steady.sent(), storm
        role = targets[0].role if targets else kill
        names = tuple(point.name for point in targets)
        again = [Arm(STARTING)]
        if targets and targets[0].phase == SERVING:
            self.box.arm(role, Arm(SERVING, names, passing))
        elif targets:
            kill = role
            again.insert(0, Arm(STARTING, names, passing))
        deaths = _Deaths(self, role, again, way, outcome)
        watching = asyncio.create_task(deaths.watch()) if role else None
        killing = asyncio.create_task(self._kill(kill, rng.uniform(0.05, 0.6))) if kill else None
        try:
            await storm.run()
            if killing is not None:
                await killing
            await storm.changed(PATIENCE_SECONDS)
            await storm.visit()
            for each in ROLES:  # from here on nobody dies
                self.box.arm(each, Arm(SERVING))
            await asyncio.sleep(3 * POLL_SECONDS)
            await self._whole(storm, deaths, outcome)
            outcome.wrong += storm.faults
            outcome.wrong += await judge.packets(self.steady, self.number)
            outcome.wrong += await judge.state(storm, STATE_SECONDS)
        except (TimeoutError, AssertionError, GardenError, ProbeFailed) as failed:
            outcome.wrong += [*storm.faults, *f"{failed} {getattr(failed, 'stderr', '')}"[:500].splitlines()]
        finally:
            for task in (*([watching] if watching else []), *deaths.recoveries):
                task.cancel()
                for bug in await asyncio.gather(task, return_exceptions=True):
                    if isinstance(bug, Exception) and not outcome.wrong:
                        raise bug
        for each in ROLES:
            if self.box.ended().get(each) is not None:
                outcome.wrong.append(f"the {each} ended by itself: {self.box.ended().get(each)}")
            self.box.seen[each].read()
        outcome.wrong += self.logs.wrong()
        outcome.hit = bool(targets) and not set(names).isdisjoint(self.box.seen[role].died_at)
        outcome.sent = self.steady.sent() - sent
        outcome.seconds = time.monotonic() - began
        if outcome.sent < 100 * outcome.seconds:
            outcome.wrong.append(f"only {outcome.sent} refused packets were sent: nothing was tested")
        return outcome

    async def _kill(self, role: str, after_seconds: float) -> None:
        await asyncio.sleep(after_seconds)
        self.box.strike(role)

    async def _whole(self, storm: Storm, deaths: _Deaths, outcome: Outcome) -> None:
        if not await until(deaths.over, PATIENCE_SECONDS, POLL_SECONDS):
            raise TimeoutError(f"not whole in {PATIENCE_SECONDS:g} s: {await deaths.why()}")
        outcome.wrong += self.logs.wrong(adopting=deaths.died_at > 0 or storm.flush)
        outcome.recovered_seconds = deaths.recovered_seconds
        if deaths.recovered_seconds > self.recovery_seconds:
            outcome.wrong.append(f"whole again only after {deaths.recovered_seconds:.1f} s")


class _Deaths:
    """Starts again whoever died, as a supervisor does, and sees when all is whole again."""

    def __init__(self, stage: Stage, role: str, again: list[Arm], way: Way, outcome: Outcome) -> None:
        self._box, self._stage, self._role, self._again, self._outcome = stage.box, stage, role, again, outcome
        self._way = way
        self.died_at = 0.0
        self.recovered_seconds = 0.0
        self.recoveries: list[asyncio.Task[None]] = []

    async def watch(self) -> None:
        while True:
            if (status := self._box.ended().get(self._role)) is not None:
                if status != -signal.SIGKILL:
                    self._outcome.wrong.append(f"the {self._role} ended with {status}")
                self._box.arm(self._role, self._again.pop(0) if len(self._again) > 1 else self._again[0])
                if self._way.lost_store and not self.died_at:
                    self._box.lose_store()
                self._box.start_again(self._role)
                self.died_at = time.monotonic()
                self.recoveries.append(asyncio.create_task(self._recover(self.died_at)))
                if not self._way.flush and not await self._stage.steady.streams_live():
                    self._outcome.wrong.append("a stream stood still while nobody was there")
            await asyncio.sleep(POLL_SECONDS)

    async def over(self) -> bool:
        if not all(task.done() for task in self.recoveries):
            return False
        for task in self.recoveries:
            task.result()  # raises what kept it from that
        return True

    async def why(self) -> str:
        return await verdict(self._box)

    async def _recover(self, died_at: float) -> None:
        """Never cancelled half-way: its container would be nobody's. Whose daemon dies again leaves it to the next."""
        while not (await self._agreed() and await verdict(self._box) == "ok"):
            await asyncio.sleep(0.2)
        if died_at != self.died_at:
            return
        agreed, guardian = time.monotonic(), self._box.diego.guardian
        try:
            fresh = await start(self._box, spec(self._box, "fresh"))
        except GardenError:
            if died_at != self.died_at:
                return
            raise
        # Without what the kernel needs for a namespace, while it clears away those of whole storms.
        answered = next(call.seconds for call in guardian.calls if (call.action, call.handle) == ("up", fresh.handle))
        if died_at == self.died_at:
            self.recovered_seconds = agreed - died_at + answered
        await guardian.destroy(fresh.handle)

    async def _agreed(self) -> bool:
        try:
            cells = await self._box.api("cells")
        except (OSError, KeyError, Unavailable):
            return False
        return bool(cells) and all(cell["connected"] and cell["reached_revision"] for cell in cells)
