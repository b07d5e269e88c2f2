"""What does the bridge do with what it knows? The composition root on a real store, without its sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from cfbridge import bridge as bridge_module
from cfbridge import memory
from cfbridge.bridge import Bridge
from cfbridge.cells import FOUGHT_SECONDS
from cfbridge.holdings import Holdings
from cfbridge.inventory import FoundationState, HeldBack, Look, Org
from cfbridge.revisions import Revisions
from cfbridge.settings import BridgeConfig, FoundationConfig, PolicyServerConfig
from cfbridge.snapshot import CellState
from cfbridge.store import Revised, Store
from egress.model import NetworkMode, OrgWish, Pool, PoolKind
from egress.values import QualifiedId, Unavailable
from garden_plugin.wire import PortReport
from policy_sync.model import CfPolicy, Protocol

ACME = QualifiedId("cf:acme-guid")
KINDS = ("orgs", "spaces", "apps", "processes", "policies", "asgs")
VM = "vms:\n  db: {org: acme, addresses: [10.240.7.20]}\n"


def config(folder: Path, written: str) -> BridgeConfig:
    (folder / "intent.yml").write_text(written)
    return BridgeConfig(
        foundations=(FoundationConfig("cf", "https://cc", "id", "/secret", PolicyServerConfig("https://ps")),),
        pools=(Pool("overlay", PoolKind.CONTAINER, ("10.240.0.0/16",)),),
        store=f"sqlite:///{folder}/store.db",
        state_dir=str(folder),
        intent_file=str(folder / "intent.yml"),
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite:///{tmp_path}/store.db")
    yield opened
    await opened.close()


@pytest.fixture
async def holdings(store: Store, tmp_path: Path) -> AsyncIterator[Holdings]:
    opened = await Holdings.open(store, config(tmp_path, "").pools, config(tmp_path, "").defaults)
    yield opened
    await opened.close()


def looked_at(*kinds: str, named: str = "acme") -> FoundationState:
    return FoundationState("cf", orgs={ACME: Org(ACME, named)}, looks={kind: Look(1.0) for kind in kinds})


async def realised(bridge: Bridge, revision: int = 1) -> None:
    await bridge._realise(revision)


def addresses(holdings: Holdings, workload: str) -> list[str]:
    return [lease.address for lease in holdings.held.leases.get(workload, ())]


async def test_a_machine_keeps_its_address_while_its_org_has_not_been_read(
    tmp_path: Path, store: Store, holdings: Holdings
) -> None:
    before = Bridge(config(tmp_path, VM), store, holdings)
    before.publish(looked_at(*KINDS))
    await realised(before)
    assert addresses(holdings, "vm:db") == ["10.240.7.20"]

    await realised(Bridge(config(tmp_path, VM), store, holdings))

    assert addresses(holdings, "vm:db") == ["10.240.7.20"]


async def test_a_tenant_whose_org_is_renamed_keeps_its_mode_over_a_restart_and_status_says_so(
    tmp_path: Path, store: Store, holdings: Holdings
) -> None:
    written = config(tmp_path, "tenants:\n  acme: {mode: routed}\n")
    bridge = Bridge(written, store, holdings)
    bridge.publish(looked_at(*KINDS))
    await realised(bridge)

    bound = await memory.tenants(store)
    after = Bridge(written, store, holdings, bound)
    after.publish(looked_at(*KINDS, named="umbrella"))
    await realised(after)

    assert [(wish.org, wish.mode) for wish in after.snapshot.intent.tenants] == [(ACME, NetworkMode.ROUTED)]
    assert {"TENANT_RENAMED", "NAME_UNKNOWN"} & {alarm.code for alarm in after.alarms} == {"TENANT_RENAMED"}


async def test_a_machine_keeps_its_address_when_its_org_is_renamed(
    tmp_path: Path, store: Store, holdings: Holdings
) -> None:
    bridge = Bridge(config(tmp_path, VM), store, holdings)
    bridge.publish(looked_at(*KINDS))
    await realised(bridge)

    bridge.publish(looked_at(*KINDS, named="acme-corp"))
    await realised(bridge, 2)

    assert addresses(holdings, "vm:db") == ["10.240.7.20"]


async def test_a_machine_that_changes_its_address_holds_the_new_one(
    tmp_path: Path, store: Store, holdings: Holdings
) -> None:
    bridge = Bridge(config(tmp_path, VM), store, holdings)
    bridge.publish(looked_at(*KINDS))
    await realised(bridge)

    again = Bridge(config(tmp_path, VM.replace("7.20", "7.21")), store, holdings)
    again.publish(looked_at(*KINDS))
    await realised(again)

    assert addresses(holdings, "vm:db") == ["10.240.7.21"]


async def test_a_machine_that_people_moved_to_another_org_is_that_orgs(
    tmp_path: Path, store: Store, holdings: Holdings
) -> None:
    bridge = Bridge(config(tmp_path, VM), store, holdings)
    globex = QualifiedId("cf:globex-guid")
    both = replace(looked_at(*KINDS), orgs={ACME: Org(ACME, "acme"), globex: Org(globex, "globex")})
    bridge.publish(both)
    await realised(bridge)

    again = Bridge(config(tmp_path, VM.replace("acme", "globex")), store, holdings)
    again.publish(both)
    await realised(again)

    assert [(lease.address, lease.org) for lease in holdings.held.leases["vm:db"]] == [("10.240.7.20", globex)]
    assert [network.org for network in holdings.held.org_networks if network.prefix == "10.240.7.0/24"] == [globex]
    assert not holdings.held.refusals


async def test_a_machine_that_was_refused_and_that_nobody_declares_any_more_is_forgotten(
    tmp_path: Path, store: Store, holdings: Holdings
) -> None:
    await holdings.lease("vm:other", OrgWish(ACME), "", fixed=("10.240.7.20",))
    await holdings.lease("cf:one", OrgWish(ACME), "cell-1", fixed=("10.240.7.21",))
    bridge = Bridge(config(tmp_path, VM.replace("7.20", "7.21")), store, holdings)
    bridge.publish(looked_at(*KINDS))
    await realised(bridge)
    assert "vm:db" in holdings.held.refusals

    again = Bridge(config(tmp_path, ""), store, holdings)
    again.publish(looked_at(*KINDS))
    await realised(again)

    assert not holdings.held.refusals


async def test_a_cell_that_is_unheard_is_an_alarm_that_says_what_to_type(
    tmp_path: Path, store: Store, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await holdings.lease("cf:one", OrgWish(ACME), "cell-1")
    bridge = Bridge(config(tmp_path, ""), store, holdings)
    assert "CELL_AWAY" in {alarm.code for alarm in bridge.alarms}
    later = time.time() + 601
    monkeypatch.setattr(bridge_module.time, "time", lambda: later)
    (alarm,) = (alarm for alarm in bridge.alarms if alarm.code == "CELL_UNHEARD")
    assert alarm.severity == "degraded"
    assert "cfbridge cell remove cell-1" in alarm.message
    assert addresses(holdings, "cf:one") == ["10.240.0.3"]
    assert await bridge.remove_cell("cell-1") is None
    assert not {"CELL_AWAY", "CELL_UNHEARD"} & {alarm.code for alarm in bridge.alarms}
    assert addresses(holdings, "cf:one") == []


async def test_a_store_that_took_no_lease_is_an_alarm_although_nothing_else_asks_it(
    tmp_path: Path, store: Store, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*given: object) -> None:
        raise Unavailable("the disk is full")

    bridge = Bridge(config(tmp_path, ""), store, holdings)
    monkeypatch.setattr(store, "commit", fails)
    with pytest.raises(Unavailable):
        await holdings.lease("cf:one", OrgWish(ACME), "cell-1")
    assert [(a.severity, a.message) for a in bridge.alarms if a.code == "STORE_AWAY"] == [
        ("degraded", "the disk is full")
    ]


async def test_a_machine_that_nobody_declares_any_more_gives_its_address_back(
    tmp_path: Path, store: Store, holdings: Holdings
) -> None:
    bridge = Bridge(config(tmp_path, VM), store, holdings)
    bridge.publish(looked_at(*KINDS))
    await realised(bridge)

    again = Bridge(config(tmp_path, ""), store, holdings)
    again.publish(looked_at(*KINDS))
    await realised(again)

    assert addresses(holdings, "vm:db") == []


async def test_what_is_held_is_an_alarm_that_says_since_when_until_when_and_what_to_type(
    tmp_path: Path, store: Store, holdings: Holdings
) -> None:
    bridge = Bridge(config(tmp_path, ""), store, holdings)
    held = HeldBack("policies", frozenset({1, 2}), 9, 0.0, 60.0, 1, 3)
    bridge.publish(replace(looked_at(*KINDS), held=(held,)))
    (alarm,) = bridge.alarms
    assert (alarm.severity, alarm.code) == ("degraded", "WITHDRAWAL_HELD")
    for piece in ("2 of 9 policies of cf", "since 1970-01-01T00:00:00Z", "until 1970-01-01T00:01:00Z", "(1 so far)"):
        assert piece in alarm.message
    assert "`cfbridge held apply --foundation cf --kind policies`" in alarm.message
    assert "`cfbridge held discard --foundation cf --kind policies`" in alarm.message
    bridge.publish(replace(looked_at(*KINDS), held=(replace(held, until=None),)))
    assert "discarded the answer" in bridge.alarms[0].message


async def test_nobody_departs_by_what_is_only_remembered(tmp_path: Path, store: Store, holdings: Holdings) -> None:
    """The last seconds before a crash are not in the store: an org that came then is missing there."""
    await holdings.org(OrgWish(ACME, name="acme"))
    bridge = Bridge(config(tmp_path, ""), store, holdings)
    remembered = {kind: Look(1.0, 2.0, "away", remembered=True) for kind in KINDS}
    bridge.publish(replace(looked_at(), orgs={}, looks=remembered))
    assert bridge._departed() == frozenset()
    bridge.publish(replace(looked_at(*KINDS), orgs={}))
    assert bridge._departed() == {ACME}


async def test_what_is_remembered_is_in_force_when_the_foundation_does_not_answer(
    tmp_path: Path, store: Store, holdings: Holdings
) -> None:
    bridge = Bridge(config(tmp_path, ""), store, holdings)
    bridge.publish(replace(looked_at(), looks={kind: Look(1.0, remembered=True) for kind in KINDS}))
    await realised(bridge)
    assert bridge.ruleset.tiers == {}
    assert {alarm.code for alarm in bridge.alarms} == {"FOUNDATION_UNREAD"}

    bridge.publish(replace(looked_at(), looks={kind: Look(1.0, 2.0, "away", remembered=True) for kind in KINDS}))
    await realised(bridge, 2)
    assert bridge.ruleset.tiers
    assert {alarm.code for alarm in bridge.alarms} == {"FOUNDATION_STALE"}
    assert "confirmed at 1970-01-01T00:00:01Z is in force" in bridge.alarms[0].message


@pytest.mark.parametrize("missing", ["orgs", "spaces", "apps", "policies", "asgs"])
async def test_nothing_is_published_while_a_rule_could_name_somebody_who_was_not_read(
    tmp_path: Path, store: Store, holdings: Holdings, missing: str
) -> None:
    bridge = Bridge(config(tmp_path, ""), store, holdings)
    bridge.publish(looked_at(*(kind for kind in KINDS if kind != missing)))
    await realised(bridge)
    assert bridge.ruleset.tiers == {}

    bridge.publish(looked_at(*KINDS))
    await realised(bridge, 2)
    assert bridge.ruleset.tiers


async def test_an_app_whose_name_cannot_be_stored_stops_no_other(
    tmp_path: Path, store: Store, holdings: Holdings
) -> None:
    bridge = Bridge(config(tmp_path, ""), store, holdings)
    monster, well = "x" * 5_000, "app-guid"
    ports = {
        f"cf:{handle}": PortReport(handle, org="acme-guid", space="s", app=app, lifecycle="app")
        for handle, app in (("bad", monster), ("good", well))
    }
    for workload in ports:
        await holdings.lease(workload, OrgWish(ACME, name="acme"), "cell-1")
    bridge.cells.states = {"cell-1": CellState("cell-1", "cf", ports=ports)}
    app = QualifiedId(f"cf:{well}")
    bridge.publish(replace(looked_at(*KINDS), policies=frozenset({CfPolicy(app, app, Protocol.TCP, 80, 80)})))

    await realised(bridge)

    assert len(bridge.ruleset.policies) == 1
    assert "RULE_WITHOUT_ID" in {alarm.code for alarm in bridge.alarms}


async def test_an_allow_that_expires_ends_without_another_change(
    tmp_path: Path, store: Store, holdings: Holdings
) -> None:
    soon = datetime.fromtimestamp(time.time() + 0.5, UTC).isoformat()
    rule = f"{{name: open, from: [any], to: [10.240.0.0/16], services: [all], action: allow, expires: '{soon}'}}"
    bridge = Bridge(config(tmp_path, f"rules:\n  application:\n    now: [{rule}]\n"), store, holdings)
    bridge.publish(looked_at(*KINDS))
    loop = asyncio.create_task(bridge.reconciler.run())
    try:
        async with asyncio.timeout(10):
            while not bridge.ruleset.tiers or any(label.key == "rule:open" for label in bridge.ruleset.labels.values()):
                await asyncio.sleep(0.01)
    finally:
        loop.cancel()


async def test_a_bridge_without_an_intent_file_obeys_what_was_published_before_it_began(
    tmp_path: Path, store: Store, holdings: Holdings
) -> None:
    await Revisions(store).publish(VM.encode(), "root", "")
    told = replace(config(tmp_path, ""), intent_file="")
    bridge = Bridge(told, store, holdings, revisions=await Revisions.open(store))
    assert [vm.name for vm in bridge.snapshot.intent.vms] == ["db"]
    await bridge.revisions.publish(b"groups: {g: [10.0.0.1]}", "root", "")
    assert (bridge.snapshot.intent.vms, [group.name for group in bridge.snapshot.intent.groups]) == ((), ["g"])


async def test_what_the_intent_file_says_is_kept_as_a_revision_when_the_store_is_there_again(
    tmp_path: Path, store: Store, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "INTENT_POLL_SECONDS", 0.01)
    monkeypatch.setattr(bridge_module, "RECORD_AGAIN_SECONDS", 0.02)
    told = config(tmp_path, VM)
    bridge = Bridge(told, store, holdings)
    away = [True]
    revise = store.revise

    async def failing(revision: Revised) -> None:
        if away:
            raise Unavailable("the store is away")
        await revise(revision)

    monkeypatch.setattr(store, "revise", failing)
    watching = asyncio.create_task(bridge.watch_intent())
    try:
        await asyncio.sleep(0.05)
        assert bridge.history == ()
        assert bridge.snapshot.intent.vms  # in force all the same
        away.clear()
        async with asyncio.timeout(5):
            while not bridge.history:
                await asyncio.sleep(0.01)
        Path(told.intent_file).write_text("{}")
        async with asyncio.timeout(5):
            while len(bridge.history) < 2:
                await asyncio.sleep(0.01)
    finally:
        watching.cancel()
    assert [(each.author, each.summary) for each in bridge.history] == [
        (told.intent_file, "1 to remove"),
        (told.intent_file, "1 to add"),
    ]
    assert (await Revisions.open(store)).intents == {}


async def test_an_intent_file_that_cannot_be_seen_is_an_alarm_and_no_end(
    tmp_path: Path, store: Store, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "INTENT_POLL_SECONDS", 0.01)
    folder = tmp_path / "intent"
    folder.mkdir()
    bridge = Bridge(config(folder, VM), store, holdings)
    watching = asyncio.create_task(bridge.watch_intent())
    await asyncio.sleep(0)
    folder.rename(tmp_path / "away")
    folder.write_text("now a file is where the folder was")
    try:
        async with asyncio.timeout(5):
            while not watching.done() and "INTENT_UNREADABLE" not in {alarm.code for alarm in bridge.alarms}:
                await asyncio.sleep(0.01)
        assert not watching.done()
    finally:
        watching.cancel()


async def test_a_cell_that_somebody_meddles_with_again_and_again_is_an_alarm_until_it_is_quiet(
    tmp_path: Path, store: Store, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = Bridge(config(tmp_path, ""), store, holdings)
    what = "1 rule was added to chain forward"
    fought = CellState("cell-1", "cf", connected=True, drifts=40, last_drift=what, fought_at=time.time())
    bridge.cells.states = {"cell-1": fought}
    (alarm,) = (alarm for alarm in bridge.alarms if alarm.code == "CELL_MEDDLED")
    assert alarm.severity == "degraded"
    assert "40 times" in alarm.message
    assert what in alarm.message
    later = time.time() + FOUGHT_SECONDS + 1
    monkeypatch.setattr(bridge_module.time, "time", lambda: later)
    assert "CELL_MEDDLED" not in {alarm.code for alarm in bridge.alarms}


async def test_a_client_certificate_that_ends_soon_is_a_warning(
    tmp_path: Path, store: Store, holdings: Holdings
) -> None:
    ends = datetime.now(UTC) + timedelta(days=3)
    leaf = trustme.CA().issue_cert("127.0.0.1", common_name="network-policy-client", not_after=ends)
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    told = config(tmp_path, "")
    policy_server = replace(told.foundations[0].policy_server, certificate=str(tmp_path / "client.pem"))
    bridge = Bridge(
        replace(told, foundations=(replace(told.foundations[0], policy_server=policy_server),)), store, holdings
    )
    (warning,) = (alarm for alarm in bridge.alarms if alarm.code == "CERTIFICATE_ENDS")
    assert warning.severity == "warning"
    assert f"ends at {ends:%Y-%m-%dT%H:%M:%SZ}" in warning.message
