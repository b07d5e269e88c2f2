"""Who starts and stops containers when the desired state changes? A Diego of one cell, over the simulated Guardian.

Instances are made as the executor makes them: Garden's rules from the security groups of the space, `netin` for the
app's ports, then the app's process in the container's network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfbridge.simulator.garden import Container, Guardian, diego_spec
from cfbridge.simulator.nouns import DesiredApp, SecurityGroup
from cfbridge.simulator.state import Foundation

ROOT = Path(__file__).resolve().parents[2]
TCP_PORTS, UDP_PORTS = (8080, 8081), (5000,)
RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Instance:
    """A running app instance."""

    handle: str
    app: str
    index: int
    container: Container

    @property
    def address(self) -> str:
        return self.container.address

    @property
    def address6(self) -> str:
        """Empty where its org's pool has no IPv6."""
        return self.container.address6

    @property
    def netns(self) -> str:
        return self.container.netns

    def mapped_port(self, container_port: int) -> int:
        """The cell's port that leads to it."""
        return self.container.mapped_ports[container_port]


class Diego:
    def __init__(self, state: Foundation, networker: Sequence[str], external_ip: str) -> None:
        self.guardian = Guardian(networker[0], networker[1:], external_ip=external_ip)
        self._state = state
        self._instances: dict[str, dict[int, Instance]] = {}
        self._wanted: dict[str, DesiredApp] = {}
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._failure: BaseException | None = None
        self._unsubscribe = state.subscribe(self._desire)

    def _desire(self, desired: DesiredApp) -> None:
        self._wanted[desired.process_guid] = desired
        self._idle.clear()
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled. What can't be started is tried again, as Diego does."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = dict(self._wanted)
            done = await asyncio.gather(*(self._converge(each) for each in wanted.values()), return_exceptions=True)
            failures = [each for each in done if each is not None]
            self._failure = failures[0] if failures else None  # shown to who waits in `settled`
            if failures:
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._changed.set)
            for guid, desired in wanted.items():
                if self._wanted[guid] is desired and not desired.instances and not self._instances[guid]:
                    del self._wanted[guid], self._instances[guid]
            if not self._changed.is_set():
                self._idle.set()

    async def settled(self) -> None:
        """What was desired so far runs. Raises what kept it from that."""
        await asyncio.wait_for(self._idle.wait(), 60)
        if self._failure is not None:
            raise self._failure

    async def _converge(self, desired: DesiredApp) -> None:
        running = self._instances.setdefault(desired.process_guid, {})
        surplus = [index for index in running if index >= desired.instances]
        missing = [index for index in range(desired.instances) if index not in running]
        stopped = await asyncio.gather(*(self.stop(running[index]) for index in surplus), return_exceptions=True)
        for index, failure in zip(surplus, stopped, strict=True):
            if failure is None:
                del running[index]
        started = await asyncio.gather(*(self.start(desired, index) for index in missing), return_exceptions=True)
        running.update({each.index: each for each in started if isinstance(each, Instance)})
        for outcome in (*stopped, *started):  # one that fails keeps no other from its end or its start
            if isinstance(outcome, BaseException):
                raise outcome

    async def start(self, desired: DesiredApp, index: int) -> Instance:
        """A container, its network, then its process."""
        handle = "-".join(secrets.token_hex(n) for n in (4, 2, 2, 2, 2))
        groups = self._state.effective_groups(desired.space_guid, "running")
        spec = diego_spec(
            handle,
            org=desired.org_guid,
            space=desired.space_guid,
            app=desired.app_guid,
            org_name=desired.org_name,
            space_name=desired.space_name,
            app_name=desired.app_name,
            index=index,
            netin=[(0, port) for port in TCP_PORTS],
            netout_rules=net_out_rules(groups),
        )
        container = await self.guardian.create(spec)
        app = (sys.executable, "-S", str(ROOT / "cfbridge/simulator/app.py"), "--name", desired.app_name)
        ports = ("--tcp", *map(str, TCP_PORTS), "--udp", *map(str, UDP_PORTS), "--instance", str(index))
        process = await self.guardian.run(handle, (*app, *ports))
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        return Instance(handle, desired.app_name, index, container)

    async def stop(self, instance: Instance) -> None:
        await self.guardian.destroy(instance.handle)

    def instance(self, app: str, index: int = 0) -> Instance:
        for running in self._instances.values():
            if index in running and running[index].app == app:
                return running[index]
        raise KeyError(f"{app}/{index} does not run")

    def running(self) -> tuple[Instance, ...]:
        """All whose process answered that it listens."""
        return tuple(instance for each in self._instances.values() for instance in each.values())

    async def close(self) -> None:
        self._unsubscribe()
        await self.guardian.close()


def net_out_rules(groups: Sequence[SecurityGroup]) -> list[dict[str, Any]]:
    """Security groups as Cloud Controller and the executor hand them to Garden: one rule per destination."""
    protocols = {"all": 0, "tcp": 1, "udp": 2, "icmp": 3, "icmpv6": 4}
    rules = []
    for group in groups:
        for rule in group.rules:
            for destination in str(rule["destination"]).split(","):
                made: dict[str, Any] = {
                    "protocol": protocols[str(rule["protocol"])],
                    "networks": [_network(destination)],
                }
                if rule["protocol"] in ("tcp", "udp"):
                    made["ports"] = [_ports(each) for each in str(rule["ports"]).split(",")]
                if rule["protocol"] in ("icmp", "icmpv6"):
                    made["icmps"] = {"type": int(rule["type"]) & 255, "code": int(rule["code"]) & 255}
                if rule.get("log"):
                    made["log"] = True
                rules.append(made)
    return rules


def _network(destination: str) -> dict[str, str]:
    if "-" in destination:
        start, _, end = destination.partition("-")
        return {"start": start.strip(), "end": end.strip()}
    network = ipaddress.ip_network(destination.strip(), strict=False)
    return {"start": str(network[0]), "end": str(network[-1])}


def _ports(written: str) -> dict[str, int]:
    start, _, end = written.partition("-")
    return {"start": int(start), "end": int(end or start)}
