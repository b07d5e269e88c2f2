"""What can the bridge be told? One frozen value, read once from its file by `config`.

The agent's is `garden_plugin.settings.AgentConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from egress.model import Defaults, Pool
from garden_plugin.settings import AgentConfig


@dataclass(frozen=True, slots=True)
class PolicyServerConfig:
    url: str
    """https://policy-server.service.cf.internal:4003"""
    ca: str = ""
    certificate: str = ""
    private_key: str = ""
    """Paths of PEM files."""
    poll_seconds: float = 0.2


@dataclass(frozen=True, slots=True)
class WithdrawalConfig:
    """When a complete answer is not believed at once, per kind: it withdraws more than `share` and more than `count`
    of what was confirmed within `window_seconds`."""

    share: float = 0.2
    count: int = 10
    window_seconds: float = 600.0
    hold_seconds: float = 60.0
    hold_looks: int = 3
    """So long, and so many complete looks, what is withdrawn stays in force."""


@dataclass(frozen=True, slots=True)
class FoundationConfig:
    name: str
    api: str
    client_id: str
    client_secret_file: str
    policy_server: PolicyServerConfig
    ca: str = ""
    """Path of a PEM bundle for the API and UAA; empty = the system's."""
    skip_tls_verify: bool = False
    delta_seconds: float = 5.0
    sweep_seconds: float = 300.0
    asg_seconds: float = 10.0
    asg_source: str = "policy-server"
    """`policy-server` (its internal list, what upstream enforces) or `cloud-controller`."""
    asg_settle_seconds: float = 10.0
    """Before what an ASG lost is withdrawn: tools unbind and bind again."""
    withdrawals: WithdrawalConfig = field(default_factory=WithdrawalConfig)


@dataclass(frozen=True, slots=True)
class CellConfig:
    """A cell that `cfbridge serve` starts an agent for."""

    name: str
    agent_config: str = ""
    """Path of the agent's own config file."""
    agent: AgentConfig | None = None
    """The agent's settings where the bridge's file says them itself; `agent_document` writes them for the child."""


@dataclass(frozen=True, slots=True)
class FirewallConfig:
    """Upstream's knobs, shown as visible rules."""

    dns_listeners: tuple[str, ...] = ("169.254.0.53",)
    host_tcp_services: tuple[str, ...] = ()
    """`address:port`."""
    host_udp_services: tuple[str, ...] = ()
    metadata_addresses: tuple[str, ...] = ("169.254.169.254", "168.63.129.16", "fd00:ec2::254")
    deny_networks_always: tuple[str, ...] = ()
    deny_networks_running: tuple[str, ...] = ()
    deny_networks_staging: tuple[str, ...] = ()
    disable_container_network_policy: bool = False


@dataclass(frozen=True, slots=True)
class ApiConfig:
    listen: tuple[str, ...] = ("unix:/var/vcap/data/cfbridge/api.sock",)
    """`unix:PATH` (root only, by socket permissions) or `host:port` (token)."""
    certificate: str = ""
    private_key: str = ""


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    foundations: tuple[FoundationConfig, ...]
    pools: tuple[Pool, ...]
    store: str = "sqlite:////var/vcap/store/cfbridge/state.db"
    state_dir: str = "/var/vcap/store/cfbridge"
    """Token file (0600) and the like."""
    agent_socket: str = "/var/vcap/data/cfbridge/bridge.sock"
    """Where agents connect."""
    dataplane: str = "linux"
    intent_file: str = ""
    mtu: int = 0
    """0 = auto: the underlay's - 58."""
    defaults: Defaults = field(default_factory=Defaults)
    firewall: FirewallConfig = field(default_factory=FirewallConfig)
    api: ApiConfig = field(default_factory=ApiConfig)
    cell: CellConfig | None = None
