"""How does the foundation run as a process of its own? One JSON line when it is ready, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys

import orjson

from cfbridge.simulator.box import SimulatorConfig, serve


async def run(config: SimulatorConfig) -> None:
    """Serve until told to end."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, ended.set)
    async with await serve(config) as box:
        sys.stdout.write(orjson.dumps(box.foundation.as_json()).decode() + "\n")
        sys.stdout.flush()
        await ended.wait()
