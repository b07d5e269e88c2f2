"""What does the bridge answer an agent? A real unix socket, an agent that speaks by hand, holdings in a dict."""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from cfbridge.cells import Cells
from cfbridge.compile import Compiler
from cfbridge.inventory import FoundationState
from cfbridge.settings import FirewallConfig
from cfbridge.snapshot import Held, Snapshot
from egress.model import Lease, OrgWish, Pool, PoolKind
from egress.topology import Topology
from egress.values import QualifiedId, Refused, Unavailable, contains, pack, qualify
from garden_plugin import frames, wire
from garden_plugin.dataplane.base import LogicalNetwork
from policy_sync.membership import Membership
from policy_sync.model import Group, Selector, SelectorKind

POOLS = (Pool("overlay", PoolKind.CONTAINER, ("10.240.0.0/14",)),)


class HoldingsInADict:
    def __init__(self) -> None:
        self.leases: dict[str, tuple[Lease, ...]] = {}
        self.refuse: Refused | None = None
        self.away = False
        self.overtaken: list[int] = []
        self.adopted: dict[str, Mapping[str, tuple[OrgWish, tuple[str, ...]]]] = {}

    async def lease(self, workload: str, wish: OrgWish, cell: str) -> tuple[Lease, ...] | Refused:
        if self.away:
            raise Unavailable("the database does not answer")
        if self.refuse is not None:
            return self.refuse
        address = f"10.240.0.{10 + len(self.leases)}"
        return self.leases.setdefault(workload, (Lease(address, workload, wish.org, cell),))

    async def release(self, workload: str) -> None:
        if self.away:
            raise Unavailable("the database does not answer")
        self.leases.pop(workload, None)

    async def adopt(self, cell: str, reported: Mapping[str, tuple[OrgWish, tuple[str, ...]]]) -> tuple[Refused, ...]:
        self.adopted[cell] = reported
        for workload in [w for w, leases in self.leases.items() if leases[0].cell == cell and w not in reported]:
            del self.leases[workload]
        return await self.claim(cell, reported)

    async def claim(self, cell: str, reported: Mapping[str, tuple[OrgWish, tuple[str, ...]]]) -> tuple[Refused, ...]:
        refused = []
        for workload, (wish, addresses) in reported.items():
            holders = {lease.address: w for w, leases in self.leases.items() for lease in leases}
            if any(holders.get(address, workload) != workload for address in addresses):
                refused.append(Refused("ADDRESS_TAKEN", f"{workload} claims what is held"))
            elif addresses:
                self.leases[workload] = tuple(Lease(address, workload, wish.org, cell) for address in addresses)
        return tuple(refused)

    async def overtake(self, epoch: int) -> int:
        self.overtaken.append(epoch)
        return epoch + 1

    @property
    def held(self) -> Held:
        return Held(leases=dict(self.leases))


class SpokenAgent:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._decoder = msgspec.msgpack.Decoder(wire.FromBridge)

    def say(self, message: wire.FromAgent) -> None:
        self._writer.write(frames.frame(message))

    async def hear(self) -> wire.FromBridge:
        return self._decoder.decode(await asyncio.wait_for(frames.read_frame(self._reader), 5))

    async def hung_up_on(self) -> bool:
        return await asyncio.wait_for(self._reader.read(), 5) == b""

    def unheard(self) -> int:
        """Bytes that it said and the bridge did not take."""
        return self._writer.transport.get_write_buffer_size()

    def leave(self) -> None:
        self._writer.close()


