"""What does a soak do, from the first push to the last container's end?

warm up ─> deeds, disturbances, traffic, judged all the while; a quiet moment every few minutes ─> all go ─> left over?

Bridge and agent die in the first part of it only: a process that is to be seen growing has to live.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cfbridge.demo.box import Box
from cfbridge.demo.installation import until
from cfbridge.simulator import lab
from cfbridge.simulator.garden import Call
from egress.values import Unavailable
from tests.soak import leaks, population
from tests.soak.deeds import MODES, ORGS, SPACES, Deeds
from tests.soak.disturbances import HELD, Disturbances, alarms, said
from tests.soak.flows import Flows
from tests.soak.judge import Judge
from tests.soak.leaks import Required, Seen
from tests.soak.memory import Memory, held
from tests.soak.places import Places
from tests.soak.population import Population
from tests.soak.streams import Streams
from tests.soak.truth import Orders, Truth, platform
from tests.soak.ways import Ways

POOLS = ("10.240.0.0/14", "172.20.0.0/16")
SETTLE_SECONDS = {"policies": 3.0, "groups": 14.0, "orders": 3.0, "names": 5.0}
"""How long after a change the old may still be met: the looks' own pauses, a machine that is busy, and the ten seconds
that what a security group lost stays."""
QUIET_SECONDS = 60.0
GONE_SECONDS = 150.0
"""Until the last of all is gone at the end, which is a withdrawal of much."""
DEADLY_SHARE = 0.6
"""Of the time: later nobody dies, so that the last third shows grown processes."""
SAMPLE_SECONDS = 5.0
TICK_SECONDS, LATE_SECONDS = 0.3, 1.0
"""A loop that is later than that excuses what it did not hear in time; how long it was late is reported."""


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    seconds: float
    containers: int = 32
    flows: int = 60
    streams: int = 20
    policies: int = 60
    datagrams_per_second: float = 200.0
    deed_every: float = 0.8
    disturb_every: float = 12.0
    quiet_every: float = 180.0
    memory_judged: bool = True


@dataclass
class Report:
    plan: Plan
    judge: Judge | None = None
    leaked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What else is not as it should be."""
    figures: dict[str, Any] = field(default_factory=dict)


