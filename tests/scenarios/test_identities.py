"""Whose policies does a container have? Tasks, stagings, renamed apps, and whoever gets an address next."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.demo.installation import until
from cfbridge.simulator import control
from cfbridge.simulator.garden import GardenError
from tests.scenarios.stage import LATE_SECONDS, becomes, bridge_knows, known_app, ping, spec, start, tcp, udp

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

REST_SECONDS = 1.0
SMALL = ({"name": "small", "kind": "container", "prefixes": ["10.250.0.0/28"], "org_prefix_length": 28},)
WITHOUT_END = """
import socket, sys, time
wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("sending", flush=True)
while True:
    try:
        wire.sendto(b"old", (sys.argv[1], 5000))
    except OSError:
        pass
    time.sleep(0.005)
"""


async def _apps(box: Box, *names: str) -> None:
    for name in names:
        await known_app(box, "acme", "dev", name)


async def test_a_task_has_the_policies_of_its_app(box: Box) -> None:
    await _apps(box, "task-client", "task-server")
    await box.add_policy("task-client", "task-server")
    task = await start(box, spec(box, "task-client", lifecycle="task"))
    server = await start(box, spec(box, "task-server", lifecycle="task"), serve=True)
    await becomes("open", partial(tcp, box, task, server))
    assert await tcp(box, server, task) == "refused"


async def test_a_staging_container_reaches_no_container_though_its_app_has_a_policy(box: Box) -> None:
    await _apps(box, "staged-client", "staged-server")
    await box.add_policy("staged-client", "staged-server")
    server = await start(box, spec(box, "staged-server"), serve=True)
    running = await start(box, spec(box, "staged-client"))
    staging = await start(box, spec(box, "staged-client", lifecycle="staging"))
    await becomes("open", partial(tcp, box, running, server))
    assert await tcp(box, staging, server) == "refused"
    assert await ping(box, staging, server.address) != "open"


async def test_no_container_reaches_a_staging_one_though_its_app_has_a_policy(box: Box) -> None:
    await _apps(box, "visitor", "visited")
    await box.add_policy("visitor", "visited")
    visitor = await start(box, spec(box, "visitor"))
    running = await start(box, spec(box, "visited"), serve=True)
    staging = await start(box, spec(box, "visited", lifecycle="staging"), serve=True)
    await becomes("open", partial(tcp, box, visitor, running))
    assert await tcp(box, visitor, staging) == "refused"


async def test_a_renamed_app_keeps_its_policies_and_its_streams(box: Box) -> None:
    await _apps(box, "before", "renamed-server")
    await box.add_policy("before", "renamed-server")
    client = await start(box, spec(box, "before"))
    server = await start(box, spec(box, "renamed-server"), serve=True)
    await becomes("open", partial(tcp, box, client, server))
    await box.open_stream(client, "live", server.address, 8080)
    control.rename(box.foundation.state, {"org": "acme", "space": "dev", "name": "before", "new_name": "after"})
    await bridge_knows(box, "after")
    assert await box.flows(client, "live")
    assert await tcp(box, client, server) == "open"
    assert await tcp(box, await start(box, spec(box, "after")), server) == "open"


async def test_a_new_app_by_an_old_name_has_none_of_its_policies(box: Box) -> None:
    await _apps(box, "famous", "famous-server")
    await box.add_policy("famous", "famous-server")
    client = await start(box, spec(box, "famous"))
    server = await start(box, spec(box, "famous-server"), serve=True)
    await becomes("open", partial(tcp, box, client, server))
    control.rename(box.foundation.state, {"org": "acme", "space": "dev", "name": "famous", "new_name": "retired"})
    await _apps(box, "famous")
    impostor = await start(box, spec(box, "famous"))
    assert await tcp(box, impostor, server) == "refused"
    assert await tcp(box, client, server) == "open"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small() -> AsyncIterator[Box]:
    """Few addresses, which rest shortly: they are soon used again."""
    settings = {"defaults": {"lease_rest_seconds": REST_SECONDS, "mode": "shared"}}
    async with Box(pools=SMALL, intent="{}", settings=settings) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def cramped(small: Box) -> AsyncIterator[Box]:
    """Empty again after each test."""
    yield small
    for handle in tuple(small.diego.guardian.containers):
        await small.diego.guardian.destroy(handle)


async def _next_holder(box: Box, address: str, app: str) -> Instance:
    """Containers of this app come and go until one has the address."""
    found: list[Instance] = []

    async def got() -> bool:
        try:
            container = await start(box, spec(box, app))
        except GardenError as refused:
            if "IP_POOL_EXHAUSTED" not in refused.stderr:
                raise
            return False  # all of them rest
        if container.address == address:
            found.append(container)
        else:
            await box.diego.guardian.destroy(container.handle)
        return bool(found)

    assert await until(got, LATE_SECONDS), f"{address} was not given out again"
    return found[0]


def _heard(container: Instance, protocol: str, *counters: str) -> int:
    """What the kernel of that network namespace counted so far."""
    lines = Path(f"/proc/{container.container.pid}/net/snmp").read_text().splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith(f"{protocol}: "))
    counted = dict(zip(names, map(int, values), strict=True))
    return sum(counted[name] for name in counters)


async def test_datagrams_of_an_old_peer_never_reach_the_next_holder_of_an_address(cramped: Box) -> None:
    await _apps(cramped, "old-peer", "old-server", "next-tenant")
    await cramped.add_policy("old-peer", "old-server", "udp", "5000")
    await cramped.add_policy("old-peer", "old-server", "tcp", "8080")
    peer = await start(cramped, spec(cramped, "old-peer"))
    server = await start(cramped, spec(cramped, "old-server"), serve=True)
    await start(cramped, spec(cramped, "old-server"))  # so that the policy goes on
    await becomes("open", partial(udp, cramped, peer, server))
    words = (sys.executable, "-S", "-c", WITHOUT_END, server.address)
    sending = await cramped.diego.guardian.run(peer.handle, words)
    assert sending.stdout is not None
    await asyncio.to_thread(sending.stdout.readline)

    async def arriving() -> bool:
        return _heard(server, "Udp", "InDatagrams") > 10

    await becomes(True, arriving)
    await cramped.diego.guardian.destroy(server.handle)
    heir = await _next_holder(cramped, server.address, "next-tenant")
    refused = _heard(peer, "Icmp", "InDestUnreachs")

    async def refused_on() -> bool:
        return _heard(peer, "Icmp", "InDestUnreachs") > refused + 20

    await becomes(True, refused_on)
    assert _heard(heir, "Udp", "InDatagrams", "NoPorts") == 0


@pytest.mark.parametrize("push", ["client", "server"])
async def test_a_stream_of_an_old_peer_never_reaches_the_next_holder_of_an_address(cramped: Box, push: str) -> None:
    peer_app, server_app, next_app = f"{push}-peer", f"{push}-server", f"{push}-next"
    await _apps(cramped, peer_app, server_app, next_app)
    await cramped.add_policy(peer_app, server_app)
    peer = await start(cramped, spec(cramped, peer_app))
    server = await start(cramped, spec(cramped, server_app), serve=True)
    await start(cramped, spec(cramped, server_app))  # so that the policy goes on
    await becomes("open", partial(tcp, cramped, peer, server))
    await cramped.open_stream(peer, "old", server.address, 8080, push=push)
    assert await cramped.flows(peer, "old")
    await cramped.diego.guardian.destroy(server.handle)
    heir = await _next_holder(cramped, server.address, next_app)
    assert await tcp(cramped, peer, heir) == "refused"
    assert _heard(heir, "Tcp", "InSegs") == 0


async def test_the_peers_of_a_container_that_went_cannot_push_to_its_addresss_next_holder(cramped: Box) -> None:
    await _apps(cramped, "gone-client", "pusher", "heir")
    await cramped.add_policy("gone-client", "pusher")
    client = await start(cramped, spec(cramped, "gone-client"))
    await start(cramped, spec(cramped, "gone-client"))  # so that the policy goes on
    pusher = await start(cramped, spec(cramped, "pusher"), serve=True)
    await becomes("open", partial(tcp, cramped, client, pusher))
    await cramped.open_stream(client, "pushed", pusher.address, 8080, push="server")
    assert await cramped.flows(client, "pushed")
    await cramped.diego.guardian.destroy(client.handle)
    heir = await _next_holder(cramped, client.address, "heir")
    assert await tcp(cramped, pusher, heir) == "refused"
    assert _heard(heir, "Tcp", "InSegs") == 0
