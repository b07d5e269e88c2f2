"""What does a cell of a small foundation get, word for word? Two orgs, a policy, an ASG, a VM's rule.

`python -m tests.golden.small` writes the files anew, when a change of them is meant; then read the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from egress.model import NetworkMode
from egress.topology import Port, PortKind, Router, Segment, SourceNat, Topology
from egress.values import QualifiedId, parse_range, qualify
from garden_plugin.dataplane.base import Item, Key, LogicalNetwork
from garden_plugin.dataplane.cell import LocalPort, LocalState, device_name
from garden_plugin.dataplane.linux import arp, firewall, links, table
from garden_plugin.dataplane.linux.firewall import Firewall
from garden_plugin.wire import MappedPort
from policy_sync import translate
from policy_sync.compiler import compile_ruleset, rule_keys
from policy_sync.model import (
    Action,
    Asg,
    CfPolicy,
    GardenRule,
    Kind,
    Lifecycle,
    Protocol,
    Rule,
    Selector,
    SelectorKind,
    Service,
    Tier,
    Workload,
    World,
)

HERE = Path(__file__).parent
POOLS = ("10.240.0.0/16", "2001:db8:f::/48")
CELL, DNS, UPLINK = "192.0.2.10", "169.254.0.53", "up0"
NAT, ROUTED = QualifiedId("cf:acme"), QualifiedId("cf:routed")
CONTAINERS = (
    ("web", NAT, ("10.240.1.5", "2001:db8:f:1::5")),
    ("api", NAT, ("10.240.1.6", "2001:db8:f:1::6")),
    ("batch", ROUTED, ("10.240.2.5",)),
)
VM = "10.240.2.9"


def topology() -> Topology:
    ports = {
        f"cf:{name}": Port(f"cf:{name}", PortKind.CONTAINER, "cell", addresses, org, name)
        for name, org, addresses in CONTAINERS
    }
    ports["vm:db"] = Port("vm:db", PortKind.VM, "cell", (VM,), ROUTED, device="tap-db")
    segments = (("10.240.1.0/24", NAT), ("2001:db8:f:1::/64", NAT), ("10.240.2.0/24", ROUTED))
    return Topology(
        pools=POOLS,
        ports=ports,
        segments={prefix: Segment(prefix, org, "main") for prefix, org in segments},
        routers={
            NAT: Router(NAT, "acme", NetworkMode.NAT),
            ROUTED: Router(ROUTED, "routed", NetworkMode.ROUTED),
        },
        source_nats={"10.240.1.0/24": SourceNat("10.240.1.0/24", "192.0.2.66", NAT)},
    )


def world() -> World:
    def at(written: str) -> tuple[Selector, ...]:
        return (Selector(SelectorKind.RANGE, written),)

    workloads = [
        Workload(f"cf:{name}", Kind.CONTAINER, at_, "cell", org, qualify("cf", "s"), qualify("cf", name), Lifecycle.APP)
        for name, org, at_ in CONTAINERS
    ]
    postgres = (Service(Protocol.TCP, ((5432, 5432),)),)
    rule = Rule("rule:db", "batch to db", Tier.APPLICATION, at("10.240.2.5"), at(VM), Action.ALLOW, postgres, log=True)
    https = GardenRule(Protocol.TCP, (parse_range("198.51.100.0/24"),), ((443, 443), (8443, 8444)))
    system = translate.system_rules(dns_listeners=(DNS,), metadata_addresses=("169.254.169.254",))
    return World(
        workloads=(*workloads, Workload("vm:db", Kind.VM, (VM,), "cell", ROUTED, name="db")),
        rules=(*system, rule, *translate.baseline_rules()),
        policies=frozenset({CfPolicy(qualify("cf", "web"), qualify("cf", "api"), Protocol.TCP, 8080, 8080)}),
        asgs=(Asg(qualify("cf", "https"), "https", (https,), running_default=True),),
        asgs_known=frozenset({"cf"}),
        container_pools=POOLS,
        cell_addresses=(CELL, DNS, "192.0.2.66", "10.240.2.1"),
    )


def local() -> LocalState:
    mapped = {"web": (MappedPort(61001, 8080),)}
    ports = [
        LocalPort(f"cf:{name}", name, device_name(name), f"/netns/{name}", addresses, mapped_ports=mapped.get(name, ()))
        for name, _, addresses in CONTAINERS
    ]
    return LocalState("cell", CELL, (UPLINK,), {port.workload: port for port in ports})


def rendered() -> dict[str, str]:
    """File → what belongs into it."""
    told = world()
    ids = {key: number for number, key in enumerate(sorted(rule_keys(told)), 1)}
    network = LogicalNetwork(1, topology(), compile_ruleset(told, ids).ruleset)
    vms = firewall.vms_here(network.topology.ports, local())
    walls: Mapping[Key, Item] = {**Firewall().render(network, local()), **arp.render(vms)}
    ways = sorted(links.render(network.topology, local()).values(), key=lambda item: (item.rank, item.key))
    return {
        "small.nft": table.closed(walls.values()) + table.opened(walls.values()),
        "small.ip": "".join(f"{item}\n" for item in ways),
    }


if __name__ == "__main__":
    for name, text in rendered().items():
        (HERE / name).write_text(text)
