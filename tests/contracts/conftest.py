"""On what do the contracts run? On every real implementation: here a SQLite file and a PostgreSQL server of our own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from cfbridge.store import Store


def _postgres(program: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: int(path.parts[4]))
    path = str(found[-1]) if found else shutil.which(program)
    assert path, f"{program} is not installed; the contracts need PostgreSQL (apt install postgresql)"
    return path


def _user() -> str:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A server on a unix socket in a folder of its own, gone afterwards: its base URL's socket folder."""
    with tempfile.TemporaryDirectory(prefix="cfb-postgres-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        account = pwd.getpwnam(_user())
        if os.geteuid() == 0:
            os.chown(folder, account.pw_uid, account.pw_gid)
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        cluster = f"{folder}/cluster"
        subprocess.run(
            [_postgres("initdb"), "-D", cluster, "-U", "cfbridge", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
            check=True,
            capture_output=True,
            cwd=folder,
            timeout=60,
            **identity,
        )
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen(
                [_postgres("postgres"), "-D", cluster, "-k", folder, "-c", "listen_addresses=", "-c", "port=5432"],
                stdout=log,
                stderr=log,
                cwd=folder,
                **identity,
            )
        try:
            _await_answer(server, folder)
            yield folder
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _await_answer(server: subprocess.Popen[bytes], folder: str) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        ready = subprocess.run([_postgres("pg_isready"), "-q", "-h", folder, "-p", "5432"], check=False)
        if ready.returncode == 0:
            return
        assert server.poll() is None, Path(folder, "log").read_text()
        time.sleep(0.05)
    raise AssertionError("PostgreSQL did not come up: " + Path(folder, "log").read_text())


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty store's URL, on each engine."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state.db"
        return
    folder = request.getfixturevalue("postgres")
    name = f"cfb_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(host=folder, port=5432, user="cfbridge", database="postgres")
    await admin.execute(f"CREATE DATABASE {name}")
    yield f"postgresql://cfbridge@/{name}?host={folder}&port=5432"
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
