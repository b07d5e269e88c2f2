"""What does Garden ask for, and what does it read? Its stdin for each action as our own nouns; our answers as its JSON.

Garden leaves out what is zero (`protocol` absent = all, icmp `type` absent = 0, `netout_rules` absent = no egress),
sends null for empty lists now and then, and spells keys as Go does: in any case. Names come from tenants; they are
carried, never interpreted, and a `log_config` that cannot be read only costs the names. Everything else that is wrong
is refused with the place where it is wrong.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from egress.values import Refused, RefusedError
from garden_plugin.wire import MappedPort, NetOut, PortReport

LIFECYCLES = ("app", "task", "staging")
HOST_IP = "255.255.255.255"
"""What upstream answers; the property is deprecated, its readers expect this."""
INTERFACE = "eth0"

_PortNumber = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Octet = Annotated[int, msgspec.Meta(ge=0, le=255)]
_T = TypeVar("_T")


class _IpRange(msgspec.Struct):
    start: str = ""
    end: str = ""


class _PortRange(msgspec.Struct):
    start: _PortNumber = 0
    end: _PortNumber = 0


class _Icmps(msgspec.Struct):
    type: _Octet = 0
    code: _Octet | None = None


class _NetOutRule(msgspec.Struct):
    protocol: _Octet = 0
    networks: list[_IpRange] = []
    ports: list[_PortRange] = []
    icmps: _Icmps | None = None
    log: bool = False


class _NetIn(msgspec.Struct):
    host_port: _PortNumber = 0
    container_port: _PortNumber = 0


class _Up(msgspec.Struct):
    pid: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
    properties: dict[str, str] = {}
    netout_rules: list[_NetOutRule] = []
    netin: list[_NetIn] = []


class _NetInCall(msgspec.Struct, rename={"host_port": "hostport", "container_port": "containerport"}):
    host_port: _PortNumber = 0
    container_port: _PortNumber = 0


class _NetOutCall(msgspec.Struct):
    netout_rule: _NetOutRule


class _BulkNetOutCall(msgspec.Struct):
    netout_rules: list[_NetOutRule] = []


@dataclass(frozen=True, slots=True)
class Up:
    report: PortReport
    """Without addresses and mapped ports."""
    netin: tuple[MappedPort, ...]
    """As asked for: host port 0 = any."""
    isolated: bool
    """A container without an org, such as a health check: served by the cell alone."""


def up(handle: str, stdin: bytes) -> Up:
    asked = _read(stdin, _Up)
    properties = asked.properties
    org = properties.get("org_id", "")
    names, index = _log_config(properties.get("log_config", ""))
    lifecycle = properties.get("container_workload", "")
    report = PortReport(
        handle=handle,
        org=org,
        space=properties.get("space_id", ""),
        app=properties.get("app_id", "") or properties.get("policy_group_id", ""),
        lifecycle=lifecycle if lifecycle in LIFECYCLES else "",
        org_name=names.get("organization_name", ""),
        space_name=names.get("space_name", ""),
        app_name=names.get("app_name", ""),
        instance_index=index if lifecycle == "app" else -1,
        listed_ports=_listed_ports(properties.get("ports", "")),
        net_out=_net_outs(asked.netout_rules, "netout_rules"),
    )
    isolated = not org or properties.get("healthcheck") == "true"
    return Up(report, tuple(MappedPort(n.host_port, n.container_port) for n in asked.netin), isolated)


def net_in(stdin: bytes) -> MappedPort:
    asked = _read(stdin, _NetInCall)
    return MappedPort(asked.host_port, asked.container_port)


def net_out(stdin: bytes) -> tuple[NetOut, ...]:
    return (_net_out(_read(stdin, _NetOutCall).netout_rule, "netout_rule"),)


def bulk_net_out(stdin: bytes) -> tuple[NetOut, ...]:
    return _net_outs(_read(stdin, _BulkNetOutCall).netout_rules, "netout_rules")


def up_answer(report: PortReport, dns_servers: Sequence[str], search_domains: Sequence[str]) -> str:
    """Every requested port, in order: one that is missing would be a dead endpoint. An empty list of DNS servers would
    be an empty resolv.conf, so it is left out."""
    mapped = [{"HostPort": m.host_port, "ContainerPort": m.container_port} for m in report.mapped_ports]
    properties = {
        "garden.network.container-ip": report.addresses[0],
        "garden.network.host-ip": HOST_IP,
        "garden.network.mapped-ports": _json(mapped),
        "garden.network.interface": INTERFACE,
    }
    if len(report.addresses) > 1:
        properties["garden.network.container-ipv6"] = report.addresses[1]
    answer: dict[str, object] = {"properties": properties}
    if dns_servers:
        answer["dns_servers"] = dns_servers
    if search_domains:
        answer["search_domains"] = search_domains
    return _json(answer)


def net_in_answer(mapped: MappedPort) -> str:
    return _json({"host_port": mapped.host_port, "container_port": mapped.container_port})


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _refuse(field: str, message: str) -> RefusedError:
    return RefusedError(Refused("GARDEN_REQUEST", f"stdin from Garden: {field}: {message}", field))


def _read(stdin: bytes, kind: type[_T]) -> _T:
    try:
        document = msgspec.json.decode(stdin)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise _refuse("$", f"is not one JSON document ({fault}); check which Garden calls this networker") from None
    if not isinstance(document, dict):
        raise _refuse("$", f"is {document!r:.20}, an object is needed; check which Garden calls this networker")
    try:
        known = _without_nulls({str(key).lower(): value for key, value in document.items()})
        return msgspec.convert(known, kind)
    except RecursionError:
        raise _refuse("$", "is nested too deeply") from None
    except msgspec.ValidationError as fault:
        message, _, place = str(fault).rpartition(" - at `")
        if not message:
            message, place = str(fault), "$"
        raise _refuse(
            place.rstrip("`").removeprefix("$.") or "$", f"{message}; send it as Garden's API describes it"
        ) from None


def _without_nulls(value: Any) -> Any:
    """Go reads null as "not there"."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _log_config(written: str) -> tuple[Mapping[str, str], int]:
    """(tags, instance index). What cannot be read counts as not given."""
    try:
        config = msgspec.json.decode(written) if written else {}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}, -1
    if not isinstance(config, dict):
        return {}, -1
    tags, index = config.get("tags"), config.get("index")
    named = {k: v for k, v in tags.items() if isinstance(v, str)} if isinstance(tags, dict) else {}
    return named, index if type(index) is int and 0 <= index < 1 << 31 else -1


