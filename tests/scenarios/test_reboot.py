"""What is left of a cell's network after its reboot? Nothing; and nothing passes before the bridge was heard.

A reboot, simulated: agent and containers are killed, everything of ours in the cell's kernel goes, the files stay, and
the boot has another id. Garden comes up before the agent and takes every handle away that it knew.
"""

from __future__ import annotations

import asyncio
import shutil
from functools import partial
from pathlib import Path

import pytest

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.demo.installation import until
from cfbridge.simulator import lab, runs
from cfbridge.simulator.garden import health_check_spec
from tests.scenarios.matrix import APPS, Matrix, allow
from tests.scenarios.stage import (
    LATE_SECONDS,
    back,
    becomes,
    known_app,
    leases,
    ping,
    spec,
    start,
    tcp,
    tell_agent,
    verdict,
)

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

OURS = """
for family in -4 -6; do
    ip $family rule flush protocol 112
    ip $family route flush table 7712
    ip $family route flush table all proto 112
done
ip -o link | grep -o 'cf-[0-9a-f]*' | sort -u | xargs -r -n 1 ip link delete
nft flush ruleset
conntrack -F
sysctl -w net.ipv4.ip_forward=0 net.ipv4.conf.all.src_valid_mark=0
"""


async def _power_cut(box: Box, boot: str) -> None:
    """The cell is off, and on again as boot `boot`; no agent runs yet."""
    box.kill("agent")
    for probe in box._probes.values():
        probe.close()
    box._probes.clear()
    await box.diego.guardian.power_cut()
    runs.unmount_below(box.directory / "agent")
    await asyncio.to_thread(box.lab.cell.run, "sh", "-c", OURS)
    (box.directory / "boot_id").write_text(f"{boot}\n")


async def _booted(box: Box, boot: str) -> None:
    """From here on the cell has a boot id that we can change."""
    (box.directory / "boot_id").write_text(f"{boot}\n")
    tell_agent(box, boot_id_file=str(box.directory / "boot_id"))
    box.kill("agent")
    await back(box, "agent")


def _left(box: Box) -> dict[str, list[str]]:
    """What the agent's files and mounts say of containers."""
    state = box.directory / "agent"
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return {
        "records": [path.name for path in (state / "ports").iterdir()],
        "namespaces": [path.name for path in (state / "netns").iterdir()],
        "mounts": [mount for mount in mounts if mount.startswith(str(state))],
        "untold": [path.name for path in (state / "detached").iterdir()],
        "spool": _spooled(box),
        "devices": [line for line in box.lab.cell.run("ip", "-o", "link").splitlines() if ": cf-" in line],
        "routes": [line for line in _routes(box) if " dev cf-" in line],
    }


def _routes(box: Box) -> list[str]:
    """To workloads: a machine's, too."""
    return box.lab.cell.run("ip", "route", "show", "table", "7712", "type", "unicast").splitlines()


def _spooled(box: Box) -> list[str]:
    places = (box.directory / "spool", box.directory / "agent" / "spool")
    return [path.name for place in places if place.exists() for path in place.iterdir()]


async def _garden_comes_up(box: Box) -> list[str]:
    """It takes away what it knew of: the answers of those calls that were not well."""
    before = len(box.diego.guardian.calls)
    await box.diego.guardian.restart(destroy_containers=True)
    return [call.stderr for call in box.diego.guardian.calls[before:] if call.status]


