"""What becomes of a cell's containers while its agent, its bridge or the store is away, old, or taken for gone?"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.demo.installation import ROOT
from cfbridge.simulator import lab
from cfbridge.simulator.garden import GardenError, health_check_spec
from tests.scenarios.stage import (
    LATE_SECONDS,
    back,
    becomes,
    known_app,
    leases,
    org_row,
    ping,
    spec,
    start,
    status,
    tcp,
    tell_agent,
    verdict,
)

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]


async def _pair(box: Box, name: str) -> tuple[Instance, Instance]:
    """A client that may reach a server, with a live stream."""
    for part in ("client", "server"):
        await known_app(box, "acme", "dev", f"{name}-{part}")
    client, server = [await start(box, spec(box, f"{name}-{part}"), serve=True) for part in ("client", "server")]
    await box.add_policy(f"{name}-client", f"{name}-server")
    await becomes("open", partial(tcp, box, client, server))
    await box.open_stream(client, "live", server.address, 8080)
    assert await box.flows(client, "live")
    return client, server


async def _alarms(box: Box) -> str:
    return (await status(box))[1]


# ---- evacuation


async def test_both_instances_of_one_index_pass_by_policy_until_the_evacuated_one_ends(box: Box) -> None:
    client, old = await _pair(box, "evacuated")
    new = await start(box, spec(box, "evacuated-server"), serve=True)
    await becomes("open", partial(tcp, box, client, new))
    assert await tcp(box, client, old) == "open"
    assert await box.flows(client, "live")
    await box.diego.guardian.destroy(old.handle)
    assert await tcp(box, client, new) == "open"
    assert await tcp(box, client, old) != "open"


# ---- drain


async def test_a_stopped_agent_leaves_the_network_of_its_containers_as_it_is(box: Box) -> None:
    """cf-networking-release#76: on drain the network went before the app."""
    client, server = await _pair(box, "drained")
    agent = box._children.pop("agent")
    agent.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(agent.wait, 20) == 0
    try:
        assert await box.flows(client, "live")
        assert await tcp(box, client, server) == "open"
        assert await tcp(box, server, client) == "refused"
        await box.diego.guardian.destroy(server.handle)
        assert await ping(box, client, lab.EXT) == "refused"
    finally:
        await back(box, "agent")
    await becomes(False, partial(_holds, box, server.address))


# ---- `down` first


async def test_a_handle_that_comes_up_again_is_another_container_although_its_down_was_spooled(box: Box) -> None:
    client, old = await _pair(box, "again")
    box.kill("agent")
    await box.diego.guardian.destroy(old.handle)
    box.start_agent()
    new = await _started(box, spec(box, "again-server", handle=old.handle))
    assert new.handle == old.handle
    assert new.address != old.address, "an address rests"
    await becomes("open", partial(tcp, box, client, new))
    assert await tcp(box, client, old.address) != "open"
    assert (await leases(box))[new.address] == new.handle
    assert not await _holds(box, old.address)


async def _started(box: Box, wanted: object) -> Instance:
    """As Diego does: again, while the agent is not there."""
    while True:
        try:
            return await start(box, wanted, serve=True)  # type: ignore[arg-type]
        except GardenError as failed:
            if "is away" not in failed.stderr:
                raise


# ---- the bridge or the store is away


@pytest.fixture
def hurried(box: Box) -> Iterator[None]:
    """Who waits for what is away gives up after ten seconds; a locked store answers after five."""
    tell_agent(box, deadline_seconds=10.0)
    yield
    tell_agent(box, deadline_seconds=25.0)


