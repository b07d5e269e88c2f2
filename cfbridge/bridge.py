"""The composition root: build, connect, supervise.

FoundationWatch ─> inventory ┐
revisions, file ─> intent ───┼─ changed() ─> Reconciler ─> compile (worker thread) ─> Cells.deliver ─> agents
Cells, Holdings ─> states ───┘                                └─> API (snapshot, ruleset, alarms)
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from cfbridge import alarms, api, claims, intent, memory, policyfile, tenants
from cfbridge.api.views import Alarm
from cfbridge.audit import Audit
from cfbridge.cells import Cells
from cfbridge.compile import Compiled, Compiler
from cfbridge.drafts import Draft, Drafts
from cfbridge.foundation.watch import FoundationWatch
from cfbridge.holdings import Holdings, unstorable
from cfbridge.intent import Intent, Intents
from cfbridge.inventory import FoundationState, HeldBack, Look
from cfbridge.memory import Memory
from cfbridge.reconcile import Reconciler
from cfbridge.revisions import Revisions
from cfbridge.settings import BridgeConfig
from cfbridge.snapshot import Snapshot
from cfbridge.store import Revised, Store
from egress.model import OrgWish
from egress.values import QualifiedId, Refused, RefusedError, Unavailable, qualify, unqualify
from policy_sync.model import World
from policy_sync.ruleset import Ruleset

log = structlog.get_logger(__name__)

INTENT_POLL_SECONDS = 0.25
RECORD_AGAIN_SECONDS = 5.0
"""After what the intent file says could not be kept as a revision."""
LONGEST_SLEEP_SECONDS = 3600.0
"""Until an expiry is looked at again: the clock may have been set meanwhile."""
REVISIONS_PER_EPOCH = 1_000_000
"""Revisions grow across restarts, because epochs do."""


class Bridge:
    """Everything that one bridge process holds. Also the facade that the API reads from."""

    def __init__(
        self,
        config: BridgeConfig,
        store: Store,
        holdings: Holdings,
        bound: tenants.Bound | None = None,
        revisions: Revisions | None = None,
        drafts: Drafts | None = None,
    ) -> None:
        """`bound`: the orgs that the tenants of the intent were before."""
        self.config = config
        self._store = store
        self.started_at = time.time()
        self._holdings = holdings
        self._inventory = {f.name: FoundationState(f.name) for f in config.foundations}
        self.revisions = revisions or Revisions(store, by_file=config.intent_file)
        self.audit = Audit(store)
        self.drafts = drafts or Drafts(store, self.revisions)
        self._file: Intents = policyfile.load(config.intent_file) if config.intent_file else {}
        self.revisions.published = self._republished
        self._written = intent.together(self._file if config.intent_file else self.revisions.intents)
        self._bound: tenants.Bound = bound or {}
        """Tenant's name in the intent → org."""
        self._bound_stored = self._bound
        self._intent = self._written
        self._compiler = Compiler(config.firewall, config.pools)
        self._compiled = Compiled()
        self._met: dict[str, QualifiedId] = {}
        """Org name → id, of orgs whose containers came before Cloud Controller was asked."""
        self._ensured: dict[str, OrgWish] = {}
        self._resolve()
        self.watches: dict[str, FoundationWatch] = {}
        """By foundation name; whoever builds the bridge adds them."""
        self._gone: set[QualifiedId] = set()
        """Orgs that were there and are not any more: not the ones whose containers came before they were read."""
        self._intent_error: Refused | None = None
        self._recorded: Intents | None = None
        """The content of the intent file that the newest revision says."""
        self._record_after = 0.0
        self._store_away = ""
        self._alarm_clock: asyncio.TimerHandle | None = None
        self._snapshot = Snapshot(pools=config.pools, defaults=config.defaults)
        self.reconciler = Reconciler(self._realise, store.epoch * REVISIONS_PER_EPOCH + 1)
        self.cells = Cells(
            foundation=config.foundations[0].name,
            epoch=store.epoch,
            mtu=config.mtu,
            holdings=holdings,
            wish=self._wish,
            ready=self._not_ready,
            untrue=lambda port: claims.contradiction(port, self._inventory[config.foundations[0].name]),
            changed=self.reconciler.changed,
            leads=lambda epoch: self.reconciler.not_before(epoch * REVISIONS_PER_EPOCH + 1),
        )
        self.cells.remember(lease for leases in holdings.held.leases.values() for lease in leases)

    @property
    def snapshot(self) -> Snapshot:
        """What is known now, newer than the revision in force; the same object while nothing changes."""
        now = (self._inventory, self._intent, self._holdings.held, self.cells.states)
        held = self._snapshot
        if any(a is not b for a, b in zip(now, (held.inventory, held.intent, held.held, held.cells), strict=True)):
            self._snapshot = self._take(held.revision)
        return self._snapshot

    @property
    def ruleset(self) -> Ruleset:
        return self._compiled.network.ruleset

    @property
    def world(self) -> World:
        return self._compiled.world

    @property
    def drafted(self) -> Mapping[str, Draft]:
        return self.drafts.drafts

    @property
    def history(self) -> tuple[Revised, ...]:
        return self.revisions.history

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Everything that an operator should know now, worst first."""
        store_away = self._store_away or self._holdings.away
        found = [Alarm("degraded", "STORE_AWAY", store_away)] if store_away else []
        for state in self._inventory.values():
            found += alarms.of(state)
        found += [Alarm("degraded", each.code, each.message) for each in self._compiled.untrue]
        now = time.time()
        found += alarms.of_cells(self.cells.states.values(), self.cells.late(), self.cells.unheard(now), now)
        found += alarms.of_certificates(self.config.foundations, now)
        refusals = [self.cells.restored] if self.cells.restored else []
        refusals += [r for of in (self.cells.conflicts, self.cells.elsewhere) for each in of.values() for r in each]
        refusals += [*self.snapshot.held.refusals.values(), *self._compiled.quarantined]
        refusals += intent.unresolved(self._written, self._inventory, self._bound)
        refusals += tenants.renamed(self._bound, self._inventory)
        if self._intent_error is not None:
            refusals.append(self._intent_error)
        found += [Alarm("warning", each.code, each.message) for each in dict.fromkeys(refusals)]
        limit = self.config.defaults.pool_alarm_share
        for pool, share in self.snapshot.held.pool_use.items():
            if share >= limit:
                found.append(Alarm("warning", "IP_POOL_LOW", f"pool {pool} is {share:.0%} in use"))
        return tuple(sorted(found, key=lambda alarm: alarm.severity != "degraded"))

    async def remove_cell(self, name: str) -> Refused | None:
        return await self.cells.remove(name)

    def decide_held(self, foundation: str, kind: str, apply: bool) -> HeldBack | Refused:
        watch = self.watches.get(foundation)
        held = watch.decide(kind, apply) if watch else None
        return held or Refused("NOTHING_HELD", f"Nothing of {foundation} is held of this kind: {kind[:128]}.", "/id")

    def _resolve(self) -> None:
        resolved = intent.resolve(self._written, self._inventory)
        self._bound = tenants.bind(resolved.tenants, self._bound, self._inventory)
        wishes = tenants.wishes(resolved.tenants, self._bound, self._met)
        self._intent = replace(resolved, tenants=tuple(wishes))

    def publish(self, state: FoundationState) -> None:
        """A foundation's newest confirmed state."""
        before = self._inventory[state.name]
        self._inventory = {**self._inventory, state.name: state}
        if before.orgs is not state.orgs:
            self._gone |= before.orgs.keys() - state.orgs.keys()
        if any(getattr(before, kind) is not getattr(state, kind) for kind in ("orgs", "spaces", "apps")):
            self._resolve()
        self.reconciler.changed()

    def _republished(self) -> None:
        if not self.config.intent_file:
            self._obey(self.revisions.intents)

    def _obey(self, intents: Intents) -> None:
        self._written = intent.together(intents)
        self._resolve()
        self.reconciler.changed()

    async def watch_intent(self) -> None:
        """Read the intent file again when it changes. A file with a fault changes nothing but the alarm."""
        path = Path(self.config.intent_file)
        seen = self._mtime(path)
        while True:
            await self._record_file()
            await asyncio.sleep(INTENT_POLL_SECONDS)
            if (now := self._mtime(path)) == seen:
                continue
            seen = now
            try:
                self._file = policyfile.load(str(path))
                self._intent_error = None
            except RefusedError as refusal:
                self._intent_error = refusal.refused
                log.error("intent refused", code=refusal.refused.code, reason=refusal.refused.message)
                continue
            self._obey(self._file)

    async def _record_file(self) -> None:
        """As a revision, so that its history is kept, and nothing is lost where a bridge obeys no file any more. It is
        in force meanwhile: a store that is away keeps no rule waiting."""
        if self._file is self._recorded or time.monotonic() < self._record_after:
            return
        try:
            await self.revisions.record(self._file, self.config.intent_file)
            self._recorded = self._file
        except (RefusedError, Unavailable) as fault:
            self._record_after = time.monotonic() + RECORD_AGAIN_SECONDS
            log.warning("intent not recorded", reason=str(fault))

    @staticmethod
    def _mtime(path: Path) -> int:
        try:
            return path.stat().st_mtime_ns
        except OSError:  # not there, or not ours to see: reading it says what is wrong
            return 0

    def _not_ready(self) -> str:
        unread = [state.name for state in self._inventory.values() if not state.ready]
        return f"{', '.join(unread)} has not been read in full yet" if unread else ""

    def _wish(self, guid: str, name: str) -> OrgWish:
        """What is wished for an org that a container names: by id, or by name for one that the foundation did not tell
        us yet. What it calls one that we know is its word only."""
        foundation = self.config.foundations[0].name
        org = qualify(foundation, guid)
        if org not in self._inventory[foundation].orgs and any(
            wish.name == name and not wish.org for wish in self._intent.tenants
        ):
            self._met[name] = org
            self._resolve()
        return self._wish_of(org, name)

    def _wish_of(self, org: QualifiedId, name: str) -> OrgWish:
        return next((wish for wish in self._intent.tenants if wish.org == org), OrgWish(org, name=name))

    async def _realise(self, revision: int) -> None:
        """The newest snapshot, compiled and delivered. While the store is away the last network stays in force."""
        try:
            await self._ensure()
            snapshot = self._take(revision)
            if missing := await asyncio.to_thread(self._compiler.missing_ids, snapshot):
                await self._number(missing)
                snapshot = self._take(revision)
        except Unavailable as fault:
            self._store_away = str(fault)
            log.error("store away", reason=str(fault))
            await asyncio.sleep(1.0)
            self.reconciler.changed()
            return
        self._store_away = ""
        self._snapshot = snapshot
        if self._not_ready():
            return
        self._compiled = await asyncio.to_thread(self._compiler.compile, snapshot, time.time())
        self.cells.deliver(self._compiled.network)
        self._wake_for_expiry(snapshot.intent)

    async def _number(self, keys: Collection[str]) -> None:
        """Ids for these. A key that can get none is quarantined by the compiler, alone."""
        try:
            await self._holdings.rule_ids([key for key in keys if unstorable(key) is None])
        except RefusedError as refusal:
            log.error("no rule ids", code=refusal.refused.code, reason=refusal.refused.message)

    def _wake_for_expiry(self, written: Intent) -> None:
        """An allow that expires ends then, although nothing else changes."""
        if self._alarm_clock is not None:
            self._alarm_clock.cancel()
        now = time.time()
        ahead = [rule.expires_at - now for rule in written.rules if rule.expires_at and rule.expires_at > now]
        pause = min(ahead, default=None)
        if pause is not None:
            loop = asyncio.get_running_loop()
            self._alarm_clock = loop.call_later(min(pause, LONGEST_SLEEP_SECONDS), self.reconciler.changed)

    def _take(self, revision: int) -> Snapshot:
        return Snapshot(
            revision=revision,
            inventory=self._inventory,
            intent=self._intent,
            held=self._holdings.held,
            cells=self.cells.states,
            pools=self.config.pools,
            defaults=self.config.defaults,
        )

    async def _ensure(self) -> None:
        """Wishes that changed are brought to the holdings: SNAT addresses of an org in NAT mode, a VM's address."""
        if (bound := self._bound) != self._bound_stored:
            await memory.keep_tenants(self._store, bound)
            self._bound_stored = bound
        for wish in self._intent.tenants:
            wanting = wish.org and self._ensured.get(wish.org) != wish
            if wanting and not isinstance(await self._holdings.org(wish), Refused):
                self._ensured[wish.org] = wish
        await self._holdings.depart(self._departed())
        for vm in self._intent.vms:
            held = self._holdings.held.leases.get(f"vm:{vm.name}", ())
            wanted = {(address, vm.org) for address in vm.addresses}
            if vm.org and {(lease.address, str(lease.org)) for lease in held} != wanted:
                org = QualifiedId(vm.org)
                known = self._inventory[unqualify(org)[0]].orgs.get(org)
                wish = self._wish_of(org, known.name if known else "")
                await self._holdings.lease(f"vm:{vm.name}", wish, vm.cell, fixed=vm.addresses)
        # By what people wrote: an org that is not read yet, or has another name now, takes no machine's address away.
        declared = {f"vm:{vm.name}" for vm in self._written.vms if vm.org}
        known_of = {**self._holdings.held.leases, **self._holdings.held.refusals}
        machines = [workload for workload in known_of if workload.startswith("vm:")]
        for workload in machines:
            if workload not in declared:
                await self._holdings.release(workload)

    def _departed(self) -> frozenset[QualifiedId]:
        """Orgs that hold something, or were there before, and that a complete look did not find. One with containers is
        not lost by this."""
        looks = {name: state.looks.get("orgs", Look()) for name, state in self._inventory.items()}
        seen = {name for name, look in looks.items() if look.complete_at is not None and not look.remembered}
        whole = {name: self._inventory[name].orgs for name in seen}
        known = self._gone | {network.org for network in self._holdings.held.org_networks}
        return frozenset(org for org in known if (name := unqualify(org)[0]) in whole and org not in whole[name])


