"""What does a daemon's file say? YAML or JSON, strictly: an unknown key is refused, with the nearest known one."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cfbridge.document import Node, bind, choice, nearest, parse, short
from cfbridge.settings import (
    ApiConfig,
    BridgeConfig,
    CellConfig,
    FirewallConfig,
    FoundationConfig,
    PolicyServerConfig,
    WithdrawalConfig,
)
from egress import pools, values
from egress.model import Defaults, NetworkMode, Pool
from egress.values import Refused, RefusedError
from garden_plugin.settings import AgentConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_AGENT_DEFAULTS = {
    "socket": "/var/vcap/data/cfbridge/agent.sock",
    "state_dir": "/var/vcap/data/cfbridge/agent",
}


def load_bridge(path: str) -> BridgeConfig:
    """The bridge's config file. Raises RefusedError that names line, path and, for an unknown key, the nearest one."""
    return read_bridge(_contents(path))


def load_agent(path: str) -> AgentConfig:
    """The agent's config file (decisions 31)."""
    return read_agent(_contents(path))


def agent_document(agent: AgentConfig) -> str:
    """The text of a config file that `load_agent` reads as `agent`."""
    written = {key: value for key, value in asdict(agent).items() if value != ""}
    written["mapped_ports"] = "{}-{}".format(*agent.mapped_ports)
    return json.dumps(written, indent=2, sort_keys=True)


def read_bridge(written: str | bytes) -> BridgeConfig:
    root = parse(written)
    plain = ("store", "state_dir", "agent_socket", "intent_file")
    readers: dict[str, Any] = {
        "foundations": lambda n: tuple(_foundation(each) for each in n.items()),
        "pools": _pools,
        "dataplane": _dataplane,
        "defaults": _defaults,
        "firewall": lambda n: bind(n, FirewallConfig, _FIREWALL),
        "api": _api,
        "cell": lambda n: n,
    }
    entries = root.only((*plain, *readers))
    for needed in ("foundations", "pools"):
        if needed not in entries:
            root.refuse(f"{needed} is missing")
    found: dict[str, Any] = {}
    for key, node in entries.items():
        found[key] = readers[key](node) if key in readers else node.text()
    if not found["foundations"]:
        entries["foundations"].refuse("at least one foundation is needed")
    _distinct(entries["foundations"], [f.name for f in found["foundations"]])
    if "store" in entries and not re.match(r"(sqlite|postgresql)(\+[a-z]+)?://", found["store"]):
        entries["store"].refuse("sqlite:////absolute/path or postgresql://… is expected")
    settings, mtu, dns_servers = found.pop("defaults", (Defaults(), 0, ()))
    firewall = found.pop("firewall", FirewallConfig())
    if dns_servers and "dns_listeners" not in (entries["firewall"].entries() if "firewall" in entries else ()):
        firewall = replace(firewall, dns_listeners=dns_servers)
    config = BridgeConfig(**{**found, "cell": None}, defaults=settings, mtu=mtu, firewall=firewall)
    return replace(config, cell=_cell(entries["cell"], config)) if "cell" in entries else config


def read_agent(written: str | bytes) -> AgentConfig:
    return _checked_agent(root := parse(written), bind(root, AgentConfig, _AGENT))


