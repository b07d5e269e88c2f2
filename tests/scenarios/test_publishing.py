"""Is what people publish what packets meet: after a plan, a rollback, the bridge's death, and on another bridge?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
import pytest_asyncio

from cfbridge.client import AdminClient
from cfbridge.demo.box import Box
from cfbridge.demo.installation import INTENT, VM_ADDRESS, VM_NAME
from tests.scenarios.stage import Pair, becomes, tcp

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

QUARANTINE = """
groups:
  infected: ["{org}/dev/{name}server"]
rules:
  emergency:
    quarantine:
      - {{name: cut, to: infected, action: drop, reason: SEC-112, owner: security}}
"""
TEAM = """
cfbridge: v1
scope: payments
groups:
  callers: tag team = "payments"
rules:
  application:
    payments:
      - {name: calls, from: callers, to: "space:globex/dev", services: [tcp/8080], action: allow, expires: 2099-12-31}
tags:
  org:acme: {team: payments}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box() -> AsyncIterator[Box]:
    async with Box(by_file=False) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(box: Box) -> AsyncIterator[AdminClient]:
    async with AdminClient.local(str(box.directory / "api.sock")) as client:
        await client.apply(INTENT)
        yield client


async def test_what_is_published_cuts_what_it_refuses_and_a_rollback_gives_it_back(
    box: Box, admin: AdminClient
) -> None:
    pair = await Pair.made(box, "acme", "sick")
    before = (await admin.export()).revision
    written = QUARANTINE.format(org="acme", name="sick")
    await admin.plan(INTENT + written)
    await pair.is_as_before()
    assert (await admin.apply(INTENT + written)).revision == before + 1
    assert await box.until_cut(pair.client, "live", 1.0)
    await becomes("timeout", partial(tcp, box, pair.client, pair.server))
    await admin.roll_back(before, "a false alarm")
    await becomes("open", partial(tcp, box, pair.client, pair.server))


async def test_a_teams_file_opens_what_it_says_and_disturbs_nobody_else(box: Box, admin: AdminClient) -> None:
    pair = await Pair.made(box, "acme", "calm")
    await box.push("globex", "dev", "ledger")
    ledger = box.instance("ledger")
    assert await tcp(box, pair.client, ledger) == "refused"
    await admin.apply(TEAM)
    await becomes("open", partial(tcp, box, pair.client, ledger))
    await pair.is_as_before()
    await admin.apply("{cfbridge: v1, scope: payments}")
    await becomes("refused", partial(tcp, box, pair.client, ledger))
    await pair.is_as_before()


async def test_what_was_published_is_in_force_after_the_bridge_died(box: Box, admin: AdminClient) -> None:
    pair = await Pair.made(box, "initech", "kept")
    await admin.apply(INTENT + QUARANTINE.format(org="initech", name="kept"), "before the end")
    box.kill("bridge")
    box.start_bridge()
    await becomes("timeout", partial(tcp, box, pair.client, pair.server))
    newest, *_ = [row async for row in admin.revisions()]
    assert newest.reason == "before the end"
    await admin.apply(INTENT)
    await becomes("open", partial(tcp, box, pair.client, pair.server))


async def test_a_machine_that_is_tagged_by_command_is_reachable_at_once_and_by_a_rule_that_is_disabled_no_more(
    box: Box, admin: AdminClient
) -> None:
    await box.push("initech", "dev", "asking")
    asking = box.instance("asking")
    await admin.set_group("databases", criteria='tag tier = "db"')
    rule = {"name": "to databases", "tier": "application", "section": "s", "to": "databases", "action": "allow"}
    await admin.add_rule({**rule, "from": "initech/dev/asking", "services": ["tcp/5432"]})
    assert await tcp(box, asking, VM_ADDRESS, 5432) == "refused"
    await admin.tag(f"vm:{VM_NAME}", {"tier": "db"})
    await becomes("open", partial(tcp, box, asking, VM_ADDRESS, 5432))
    await admin.change_rule("to databases", {"enabled": False})
    await becomes("refused", partial(tcp, box, asking, VM_ADDRESS, 5432))
    await admin.change_rule("to databases", {"enabled": None})
    await becomes("open", partial(tcp, box, asking, VM_ADDRESS, 5432))
    cut = {"name": "cut", "tier": "emergency", "section": "quarantine", "to": "databases", "action": "reject"}
    await admin.add_rule(cut)
    await becomes("refused", partial(tcp, box, asking, VM_ADDRESS, 5432))
    await admin.remove_rule("cut")
    await becomes("open", partial(tcp, box, asking, VM_ADDRESS, 5432))


async def test_an_export_makes_another_empty_bridge_say_byte_for_byte_the_same(box: Box, admin: AdminClient) -> None:
    await admin.apply(INTENT + QUARANTINE.format(org="acme", name="any"))
    await admin.apply(TEAM)
    exported = (await admin.export()).content
    assert "scope: payments" in exported
    async with (
        Box(by_file=False) as empty,
        AdminClient.local(str(empty.directory / "api.sock")) as other,
    ):
        await other.apply(exported)
        assert (await other.export()).content == exported
        assert (await other.plan(exported)).changes == ()
        await empty.push("acme", "dev", "caller")
        await empty.push("globex", "dev", "called")
        await becomes("open", partial(tcp, empty, empty.instance("caller"), empty.instance("called")))
