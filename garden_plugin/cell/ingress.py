"""Which host ports lead into which container? And, by the same pool, which isolated address has a health check?

free ──take──> used ──give_back──> at rest (300 s) ──> free        oldest rest first; never used before anything rested
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from egress.values import Refused, RefusedError
from garden_plugin.wire import MappedPort


class Pool:
    """Numbers of a range, each held by one handle. Without clock: `now` comes from the caller, in seconds since the
    epoch, because rests outlive the process."""

    def __init__(self, first: int, last: int, rest_seconds: float) -> None:
        self._rest_seconds = rest_seconds
        self._range = range(first, last + 1)
        self._used: dict[int, str] = {}
        self._released: dict[int, float] = {}
        self._queue = [(0.0, number) for number in self._range]
        """A heap of (released at, number); an entry that is not true any more is skipped."""

    def take(self, handle: str, now: float) -> int | None:
        """The number that rests longest, or None while every one is held or at rest."""
        while self._queue:
            released, number = self._queue[0]
            if number in self._used or self._released.get(number, 0.0) != released:
                heapq.heappop(self._queue)
            elif released and now - released < self._rest_seconds:
                return None
            else:
                heapq.heappop(self._queue)
                self._used[number] = handle
                return number
        return None

    def holder(self, number: int) -> str | None:
        return self._used.get(number)

    def claim(self, number: int, handle: str) -> None:
        """Take exactly this one, in the range or not, at rest or not. The caller asked `holder` first."""
        self._used[number] = handle

    def undo(self, number: int) -> None:
        """It was taken or claimed and never used: as it was before, without a new rest."""
        del self._used[number]
        if number in self._range:
            heapq.heappush(self._queue, (self._released.get(number, 0.0), number))

    def give_back(self, number: int, handle: str, now: float) -> None:
        if self._used.get(number) != handle:
            return
        del self._used[number]
        self._rest(number, now)

    def resting(self, now: float) -> dict[int, float]:
        """Number → released at: what a restart must remember."""
        return {n: at for n, at in self._released.items() if n not in self._used and now - at < self._rest_seconds}

    def remember(self, resting: Mapping[int, float], now: float) -> None:
        """A clock that was set back must not keep a port for ever: no rest begins later than now."""
        for number, at in resting.items():
            self._rest(number, min(at, now))

    def _rest(self, number: int, at: float) -> None:
        if number in self._range:
            self._released[number] = at
            heapq.heappush(self._queue, (at, number))


def allocate(pool: Pool, handle: str, wanted: Iterable[MappedPort], now: float) -> tuple[MappedPort, ...]:
    """Every wanted mapping, in order, with its host port. All or none. A container port of 0 means the host port."""
    mapped: list[MappedPort] = []
    taken: list[int] = []
    wanted = tuple(wanted)
    try:
        for wish in wanted:
            if wish.host_port:
                _claim(pool, handle, wish.host_port, taken)
        for wish in wanted:
            number = wish.host_port or pool.take(handle, now)
            if number is None:
                message = (
                    "allocating port: port pool exhausted; widen mapped_ports or wait until released ports have rested"
                )
                raise RefusedError(Refused("PORT_POOL_EXHAUSTED", message, "netin"))
            if not wish.host_port:
                taken.append(number)
            mapped.append(MappedPort(number, wish.container_port or number))
    except RefusedError:
        for number in taken:
            pool.undo(number)
        raise
    return tuple(mapped)


def release(pool: Pool, handle: str, mapped: Iterable[MappedPort], now: float) -> None:
    for port in mapped:
        pool.give_back(port.host_port, handle, now)


def _claim(pool: Pool, handle: str, number: int, taken: list[int]) -> None:
    """A port may lead one way only, so a second wish for it is refused even for the same container."""
    if (holder := pool.holder(number)) is not None:
        message = f"allocating port: host port {number} is in use by {holder}; ask for another or for any (0)"
        raise RefusedError(Refused("PORT_IN_USE", message, "host_port"))
    pool.claim(number, handle)
    taken.append(number)