def _listed_ports(written: str) -> tuple[int, ...]:
    ports = []
    for item in filter(None, map(str.strip, written.split(","))):
        if not (item.isascii() and item.isdigit() and len(item) <= 5 and 0 < int(item) <= 65535):
            raise _refuse("Properties.ports", f"{item!r:.40} is not a port; write numbers with commas between")
        ports.append(int(item))
    return tuple(ports)


def _net_outs(rules: list[_NetOutRule], field: str) -> tuple[NetOut, ...]:
    return tuple(_net_out(rule, f"{field}[{at}]") for at, rule in enumerate(rules))


def _net_out(rule: _NetOutRule, field: str) -> NetOut:
    return NetOut(
        protocol=rule.protocol,
        networks=tuple(_ip_range(r, f"{field}.networks[{at}]") for at, r in enumerate(rule.networks)),
        ports=tuple(_port_range(r, f"{field}.ports[{at}]") for at, r in enumerate(rule.ports)),
        icmp_type=rule.icmps.type if rule.icmps else None,
        icmp_code=rule.icmps.code if rule.icmps else None,
        log=rule.log,
    )


def _ip_range(written: _IpRange, field: str) -> tuple[str, str]:
    """One end alone is one address. Both absent would read as "everywhere", which nobody says by an empty range."""
    if not written.start and not written.end:
        raise _refuse(field, "has neither start nor end; leave networks out to mean all")
    try:
        first, last = (
            ipaddress.ip_address(text) for text in (written.start or written.end, written.end or written.start)
        )
    except ValueError as fault:
        raise _refuse(field, f"{fault}; write two addresses") from None
    if first.version != last.version or getattr(first, "scope_id", None) or getattr(last, "scope_id", None):
        raise _refuse(field, f"{written.start} and {written.end} are not two plain addresses of one family")
    if int(first) > int(last):
        raise _refuse(field, f"{written.start} is after {written.end}; the lower address goes first")
    return str(first), str(last)


def _port_range(written: _PortRange, field: str) -> tuple[int, int]:
    first, last = written.start, written.end or written.start
    if first > last:
        raise _refuse(field, f"{first} is after {last}; the lower port goes first")
    return first, last
