"""Does an operator hear of it when somebody meddles with a cell, and does an agent that comes later heal it too?"""

from __future__ import annotations

import asyncio
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from garden_plugin.cell.spool import hash_of
from garden_plugin.dataplane.cell import device_name
from tests.scenarios.stage import back, becomes, tcp

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]


async def _three(box: Box, name: str) -> tuple[Instance, Instance, Instance]:
    """A client that may reach a server, with a stream that lives, and a stranger that may not."""
    for part in ("client", "server", "stranger"):
        await box.push("acme", "dev", f"{name}-{part}")
    client, server, stranger = (box.instance(f"{name}-{part}") for part in ("client", "server", "stranger"))
    await box.add_policy(f"{name}-client", f"{name}-server")
    await becomes("open", partial(tcp, box, client, server))
    await box.open_stream(client, name, server.address, 8080)
    return client, server, stranger


async def _cell(box: Box) -> dict[str, Any]:
    (row,) = await box.api("cells")
    return row


async def _says(box: Box, words: str) -> bool:
    return words in (await _cell(box))["last_drift"]


async def test_a_cell_shows_what_was_changed_and_how_often(box: Box) -> None:
    client, server, stranger = await _three(box, "shown")
    before = (await _cell(box))["drifts"]
    box.lab.cell.run("ip", "route", "del", f"{server.address}/32", "table", "7712")
    await becomes(True, partial(_says, box, f"route {server.address} was deleted"))
    box.lab.cell.run("nft", "insert", "rule", "inet", "cfbridge", "forward", "accept")
    await becomes(True, partial(_says, box, "1 rule was added to chain forward"))
    assert (await _cell(box))["drifts"] == before + 2
    assert await tcp(box, stranger, server) == "refused"
    assert await box.flows(client, "shown")
    for log in ("agent", "bridge"):
        assert box.log(log).count("1 rule was added to chain forward") == 1


async def test_what_was_done_while_no_agent_was_there_is_healed_and_told_by_the_next(box: Box) -> None:
    client, server, stranger = await _three(box, "absent")
    box.kill("agent")
    box.lab.cell.run("nft", "insert", "rule", "inet", "cfbridge", "forward", "accept")
    box.lab.cell.run("ip", "route", "del", f"{server.address}/32", "table", "7712")
    box.lab.cell.sysctl("net.ipv4.conf.all.src_valid_mark=0")
    await back(box, "agent")
    await becomes("open", partial(tcp, box, client, server))
    assert await tcp(box, stranger, server) == "refused"
    assert await box.flows(client, "absent")
    said = box.log("agent")
    assert "1 rule was added to chain forward" in said
    assert f"when the agent came, route {server.address} was deleted" in said
    assert "setting ipv4.conf.all.src_valid_mark was changed to 0" in said
    assert (await _cell(box))["drifts"] > 0


async def test_a_rule_that_was_replaced_while_agent_and_bridge_were_away_closes_until_the_bridge_is_heard(
    box: Box,
) -> None:
    """Nobody knows then what it should be; and nothing starts open."""
    client, server, stranger = await _three(box, "blind")
    box.kill("bridge")
    box.kill("agent")
    listed = box.lab.cell.run("nft", "-a", "list", "chain", "inet", "cfbridge", "forward")
    handle = next(line for line in listed.splitlines() if "goto forwarded" in line).rpartition(" ")[2]
    box.lab.cell.run("nft", "replace", "rule", "inet", "cfbridge", "forward", "handle", handle, "accept")
    assert await tcp(box, stranger, server) == "open"
    box.start_agent()
    await becomes(False, partial(_passes, box, stranger, server))
    assert not await _passes(box, client, server)
    await back(box, "bridge")
    await becomes("open", partial(tcp, box, client, server))
    assert await tcp(box, stranger, server) == "refused"
    assert await asyncio.to_thread(box.probe(client).flows, "blind", timeout=20)


async def _passes(box: Box, source: Instance, destination: Instance) -> bool:
    return await tcp(box, source, destination) == "open"


async def test_records_and_mounts_that_somebody_takes_away_are_back_and_told(box: Box) -> None:
    client, server, _ = await _three(box, "files")
    record = box.directory / "agent" / "ports" / hash_of(server.handle)
    mount = box.directory / "agent" / "netns" / hash_of(server.handle)
    written, inode = record.read_bytes(), mount.stat().st_ino
    await becomes(True, partial(_kept, box, inode))
    record.write_bytes(b"garbage")
    await asyncio.to_thread(subprocess.run, ["umount", "--lazy", str(mount)], check=True, timeout=30)

    async def there() -> tuple[bytes, int]:
        return record.read_bytes(), mount.stat().st_ino

    await becomes((written, inode), there)
    told = (f"the record of {server.handle} was changed", f"namespace of {server.handle} was taken away")
    await becomes(True, partial(_logged, box, told))
    box.lab.cell.run("ip", "link", "delete", device_name(server.handle))  # to make it again needs the mount
    await becomes("open", partial(tcp, box, client, server))
    assert await box.flows(client, "files")


async def _logged(box: Box, words: tuple[str, ...]) -> bool:
    return all(each in box.log("agent") for each in words)


async def _kept(box: Box, inode: int) -> bool:
    """The agent holds the namespace by a descriptor too."""
    return any(path.stat().st_ino == inode for path in Path(f"/proc/{box.pid('agent')}/fd").iterdir() if path.exists())
