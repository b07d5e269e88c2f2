"""How long does the kernel's change take when one policy comes or goes, and does it depend on how many are there?

The real linux driver, fed as an agent is, with connections under way. `added` and `removed` are plan → kernel; after a
removal its connection must be dead. `…_in_all` is render, diff and apply: the cell's part between the bridge's word and
`Reached`. Beside it, in the same run and in turns: the same elements as bare netlink messages to the same kernel (the
floor), by an `nft -f -` process, and an iptables chain written anew (`bench.silk`).

Compiling 20,000 policies leaves the processor's caches in another state than compiling 1,000: seen in this way the
kernel itself took 1.45 times as long for one element. So every timed step begins with equally cold caches.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from functools import partial

from bench import cells, silk
from bench.figures import Figure, median, percentile
from cfbridge.simulator.lab import CELL, UPLINK, Lab
from garden_plugin.cell import nft
from garden_plugin.cell.nft_sets import TABLE, Elements, spell
from garden_plugin.dataplane import plan
from garden_plugin.dataplane.base import Change, Item, Key, Plan
from garden_plugin.dataplane.cell import LocalState
from garden_plugin.dataplane.linux.driver import LinuxDataplane
from garden_plugin.dataplane.linux.firewall import Firewall
from garden_plugin.dataplane.linux.items import SetItem
from garden_plugin.dataplane.linux.skeleton import SETS
from garden_plugin.dataplane.linux.table import Table, delta
from policy_sync.ruleset import Ruleset

ONE_MORE = cells.policy(0, 1, 443)
STANDING = 50
"""Connections that no change concerns."""

_ELSEWHERE = b"?" * (16 << 20)


def _cold() -> float:
    """Whatever was done before, the caches hold something else now. The seconds that it took are nobody's."""
    began = time.perf_counter()
    _ELSEWHERE.count(b"!")
    return time.perf_counter() - began


class Timed(LinuxDataplane):
    """The driver with a watch in the hand: when did its plan begin to be applied?"""

    seconds = 0.0
    cooling = 0.0

    def _apply(self, todo: Plan, wanted: dict[Key, Item], ruleset: Ruleset | None) -> None:
        self.cooling = _cold()
        began = time.perf_counter()
        super()._apply(todo, wanted, ruleset)
        self.seconds = time.perf_counter() - began


class Talk:
    """Connections between the two containers: those that stand, and the one that a removed policy has to cut."""

    def __init__(self, stack: AsyncExitStack, client: cells.Inside, server: cells.Inside, port: int) -> None:
        self._client, self._port = client, port
        self._stack = stack.enter_context(ExitStack())
        listener = server(lambda: socket.create_server((cells.address(1), port), backlog=STANDING))
        self._listener = self._stack.enter_context(listener)
        self._begun: socket.socket | None = None

    def begin(self) -> None:
        client = self._client(lambda: socket.create_connection((cells.address(1), self._port), timeout=2))
        self._begun = self._stack.enter_context(client)
        self._stack.enter_context(self._listener.accept()[0])

    def was_cut(self) -> bool:
        assert self._begun is not None
        try:
            self._begun.send(b"?")
            self._begun.recv(1)
        except ConnectionResetError:
            return True
        except TimeoutError:
            pass
        return False


