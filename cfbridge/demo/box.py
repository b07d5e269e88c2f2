"""What can one do with a foundation in a box? What a developer, an operator and a network person do, and packets.

Used by the demo, the scenario tests and the benchmarks. `async with Box(...)` removes everything it made.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from cfbridge.demo.diego import Instance
from cfbridge.demo.installation import ROOT, Installation, until
from cfbridge.simulator import control, lab, nouns
from cfbridge.simulator.probe import SENT_AGAIN_SECONDS, Outcome, Packet, Probe


@dataclass
class Box(Installation):
    """One foundation in a box. Names are `org, space, app`; apps' names are distinct in a box."""

    # ---- what a developer and an operator do

    async def push(self, org: str, space: str, app: str, instances: int = 1, **more: object) -> str:
        """`cf push`: the instances run, and the org is announced where it is routed. The app's GUID."""
        body = {"org": org, "space": space, "name": app, "instances": instances, **more}
        shown: Any = control.push(self.foundation.state, body)
        await self.settled()
        for row in await self.api("orgs"):
            if row["mode"] == "routed":
                for subnet in row["subnets"]:
                    await asyncio.to_thread(self.lab.announce, subnet)
        return str(shown["guid"])

    async def scale(self, org: str, space: str, app: str, instances: int) -> None:
        control.scale(self.foundation.state, {"org": org, "space": space, "name": app, "instances": instances})
        await self.settled()

    async def delete(self, org: str, space: str, app: str) -> None:
        control.delete(self.foundation.state, {"org": org, "space": space, "name": app})
        await self.settled()

    async def settled(self) -> None:
        """Diego has done what was desired so far."""
        await self.diego.settled()

    async def add_policy(self, source: str, destination: str, protocol: str = "tcp", ports: str = "8080") -> None:
        await self._policy("policies", source, destination, protocol, ports)

    async def remove_policy(self, source: str, destination: str, protocol: str = "tcp", ports: str = "8080") -> None:
        await self._policy("policies/delete", source, destination, protocol, ports)

    async def _policy(self, path: str, source: str, destination: str, protocol: str, ports: str) -> None:
        """As the `cf` CLI does: by the external policy API, with a user's token."""
        first, _, last = ports.partition("-")
        policy = {
            "source": {"id": self.app_guid(source)},
            "destination": {
                "id": self.app_guid(destination),
                "protocol": protocol,
                "ports": {"start": int(first), "end": int(last or first)},
            },
        }
        there = self.foundation.foundation
        async with aiohttp.ClientSession() as session:
            login = {"grant_type": "password", "username": "admin", "password": "admin"}
            basic = {"Authorization": aiohttp.encode_basic_auth("cf", "")}
            async with session.post(f"{there.uaa_url}/oauth/token", data=login, headers=basic) as answer:
                token = (await answer.json())["access_token"]
            url = f"{there.policy_url}/networking/v1/external/{path}"
            headers = {"Authorization": f"bearer {token}"}
            async with session.post(url, json={"policies": [policy]}, headers=headers) as answer:
                if answer.status != 200:
                    raise RuntimeError(f"{path}: {answer.status} {await answer.text()}")

    def app_guid(self, name: str) -> str:
        return next(app.guid for app in self.foundation.state.apps.values() if app.name == name)

    async def bind_asg(
        self, name: str, rules: Sequence[Mapping[str, object]], space: str, lifecycle: str = "running"
    ) -> None:
        org, _, space = space.partition("/")
        body = {"name": name, "org": org, "space": space, "lifecycle": lifecycle, "rules": [*rules]}
        control.bind_asg(self.foundation.state, body)

    async def unbind_asg(self, name: str, space: str, lifecycle: str = "running") -> None:
        org, _, space = space.partition("/")
        control.unbind_asg(self.foundation.state, {"name": name, "org": org, "space": space, "lifecycle": lifecycle})

    def add_rules(self, written: str) -> None:
        """Groups and rules beside the tenants and VMs of the box, as the intent file says them."""
        fresh = self.directory / "intent.new"
        fresh.write_text(self.intent + written)
        fresh.replace(self.directory / "intent.yaml")

    async def create_unknown(self, org: str) -> Instance:
        """A container of an org, space and app that Cloud Controller has never heard of."""
        process = nouns.DesiredApp(
            process_guid=_guid(),
            process_type="web",
            app_guid=_guid(),
            app_name="stranger",
            space_guid=_guid(),
            space_name="dev",
            org_guid=_guid(),
            org_name=org,
            instances=1,
        )
        return await self.diego.start(process, 0)

    # ---- what is there

    def instance(self, app: str, index: int = 0) -> Instance:
        return self.diego.instance(app, index)

    @staticmethod
    def in_subnet(address: str, org: Mapping[str, Any]) -> bool:
        return any(ipaddress.ip_address(address) in ipaddress.ip_network(subnet) for subnet in org["subnets"])

    async def snat_address(self, org: str) -> str:
        rows = {row["name"]: row for row in await self.api("orgs")}
        return str(rows[org]["snat_addresses"][0])

    def free_pool_address(self) -> str:
        return "10.243.255.77"

    # ---- packets

    def probe(self, instance: Instance) -> Probe:
        if instance.handle not in self._probes:
            self._probes[instance.handle] = Probe(instance.netns)
        return self._probes[instance.handle]

    async def tcp(self, source: Instance, address: str, port: int, timeout: float = SENT_AGAIN_SECONDS) -> Outcome:
        return await asyncio.to_thread(self.probe(source).tcp, address, port, timeout=timeout)

    async def udp(self, source: Instance, address: str, port: int, timeout: float = 1.0) -> Outcome:
        return await asyncio.to_thread(self.probe(source).udp, address, port, timeout=timeout)

    async def tcp_from(self, label: str, address: str, port: int) -> Outcome:
        """From a host of the lab: `router`, `ext`, `vm1`, `cell`."""
        return await asyncio.to_thread(self.lab.probe(label).tcp, address, port)

    async def open_stream(self, source: Instance, name: str, address: str, port: int, push: str = "client") -> None:
        await asyncio.to_thread(self.probe(source).open_stream, name, address, port, push=push)

    async def flows(self, source: Instance, name: str) -> bool:
        return await asyncio.to_thread(self.probe(source).flows, name)

    async def until_cut(self, source: Instance, name: str, seconds: float) -> bool:
        """Whether nothing comes through any more, in time."""

        async def cut() -> bool:
            return not await asyncio.to_thread(self.probe(source).flows, name, lines=1, timeout=0.5)

        return await until(cut, seconds)

    async def resolve(self, source: Instance, *, tcp: bool) -> str:
        """What DNS at the link-local listener answers: `answered`, or what went wrong."""
        script = [sys.executable, "-S", "-m", "cfbridge.simulator.lookup", lab.DNS, "frontend.apps.internal"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = ["nsenter", f"--net={source.netns}", "--", *script, *(["--tcp"] if tcp else [])]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=20, env=environment
        )
        return done.stdout.strip()

    async def spoofed(self, source: Instance, destination: Instance) -> str:
        """The fate of a datagram that `source` sends to `destination` in the name of the destination's neighbour."""
        sniffer, sender = self.probe(destination), self.probe(source)

        def send() -> str:
            sniffer.hear()
            sniffer.heard()
            forged = Packet("10.240.77.77", destination.address, 17, 9999, tag=7)
            as_twin = Packet(lab.EXT, destination.address, 17, 9999, tag=8)
            sender.send([forged, as_twin])
            time.sleep(0.3)
            arrived, _ = sniffer.heard()
            return "arrived" if arrived else "dropped"

        return await asyncio.to_thread(send)

    async def seen_by_firewall(self) -> frozenset[str]:
        return await asyncio.to_thread(self.lab.seen)

    async def firewall_blocks(self, address: str) -> None:
        await asyncio.to_thread(self.lab.block, address)

    async def firewall_unblocks(self, address: str) -> None:
        await asyncio.to_thread(self.lab.unblock, address)


def _guid() -> str:
    raw = secrets.token_hex(16)
    return f"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}"
