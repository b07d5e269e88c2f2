"""A foundation of one's own for every test that asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from cfbridge.simulator import certificates
from cfbridge.simulator.box import Box, SimulatorConfig, serve


@pytest.fixture(scope="session")
def certificate_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: keys are slow to make, and a box keeps what it finds."""
    directory = tmp_path_factory.mktemp("certificates")
    certificates.ensure(directory)
    return directory


@pytest.fixture
async def box(certificate_directory: Path) -> AsyncIterator[Box]:
    async with await serve(SimulatorConfig(certificate_directory)) as running:
        yield running


@pytest.fixture
async def session(box: Box) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=certificates.client_context(box.certificates))
    async with aiohttp.ClientSession(connector=connector) as running:
        yield running


def token_of(box: Box, user: str) -> str:
    known = box.state.user_named(user)
    assert known is not None
    return box.tokens.for_user(known, "cf", "password")[0]


@pytest.fixture
def admin(box: Box) -> dict[str, str]:
    return {"Authorization": f"bearer {token_of(box, 'admin')}"}


@pytest.fixture
def dev(box: Box) -> dict[str, str]:
    return {"Authorization": f"bearer {token_of(box, 'dev')}"}
