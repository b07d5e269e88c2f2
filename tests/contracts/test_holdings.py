"""Does the one writer keep its word, on both real engines? Stored before answered; nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection

from cfbridge.holdings import Holdings
from cfbridge.snapshot import Held
from cfbridge.store import Deposed, Store
from egress.ledger import Changes
from egress.model import Defaults, Lease, NetworkMode, OrgWish, Pool, PoolKind
from egress.values import QualifiedId, Refused, RefusedError, Unavailable

OVERLAY = Pool("overlay", PoolKind.CONTAINER, ("10.240.0.0/16", "fd00:cf::/48"))
SNAT = Pool("snat", PoolKind.SNAT, ("203.0.113.0/29",))
ACME = OrgWish(QualifiedId("cf:acme"), name="acme")
GLOBEX = OrgWish(QualifiedId("cf:globex"), NetworkMode.NAT, name="globex")

OpenStore = Callable[[], Awaitable[Store]]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@asynccontextmanager
async def bridge(store: Store, clock: Clock, *pools: Pool) -> AsyncIterator[Holdings]:
    holdings = await Holdings.open(store, pools or (OVERLAY, SNAT), Defaults(), clock)
    try:
        yield holdings
    finally:
        await holdings.close()


@pytest.fixture
async def holdings(open_store: OpenStore, clock: Clock) -> AsyncIterator[Holdings]:
    async with bridge(await open_store(), clock) as opened:
        yield opened


def addresses(answer: tuple[Lease, ...] | Refused) -> tuple[str, ...]:
    assert not isinstance(answer, Refused), answer
    return tuple(lease.address for lease in answer)


async def test_a_container_gets_one_address_of_each_family(holdings: Holdings) -> None:
    answer = await holdings.lease("cf:a", ACME, "cell-1")
    assert addresses(answer) == ("10.240.0.3", "fd00:cf::3")
    assert holdings.held.leases["cf:a"] == answer


async def test_asking_again_gives_the_same_lease(holdings: Holdings) -> None:
    assert await holdings.lease("cf:a", ACME, "cell-1") == await holdings.lease("cf:a", ACME, "cell-1")


async def test_a_hundred_at_once_get_a_hundred_addresses_that_are_stored(
    holdings: Holdings, open_store: OpenStore
) -> None:
    answers = await asyncio.gather(*(holdings.lease(f"cf:{n}", ACME, "cell-1") for n in range(100)))
    given = {address for answer in answers for address in addresses(answer)}
    assert len(given) == 200
    stored = await (await open_store()).load()
    assert {lease.address for lease in stored.holding.leases} == given


async def test_an_org_keeps_everything_over_a_restart(open_store: OpenStore, clock: Clock) -> None:
    async with bridge(await open_store(), clock) as before:
        await before.lease("cf:a", GLOBEX, "cell-1")
        await before.rule_ids(["policy:1"])
        known = before.held
    async with bridge(await open_store(), clock) as after:
        assert after.held.org_networks == known.org_networks
        assert after.held.leases == known.leases
        assert after.held.snat_addresses == known.snat_addresses
        assert after.held.rule_ids == known.rule_ids


async def test_a_released_address_rests_over_a_restart(open_store: OpenStore, clock: Clock) -> None:
    tiny = Pool("tiny", PoolKind.CONTAINER, ("10.0.0.0/29",), org_prefix_length=29)
    async with bridge(await open_store(), clock, tiny) as before:
        for n in range(4):
            await before.lease(f"cf:{n}", ACME, "cell-1")
        await before.release("cf:2")
    clock.now += 299
    async with bridge(await open_store(), clock, tiny) as after:
        early = await after.lease("cf:new", ACME, "cell-1")
        assert isinstance(early, Refused)
        assert early.code == "IP_POOL_EXHAUSTED"
        assert after.held.refusals == {"cf:new": early, ACME.org: early}
        clock.now += 1
        assert addresses(await after.lease("cf:new", ACME, "cell-1")) == ("10.0.0.5",)
        assert after.held.refusals == {}


async def test_killed_in_the_middle_nothing_that_was_answered_is_lost(open_store: OpenStore, clock: Clock) -> None:
    killed = await Holdings.open(await open_store(), (OVERLAY,), Defaults(), clock)
    first = asyncio.gather(*(killed.lease(f"cf:{n}", ACME, "cell-1") for n in range(50)))
    second = asyncio.gather(*(killed.lease(f"cf:{n}", ACME, "cell-1") for n in range(50, 100)), return_exceptions=True)
    killed.changed = lambda _: killed.writer.cancel()
    answered = await first
    await second
    with pytest.raises(Unavailable):
        await killed.lease("cf:later", ACME, "cell-1")
    async with bridge(await open_store(), clock, OVERLAY) as after:
        for leases in answered:
            assert not isinstance(leases, Refused)
            assert after.held.leases[leases[0].workload] == leases
        again = await asyncio.gather(*(after.lease(f"cf:{n}", ACME, "cell-1") for n in range(100)))
        assert len({address for answer in again for address in addresses(answer)}) == 200


async def test_killed_during_the_commit_the_store_decides_what_was_given(open_store: OpenStore, clock: Clock) -> None:
    store = await open_store()
    killed = await Holdings.open(store, (OVERLAY,), Defaults(), clock)
    commit = store.commit

    async def cancelled_after(changes: Changes, rule_ids: object = None) -> None:
        await commit(changes)
        killed.writer.cancel()
        await asyncio.Event().wait()

    store.commit = cancelled_after  # type: ignore[method-assign]
    answers = await asyncio.gather(
        *(killed.lease(f"cf:{n}", ACME, "cell-1") for n in range(10)), return_exceptions=True
    )
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert killed.held.leases == {}
    async with bridge(await open_store(), clock, OVERLAY) as after:
        known = dict(after.held.leases)
        assert len(known) == 10
        for workload, leases in known.items():
            assert await after.lease(workload, ACME, "cell-1") == leases


async def test_a_failed_commit_answers_nobody_and_changes_nothing(open_store: OpenStore, clock: Clock) -> None:
    store = await open_store()
    async with bridge(store, clock) as holdings:
        await holdings.lease("cf:a", ACME, "cell-1")
        before, commit = holdings.held, store.commit

        async def fails(changes: Changes, rule_ids: object = None) -> None:
            raise Unavailable("the disk is full")

        store.commit = fails  # type: ignore[method-assign]
        answers = await asyncio.gather(
            holdings.lease("cf:b", ACME, "cell-1"), holdings.rule_ids(["k"]), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
        assert holdings.held is before
        store.commit = commit  # type: ignore[method-assign]
        assert addresses(await holdings.lease("cf:c", ACME, "cell-1"))[0] == "10.240.0.4"
        assert set(holdings.held.leases) == {"cf:a", "cf:c"}


async def test_a_commit_whose_answer_was_lost_is_found_in_the_store(open_store: OpenStore, clock: Clock) -> None:
    store = await open_store()
    async with bridge(store, clock) as holdings:
        commit = store.commit

        async def unanswered(changes: Changes, rule_ids: object = None) -> None:
            await commit(changes)
            raise Unavailable("the connection broke")

        store.commit = unanswered  # type: ignore[method-assign]
        with pytest.raises(Unavailable):
            await holdings.lease("cf:a", ACME, "cell-1")
        store.commit = commit  # type: ignore[method-assign]
        assert addresses(await holdings.lease("cf:b", ACME, "cell-1"))[0] == "10.240.0.4"
        assert addresses(await holdings.lease("cf:a", ACME, "cell-1"))[0] == "10.240.0.3"


async def test_an_older_bridge_gets_nothing_once_a_newer_leads(open_store: OpenStore, clock: Clock) -> None:
    older = await Holdings.open(await open_store(), (OVERLAY,), Defaults(), clock)
    async with bridge(await open_store(), clock, OVERLAY) as newer:
        with pytest.raises(Deposed):
            await older.lease("cf:a", ACME, "cell-1")
        with pytest.raises(Unavailable):
            await older.lease("cf:a", ACME, "cell-1")
        assert isinstance(older.writer.exception(), Deposed)
        assert await newer.lease("cf:a", ACME, "cell-1")
    await older.close()


async def test_one_org_that_is_refused_does_not_stop_the_others(holdings: Holdings) -> None:
    nats = [OrgWish(QualifiedId(f"cf:{n}"), NetworkMode.NAT) for n in range(7)]
    answers = await asyncio.gather(*(holdings.org(wish) for wish in nats), holdings.org(ACME))
    refused = [answer.code for answer in answers if isinstance(answer, Refused)]
    assert refused == ["SNAT_POOL_EXHAUSTED"]
    assert isinstance(answers[-1], Held)
    assert set(holdings.held.refusals) == {"cf:6"}


async def test_an_org_that_outgrew_its_pool_says_so_until_it_has_room_again(
    open_store: OpenStore, clock: Clock
) -> None:
    """The container that was refused is gone at once (Garden calls `down`), and what it met must not be."""
    tiny = Pool("tiny", PoolKind.CONTAINER, ("10.99.0.0/28",), 28)
    async with bridge(await open_store(), clock, tiny) as holdings:
        last = ""
        for number in range(16):
            if isinstance(await holdings.lease(f"cf:{number}", ACME, "cell-1"), Refused):
                last = f"cf:{number}"
                break
        await holdings.release(last)
        assert {org: each.code for org, each in holdings.held.refusals.items()} == {"cf:acme": "IP_POOL_EXHAUSTED"}
        await holdings.release("cf:0")
        assert not holdings.held.refusals


async def test_a_rule_key_has_one_id_for_life(open_store: OpenStore, clock: Clock) -> None:
    async with bridge(await open_store(), clock) as before:
        first = await before.rule_ids({"b", "a"})
        assert first == {"a": 1, "b": 2}
        both = await asyncio.gather(before.rule_ids(["c", "a"]), before.rule_ids(["c", "d"]))
        assert both == [{"c": 3, "a": 1}, {"c": 3, "d": 4}]
    async with bridge(await open_store(), clock) as after:
        assert await after.rule_ids(["e", "b"]) == {"e": 5, "b": 2}


async def test_sixty_thousand_rule_ids_are_one_commit(holdings: Holdings, open_store: OpenStore) -> None:
    version = holdings.held.version
    given = await holdings.rule_ids([f"cf:policy:{n}" for n in range(60_000)])
    assert len(set(given.values())) == 60_000
    assert holdings.held.version == version + 1
    assert (await (await open_store()).load()).rule_ids == given


@pytest.mark.parametrize("length", [63, 128, 250])
async def test_names_that_begin_alike_are_two_names(open_store: OpenStore, clock: Clock, length: int) -> None:
    """NSX cut tags at 20 and 40 characters, and a rule did not apply."""
    names = ["x" * length + end for end in "12"]
    async with bridge(await open_store(), clock) as before:
        ids = await before.rule_ids(names)
        first = [await before.lease(f"cf:{name}", OrgWish(QualifiedId(f"cf:{name}")), "cell-1") for name in names]
        subnets = {network.org: network.prefix for network in before.held.org_networks}
    assert len({*ids.values()}) == len({addresses(each) for each in first}) == len({*subnets.values()}) == 2
    async with bridge(await open_store(), clock) as after:
        assert await after.rule_ids(names) == ids
        again = [await after.lease(f"cf:{name}", OrgWish(QualifiedId(f"cf:{name}")), "cell-1") for name in names]
        assert again == first
        assert {network.org: network.prefix for network in after.held.org_networks} == subnets


async def test_a_bad_rule_key_is_refused_alone(holdings: Holdings) -> None:
    answers = await asyncio.gather(
        holdings.rule_ids(["x" * 5_000]),
        holdings.rule_ids(["a\0b"]),
        holdings.rule_ids(["good"]),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [RefusedError, RefusedError, dict]


async def test_a_hostile_workload_id_is_refused_and_hostile_text_is_only_text(holdings: Holdings) -> None:
    refused, quoted = await asyncio.gather(
        holdings.lease("cf:\ud800", ACME, "cell-1"), holdings.lease("cf:'); DROP TABLE leases;--\n☃", ACME, "cell-1")
    )
    assert isinstance(refused, Refused)
    assert addresses(quoted)


async def test_what_a_cell_reports_wins_over_a_store_from_backup(holdings: Holdings) -> None:
    await holdings.lease("cf:gone", ACME, "cell-1")
    await holdings.lease("cf:elsewhere", ACME, "cell-2")
    await holdings.lease("vm:db", ACME, "cell-1", fixed=("192.0.2.10",))
    refused = await holdings.adopt("cell-1", {"cf:new": (ACME, ("10.240.0.77", "fd00:cf::77")), "cf:waits": (ACME, ())})
    assert refused == ()
    assert addresses(holdings.held.leases["cf:new"]) == ("10.240.0.77", "fd00:cf::77")
    assert set(holdings.held.leases) == {"cf:new", "cf:elsewhere", "vm:db"}


async def test_a_reported_address_that_another_holds_is_quarantined(holdings: Holdings) -> None:
    taken = addresses(await holdings.lease("cf:a", ACME, "cell-1"))
    refused = await holdings.adopt("cell-2", {"cf:b": (ACME, taken), "cf:c": (GLOBEX, ("10.240.0.99",))})
    assert [problem.code for problem in refused] == ["ADDRESS_TAKEN", "SUBNET_OF_ANOTHER_ORG"]
    assert set(holdings.held.refusals) == {"cf:b", "cf:c"}
    assert addresses(holdings.held.leases["cf:a"]) == taken


async def test_an_adopted_address_comes_back_from_rest(holdings: Holdings) -> None:
    mine = addresses(await holdings.lease("cf:a", ACME, "cell-1"))
    await holdings.release("cf:a")
    assert await holdings.adopt("cell-1", {"cf:a": (ACME, mine)}) == ()
    assert addresses(holdings.held.leases["cf:a"]) == mine


async def test_a_deleted_org_leaves_its_subnet_a_day_after_its_last_lease(holdings: Holdings, clock: Clock) -> None:
    await holdings.lease("cf:a", GLOBEX, "cell-1")
    await holdings.depart([GLOBEX.org])
    assert holdings.held.snat_addresses[GLOBEX.org]
    await holdings.release("cf:a")
    await holdings.depart([GLOBEX.org])
    assert holdings.held.snat_addresses == {}
    clock.now += 86_399
    await holdings.depart([GLOBEX.org])
    assert len(holdings.held.org_networks) == 2
    clock.now += 1
    await holdings.depart([GLOBEX.org])
    assert holdings.held.org_networks == ()
    assert addresses(await holdings.lease("cf:b", ACME, "cell-1"))[0] == "10.240.0.3"


async def test_an_org_that_was_refused_is_forgotten_when_it_is_deleted(holdings: Holdings) -> None:
    refused = OrgWish(QualifiedId("cf:initech"), pool="no such pool")
    assert isinstance(await holdings.org(refused), Refused)
    await holdings.depart([ACME.org])
    assert refused.org in holdings.held.refusals
    await holdings.depart([refused.org])
    assert refused.org not in holdings.held.refusals


async def test_a_change_is_told_once_it_is_committed_and_only_then(holdings: Holdings) -> None:
    told: list[Held] = []
    holdings.changed = told.append
    await holdings.lease("cf:a", ACME, "cell-1")
    await holdings.lease("cf:a", ACME, "cell-1")
    await holdings.release("cf:unknown")
    assert told == [holdings.held]


async def test_pools_that_overlap_are_refused_at_start(open_store: OpenStore, clock: Clock) -> None:
    with pytest.raises(RefusedError, match="overlaps"):
        await Holdings.open(
            await open_store(), (OVERLAY, Pool("b", PoolKind.CONTAINER, ("10.240.7.0/24",))), Defaults(), clock
        )


async def test_a_subnet_that_its_org_never_used_is_given_to_whom_a_cell_reports_in_it_and_stored_so(
    open_store: OpenStore, clock: Clock
) -> None:
    """After a restore the orgs' subnets may have been cut in another order."""
    async with bridge(await open_store(), clock) as holdings:
        assert not isinstance(await holdings.org(GLOBEX), Refused)
        assert await holdings.adopt("cell-1", {"cf:a": (ACME, ("10.240.0.7",))}) == ()
        assert addresses(await holdings.lease("cf:g", GLOBEX, "cell-1"))[0] == "10.240.1.3"
        known = holdings.held.org_networks
    async with bridge(await open_store(), clock) as after:
        assert after.held.org_networks == known
        assert {n.org for n in known if n.prefix == "10.240.0.0/24"} == {ACME.org}


