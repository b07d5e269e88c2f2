"""Where do the parity runner's packets go? Namespaces made once, in which every world of a run is played.

c<org>.<n>  24 containers  ─ veth ┐                                            ┌ f0 ─ f1   the fence
db-<n>, out-<n>   4 VMs    ─ tap ─┤ cell (10.0.1.10): the real LinuxDataplane ─┤
outside: every address that nobody here has  ─ up1 ┘                           └ raw sockets: what the cell accepted

A workload that a world knows is one of these places; the others stand idle. The places' own stacks are deaf, so that
nothing but the runner answers. Packets are handled where they are sent, one CPU's queue after the other: once a packet
of the fence, sent after the others, came back as often as a connection has hops, they have been judged too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import select
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cfbridge.simulator.lab import UPLINK as LAB_UPLINK
from cfbridge.simulator.lab import Lab, Namespace
from egress.topology import GATEWAY_MAC, Port, PortKind, SourceNat, Topology
from egress.values import QualifiedId
from garden_plugin.cell.netlink import inside
from garden_plugin.dataplane.base import LogicalNetwork
from garden_plugin.dataplane.cell import LocalPort, LocalState, device_name
from garden_plugin.dataplane.linux.conntrack import Conntrack
from garden_plugin.dataplane.linux.driver import LinuxDataplane
from garden_plugin.settings import AgentConfig
from garden_plugin.wire import MappedPort
from policy_sync import compiler, translate
from policy_sync.model import Packet, World
from tests.parity import wire
from tests.parity.wire import Seen
from tests.parity.worlds import CELL4, CELL6, DNS, ORGS, POOL4, POOL6, container_addresses, vm_addresses

UPLINK = "up1"
CELL_NAME = "cell-1"
SLOTS = 8
_HOPS = 6
_PATIENCE = 5.0
_PACKET_IGNORE_OUTGOING = 23
_DEAF = """
table inet deaf { chain first { type filter hook prerouting priority -400;
  icmpv6 type { 133, 134, 135, 136, 137 } accept
  meta nfproto { ipv4, ipv6 } drop
  }
}
"""
# Not even the limit of all ICMP errors together may turn a reject into a drop (decisions 11).
_CELL = """
net.ipv4.icmp_ratemask=0
net.ipv4.icmp_msgs_per_sec=1000000
net.ipv4.icmp_msgs_burst=100000
net.ipv4.conf.all.rp_filter=0
net.ipv4.conf.default.rp_filter=0
"""


class Place:
    """One end of connections: a device and the socket that sends frames by it and sees what arrives."""

    def __init__(self, name: str, namespace: Namespace, device: str, far: str) -> None:
        """`far`: the MAC address of the device's other end."""
        self.name = name
        descriptor = os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.socket = inside(descriptor, lambda: _frames(device))
        finally:
            os.close(descriptor)
        self._head = bytes.fromhex(far.replace(":", "")) + self.socket.getsockname()[4]

    def send(self, packet: bytes) -> None:
        self.socket.send(self._head + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet)

    def drain(self) -> Iterable[Seen]:
        for frame in _received(self.socket):
            if frame[12:14] in (b"\x08\x00", b"\x86\xdd") and (seen := wire.read(frame[14:])) is not None:
                yield seen


class CellEnd:
    """The cell itself: what it sends runs through its own output chain, and it sees only what it accepted."""

    name = "cell"

    def __init__(self, namespace: Namespace) -> None:
        descriptor = os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._out, self._in = inside(descriptor, _raw)
        finally:
            os.close(descriptor)

    def send(self, packet: bytes) -> None:
        four = packet[0] >> 4 == 4
        to = socket.inet_ntop(socket.AF_INET if four else socket.AF_INET6, packet[16:20] if four else packet[24:40])
        try:
            self._out[four].sendto(packet, (to, 0) if four else (to, 0, 0, 0))
        except OSError as refused:
            # The cell's own sender is told at once: a black hole, or a drop of its output.
            if refused.errno not in (errno.EPERM, errno.EINVAL, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES):
                raise

    def drain(self) -> Iterable[Seen]:
        for (four, protocol), opened in self._in.items():
            for body in _received(opened):
                seen = wire.read(body) if four else wire.read_body(protocol, body)
                if seen is not None:
                    yield seen

    def close(self) -> None:
        for opened in (*self._out.values(), *self._in.values()):
            opened.close()


