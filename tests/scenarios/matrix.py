"""What passes between some apps, and what does not? Every kind of allow, asked from every app on every port."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.simulator import lab
from tests.scenarios.stage import LATE_SECONDS, becomes, tcp, udp

ALLOWED = {
    "one tcp port": ("client", "server", "tcp", "8080"),
    "a range of tcp ports": ("ranger", "server", "tcp", "8000-8090"),
    "udp": ("client", "server", "udp", "5000"),
    "a range of udp ports": ("ranger", "server", "udp", "4990-5010"),
    "an app to itself": ("server", "server", "tcp", "8080"),
    "another org": ("stranger", "server", "tcp", "8081"),
}
PROBED = {"tcp": ("8080", "8081"), "udp": ("5000",)}
APPS = {"client": "acme", "ranger": "acme", "server": "acme", "stranger": "globex"}
"""Each with its org; their space is `dev`."""


async def allow(box: Box) -> None:
    for source, destination, protocol, ports in ALLOWED.values():
        await box.add_policy(source, destination, protocol, ports)
    await box.bind_asg("out", [{"protocol": "tcp", "destination": lab.EXT, "ports": "443"}], "acme/dev")


@dataclass(frozen=True)
class Matrix:
    """An instance of every app asks an instance of `server`, on every port where it listens; one leaves by its ASG."""

    box: Box
    senders: Mapping[str, Instance]
    server: Instance
    """Another instance than the one among the senders."""

    def expected(self) -> dict[str, str]:
        found = {}
        for source in APPS:
            for protocol, ports in PROBED.items():
                for port in ports:
                    may = any((source, protocol) == (s, p) and _covers(r, port) for s, _, p, r in ALLOWED.values())
                    found[f"{source} {protocol}/{port}"] = "open" if may else "refused"
        return found | {"out by ASG": "open", "in by mapped port": "open"}

    async def seen(self) -> dict[str, str]:
        found = {}
        for source, here in self.senders.items():
            for port in PROBED["tcp"]:
                found[f"{source} tcp/{port}"] = await tcp(self.box, here, self.server, int(port))
            for port in PROBED["udp"]:
                found[f"{source} udp/{port}"] = await udp(self.box, here, self.server, int(port))
        found["out by ASG"] = await tcp(self.box, self.senders["client"], lab.EXT, 443)
        mapped = self.server.mapped_port(8080)
        found["in by mapped port"] = (await self.box.tcp_from("router", lab.CELL, mapped)).result
        return found

    async def holds(self) -> None:
        await becomes(self.expected(), self.seen, LATE_SECONDS)


def _covers(ports: str, port: str) -> bool:
    first, _, last = ports.partition("-")
    return int(first) <= int(port) <= int(last or first)