async def test_a_conflict_can_be_claimed_once_the_other_gave_the_address_up(holdings: Holdings) -> None:
    taken = addresses(await holdings.lease("cf:a", ACME, "cell-1"))
    assert len(await holdings.adopt("cell-2", {"cf:b": (ACME, taken)})) == 1
    assert len(await holdings.claim("cell-2", {"cf:b": (ACME, taken)})) == 1
    await holdings.lease("cf:c", ACME, "cell-2")
    await holdings.release("cf:a")
    assert await holdings.claim("cell-2", {"cf:b": (ACME, taken)}) == ()
    assert holdings.held.refusals == {}
    assert {w: addresses(leases)[0] for w, leases in holdings.held.leases.items() if w != "cf:c"} == {"cf:b": taken[0]}
    assert "cf:c" in holdings.held.leases


async def test_what_a_cell_uses_under_another_address_than_we_remember_gives_back_the_one_we_remember(
    holdings: Holdings,
) -> None:
    await holdings.lease("cf:a", ACME, "cell-1")
    taken = addresses(await holdings.lease("cf:b", ACME, "cell-2"))
    assert [r.code for r in await holdings.adopt("cell-1", {"cf:a": (ACME, taken)})] == ["ADDRESS_TAKEN"]
    assert set(holdings.held.leases) == {"cf:b"}


