"""On what do the contracts run? On every real implementation: here a SQLite file and a PostgreSQL server of our own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from cfbridge.store import Store
from tests.postgres import Server, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    yield from running()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty store's URL, on each engine."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state.db"
        return
    server: Server = request.getfixturevalue("postgres")
    name = f"cfb_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(host=server.folder, port=5432, user="cfbridge", database="postgres")
    await admin.execute(f"CREATE DATABASE {name}")
    yield server.url(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


OpenStore = Callable[[], Awaitable[Store]]


@pytest.fixture
async def open_store(store_url: str) -> AsyncIterator[OpenStore]:
    """Opens the same store again and again, as bridges after each other do."""
    opened: list[Store] = []

    async def open_() -> Store:
        store = await Store.open(store_url)
        opened.append(store)
        return store

    yield open_
    for store in opened:
        await store.close()
