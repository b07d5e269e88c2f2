"""How is what is held written down, so that it is there after any crash? One SQL layer for SQLite and PostgreSQL.

open ──migrate──> lead (a new epoch) ──> load ──> commit, commit, …    each refused once a newer epoch leads

Nothing of SQLAlchemy or of a driver leaves this file: a fault is `Unavailable`, a wrong URL is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from cfbridge.store import tables
from cfbridge.store.nouns import Audited, Confirmed, Drafted, Revised
from egress.ledger import Changes, Holding
from egress.model import Lease, OrgNetwork, SnatAddress
from egress.values import QualifiedId, Refused, RefusedError, Unavailable

MIGRATIONS = Path(__file__).parent / "migrations"
NEWEST = "0005"
"""The migration that this code speaks; a store that has it needs no alembic at start, which takes long to import."""
ANSWER_SECONDS = 10.0
"""Well within the 25 s that an `up` waits."""


class Deposed(Unavailable):
    """Another bridge leads since: this one's writes are refused, and it must not go on."""


@dataclass(frozen=True, slots=True)
class Stored:
    holding: Holding = field(default_factory=Holding)
    rule_ids: Mapping[str, int] = field(default_factory=dict)


class Store:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.epoch = 0
        """0 = does not lead, and writes nothing."""

    @classmethod
    async def open(cls, url: str) -> Store:
        """`sqlite:////path` or `postgresql://…`, migrated to the newest. RefusedError: this URL can't be. Unavailable:
        nobody answers there."""
        engine = _engine(url)
        try:
            async with _border("opening"):
                await _migrate(engine)
        except BaseException:
            await engine.dispose()
            raise
        return cls(engine)

    async def lead(self) -> int:
        """From now on this store writes, and whoever led before it does not."""
        async with self._transaction("taking the lead") as connection:
            answer = await connection.execute(
                sa.update(tables.leader).values(epoch=tables.leader.c.epoch + 1).returning(tables.leader.c.epoch)
            )
            epoch = int(answer.scalar_one())
        self.epoch = epoch
        return epoch

    async def overtake(self, epoch: int) -> None:
        """Lead on, by the epoch after this one. Deposed: another bridge leads."""
        async with self._transaction("taking the lead anew") as connection:
            await self._check_epoch(connection)
            await connection.execute(sa.update(tables.leader).values(epoch=epoch + 1))
        self.epoch = epoch + 1

    async def load(self) -> Stored:
        """Everything that was committed, and a commit that its bridge gave up waiting for: its end is waited for."""
        async with self._transaction("reading what is held") as connection:
            await connection.execute(sa.select(tables.leader.c.epoch).with_for_update())
            networks = await connection.execute(sa.select(tables.org_networks).order_by(tables.org_networks.c.prefix))
            leases = await connection.execute(sa.select(tables.leases).order_by(tables.leases.c.address))
            snat = await connection.execute(sa.select(tables.snat_addresses).order_by(tables.snat_addresses.c.address))
            ids = await connection.execute(sa.select(tables.rule_ids.c.key, tables.rule_ids.c.id))
            return Stored(
                Holding(
                    tuple(OrgNetwork(QualifiedId(r.org), r.prefix, r.pool, r.position, r.emptied_at) for r in networks),
                    tuple(Lease(r.address, r.workload, QualifiedId(r.org), r.cell, r.released_at) for r in leases),
                    tuple(SnatAddress(QualifiedId(r.org), r.address, r.pool, r.position, r.released_at) for r in snat),
                ),
                {row.key: row.id for row in ids},
            )

    async def commit(self, changes: Changes, rule_ids: Mapping[str, int] | None = None) -> None:
        """All of it, or nothing. Deposed: a newer epoch leads."""
        async with self._transaction("writing what is held") as connection:
            await self._check_epoch(connection)
            # What makes room goes first: a subnet that was cut anew may overlap one that just went.
            await _write(connection, tables.org_networks, "prefix", "org", "emptied_at", changes.org_networks)
            await _write(connection, tables.leases, "address", "workload", "released_at", changes.leases)
            await _write(connection, tables.snat_addresses, "address", "org", "released_at", changes.snat_addresses)
            if rule_ids:
                rows = [{"key": key, "id": value} for key, value in rule_ids.items()]
                await connection.execute(sa.insert(tables.rule_ids), rows)

    async def settings(self) -> Mapping[str, str]:
        async with self._transaction("reading settings") as connection:
            rows = await connection.execute(sa.select(tables.settings.c.key, tables.settings.c.value))
            return {row.key: row.value for row in rows}

    async def set(self, key: str, value: str) -> None:
        async with self._transaction("writing a setting") as connection:
            await self._check_epoch(connection)
            await connection.execute(sa.delete(tables.settings).where(tables.settings.c.key == key))
            await connection.execute(sa.insert(tables.settings).values(key=key, value=value))

    async def confirmed(self) -> tuple[Confirmed, ...]:
        async with self._transaction("reading what was confirmed") as connection:
            table = tables.confirmed
            rows = await connection.execute(sa.select(table).order_by(table.c.foundation, table.c.kind))
            return tuple(Confirmed(r.foundation, r.kind, r.format, r.at, bytes(r.content)) for r in rows)

    async def confirm(self, rows: Sequence[Confirmed], again: Sequence[tuple[str, str, float]] = ()) -> None:
        """These instead of what was there of their kinds. `again`: (foundation, kind, at) of what a look confirmed
        anew, unchanged."""
        async with self._transaction("writing what was confirmed") as connection:
            await self._check_epoch(connection)
            table = tables.confirmed
            same = sa.and_(table.c.foundation == sa.bindparam("b_foundation"), table.c.kind == sa.bindparam("b_kind"))
            if rows:
                keys = [{"b_foundation": row.foundation, "b_kind": row.kind} for row in rows]
                await connection.execute(sa.delete(table).where(same), keys)
                await connection.execute(sa.insert(table), [asdict(row) for row in rows])
            if again:
                update = sa.update(table).where(same).values(at=sa.bindparam("b_at"))
                times = [dict(zip(("b_foundation", "b_kind", "b_at"), each, strict=True)) for each in again]
                await connection.execute(update, times)

    async def revise(self, revision: Revised) -> None:
        """The next one after the newest. RefusedError where it is not: a commit that was given up came in after all."""
        async with self._transaction("writing a revision") as connection:
            await self._check_epoch(connection)
            newest = (await connection.execute(sa.select(sa.func.max(tables.revisions.c.number)))).scalar() or 0
            if revision.number != newest + 1:
                raise RefusedError(Refused("REVISION_OUTDATED", f"The newest revision is {newest} by now; look again."))
            await connection.execute(sa.insert(tables.revisions).values(**asdict(revision)))

    async def drafts(self) -> tuple[Drafted, ...]:
        async with self._transaction("reading drafts") as connection:
            rows = await connection.execute(sa.select(tables.drafts).order_by(tables.drafts.c.name))
            return tuple(Drafted(r.name, r.author, r.at, bytes(r.content)) for r in rows)

    async def draft(self, name: str, content: Drafted | None) -> None:
        """This instead of what was collected under the name; None: nothing."""
        async with self._transaction("writing a draft") as connection:
            await self._check_epoch(connection)
            await connection.execute(sa.delete(tables.drafts).where(tables.drafts.c.name == name))
            if content is not None:
                await connection.execute(sa.insert(tables.drafts).values(**asdict(content)))

    async def append(self, entries: Sequence[Audited]) -> None:
        """To the audit log, in their order."""
        async with self._transaction("writing the audit log") as connection:
            await self._check_epoch(connection)
            rows = [{key: value for key, value in asdict(entry).items() if key != "id"} for entry in entries]
            await connection.execute(sa.insert(tables.audit), rows)

    async def audited(self, before: int | None, limit: int) -> tuple[Audited, ...]:
        """Newest first, older than `before`."""
        table = tables.audit
        listed = sa.select(table).order_by(table.c.id.desc()).limit(limit)
        async with self._transaction("reading the audit log") as connection:
            rows = await connection.execute(listed if before is None else listed.where(table.c.id < before))
            return tuple(Audited(**row) for row in rows.mappings())

    async def revision(self, number: int | None = None) -> Revised | None:
        """That one, or the newest."""
        table = tables.revisions
        chosen = sa.select(table).order_by(table.c.number.desc()).limit(1)
        async with self._transaction("reading a revision") as connection:
            rows = await connection.execute(chosen if number is None else chosen.where(table.c.number == number))
            found = [Revised(r.number, r.at, r.author, r.reason, r.summary, bytes(r.content)) for r in rows]
            return found[0] if found else None

    async def revisions(self) -> tuple[Revised, ...]:
        """Newest first, without content."""
        table = tables.revisions
        listed = sa.select(*(column for column in table.c if column is not table.c.content))
        async with self._transaction("reading revisions") as connection:
            rows = await connection.execute(listed.order_by(table.c.number.desc()))
            return tuple(Revised(r.number, r.at, r.author, r.reason, r.summary) for r in rows)

    async def close(self) -> None:
        async with _border("closing"):
            await self._engine.dispose()

    @asynccontextmanager
    async def _transaction(self, doing: str) -> AsyncIterator[AsyncConnection]:
        async with _border(doing), asyncio.timeout(ANSWER_SECONDS), self._engine.begin() as connection:
            yield connection

    async def _check_epoch(self, connection: AsyncConnection) -> None:
        # Locked until our commit, so that nobody takes the lead between the look and the write.
        found = (await connection.execute(sa.select(tables.leader.c.epoch).with_for_update())).scalar_one()
        if found != self.epoch or not self.epoch:
            raise Deposed(f"this bridge wrote as epoch {self.epoch}, but epoch {found} leads the store")