async def test_a_refused_container_that_nobody_will_ever_take_away_is_forgotten_with_its_cells_next_report(
    holdings: Holdings,
) -> None:
    """The agent died between the refusal and the `down`."""
    nowhere = OrgWish(QualifiedId("cf:initech"), pool="no such pool")
    for workload, cell in (("cf:a", "cell-1"), ("cf:b", "cell-2")):
        assert isinstance(await holdings.lease(workload, nowhere, cell), Refused)
    await holdings.adopt("cell-1", {})
    assert set(holdings.held.refusals) == {"cf:b", nowhere.org}
    await holdings.release("cf:b")
    assert set(holdings.held.refusals) == {nowhere.org}


async def test_a_store_that_is_older_than_what_a_cell_saw_is_led_by_a_higher_epoch(
    open_store: OpenStore, clock: Clock
) -> None:
    store = await open_store()
    async with bridge(store, clock) as holdings:
        first = store.epoch
        answered = await asyncio.gather(holdings.overtake(41), holdings.lease("cf:a", ACME, "cell-1"))
        assert answered[0] == store.epoch == 42 > first
        assert await holdings.overtake(17) == 42
        assert await holdings.lease("cf:b", ACME, "cell-1")
    async with bridge(after := await open_store(), clock) as later:
        assert after.epoch == 43
        assert set(later.held.leases) == {"cf:a", "cf:b"}


