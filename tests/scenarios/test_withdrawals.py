"""What becomes of connections when a foundation says that much of it is gone? They live until that is believed."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
import yaml

from cfbridge import memory
from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.demo.installation import ROOT
from cfbridge.inventory import FoundationState
from cfbridge.simulator import lab
from cfbridge.simulator.policy_table import PolicyKey
from cfbridge.store import Confirmed
from egress.values import Unavailable
from tests.scenarios.stage import LATE_SECONDS, becomes, fault, spec, start, status, tcp, verdict

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

IDLE = 15
"""Orgs, each with a space, an app without instances and a policy: more than ten of each."""
SETTLE_SECONDS = 8.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box() -> AsyncIterator[Box]:
    """Withdrawals are held longer than any test may take on a busy machine."""
    looks = {"sweep_seconds": 2.0, "asg_settle_seconds": SETTLE_SECONDS, "withdrawals": {"hold_seconds": 600}}
    async with Box(looks=looks) as made:
        state = made.foundation.state
        for n in range(IDLE):
            org = state.create_org(f"idle-{n}")
            state.create_app(state.create_space(org.guid, "dev").guid, f"idle-{n}", instances=0)
        state.policies.create(idle_policies(made))
        await made.push("acme", "dev", "client")
        await made.push("acme", "dev", "server")
        await made.add_policy("client", "server")
        await becomes(True, partial(knows, made, IDLE + 1))
        yield made


def idle_policies(box: Box) -> list[PolicyKey]:
    apps = [box.app_guid(f"idle-{n}") for n in range(IDLE)]
    return [PolicyKey(app, app, "tcp", 8080, 8080) for app in apps]


async def knows(box: Box, policies: int) -> bool:
    """The bridge has read so many policies, and all orgs."""
    (foundation,) = await box.api("foundations")
    return bool(foundation["policies"] == policies and foundation["orgs"] > IDLE)


async def held(box: Box) -> dict[str, int]:
    """By kind, so many objects. `away` while the bridge is."""
    try:
        return {row["kind"]: row["count"] for row in await box.api("held")}
    except (OSError, Unavailable):
        return {"away": 0}


async def live(box: Box) -> tuple[Instance, Instance]:
    """Client and server, with a stream between them."""
    client, server = box.instance("client"), box.instance("server")
    await becomes("ok", partial(verdict, box), LATE_SECONDS)
    await becomes("open", partial(tcp, box, client, server))
    await box.open_stream(client, "live", server.address, 8080)
    assert await box.flows(client, "live")
    return client, server


def empty_policies(box: Box) -> None:
    """Complete and well formed, and nothing in it."""
    fault(box, "policy_server_internal", "empty", path="/policies")


def remembered(box: Box) -> int:
    """So many policies are in the store for the next bridge."""
    with sqlite3.connect(box.directory / "state.db") as store:
        rows = store.execute("SELECT foundation, kind, format, at, content FROM confirmed").fetchall()
    state = FoundationState("cf")
    for row in rows:
        state = memory.unpack(state, Confirmed(*row))
    return len(state.policies) if set(state.looks) == {"orgs", "spaces", "apps", "policies", "asgs"} else 0


async def said(box: Box, *words: str) -> tuple[int, str]:
    """Exit code and output of `cfbridge …`."""
    environment = {**os.environ, "CFBRIDGE_SOCKET": str(box.directory / "api.sock")}
    command = [sys.executable, "-m", "cfbridge", *words]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60
    )
    return done.returncode, done.stdout


async def test_an_empty_list_of_policies_cuts_nobody_and_status_says_which_command_ends_that(box: Box) -> None:
    client, server = await live(box)
    empty_policies(box)
    try:
        await becomes({"policies": IDLE + 1}, partial(held, box))
        assert await box.flows(client, "live")
        assert await tcp(box, client, server) == "open"
        assert await tcp(box, server, client) == "refused"
        code, line = await said(box, "status")
        assert code == 3
        assert f"{IDLE + 1} of {IDLE + 1} policies of cf are gone" in line
        assert "cfbridge held apply --foundation cf --kind policies" in line
    finally:
        fault(box, "policy_server_internal", "none")
    await becomes({}, partial(held, box), LATE_SECONDS)
    await becomes("ok", partial(verdict, box), LATE_SECONDS)
    assert await box.flows(client, "live")


async def test_a_policy_that_is_added_while_others_are_held_is_in_force(box: Box) -> None:
    client, server = await live(box)
    table, lost = box.foundation.state.policies, idle_policies(box)
    table.delete(lost)
    try:
        await becomes({"policies": IDLE}, partial(held, box))
        await box.add_policy("server", "client")
        await becomes("open", partial(tcp, box, server, client))
        await box.remove_policy("server", "client")
        assert await box.flows(client, "live")
    finally:
        table.create(lost)
    await becomes({}, partial(held, box), LATE_SECONDS)
    await becomes("refused", partial(tcp, box, server, client))


async def test_a_bridge_that_restarts_while_policies_are_held_holds_them_still(box: Box) -> None:
    client, server = await live(box)
    await becomes(IDLE + 1, partial(asyncio.to_thread, remembered, box), 60)
    empty_policies(box)
    try:
        await becomes({"policies": IDLE + 1}, partial(held, box))
        box.kill("bridge")
        box.start_bridge()
        await becomes({"policies": IDLE + 1}, partial(held, box), 60)
        await becomes(True, partial(_has_network, box), 60)
        assert await box.flows(client, "live")
        assert await tcp(box, client, server) == "open"
    finally:
        fault(box, "policy_server_internal", "none")
    await becomes({}, partial(held, box), LATE_SECONDS)


async def test_lists_of_orgs_spaces_and_apps_that_are_empty_lose_neither_leases_nor_subnets(box: Box) -> None:
    client, server = await live(box)
    orgs, leased = await box.api("orgs"), await box.api("leases")
    counts = {kind: len(getattr(box.foundation.state, kind)) for kind in ("orgs", "spaces", "apps")}
    fault(box, "cloud_controller", "empty")
    try:
        await becomes(counts, partial(held, box), LATE_SECONDS)
        started = await start(box, spec(box, "client"))
        assert box.in_subnet(started.address, next(org for org in orgs if org["name"] == "acme"))
        await box.diego.guardian.destroy(started.handle)
        assert await box.flows(client, "live")
        assert await tcp(box, client, server) == "open"
    finally:
        fault(box, "cloud_controller", "none")
    await becomes({}, partial(held, box), 60)
    await becomes("ok", partial(verdict, box), LATE_SECONDS)
    assert (await box.api("orgs"), await box.api("leases")) == (orgs, leased)


async def test_a_bridge_that_starts_while_every_server_is_away_works_with_what_was_confirmed(box: Box) -> None:
    client, server = await live(box)
    await becomes(IDLE + 1, partial(asyncio.to_thread, remembered, box), 60)
    box.kill("bridge")
    fault(box, "all", "error")
    try:
        box.start_bridge()
        await becomes(True, partial(_has_network, box), 60)
        another = await start(box, spec(box, "client"))
        assert await tcp(box, another, server) == "open"
        assert await tcp(box, server, another) == "refused"
        assert await box.flows(client, "live")
        shown = (await status(box))[1]
        assert "policies of cf are stale since" in shown
        assert "What a bridge before this one confirmed" in shown
        await box.diego.guardian.destroy(another.handle)
    finally:
        fault(box, "all", "none")
    await becomes("ok", partial(verdict, box), 60)


async def test_a_group_that_is_unbound_and_bound_again_disturbs_nobody(box: Box) -> None:
    rules = [{"protocol": "tcp", "destination": lab.EXT, "ports": "80"}]
    client, _ = await live(box)
    for space in ("idle-0/dev", "acme/dev"):
        await box.bind_asg("out", rules, space)
    await becomes("open", partial(tcp, box, client, lab.EXT, 80))
    await box.open_stream(client, "out", lab.EXT, 80)
    await box.unbind_asg("out", "acme/dev")
    await becomes(["idle-0/dev"], partial(_bound, box, "out"))
    assert await tcp(box, client, lab.EXT, 80) == "open"
    await box.bind_asg("out", rules, "acme/dev")
    await becomes(["acme/dev", "idle-0/dev"], partial(_bound, box, "out"))
    await asyncio.sleep(SETTLE_SECONDS)  # nothing shows that nothing comes of it, but the time itself
    assert await box.flows(client, "out")
    assert await tcp(box, client, lab.EXT, 80) == "open"


async def test_a_group_that_stays_unbound_is_withdrawn_when_that_has_settled(box: Box) -> None:
    client, _ = await live(box)
    await box.bind_asg("web", [{"protocol": "tcp", "destination": lab.EXT, "ports": "443"}], "acme/dev")
    await becomes("open", partial(tcp, box, client, lab.EXT, 443))
    await box.open_stream(client, "web", lab.EXT, 443)
    assert await box.flows(client, "web")
    await box.unbind_asg("web", "acme/dev")
    assert await box.until_cut(client, "web", 30 + SETTLE_SECONDS)
    assert await tcp(box, client, lab.EXT, 443) == "refused"


async def test_a_person_who_discards_the_answer_keeps_the_stream_and_who_applies_it_cuts_it(box: Box) -> None:
    client, server = await live(box)
    empty_policies(box)
    try:
        await becomes({"policies": IDLE + 1}, partial(held, box))
        assert await said(box, "held", "discard") == (0, f"{IDLE + 1} policies of cf stay in force.\n")
        assert await box.flows(client, "live")
        (row,) = json.loads((await said(box, "held", "show", "--json"))[1])
        assert (row["count"], row["discarded"], row["until"]) == (IDLE + 1, IDLE + 1, None)
        assert await said(box, "held", "apply", "--kind", "policies") == (
            0,
            f"{IDLE + 1} policies of cf are withdrawn.\n",
        )
        assert await box.until_cut(client, "live", 15)
        assert await tcp(box, client, server) == "refused"
        assert await held(box) == {}
    finally:
        fault(box, "policy_server_internal", "none")
    await becomes("open", partial(tcp, box, client, server), LATE_SECONDS)


async def test_apps_that_were_deleted_take_their_held_policies_with_them(box: Box) -> None:
    client, server = await live(box)
    table, state = box.foundation.state.policies, box.foundation.state
    lost = idle_policies(box)
    table.delete(lost)
    await becomes({"policies": IDLE}, partial(held, box))
    for key in lost[5:]:
        state.delete_app(key.source)
    await becomes({}, partial(held, box), LATE_SECONDS)  # five are left, which is little
    assert await tcp(box, client, server) == "open"


async def test_what_is_held_goes_after_its_time_and_three_complete_looks(box: Box) -> None:
    client, server = await live(box)
    app = box.app_guid("server")
    ports = range(9000, 9000 + IDLE)
    box.foundation.state.policies.create(PolicyKey(app, app, "tcp", port, port) for port in ports)
    count = len(box.foundation.state.policies)
    await becomes(True, partial(knows, box, count))
    await becomes(count, partial(asyncio.to_thread, remembered, box), 60)
    empty_policies(box)
    try:
        await becomes({"policies": count}, partial(held, box))
        _tell(box, withdrawals={"hold_seconds": 3})
        box.kill("bridge")
        box.start_bridge()
        await becomes({"policies": count}, partial(held, box), 60)
        await becomes({}, partial(held, box), 60)
        assert await box.until_cut(client, "live", 60), box.log("bridge")[-6000:] + box.log("agent")[-3000:]
        assert await tcp(box, client, server) == "refused"
    finally:
        fault(box, "policy_server_internal", "none")


async def _has_network(box: Box) -> bool:
    """The agent is connected, and has reached what the bridge told it."""
    try:
        return any(cell["connected"] and cell["reached_revision"] for cell in await box.api("cells"))
    except (OSError, Unavailable):
        return False


async def _bound(box: Box, group: str) -> list[str]:
    return [space for row in await box.api("asgs") if row["name"] == group for space in row["running_spaces"]]


def _tell(box: Box, **looks: Any) -> None:
    """Further settings of the foundation, from the bridge's next start on."""
    path = box.directory / "bridge.yaml"
    written = yaml.safe_load(path.read_text())
    written["foundations"][0].update(looks)
    path.write_text(yaml.safe_dump(written))
