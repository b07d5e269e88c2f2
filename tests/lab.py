"""Where do packet tests happen? Fixtures over `cfbridge.simulator.lab`; a conftest imports them by name.

`lab`: a box of namespaces of its own for each test (50 ms). `bench`: the box, with links and routes made by
`dataplane.linux.links` for what the test says is on the cell; no firewall but what the test loads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from cfbridge.simulator.lab import CELL, UPLINK, Lab
from cfbridge.simulator.probe import Probe
from egress.topology import Port, PortKind, Segment, SourceNat, Topology
from egress.values import QualifiedId, Refused
from garden_plugin.cell import sysctls
from garden_plugin.cell.netlink import Netlink
from garden_plugin.dataplane.base import Item, Key
from garden_plugin.dataplane.cell import LocalPort, LocalState, device_name
from garden_plugin.dataplane.linux import links

POOLS = ("10.240.0.0/16", "2001:db8:f::/48")


class Bench:
    """A cell in a lab, and what it should have."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._descriptor = os.open(lab.cell.path, os.O_RDONLY | os.O_CLOEXEC)
        self.netlink = Netlink(self._descriptor)
        self.netlink.inside(sysctls.ensure_forwarding)
        self.netlink.inside(sysctls.ensure_ipv6_forwarding)
        self.topology = Topology(pools=POOLS)
        self.local = LocalState("cell", CELL, (UPLINK,))

    def close(self) -> None:
        self.netlink.close()
        os.close(self._descriptor)

    def container(self, label: str, *addresses: str, isolated: bool = False, handle: str = "") -> Probe:
        """A container that the cell should have from the next `converge` on, and its prober."""
        self.lab.namespace(label)
        self.wants_container(label, *addresses, isolated=isolated, handle=handle)
        return self.lab.probe(label)

    def wants_container(self, label: str, *addresses: str, isolated: bool = False, handle: str = "") -> None:
        handle = handle or label
        path = f"/run/netns/cfb-{self.lab.run_id}-{label}"
        port = LocalPort(f"cf:{handle}", handle, device_name(handle), path, addresses, isolated)
        self.local = replace(self.local, ports={**self.local.ports, port.workload: port})

    def forget(self, label: str) -> None:
        ports = {name: port for name, port in self.local.ports.items() if name != f"cf:{label}"}
        self.local = replace(self.local, ports=ports)

    def wants_vm(self, device: str, *addresses: str, org: str = "") -> None:
        port = Port(
            f"vm:{device}", PortKind.VM, "cell", addresses, org=QualifiedId(org) if org else None, device=device
        )
        self.topology = replace(self.topology, ports={**self.topology.ports, port.id: port})

    def wants_segment(self, prefix: str, org: str) -> None:
        segment = Segment(prefix, QualifiedId(org), "main")
        self.topology = replace(self.topology, segments={**self.topology.segments, prefix: segment})

    def wants_source(self, prefix: str, address: str, org: str) -> None:
        nat = SourceNat(prefix, address, QualifiedId(org))
        self.topology = replace(self.topology, source_nats={**self.topology.source_nats, prefix: nat})

    def wanted(self) -> Mapping[Key, Item]:
        return links.render(self.topology, self.local)

    def missing(self) -> list[Key]:
        """What is not as wanted."""
        return [change.key for change in links.changes_between(links.observe(self.netlink), self.wanted())]

    def converge(self) -> dict[Key, Refused]:
        changes = links.changes_between(links.observe(self.netlink), self.wanted())
        return dict(links.apply(self.netlink, changes))

    def admit_everything(self) -> None:
        """Instead of the firewall: every packet gets the mark that leads to the workloads."""
        self.lab.cell.run("nft", "-f", "-", stdin=_ADMIT)


_ADMIT = """
table inet own { chain admit { type filter hook prerouting priority raw; meta mark set 0x77120000; }
}
table arp own { chain admit { type filter hook input priority 0; meta mark set 0x77120000; }
}
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
def bench(lab: Lab) -> Iterator[Bench]:
    made = Bench(lab)
    try:
        yield made
    finally:
        made.close()
