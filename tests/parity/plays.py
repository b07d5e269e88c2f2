"""Does a dataplane do with packets what the oracle says? Two that are asked: in memory, and with real packets.

open ─> who arrived, who was refused ─> answer ─> by which rule ─┬─> (the world changes) ─> push, forward ─> who is cut
        spoofed twins of what passed: nobody                     └─> and new packets under the new world
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from egress.topology import Topology
from egress.values import pack
from garden_plugin.dataplane import plan
from garden_plugin.dataplane.base import LogicalNetwork
from garden_plugin.dataplane.cell import LocalPort, LocalState
from garden_plugin.dataplane.memory import Memory
from garden_plugin.wire import MappedPort, merge, span
from policy_sync import compiler, verdict
from policy_sync.model import PROTOCOL_NUMBER, Action, Kind, Packet, Protocol, Verdict, World
from tests.parity import wire, worlds
from tests.parity.stage import Stage
from tests.parity.wire import Part, Seen


@dataclass(frozen=True, slots=True)
class Play:
    """One world and its packets; then perhaps a changed one, with those still connected and with new packets."""

    world: World
    packets: tuple[Packet, ...]
    changed: World | None = None
    later: tuple[Packet, ...] = ()


@dataclass(frozen=True, slots=True)
class Disagreement:
    packet: Packet
    expected: Verdict
    seen: str
    after: bool = False
    """Under the changed world."""


verdict.pack = functools.cache(verdict.pack)  # type: ignore[attr-defined]  # it reads the same few addresses all day
_judged: dict[tuple[int, Packet], tuple[World, Verdict]] = {}


def judged(world: World, packet: Packet, ids: Mapping[str, int]) -> Verdict:
    """What the oracle says, which is asked several times in a play and is slow. `ids` are always those of the play."""
    known = _judged.get((id(world), packet))
    if known is None:
        known = _judged[id(world), packet] = world, verdict.verdict(world, packet, ids)
    return known[1]


class Compiler:
    """Worlds of one run become networks, as bridge and agent hand them on: what changed since the one before."""

    def __init__(self) -> None:
        self.held: LogicalNetwork | None = None
        self.ids: dict[str, int] = {}
        self._memo = compiler.Memo()
        self._revisions = count(1)

    def begin(self, world: World) -> None:
        self.ids = {}
        self._memo = compiler.Memo()
        self._number(world)

    def compile(self, world: World, topology: Topology) -> LogicalNetwork:
        self._number(world)
        compiled = compiler.compile_ruleset(world, self.ids, memo=self._memo)
        fresh = LogicalNetwork(next(self._revisions), topology, compiled.ruleset)
        self.held = merge(self.held, span(self.held, fresh))
        return self.held

    def _number(self, world: World) -> None:
        for key in sorted(frozenset(compiler.rule_keys(world)) - self.ids.keys()):
            self.ids[key] = len(self.ids) + 1

    def rule_of(self, number: int) -> str:
        assert self.held is not None
        label = self.held.ruleset.labels.get(number)
        return f"nobody ({number})" if label is None else label.key


def mapped_ports(packets: Iterable[Packet]) -> dict[str, tuple[tuple[int, int], ...]]:
    """Container address → (host port, container port), for those that come by one."""
    wanted = dict.fromkeys((each.destination, each.port) for each in packets if each.mapped)
    ports: dict[str, tuple[tuple[int, int], ...]] = {}
    for host_port, (address, port) in enumerate(wanted, 61000):
        ports[address] = (*ports.get(address, ()), (host_port, port))
    return ports


# --- in memory --------------------------------------------------------------------------------------------------------


class InMemory:
    def __init__(self) -> None:
        self._compiler = Compiler()
        self._runner = asyncio.Runner()
        self.followed: Counter[str] = Counter()
        """Live connections that a change had to keep or to cut, and packets with a foreign source."""

    def close(self) -> None:
        self._runner.close()

    def play(self, play: Play) -> list[Disagreement]:
        _judged.clear()
        self._compiler.begin(play.world)
        ports = {
            address: LocalPort(address, address, "", "", (address,), mapped_ports=tuple(MappedPort(*e) for e in mapped))
            for address, mapped in mapped_ports((*play.packets, *play.later)).items()
        }
        dataplane = Memory(LocalState("cell-1", worlds.CELL4, ("up1",), ports, worlds.CELL6))
        found = self._ask(dataplane, play.world, play.packets, after=False)
        if play.changed is not None:
            found += self._ask(dataplane, play.changed, (*play.packets, *play.later), after=True)
        return found

    def _ask(self, dataplane: Memory, world: World, packets: Sequence[Packet], after: bool) -> list[Disagreement]:
        network = self._compiler.compile(world, Topology(pools=world.container_pools))
        self._runner.run(_apply(dataplane, network))
        found = []
        for packet in packets:
            action, number = dataplane.decide(packet, to_the_cell=packet.destination in world.cell_addresses)
            expected = judged(world, packet, self._compiler.ids)
            rule = self._compiler.rule_of(number)
            if (action, rule) != (expected.action, expected.rule):
                found.append(Disagreement(packet, expected, f"{action.value} by {rule}", after))
        return found


async def _apply(dataplane: Memory, network: LogicalNetwork) -> None:
    await dataplane.apply(plan.diff(await dataplane.observe(), dataplane.render(network)))


# --- with real packets ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sent:
    packet: Packet
    sender: str
    receiver: str
    spoofed: bool = False
    arrived: dict[Part, Seen] = field(default_factory=dict)
    """At the receiver, or for answers at the sender."""
    elsewhere: set[str] = field(default_factory=set)
    refused: bool = False


class OnLinux:
    """The stage is built when it is made, and every play of a run is played on it."""

    def __init__(self) -> None:
        self._compiler = Compiler()
        self._runner = asyncio.Runner()
        self.followed: Counter[str] = Counter()
        """Live connections that a change had to keep or to cut, and packets with a foreign source."""
        self.stage = Stage()
        self._numbers = 0
        try:
            self._runner.run(self.stage.__aenter__())
        except BaseException:
            self._runner.close()
            raise

    def close(self) -> None:
        try:
            self._runner.run(self.stage.__aexit__())
        finally:
            self._runner.close()

    def play(self, play: Play) -> list[Disagreement]:
        _judged.clear()
        self.stage.forget()
        self._compiler.begin(play.world)
        self._ports = mapped_ports((*play.packets, *play.later))
        self._converge(play.world)
        live: dict[int, _Sent] = {}
        found = list(self._openings(play.world, play.packets, live, after=False))
        if play.changed is not None:
            found += self._change(play.world, play.changed, live)
            found += self._openings(play.changed, play.later, {}, after=True)
        return found

    def _converge(self, world: World) -> None:
        network = self._compiler.compile(world, self.stage.topology)
        self._runner.run(self.stage.converge(network, self._ports))

    def _openings(
        self, world: World, packets: Sequence[Packet], live: dict[int, _Sent], after: bool
    ) -> Iterator[Disagreement]:
        sent = {self._next(): self._sent(packet) for packet in packets if worlds.passes_us(world, packet)}
        before = frozenset(flow.tuple for flow in self.stage.flows.flows()) if after else frozenset()
        for number, each in sent.items():
            self._open(number, each)
        self._collect(sent)
        doubtful = any(_wrong(each, judged(world, each.packet, self._compiler.ids)) for each in sent.values())
        if doubtful:
            self._patience(sent)
        spoofed = {self._next(): self._spoofed(each) for each in _some_arrived(sent)}
        for number, each in spoofed.items():
            self._open(number, each)
        for each in sent.values():
            opened = each.arrived.get(Part.OPENING)
            if opened is not None and each.receiver != "cell":
                reply = wire.answer(opened)
                assert reply is not None
                self.stage.send(each.receiver, reply)
        self._collect({**sent, **spoofed})
        admitted = self._admitted(before)
        for number, each in sent.items():
            expected = judged(world, each.packet, self._compiler.ids)
            wrong = _wrong(each, expected) or _unanswered(each) or self._by_another(each, expected, admitted)
            if wrong:
                yield Disagreement(each.packet, expected, wrong, after)
            elif Part.ANSWER in each.arrived and "cell" not in (each.sender, each.receiver):
                live[number] = each
        self.followed["spoofed"] += len(spoofed)
        for each in spoofed.values():
            if each.arrived or each.refused or each.elsewhere:
                expected = Verdict(
                    Action.DROP,
                    "nobody: not the port's own source",
                    judged(world, each.packet, self._compiler.ids).tier,
                )
                yield Disagreement(each.packet, expected, f"it passed from the port of {each.sender}", after)

    def _change(self, world: World, changed: World, live: Mapping[int, _Sent]) -> Iterator[Disagreement]:
        for each in live.values():
            self._say_more(each, Part.FORWARD)
        self._collect(live)
        for each in live.values():
            if Part.FORWARD not in each.arrived:
                yield Disagreement(
                    each.packet, judged(world, each.packet, self._compiler.ids), "its second packet is lost"
                )
            each.arrived.pop(Part.FORWARD, None)
            each.refused = False
        self._converge(changed)
        for each in live.values():
            self._say_more(each, Part.PUSH)
        for each in live.values():
            self._say_more(each, Part.FORWARD)
        self._collect(live)
        for each in live.values():
            expected = judged(changed, each.packet, self._compiler.ids)
            self.followed["live kept" if expected.allowed else "live cut"] += 1
            passed = {part for part in (Part.PUSH, Part.FORWARD) if part in each.arrived}
            if expected.allowed and len(passed) < 2:
                lost = " and ".join(part.name.lower() for part in (Part.PUSH, Part.FORWARD) if part not in passed)
                yield Disagreement(each.packet, expected, f"the live connection lost its {lost}", after=True)
            elif not expected.allowed and passed and not self._may_turn(changed, each):
                through = " and ".join(part.name.lower() for part in sorted(passed))
                yield Disagreement(each.packet, expected, f"the live connection still passes ({through})", after=True)

    def _may_turn(self, world: World, each: _Sent) -> bool:
        """What is left of a datagram connection is a new one, from whoever speaks next."""
        packet = each.packet
        if packet.protocol is not Protocol.UDP:
            return False
        opened = each.arrived[Part.OPENING].packet
        port = int.from_bytes(opened[20:22] if opened[0] >> 4 == 4 else opened[40:42], "big")
        turned = Packet(packet.destination, packet.source, packet.protocol, port)
        return judged(world, turned, self._compiler.ids).allowed

    # --- packets ------------------------------------------------------------------------------------------------------

    def _next(self) -> int:
        self._numbers = (self._numbers + 1) % wire.NUMBERS
        return self._numbers

    def _sent(self, packet: Packet) -> _Sent:
        return _Sent(packet, self.stage.place_of(packet.source), self.stage.place_of(packet.destination))

    def _spoofed(self, each: _Sent) -> _Sent:
        number = self._numbers
        others = [name for name in self.stage.places if name not in ("cell", "outside", each.sender)]
        sender = "outside" if number % 3 == 0 and each.receiver != "outside" else others[number % len(others)]
        return replace(each, sender=sender, spoofed=True, arrived={}, elsewhere=set(), refused=False)

    def _open(self, number: int, each: _Sent) -> None:
        packet = each.packet
        to, port = packet.destination, packet.port
        if packet.mapped:
            to = worlds.CELL6 if ":" in packet.destination else worlds.CELL4
            port = next(host for host, inner in self._ports[packet.destination] if inner == packet.port)
        self.stage.send(each.sender, wire.opening(packet, number, 20000 + number % 40000, to, port))

    def _say_more(self, each: _Sent, part: Part) -> None:
        if part is Part.PUSH:
            said, place = wire.push(each.arrived[Part.OPENING]), each.receiver
        else:
            said, place = wire.forward(each.arrived[Part.ANSWER]), each.sender
        assert said is not None
        self.stage.send(place, said)

    def _collect(self, sent: Mapping[int, _Sent]) -> None:
        for place, seen in self.stage.seen():
            each = sent.get(seen.number)
            if each is None:
                continue
            if seen.part is Part.REFUSED:
                each.refused |= place == each.sender
                continue
            meant = each.sender if seen.part in (Part.ANSWER, Part.PUSH) else each.receiver
            if place == meant:
                each.arrived[seen.part] = seen
            else:
                each.elsewhere.add(place)

    def _patience(self, sent: Mapping[int, _Sent]) -> None:
        """Before anybody is blamed: it may have been late after all."""
        self._runner.run(asyncio.sleep(0.05))
        self._collect(sent)

    def _admitted(self, before: frozenset[bytes]) -> Mapping[tuple[object, ...], set[int]]:
        """`before`: connections from before the change keep the rule that admitted them, as long as it does."""
        marks: dict[tuple[object, ...], set[int]] = defaultdict(set)
        for flow in self.stage.flows.flows():
            if flow.tuple in before:
                continue
            key = flow.source, flow.destination, flow.protocol, flow.port, flow.icmp_type, flow.mapped
            marks[key].add(flow.mark)
        return marks

    def _by_another(self, each: _Sent, expected: Verdict, admitted: Mapping[tuple[object, ...], set[int]]) -> str:
        packet = each.packet
        # A reset of the cell's own ends a connection before anybody can look; to a free address there is none.
        reset = each.receiver == "cell" and packet.protocol is Protocol.TCP
        if not expected.allowed or reset or Part.OPENING not in each.arrived:
            return ""
        number = PROTOCOL_NUMBER[packet.protocol] if isinstance(packet.protocol, Protocol) else packet.protocol
        key = pack(packet.source), pack(packet.destination), number, packet.port, packet.icmp_type, packet.mapped
        rules = {self._compiler.rule_of(mark) for mark in admitted.get(key, ())}
        return "" if rules == {expected.rule} else f"allowed, and admitted by {' and '.join(sorted(rules)) or 'nobody'}"


def _wrong(each: _Sent, expected: Verdict) -> str:
    """What was seen, where it is not what was expected."""
    if each.elsewhere:
        return f"it arrived at {', '.join(sorted(each.elsewhere))}"
    arrived = Part.OPENING in each.arrived
    if each.receiver == "outside" and each.packet.destination.startswith(("10.240.", "fd42:240:")):
        return "it arrived outside" if arrived else ""  # a free address: a black hole, whatever the rules say
    if arrived:
        return "" if expected.allowed else "allow"
    seen = Action.REJECT if each.refused else Action.DROP
    return "" if seen is expected.action else seen.value


def _unanswered(each: _Sent) -> str:
    """What arrived was answered, and the answer of an allowed connection passes."""
    if Part.OPENING not in each.arrived:
        return ""
    if each.receiver == "cell":
        heard = each.refused or Part.ANSWER in each.arrived or each.packet.icmp_type == 13
    else:
        heard = Part.ANSWER in each.arrived
    return "" if heard else "allowed, but its answer did not come back"


def _some_arrived(sent: Mapping[int, _Sent]) -> list[_Sent]:
    """Their twins are sent from a port whose address they do not have."""
    inside = [e for e in sent.values() if Part.OPENING in e.arrived and e.sender not in ("outside", "cell")]
    return inside[:3]


def owners(world: World) -> dict[str, Kind]:
    return {address: each.kind for each in world.workloads for address in each.addresses}


def random_seed() -> int:
    return random.SystemRandom().randrange(1 << 32)
