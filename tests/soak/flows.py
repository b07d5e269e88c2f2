"""Do datagrams arrive exactly where they may? Many flows of tagged ones, most of them refused, and an ear at each end.

A flow keeps its source port, so that its conntrack entry lives through every change of what is asked for.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.soak import places as places_
from tests.soak.judge import Judge
from tests.soak.places import Places
from tests.soak.truth import End, Way

SILENT_SECONDS = 5.0
"""So long no datagram of a flow that is allowed may be missing: a busy machine drops some, or is late."""


@dataclass
class Flow:
    number: int
    way: Way
    wire: socket.socket
    ends: float
    sent: float = 0.0
    missed: float = 0.0
    """When the first was sent that did not arrive, nor any after it; 0 = all is well."""


@dataclass
class Flows:
    judge: Judge
    places: Places
    stands: Callable[[Way], bool]
    choose: Callable[[], tuple[Way, float] | None]
    """A way for datagrams, and for how many seconds."""
    wanted: int
    per_second: float
    sent: int = 0
    arrived: int = 0
    _flows: dict[int, Flow] = field(default_factory=dict)
    _ways: dict[int, Way] = field(default_factory=dict)
    """Of every flow that was: a datagram may come late."""
    _ears: dict[str, socket.socket] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def run(self) -> None:
        try:
            due = time.monotonic()
            while True:
                for number in [*self._flows] or [0]:
                    due = max(due + 1 / self.per_second, time.monotonic() - 0.5)
                    if (pause := due - time.monotonic()) > 0.005:
                        await asyncio.sleep(pause)
                    if (flow := self._flows.get(number)) is not None:
                        self._step(flow)
                self._renew()
                await asyncio.sleep(0)
        finally:
            self.close()

    def close(self) -> None:
        for number in [*self._flows]:
            self._end(self._flows[number])
        for netns in [*self._ears]:
            self._deafen(netns)

    def forget(self, gone: Callable[[str], bool]) -> None:
        """Ears of containers that are gone keep their namespaces from going."""
        for netns in [each for each in self._ears if gone(each)]:
            self._deafen(netns)

    def _renew(self) -> None:
        while len(self._flows) < self.wanted:
            chosen = self.choose()
            if chosen is None:
                return
            way, seconds = chosen
            try:
                wire = self.places.socket(way.source.netns, socket.SOCK_DGRAM)
                self._hear(way.destination)
            except OSError:  # it went just now
                continue
            number = next(self._numbers)
            self._flows[number] = Flow(number, way, wire, time.monotonic() + seconds)
            self._ways[number] = way
            for old in [each for each in self._ways if each < number - 1000]:
                del self._ways[old]

    def _hear(self, end: End) -> None:
        if end.netns in self._ears:
            return
        ear = self.places.socket(end.netns, socket.SOCK_RAW, socket.IPPROTO_UDP)
        self._ears[end.netns] = ear
        asyncio.get_running_loop().add_reader(ear, self._listen, ear, end)

    def _deafen(self, netns: str) -> None:
        ear = self._ears.pop(netns)
        asyncio.get_running_loop().remove_reader(ear)
        ear.close()

    def _listen(self, ear: socket.socket, end: End) -> None:
        while True:
            try:
                packet = ear.recv(65535)
            except BlockingIOError:
                return
            except OSError:
                self._deafen(end.netns)
                return
            if (found := places_.heard(packet)) is not None and found[0] in self._ways:
                self._came(found[0], found[1], end)

    def _came(self, number: int, sent: float, end: End) -> None:
        """Whoever heard it: an address may have another holder by now."""
        now = time.monotonic()
        self.arrived += 1
        way = self._ways[number]
        self.judge.passed("datagram", replace(way, destination=end), sent, now)
        if (flow := self._flows.get(number)) is not None and sent >= flow.missed:
            flow.missed = 0.0

    def _step(self, flow: Flow) -> None:
        now = time.monotonic()
        if now >= flow.ends or not self.stands(flow.way):
            self._end(flow)
            return
        if flow.sent:
            self._look_back(flow, now)
        flow.sent = now
        flow.missed = flow.missed or now
        self.sent += 1
        try:
            flow.wire.sendto(places_.datagram(flow.number, now), flow.way.dialled)
        except OSError:  # its link is gone for the moment
            return

    def _look_back(self, flow: Flow, now: float) -> None:
        if self.judge.count("datagram", flow.way, flow.sent, now) != {True}:
            flow.missed = 0.0
        elif flow.missed and now - flow.missed > SILENT_SECONDS:
            self.judge.failed("datagrams", flow.way, flow.missed, now, "none of them arrived")
            flow.missed = 0.0

    def _end(self, flow: Flow) -> None:
        flow.wire.close()
        self._flows.pop(flow.number, None)