async def _write(
    connection: AsyncConnection,
    table: sa.Table,
    key: str,
    holder: str,
    ended: str,
    changes: tuple[tuple[Any | None, Any | None], ...],
) -> None:
    """A row that somebody else holds in use is never overwritten: it is inserted, and the constraint decides."""
    fresh, changed, gone, reused = [], [], [], []
    for before, after in changes:
        if after is None:
            gone.append({"b_key": getattr(before, key)})
        elif before is not None and getattr(before, holder) == getattr(after, holder):
            row = asdict(after)
            changed.append({"b_key": row.pop(key), "b_holder": row.pop(holder), **row})
        else:
            if before is not None:
                reused.append({"b_key": getattr(before, key)})
            fresh.append(asdict(after))
    at_key = table.c[key] == sa.bindparam("b_key")
    if gone:
        await connection.execute(sa.delete(table).where(at_key), gone)
    if reused:
        await connection.execute(sa.delete(table).where(at_key, table.c[ended].is_not(None)), reused)
    if changed:
        await connection.execute(sa.update(table).where(at_key, table.c[holder] == sa.bindparam("b_holder")), changed)
    if fresh:
        await connection.execute(sa.insert(table), fresh)


def _engine(url: str) -> AsyncEngine:
    scheme, _, rest = url.partition("://")
    if scheme in ("postgresql", "postgres"):
        if importlib.util.find_spec("asyncpg") is None:
            text = "A PostgreSQL store needs the asyncpg driver; install cfbridge[postgres]."
            raise RefusedError(Refused("STORE_DRIVER_MISSING", text, "/store"))
        parsed = _parse(f"postgresql+asyncpg://{rest}")
        return create_async_engine(
            parsed,
            pool_size=2,
            pool_pre_ping=True,  # a restarted server is found at the next use, not by a failed commit
            hide_parameters=True,
            connect_args={"timeout": 5, "command_timeout": ANSWER_SECONDS},
        )
    if scheme != "sqlite":
        text = "The store is sqlite:////absolute/path or postgresql://user@host/database."
        raise RefusedError(Refused("STORE_URL_BAD", text, "/store"))
    parsed = _parse(f"sqlite+aiosqlite://{rest}")
    if not parsed.database or parsed.database == ":memory:":
        text = "The store needs a file: what is held in memory is lost at the next start."
        raise RefusedError(Refused("STORE_URL_BAD", text, "/store"))
    engine = create_async_engine(parsed, hide_parameters=True, connect_args={"timeout": 5})
    sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    sa.event.listen(engine.sync_engine, "begin", _begin_immediate)
    sa.event.listen(engine.sync_engine, "invalidate", _roll_back)
    return engine


