"""How is one cell's part of the network kept true in its kernel?

converge: render (firewall, links) ─> diff against what we believe ─> fill ─> re-stamp ─> retire ─> links
open, any failure, any foreign change: what we believe is what is there (observe)

All kernel work happens in one worker thread; the event loop only waits. Elements are there before the link that needs
them, and gone before it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from egress.topology import Topology
from egress.values import Refused, Unavailable
from garden_plugin.cell import plug, sysctls
from garden_plugin.cell.netlink import Netlink
from garden_plugin.cell.netlink_watch import NetlinkWatch
from garden_plugin.cell.nft_answers import Counted
from garden_plugin.cell.nft_watch import Watch
from garden_plugin.dataplane import plan
from garden_plugin.dataplane.base import Change, Item, Key, LogicalNetwork, Plan
from garden_plugin.dataplane.cell import LocalPort, LocalState
from garden_plugin.dataplane.linux import arp, conntrack, drift, firewall, harm, links, presence, revocation
from garden_plugin.dataplane.linux.arp import ArpItem
from garden_plugin.dataplane.linux.conntrack import Conntrack, Restamped, Suspects
from garden_plugin.dataplane.linux.firewall import Firewall
from garden_plugin.dataplane.linux.items import ChainItem, SetItem
from garden_plugin.dataplane.linux.pace import Pace
from garden_plugin.dataplane.linux.revocation import Ranged
from garden_plugin.dataplane.linux.table import Table
from garden_plugin.settings import AgentConfig
from policy_sync.ruleset import Decider, Ruleset

T = TypeVar("T")
_SETTLE_SECONDS = 0.05
_RETRY_SECONDS = 0.5
_SETTINGS_SECONDS = 2.0
"""Between looks at the cell's own settings, of most of which the kernel tells nobody."""
_REFUSED_SECONDS = 5.0
"""Between attempts at what could not be made, besides those that a converge or a new device brings."""


def _nobody_listens(what: object) -> None:
    pass


