"""What do scenarios say again and again? Containers made by hand, and answers that have to come soon."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml

from cfbridge.client import AdminClient
from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.demo.installation import ROOT, until
from cfbridge.simulator import control, lab
from cfbridge.simulator.garden import ContainerSpec, diego_spec
from cfbridge.simulator.probe import Outcome
from egress.values import Unavailable

SOON_SECONDS = 15.0
"""Generous: that a change comes is judged here; how fast, by the benchmarks."""
LATE_SECONDS = 75.0
"""After an outage: what failed is asked again after ever longer pauses, up to a minute."""
OUT = {"protocol": "tcp", "destination": lab.EXT, "ports": "80"}
"""A rule of a security group: what is outside."""
FLOOD = """
import signal, socket, sys, time
wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
going = [True]
signal.signal(signal.SIGTERM, lambda *_: going.clear())
print("sending", flush=True)
sent = 0
while going:
    try:
        wire.sendto(b"cfbridge" + (0x01000000 + sent).to_bytes(4, "big"), (sys.argv[1], 5000))
    except OSError:
        pass
    sent += 1
    time.sleep(0.001)
print(sent, flush=True)
"""
"""A thousand datagrams a second, until told to end; then how many."""


async def becomes(expected: object, ask: Callable[[], Awaitable[object]], seconds: float = SOON_SECONDS) -> None:
    """Ask until the answer is as expected; an AssertionError that shows the last one when it never is."""
    last: list[object] = []

    async def same() -> bool:
        answer = await ask()
        last[:] = [answer.result if isinstance(answer, Outcome) else answer]
        return last[0] == expected

    assert await until(same, seconds), f"expected {expected!r}, and after {seconds} s still {last[0]!r}"


async def tcp(box: Box, source: Instance, destination: Instance | str, port: int = 8080) -> str:
    address = destination if isinstance(destination, str) else destination.address
    return (await box.tcp(source, address, port)).result


@dataclass(frozen=True, slots=True)
class Pair:
    """A client that may reach a server and the outside, and has a stream to the server."""

    box: Box
    client: Instance
    server: Instance

    @classmethod
    async def made(cls, box: Box, org: str, name: str = "") -> Pair:
        client, server = f"{name}client", f"{name}server"
        await box.push(org, "dev", client)
        await box.push(org, "dev", server)
        pair = cls(box, box.instance(client), box.instance(server))
        await box.add_policy(client, server)
        await box.bind_asg(f"{name}out", [OUT], f"{org}/dev")
        await becomes("open", partial(tcp, box, pair.client, pair.server))
        await becomes("open", partial(tcp, box, pair.client, lab.EXT, 80))
        await box.open_stream(pair.client, "live", pair.server.address, 8080)
        return pair

    async def is_as_before(self) -> None:
        assert await self.box.flows(self.client, "live")
        assert await tcp(self.box, self.client, self.server) == "open"
        assert await tcp(self.box, self.client, lab.EXT, 80) == "open"
        assert await tcp(self.box, self.server, self.client) == "refused"
        assert await tcp(self.box, self.client, lab.EXT, 443) == "refused"


async def udp(box: Box, source: Instance, destination: Instance, port: int = 5000) -> str:
    return (await box.udp(source, destination.address, port)).result


async def ping(box: Box, source: Instance, address: str) -> str:
    return (await asyncio.to_thread(box.probe(source).ping, address)).result


def spec(
    box: Box,
    app: str,
    *,
    lifecycle: str = "app",
    handle: str = "",
    netin: Sequence[tuple[int, int]] = (),
    netout_rules: Sequence[Mapping[str, Any]] = (),
) -> ContainerSpec:
    """A container of an app that Cloud Controller knows."""
    known = box.foundation.state.apps[box.app_guid(app)]
    space = box.foundation.state.spaces[known.space]
    org = box.foundation.state.orgs[space.org]
    return diego_spec(
        handle or secrets.token_hex(8),
        org=org.guid,
        space=space.guid,
        app=known.guid,
        org_name=org.name,
        space_name=space.name,
        app_name=known.name,
        lifecycle=lifecycle,
        netin=netin,
        netout_rules=netout_rules,
    )


async def start(box: Box, wanted: ContainerSpec, *, serve: bool = False) -> Instance:
    """`up` by Guardian, beside Diego's own instances; with `serve`, the app's process runs in it."""
    container = await box.diego.guardian.create(wanted)
    if serve:
        app = (sys.executable, "-S", str(ROOT / "cfbridge/simulator/app.py"), "--tcp", "8080", "8081", "--udp", "5000")
        process = await box.diego.guardian.run(wanted.handle, app)
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
    return Instance(wanted.handle, "", 0, container)


async def known_app(box: Box, org: str, space: str, app: str) -> None:
    """Cloud Controller has it, and no instance runs."""
    await box.push(org, space, app, instances=0)


async def bridge_knows(box: Box, *apps: str) -> None:
    """The bridge has read these apps from Cloud Controller: containers show their names."""

    async def names() -> bool:
        return {*apps} <= {row["app"] for row in await box.api("workloads")}

    await becomes(True, names)


def fault(box: Box, service: str, mode: str, **more: object) -> None:
    """`none` takes it back."""
    control.fault(box.foundation.state, {"service": service, "mode": mode, **more})


async def status(box: Box) -> tuple[str, str]:
    """(verdict, everything it says)"""
    async with AdminClient.local(str(box.directory / "api.sock"), attempts=1) as client:
        said = await client.status()
    return said.verdict, "\n".join((said.line, *said.reasons, *(f"{a.code} {a.message}" for a in said.alarms)))


async def verdict(box: Box) -> str:
    try:
        return (await status(box))[0]
    except (OSError, Unavailable):
        return "away"


async def org_row(box: Box, name: str) -> dict[str, Any]:
    return next(row for row in await box.api("orgs") if row["name"] == name)


async def restart(box: Box, name: str) -> None:
    """SIGKILL, start again, and wait until bridge and agent have found each other."""
    box.kill(name)
    await back(box, name)


async def back(box: Box, name: str) -> None:
    """Start what was killed, and wait until bridge and agent agree again."""
    if name == "bridge":
        box.start_bridge()
    else:
        await becomes(False, lambda: _connected(box))
        box.start_agent()
    await becomes(True, lambda: _connected(box), LATE_SECONDS)
    await becomes("ok", lambda: verdict(box), LATE_SECONDS)


async def _connected(box: Box) -> bool:
    try:
        return all(
            cell["connected"] and cell["reached_revision"] for cell in await box.api("cells") or [{"connected": False}]
        )
    except (OSError, KeyError, Unavailable):  # not there yet
        return False


def tell_agent(box: Box, **settings: object) -> None:
    """Further settings of the agent, from its next start on."""
    path = box.directory / "agent.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **settings}))


async def leases(box: Box) -> dict[str, str]:
    """Address → handle, of containers."""
    rows = {row["address"]: row["workload_id"] for row in await box.api("leases")}
    return {address: name.partition(":")[2] for address, name in rows.items() if not name.startswith("vm:")}
