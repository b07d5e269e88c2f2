"""What do the others notice when much happens at once? Starts and stops in a crowd, floods, storms: nothing.

In small: the same at full size is `make bench ARGS="--only container_up_250 --only cold_start"`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
from collections.abc import AsyncIterator
from functools import partial

import pytest
import pytest_asyncio

from bench import figures
from cfbridge.client import AdminClient
from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.demo.installation import until
from cfbridge.simulator import control
from cfbridge.simulator.policy_table import PolicyKey
from tests.scenarios.stage import SOON_SECONDS, becomes, known_app, leases, spec, start, tcp

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

CROWD = 30
"""Containers that stop while as many start."""
APPS, POLICIES = 5_000, 20_000
STORM = APPS // 10
"""So many apps are deleted at once: as many as no guard against withdrawals holds back."""
READERS = 20
BRIDGE_MIB, AGENT_MIB = 400, 100
LATE_SECONDS = 90.0
"""For what a sweep of a large foundation has to find out first, on a machine with other things to do."""

FLOOD = """
import itertools, json, os, random, signal, socket, struct, sys
victim, neighbours, stranger = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
going = [True]
signal.signal(signal.SIGTERM, lambda *_: going.clear())
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for each in (raw, wire):
    each.setblocking(False)
mine = socket.inet_aton(sys.argv[4])
sent = {"syn": 0, "udp": 0, "tcp": 0}

def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF

def syn(address):
    head = struct.pack("!HHIIBBHHH", random.randint(1024, 65535), 9999, random.getrandbits(32), 0, 0x50, 2, 1024, 0, 0)
    pseudo = mine + socket.inet_aton(address) + struct.pack("!BBH", 0, 6, len(head))
    raw.sendto(head[:16] + struct.pack("!H", checksum(pseudo + head)) + head[18:], (address, 0))

def connect(address):
    with socket.socket() as end:
        end.setblocking(False)
        end.connect_ex((address, 9999))

print("sending", flush=True)
for number in itertools.count():
    if not going:
        break
    to = (victim, *neighbours, stranger)[number % (2 + len(neighbours))]
    for kind, act in (
        ("syn", lambda: syn(to)),
        ("udp", lambda: wire.sendto(b"?", (to, 1024 + number % 60000))),
        ("tcp", lambda: connect(to)),
    ):
        try:
            act()
            sent[kind] += 1
        except OSError:  # the answer to an earlier one, or no room just now
            pass
print(json.dumps(sent), flush=True)
"""
"""As fast as it can, until told to end: SYNs from ports by chance, datagrams to all ports, and whole connections."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box() -> AsyncIterator[Box]:
    async with Box(looks={"sweep_seconds": 5.0}) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def large(box: Box) -> Box:
    """The foundation has become a large one, of which little is on the cell."""
    state = box.foundation.state
    for number in range(APPS):
        org, space = f"org-{number % 50}", f"space-{number % 200}"
        control.push(state, {"org": org, "space": space, "name": f"app-{number}", "instances": 0})
    guids = [app.guid for app in state.apps.values() if app.name.startswith("app-")]
    chance = random.Random(7)
    state.policies.create(
        PolicyKey(*chance.sample(guids, 2), "tcp", 20_000 + number, 20_000 + number) for number in range(POLICIES)
    )
    await box.settled()
    await becomes(len(state.policies), lambda: _known(box, "policies"), LATE_SECONDS)
    await becomes(len(state.apps), lambda: _known(box, "apps"), LATE_SECONDS)
    return box


async def _known(box: Box, kind: str) -> int:
    (foundation,) = await box.api("foundations")
    return int(foundation[kind])


class Bystanders:
    """Two containers with a policy and streams each way, which nothing here concerns."""

    def __init__(self, box: Box, client: Instance, server: Instance) -> None:
        self.box, self.client, self.server = box, client, server

    async def undisturbed(self) -> bool:
        return all([await self.box.flows(self.client, name) for name in ("mine", "theirs")])


async def _bystanders(box: Box, name: str) -> Bystanders:
    for part in ("client", "server"):
        await box.push("acme", "dev", f"{name}-{part}")
    found = Bystanders(box, box.instance(f"{name}-client"), box.instance(f"{name}-server"))
    await box.add_policy(f"{name}-client", f"{name}-server")
    await becomes("open", partial(tcp, box, found.client, found.server))
    for stream, push in (("mine", "client"), ("theirs", "server")):
        await box.open_stream(found.client, stream, found.server.address, 8080, push=push)
    assert await found.undisturbed()
    return found


def _routed(box: Box) -> set[str]:
    """Addresses that the cell forwards to."""
    return {line.split()[0] for line in box.lab.cell.run("ip", "route", "show", "table", "7712").splitlines()}


async def _named_on_the_cell(box: Box, addresses: set[str]) -> set[str]:
    """Those that any set of the cell still names."""
    table = box.lab.cell.run("nft", "list", "table", "inet", "cfbridge")
    return {*table.replace(",", " ").split()} & addresses


def _namespaces(box: Box) -> set[str]:
    """What the agent holds of containers' network namespaces."""
    return {path.name for path in (box.directory / "agent" / "netns").iterdir()}