def _parse(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except (SQLAlchemyError, ValueError):
        raise RefusedError(Refused("STORE_URL_BAD", "The store's URL can't be read.", "/store")) from None


def _prepare_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; _begin_immediate does
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 5000")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # NORMAL may lose the last commits with the power
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    """Writers queue at the start: a read that later wants to write can't be refused for what came between."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


_rollbacks: set[asyncio.Task[None]] = set()
"""Under way; the event loop itself keeps no task from the garbage collector."""


def _roll_back(connection: DBAPIConnection, _: ConnectionPoolEntry, __: BaseException | None) -> None:
    """Before a connection that was given up amid a statement is closed: SQLite keeps the lock of a closed one until the
    garbage collector comes by its statement, and until then nobody writes."""

    async def roll_back() -> None:
        with contextlib.suppress(sqlite3.Error, ValueError):  # what can't be rolled back is closed all the same
            await connection.driver_connection.rollback()

    task = asyncio.get_running_loop().create_task(roll_back())
    _rollbacks.add(task)
    task.add_done_callback(_rollbacks.discard)


async def _migrate(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        there = await connection.run_sync(lambda sync: sa.inspect(sync).has_table("alembic_version"))
        if there:
            found = (await connection.execute(sa.text("SELECT version_num FROM alembic_version"))).scalar()
            if found == NEWEST:
                return
            if found is not None and not any((MIGRATIONS / "versions").glob(f"{found}_*.py")):
                text = f"The store was written by a newer cfbridge (schema {found}); start that one, or a backup."
                raise RefusedError(Refused("STORE_TOO_NEW", text, "/store"))
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # SQLite has one writer anyway
            await connection.execute(sa.text("SELECT pg_advisory_xact_lock(7712)"))
        await connection.run_sync(_upgrade)


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@asynccontextmanager
async def _border(doing: str) -> AsyncIterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, _faults()):
            raise
        cause = getattr(error, "orig", None) or error
        words = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise Unavailable(f"the store did not answer while {doing}: {words}") from error


def _faults() -> tuple[type[Exception], ...]:
    """What SQL can throw at us. Looked up when something was thrown: a bridge on SQLite has no asyncpg."""
    faults: list[type[Exception]] = [SQLAlchemyError, sqlite3.Error, OSError, TimeoutError]
    if importlib.util.find_spec("asyncpg"):
        import asyncpg

        faults += [asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError]
    if importlib.util.find_spec("alembic"):
        from alembic.util import CommandError

        faults.append(CommandError)
    return tuple(faults)