class LinuxDataplane:
    """`netns`: descriptor of the namespace to work in; None for the process's own."""

    def __init__(self, config: AgentConfig, netns: int | None = None) -> None:
        self.drifted: Callable[[str], None] = _nobody_listens
        self.broken: Callable[[BaseException], None] = _nobody_listens
        self.refused: Mapping[Key, Refused] = {}
        """What could not be made at the last converge; tried again at the next."""
        self._config = config
        self._netns = netns
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="linux-dataplane")
        self._firewall = Firewall()
        self._believed: dict[Key, Item] | None = None
        self._left: Mapping[Key, Item] | None = None
        """What the last change left, also when it is not believed any more; None when a change ended half-way."""
        self._drift: deque[str] = deque()
        """What somebody changed, and nobody was told yet. The worker adds, the loop takes."""
        self._pace = Pace()
        self._looked = False
        self._judged: Ruleset | None = None
        """What every live connection was last judged by; None after a start, when the kernel is believed."""
        self._unjudged = False
        """Rules were put in force anew, and nobody knows what was before."""
        self._ranged = Ranged()
        self._dead: set[int] = set()
        """Ids that died, and whose connections were not looked for since."""
        self._links: tuple[tuple[Topology, LocalState], dict[Key, Item]] | None = None
        self._last: tuple[LogicalNetwork | None, LocalState] | None = None
        self._network: LogicalNetwork | None = None
        self._six = False
        """Somebody here had an IPv6 address, so the cell forwards it."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._foreign = asyncio.Event()
        self._open = False

    # --- the protocol -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        await self._run(self._enter)
        self._open = True
        self._listen()
        for work in (
            self._heal_when_touched(),
            self._look_again(),
            self._look_at_settings(),
            self._try_refused_again(),
        ):
            task = asyncio.create_task(work)
            task.add_done_callback(self._ended)
            self._tasks.add(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (bug := task.exception()) is not None:
            self.broken(bug)

    async def converge(self, network: LogicalNetwork | None, local: LocalState) -> None:
        await self._run(partial(self._converge, network, local))
        self._tell()
        if self._dead:
            task = asyncio.create_task(self._tidy())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _tidy(self) -> None:
        with contextlib.suppress(Unavailable):  # the ids stay noted until the next time
            await self._run(self._look_behind)

    async def detach(self, ports: Sequence[LocalPort]) -> None:
        if ports:
            await self._run(partial(self._detach, ports))
            self._tell()

    async def addresses(self) -> tuple[str, ...]:
        return await self._run(self._addresses)

    async def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._run(self._leave)
        self._worker.shutdown()

    async def counters(self) -> dict[int, Counted]:
        """Rule id → packets and bytes of what it admitted, or refused."""
        return await self._run(self._counters)

    async def _run(self, act: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, act)
        except OSError as failed:
            raise Unavailable(f"the kernel refused: {failed}") from failed

    # --- in the worker ------------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        self._netlink = Netlink(self._netns)
        settings = self._settings()
        memory = Path(self._config.state_dir, "chains") if self._config.state_dir else None
        self._table = Table(self._netlink.inside, memory, _boot(self._config.boot_id_file))
        if self._table.remembers:  # else they are set for the first time
            self._drift.extend(settings)
        self._conntrack = self._netlink.inside(Conntrack)
        self._watch = self._netlink.inside(Watch)
        self._netlink_watch = self._netlink.inside(NetlinkWatch)

    def _leave(self) -> None:
        for opened in (self._netlink_watch, self._watch, self._conntrack, self._table, self._netlink):
            opened.close()

    def _converge(self, network: LogicalNetwork | None, local: LocalState) -> Plan:
        """Answers what had to be done."""
        self._last = (network, local)  # not before: a look that is under way heals what is in force, no more
        try:
            if network is None and self._network is not None:
                network = self._network
            wanted = self._render(network, local) if network is not None else self._unheard(local)
            if not self._six and any(kind == "route" and ":" in name for kind, name, *_ in wanted):
                self._netlink.inside(sysctls.ensure_ipv6_forwarding)
                self._six = True
            if self._believed is None:
                self._observe(wanted)
            todo = plan.diff(self._believed or {}, wanted)
            self._apply(todo, wanted, None if network is None else network.ruleset)
            self._network = network
        except BaseException:
            self._believed = self._left = None
            raise
        self._left = self._believed
        return todo

    def _render(self, network: LogicalNetwork, local: LocalState) -> dict[Key, Item]:
        vms = firewall.vms_here(network.topology.ports, local)
        return {
            **self._firewall.render(network, local),
            **arp.render(vms),
            **self._render_links(network.topology, local),
        }

    def _render_links(self, topology: Topology, local: LocalState) -> dict[Key, Item]:
        """Most changes concern rules alone."""
        if self._links is None or self._links[0] != (topology, local):
            self._links = ((topology, local), links.render(topology, local))
        return self._links[1]

    def _unheard(self, local: LocalState) -> dict[Key, Item]:
        """What is in force, with isolated ports added and absent ports removed: nobody told us the rest yet."""
        fresh = self._render(LogicalNetwork(), replace(local, ports=presence.isolated(local)))
        left = self._left
        if self._believed is None:
            self._observe(fresh)
            if self._table.harm:  # what is in force is not what we were told, and nobody tells us what it should be
                self._make_anew(fresh, closed=True)
                left = None
        return presence.kept(left or self._believed or {}, fresh, local)

    def _observe(self, wanted: Mapping[Key, Item]) -> None:
        left = self._left
        table = self._table.observe(wanted if left is None else left)
        found = links.observe(self._netlink)
        harm = [*self._table.harm]
        if left is not None:
            before = {k: item for k, item in left.items() if table is not None or not isinstance(item, _OF_FIREWALL)}
            seen = {key: item for key, item in {**(table or {}), **found}.items() if key not in self.refused}
            harm += drift.sentences(before, seen)
        elif not self._looked and self._table.remembers:
            harm += self._missed(found)
        self._looked = True
        self._drift.extend(harm)
        if harm:  # whom it let in has a mark like anybody else
            self._unjudged = True
        self._believed = {**(table or {}), **found}
        if table is None:
            self._make_anew(wanted, closed=self._last is None or (self._last[0] or self._network) is None)

    def _make_anew(self, wanted: Mapping[Key, Item], *, closed: bool) -> None:
        """The whole table; the links stay. `closed`: nobody told us yet who may talk to whom."""
        kept = {key: item for key, item in (self._believed or {}).items() if not isinstance(item, _OF_FIREWALL)}
        if closed:
            self._believed = self._table.close_all(wanted.values()) | kept
        else:
            self._table.replace(wanted.values())
            self._believed = {key: item for key, item in wanted.items() if isinstance(item, _OF_FIREWALL)} | kept
        self._unjudged = True

    def _missed(self, found: Mapping[Key, Item]) -> Iterator[str]:
        """What containers that stand should have had when we came, and had not. (Sets may differ by right.)"""
        if self._last is not None:
            wanted = links.render(Topology(), self._last[1])
            there = {key: found[key] for key in wanted if key in found}
            yield from (f"when the agent came, {said}" for said in drift.sentences(wanted, there))

    def _apply(self, todo: Plan, wanted: dict[Key, Item], ruleset: Ruleset | None) -> None:
        ours = [change for change in todo.changes if _of_firewall(change)]
        self._table.fill(ours)
        if ruleset is not None and (ours or self._unjudged or self._judged is not ruleset):
            self._rejudge(ruleset, ours)
        refused = dict(links.apply(self._netlink, (change for change in todo.changes if not _of_firewall(change))))
        self._conntrack.forget(presence.addresses_gone(todo.changes))
        self._believed = {key: item for key, item in wanted.items() if key not in refused}
        self.refused = refused

    def _rejudge(self, ruleset: Ruleset, changes: Sequence[Change]) -> Restamped:
        """Rules are in, dead ids still live: so a connection that another rule allows never stops."""
        if self._unjudged or (self._judged is None and changes):
            suspects = Suspects(everything=True)
        else:
            suspects = conntrack.suspects(self._judged or ruleset, ruleset)
        outcome = Restamped()
        ranged = self._ranged.of(ruleset.policies)  # each time: two changes at once would have to be compared
        if suspects:
            judge = Decider(ruleset, ranged).decide
            doomed = revocation.hopeless(self._judged or ruleset, ruleset, suspects, judge)
            if pressing := replace(suspects, marks=suspects.marks - doomed):
                outcome = conntrack.restamp(self._conntrack, pressing, judge)
        self._table.retire(changes)
        self._dead |= suspects.marks
        self._judged, self._unjudged = ruleset, False
        return outcome

    def _look_behind(self) -> None:
        """Connections that carry a dead id still: what nothing could take over, and what slipped in while we looked.
        They are cut or judged anew at their next packet; so this is not waited for."""
        if self._dead and self._judged is not None:
            judge = Decider(self._judged, self._ranged.of(self._judged.policies)).decide
            conntrack.restamp(self._conntrack, Suspects(marks=frozenset(self._dead)), judge)
        self._dead.clear()

    def _detach(self, ports: Sequence[LocalPort]) -> None:
        self._want_no_more(ports)
        try:
            if self._believed is None:
                self._observe({} if self._last is None else self._wanted_last())
            changes, left = presence.without(self._believed or {}, ports)
            self._table.fill(change for change in changes if _of_firewall(change))
            links.apply(self._netlink, (change for change in changes if not _of_firewall(change)))
            self._conntrack.forget({address for port in ports for address in port.addresses})
            self._believed = self._left = left
        except BaseException:
            self._believed = self._left = None
            raise

    def _want_no_more(self, ports: Sequence[LocalPort]) -> None:
        """A look that comes before the next converge must not bring them back."""
        if self._last is not None:
            network, local = self._last
            gone = {port.device for port in ports}
            left = {name: port for name, port in local.ports.items() if port.device not in gone}
            self._last = (network, replace(local, ports=left))

    def _wanted_last(self) -> dict[Key, Item]:
        assert self._last is not None
        network, local = self._last
        return self._render(network or LogicalNetwork(), local)

    def _addresses(self) -> tuple[str, ...]:
        found = (address.address for address in self._netlink.addresses())
        return tuple(dict.fromkeys(address for address in found if not address.startswith(("127.", "fe80:", "::1"))))

    def _counters(self) -> dict[int, Counted]:
        nft = self._table.nft
        found = {**nft.counters("refused"), **nft.counters("live")}
        return {int.from_bytes(key, "little"): counted for key, counted in found.items()}

    # --- drift --------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        for watch in (self._watch, self._netlink_watch):
            asyncio.get_running_loop().add_reader(watch.fileno(), self._foreign.set)

    def _stop_listening(self) -> None:
        for watch in (self._watch, self._netlink_watch):
            asyncio.get_running_loop().remove_reader(watch.fileno())

    async def _heal_when_touched(self) -> None:
        while True:
            await self._foreign.wait()
            self._foreign.clear()
            self._stop_listening()
            await asyncio.sleep(_SETTLE_SECONDS)
            try:
                if await self._run(self._touched) and await self._look():
                    await asyncio.sleep(self._pace.healed(time.monotonic()))
            except Unavailable:
                await asyncio.sleep(_RETRY_SECONDS)
                self._foreign.set()
            if self._open:
                self._listen()

    def _touched(self) -> bool:
        """In the worker: while it runs, everything that we did has been told."""
        nft = self._watch.heard() - self._table.own_ports
        held = harm.done(self._netlink_watch.heard(), self._netlink, self._believed or {}, self.refused)
        if nft or held:
            self._believed = None
        return self._believed is None

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(self._config.resync_seconds)
            await self._run(self._forget_belief)
            try:
                await self._look()
            except Unavailable:
                continue

    async def _look_at_settings(self) -> None:
        while True:
            await asyncio.sleep(_SETTINGS_SECONDS)
            with contextlib.suppress(Unavailable):  # the next look finds it
                self._drift.extend(await self._run(self._settings))
                self._tell()

    async def _try_refused_again(self) -> None:
        while True:
            await asyncio.sleep(_REFUSED_SECONDS)
            if self.refused and self._last is not None:
                with contextlib.suppress(Unavailable):  # the next attempt finds out what is there
                    await self._run(self._converge_again)
                    self._tell()

    def _forget_belief(self) -> None:
        self._believed = None

    async def _look(self) -> bool:
        """Whether somebody had changed something; it is healed."""
        if self._last is None:
            return False
        await self._run(self._heal)
        return self._tell()

    def _heal(self) -> None:
        self._drift.extend(self._settings())
        self._converge_again()

    def _converge_again(self) -> None:
        assert self._last is not None
        self._converge(*self._last)

    def _settings(self) -> list[str]:
        """The cell's own settings, healed; what was changed of them, in words."""

        def ours() -> frozenset[str]:
            links = self._netlink.links().items()
            return frozenset(name for name, link in links if plug.is_ours(link) or plug.vm_mark(name) in link.names)

        changed = self._netlink.inside(partial(sysctls.ensure_forwarding, ours))
        changed |= self._netlink.inside(sysctls.ensure_ipv6_forwarding) if self._six else {}
        return [drift.setting(name, value) for name, value in changed.items() if not sysctls.is_consequence(name)]

    def _tell(self) -> bool:
        if not self._drift:
            return False
        self.drifted(drift.report(self._drift.popleft() for _ in range(len(self._drift))))
        return True


_OF_FIREWALL = (SetItem, ChainItem, ArpItem)


def _of_firewall(change: Change) -> bool:
    return isinstance(change.before, _OF_FIREWALL) or isinstance(change.after, _OF_FIREWALL)


def _boot(path: str) -> str:
    """Empty where nothing says it; the agent has refused that already."""
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError):
        return ""
