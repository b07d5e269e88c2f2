"""What does a cell at work look like? A box whose cell has so many containers and whose foundation so many policies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from bench import busy
from cfbridge.demo.box import Box
from cfbridge.simulator.policy_table import PolicyKey

_AT_ONCE = 25


@asynccontextmanager
async def filled(containers: int, policies: int, looks: Mapping[str, Any] | None = None) -> AsyncIterator[Box]:
    """`looks`: how often the bridge looks at the foundation, where not as hurriedly as a demo's."""
    async with Box(log_level="warning", looks=looks or {}) as box:
        keys = (
            PolicyKey(busy.app_guid(source), busy.app_guid(destination), "tcp", port, port)
            for source, destination, port in busy.policies(containers, policies)
        )
        box.foundation.state.policies.create(keys)
        for begin in range(0, containers, _AT_ONCE):
            several = range(begin, min(containers, begin + _AT_ONCE))
            guardian = box.diego.guardian
            await asyncio.gather(*(guardian.create(busy.spec(f"stands-{number}", number)) for number in several))
        await asyncio.sleep(1.0)
        yield box