class Bench:
    """Cells under test, and what they were told."""

    def __init__(self, path: Path, *, single: bool = True) -> None:
        self.path = str(path / "bridge.sock")
        self.led: list[int] = []
        self._agents: list[SpokenAgent] = []
        self.holdings = HoldingsInADict()
        self.reason = ""
        self.untrue: Refused | None = None
        self.changes = 0
        self.cells = Cells(
            foundation="cf",
            epoch=7,
            mtu=1442,
            holdings=self.holdings,
            wish=lambda guid, name: OrgWish(qualify("cf", guid), name=name),
            ready=lambda: self.reason,
            changed=self._changed,
            leads=self.led.append,
            untrue=lambda port: self.untrue,
            single=single,
        )

    def _changed(self) -> int:
        self.changes += 1
        return 100 + self.changes

    def unanswered(self) -> int:
        """Bytes that agents did not take from the bridge."""
        return sum(each.writer.transport.get_write_buffer_size() for each in self.cells._connections.values())

    async def agent(
        self, cell: str = "cell-1", *ports: wire.PortReport, version: int = wire.VERSION, epoch: int = 0
    ) -> SpokenAgent:
        agent = SpokenAgent(*await asyncio.open_unix_connection(self.path))
        self._agents.append(agent)  # else its connection ends with the last name for it
        agent.say(wire.Hello(version, cell, "boot-1", ("192.0.2.10",), ports, epoch))
        return agent


@pytest.fixture
async def bench(tmp_path: Path):
    bench = Bench(tmp_path)
    server = await bench.cells.serve(bench.path)
    yield bench
    server.close()


@pytest.fixture
async def cells(tmp_path: Path):
    """Of two cells and more, as OVN will have them."""
    bench = Bench(tmp_path, single=False)
    server = await bench.cells.serve(bench.path)
    yield bench
    server.close()


def port(handle: str = "h1") -> wire.PortReport:
    return wire.PortReport(handle=handle, org="org-1", space="space-1", app="app-1", lifecycle="app", org_name="acme")


def network(revision: int, *pools: str) -> LogicalNetwork:
    return LogicalNetwork(revision, Topology(pools=pools))


async def test_an_agent_is_welcomed_with_epoch_and_foundation(bench: Bench):
    agent = await bench.agent()
    assert await agent.hear() == wire.Welcome(wire.VERSION, 7, "cf")


async def test_an_attach_is_granted_with_a_revision_to_wait_for(bench: Bench):
    agent = await bench.agent()
    await agent.hear()
    agent.say(wire.Attach(1, port()))
    assert await agent.hear() == wire.Granted(1, ("10.240.0.10",), 102, 1442)
    assert bench.cells.states["cell-1"].ports["cf:h1"].addresses == ("10.240.0.10",)


async def test_an_org_without_room_is_refused_in_words(bench: Bench):
    bench.holdings.refuse = Refused("IP_POOL_EXHAUSTED", "pool overlay is full")
    agent = await bench.agent()
    await agent.hear()
    agent.say(wire.Attach(1, port()))
    assert await agent.hear() == wire.Denied(1, "IP_POOL_EXHAUSTED", "pool overlay is full", retry=False)
    assert not bench.cells.states["cell-1"].ports


async def test_a_store_that_is_away_is_said_as_retry(bench: Bench):
    bench.holdings.away = True
    agent = await bench.agent()
    await agent.hear()
    agent.say(wire.Attach(1, port()))
    answer = await agent.hear()
    assert isinstance(answer, wire.Denied)
    assert answer.retry


async def test_before_the_first_look_an_attach_is_told_to_wait_and_why(bench: Bench):
    bench.reason = "the policies of cf have not been read yet"
    agent = await bench.agent()
    await agent.hear()
    agent.say(wire.Attach(1, port()))
    assert await agent.hear() == wire.Denied(1, "NOT_READY", bench.reason, retry=True)


async def test_a_detach_is_acknowledged_only_when_the_lease_is_released(bench: Bench):
    agent = await bench.agent()
    await agent.hear()
    agent.say(wire.Attach(1, port()))
    await agent.hear()
    agent.say(wire.Detached("h1"))
    assert await agent.hear() == wire.Acknowledged("h1")
    assert not bench.holdings.leases
    assert not bench.cells.states["cell-1"].ports


