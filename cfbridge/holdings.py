"""Who holds what? The one writer of subnets, leases, SNAT addresses and rule ids.

asks ──> queue ──one task drains all──> decide (egress.assignment, pure) ──> one commit ──> publish `Held` ──> answers

Nothing is answered, published or used that was not stored. When a commit fails, everybody waiting hears Unavailable,
what is published stays, and the next round begins by reading the store again: only it knows whether the commit was
lost or just its answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from cfbridge.snapshot import Held
from cfbridge.store import Deposed, Store, Stored
from egress import assignment
from egress import pools as pools_
from egress.ledger import Changes, Ledger
from egress.model import Defaults, Lease, OrgNetwork, OrgWish, Pool
from egress.values import QualifiedId, Refused, RefusedError, Unavailable
from policy_sync.ruleset import RULE_ID_BITS

Answer = TypeVar("Answer")

POOL_EXHAUSTED = "IP_POOL_EXHAUSTED"
PROBE_SECONDS = 1.0
"""Between attempts at a store that was away."""
LONGEST_NAME = 1_000
"""Bytes of a key or workload id; an index of PostgreSQL can't hold much more."""


@dataclass(slots=True)
class _Round:
    """What one commit is about, beside the ledger's own changes."""

    now: float
    refusals: dict[str, Refused | None]
    """None = no longer refused."""
    rule_ids: dict[str, int]
    above: int = 0
    """The store shall be led by a higher epoch than this one."""


@dataclass(slots=True)
class _Ask:
    decide: Callable[[_Round], Any]
    answered: asyncio.Future[Any]


