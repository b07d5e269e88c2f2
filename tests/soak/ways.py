"""Which connections are tried? Mostly between containers: what policies name, its reverse, and what nobody named."""

from __future__ import annotations

import random
from dataclasses import dataclass

from cfbridge.demo.installation import CELL_SERVICE_PORT
from cfbridge.simulator import lab
from policy_sync.model import CfPolicy, Protocol
from tests.soak.population import Population
from tests.soak.truth import End, Truth, Way

TCP, UDP = Protocol.TCP, Protocol.UDP
TCP_PORTS, UDP_PORTS = (8080, 8081), (5000, 5001, 7005)
"""TCP: where an app listens. UDP: anything, because ears are not servers."""


@dataclass
class Ways:
    population: Population
    truth: Truth
    rng: random.Random

    def datagram(self) -> tuple[Way, float] | None:
        """A way for a flow, mostly one that is refused, and for how long."""
        ends = [end for end in self.population.ends() if not end.isolated]
        everybody = self.population.ends()
        if len(ends) < 2:
            return None
        drawn, port, seconds = self.rng.random(), self.rng.choice(UDP_PORTS), self.rng.uniform(10, 60)
        if drawn < 0.1:
            return Way(self.rng.choice(everybody), self.population.outside(), UDP, 5353), seconds
        if drawn < 0.15:
            return Way(self.rng.choice(everybody), self.population.machine(), UDP, port), seconds
        if drawn < 0.2:
            return Way(self.population.outside(), self.rng.choice(ends), UDP, port), seconds
        if drawn < 0.25:
            return Way(self.population.machine(), self.rng.choice(ends), UDP, port), seconds
        if drawn < 0.3:
            cell = self.population.host("cell", lab.CELL)
            return Way(self.rng.choice(everybody), cell, UDP, port, to_cell=True), seconds
        if drawn < 0.6 and (named := self._named(UDP, ends)):
            return named, seconds
        source, destination = self.rng.sample(ends, 2)
        return Way(source, destination, UDP, port), seconds

    def connect(self) -> Way | None:
        serving = self.population.serving()
        everybody = self.population.ends()
        if len(serving) < 2:
            return None
        handle, destination = self.rng.choice([*serving.items()])
        port, drawn = self.rng.choice(TCP_PORTS), self.rng.random()
        if drawn < 0.1:
            return Way(self.rng.choice(everybody), self.population.outside(), TCP, self.rng.choice((80, 443, 8080)))
        if drawn < 0.15:
            cell = self.population.host("cell", lab.CELL)
            return Way(self.rng.choice(everybody), cell, TCP, CELL_SERVICE_PORT, to_cell=True)
        if drawn < 0.2:
            return Way(self.rng.choice(everybody), self.population.machine(), TCP, 5432)
        if drawn < 0.25:
            return Way(self.population.outside(), destination, TCP, port)
        if drawn < 0.35:
            container = self.population.box.diego.guardian.containers.get(handle)
            if container is None or port not in container.mapped_ports:
                return None
            by = (lab.CELL, container.mapped_ports[port])
            router = self.population.host("router", lab.ROUTER)
            source = router if self.rng.random() < 0.7 else self.rng.choice(everybody)
            return None if source is destination else Way(source, destination, TCP, port, by)
        if drawn < 0.75 and (named := self._named(TCP, [*serving.values()])):
            return named
        return Way(*self.rng.sample([*serving.values()], 2), TCP, port)

    def stream(self) -> Way | None:
        """One that is allowed now, as far as anybody knows; of some tries."""
        for _ in range(10):
            way = self.connect()
            if way is not None and self.truth.allowed_now(way):
                return way
        return None

    def _named(self, protocol: Protocol, ends: list[End]) -> Way | None:
        """What some policy names, now and then the other way round."""
        policies: list[CfPolicy] = [
            policy
            for among in self.truth.content("policies").values()
            for policy in among
            if policy.protocol is protocol
        ]
        ports = TCP_PORTS if protocol is TCP else UDP_PORTS
        for _ in range(5 if policies else 0):
            policy = self.rng.choice(policies)
            sources = [end for end in ends if end.workload and end.workload.app == policy.source]
            destinations = [end for end in ends if end.workload and end.workload.app == policy.destination]
            fitting = [port for port in ports if policy.first_port <= port <= policy.last_port]
            if sources and destinations and fitting:
                source, destination = self.rng.choice(sources), self.rng.choice(destinations)
                if self.rng.random() < 0.25:
                    source, destination = destination, source
                if source is not destination:
                    return Way(source, destination, protocol, self.rng.choice(fitting))
        return None