@asynccontextmanager
async def started(config: BridgeConfig) -> AsyncIterator[Bridge]:
    """A running bridge: store open, cells and API listening, foundations watched. A loop that fails ends it, loudly."""
    async with AsyncExitStack() as stack:
        store = await Store.open(config.store)
        stack.push_async_callback(store.close)
        holdings = await Holdings.open(store, config.pools, config.defaults)
        stack.push_async_callback(holdings.close)
        bound = await memory.tenants(store)
        revisions = await Revisions.open(store, by_file=config.intent_file)
        bridge = Bridge(config, store, holdings, bound, revisions, await Drafts.open(store, revisions))
        agents = await bridge.cells.serve(config.agent_socket)
        stack.callback(agents.close)
        recalled = await memory.recall(store, bridge.snapshot.inventory)
        for each in config.foundations:
            bridge.watches[each.name] = FoundationWatch(each, bridge.publish, remembered=recalled[each.name])
            bridge.publish(bridge.watches[each.name].state)
        watches = bridge.watches.values()
        writing = Memory(store, lambda: [watch.state for watch in watches])
        stack.push_async_callback(writing.close)
        stack.push_async_callback(bridge.audit.close)
        server = await api.serve(bridge, config.api, config.state_dir)
        stack.push_async_callback(server.close)
        loops = [
            _until_done(holdings),
            bridge.reconciler.run(),
            writing.run(),
            bridge.audit.run(),
            *(watch.run() for watch in watches),
        ]
        if config.intent_file:
            loops.append(bridge.watch_intent())
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(loop) for loop in loops]
            log.info("bridge ready", epoch=store.epoch, socket=config.agent_socket)
            try:
                yield bridge
            finally:
                for task in running:
                    task.cancel()


async def _until_done(holdings: Holdings) -> None:
    """The writer ends by itself only when a newer bridge leads the store, or by a bug: either ends this bridge."""
    await asyncio.shield(holdings.writer)


async def run(config: BridgeConfig) -> None:
    """`cfbridge serve`: until SIGTERM or SIGINT. The dataplane stays as it is."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with started(config):
        if config.cell is not None and config.cell.agent_config:
            await _start_agent(config.cell.agent_config)
        await stop.wait()
    log.info("bridge stopped")


async def _start_agent(agent_config: str) -> None:
    """The agent as a child in a session of its own: it outlives a dead bridge."""
    command = (sys.executable, "-m", "cfbridge.cli", "agent", "--config", agent_config)
    process = await asyncio.create_subprocess_exec(*command, start_new_session=True, env=dict(os.environ))
    log.info("agent started", pid=process.pid)