class Holdings:
    def __init__(
        self, store: Store, pools: Sequence[Pool], defaults: Defaults, clock: Callable[[], float], stored: Stored
    ) -> None:
        self._store = store
        self._pools = tuple(pools)
        self._defaults = defaults
        self._clock = clock
        self._asks: list[_Ask] = []
        self._asked = asyncio.Event()
        self._closing = False
        self._doubtful = False
        self._refusals: dict[str, Refused] = {}
        self._refused_at: dict[str, str] = {}
        """Workload id → the cell that asked for it, or reported it, when it was refused."""
        self.away = ""
        """Why the store did not take the last round; empty when it did. While it stands, the store is tried again."""
        self._held = Held()
        self.changed: Callable[[Held], None] | None = None
        """Called on the event loop with each newly committed `Held`; it must not raise. Set it once, after `open`."""
        self._take(stored)
        self.writer = asyncio.create_task(self._write(), name="holdings")
        """To be supervised: it ends by `close`, with Deposed, or with a bug. Then every ask is Unavailable."""

    @classmethod
    async def open(
        cls, store: Store, pools: Sequence[Pool], defaults: Defaults, clock: Callable[[], float] = time.time
    ) -> Holdings:
        """Takes the lead of the store, reads everything, starts the writer. RefusedError: the pools can't be used."""
        wrong = pools_.validate(pools)
        if wrong:
            raise RefusedError(wrong[0])
        await store.lead()
        return cls(store, pools, defaults, clock, await store.load())

    @property
    def held(self) -> Held:
        """The newest committed."""
        return self._held

    async def org(self, wish: OrgWish) -> Held | Refused:
        """The org has its subnets and SNAT addresses as wished (mode None = the default mode)."""
        problem = unstorable(wish.org)

        def decide(round_: _Round) -> Refused | None:
            if problem:
                return problem
            round_.refusals[wish.org] = assignment.settle(self._ledger, wish, round_.now)
            return round_.refusals[wish.org]

        return await self._ask(decide) or self._held

    async def lease(
        self, workload: str, wish: OrgWish, cell: str, fixed: tuple[str, ...] = ()
    ) -> tuple[Lease, ...] | Refused:
        """The workload's addresses; the same answer again for the same workload. `fixed`: a machine's own addresses,
        which may lie outside the pools; where they lie in one, their whole subnet becomes the org's."""
        problem = unstorable(workload) or unstorable(wish.org) or unstorable(cell)

        def decide(round_: _Round) -> tuple[Lease, ...] | Refused:
            if problem:
                return problem
            round_.refusals[wish.org] = assignment.settle(self._ledger, wish, round_.now)
            answer = assignment.lease(self._ledger, workload, wish, cell, round_.now, fixed)
            round_.refusals[workload] = answer if isinstance(answer, Refused) else None
            self._refused_at.pop(workload, None)
            if isinstance(answer, Refused):
                self._refused_at[workload] = cell
                if answer.code == POOL_EXHAUSTED:
                    round_.refusals[wish.org] = answer  # outlives the workload, whose `down` comes at once
            return answer

        return await self._ask(decide)

    async def release(self, workload: str) -> None:
        """Its removal is confirmed: its addresses begin to rest. Unknown: nothing."""

        def decide(round_: _Round) -> None:
            for lease in self._ledger.live.get(workload, ()):
                refused = {**self._refusals, **round_.refusals}.get(lease.org)
                if refused is not None and refused.code == POOL_EXHAUSTED:
                    round_.refusals[lease.org] = None  # it has room again, now or when the address has rested
            assignment.release(self._ledger, workload, round_.now)
            round_.refusals[workload] = None
            self._refused_at.pop(workload, None)

        await self._ask(decide)

    async def adopt(self, cell: str, reported: Mapping[str, tuple[OrgWish, tuple[str, ...]]]) -> tuple[Refused, ...]:
        """What a cell reports in use wins: what we don't know is recorded, its leases that it doesn't report are
        released (a machine's, `vm:…`, are not: people declare those). Conflicts come back, and stand in `refusals`.
        A workload reported without addresses is about to ask; what it holds stays."""

        def decide(round_: _Round) -> tuple[Refused, ...]:
            # Of a container that was refused and is not there any more, nobody may ever say that it ended.
            for workload in [name for name, at in self._refused_at.items() if at == cell and name not in reported]:
                round_.refusals[workload] = None
                del self._refused_at[workload]
            return self._reported(round_, assignment.adopt, cell, reported)

        return await self._ask(decide)

    async def claim(self, cell: str, reported: Mapping[str, tuple[OrgWish, tuple[str, ...]]]) -> tuple[Refused, ...]:
        """As `adopt`, but of these workloads alone: nothing is released. For those that were in conflict: it may be
        over."""
        return await self._ask(lambda round_: self._reported(round_, assignment.claim, cell, reported))

    def _reported(
        self,
        round_: _Round,
        decide: Callable[..., Mapping[str, Refused]],
        cell: str,
        reported: Mapping[str, tuple[OrgWish, tuple[str, ...]]],
    ) -> tuple[Refused, ...]:
        bad = {name: problem for name in reported if (problem := unstorable(name))}
        good = {name: report for name, report in reported.items() if name not in bad}
        refused = {**bad, **decide(self._ledger, cell, good, round_.now)}
        round_.refusals.update(dict.fromkeys(good))
        round_.refusals.update(refused)
        for workload in self._refused_at.keys() & good.keys():
            del self._refused_at[workload]
        self._refused_at.update(dict.fromkeys(refused.keys() & reported.keys(), cell))
        return tuple(refused[name] for name in sorted(refused))

    async def overtake(self, epoch: int) -> int:
        """Lead the store by a higher epoch than this one, which a cell has seen: the store is older than the bridge
        that the cell followed. Answers the epoch. Deposed: the store is not older, another bridge leads it."""

        def decide(round_: _Round) -> None:
            round_.above = max(round_.above, epoch)

        await self._ask(decide)
        return self._store.epoch

    async def depart(self, orgs: Collection[QualifiedId]) -> None:
        """These orgs are confirmed deleted; say it at each look. What they held goes when it rested, and what they were
        refused concerns nobody any more."""
        gone = frozenset(orgs)

        def decide(round_: _Round) -> None:
            assignment.depart(self._ledger, gone, round_.now)
            round_.refusals.update(dict.fromkeys(gone))

        holding = (self._ledger.by_org, self._ledger.snat_by_org, self._refusals)
        if any(org in held for org in gone for held in holding):
            await self._ask(decide)

    async def rule_ids(self, keys: Collection[str]) -> Mapping[str, int]:
        """Each key's id, allocated once, for life. RefusedError: ids are used up, or a key can't be stored."""
        known = self._held.rule_ids
        missing = sorted({key for key in keys if key not in known})
        if missing:
            problem = next(filter(None, map(unstorable, missing)), None)
            if problem:
                raise RefusedError(problem)
            refused = await self._ask(lambda round_: self._number(round_, missing))
            if refused:
                raise RefusedError(refused)
            known = self._held.rule_ids
        return {key: known[key] for key in keys}

    async def close(self) -> None:
        """Answers who asked before, then stops. The store stays open: it is its opener's."""
        self._closing = True
        self._asked.set()
        await asyncio.gather(self.writer, return_exceptions=True)

    # ---- the writer

    async def _ask(self, decide: Callable[[_Round], Answer]) -> Answer:
        if self._closing or self.writer.done():
            raise Unavailable("the bridge is stopping, or no longer leads its store")
        ask = _Ask(decide, asyncio.get_running_loop().create_future())
        self._asks.append(ask)
        self._asked.set()
        answer: Answer = await ask.answered
        return answer

    async def _write(self) -> None:
        try:
            while not self._closing or self._asks:
                await self._until_asked()
                self._asked.clear()
                asks, self._asks = self._asks, []
                # Who no longer waits (a container whose deadline passed) gets nothing; what it would leak, its cell's
                # next report gives back.
                asks = [ask for ask in asks if not ask.answered.done()]
                if asks:
                    try:
                        await self._round(asks)
                    except BaseException:
                        self._asks = asks + self._asks
                        raise
        finally:
            for ask in self._asks:
                if not ask.answered.done():
                    ask.answered.set_exception(Unavailable("the bridge is stopping, or no longer leads its store"))
            self._asks = []

    async def _until_asked(self) -> None:
        """While the store is away it is tried again, so that status says when it is back although nobody asks."""
        while self.away and not self._asked.is_set():
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await self._asked.wait()
            except TimeoutError:
                # Shielded: cancelled in the middle, a driver may keep the store's lock.
                stored = await asyncio.shield(asyncio.ensure_future(self._tried()))
                if isinstance(stored, str):
                    self.away = stored
                else:
                    self._take(stored)
                    self.away = ""
        await self._asked.wait()

    async def _tried(self) -> Stored | str:
        try:
            await self._store.set("tried_at", str(self._clock()))  # a full disk can still be read
            return await self._store.load()
        except Deposed:
            raise
        except Unavailable as error:
            return str(error)

    async def _round(self, asks: Sequence[_Ask]) -> None:
        round_ = _Round(self._clock(), {}, {})
        answers: list[Any] = []
        try:
            if self._doubtful:
                self._take(await self._store.load())
            # From the first decision on, the ledger is ahead of the store until the commit is answered.
            self._doubtful = True
            answers = [ask.decide(round_) for ask in asks]
            changes = self._ledger.drain()
            if round_.above >= self._store.epoch:
                await self._store.overtake(round_.above)
            if changes or round_.rule_ids:
                await self._store.commit(changes, round_.rule_ids)
                self.away = ""
            self._doubtful = False
        except Unavailable as error:
            self.away = str(error)
            for ask in asks:
                if not ask.answered.done():
                    ask.answered.set_exception(error)
            if isinstance(error, Deposed):
                raise
            return
        self._publish(changes, round_)
        for ask, answer in zip(asks, answers, strict=True):
            if not ask.answered.done():
                ask.answered.set_result(answer)

    def _number(self, round_: _Round, missing: Sequence[str]) -> Refused | None:
        new = [key for key in missing if key not in self._held.rule_ids and key not in round_.rule_ids]
        if self._next_rule_id + len(new) > 1 << RULE_ID_BITS:
            return Refused("RULE_IDS_EXHAUSTED", "All rule ids were given out; start with a new store.")
        for key in new:
            round_.rule_ids[key] = self._next_rule_id
            self._next_rule_id += 1
        return None

    def _take(self, stored: Stored) -> None:
        """The store's word is the truth, now."""
        self._ledger = Ledger(self._pools, self._defaults, stored.holding)
        self._next_rule_id = max(stored.rule_ids.values(), default=0) + 1
        self._doubtful = False
        self._held = Held(
            version=self._held.version + 1,
            org_networks=_networks(self._ledger),
            leases=dict(self._ledger.live),
            snat_addresses=dict(self._ledger.snat_by_org),
            rule_ids=dict(stored.rule_ids),
            refusals=dict(self._refusals),
            pool_use=self._ledger.pool_use(self._clock()),
        )
        if self.changed is not None:
            self.changed(self._held)

    def _publish(self, changes: Changes, round_: _Round) -> None:
        """What did not change is the same object as before, so that who compiles can see it by identity."""
        before = self._held
        refusals = {**self._refusals, **round_.refusals}
        self._refusals = {name: refused for name, refused in refusals.items() if refused is not None}
        if not changes and not round_.rule_ids and self._refusals == before.refusals:
            return
        ledger = self._ledger
        tenancy_changed = changes.org_networks or changes.snat_addresses
        self._held = replace(
            before,
            version=before.version + 1,
            org_networks=_networks(ledger) if changes.org_networks else before.org_networks,
            leases=dict(ledger.live) if changes.leases else before.leases,
            snat_addresses=dict(ledger.snat_by_org) if changes.snat_addresses else before.snat_addresses,
            rule_ids={**before.rule_ids, **round_.rule_ids} if round_.rule_ids else before.rule_ids,
            refusals=dict(self._refusals),
            pool_use=ledger.pool_use(round_.now) if tenancy_changed else before.pool_use,
        )
        if self.changed is not None:
            self.changed(self._held)


def _networks(ledger: Ledger) -> tuple[OrgNetwork, ...]:
    return tuple(network for org in sorted(ledger.by_org) for network in ledger.by_org[org])


def unstorable(name: str) -> Refused | None:
    """Why the store takes no such name."""
    try:
        whole = len(name.encode()) <= LONGEST_NAME and "\0" not in name
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON may carry it
        whole = False
    if whole:
        return None
    return Refused("NAME_BAD", f"{name[:40]!r}… can't be stored: it is too long or holds characters that are no text.")