class Stage:
    """Use as an asynchronous context manager."""

    def __init__(self) -> None:
        self.lab = Lab()
        self._closing = contextlib.ExitStack()
        self._closing.callback(self.lab.close)
        self.places: dict[str, Place | CellEnd] = {}
        self._at: dict[str, str] = {}
        self._spaces: dict[str, Namespace] = {}
        self.topology = Topology(pools=(POOL4, POOL6))
        self.local = LocalState(CELL_NAME, CELL4, (UPLINK,), host_address6=CELL6)
        self._affinity = os.sched_getaffinity(0)

    async def __aenter__(self) -> Stage:
        try:
            self._build()
            await self._plug()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        os.sched_setaffinity(0, self._affinity)
        if hasattr(self, "dataplane"):
            await self.dataplane.close()
        self._closing.close()

    def place_of(self, address: str) -> str:
        return self._at.get(address, "outside")

    def send(self, place: str, packet: bytes) -> None:
        self.places[place].send(packet)

    def seen(self) -> list[tuple[str, Seen]]:
        """(place, packet) of everything that arrived anywhere, since it was last asked."""
        self._fence()
        return [(name, seen) for name, place in self.places.items() for seen in place.drain()]

    async def converge(self, network: LogicalNetwork, mapped: Mapping[str, Sequence[tuple[int, int]]]) -> None:
        """`mapped`: container address → (host port, container port)."""
        ports = {
            name: replace(
                port, mapped_ports=tuple(MappedPort(*each) for one in port.addresses for each in mapped.get(one, ()))
            )
            for name, port in self.local.ports.items()
        }
        await self.dataplane.converge(network, replace(self.local, ports=ports))

    def forget(self) -> None:
        """Every connection that the cell follows."""
        self.flows.delete(self.flows.flows())

    # --- built once ---------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        lab = self.lab
        lab.cell.sysctl(_CELL)
        outside, fence = self._space("outside"), lab.namespace("fence")
        lab.cell.ip(f"link add {UPLINK} type veth peer name eth0 netns {outside.name}\n")
        outside.ip("link set eth0 up\n")
        mac = _mac(outside, "eth0")
        lab.cell.ip(
            f"""
            link set {LAB_UPLINK} down
            link set {UPLINK} up
            address add {CELL4}/24 dev {UPLINK}
            address add {CELL6}/64 dev {UPLINK} nodad
            neighbour replace 10.0.1.1 lladdr {mac} dev {UPLINK} nud permanent
            neighbour replace fd42:1::1 lladdr {mac} dev {UPLINK} nud permanent
            route replace default via 10.0.1.1
            route replace default via fd42:1::1
            """
        )
        fence.ip("link add f0 type veth peer name f1\nlink set f0 up\nlink set f1 up\n")
        descriptor = os.open(lab.cell.path, os.O_RDONLY | os.O_CLOEXEC)
        self._closing.callback(os.close, descriptor)
        for org in range(ORGS):
            for slot in range(SLOTS):
                self._container(org, slot)
        for inside_ in (True, False):
            for number in range(2):
                self._vm(number, inside_)
        for address in (CELL4, CELL6, DNS):
            self._at[address] = "cell"
        # One org leaves by the cell's addresses: its connections are translated, and judged all the same.
        translated = ("10.240.1.0/24", "fd42:240:0:1::/64")
        nats = {prefix: SourceNat(prefix, "", QualifiedId("cf:globex")) for prefix in translated}
        self.topology = replace(self.topology, source_nats=nats)
        config = AgentConfig(CELL_NAME, "", "", "", (UPLINK,), host_address=CELL4)
        self.dataplane = LinuxDataplane(config, descriptor)
        self.flows = inside(descriptor, Conntrack)
        self._closing.callback(self.flows.close)
        self._fence_out = Place("fence", fence, "f0", "02:00:00:00:00:01")
        self._fence_in = Place("fence", fence, "f1", "02:00:00:00:00:02")

    def _space(self, label: str) -> Namespace:
        made = self._spaces[label] = self.lab.namespace(label)
        made.run("nft", "-f", "-", stdin=_DEAF)
        return made

    def _container(self, org: int, slot: int) -> None:
        label = f"c{org}.{slot}"
        made = self._space(label)
        addresses = container_addresses(org, slot)
        port = LocalPort(f"slot:{label}", label, device_name(label), made.path, addresses)
        self.local = replace(self.local, ports={**self.local.ports, port.workload: port})
        self._at.update(dict.fromkeys(addresses, label))

    def _vm(self, number: int, inside_pool: bool) -> None:
        label = f"{'db' if inside_pool else 'out'}-{number}"
        made = self._space(label)
        addresses = vm_addresses(number, inside_pool, protected=True)
        device = f"tap-{label}"
        self.lab.cell.ip(f"link add {device} type veth peer name eth0 netns {made.name}\nlink set {device} up\n")
        four, six = addresses
        made.ip(f"link set eth0 up\naddress add {four}/32 dev eth0\naddress add {six}/128 dev eth0 nodad\n")
        self.lab.cell.sysctl(
            f"net.ipv4.neigh.{device}.base_reachable_time_ms=86400000\n"
            f"net.ipv6.neigh.{device}.base_reachable_time_ms=86400000"
        )
        port = Port(f"vm:{label}", PortKind.VM, CELL_NAME, addresses, device=device)
        self.topology = replace(self.topology, ports={**self.topology.ports, port.id: port})
        self._at.update(dict.fromkeys(addresses, label))

    async def _plug(self) -> None:
        await self.dataplane.open()
        await self.dataplane.converge(LogicalNetwork(1, self.topology), self.local)
        lab, spaces = self.lab, self._spaces
        for port in self.local.ports.values():
            self.places[port.handle] = Place(port.handle, spaces[port.handle], "eth0", GATEWAY_MAC)
        for vm in self.topology.ports.values():
            label = vm.id.removeprefix("vm:")
            self.places[label] = Place(label, spaces[label], "eth0", _mac(lab.cell, vm.device))
        self.places["outside"] = Place("outside", spaces["outside"], "eth0", _mac(lab.cell, UPLINK))
        self.places["cell"] = CellEnd(self.lab.cell)
        for place in self.places.values():
            self._closing.callback(place.socket.close if isinstance(place, Place) else place.close)
        os.sched_setaffinity(0, {min(self._affinity)})  # only this thread: its packets stay in one CPU's queue
        await self._meet_guests()

    async def _meet_guests(self) -> None:
        """The cell asks a guest for its MAC address before it sends: once, here, and packets never wait for it."""
        world = World(
            rules=translate.baseline_rules(), container_pools=(POOL4, POOL6), cell_addresses=(CELL4, CELL6, DNS)
        )
        ids = {rule.key: number for number, rule in enumerate(world.rules, 1)}
        network = LogicalNetwork(2, self.topology, compiler.compile_ruleset(world, ids).ruleset)
        await self.dataplane.converge(network, self.local)
        wanted = {address for vm in self.topology.ports.values() for address in vm.addresses}
        for _ in range(250):
            for address in wanted:
                self.send("cell", wire.opening(Packet(CELL6 if ":" in address else CELL4, address, 17, 9), 0, 9))
            await asyncio.sleep(0.02)
            wanted -= set(self.lab.cell.run("ip", "neighbour", "show", "nud", "reachable").split())
            if not wanted:
                return
        raise RuntimeError(f"guests do not answer: {sorted(wanted)}")

    def _fence(self) -> None:
        for _ in range(_HOPS):
            self._fence_out.socket.send(b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x88\xb5fence" + bytes(40))
            ready, _, _ = select.select([self._fence_in.socket], [], [], _PATIENCE)
            if not ready:
                raise RuntimeError("the fence did not come back")
            self._fence_in.socket.recv(100)


def _mac(namespace: Namespace, device: str) -> str:
    address: str = json.loads(namespace.run("ip", "-j", "link", "show", device))[0]["address"]
    return address


def _frames(device: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    opened.setsockopt(263, _PACKET_IGNORE_OUTGOING, 1)
    opened.bind((device, 3))
    return opened


def _raw() -> tuple[dict[bool, socket.socket], dict[tuple[bool, int], socket.socket]]:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    out = {four: socket.socket(socket.AF_INET if four else socket.AF_INET6, kind, 255) for four in (True, False)}
    wanted = [(True, 6), (True, 17), (True, 1), (False, 6), (False, 17), (False, 58)]
    seen = {(four, n): socket.socket(socket.AF_INET if four else socket.AF_INET6, kind, n) for four, n in wanted}
    return out, seen


def _received(opened: socket.socket) -> Iterable[bytes]:
    while True:
        try:
            yield opened.recv(2048)
        except BlockingIOError:
            return
