"""Who stands around a container that misbehaves? Two neighbours, the outside and the cell, and ears at each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager

from cfbridge.simulator.lab import CELL6, DNS, EXT, EXT6
from egress.model import NetworkMode
from egress.topology import container_mac
from policy_sync.model import Action, Protocol, Service, Tier
from tests.packets import wire
from tests.packets.cell import Cell, at
from tests.packets.wire import Frame, Wire, datagram

A, B, C = "10.240.1.5", "10.240.1.6", "10.240.1.7"
A6, B6, C6 = "2001:db8:f:1::5", "2001:db8:f:1::6", "2001:db8:f:1::7"
MAC_A, MAC_B, MAC_C = map(container_mac, (A, B, C))
PORT = 5000
"""What each may send datagrams to, and nothing else."""
_SERVICE = (Service(Protocol.UDP, ((PORT, PORT),)),)
_SPY = 'table inet spy {\nchain input {\ntype filter hook input priority 300\niifname "cf-*" counter\n}\n}\n'


async def neighbours(cell: Cell, *, ipv6: bool = True) -> None:
    """`a`, `b` and `c` may send datagrams to a port of each other, of the outside and of the cell, in both families."""
    for label, four, six in (("a", A, A6), ("b", B, B6), ("c", C, C6)):
        cell.container(label, four, *([six] if ipv6 else []), app="web")
    cell.org("10.240.1.0/24", NetworkMode.ROUTED)
    cell.org("2001:db8:f:1::/64", NetworkMode.ROUTED)
    cell.policy("web", "web", PORT, protocol=Protocol.UDP)
    ours = at("10.240.1.0/24", "2001:db8:f:1::/64")
    cell.rule("out", Tier.APPLICATION, Action.ALLOW, ours, at(EXT, EXT6), _SERVICE)
    cell.rule("host", Tier.APPLICATION, Action.ALLOW, ours, at(DNS, CELL6), _SERVICE)
    await cell.converge()
    cell.lab.cell.run("nft", "-f", "-", stdin=_SPY)


@contextmanager
def wires(cell: Cell, *labels: str) -> Iterator[list[Wire]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Wire(cell.lab.place(label)))) for label in labels]


def came_to_the_cell(cell: Cell) -> int:
    """Packets of workloads that came past our firewall to the cell itself."""
    listing = cell.lab.cell.run("nft", "list", "chain", "inet", "spy", "input")
    return int(listing.split("packets ")[1].split()[0])


def heard_of(cell: Cell, frames: Mapping[str, Frame], *, ipv6: bool = False) -> list[str]:
    """Names of the frames that, sent by `a`, came to `b`, to the outside or to the cell. Honest ones must come."""
    own, to_b, to_ext, to_host = (A6, B6, EXT6, CELL6) if ipv6 else (A, B, EXT, DNS)
    with wires(cell, "a", "b", "ext") as (a, b, ext):
        before = came_to_the_cell(cell)
        fences = {b: datagram(MAC_A, own, to_b, PORT), ext: datagram(MAC_A, own, to_ext, PORT)}
        names = [*frames]
        came = [names[each] for each in wire.arrivals(a, [*frames.values()], fences)]
        a.send([datagram(MAC_A, own, to_host, PORT)(b"honest")])
        wire.arrivals(a, [], fences)
        strangers = came_to_the_cell(cell) - before - 1
    return came + ["something to the cell"] * strangers