async def test_a_port_reported_at_hello_is_adopted_with_its_address(bench: Bench):
    held = msgspec.structs.replace(port(), addresses=("10.240.0.99",))
    agent = await bench.agent("cell-1", held)
    await agent.hear()
    wish, addresses = bench.holdings.adopted["cell-1"]["cf:h1"]
    assert (wish.org, addresses) == (QualifiedId("cf:org-1"), ("10.240.0.99",))


async def test_the_first_span_is_whole_and_the_next_only_what_changed(bench: Bench):
    agent = await bench.agent()
    await agent.hear()
    bench.cells.deliver(network(105, "10.240.0.0/14"))
    first = await agent.hear()
    bench.cells.deliver(network(106, "10.240.0.0/14"))
    second = await agent.hear()
    assert isinstance(first, wire.Span)
    assert isinstance(second, wire.Span)
    assert (first.base, second.base) == (0, 105)
    assert wire.merge(wire.merge(None, first), second) == network(106, "10.240.0.0/14")


async def test_a_cell_that_comes_back_gets_the_whole_network_again(bench: Bench):
    agent = await bench.agent()
    await agent.hear()
    bench.cells.deliver(network(105))
    await agent.hear()
    agent.leave()
    again = await bench.agent()
    await again.hear()
    bench.cells.deliver(network(106))
    span = await again.hear()
    assert isinstance(span, wire.Span)
    assert span.base == 0


async def test_a_network_compiled_before_the_hello_is_not_sent_to_it(bench: Bench):
    agent = await bench.agent()
    await agent.hear()
    bench.cells.deliver(network(100))
    bench.cells.deliver(network(101))
    span = await agent.hear()
    assert isinstance(span, wire.Span)
    assert span.revision == 101


async def test_reached_is_seen_by_those_who_wait_for_the_revision(bench: Bench):
    agent = await bench.agent()
    await agent.hear()
    waiting = asyncio.create_task(bench.cells.reached(9, "cell-1", 5))
    agent.say(wire.Reached(9))
    assert await waiting


