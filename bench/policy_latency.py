"""How long from the policy server's answer to a new policy until the first packet passes?

this process ─ POST ─> simulator <─ poll, whole list on each change ─ bridge ─ span ─> agent ─> kernel
     └─ datagrams every 2 ms, container to container, to a port that is fresh in every sample ─────┘
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
import time
from collections.abc import Sequence
from functools import partial

from bench import busy, figures
from bench.apart import Admin, BoxApart
from bench.figures import Figure
from cfbridge.simulator.garden import Container
from garden_plugin.cell.netlink import inside

EVERY_SECONDS = 0.002
DEADLINE_SECONDS = 10.0
SAMPLED_PORT = 40_000


def run(quick: bool) -> list[Figure]:
    apps, policies, samples = (4, 40, 10) if quick else (100, 10_000, 200)
    return asyncio.run(measure("policy_latency", apps, [*busy.policies(apps, policies)], samples, (300, 600)))


async def measure(
    name: str, apps: int, policies: Sequence[tuple[int, int, int]], samples: int, reach: tuple[int, int]
) -> list[Figure]:
    """`apps`: so many of the first have an instance on the cell. `reach`: milliseconds of p50 and p99."""
    async with BoxApart(log_level="warning") as box, Admin(box.foundation.foundation) as admin:
        await admin.add(policies)
        handles = [f"bench-{number:04d}" for number in range(apps)]
        for begin in range(0, apps, 25):
            several = enumerate(handles[begin : begin + 25], begin)
            await asyncio.gather(*(box.diego.guardian.create(busy.spec(handle, app)) for app, handle in several))
        source, destination = (box.diego.guardian.containers[handle] for handle in handles[:2])
        seconds = []
        began, load = time.perf_counter(), box.elsewhere.load()
        used = {process: figures.cpu_seconds(box.pid(process)) for process in ("bridge", "agent")}
        for number in range(samples):
            await asyncio.sleep(random.uniform(0.1, 0.4))  # not in step with the poll
            seconds.append(await _sample(admin, source, destination, SAMPLED_PORT + number))
        after, lasted = box.elsewhere.load(), time.perf_counter() - began
        spent = {process: figures.cpu_seconds(box.pid(process)) - before for process, before in used.items()}
    p50, p99 = (1000 * figures.percentile(seconds, share) for share in (0.50, 0.99))
    where = f"{len(policies)} policies, {samples} samples"
    requests, much = after.requests - load.requests, after.bytes - load.bytes
    share = (after.cpu_seconds - load.cpu_seconds) / lasted
    every = f"one change in {lasted / samples:.2f} s"
    return [
        Figure(f"{name}_p50", p50, "ms", p50 / reach[0], f"reach {reach[0]} ms", where),
        Figure(f"{name}_p99", p99, "ms", p99 / reach[1], f"reach {reach[1]} ms", where),
        Figure(f"{name}_best", 1000 * min(seconds), "ms", note="what is left when the poll comes at once"),
        Figure(f"{name}_server_requests", requests / lasted, "1/s", note=every),
        Figure(f"{name}_server_bytes", much / lasted / 1e6, "MB/s", note=every),
        *(
            Figure(f"{name}_{process}_cpu", 1000 * seconds / samples, "ms a change", note=f"{every}, polls included")
            for process, seconds in spent.items()
        ),
        Figure(f"{name}_server_cpu", 100 * share, "% of a core", note="the whole simulator, POSTs included"),
    ]


async def _sample(admin: Admin, source: Container, destination: Container, port: int) -> float:
    """Seconds from the answer to the POST; 0 where the packet was there first."""
    listener = _socket(destination)
    sender = _socket(source)
    arrived: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    ended = threading.Event()
    listener.bind((destination.address, port))
    listener.settimeout(DEADLINE_SECONDS)
    sender.connect((destination.address, port))
    threads = [
        threading.Thread(target=partial(_send, sender, ended)),
        threading.Thread(target=partial(_hear, listener, arrived, asyncio.get_running_loop())),
    ]
    try:
        for thread in threads:
            thread.start()
        await asyncio.sleep(0.02)
        if arrived.done():
            raise RuntimeError("a packet passed before there was a policy")
        await admin.add([(0, 1, port)], protocol="udp")
        answered = time.perf_counter()
        return max(0.0, await arrived - answered)
    finally:
        ended.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        listener.close()
        sender.close()


def _socket(container: Container) -> socket.socket:
    descriptor = os.open(container.netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return inside(descriptor, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    finally:
        os.close(descriptor)


def _send(sender: socket.socket, ended: threading.Event) -> None:
    while not ended.wait(EVERY_SECONDS):
        try:
            sender.send(b"?")
        except ConnectionRefusedError:  # the cell's answer to the one before
            continue


def _hear(listener: socket.socket, arrived: asyncio.Future[float], loop: asyncio.AbstractEventLoop) -> None:
    try:
        listener.recv(16)
        at = time.perf_counter()
    except TimeoutError:
        late = RuntimeError(f"no packet passed within {DEADLINE_SECONDS} s")
        loop.call_soon_threadsafe(arrived.set_exception, late)
    else:
        loop.call_soon_threadsafe(arrived.set_result, at)
