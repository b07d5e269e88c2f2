"""What do people call it? Names of orgs, spaces, apps and workloads, from the foundation, else from the containers."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from cfbridge.inventory import FoundationState
from cfbridge.snapshot import CellState, Snapshot
from egress.values import PackedRange, QualifiedId, qualify, text, unqualify
from garden_plugin.wire import PortReport
from policy_sync.model import Asg, CfPolicy, GardenRule, Protocol, Rule, Selector, SelectorKind, Service


@dataclass(frozen=True, slots=True)
class _Reported:
    names: dict[tuple[str, QualifiedId], str]
    places: dict[QualifiedId, tuple[QualifiedId, QualifiedId]]
    """App → (org, space)."""


class Naming:
    """Built for one snapshot. What nobody has named yet is called `(unknown org)` and the like, never by its GUID."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._inventory = snapshot.inventory
        self._apps: dict[QualifiedId, tuple[str, str, str]] = {}

    @cached_property
    def _ports(self) -> dict[str, tuple[CellState, PortReport]]:
        return {id_: (cell, port) for cell in self._snapshot.cells.values() for id_, port in cell.ports.items()}

    @cached_property
    def _reported(self) -> _Reported:
        """What containers say; looked at only where a foundation does not say it."""
        found = _Reported({}, {})
        for cell, port in self._ports.values():
            org, space, app = (qualify(cell.foundation, guid) for guid in (port.org, port.space, port.app))
            for kind, each, name in (
                ("org", org, port.org_name),
                ("space", space, port.space_name),
                ("app", app, port.app_name),
            ):
                if name:
                    found.names.setdefault((kind, each), name)
            found.places.setdefault(app, (org, space))
        return found

    def _state(self, id_: QualifiedId) -> FoundationState | None:
        return self._inventory.get(unqualify(id_)[0])

    def org(self, id_: QualifiedId | str) -> str:
        if not (id_ and unqualify(str(id_))[1]):
            return ""
        id_ = QualifiedId(id_)
        state = self._state(id_)
        known = state.orgs.get(id_) if state else None
        return known.name if known else self._reported.names.get(("org", id_), "(unknown org)")

    def space(self, id_: QualifiedId) -> str:
        state = self._state(id_)
        known = state.spaces.get(id_) if state else None
        return known.name if known else self._reported.names.get(("space", id_), "(unknown space)")

    def space_path(self, id_: QualifiedId) -> str:
        state = self._state(id_)
        known = state.spaces.get(id_) if state else None
        return f"{self.org(known.org)}/{known.name}" if known else self.space(id_)

    def app(self, id_: QualifiedId) -> tuple[str, str, str]:
        """(org, space, app)"""
        if id_ not in self._apps:
            self._apps[id_] = self._app(id_)
        return self._apps[id_]

    def _app(self, id_: QualifiedId) -> tuple[str, str, str]:
        state = self._state(id_)
        known = state.apps.get(id_) if state else None
        space_known = state.spaces.get(known.space) if state and known else None
        if known and space_known:
            return self.org(space_known.org), space_known.name, known.name
        org, space = self._reported.places.get(id_, (QualifiedId(""), QualifiedId("")))
        space = known.space if known else space
        name = known.name if known else self._reported.names.get(("app", id_), "(unknown app)")
        return self.org(org) or "(unknown org)", self.space(space) if space else "(unknown space)", name

    def app_path(self, id_: QualifiedId) -> str:
        return "/".join(self.app(id_))

    def held(self, kind: str, what: Any) -> str:
        """An object that is held back: as its kind is called."""
        if isinstance(what, Asg):
            return what.name
        if isinstance(what, CfPolicy):
            ports = ports_text(((what.first_port, what.last_port),))
            return f"{self.app_path(what.source)} to {self.app_path(what.destination)} {what.protocol}/{ports}"
        return {"orgs": self.org, "spaces": self.space_path, "apps": self.app_path}[kind](what)

    def workload(self, id_: str) -> str:
        """`acme/dev/frontend/0`; a task or staging container says so; a VM is its name."""
        if id_.startswith("vm:"):
            return id_.removeprefix("vm:")
        if id_ not in self._ports:
            return "(gone)"
        cell, port = self._ports[id_]
        if not port.app:
            return "(no app)"
        last = str(port.instance_index) if port.instance_index >= 0 else port.lifecycle or "?"
        return f"{self.app_path(qualify(cell.foundation, port.app))}/{last}"

    def selector(self, selector: Selector) -> str:
        kind, value = selector.kind, selector.value.removeprefix("?")
        unknown = " (unknown)" if selector.value.startswith("?") else ""
        if kind is SelectorKind.ANY:
            return "any"
        if unknown:
            said = value if kind is SelectorKind.APP else f"{kind}:{value}"
        elif kind is SelectorKind.ORG:
            said = f"org:{self.org(value)}"
        elif kind is SelectorKind.SPACE:
            said = f"space:{self.space_path(QualifiedId(value))}"
        elif kind is SelectorKind.APP:
            said = self.app_path(QualifiedId(value))
        elif kind is SelectorKind.GROUP:
            said = f"group:{value}"
        elif kind is SelectorKind.WORKLOAD:
            said = value if value.startswith("vm:") else self.workload(value)
        elif kind is SelectorKind.KIND:
            said = f"every {value}" if value != "cell" else "the cell"
        else:
            said = value
        return ("not " if selector.negated else "") + said + unknown

    def sentence(self, rule: Rule) -> str:
        """`allow tcp/5432 from group:web to vm:db-1`"""
        services = [] if rule.services == (Service(),) else [service_text(s) for s in rule.services]
        sources, destinations = (", ".join(map(self.selector, ends)) for ends in (rule.sources, rule.destinations))
        said = " ".join([str(rule.action), *([", ".join(services)] if services else [])])
        said = f"{said} from {sources} to {destinations}"
        if rule.mapped_only:
            said += ", by a mapped port"
        if rule.applied_to:
            said += f", on {', '.join(map(self.selector, rule.applied_to))} only"
        return said


def moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def ports_text(ports: tuple[tuple[int, int], ...]) -> str:
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ports)


def service_text(service: Service | GardenRule) -> str:
    if service.protocol in (Protocol.ICMP, Protocol.ICMPV6):
        numbers = [n for n in (service.icmp_type, service.icmp_code) if n is not None]
        return "/".join([str(service.protocol), *map(str, numbers)])
    return f"{service.protocol}/{ports_text(service.ports)}" if service.ports else str(service.protocol)


def range_text(span: PackedRange) -> str:
    first, last = (ipaddress.ip_address(end) for end in span)
    if first == last:
        return str(first)
    length = first.max_prefixlen - (int(first) ^ int(last)).bit_length()
    if span[0] == (int(first) >> (first.max_prefixlen - length) << (first.max_prefixlen - length)).to_bytes(
        len(span[0]), "big"
    ) and int(last) - int(first) + 1 == 1 << (first.max_prefixlen - length):
        return f"{first}/{length}"
    return f"{text(span[0])}-{text(span[1])}"


def garden_rule_text(rule: GardenRule) -> str:
    """`tcp/443 to 10.0.0.0/8`"""
    return f"{service_text(rule)} to {', '.join(map(range_text, rule.destinations))}"