@contextmanager
def _locked(box: Box) -> Iterator[None]:
    """Somebody else keeps the store's lock."""
    other = sqlite3.connect(box.directory / "state.db", timeout=30, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@pytest.mark.usefixtures("hurried")
async def test_an_up_while_the_store_is_away_fails_and_names_it_and_all_is_well_when_it_is_back(box: Box) -> None:
    client, server = await _pair(box, "storeless")
    box.kill("agent")
    await back(box, "agent")
    before = await leases(box)
    with _locked(box):
        with pytest.raises(GardenError) as failed:
            await start(box, spec(box, "storeless-server"))
        assert "the store did not answer" in failed.value.stderr
        assert await verdict(box) == "degraded"
        assert "STORE_AWAY" in await _alarms(box)
        assert await leases(box) == before
        check = await box.diego.guardian.create(health_check_spec("check-storeless"))
        assert check.address
        assert await box.flows(client, "live")
    await becomes("ok", partial(verdict, box), LATE_SECONDS)
    # Its commit may have ended with the lock, after everybody gave it up: it goes when its `down` is said again.
    await becomes(before, partial(leases, box))
    another = await start(box, spec(box, "storeless-server"), serve=True)
    assert await tcp(box, client, another) == "open"
    assert await tcp(box, client, server) == "open"
    await box.diego.guardian.destroy("check-storeless")


@pytest.mark.usefixtures("hurried")
async def test_without_bridge_and_store_health_checks_start_and_other_ups_name_the_bridge(box: Box) -> None:
    await known_app(box, "acme", "dev", "bridgeless")
    box.kill("agent")
    await back(box, "agent")
    store = box.directory / "state.db"
    box.kill("bridge")
    store.rename(store.with_suffix(".away"))
    try:
        refused = asyncio.create_task(start(box, spec(box, "bridgeless")))
        check = await box.diego.guardian.create(health_check_spec("check-bridgeless"))
        assert not refused.done(), "a health check waits for nobody"
        assert check.address
        healthy = Instance("check-bridgeless", "", 0, check)
        assert await ping(box, healthy, lab.EXT) != "open"
        with pytest.raises(GardenError) as failed:
            await refused
        assert "the bridge at" in failed.value.stderr
        assert "is away" in failed.value.stderr
        assert failed.value.stderr.count("\n") <= 1
        await box.diego.guardian.destroy(healthy.handle)
    finally:
        store.with_suffix(".away").rename(store)
        await back(box, "bridge")
    assert (await start(box, spec(box, "bridgeless"))).address


# ---- taken for gone


def _command(box: Box, *words: str) -> tuple[int, str]:
    """`cfbridge …`, as a person types it: exit code and what it says."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CFBRIDGE_SOCKET": str(box.directory / "api.sock")}
    done = subprocess.run(
        [sys.executable, "-m", "cfbridge", *words], capture_output=True, text=True, timeout=60, env=environment
    )
    return done.returncode, done.stdout + done.stderr


async def test_a_cell_that_a_restarted_bridge_only_remembers_is_shown_away_and_keeps_its_addresses(box: Box) -> None:
    client, _ = await _pair(box, "remembered")
    before = await leases(box)
    box.kill("agent")
    box.kill("bridge")
    box.start_bridge()

    async def shown() -> list[tuple[str, bool]]:
        try:
            return [(row["name"], row["connected"]) for row in await box.api("cells")]
        except OSError:
            return []

    try:
        await becomes([("cell-1", False)], partial(_quietly, shown))
        assert "CELL_AWAY" in await _alarms(box)
        assert await leases(box) == before
        assert await box.flows(client, "live")
    finally:
        await back(box, "agent")
    assert await leases(box) == before
    assert await box.flows(client, "live")


async def _quietly(ask: object) -> object:
    """The answer, or that there is none yet."""
    from egress.values import Unavailable

    try:
        return await ask()  # type: ignore[operator]
    except Unavailable:
        return "away"


async def test_a_cell_removed_by_hand_gives_its_addresses_back_and_when_it_returns_what_it_uses_is_its_own(
    box: Box,
) -> None:
    client, server = await _pair(box, "removed")
    code, said = await asyncio.to_thread(_command, box, "cell", "show", "cell-1", "--json")
    assert (code, json.loads(said)["connected"]) == (0, True)
    code, said = await asyncio.to_thread(_command, box, "cell", "remove", "cell-1")
    assert code == 1, said
    assert "CELL_CONNECTED" in said
    before = await leases(box)
    box.kill("agent")
    await becomes(False, partial(_connected, box))
    try:
        assert await asyncio.to_thread(_command, box, "cell", "remove", "cell-1") == (0, "cell-1 is removed.\n")
        assert await leases(box) == {}
        assert await box.api("cells") == []
        assert await box.flows(client, "live"), "the cell itself forwards on"
    finally:
        box.start_agent()
        await becomes(True, partial(_connected, box), LATE_SECONDS)
    assert await leases(box) == before
    await becomes("ok", partial(verdict, box))
    assert await box.flows(client, "live")
    assert await tcp(box, client, server) == "open"
    assert await tcp(box, server, client) == "refused"


async def _connected(box: Box) -> bool:
    return any(row["connected"] for row in await box.api("cells"))


async def _holds(box: Box, address: str) -> bool:
    return address in await leases(box)


# ---- a store from backup


def _backup(box: Box) -> Path:
    """As an operator makes one, while the bridge runs."""
    path = box.directory / "backup.db"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(box.directory / "state.db", timeout=30)) as live, closing(sqlite3.connect(path)) as to:
        live.backup(to)
    return path


def _restore(box: Box, backup: Path) -> None:
    """The bridge is stopped."""
    for suffix in ("", "-wal", "-shm"):
        (box.directory / f"state.db{suffix}").unlink(missing_ok=True)
    backup.rename(box.directory / "state.db")


def _stored(box: Box, question: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(box.directory / "state.db", timeout=30)) as store:
        return store.execute(question).fetchall()


def _epoch(box: Box) -> int:
    return int(str(_stored(box, "SELECT epoch FROM leader")[0][0]))


async def test_a_store_from_backup_takes_over_what_the_cell_uses_and_locks_nobody_out(box: Box) -> None:
    backup = _backup(box)
    client, server = await _pair(box, "kept")
    await known_app(box, "late", "dev", "newcomer")
    newcomer = await start(box, spec(box, "newcomer"), serve=True)
    cut, target = await _pair(box, "revoked")
    for _ in range(2):  # the agent follows epochs that the backup knows nothing of
        box.kill("bridge")
        await back(box, "bridge")
    before, late, followed = await leases(box), await org_row(box, "late"), _epoch(box)
    ids = dict(_stored(box, "SELECT id, key FROM rule_ids"))

    box.kill("bridge")
    _restore(box, backup)
    # Ids that were given since the backup are given again, to other rules: a mark says nothing of what admitted a flow.
    await box.remove_policy("revoked-client", "revoked-server")
    for port in range(9000, 9010):
        await box.add_policy("revoked-server", "kept-client", "tcp", str(port))
    await back(box, "bridge")

    given_again = [row for row in _stored(box, "SELECT id, key FROM rule_ids") if ids.get(row[0], row[1]) != row[1]]
    assert given_again, "else this proves nothing"
    assert _epoch(box) > followed
    assert "restored from a backup" in await _alarms(box)
    assert await leases(box) == before
    assert (await org_row(box, "late"))["subnets"] == late["subnets"]
    assert await box.flows(client, "live")
    assert await tcp(box, client, server) == "open"
    assert await box.until_cut(cut, "live", 15)
    assert await tcp(box, cut, target) == "refused"
    assert await tcp(box, cut, newcomer) == "refused"
    fresh = [await start(box, spec(box, app)) for app in ("kept-server", "newcomer", "revoked-server")]
    assert not before.keys() & {instance.address for instance in fresh}
    assert len({instance.address for instance in fresh}) == 3


async def test_an_address_that_two_hold_after_a_restore_is_an_alarm_and_given_to_nobody_else(box: Box) -> None:
    client, server = await _pair(box, "doubled")
    box.kill("bridge")
    box.add_rules(f"  twin: {{org: acme, addresses: [{client.address}]}}\n")
    try:
        box.start_bridge()
        await becomes("degraded", partial(verdict, box), LATE_SECONDS)
        await becomes(True, partial(_says, box, client.address), LATE_SECONDS)
        rows = [row for row in await box.api("leases") if row["address"] == client.address]
        assert len(rows) == 1
        assert (await start(box, spec(box, "doubled-client"))).address != client.address
    finally:
        box.add_rules("")
    await becomes(client.handle, partial(_holder, box, client.address), LATE_SECONDS)
    await becomes("ok", partial(verdict, box), LATE_SECONDS)
    await becomes("open", partial(tcp, box, client, server))


async def _says(box: Box, address: str) -> bool:
    return f"claims {address}" in await _alarms(box)


async def _holder(box: Box, address: str) -> str:
    return (await leases(box)).get(address, "")
