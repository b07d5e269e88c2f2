"""Whatever is asked, in whatever order, and whoever is killed or paused meanwhile: is anything lost, doubled or moved?

A bridge's holdings on a real SQLite file and on a real PostgreSQL server. What was answered is remembered here in the
plainest form and compared with what is published, and with what lies in the store. An ask that was answered by
`Unavailable` may have been done or not; asking again settles it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cfbridge.holdings import Holdings
from cfbridge.store import Store
from cfbridge.store import store as store_
from egress.ledger import Holding
from egress.model import Defaults, Lease, NetworkMode, OrgWish, Pool, PoolKind
from egress.values import QualifiedId, Refused, Unavailable
from tests.postgres import Server, running

POOLS = (
    Pool("overlay", PoolKind.CONTAINER, ("10.240.0.0/26",), org_prefix_length=28),
    Pool("snat", PoolKind.SNAT, ("203.0.113.0/30",)),
)
"""Four subnets of 12 containers and two leaving addresses: all of it is exhausted now and then."""
ORGS = ("acme", "globex", "initech", "umbrella", "hooli")
CELLS = ("cell-1", "cell-2")
WORKLOADS = [f"cf:{number}" for number in range(24)]
REST = Defaults().lease_rest_seconds

orgs, cells, workloads = st.sampled_from(ORGS), st.sampled_from(CELLS), st.sampled_from(WORKLOADS)


def wish(org: str) -> OrgWish:
    """Half of the orgs need a leaving address of their own."""
    mode = NetworkMode.NAT if ORGS.index(org) % 2 else NetworkMode.ROUTED
    return OrgWish(QualifiedId(f"cf:{org}"), mode, name=org)


class Keeping(RuleBasedStateMachine):
    """What every engine must keep; the engines' own faults are added below."""

    url: str

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.now = 1_000_000.0
        self.leases: dict[str, tuple[Lease, ...]] = {}
        """As answered, and not released since."""
        self.doubted: set[str] = set()
        """Workloads whose last ask ended in Unavailable."""
        self.ids: dict[str, int] = {}
        self.unplugged: dict[str, float] = {}
        """Address → when it was released, of workloads whose release was answered."""
        self.store: Store
        self.reader: Store | None = None
        self.run(self._open())

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    async def _open(self) -> None:
        async def opened() -> None:
            self.store = await Store.open(self.url)
            try:
                self.holdings = await Holdings.open(self.store, POOLS, Defaults(), lambda: self.now)
            except Unavailable:
                await self.store.close()
                raise

        await answered(opened)

    def teardown(self) -> None:
        if hasattr(self, "holdings"):
            self.run(self._close())
            if self.reader is not None:
                self.run(self.reader.close())
            self.runner.close()

    async def _close(self) -> None:
        await self.holdings.close()
        await self.store.close()

    # ---- what is asked

    @rule(workload=workloads, org=orgs, cell=cells)
    def lease(self, workload: str, org: str, cell: str) -> None:
        self.run(self._lease(workload, org, cell))

    @rule(org=orgs, cell=cells)
    def lease_many_at_once(self, org: str, cell: str) -> None:
        async def all_at_once() -> None:
            await asyncio.gather(*(self._lease(workload, org, cell) for workload in WORKLOADS[::3]))

        self.run(all_at_once())

    @rule(workload=workloads)
    def release(self, workload: str) -> None:
        self.run(self._release(workload))

    @rule(cell=cells, number=st.integers(0, 24))
    def adopt(self, cell: str, number: int) -> None:
        """The cell reports some of what we know of it: the others are gone there."""

        async def report() -> None:
            here = [w for w, held in self.leases.items() if held[0].cell == cell and w not in self.doubted]
            kept = {w: (wish(self.leases[w][0].org[3:]), _addresses(self.leases[w])) for w in here[:number]}
            conflicts = await self.holdings.adopt(cell, kept)
            assert not conflicts, conflicts
            for workload, held in list(self.leases.items()):
                if held[0].cell == cell and workload not in kept:
                    self._gone(workload)
            self.doubted -= {w for w in self.doubted if w not in kept and w not in self.leases}

        if not self.doubted:
            self.run(report())

    @rule(org=orgs)
    def depart(self, org: str) -> None:
        async def depart() -> None:
            await self.holdings.depart([wish(org).org])

        self.run(depart())

    @rule(keys=st.sets(st.integers(0, 40), min_size=1, max_size=8))
    def number_rules(self, keys: set[int]) -> None:
        async def number() -> None:
            given = await self.holdings.rule_ids([f"policy:{key}" for key in keys])
            for key, identity in given.items():
                assert self.ids.setdefault(key, identity) == identity, f"{key} has another id now"
            assert len(set(self.ids.values())) == len(self.ids), "two rules share an id"

        self.run(number())

    @rule(seconds=st.sampled_from([1.0, 100.0, REST, 90_000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # ---- who dies

    @rule()
    def restart_the_bridge(self) -> None:
        self.run(self._close())
        self.run(self._open())

    @rule(org=orgs, cell=cells, steps=st.integers(0, 30))
    def kill_the_bridge_while_it_writes(self, org: str, cell: str, steps: int) -> None:
        """Its writer is gone after so many turns of the loop, whatever it was doing then."""

        async def killed() -> None:
            asks = [asyncio.ensure_future(self._lease(workload, org, cell)) for workload in WORKLOADS[1::3]]
            for _ in range(steps):
                await asyncio.sleep(0)
            self.holdings.writer.cancel()
            await asyncio.gather(*asks)

        self.run(killed())
        self.restart_the_bridge()

    # ---- what must hold

    @invariant()
    def what_was_answered_is_published(self) -> None:
        if not hasattr(self, "holdings"):
            return
        held = self.holdings.held
        for workload, leases in self.leases.items():
            if workload not in self.doubted:
                assert held.leases.get(workload) == leases, workload
        known = {*self.leases, *self.doubted}
        assert held.leases.keys() <= known, "somebody holds what nobody asked for"
        holders = [lease.address for leases in held.leases.values() for lease in leases]
        assert len(set(holders)) == len(holders), "an address has two holders"
        prefixes = {network.prefix: str(network.org) for network in held.org_networks}
        for prefix, org in prefixes.items():
            users = {lease.org for leases in held.leases.values() for lease in leases if lease.address in _net(prefix)}
            assert users <= {org}, f"{prefix} of {org} has workloads of {users}"
        inside = {org for leases in held.leases.values() for org in (lease.org for lease in leases)}
        assert inside <= set(prefixes.values())

    @invariant()
    def what_is_published_lies_in_the_store(self) -> None:
        if not hasattr(self, "holdings"):
            return
        stored, ids = self._stored()
        in_use = {(lease.address, lease.workload) for lease in stored.leases if lease.released_at is None}
        published = self.holdings.held
        if not self.doubted:
            assert in_use == {(lease.address, w) for w, leases in published.leases.items() for lease in leases}
        answered = {
            (lease.address, w) for w, leases in self.leases.items() if w not in self.doubted for lease in leases
        }
        assert answered <= in_use
        assert self.ids.items() <= ids.items()

    def _stored(self) -> tuple[Holding, dict[str, int]]:
        """Read by a store of its own, as another bridge would."""

        async def read() -> tuple[Holding, dict[str, int]]:
            if self.reader is None:
                self.reader = await Store.open(self.url)
            stored = await self.reader.load()
            return stored.holding, dict(stored.rule_ids)

        found: tuple[Holding, dict[str, int]] = self.run(answered(read))
        return found

    # ---- asks, and what their answers mean

    async def _lease(self, workload: str, org: str, cell: str) -> None:
        doubted = workload in self.doubted
        before = self.leases.get(workload) if not doubted else None
        asked_at = self.now
        self.doubted.add(workload)
        try:
            answer = await self.holdings.lease(workload, wish(org), cell)
        except Unavailable:
            return
        self.doubted.discard(workload)
        if isinstance(answer, Refused):
            if workload in self.holdings.held.leases:  # of another org, or of an ask that nobody heard the answer of
                self.leases[workload] = self.holdings.held.leases[workload]
            elif doubted:
                self.leases.pop(workload, None)  # its release was done, though nobody heard the answer
            assert before is None or self.leases.get(workload) == before
            return
        assert before is None or _addresses(answer) == _addresses(before), f"{workload} was moved"
        for address in _addresses(answer):
            rested_since = self.unplugged.pop(address, None)
            if before is None and rested_since is not None and workload not in self.leases:
                assert asked_at - rested_since >= REST, f"{address} was given again before it rested"
        self.leases[workload] = answer

    async def _release(self, workload: str) -> None:
        doubted = workload in self.doubted
        self.doubted.add(workload)
        try:
            await self.holdings.release(workload)
        except Unavailable:
            return
        self.doubted.discard(workload)
        if doubted:
            for address in _addresses(self.leases.pop(workload, ())):
                self.unplugged.pop(address, None)  # nobody knows when its rest began
        else:
            self._gone(workload)

    def _gone(self, workload: str) -> None:
        for address in _addresses(self.leases.pop(workload, ())):
            self.unplugged[address] = self.now


async def answered(work: Callable[[], Awaitable[Any]], seconds: float = 60.0) -> Any:
    """As a supervisor starts a bridge again and again: what was killed may still be ending."""
    until = time.monotonic() + seconds
    while True:
        try:
            return await work()
        except Unavailable:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)


def _addresses(leases: tuple[Lease, ...]) -> tuple[str, ...]:
    return tuple(lease.address for lease in leases)


def _net(prefix: str) -> set[str]:
    return {str(address) for address in ipaddress.ip_network(prefix)}


@contextmanager
def impatient() -> Iterator[None]:
    """Bridges give up soon, while somebody is to be given up. (At other times a busy machine may take long.)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_, "ANSWER_SECONDS", 0.5)
        yield


class OnSqlite(Keeping):
    locks_left = 1

    @precondition(lambda self: self.locks_left > 0)
    @rule(org=orgs, cell=cells)
    def somebody_locks_the_file(self, org: str, cell: str) -> None:
        """A backup that takes its time: asks meanwhile are answered by Unavailable, or wait for its end."""

        self.locks_left -= 1

        async def locked() -> None:
            other = sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=0, isolation_level=None)
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                other.close()
                return
            try:
                with impatient():
                    await asyncio.gather(*(self._lease(workload, org, cell) for workload in WORKLOADS[2::3]))
            finally:
                other.execute("ROLLBACK")
                other.close()
            await asyncio.sleep(0.15)  # the driver's thread wakes, and ends what nobody waits for any more
            for workload in sorted(self.doubted):
                await self._lease(workload, org, cell)

        self.run(locked())


class OnPostgres(Keeping):
    server: Server

    @rule(org=orgs, cell=cells, seconds=st.sampled_from([0.0, 0.002, 0.005, 0.02]))
    def it_is_paused_while_it_is_asked(self, org: str, cell: str, seconds: float) -> None:
        """Long enough that the bridge gives up; what it had sent is still read and done afterwards."""

        async def paused() -> None:
            with impatient():
                asks = asyncio.gather(*(self._lease(workload, org, cell) for workload in WORKLOADS[2::3]))
                await asyncio.sleep(seconds)
                self.server.pause()
                try:
                    await asks
                finally:
                    self.server.resume()
            for workload in sorted(self.doubted):
                await self._lease(workload, org, cell)

        self.run(paused())

    @precondition(lambda self: self.kills_left > 0)
    @rule(org=orgs, cell=cells, seconds=st.sampled_from([0.0, 0.002, 0.005, 0.02]))
    def it_is_killed_while_it_is_asked(self, org: str, cell: str, seconds: float) -> None:
        self.kills_left -= 1

        async def killed() -> None:
            asks = asyncio.gather(*(self._lease(workload, org, cell) for workload in WORKLOADS[2::3]))
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.server.kill)
            await asks
            await asyncio.to_thread(self.server.start)
            until = time.monotonic() + 30
            while self.doubted and time.monotonic() < until:
                for workload in sorted(self.doubted):
                    await self._lease(workload, org, cell)
            assert not self.doubted, "the store is back, and its bridge did not notice"

        self.run(killed())

    kills_left = 1


SETTINGS = settings(
    max_examples=6,
    stateful_step_count=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a failure says its steps; to shrink it takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@pytest.mark.timeout(300)
def test_nothing_is_lost_doubled_or_moved_on_sqlite(tmp_path: Path) -> None:
    numbers = iter(range(1_000_000))

    class Fresh(OnSqlite):
        def __init__(self) -> None:
            super().__init__()
            self.url = f"sqlite:///{tmp_path}/{next(numbers)}.db"

    run_state_machine_as_test(Fresh, settings=SETTINGS)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Of this file alone: it is killed again and again."""
    yield from running()


@pytest.mark.postgres
@pytest.mark.timeout(300)
def test_nothing_is_lost_doubled_or_moved_on_postgresql_that_is_killed_and_paused(server: Server) -> None:
    numbers = iter(range(1_000_000))

    def create(name: str) -> None:
        async def create() -> None:
            admin = await asyncpg.connect(host=server.folder, port=5432, user="cfbridge", database="postgres")
            await admin.execute(f"CREATE DATABASE {name}")
            await admin.close()

        asyncio.run(create())

    class Fresh(OnPostgres):
        def __init__(self) -> None:
            super().__init__()
            name = f"machine_{next(numbers)}"
            create(name)
            self.server, self.url = server, server.url(name)

    run_state_machine_as_test(Fresh, settings=SETTINGS)
