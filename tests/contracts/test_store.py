"""Does each engine keep what was written, guard against double allocation, and speak our words when it fails?"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from cfbridge.store import Audited, Confirmed, Deposed, Drafted, Revised, Store, Stored, tables
from cfbridge.store import store as store_
from egress.ledger import Changes, Holding
from egress.model import Lease, OrgNetwork, SnatAddress
from egress.values import QualifiedId, RefusedError, Unavailable

ACME, GLOBEX = QualifiedId("cf:acme"), QualifiedId("cf:globex")
NETWORK = OrgNetwork(ACME, "10.240.0.0/24", "overlay")
LEASE = Lease("10.240.0.3", "cf:a", ACME, "cell-1")
SNAT = SnatAddress(ACME, "203.0.113.1", "snat")
RESTING = Lease("10.240.0.3", "cf:a", ACME, "cell-1", 1_700_000_000.123456)

MOMENTS = 90
"""Turns of the event loop; a commit takes about as many."""

OpenStore = Callable[[], Awaitable[Store]]


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    opened = await open_store()
    await opened.lead()
    return opened


async def test_a_new_store_is_empty(store: Store) -> None:
    assert await store.load() == Stored()
    assert await store.settings() == {}


async def test_what_was_committed_is_there_for_the_next_bridge(store: Store, open_store: OpenStore) -> None:
    await store.commit(Changes(((None, NETWORK),), ((None, LEASE),), ((None, SNAT),)), {"policy:☃": 1})
    await store.set("colour", "blue")
    await store.set("colour", "green")
    await store.close()
    after = await open_store()
    assert await after.load() == Stored(Holding((NETWORK,), (LEASE,), (SNAT,)), {"policy:☃": 1})
    assert await after.settings() == {"colour": "green"}


async def test_a_row_is_changed_given_to_another_and_deleted(store: Store) -> None:
    other = Lease("10.240.0.3", "cf:b", GLOBEX, "cell-2")
    await store.commit(Changes(leases=((None, LEASE),)))
    await store.commit(Changes(leases=((LEASE, RESTING),)))
    assert (await store.load()).holding.leases == (RESTING,)
    await store.commit(Changes(leases=((RESTING, other),)))
    assert (await store.load()).holding.leases == (other,)
    await store.commit(Changes(leases=((other, None),)))
    assert (await store.load()).holding.leases == ()


@pytest.mark.parametrize(
    ("changes", "rule_ids"),
    [
        pytest.param(Changes(leases=((None, Lease("10.240.0.3", "cf:b", GLOBEX)),)), None, id="address"),
        pytest.param(
            Changes(leases=((RESTING, Lease("10.240.0.3", "cf:b", GLOBEX)),)), None, id="address thought free"
        ),
        pytest.param(Changes(org_networks=((None, OrgNetwork(GLOBEX, "10.240.0.0/24", "p")),)), None, id="prefix"),
        pytest.param(Changes(snat_addresses=((None, SnatAddress(GLOBEX, "203.0.113.1", "p")),)), None, id="snat"),
        pytest.param(Changes(), {"k": 2}, id="rule key"),
        pytest.param(Changes(), {"other": 1}, id="rule id"),
        pytest.param(Changes(), {"other": 1 << 30}, id="rule id of 31 bits"),
    ],
)
async def test_nothing_is_given_twice_and_the_rest_of_the_commit_is_undone(
    store: Store, changes: Changes, rule_ids: dict[str, int] | None
) -> None:
    await store.commit(Changes(((None, NETWORK),), ((None, LEASE),), ((None, SNAT),)), {"k": 1})
    before = await store.load()
    innocent = (None, Lease("10.240.0.4", "cf:innocent", ACME))
    with pytest.raises(Unavailable):
        await store.commit(Changes(changes.org_networks, (innocent, *changes.leases), changes.snat_addresses), rule_ids)
    assert await store.load() == before


async def test_who_does_not_lead_writes_nothing(open_store: OpenStore) -> None:
    store = await open_store()
    with pytest.raises(Deposed):
        await store.commit(Changes(leases=((None, LEASE),)))
    assert await store.load() == Stored()


async def test_the_older_epochs_writes_are_refused(store: Store, open_store: OpenStore) -> None:
    newer = await open_store()
    assert await newer.lead() > store.epoch
    with pytest.raises(Deposed):
        await store.commit(Changes(leases=((None, LEASE),)))
    with pytest.raises(Deposed):
        await store.set("colour", "blue")
    await newer.commit(Changes(leases=((None, LEASE),)))
    assert (await store.load()).holding.leases == (LEASE,)


async def test_what_was_confirmed_is_replaced_whole_and_can_be_confirmed_again(
    store: Store, open_store: OpenStore
) -> None:
    apps, policies = (
        Confirmed("cf", "apps", 1, 10.0, b"\0apps\xff"),
        Confirmed("cf", "policies", 1, 10.0, b"p" * 100_000),
    )
    await store.confirm([apps, policies])
    await store.confirm([replace(policies, at=20.5, content=b"")], [("cf", "apps", 20.0), ("cf", "orgs", 20.0)])
    after = await open_store()
    assert await after.confirmed() == (replace(apps, at=20.0), replace(policies, at=20.5, content=b""))
    await after.lead()
    with pytest.raises(Deposed):
        await store.confirm([apps])


async def test_a_store_of_the_first_cfbridge_is_taken_over(open_store: OpenStore) -> None:
    store = await open_store()
    await store.lead()
    await store.commit(Changes(leases=((None, LEASE),)))
    async with store._engine.begin() as connection:
        for table in ("confirmed", "revisions", "drafts", "audit"):
            await connection.execute(sa.text(f"DROP TABLE {table}"))
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    after = await open_store()
    assert (await after.load()).holding.leases == (LEASE,)
    assert await after.confirmed() == ()
    assert await after.revisions() == ()


async def test_the_migrations_make_the_tables_that_the_code_speaks(store: Store) -> None:
    def differences(connection: sa.Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), tables.metadata))

    async with store._engine.connect() as connection:
        assert await connection.run_sync(differences) == []


def test_the_newest_migration_is_the_one_that_the_code_names() -> None:
    assert ScriptDirectory(str(store_.MIGRATIONS)).get_heads() == [store_.NEWEST]


async def test_a_store_of_a_newer_cfbridge_is_refused(store: Store, open_store: OpenStore) -> None:
    async with store._engine.begin() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(RefusedError, match="STORE_TOO_NEW"):
        await open_store()


@pytest.mark.parametrize(
    "url", ["", "sqlite://", "sqlite:///:memory:", "mysql://host/db", "postgresql://h:port/x", "/var/state.db"]
)
async def test_a_url_that_can_be_no_store_is_refused(url: str) -> None:
    with pytest.raises(RefusedError, match="STORE_URL_BAD"):
        await Store.open(url)


@pytest.mark.parametrize("url", ["sqlite:///{0}/no/folder/state.db", "postgresql://cfbridge@/x?host={0}&port=5432"])
async def test_a_store_that_is_not_there_is_unavailable(url: str, tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await Store.open(url.format(tmp_path))


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database, " * 1000)
    with pytest.raises(Unavailable, match="not a database"):
        await Store.open(f"sqlite:///{tmp_path}/state.db")


async def test_any_fault_of_the_engine_is_unavailable(store: Store) -> None:
    async with store._engine.begin() as connection:
        for table in ("leases", "settings", "rule_ids"):
            await connection.execute(sa.text(f"DROP TABLE {table}"))
    for attempt in (store.load, store.settings, lambda: store.set("a", "b"), lambda: store.commit(Changes(), {"k": 1})):
        with pytest.raises(Unavailable):
            await attempt()


@pytest.mark.postgres
async def test_a_broken_connection_is_made_anew(postgres: str, store: Store, store_url: str) -> None:
    if store_url.startswith("postgresql"):
        async with store._engine.connect() as connection:
            backend = (await connection.execute(sa.text("SELECT pg_backend_pid()"))).scalar_one()
        killer = await Store.open(store_url)
        async with killer._engine.connect() as connection:
            await connection.execute(sa.text(f"SELECT pg_terminate_backend({backend})"))
        await killer.close()
    else:
        await store.close()
    await store.commit(Changes(leases=((None, LEASE),)))
    assert (await store.load()).holding.leases == (LEASE,)


async def test_a_write_given_up_in_any_moment_keeps_nobody_from_writing(tmp_path: Path) -> None:
    """SQLite alone: what is left on a server, the server ends."""
    url = f"sqlite:///{tmp_path}/state.db"
    gc.disable()  # what only the collector would end must not be needed
    try:
        for turns in range(MOMENTS):
            store = await Store.open(url)
            await store.lead()
            leases = tuple((None, Lease(f"10.{turns}.0.{n}", f"cf:{turns}-{n}", ACME, "cell-1")) for n in range(8))
            writing = asyncio.ensure_future(store.commit(Changes(leases=leases), {f"policy:{turns}": turns + 1}))
            for _ in range(turns):
                await asyncio.sleep(0)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await store.close()
        mine = asyncio.current_task()
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not mine))  # connections that close yet
    finally:
        gc.enable()


async def test_a_full_disk_is_unavailable_and_what_was_there_stays(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite:///{tmp_path}/state.db")
    await store.lead()
    await store.commit(Changes(leases=((None, LEASE),)))
    async with store._engine.connect() as connection:
        await connection.exec_driver_sql("PRAGMA max_page_count = 30")
    with pytest.raises(Unavailable, match="full"):
        await store.commit(Changes(), {f"policy:{n}": n for n in range(1, 10_000)})
    assert await store.load() == Stored(Holding(leases=(LEASE,)))
    await store.close()


async def test_sqlite_commits_survive_a_power_cut(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite:///{tmp_path}/state.db")
    async with store._engine.connect() as connection:
        assert (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar() == "wal"
        assert (await connection.exec_driver_sql("PRAGMA synchronous")).scalar() == 2
    await store.close()


async def test_a_commit_that_its_bridge_gave_up_waiting_for_is_seen_by_who_reads_next(open_store: OpenStore) -> None:
    first, second = await open_store(), await open_store()
    await first.lead()
    under_way, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with first._transaction("writing slowly") as connection:
            await first._check_epoch(connection)
            await connection.execute(sa.insert(tables.leases).values(**asdict(LEASE)))
            under_way.set()
            await go_on.wait()

    writing = asyncio.create_task(slow())
    await under_way.wait()
    reading = asyncio.create_task(second.load())
    await asyncio.sleep(0.2)
    assert not reading.done()
    go_on.set()
    await writing
    assert (await reading).holding.leases == (LEASE,)


FIRST = Revised(1, 1_700_000_000.5, "ro☃t", "", "1 to add", b"\x00\xff")
SECOND = replace(FIRST, number=2, content=b"two")


async def test_revisions_are_there_for_the_next_bridge_and_listed_without_content(
    store: Store, open_store: OpenStore
) -> None:
    assert await store.revision() is None
    await store.revise(FIRST)
    await store.revise(SECOND)
    await store.close()
    after = await open_store()
    assert await after.revision() == SECOND
    assert await after.revision(1) == FIRST
    assert await after.revision(3) is None
    assert await after.revisions() == (replace(SECOND, content=b""), replace(FIRST, content=b""))


async def test_a_revision_that_is_not_the_next_one_is_refused_and_changes_nothing(store: Store) -> None:
    await store.revise(FIRST)
    for number in (1, 3):
        with pytest.raises(RefusedError, match="REVISION_OUTDATED"):
            await store.revise(replace(SECOND, number=number))
    assert await store.revisions() == (replace(FIRST, content=b""),)


async def test_who_does_not_lead_publishes_nothing(store: Store, open_store: OpenStore) -> None:
    newer = await open_store()
    await newer.lead()
    with pytest.raises(Deposed):
        await store.revise(FIRST)
    assert await newer.revision() is None


async def test_drafts_are_there_for_the_next_bridge_until_they_go(store: Store, open_store: OpenStore) -> None:
    first, second = (Drafted(name, "ro☃t", 1_700_000_000.5, b"\x00[]") for name in ("a", "b"))
    await store.draft("b", second)
    await store.draft("a", replace(first, content=b"old"))
    await store.draft("a", first)
    await store.close()
    after = await open_store()
    assert await after.drafts() == (first, second)
    await after.lead()
    await after.draft("a", None)
    assert await after.drafts() == (second,)


async def test_the_audit_log_grows_and_is_read_page_by_page(store: Store, open_store: OpenStore) -> None:
    entries = [Audited(float(n), "ro☃t", "local", "PUT /intent", "", 200, n, "a\nb") for n in range(1, 6)]
    await store.append(entries[:2])
    await store.append(entries[2:])
    await store.close()
    after = await open_store()
    newest = await after.audited(None, 2)
    assert [replace(each, id=0) for each in newest] == [entries[4], entries[3]]
    older = await after.audited(newest[-1].id, 10)
    assert [replace(each, id=0) for each in older] == entries[2::-1]
    assert len({each.id for each in (*newest, *older)}) == 5
