"""What does a TCP connection between two containers pay for the policies that others have?

Every side is a namespace with two containers on veths: routes alone (the floor), the real linux dataplane with N
policies, an iptables dataplane with N (`bench.silk`). The policy that is used lies in the middle of the others.
Timed is a connection's life, as in "connections per second": socket, connect, accept, reset; and by itself
(`handshake`) the call of connect: SYN, SYN-ACK and ACK, forwarded one after the other on the one CPU that the process
is pinned to, nothing else. The sides take turns in short bursts; the quietest burst of each counts.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from bench import cells, silk
from bench.figures import Figure, median
from cfbridge.simulator.lab import Lab, Namespace

BURST = 100
SLOW, SELDOM = 300.0, 20
"""Who takes so many microseconds has its turn in every so manieth round."""
_FORWARD = "net.ipv4.ip_forward=1\nnet.ipv4.conf.all.rp_filter=0\nnet.ipv4.conf.default.rp_filter=0"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Burst(NamedTuple):
    """Microseconds of one connection, on average."""

    life: float
    handshake: float


@dataclass
class Side:
    name: str
    connect: Callable[[int], Burst]
    """So many times."""
    bursts: list[Burst] = field(default_factory=list)


def run(quick: bool) -> list[Figure]:
    sizes = (5, 20) if quick else (10, 1_000, 20_000)
    return asyncio.run(_run(sizes, rounds=3 if quick else 400, containers=4 if quick else cells.APPS))


async def _run(sizes: tuple[int, ...], rounds: int, containers: int) -> list[Figure]:
    async with AsyncExitStack() as stack:
        floor = _routed(stack.enter_context(ExitStack()), "forward_only")
        ours = {size: await _cfbridge(stack, size) for size in sizes}
        peers = {
            size: [_iptables(stack.enter_context(ExitStack()), each, size, containers) for each in silk.installed()]
            for size in sizes
        }
        sides = [floor, *ours.values(), *(peer for each in peers.values() for peer in each)]
        await asyncio.to_thread(_bursts, sides, rounds)
    figures: list[Figure] = []
    for prefix, part in (("connect_overhead", _life), ("connect_overhead.handshake", _handshake)):
        least = part(floor)
        figures.append(Figure(f"{prefix}.forward_only", least[0], "µs", note=least[1]))
        for size in sizes:
            for side in (ours[size], *peers[size]):
                value, note = part(side)
                figures.append(
                    Figure(f"{prefix}.{side.name}.{size}", value, "µs", value / least[0], "forward only", note)
                )
        few, many = part(ours[sizes[0]])[0], part(ours[sizes[-1]])[0]
        figures.append(Figure(f"{prefix}.growth.{sizes[-1]}", many, "µs", many / few, f"cfbridge at {sizes[0]}"))
    return figures


def _life(side: Side) -> tuple[float, str]:
    return _least([burst.life for burst in side.bursts])


def _handshake(side: Side) -> tuple[float, str]:
    return _least([burst.handshake for burst in side.bursts])


def _least(bursts: Sequence[float]) -> tuple[float, str]:
    return min(bursts), f"least of {len(bursts)} bursts of {BURST}; median {median(bursts):.1f}"


def _bursts(sides: list[Side], rounds: int) -> None:
    """In a thread: it alone is pinned. Softirqs of what it sends run where it runs."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    slow = {id(side) for side in sides if side.connect(BURST).life > SLOW}  # and caches and neighbours are known now
    for number in range(rounds):
        for side in sides:
            if id(side) not in slow or number % SELDOM == 0:
                side.bursts.append(side.connect(BURST))


async def _cfbridge(stack: AsyncExitStack, size: int) -> Side:
    lab = stack.enter_context(Lab())
    made, local = await stack.enter_async_context(cells.cell(lab, 2))
    wanted = cells.Wanted([port.handle for port in local.ports.values()])
    await made.converge(wanted.network(frozenset(cells.policy(*pair) for pair in cells.pairs(size))), local)
    ends = [port.netns for port in local.ports.values()]
    return _side(stack.enter_context(ExitStack()), "cfbridge", ends[0], ends[1])


def _iptables(stack: ExitStack, backend: str, size: int, containers: int) -> Side:
    lab = stack.enter_context(Lab())
    side = _links(stack, lab, backend)
    # Ours is the first of the pairs: here it goes to the middle, where the average policy is.
    first, *others = silk.rules([*cells.pairs(size)])
    half = len(others) // 2
    script = silk.whole(containers, [*others[:half], first, *others[half:]], "vpa--0")
    inside = stack.enter_context(cells.entered(lab.cell.path))
    inside(lambda: silk.restore(backend, script))
    return side


def _routed(stack: ExitStack, name: str) -> Side:
    return _links(stack, stack.enter_context(Lab()), name)


def _links(stack: ExitStack, lab: Lab, name: str) -> Side:
    """Two containers, plugged in as ours are, but with routes in the main table and nobody who asks."""
    lab.cell.sysctl(_FORWARD)
    ends = []
    for n in range(2):
        guest = lab.namespace(f"c{n}")
        _plug(lab.cell, guest, f"cf-{n}", cells.address(n))
        ends.append(guest.path)
    return _side(stack, name, ends[0], ends[1])


def _plug(cell: Namespace, guest: Namespace, device: str, address: str) -> None:
    cell.ip(
        f"link add {device} type veth peer name eth0 netns {guest.name}\n"
        f"link set {device} up\n"
        f"address add 169.254.1.1/32 dev {device}\n"
        f"route add {address}/32 dev {device}\n"
    )
    guest.ip(
        f"address add {address}/32 dev eth0\n"
        f"link set eth0 up\n"
        f"route add 169.254.1.1 dev eth0 scope link\n"
        f"route add default via 169.254.1.1\n"
    )


def _side(stack: ExitStack, name: str, client: str, server: str) -> Side:
    enter = stack.enter_context(cells.entered(client))
    at = stack.enter_context(cells.entered(server))
    listener = at(lambda: socket.create_server((cells.address(1), cells.PORT), backlog=BURST))
    stack.callback(listener.close)

    def connect(count: int) -> Burst:
        return enter(lambda: _connect(listener, count))

    return Side(name, connect)


def _connect(listener: socket.socket, count: int) -> Burst:
    """A socket belongs to the namespace that it was made in, so one thread is both ends. Closed by a reset: no port
    waits, and no goodbye is paid for."""
    handshakes = 0.0
    to = (cells.address(1), cells.PORT)
    began = time.perf_counter()
    for _ in range(count):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            before = time.perf_counter()
            client.connect(to)
            handshakes += time.perf_counter() - before
            listener.accept()[0].close()
    whole = time.perf_counter() - began
    return Burst(1e6 * whole / count, 1e6 * handshakes / count)
