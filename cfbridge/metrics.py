"""What does Prometheus see? What is there now, read from the facade when asked, and how the API was used.

One registry per bridge, none global, so that tests and two bridges in one process don't meet.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from cfbridge.api.views import Facade

CONTENT_TYPE = CONTENT_TYPE_LATEST
_DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    def __init__(self, facade: Facade, clock: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_State(facade, clock))
        self.requests = Counter(
            "cfbridge_api_requests", "Requests answered", ("route", "status"), registry=self.registry
        )
        self.request_seconds = Histogram(
            "cfbridge_api_request_seconds", "Time to answer", ("route",), buckets=_DURATIONS, registry=self.registry
        )

    def exposition(self) -> bytes:
        return generate_latest(self.registry)


class _State(Collector):
    def __init__(self, facade: Facade, clock: Callable[[], float]) -> None:
        self._facade = facade
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would read the facade before it is built."""
        return ()

    def collect(self) -> Iterable[Metric]:
        facade = self._facade
        snapshot, alarms = facade.snapshot, facade.alarms
        degraded = any(alarm.severity == "degraded" for alarm in alarms)
        yield _gauge("started_at_seconds", "When the bridge began, seconds since the epoch", facade.started_at)
        yield _gauge("revision", "Newest revision known", snapshot.revision)
        yield _gauge("degraded", "1 while an alarm says so", int(degraded))
        alarm_gauge = _family("alarms", "Alarms that stand", "severity", "code")
        for (severity, code), number in sorted(Tally((a.severity, a.code) for a in alarms).items()):
            alarm_gauge.add_metric((severity, code), number)
        yield alarm_gauge
        connected = _family("cell_connected", "1 while the cell's agent is connected", "cell")
        reached = _family("cell_reached_revision", "Revision that is in force on the cell", "cell")
        drifts = _family("cell_drifts", "Times that foreign changes were healed", "cell")
        workloads = _family("cell_workloads", "Containers on the cell", "cell")
        for name, cell in sorted(snapshot.cells.items()):
            connected.add_metric((name,), int(cell.connected))
            reached.add_metric((name,), cell.reached)
            drifts.add_metric((name,), cell.drifts)
            workloads.add_metric((name,), len(cell.ports))
        yield from (connected, reached, drifts, workloads)
        stale = _family("foundation_stale_seconds", "How long looks have failed; 0 = fresh", "foundation", "kind")
        objects = _family("foundation_objects", "What is known of the foundation", "foundation", "kind")
        quarantined = _family("foundation_quarantined", "Objects that could not be read", "foundation")
        for name, state in sorted(snapshot.inventory.items()):
            for kind, look in sorted(state.looks.items()):
                seconds = 0.0 if look.stale_since is None else max(0.0, self._clock() - look.stale_since)
                stale.add_metric((name, kind), seconds)
            for kind in ("orgs", "spaces", "apps", "processes", "policies", "asgs"):
                objects.add_metric((name, kind), len(getattr(state, kind)))
            quarantined.add_metric((name,), len(state.quarantined))
        yield from (stale, objects, quarantined)
        held = _family("pool_held_ratio", "Held share of the pool, 0 to 1", "pool")
        for pool in sorted(pool.name for pool in snapshot.pools):
            held.add_metric((pool,), snapshot.held.pool_use.get(pool, 0.0))
        yield held
        yield _gauge("leases", "Addresses in use", sum(map(len, snapshot.held.leases.values())))
        yield _gauge("refusals", "Orgs and workloads that have no network", len(snapshot.held.refusals))
        yield _gauge("rules", "Rules in force", len(facade.ruleset.labels))


def _family(name: str, says: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"cfbridge_{name}", says, labels=labels)


def _gauge(name: str, says: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"cfbridge_{name}", says, value=value)