class Soak:
    def __init__(self, plan: Plan, box: Box, say: Callable[[str], None]) -> None:
        self.plan, self.box, self._say = plan, box, say
        state = box.foundation.state
        orgs = {name: state.org_named(name) or state.create_org(name) for name in ORGS}
        for org in orgs.values():
            for space in SPACES:
                state.space_named(org.guid, space) or state.create_space(org.guid, space)
        vm = population.machine(orgs[population.MACHINE_ORG].guid)
        cell = (lab.CELL, lab.DNS)
        self.truth = Truth(SETTLE_SECONDS, pools=POOLS, cell_addresses=cell, platform=platform(POOLS), bystanders=(vm,))
        self.judge = Judge(self.truth, say=say)
        self.people = Population(box, self.truth, vm)
        self.places = Places()
        self.deeds = Deeds(self.people, random.Random(f"{plan.seed} deeds"), plan.containers, plan.policies)
        self.disturbances = Disturbances(box, self.people, self.judge, random.Random(f"{plan.seed} disturbances"))
        self.ways = Ways(self.people, self.truth, random.Random(f"{plan.seed} ways"))
        self.streams = Streams(self.judge, self.places, self.people.stands)
        self.flows = Flows(
            self.judge, self.places, self.people.stands, self.ways.datagram, plan.flows, plan.datagrams_per_second
        )
        self.deeds.used = self.streams.between
        self.memory = Memory(self._pid)
        self.report = Report(plan, self.judge)
        self._holds, self._holding = contextlib.ExitStack(), False
        self._connects = 0
        self._slept = 0.0
        self._before = Seen()
        self._held_before: dict[str, dict[str, int]] = {}

    async def run(self) -> Report:
        began = time.monotonic()
        try:
            await self.begin()
            await self.play(self.plan.seconds)
            await self.end()
        finally:
            self.close()
        self.report.figures["seconds"] = round(time.monotonic() - began, 1)
        return self.report

    async def begin(self) -> None:
        """One container of each org comes and goes, since what an org holds for good is no leak; then all come."""
        for prefix in POOLS:
            self.box.lab.announce(prefix)
        self.people.write(Orders(), **MODES)
        self.deeds.containers_wanted = self.deeds.policies_wanted = 0
        await self.deeds.populate()
        await self._until_quiet("the first containers")
        await self.deeds.depopulate()
        await self._until_quiet("nobody")
        self.box.kill("agent")  # it says which addresses the cell has when it starts, and orgs brought some
        self.box.start_agent()
        await self._until_quiet("nobody")
        self._before = await leaks.see(self.box)
        self.report.leaked += [f"at the start: {each}" for each in leaks.surplus(self._before, Required())]
        self._held_before = self._held()
        self.deeds.containers_wanted, self.deeds.policies_wanted = self.plan.containers, self.plan.policies
        await self.deeds.populate()
        await self._until_quiet("all")

    async def play(self, seconds: float) -> None:
        """Everything at once, with quiet moments."""
        began = time.monotonic()
        ends = began + seconds
        helpers = [
            self._ticking(),
            self._staying_awake(),
            self._sampling(),
            self.flows.run(),
            self._streaming(),
            self._connecting(),
        ]
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each) for each in helpers]
            while time.monotonic() < ends:
                stop = min(ends, time.monotonic() + self.plan.quiet_every)
                await self._busy(stop, began + DEADLY_SHARE * seconds)
                await self._inspect()
            for task in running:
                task.cancel()
        self._sum(began, time.monotonic())

    async def end(self) -> None:
        """All go, and nothing is left of them."""
        await self.deeds.depopulate()
        await self._until_quiet("nobody")
        left: list[str] = []

        async def none() -> bool:
            left[:] = leaks.left_over(self._before, await leaks.see(self.box))
            return not left

        await until(none, GONE_SECONDS, 0.5)
        self.report.leaked += [f"{each} (at the end)" for each in left]
        self.report.figures["held"] = {"before": self._held_before, "after": self._held()}

    def close(self) -> None:
        self.flows.close()
        self.places.close()

    # ---- parts of it

    async def _busy(self, stop: float, deadly_until: float) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._doing(stop))
            tasks.create_task(self._disturbing(stop, deadly_until))

    async def _doing(self, stop: float) -> None:
        pauses = random.Random(f"{self.plan.seed} pauses")
        while time.monotonic() < stop:
            await self.deeds.one()
            await asyncio.sleep(pauses.uniform(0.2, 1.8) * self.plan.deed_every)

    async def _disturbing(self, stop: float, deadly_until: float) -> None:
        pauses = random.Random(f"{self.plan.seed} calm")
        while True:
            calm = pauses.uniform(0.3, 1.7) * self.plan.disturb_every
            if time.monotonic() + calm >= stop:
                return
            await asyncio.sleep(calm)
            self.disturbances.deaths_allowed = time.monotonic() < deadly_until
            await self.disturbances.one()
            self._progress()

    async def _inspect(self) -> None:
        """A quiet moment: nobody changes anything, and what is there is what is needed."""
        if await self._until_quiet("all"):
            found = await self._surplus()
            self.report.leaked += [f"{each} (seen while the others were there)" for each in found]
            self._progress()

    async def _surplus(self) -> list[str]:
        """Asked until there is none: a container may end between two questions."""
        found: list[str] = []

        async def none() -> bool:
            found[:] = leaks.surplus(await leaks.see(self.box), leaks.required(self.box))
            return not found

        await until(none, 10, 0.5)
        return found

    # ---- what goes on meanwhile

    async def _ticking(self) -> None:
        while True:
            asked_at = time.monotonic()
            with contextlib.suppress(OSError, Unavailable):
                self._held_back(HELD in await alarms(self.box))
                self.truth.tick(asked_at)
            self.flows.forget(self.people.gone)
            self._see_who_ended()
            await asyncio.sleep(TICK_SECONDS)

    async def _staying_awake(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            late = time.monotonic() - began - TICK_SECONDS
            if late > LATE_SECONDS:
                self.truth.slept(began, time.monotonic() + LATE_SECONDS)
                self._slept += late

    def _held_back(self, held: bool) -> None:
        """While a withdrawal is held back, what was withdrawn and what was before it both count."""
        if held and not self._holding:
            self._holds.enter_context(self.truth.disturbance("a withdrawal is held"))
            self.disturbances.done["withdrawal held"] += 1
        elif self._holding and not held:
            self._holds.close()
        self._holding = held

    def _see_who_ended(self) -> None:
        for name in self.box.ended():
            self.judge.fault("ended", f"the {name} ended by itself: {self.box.log(name)[-2000:]}")
            self.box.kill(name)
            {"bridge": self.box.start_bridge, "agent": self.box.start_agent}[name]()

    async def _sampling(self) -> None:
        while True:
            self.memory.sample()
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _streaming(self) -> None:
        rng = random.Random(f"{self.plan.seed} streams")
        async with asyncio.TaskGroup() as tasks:
            running: set[asyncio.Task[None]] = set()
            while True:
                if len(running) < self.plan.streams and (way := self.ways.stream()) is not None:
                    push = rng.choice(("client", "server"))
                    task = tasks.create_task(self.streams.run(way, push, rng.uniform(20, 150)))
                    running.add(task)
                    task.add_done_callback(running.discard)
                await asyncio.sleep(0.2)

    async def _connecting(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                if (way := self.ways.connect()) is not None:
                    self._connects += 1
                    tasks.create_task(self.streams.connect(way))
                await asyncio.sleep(0.3)

    # ---- quiet

    async def _until_quiet(self, who: str) -> bool:
        """Diego is done, and bridge and agent are well."""

        async def quiet() -> bool:
            return not await self._unquiet()

        if await until(quiet, QUIET_SECONDS, 0.3):
            return True
        self.report.wrong.append(f"with {who} there it is not quiet in {QUIET_SECONDS:g} s: {await self._unquiet()}")
        return False

    async def _unquiet(self) -> str:
        """What still goes on."""
        try:
            await asyncio.wait_for(self.box.diego.settled(), 0.1)
        except Exception as failure:  # Garden's, or it is not done
            return f"Diego: {failure or 'is not done'}"
        return await said(self.box)

    # ---- figures

    def _pid(self, name: str) -> int | None:
        return self.box.pid(name) if self.box.runs(name) else None

    def _held(self) -> dict[str, dict[str, int]]:
        return {name: held(pid) for name in ("bridge", "agent") if (pid := self._pid(name)) is not None}

    def _progress(self) -> None:
        counts = self.judge.counts
        self._say(
            f"{time.monotonic() - self.judge.began:.0f} s: {self.deeds.done.total()} deeds, "
            f"{self.disturbances.done.total()} disturbances, {len(self.streams.alive)} streams, "
            f"{self.flows.sent} datagrams, {len([*self.people.containers()])} containers; wrongly passed "
            f"{counts['wrongly_passed']}, cut {counts['wrongly_cut']}, refused {counts['wrongly_refused']}; "
            f"leaked {len(self.report.leaked)}; in flight {counts['in_flight']} of "
            f"{counts['in_flight'] + counts['judged']}"
        )

    def _sum(self, began: float, finished: float) -> None:
        calls = self.box.diego.guardian.calls
        self.report.figures |= {
            "actions": dict(self.deeds.done),
            "disturbances": dict(self.disturbances.done),
            "worst_seconds": {name: round(s, 1) for name, s in self.disturbances.worst.items()},
            "ups": sum(call.action == "up" for call in calls),
            "ups_failed": dict(Counter(_reason(call) for call in calls if call.action == "up" and call.status)),
            "downs_failed": sum(call.action == "down" and call.status != 0 for call in calls),
            "late_seconds": round(self._slept, 1),
            "datagrams": self.flows.sent,
            "datagrams_arrived": self.flows.arrived,
            "connects": self._connects,
            "streams": self.streams.opened,
            "streams_ended_rightly": self.streams.ended_rightly,
            "memory": self.memory.judged(began, finished),
        }
        self.report.wrong += [f"up failed while nobody was away: {each}" for each in self.deeds.failed[:5]]
        bugs = [line for name in ("bridge", "agent") for line in self.box.log(name).splitlines() if '"bug"' in line]
        self.report.wrong += [f"a bug in the log: {line[:500]}" for line in bugs[:5]]


def _reason(call: Call) -> str:
    """What it said, without whom it concerns."""
    return call.stderr.strip().replace(call.handle, "…")[:120]


async def soaked(
    plan: Plan, say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)
) -> Report:
    async with Box(looks={"sweep_seconds": 10.0}) as box:
        return await Soak(plan, box, say).run()