async def test_after_a_reboot_every_down_is_well_before_the_agent_is_up_and_nothing_leaks(box: Box) -> None:
    await _booted(box, "one")
    await known_app(box, "acme", "dev", "client")
    await known_app(box, "acme", "dev", "server")
    await box.add_policy("client", "server")
    old = [await start(box, spec(box, app, netin=[(0, 8080)]), serve=True) for app in ("client", "server", "server")]
    await becomes("open", partial(tcp, box, old[0], old[1]))
    await box.diego.guardian.create(health_check_spec("check-before"))
    known = {instance.address for instance in old}

    await _power_cut(box, "two")
    assert await _garden_comes_up(box) == []
    assert len(_spooled(box)) == 4
    await back(box, "agent")

    async def gone() -> bool:
        return not known & (await leases(box)).keys() and not any(_left(box).values())

    assert await until(gone, 15), (_left(box), await leases(box))
    client, server = [await start(box, spec(box, app), serve=True) for app in ("client", "server")]
    assert not known & {client.address, server.address}, "addresses rest"
    await becomes("open", partial(tcp, box, client, server))
    assert await tcp(box, server, client) == "refused"
    assert (await leases(box)).keys() == {client.address, server.address}
    await _away_with(box, client, server)


async def test_after_a_reboot_every_allow_passes_and_nothing_else_does(box: Box) -> None:
    async def started() -> Matrix:
        senders = {app: await start(box, spec(box, app), serve=True) for app in APPS}
        return Matrix(box, senders, await start(box, spec(box, "server", netin=[(0, 8080)]), serve=True))

    await _booted(box, "seven")
    for app, org in APPS.items():
        await known_app(box, org, "dev", app)
    await allow(box)
    await (await started()).holds()

    await _power_cut(box, "eight")
    assert await _garden_comes_up(box) == []
    await back(box, "agent")
    again = await started()
    await again.holds()
    assert await again.seen() == again.expected()
    await _away_with(box, *again.senders.values(), again.server)


async def test_after_a_reboot_nothing_passes_before_the_bridge_was_heard_and_health_checks_start(box: Box) -> None:
    await _booted(box, "three")
    await known_app(box, "acme", "dev", "lost")
    await becomes("open", lambda: box.tcp_from("vm1", lab.EXT, 80))
    lost = await start(box, spec(box, "lost", netin=[(0, 8080)]), serve=True)
    port = lost.mapped_port(8080)

    await _power_cut(box, "four")
    box.diego.guardian.containers.clear()  # Garden forgot them: no `down` will ever come
    box.kill("bridge")
    box.start_agent()
    await _serves(box)
    check = await box.diego.guardian.create(health_check_spec("check-after"))
    healthy = Instance("check-after", "", 0, check)
    assert check.address
    assert await ping(box, healthy, lab.EXT) != "open"
    assert (await box.tcp_from("vm1", lab.EXT, 80)).result != "open"
    assert (await box.tcp_from("router", lab.CELL, port)).result != "open"
    assert _routes(box) == []

    await back(box, "bridge")
    await becomes("open", lambda: box.tcp_from("vm1", lab.EXT, 80))
    await becomes(False, partial(_holds, box, lost.address))
    await _away_with(box, healthy)


async def test_a_cell_that_was_recreated_without_any_files_gives_its_addresses_back_to_rest(box: Box) -> None:
    await _booted(box, "five")
    await known_app(box, "globex", "dev", "before")
    old = [await start(box, spec(box, "before")) for _ in range(3)]

    await _power_cut(box, "six")
    box.diego.guardian.containers.clear()  # its Garden is new as well
    shutil.rmtree(box.directory / "agent")
    await back(box, "agent")
    await becomes("ok", partial(verdict, box))
    assert not {instance.address for instance in old} & (await leases(box)).keys()
    fresh = await start(box, spec(box, "before"))
    assert fresh.address not in {instance.address for instance in old}, "addresses rest"
    await _away_with(box, fresh)


async def _serves(box: Box) -> None:
    """The agent answers: nothing else says so while the bridge is away."""

    async def heard() -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(box.directory / "agent.sock"))
        except OSError:
            return False
        writer.close()
        return True

    assert await until(heard, LATE_SECONDS)


async def _holds(box: Box, address: str) -> bool:
    return address in await leases(box)


async def _away_with(box: Box, *instances: Instance) -> None:
    for instance in instances:
        await box.diego.guardian.destroy(instance.handle)
