"""What do scenarios stand on? A foundation in a box, started once for all tests of a file; each brings its own apps."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from cfbridge.demo.box import Box


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box() -> AsyncIterator[Box]:
    async with Box() as made:
        yield made
