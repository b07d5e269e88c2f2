"""What do tests of the API stand on? It is served over a facade without a bridge, by socket and by TCP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from cfbridge import api
from cfbridge.api.server import ApiServer
from cfbridge.client import AdminClient
from cfbridge.settings import ApiConfig
from tests.cfbridge.api.world import FakeFacade


@pytest.fixture
def facade() -> FakeFacade:
    return FakeFacade()


@pytest.fixture
async def server(facade: FakeFacade, tmp_path: Path) -> AsyncIterator[ApiServer]:
    running = await api.serve(facade, ApiConfig((f"unix:{tmp_path}/api.sock", "127.0.0.1:0")), str(tmp_path / "state"))
    yield running
    await running.close()


@pytest.fixture
async def asked(server: ApiServer) -> AsyncIterator[aiohttp.ClientSession]:
    """With the token."""
    headers = {"Authorization": f"Bearer {server.token}"}
    async with aiohttp.ClientSession(server.addresses[1], headers=headers) as session:
        yield session


@pytest.fixture
async def client(server: ApiServer) -> AsyncIterator[AdminClient]:
    """As root, asking once."""
    async with AdminClient.local(server.addresses[0].removeprefix("unix:"), attempts=1) as local:
        yield local