def _contents(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RefusedError(Refused("CONFIG_UNREADABLE", f"{path} can not be read: {reason}")) from error


def _distinct(node: Node, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            node.refuse(f"the name {short(name)} is here twice")


def _name(node: Node) -> str:
    """Names go into ids (`foundation:guid`), file names and comments."""
    if not _NAME.fullmatch(written := node.text()):
        node.refuse("a name is made of letters, digits, '.', '_' and '-', at most 63")
    return written


def _url(node: Node) -> str:
    written = node.text()
    try:
        parts = urlsplit(written)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        ok = False
    if not ok:
        node.refuse(f"{short(written)} is no http:// or https:// URL")
    return written.rstrip("/")


def _foundation(node: Node) -> FoundationConfig:
    special: dict[str, Any] = {
        "name": _name,
        "api": _url,
        "policy_server": lambda n: bind(n, PolicyServerConfig, {"url": _url, "poll_seconds": _positive}),
        "delta_seconds": _positive,
        "sweep_seconds": _positive,
        "asg_seconds": _positive,
        "asg_source": lambda n: _one_of(n, ("policy-server", "cloud-controller")),
        "asg_settle_seconds": lambda n: n.seconds(),
        "withdrawals": lambda n: bind(n, WithdrawalConfig, _WITHDRAWALS),
    }
    return bind(node, FoundationConfig, special)


_WITHDRAWALS: dict[str, Any] = {
    "share": lambda n: _share(n),
    "count": lambda n: _at_least(n, 0),
    "window_seconds": lambda n: n.seconds(),
    "hold_seconds": lambda n: n.seconds(),
    "hold_looks": lambda n: _at_least(n, 1),
}


def _at_least(node: Node, least: int) -> int:
    if (number := node.number()) < least:
        node.refuse(f"{least} or more is expected")
    return number


def _positive(node: Node) -> float:
    if (seconds := node.seconds()) <= 0:
        node.refuse("more than 0 seconds are needed")
    return seconds


def _one_of(node: Node, known: tuple[str, ...]) -> str:
    if (written := node.text()) not in known:
        node.refuse(f"{short(written)} is none of {', '.join(known)}{nearest(written, known)}")
    return written


def _pools(node: Node) -> tuple[Pool, ...]:
    found = tuple(
        bind(each, Pool, {"name": _name, "prefixes": _prefixes, "reserved": _reserved}) for each in node.items()
    )
    for refused in pools.validate(found):
        at = node.nearest_to(refused.field.split("/")[2:])  # /pools/0/prefixes/1
        at.refuse(refused.message, refused.code)
    return found


def _prefixes(node: Node) -> tuple[str, ...]:
    return tuple(_prefix(each) for each in node.items())


def _prefix(node: Node) -> str:
    try:
        return str(ipaddress.ip_network(node.text()))
    except ValueError as error:
        node.refuse(f"{error}")


def _reserved(node: Node) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((org, tuple(_range(a) for a in kept.items())) for org, kept in node.entries().items())


def _range(node: Node) -> str:
    """An address or a prefix."""
    try:
        values.parse_range(node.text())
    except ValueError as error:
        node.refuse(f"{error}")
    return node.text()


def _address(node: Node) -> str:
    try:
        return values.text(values.pack(node.text()))
    except ValueError as error:
        node.refuse(f"{error}")


def _address_of(node: Node, family: int) -> str:
    if values.family(values.pack(written := _address(node))) != family:
        node.refuse(f"{short(written)} is no IPv{family} address")
    return written


def _addresses(node: Node) -> tuple[str, ...]:
    return tuple(_address(each) for each in node.items())


def _host_services(node: Node) -> tuple[str, ...]:
    return tuple(_host_service(each) for each in node.items())


def _host_service(node: Node) -> str:
    """`address:port`; an IPv6 address in brackets."""
    written = node.text()
    host, _, port = written.rpartition(":")
    try:
        values.pack(host.removeprefix("[").removesuffix("]"))
        if not 0 < int(port) < 65536:
            raise ValueError("a port is 1 to 65535")
    except ValueError as error:
        node.refuse(f"{short(written)} is no address:port ({error})")
    return written


_FIREWALL: dict[str, Any] = {
    "dns_listeners": _addresses,
    "metadata_addresses": _addresses,
    "host_tcp_services": _host_services,
    "host_udp_services": _host_services,
    "deny_networks_always": lambda n: tuple(_range(each) for each in n.items()),
    "deny_networks_running": lambda n: tuple(_range(each) for each in n.items()),
    "deny_networks_staging": lambda n: tuple(_range(each) for each in n.items()),
}


def _dataplane(node: Node) -> str:
    entries = node.only(("kind",))
    if "kind" not in entries:
        node.refuse("kind is missing")
    return _one_of(entries["kind"], ("linux",))


def _defaults(node: Node) -> tuple[Defaults, int, tuple[str, ...]]:
    """What the file calls defaults is three things: how orgs leave, the MTU, and containers' name servers."""
    special: dict[str, Any] = {"mode": lambda n: choice(n, NetworkMode), "mtu": _mtu, "dns_servers": _addresses}
    for rest in ("lease_rest_seconds", "snat_rest_seconds", "subnet_rest_seconds"):
        special[rest] = lambda n: n.seconds()
    special["pool_alarm_share"] = _share
    found = {key: special[key](each) for key, each in node.only(special).items()}
    mtu, dns_servers = found.pop("mtu", 0), found.pop("dns_servers", ())
    return Defaults(**found), mtu, dns_servers


def _share(node: Node) -> float:
    if (share := node.seconds()) > 1:
        node.refuse("a share between 0 and 1 is expected")
    return share


def _mtu(node: Node) -> int:
    if node.content == "auto":
        return 0
    if (mtu := node.number()) != 0 and not 1280 <= mtu <= 65535:
        node.refuse("auto, or 1280 to 65535 bytes")
    return mtu


def _api(node: Node) -> ApiConfig:
    config = bind(node, ApiConfig, {"listen": lambda n: tuple(_listen(each) for each in n.items())})
    outside = [each for each in config.listen if not each.startswith("unix:") and not _loopback(each)]
    if outside and not (config.certificate and config.private_key):
        node.refuse(
            f"{outside[0]} is not this host alone, and a token must not travel in clear: "
            "set certificate and private_key, or listen on 127.0.0.1 or a unix: path",
        )
    return config


def _listen(node: Node) -> str:
    written = node.text()
    if written.startswith("unix:"):
        path = written.removeprefix("unix:")
        if not path.startswith("/") or len(path.encode()) > 107 or "\0" in path:
            node.refuse("unix: and an absolute path of at most 107 bytes is expected")
        return written
    return _host_service(node)


def _loopback(listen: str) -> bool:
    host = listen.rpartition(":")[0].removeprefix("[").removesuffix("]")
    return ipaddress.ip_address(host).is_loopback


def _port_range(node: Node) -> tuple[int, int]:
    written = node.text()
    match = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", written)
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if last == 65999:
        last = 65535  # the range as CF operators know it, 61000-65999, is written past the last port there is
    if not 0 < first <= last <= 65535:
        node.refuse(f"{short(written)} is no range of ports such as 61000-65535")
    return first, last


_AGENT: dict[str, Any] = {
    "cell": _name,
    "mtu": _mtu,
    "mapped_ports": _port_range,
    "host_address": lambda n: _address_of(n, 4),
    "host_address6": lambda n: _address_of(n, 6),
    "dns_servers": _addresses,
    "check_network": _prefix,
    "deadline_seconds": _positive,
    "resync_seconds": _positive,
}


def _checked_agent(node: Node, agent: AgentConfig) -> AgentConfig:
    if not agent.uplinks:
        node.refuse("uplinks: at least one host device that leads outside is needed")
    return agent


def _cell(node: Node, config: BridgeConfig) -> CellConfig:
    """Either the path of an agent's config file, or its settings here."""
    if node.kind == "list":
        cells = node.items()
        if len(cells) != 1:
            node.refuse("the linux dataplane serves one cell per bridge; run one bridge for each", "LINUX_IS_ONE_CELL")
        node = cells[0]
    special = {**_AGENT, "name": _name, "agent_config": lambda n: n.text()}
    settings = [name for name in AgentConfig.__dataclass_fields__ if name not in ("cell", "bridge")]
    entries = node.only(("name", "agent_config", *settings))
    if "name" not in entries:
        node.refuse("name is missing")
    name = _name(entries["name"])
    own = {key: each for key, each in entries.items() if key not in ("name", "agent_config")}
    if "agent_config" in entries:
        for key, each in own.items():
            each.refuse(f"{key} belongs into the agent's own file, which agent_config names")
        return CellConfig(name, entries["agent_config"].text())
    given = {
        "cell": name,
        "bridge": config.agent_socket,
        **{key: value for key, value in _AGENT_DEFAULTS.items() if key not in own},
    }
    if config.mtu and "mtu" not in own:
        given["mtu"] = config.mtu  # type: ignore[assignment]
    if "dns_servers" not in own:
        given["dns_servers"] = config.firewall.dns_listeners  # type: ignore[assignment]
    mine = Node("map", own, node.path, node.line, node.column)
    return CellConfig(name, agent=_checked_agent(node, bind(mine, AgentConfig, special, **given)))