async def test_a_crowd_that_starts_while_a_crowd_stops_is_served_and_disturbs_nobody(box: Box) -> None:
    others = await _bystanders(box, "crowd")
    await known_app(box, "acme", "dev", "crowd")
    await box.push("globex", "dev", "latecomer")
    latecomer = box.instance("latecomer")
    guardian = box.diego.guardian

    async def up(handle: str) -> Instance:
        return await start(box, spec(box, "crowd", handle=handle, netin=[(0, 8080)]))

    async def nothing_starves() -> None:
        await box.add_policy("latecomer", "crowd-server")
        await becomes("open", partial(tcp, box, latecomer, others.server))
        assert await others.undisturbed()

    kept = _namespaces(box)
    old = await asyncio.gather(*(up(f"old-{number}") for number in range(CROWD)))
    going = (guardian.destroy(each.handle) for each in old)
    coming = (up(f"new-{number}") for number in range(CROWD))
    mixed = itertools.chain.from_iterable(zip(going, coming, strict=True))
    _, *answers = await asyncio.gather(nothing_starves(), *mixed)
    new = [answer for answer in answers if isinstance(answer, Instance)]
    before, now = ({each.address for each in several} for several in (old, new))
    assert len(now) == CROWD
    assert not before & now  # addresses rest before they are given again
    assert len({each.mapped_port(8080) for each in new}) == CROWD
    assert await others.undisturbed()
    assert _routed(box) & (before | now) == now
    await asyncio.gather(*(guardian.destroy(each.handle) for each in new))
    assert not _routed(box) & (before | now)
    assert _namespaces(box) == kept

    async def held() -> set[str]:
        return {address for address, handle in (await leases(box)).items() if handle.startswith(("old-", "new-"))}

    await becomes(set(), held)
    await becomes(set(), partial(_named_on_the_cell, box, before | now))
    assert await others.undisturbed()


async def test_a_flood_of_refused_packets_fills_nothing_and_disturbs_nobody(box: Box) -> None:
    others = await _bystanders(box, "flood")
    await box.push("globex", "dev", "flooder")
    flooder, victim = box.instance("flooder"), others.server
    daemons = {name: box.pid(name) for name in ("bridge", "agent")}
    logged = {name: len(box.log(name)) for name in daemons}
    used = {name: figures.cpu_seconds(pid) for name, pid in daemons.items()}
    began = asyncio.get_running_loop().time()
    tracked = _tracked(box)
    arguments = (victim.address, json.dumps([others.client.address, box.vm_address]), "192.0.2.200", flooder.address)
    flood = await box.diego.guardian.run(flooder.handle, (sys.executable, "-S", "-c", FLOOD, *arguments))
    assert flood.stdout is not None
    assert await asyncio.to_thread(flood.stdout.readline) == b"sending\n"
    opened, most = 0, 0
    for _ in range(30):
        opened += (await tcp(box, others.client, victim)) == "open"
        most = max(most, _tracked(box))
        await asyncio.sleep(0.05)
    assert await others.undisturbed()
    flood.terminate()
    sent = json.loads(await asyncio.to_thread(flood.stdout.readline))
    lasted = asyncio.get_running_loop().time() - began
    assert min(sent.values()) > 500
    assert opened == 30
    assert most - tracked < 200  # a refused packet is no connection; the bystanders' own are some
    for name, pid in daemons.items():
        assert figures.cpu_seconds(pid) - used[name] < lasted / 2, name
        assert len(box.log(name)) - logged[name] < 20_000, name


def _tracked(box: Box) -> int:
    """Connections that the cell's kernel keeps."""
    return int(box.lab.cell.run("cat", "/proc/sys/net/netfilter/nf_conntrack_count"))


async def test_a_tenth_of_all_apps_is_deleted_at_once_and_a_container_starts_meanwhile(large: Box) -> None:
    box, state = large, large.foundation.state
    others = await _bystanders(box, "storm")
    await box.push("acme", "dev", "doomed")
    doomed = box.instance("doomed")
    await box.add_policy("doomed", "storm-server")
    await becomes("open", partial(tcp, box, doomed, others.server))
    await known_app(box, "acme", "dev", "during")
    victims = [app.guid for app in state.apps.values() if app.name.startswith("app-")][:STORM]
    doomed_guid = box.app_guid("doomed")
    stale = state.policies.touching([*victims, doomed_guid])
    for guid in (*victims, doomed_guid):
        state.delete_app(guid)
    state.policies.delete(row.key for row in stale)
    started = await start(box, spec(box, "during"))
    assert started.address
    await becomes(len(state.policies), lambda: _known(box, "policies"), LATE_SECONDS)
    await becomes(len(state.apps), lambda: _known(box, "apps"), LATE_SECONDS)
    await box.settled()
    assert doomed.address not in _routed(box)
    await becomes(set(), partial(_named_on_the_cell, box, {doomed.address}))
    assert await others.undisturbed()
    for name, limit in (("bridge", BRIDGE_MIB), ("agent", AGENT_MIB)):
        assert figures.most_resident(box.pid(name)) < limit, name


async def test_a_crowd_of_readers_keeps_no_container_and_no_policy_waiting(large: Box) -> None:
    box = large
    others = await _bystanders(box, "read")
    await known_app(box, "acme", "dev", "read-late")
    pages: list[int] = []

    async def read() -> None:
        async with AdminClient.local(str(box.directory / "api.sock"), attempts=1) as client:
            while True:
                pages.append(len(await client.get("/api/v1/policies", {"limit": 500})))

    async def all_read() -> bool:
        return len(pages) > READERS

    readers = [asyncio.create_task(read()) for _ in range(READERS)]
    try:
        assert await until(all_read, SOON_SECONDS)
        started = await start(box, spec(box, "read-late"))
        await box.add_policy("read-late", "read-server")
        await becomes("open", partial(tcp, box, started, others.server))
        assert await others.undisturbed()
        assert not any(reader.done() for reader in readers)
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    assert min(pages) > 50_000
