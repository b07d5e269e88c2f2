"""What was the agent told? (decisions 31) One frozen value; `cfbridge.config` reads and checks the file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AgentConfig:
    cell: str
    socket: str
    """Where networkers connect, e.g. /var/vcap/data/cfbridge/agent.sock (0600)."""
    state_dir: str
    """Port records, netns bind mounts, mapped ports at rest: survives the process, not the VM."""
    bridge: str
    """Path of the bridge's agent socket."""
    uplinks: tuple[str, ...]
    """Host devices that lead outside; only packets leaving by them are translated."""
    spool_dir: str = ""
    """`down`s that arrived while the agent was away; default `<state_dir>/spool`."""
    mtu: int = 0
    """0 = auto: the uplink's - 58."""
    mapped_ports: tuple[int, int] = (61000, 65535)
    mapped_port_rest_seconds: float = 300.0
    host_address: str = ""
    """The cell's address that mapped ports are reached by; empty = the first IPv4 address of the first uplink."""
    host_address6: str = ""
    """The same in IPv6; empty = the oldest lasting global address of the first uplink. Where it has none, no mapped
    port is reached by IPv6, and an org in mode `shared` has no way out by it."""
    dns_servers: tuple[str, ...] = ("169.254.0.53",)
    search_domains: tuple[str, ...] = ()
    check_network: str = "169.254.64.0/18"
    """Isolated addresses of containers without org (health checks), local to the cell, unroutable."""
    deadline_seconds: float = 25.0
    resync_seconds: float = 120.0
    """Between whole looks, besides change events."""
    boot_id_file: str = "/proc/sys/kernel/random/boot_id"
    """What it says is another after each boot of the cell. A cell that is itself a container has its host's there: name
    a file that its own start writes anew."""
