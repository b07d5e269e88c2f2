"""Is a container's network answered exactly when its rules are in force, one at a time and a hundred at once?"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.demo.installation import ROOT
from cfbridge.simulator import lab
from cfbridge.simulator.garden import Guardian, health_check_spec
from cfbridge.simulator.probe import Packet
from tests.scenarios.stage import back, becomes, known_app, spec, start, tcp, udp

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

MANY = 100
PER_MILLISECOND = """
import socket, sys, time
wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
targets = [(address, 5000) for address in sys.argv[1:]]
print("sending", flush=True)
sent = 0
while sent < 500:
    for target in targets:
        try:
            wire.sendto(b"cfbridge" + (0x01000000 + sent).to_bytes(4, "big"), target)
            sent += target is targets[-1]
        except OSError:
            pass
    time.sleep(0.001)
print("done", flush=True)
"""
"""Sends to each address a thousand times a second, from before there is a network until half a second after."""


class Impatient(Guardian):
    """Its containers send from the first moment of their network namespace, before `up` is even asked for."""

    sender: subprocess.Popen[bytes]
    targets: tuple[str, ...] = ()

    async def _call(self, action: str, handle: str, stdin: bytes) -> bytes:
        if action == "up":
            words = (sys.executable, "-S", "-c", PER_MILLISECOND, *self.targets)
            self.sender = await self.run(handle, words)
            assert await self._line() == b"sending\n"
        return await super()._call(action, handle, stdin)

    async def _line(self) -> bytes:
        assert self.sender.stdout is not None
        return await asyncio.to_thread(self.sender.stdout.readline)

    async def sent(self) -> None:
        assert await self._line() == b"done\n"


def _impatient(box: Box, *targets: str) -> Impatient:
    config = f"--configFile={box.directory / 'networker.json'}"
    plugin = str(ROOT / "garden_plugin" / "networker.py")
    made = Impatient("/usr/bin/python3", ("-I", "-S", plugin, config), external_ip=lab.CELL)
    made.targets = targets
    return made


async def _heard_by(box: Box, receiver: Instance, sender: Instance) -> int:
    """How many packets it heard, read behind a fence that `sender` is allowed to send."""
    fence = Packet(sender.address, receiver.address, 17, 5000, tag=0x7F000001)
    await asyncio.to_thread(box.probe(sender).send, [fence])
    arrived, _ = await asyncio.to_thread(box.probe(receiver).heard, fence.tag)
    return len([tag for tag in arrived if tag != fence.tag])


async def test_a_first_packet_right_after_up_finds_the_policy_in_force(box: Box) -> None:
    await box.push("acme", "dev", "first-server")
    await known_app(box, "acme", "dev", "first-client")
    await box.add_policy("first-client", "first-server")
    probe = await start(box, spec(box, "first-client"))
    await becomes("open", partial(tcp, box, probe, box.instance("first-server")))
    server = box.instance("first-server").address
    for _ in range(20):
        client = await start(box, spec(box, "first-client"))
        assert await tcp(box, client, server) == "open"
        await box.diego.guardian.destroy(client.handle)


async def test_what_is_refused_does_not_pass_in_any_moment_of_a_containers_start(box: Box) -> None:
    await box.push("acme", "dev", "window-server")
    await box.push("acme", "dev", "window-friend")
    await known_app(box, "acme", "dev", "window-client")
    server, friend = box.instance("window-server"), box.instance("window-friend")
    await box.add_policy("window-friend", "window-server", "udp", "5000")
    await becomes("open", partial(udp, box, friend, server))
    outside, cell = box.lab.probe("ext"), box.lab.probe("cell")
    for ear in (box.probe(server), outside, cell):
        await asyncio.to_thread(ear.hear)
        await asyncio.to_thread(ear.heard)
    async with _impatient(box, server.address, lab.EXT, lab.CELL) as guardian:
        wanted = spec(box, "window-client")
        await guardian.create(wanted)
        await guardian.sent()
        assert await _heard_by(box, server, friend) == 0
        assert await asyncio.to_thread(outside.heard) == ({}, frozenset())
        assert await asyncio.to_thread(cell.heard) == ({}, frozenset())
        await guardian.destroy(wanted.handle)


async def test_what_is_allowed_is_heard_by_the_same_means(box: Box) -> None:
    """The test before this one could hear nothing for another reason."""
    await box.push("acme", "dev", "heard-server")
    await box.push("acme", "dev", "heard-friend")
    await known_app(box, "acme", "dev", "heard-client")
    server, friend = box.instance("heard-server"), box.instance("heard-friend")
    await box.add_policy("heard-friend", "heard-server", "udp", "5000")
    await box.add_policy("heard-client", "heard-server", "udp", "5000")
    await becomes("open", partial(udp, box, friend, server))
    await asyncio.to_thread(box.probe(server).hear)
    await asyncio.to_thread(box.probe(server).heard)
    async with _impatient(box, server.address) as guardian:
        wanted = spec(box, "heard-client")
        await guardian.create(wanted)
        await guardian.sent()
        assert await _heard_by(box, server, friend) > 400
        await guardian.destroy(wanted.handle)


async def test_a_hundred_ups_at_once_and_a_hundred_downs_at_once_are_all_answered(box: Box) -> None:
    await known_app(box, "acme", "dev", "crowd")
    wanted = [spec(box, "crowd", netin=[(0, 8080)]) for _ in range(MANY)]
    containers = await asyncio.gather(*(box.diego.guardian.create(each) for each in wanted))
    assert len({each.address for each in containers}) == MANY
    assert len({each.mapped_ports[8080] for each in containers}) == MANY
    devices = box.lab.cell.run("ip", "-o", "link")
    assert devices.count(" cf-") >= MANY
    routes = box.lab.cell.run("ip", "route", "show", "table", "7712")
    assert {each.address for each in containers} <= set(routes.split())
    await asyncio.gather(*(box.diego.guardian.destroy(each.spec.handle) for each in containers))
    routes = box.lab.cell.run("ip", "route", "show", "table", "7712")
    assert not {each.address for each in containers} & set(routes.split())
    assert not {each.spec.handle for each in containers} & {row["id"] for row in await box.api("workloads")}


async def test_a_down_of_a_handle_that_nobody_knows_is_well(box: Box) -> None:
    await box.diego.guardian.down("never-was")
    await asyncio.gather(*(box.diego.guardian.down(f"never-was-{number}") for number in range(20)))


async def test_a_second_down_is_well(box: Box) -> None:
    await known_app(box, "acme", "dev", "twice-down")
    gone = await start(box, spec(box, "twice-down"))
    await box.diego.guardian.destroy(gone.handle)
    await box.diego.guardian.down(gone.handle)


async def test_a_second_up_of_a_handle_gives_the_same_address(box: Box) -> None:
    await known_app(box, "acme", "dev", "twice-up")
    once = await start(box, spec(box, "twice-up", netin=[(0, 8080)]))
    again = next(call for call in box.diego.guardian.calls if call.handle == once.handle)
    answers = [
        await asyncio.to_thread(box.diego.guardian._run_networker, "up", once.handle, again.stdin) for _ in range(2)
    ]
    assert [(each.status, each.stdout) for each in answers] == [(0, again.stdout)] * 2


async def test_a_container_whose_runtime_fails_leaves_nothing(box: Box) -> None:
    await known_app(box, "acme", "dev", "stillborn")
    wanted = spec(box, "stillborn", handle=f"stillborn-{secrets.token_hex(4)}")
    with pytest.raises(Exception, match="runc"):
        await box.diego.guardian.create(replace(wanted, runtime_fails=True))
    assert wanted.handle not in box.diego.guardian.containers


async def test_a_health_check_container_starts_while_the_bridge_is_away_and_reaches_nothing(box: Box) -> None:
    await box.push("acme", "dev", "check-neighbour")
    neighbour = box.instance("check-neighbour")
    box.kill("bridge")
    try:
        container = await box.diego.guardian.create(health_check_spec("health-check"))
        check = Instance("health-check", "", 0, container)
        assert check.address
        reached = [
            await tcp(box, check, to, port)
            for to, port in (
                (neighbour.address, 8080),
                (lab.EXT, 80),
                (lab.CELL, box.cell_service_port),
                (box.vm_address, 5432),
            )
        ]
        assert "open" not in reached
        assert await tcp(box, neighbour, check, 8080) != "open"
        await box.diego.guardian.destroy("health-check")
    finally:
        await back(box, "bridge")