async def test_a_bridge_that_was_followed_by_another_overtakes_nobody(open_store: OpenStore, clock: Clock) -> None:
    older = await Holdings.open(await open_store(), (OVERLAY,), Defaults(), clock)
    async with bridge(newer := await open_store(), clock, OVERLAY) as leading:
        with pytest.raises(Deposed):
            await older.overtake(newer.epoch)
        assert await leading.lease("cf:a", ACME, "cell-1")
        assert isinstance(older.writer.exception(), Deposed)
    await older.close()


async def test_a_store_that_comes_back_is_noticed_although_nobody_asks(
    open_store: OpenStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cfbridge.holdings.PROBE_SECONDS", 0.01)
    store = await open_store()
    async with bridge(store, clock) as holdings:
        away = True

        def unless_away(act: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
            async def asked(*given: object) -> object:
                if away:
                    raise Unavailable("the store did not answer")
                return await act(*given)

            return asked

        for name in ("commit", "load", "set"):
            monkeypatch.setattr(store, name, unless_away(getattr(store, name)))
        with pytest.raises(Unavailable):
            await holdings.lease("cf:a", ACME, "cell-1")
        await asyncio.sleep(0.05)
        assert holdings.away == "the store did not answer"
        away = False
        async with asyncio.timeout(10):
            while holdings.away:
                await asyncio.sleep(0.01)
        assert holdings.held.leases == {}
        assert addresses(await holdings.lease("cf:b", ACME, "cell-1"))[0] == "10.240.0.3"


async def test_on_a_full_disk_nothing_is_answered_that_was_not_stored(tmp_path: Path, clock: Clock) -> None:
    store = await Store.open(f"sqlite:///{tmp_path}/state.db")
    limit = [0]

    def limited(connection: DBAPIConnection, _: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]  # type: ignore[attr-defined]
        connection.execute(f"PRAGMA max_page_count = {limit[0] or pages + 1}")  # type: ignore[attr-defined]

    try:
        async with bridge(store, clock) as holdings:
            sa.event.listen(store._engine.sync_engine, "connect", limited)
            await store._engine.dispose()
            answered: list[tuple[Lease, ...] | Refused] = []

            async def fill() -> None:
                for number in range(240):
                    answered.append(await holdings.lease(f"cf:{number}", ACME, "cell-1"))  # noqa: PERF401

            with pytest.raises(Unavailable, match="full"):
                await fill()
            assert len(holdings.held.leases) == len(answered) > 0
            assert "full" in holdings.away
            limit[0] = 1 << 30
            await store._engine.dispose()
            assert not isinstance(await holdings.lease("cf:after", ACME, "cell-1"), Refused)
            assert holdings.away == ""
        again = await Holdings.open(store, (OVERLAY, SNAT), Defaults(), clock)
        assert {a for leases in answered for a in addresses(leases)} < {
            lease.address for leases in again.held.leases.values() for lease in leases
        }
        await again.close()
    finally:
        await store.close()
