"""By which ports do translated connections leave? By any, so that two at once do not meet (silk-release#29)."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from cfbridge.simulator.lab import EXT, Namespace
from egress.model import NetworkMode
from tests.packets.cell import Cell, cell

__all__ = ["cell"]
pytestmark = pytest.mark.packets

A, B = "10.240.1.5", "10.240.1.6"
EACH = 12
SERVER = """
import socket, sys
server = socket.create_server(("", 80), backlog=100)
print("listens", flush=True)
for _ in range(int(sys.argv[1])):
    wire, (address, port) = server.accept()
    print(address, port, flush=True)
"""
CLIENT = """
import socket, sys
held = []
for port in range(40000, 40000 + int(sys.argv[2])):
    held.append(socket.create_connection((sys.argv[1], 80), timeout=20, source_address=("", port)))
"""


async def test_two_containers_with_the_same_ports_leave_by_one_address_and_ports_of_no_order(cell: Cell) -> None:
    for label, address in (("a", A), ("b", B)):
        cell.container(label, address)
    cell.asg("out", ("0.0.0.0/0", 80))
    cell.org("10.240.1.0/24", NetworkMode.NAT, "192.0.2.66")
    await cell.converge()
    server = await asyncio.to_thread(_start, cell.lab.ext, SERVER, str(2 * EACH))
    assert server.stdout is not None
    try:
        await asyncio.to_thread(server.stdout.readline)
        clients = [
            await asyncio.to_thread(_start, Namespace(f"cfb-{cell.lab.run_id}-{label}"), CLIENT, EXT, str(EACH))
            for label in ("a", "b")
        ]
        assert [await asyncio.to_thread(client.wait, 60) for client in clients] == [0, 0]
        said = (await asyncio.to_thread(server.communicate, None, 60))[0].split()
    finally:
        server.kill()
    ports = [int(port) for port in said[1::2]]
    assert {*said[::2]} == {"192.0.2.66"}
    assert len({*ports}) == 2 * EACH
    assert len({*ports} & {*range(40000, 40000 + EACH)}) < EACH // 2  # who keeps its own port meets the other's
    assert ports != sorted(ports)


def _start(where: Namespace, script: str, *arguments: str) -> subprocess.Popen[str]:
    command = where.command(sys.executable, "-S", "-c", script, *arguments)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