@dataclass
class Side:
    """One thing that is measured at one size: `act(number)` makes the change and says what it took, in seconds."""

    name: str
    act: Callable[[int], dict[str, float]]
    once_in: int = 1
    """Slow sides are asked at every so manieth round only."""
    samples: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, number: int) -> None:
        if number % self.once_in:
            return
        for name, seconds in self.act(number // self.once_in).items():
            self.samples.setdefault(name, []).append(1000 * seconds)


def run(quick: bool) -> list[Figure]:
    sizes = (50, 100) if quick else (1_000, 10_000, 20_000)
    return asyncio.run(_run(sizes, rounds=4 if quick else 120, containers=3 if quick else 250))


async def _run(sizes: tuple[int, ...], rounds: int, containers: int) -> list[Figure]:
    figures: list[Figure] = []
    async with AsyncExitStack() as stack:
        sides: dict[int, list[Side]] = {}
        loop = asyncio.get_running_loop()
        for size in sizes:
            sides[size] = [
                await _cfbridge(stack, loop, size, containers),
                *await asyncio.to_thread(_peers, stack.enter_context(ExitStack()), size, containers, rounds),
            ]
        gc.collect()
        gc.freeze()  # the bridge's part, which is in this process, is no load of an agent's
        for number in range(rounds):
            for turn in zip(*sides.values(), strict=True):
                for side in turn:
                    await asyncio.to_thread(side.measure, number)
    least = {name: samples for side in sides[sizes[0]] for name, samples in side.samples.items()}
    for size in sizes:
        ours, floor, *peers = sides[size]
        for name, samples in (*ours.samples.items(), *floor.samples.items()):
            note = f"p50; p99 {percentile(samples, 0.99):.2f}; {len(samples)} changes, {containers} containers"
            figures.append(_figure(name, size, samples, least[name], f"{sizes[0]} present", note))
        for name, samples in ((name, samples) for peer in peers for name, samples in peer.samples.items()):
            base = ours.samples["removed_in_all"]
            figures.append(_figure(name, size, samples, base, "cfbridge, removed in all", f"p50 of {len(samples)}"))
    return figures


def _figure(name: str, size: int, samples: Sequence[float], base: Sequence[float], to: str, note: str) -> Figure:
    value = median(samples)
    return Figure(f"kernel_change.{name}.{size}", value, "ms", value / median(base), to, note)


async def _cfbridge(stack: AsyncExitStack, loop: asyncio.AbstractEventLoop, size: int, count: int) -> Side:
    lab = stack.enter_context(Lab())
    made, local = await stack.enter_async_context(cells.cell(lab, count, Timed))
    assert isinstance(made, Timed)
    wanted = cells.Wanted([port.handle for port in local.ports.values()])
    few = frozenset(cells.policy(*pair) for pair in cells.pairs(size))
    many = few | {ONE_MORE}
    await made.converge(wanted.network(few), local)
    client, server = (stack.enter_context(cells.entered(port.netns)) for port in [*local.ports.values()][:2])
    talk = [Talk(stack, client, server, port) for port in (cells.PORT, ONE_MORE.first_port)]
    for _ in range(STANDING):
        talk[0].begin()

    def act(number: int) -> dict[str, float]:
        network = wanted.network(few if number % 2 else many)

        async def converge() -> float:
            began = time.perf_counter()
            await made.converge(network, local)
            return time.perf_counter() - began

        seconds = asyncio.run_coroutine_threadsafe(converge(), loop).result()
        what = "removed" if number % 2 else "added"
        if number % 2:
            assert talk[1].was_cut(), "a connection outlived its policy"
        else:
            talk[1].begin()
        return {what: made.seconds, f"{what}_in_all": seconds - made.cooling}

    return Side("cfbridge", act)


def _peers(stack: ExitStack, size: int, count: int, rounds: int) -> Iterable[Side]:
    """Each in a namespace of its own, with the same things in it."""
    lab = stack.enter_context(Lab())
    peers = [*_same_elements(stack, lab, size)]
    # A rewrite takes seconds at 20,000: three to five of them say enough.
    seldom = max(1, rounds // (5 if size < 10_000 else 3))
    peers += [_iptables(stack, lab, backend, size, count, seldom) for backend in silk.installed()]
    return peers


def _same_elements(stack: ExitStack, lab: Lab, size: int) -> Iterable[Side]:
    """The driver's own table, nobody watching it, and the same elements as bare messages and as a script."""
    inside = stack.enter_context(cells.entered(lab.namespace("nft").path))
    wanted = cells.Wanted([])
    few = frozenset(cells.policy(*pair) for pair in cells.pairs(size))
    firewall, local = Firewall(), LocalState("cell", CELL, (UPLINK,))
    before = firewall.render(wanted.network(few), local)
    after = firewall.render(wanted.network(few | {ONE_MORE}), local)
    table = Table(inside)
    stack.callback(table.close)
    table.replace(before.values())
    changes = plan.diff(before, after).changes
    scripts = [_script(changes, "add"), _script(changes, "delete")]
    elements = dict(_new(changes))
    adding = [*itertools.chain(*(nft.add_elements(name, SETS[name], new) for name, new in elements.items()))]
    removing = [[*nft.delete_elements(name, SETS[name], new)] for name, new in elements.items()]

    def bare(number: int) -> dict[str, float]:
        added = _timed(inside, lambda: table.nft.commit(adding))
        return {"netlink_added": added, "netlink_removed": _timed(inside, lambda: [*map(table.nft.commit, removing)])}

    def script(number: int) -> dict[str, float]:
        return {"nft": sum(_timed(inside, partial(nft.run, each)) for each in scripts) / len(scripts)}

    yield Side("netlink", bare)
    yield Side("nft", script)


def _new(changes: Iterable[Change]) -> Iterator[tuple[str, Elements]]:
    """What was added to which set, `allow` before `live`: the order in which the driver removes."""
    for change in changes:
        assert isinstance(change.before, SetItem)
        assert isinstance(change.after, SetItem)
        yield change.after.name, delta(change.before, change.after)[1]


def _script(changes: Iterable[Change], verb: str) -> str:
    lines = []
    for name, new in _new(changes):
        shape = SETS[name]
        written = ", ".join(spell(shape, key, data) for key, data in new.items())
        lines.append(f"{verb} element {TABLE} {name} {{ {written} }}")
    return "\n".join([*lines, ""])


def _iptables(stack: ExitStack, lab: Lab, backend: str, size: int, count: int, seldom: int) -> Side:
    inside = stack.enter_context(cells.entered(lab.namespace(backend).path))
    few = silk.rules([*cells.pairs(size)])
    many = [*few, (0, 1, 443)]
    inside(lambda: silk.restore(backend, silk.whole(count, few, "vpa--0")))

    def act(number: int) -> dict[str, float]:
        said = silk.swap(count, few if number % 2 else many, f"vpa--{number}", f"vpa--{number + 1}")
        return {backend: _timed(inside, lambda: silk.restore(backend, said, "--noflush"))}

    return Side(backend, act, seldom)


def _timed(inside: cells.Inside, act: Callable[[], object]) -> float:
    """What `act` took in there, without the way in."""

    def measured() -> float:
        _cold()
        began = time.perf_counter()
        act()
        return time.perf_counter() - began

    return inside(measured)