async def test_a_cell_is_late_only_when_it_stays_behind(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    agent = await bench.agent()
    await agent.hear()
    bench.cells.deliver(network(105))
    assert not bench.cells.late()
    monkeypatch.setattr("cfbridge.cells.LATE_SECONDS", -1.0)
    assert bench.cells.late() == ("cell-1",)
    agent.say(wire.Reached(105))
    assert await bench.cells.reached(105, "cell-1", 5)
    assert not bench.cells.late()


async def test_a_second_cell_is_refused_on_linux(bench: Bench):
    await (await bench.agent("cell-1")).hear()
    assert await (await bench.agent("cell-2")).hung_up_on()
    assert [*bench.cells.states] == ["cell-1"]


async def test_an_agent_of_another_version_is_hung_up_on(bench: Bench):
    assert await (await bench.agent(version=99)).hung_up_on()
    assert not bench.cells.states


async def test_garbage_on_the_socket_ends_that_connection_alone(bench: Bench):
    agent = await bench.agent()
    await agent.hear()
    reader, writer = await asyncio.open_unix_connection(bench.path)
    writer.write(b"\x00\x00\x00\x03abc")
    assert await asyncio.wait_for(reader.read(), 5) == b""
    agent.say(wire.Attach(1, port()))
    assert isinstance(await agent.hear(), wire.Granted)


async def test_a_cell_that_went_away_keeps_its_ports(bench: Bench):
    agent = await bench.agent("cell-1", msgspec.structs.replace(port(), addresses=("10.240.0.99",)))
    await agent.hear()
    await gone(bench, agent)
    assert [*bench.cells.states["cell-1"].ports] == ["cf:h1"]


async def gone(bench: Bench, agent: SpokenAgent, cell: str = "cell-1") -> None:
    agent.leave()
    async with asyncio.timeout(5):
        while bench.cells.states[cell].connected:
            await asyncio.sleep(0.01)


def held(handle: str, address: str) -> wire.PortReport:
    return msgspec.structs.replace(port(handle), addresses=(address,))


def lease(address: str, workload: str, cell: str) -> Lease:
    return Lease(address, workload, QualifiedId("cf:org-1"), cell)


async def test_a_cell_that_the_store_knows_is_away_and_not_unknown_until_it_is_heard(bench: Bench):
    machine = Lease("10.240.9.9", "vm:db", QualifiedId("cf:org-1"), "cell-9")
    bench.cells.remember([lease("10.240.0.10", "cf:h1", "cell-1"), machine])
    assert {name: state.connected for name, state in bench.cells.states.items()} == {"cell-1": False}
    assert not bench.holdings.adopted
    await (await bench.agent("cell-1", held("h1", "10.240.0.10"))).hear()
    assert bench.cells.states["cell-1"].connected


async def test_a_cell_that_only_the_store_knew_and_that_came_under_another_name_is_forgotten(bench: Bench):
    bench.holdings.leases["cf:h1"] = (lease("10.240.0.10", "cf:h1", "old-name"),)
    bench.cells.remember(leases[0] for leases in bench.holdings.leases.values())
    await (await bench.agent("new-name", held("h1", "10.240.0.10"))).hear()
    assert [*bench.cells.states] == ["new-name"]


async def test_a_cell_is_unheard_after_ten_minutes_and_is_kept(bench: Bench):
    agent = await bench.agent("cell-1", held("h1", "10.240.0.10"))
    await agent.hear()
    later = time.time() + 10 * 60
    assert bench.cells.unheard(later + 60) == ()
    await gone(bench, agent)
    assert bench.cells.unheard(later - 60) == ()
    assert bench.cells.unheard(later + 60) == ("cell-1",)
    assert [*bench.cells.states["cell-1"].ports] == ["cf:h1"]
    assert "cf:h1" in bench.holdings.leases


async def test_a_remembered_cell_is_unheard_ten_minutes_after_the_bridge_began(bench: Bench):
    bench.cells.remember([lease("10.240.0.10", "cf:h1", "cell-1")])
    now = time.time()
    assert bench.cells.unheard(now + 9 * 60) == ()
    assert bench.cells.unheard(now + 11 * 60) == ("cell-1",)


async def test_a_removed_cell_gives_back_its_addresses_and_leaves_the_groups(bench: Bench):
    agent = await bench.agent("cell-1", held("h1", "10.240.0.10"))
    await agent.hear()
    await gone(bench, agent)
    before = bench.changes
    assert await bench.cells.remove("cell-1") is None
    assert not bench.cells.states
    assert not bench.holdings.leases
    assert bench.changes > before


async def test_a_connected_cell_is_not_removed_and_neither_is_an_unknown_one(bench: Bench):
    await (await bench.agent("cell-1", held("h1", "10.240.0.10"))).hear()
    refused = [await bench.cells.remove(name) for name in ("cell-1", "cell-2")]
    assert [problem and problem.code for problem in refused] == ["CELL_CONNECTED", "CELL_UNKNOWN"]
    assert "cf:h1" in bench.holdings.leases


async def test_a_cell_that_is_just_arriving_is_not_removed(bench: Bench):
    """Else its containers' leases would be released right after they were adopted."""
    bench.cells.remember([lease("10.240.0.10", "cf:h1", "cell-1")])
    gate, arriving, adopt = asyncio.Event(), asyncio.Event(), bench.holdings.adopt

    async def slow(cell: str, reported: Mapping[str, tuple[OrgWish, tuple[str, ...]]]) -> tuple[Refused, ...]:
        answer = await adopt(cell, reported)
        arriving.set()
        await gate.wait()
        return answer

    bench.holdings.adopt = slow  # type: ignore[method-assign]
    agent = await bench.agent("cell-1", held("h1", "10.240.0.10"))
    await asyncio.wait_for(arriving.wait(), 5)
    refused = await bench.cells.remove("cell-1")
    gate.set()
    assert refused is not None
    assert refused.code == "CELL_CONNECTED"
    assert isinstance(await agent.hear(), wire.Welcome)
    assert "cf:h1" in bench.holdings.leases


async def test_a_removed_cell_that_comes_back_is_welcome_and_what_it_uses_is_its_own(bench: Bench):
    agent = await bench.agent("cell-1", held("h1", "10.240.0.10"))
    await agent.hear()
    await gone(bench, agent)
    assert await bench.cells.remove("cell-1") is None
    again = await bench.agent("cell-1", held("h1", "10.240.0.10"))
    assert isinstance(await again.hear(), wire.Welcome)
    assert bench.holdings.leases["cf:h1"][0].address == "10.240.0.10"


async def test_after_the_one_cell_of_linux_was_removed_another_may_come(bench: Bench):
    agent = await bench.agent("cell-1")
    await agent.hear()
    await gone(bench, agent)
    await bench.cells.remove("cell-1")
    assert isinstance(await (await bench.agent("cell-2")).hear(), wire.Welcome)


async def test_what_a_removed_cells_address_was_given_to_keeps_it_and_the_cell_is_told_in_an_alarm(cells: Bench):
    agent = await cells.agent("cell-1", held("h1", "10.240.0.10"))
    await agent.hear()
    await gone(cells, agent)
    await cells.cells.remove("cell-1")
    await (await cells.agent("cell-2", held("h2", "10.240.0.10"))).hear()
    await (await cells.agent("cell-1", held("h1", "10.240.0.10"))).hear()
    assert [problem.code for problem in cells.cells.conflicts["cell-1"]] == ["ADDRESS_TAKEN"]
    assert [*cells.holdings.leases] == ["cf:h2"]


async def test_a_conflict_ends_by_itself_when_the_other_gives_the_address_up(
    cells: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cfbridge.cells.CONFLICT_SECONDS", 0.01)
    cells.holdings.leases["cf:h2"] = (lease("10.240.0.10", "cf:h2", "cell-2"),)
    await (await cells.agent("cell-1", held("h1", "10.240.0.10"))).hear()
    assert cells.cells.conflicts["cell-1"]
    await (await cells.agent("cell-2")).hear()
    async with asyncio.timeout(5):
        while cells.cells.conflicts["cell-1"]:
            await asyncio.sleep(0.01)
    assert [lease.workload for leases in cells.holdings.leases.values() for lease in leases] == ["cf:h1"]


async def test_both_instances_of_an_app_that_is_evacuated_are_members_until_the_old_one_ends(cells: Bench):
    old = await cells.agent("cell-1", held("old", "10.240.0.10"))
    await old.hear()
    new = await cells.agent("cell-2")
    await new.hear()
    new.say(wire.Attach(1, port("new")))
    await new.hear()
    compiler = Compiler(FirewallConfig(), POOLS)

    def members() -> list[str]:
        snapshot = Snapshot(
            inventory={"cf": FoundationState("cf")},
            held=cells.holdings.held,
            cells=cells.cells.states,
            pools=POOLS,
        )
        world = compiler.world(snapshot)
        web = Group("web", (Selector(SelectorKind.APP, "cf:app-1"),))
        known = Membership(world.workloads, (web,), world.container_pools, world.cell_addresses)
        ranges = known.ranges((Selector(SelectorKind.GROUP, "web"),))
        return sorted(w.id for w in world.workloads if contains(ranges, pack(w.addresses[0])))

    assert members() == ["cf:new", "cf:old"]
    old.say(wire.Detached("old"))
    assert await old.hear() == wire.Acknowledged("old")
    assert members() == ["cf:new"]


async def test_a_bridge_whose_store_is_older_than_what_a_cell_followed_leads_on_by_a_higher_epoch(bench: Bench):
    agent = await bench.agent(epoch=19)
    assert await agent.hear() == wire.Welcome(wire.VERSION, 20, "cf")
    assert bench.holdings.overtaken == [19]
    assert bench.led == [20]
    assert bench.cells.restored is not None
    assert bench.cells.restored.code == "STORE_RESTORED"


async def test_a_bridge_that_does_not_lead_its_store_any_more_is_not_followed(bench: Bench):
    async def deposed(epoch: int) -> int:
        raise Unavailable("epoch 9 leads the store")

    bench.holdings.overtake = deposed  # type: ignore[method-assign]
    assert await (await bench.agent(epoch=19)).hung_up_on()
    assert not bench.cells.states


async def test_an_epoch_that_can_be_none_is_not_believed(bench: Bench):
    assert await (await bench.agent(epoch=1 << 60)).hung_up_on()
    assert not bench.holdings.overtaken


async def test_what_an_ended_connection_still_says_gives_nobody_a_lease(bench: Bench):
    """An agent that was killed left an Attach in its socket; the next one's hello does not hold that container."""
    old = await bench.agent()
    await old.hear()
    old.say(wire.Attach(1, port("ghost")))
    new = await bench.agent()
    assert isinstance(await new.hear(), wire.Welcome)
    new.say(wire.Attach(1, port("real")))
    assert isinstance(await new.hear(), wire.Granted)
    assert [*bench.holdings.leases] == ["cf:real"]


async def test_the_old_connection_of_a_cell_ends_before_the_new_ones_report_is_taken_over(bench: Bench):
    old = await bench.agent()
    await old.hear()
    gate, adopt = asyncio.Event(), bench.holdings.adopt

    async def slow(cell: str, reported: Mapping[str, tuple[OrgWish, tuple[str, ...]]]) -> tuple[Refused, ...]:
        await gate.wait()
        return await adopt(cell, reported)

    bench.holdings.adopt = slow  # type: ignore[method-assign]
    new = await bench.agent()
    assert await old.hung_up_on()
    gate.set()
    assert isinstance(await new.hear(), wire.Welcome)


async def test_a_down_that_overtakes_its_up_leaves_no_port_behind(bench: Bench):
    agent = await bench.agent()
    await agent.hear()
    agent.say(wire.Attach(1, port()))
    agent.say(wire.Detached("h1"))
    assert {type(await agent.hear()), type(await agent.hear())} == {wire.Granted, wire.Acknowledged}
    assert not bench.cells.states["cell-1"].ports


async def test_an_agent_that_does_not_read_is_kept_no_pile_of_spans_and_hears_the_newest(bench: Bench):
    agent = await bench.agent()
    await agent.hear()
    large = "x" * (8 << 20)
    for revision in range(200, 230):
        bench.cells.deliver(network(revision, f"{large}{revision}"))
        await asyncio.sleep(0)
    heard = []
    while not heard or heard[-1] < 229:
        span = await agent.hear()
        assert isinstance(span, wire.Span)
        heard.append(span.revision)
    assert len(heard) < 10


async def test_an_agent_that_asks_and_does_not_read_is_not_listened_to_until_it_reads(bench: Bench):
    """Else its questions or its answers would pile up in the bridge for as long as it asks."""
    bench.reason = "not read yet: " + "x" * 1_000
    agent = await bench.agent()
    await agent.hear()
    asks, long_name = 4_000, "x" * 10_000
    for number in range(asks):
        agent.say(wire.Attach(number, msgspec.structs.replace(port(), org_name=long_name)))
    for _ in range(5_000):
        await asyncio.sleep(0)
    assert bench.unanswered() < 1 << 20
    assert agent.unheard() > asks * len(long_name) // 2
    answers = [await agent.hear() for _ in range(asks)]
    assert sorted(answer.request for answer in answers if isinstance(answer, wire.Denied)) == [*range(asks)]


def test_nobody_but_root_can_come_to_the_agents_socket_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    listen = asyncio.start_unix_server

    async def listening(*how: object, **said: object) -> asyncio.Server:
        server = await listen(*how, **said)
        seen.append((tmp_path / "bridge.sock").stat().st_mode & 0o777)
        return server

    async def serve() -> None:
        monkeypatch.setattr(asyncio, "start_unix_server", listening)
        (await Bench(tmp_path).cells.serve(str(tmp_path / "bridge.sock"))).close()

    mask = os.umask(0)
    try:
        asyncio.run(serve())
    finally:
        os.umask(mask)
    assert seen == [0o600]


async def test_of_two_cells_that_come_at_once_one_is_served(bench: Bench):
    both = [await bench.agent("cell-1"), await bench.agent("cell-2")]
    gate = asyncio.Event()
    adopt = bench.holdings.adopt

    async def slow(cell: str, reported: Mapping[str, tuple[OrgWish, tuple[str, ...]]]) -> tuple[Refused, ...]:
        await gate.wait()
        return await adopt(cell, reported)

    bench.holdings.adopt = slow  # type: ignore[method-assign]
    assert await both[1].hung_up_on()
    gate.set()
    assert isinstance(await both[0].hear(), wire.Welcome)
    assert [*bench.holdings.adopted] == ["cell-1"]


async def test_what_drifted_on_a_cell_is_counted_and_outlives_its_connection(bench: Bench):
    agent = await bench.agent()
    await agent.hear()
    agent.say(wire.Drifted("route 10.240.0.10 was deleted"))
    agent.say(wire.Drifted("1 rule was added to chain forward", 12))
    agent.say(wire.Attach(1, port()))
    await agent.hear()
    again = await bench.agent()
    await again.hear()
    state = bench.cells.states["cell-1"]
    assert (state.drifts, state.last_drift) == (13, "1 rule was added to chain forward")
    assert state.fought_at > 0


async def test_a_container_that_is_not_what_it_says_is_refused_in_words_and_gets_no_address(bench: Bench):
    agent = await bench.agent()
    await agent.hear()
    bench.untrue = Refused("CLAIM_MISMATCH", "h1 says it is app-1 of org-1")
    agent.say(wire.Attach(1, port()))
    assert await agent.hear() == wire.Denied(1, "CLAIM_MISMATCH", "h1 says it is app-1 of org-1", retry=False)
    assert not bench.holdings.leases
    assert not bench.cells.states["cell-1"].ports


async def test_what_a_cell_says_of_another_cells_container_is_refused(cells: Bench):
    owner, stranger = await cells.agent("cell-1"), await cells.agent("cell-2")
    for agent in (owner, stranger):
        await agent.hear()
    owner.say(wire.Attach(1, port()))
    granted = await owner.hear()
    held = dict(cells.holdings.leases)
    stranger.say(wire.Attach(1, port()))
    answer = await stranger.hear()
    assert isinstance(answer, wire.Denied)
    assert (answer.code, answer.retry) == ("HANDLE_ELSEWHERE", False)
    stranger.say(wire.Update(2, msgspec.structs.replace(port(), app="mine")))
    assert isinstance(await stranger.hear(), wire.Denied)
    stranger.say(wire.Detached("h1"))
    assert await stranger.hear() == wire.Acknowledged("h1")
    assert cells.holdings.leases == held
    assert cells.cells.states["cell-1"].ports["cf:h1"].app == "app-1"
    assert not cells.cells.states["cell-2"].ports
    owner.say(wire.Update(3, port()))
    assert await owner.hear() == msgspec.structs.replace(granted, request=3, revision=cells.changes + 100)


async def test_a_container_that_two_cells_report_stays_with_the_connected_one_that_had_it(cells: Bench):
    owner = await cells.agent("cell-1")
    await owner.hear()
    owner.say(wire.Attach(1, port()))
    granted = await owner.hear()
    assert isinstance(granted, wire.Granted)
    stolen = msgspec.structs.replace(port(), addresses=granted.addresses, app="mine")
    await (await cells.agent("cell-2", stolen)).hear()
    assert not cells.cells.states["cell-2"].ports
    assert [refused.code for refused in cells.cells.elsewhere["cell-2"]] == ["HANDLE_ELSEWHERE"]
    assert cells.holdings.leases["cf:h1"][0].cell == "cell-1"
