"""What goes wrong meanwhile? Deaths, pauses, misbehaving servers, a locked store, and somebody else's hand on the cell.

One at a time; each ends when bridge and agent say that all is well again, and how long that took is noted.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cfbridge.client import AdminClient
from cfbridge.demo.box import Box
from cfbridge.demo.installation import until
from cfbridge.simulator import control
from cfbridge.simulator.nouns import SERVICES
from egress.values import Unavailable
from garden_plugin.dataplane.cell import device_name
from tests.soak.judge import Judge
from tests.soak.population import Population

RECOVERED_SECONDS = 90.0
"""Later is a failure. Looks that failed are repeated after ever longer pauses, up to a minute."""
HEALED_SECONDS = 30.0
HELD = "WITHDRAWAL_HELD"
"""Much was withdrawn, and what that was stays in force for the moment, as it should."""
NO_ILLNESS = frozenset((HELD, "CELL_MEDDLED"))
"""So is it told of our own hand on the cell, for some minutes."""
MODES = ("error", "garbage", "blank", "partial", "slow", "hang")

DEATHS = ("bridge dies", "agent dies", "both die")
DISTURBANCES = {
    "bridge dies": 4,
    "agent dies": 4,
    "both die": 1,
    "bridge pauses": 1,
    "agent pauses": 1,
    "a server misbehaves": 8,
    "the store is locked": 2,
    "somebody meddles": 6,
}
_ROUTE = ("ip route show table 7712", "{address} ")
_TABLE = ("nft list set inet cfbridge workload4", "{address}")
_LINK = ("ip link show {device}", "state UP")
HARMS: tuple[tuple[str, str, str], ...] = (
    ("nft flush ruleset", *_TABLE),
    ("nft delete table inet cfbridge", *_TABLE),
    ("nft flush set inet cfbridge live", "nft list set inet cfbridge live", "elements"),
    ("nft flush chain inet cfbridge tier4", "nft list chain inet cfbridge tier4", "goto"),
    ("ip route flush table 7712", *_ROUTE),
    ("ip route del {address}/32 table 7712", *_ROUTE),
    ("ip link set {device} down", *_LINK),
    ("ip link delete {device}", *_LINK),
    ("ip rule del priority 7712", "ip rule", "7712:"),
)
"""What somebody does, what he is asked then, and what the answer says when it is healed."""


@dataclass
class Disturbances:
    box: Box
    population: Population
    judge: Judge
    rng: random.Random
    done: Counter[str] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=dict)
    """Seconds from the end of a disturbance until all was well."""
    deaths_allowed: bool = True
    _deck: list[str] = field(default_factory=list)

    async def one(self) -> None:
        """Until all is well again. Drawn like cards, so that each kind has its turn."""
        while True:
            if not self._deck:
                self._deck = [name for name, times in DISTURBANCES.items() for _ in range(times)]
                self.rng.shuffle(self._deck)
            name = self._deck.pop()
            if self.deaths_allowed or name not in DEATHS:
                await self.do(name)
                return

    async def do(self, name: str) -> None:
        acts: dict[str, Callable[[], Awaitable[str]]] = {
            "bridge dies": lambda: self._die("bridge"),
            "agent dies": lambda: self._die("agent"),
            "both die": lambda: self._die("bridge", "agent"),
            "bridge pauses": lambda: self._pause("bridge"),
            "agent pauses": lambda: self._pause("agent"),
            "a server misbehaves": self._misbehave,
            "the store is locked": self._lock,
            "somebody meddles": self._meddle,
        }
        with self.judge.truth.disturbance(name):
            exactly = await acts[name]()
            self.done[exactly] += 1
            began = time.monotonic()
            if not await until(self.well, RECOVERED_SECONDS, 0.2):
                self.judge.fault(
                    "not_recovered", f"{exactly}: not well within {RECOVERED_SECONDS:g} s: {await said(self.box)}"
                )
            self.worst[name] = max(self.worst.get(name, 0.0), time.monotonic() - began)

    async def well(self) -> bool:
        """Nothing is stale, away or behind."""
        return await said(self.box) == ""

    async def _die(self, *names: str) -> str:
        for name in names:
            self.box.kill(name)
        await asyncio.sleep(self.rng.uniform(0, 5))
        for name in names:
            if name == "bridge":
                self.box.start_bridge()
            else:
                self.box.start_agent()
        return f"{' and '.join(names)} killed"

    async def _pause(self, name: str) -> str:
        pid = self.box.pid(name)
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self.rng.uniform(1, 4))
        finally:
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.5)  # so that what it says is of after it
        return f"{name} paused"

    async def _misbehave(self) -> str:
        service, mode = self.rng.choice((*SERVICES, "all")), self.rng.choice(MODES)
        state = self.box.foundation.state
        control.fault(
            state, {"service": service, "mode": mode, "seconds": 1.0, "status": self.rng.choice((429, 500, 503))}
        )
        try:
            await asyncio.sleep(self.rng.uniform(2, 8))
        finally:
            control.fault(state, {"service": service, "mode": "none"})
        return f"{service}: {mode}"

    async def _lock(self) -> str:
        store = sqlite3.connect(self.box.directory / "state.db", timeout=10, isolation_level=None)
        try:
            store.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(self.rng.uniform(1, 6))
        finally:
            store.close()
        await asyncio.sleep(0.5)
        return "store locked"

    async def _meddle(self) -> str:
        """The agent heals by itself; until then what is allowed may fail."""
        containers = [*self.population.serving().items()]
        if not containers:
            return "nobody to meddle with"
        handle, end = self.rng.choice(containers)
        harm, asked, healthy = self.rng.choice(HARMS)
        run = self.box.lab.cell.run

        def told(words: str) -> list[str]:
            return words.format(address=end.address, device=device_name(handle)).split()

        async def healed() -> bool:
            try:
                answer = await asyncio.to_thread(run, *told(asked))
            except RuntimeError:  # it is not there
                answer = ""
            return healthy.format(address=end.address) in answer or handle not in self.population.serving()

        whole = harm in ("nft flush ruleset", "nft delete table inet cfbridge")
        with self.judge.truth.closure(end.address if " link " in harm else "", untranslated=whole):
            began = time.monotonic()
            try:
                await asyncio.to_thread(run, *told(harm))
            except RuntimeError:
                return "meddled with what is gone"
            if not await until(healed, HEALED_SECONDS):
                self.judge.fault("not_healed", f"{harm}: not healed within {HEALED_SECONDS:g} s")
            self.worst["healing"] = max(self.worst.get("healing", 0.0), time.monotonic() - began)
            await asyncio.sleep(1.0)
        return harm


async def said(box: Box) -> str:
    """What is not well; empty when all is."""
    try:
        codes = await alarms(box)
        cells = await box.api("cells")
    except (OSError, Unavailable) as away:
        return str(away) or type(away).__name__
    if not cells or not all(cell["connected"] and cell["reached_revision"] for cell in cells):
        return "the agent has not reached a revision"
    return ", ".join(sorted(codes - NO_ILLNESS))


async def alarms(box: Box) -> frozenset[str]:
    """Codes of what is not as it should be. OSError or Unavailable: the bridge does not answer."""
    async with AdminClient.local(str(box.directory / "api.sock"), attempts=1) as client:
        status = await client.status()
    return frozenset(alarm.code for alarm in status.alarms if alarm.severity == "degraded")
