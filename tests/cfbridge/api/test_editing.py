"""Is one group, rule, machine or tag changed by its own path, planned when asked, and refused in words?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from cfbridge.api.server import ApiServer
from cfbridge.client import AdminClient
from egress.values import RefusedError
from tests.cfbridge.api.world import LABELS, FakeFacade

POLICY = b"""
groups: {web: ["org:acme"]}
vms: {db-1: {addresses: [10.1.0.1]}}
rules: {application: {apps: [{name: web to database, from: web, to: "vm:db-1", action: allow}]}}
"""


@pytest.fixture
async def facade() -> FakeFacade:
    made = FakeFacade()
    await made.revisions.publish(POLICY, "root", "")
    held = replace(made.snapshot.held, rule_ids={label.key: number for number, label in LABELS.items()})
    made.snapshot = replace(made.snapshot, held=held)
    return made


async def test_each_thing_is_edited_as_a_revision_of_its_own(client: AdminClient, facade: FakeFacade) -> None:
    done = [
        await client.set_group("a/b".replace("/", "\\"), ["10.0.0.1"], reason="one"),
        await client.set_group("late", criteria='app ~ "late-*"'),
        await client.set_vm("db-2", {"addresses": ["10.1.0.2"], "tags": {"tier": "db"}}),
        await client.tag("acme/dev/web", {"tier": "web"}),
        await client.tag("vm:db-2", {"tier": None}),
        await client.add_rule({"name": "cut", "tier": "emergency", "section": "s", "to": "vm:db-2", "action": "drop"}),
        await client.change_rule("cut", {"enabled": False}),
        await client.remove_rule("cut"),
        await client.remove_vm("vm:db-2"),
        await client.remove_group("late"),
    ]
    assert [each.revision for each in done] == [*range(2, 12)]
    assert [each.changes[0].details for each in done[3:7]] == [
        ("tier: web",),
        ("tags: tier=db → nothing",),
        ("tier: emergency", "section: s", "to: vm:db-2", "action: drop"),
        ("enabled: nothing → false",),
    ]
    assert facade.history[-2].reason == "one"


async def test_a_rule_is_known_by_its_number_too_and_one_that_cf_made_is_not_changed(client: AdminClient) -> None:
    changed = await client.change_rule("R42", {"log": True})
    assert [(each.name, each.details) for each in changed.changes] == [("web to database", ("log: nothing → true",))]
    with pytest.raises(RefusedError, match=r"R50 was made by `cf`.*RULE_READ_ONLY"):
        await client.remove_rule("R50")
    with pytest.raises(RefusedError, match="There is no rule R999"):
        await client.remove_rule("R999")


async def test_what_is_planned_changes_nothing(client: AdminClient, facade: FakeFacade) -> None:
    planned = await client.remove_rule("web to database", plan=True)
    assert (planned.revision, planned.summary) == (1, "1 to remove")
    assert len(facade.history) == 1


async def test_an_edit_for_an_older_revision_is_refused(client: AdminClient, facade: FakeFacade) -> None:
    await client.tag("org:acme", {"a": "b"}, base=1)
    with pytest.raises(RefusedError, match="REVISION_OUTDATED"):
        await client.tag("org:acme", {"a": "c"}, base=1)
    assert len(facade.history) == 2


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("DELETE", "groups/wob", None, 404, "GROUP_UNKNOWN"),
        ("DELETE", "groups/web", None, 422, "DANGLING_NAME"),
        ("PUT", "groups/web", {"members": "x"}, 400, "BAD_BODY"),
        ("PUT", "groups/web", {"criteria": "app"}, 422, "CRITERIA_INVALID"),
        ("PUT", "vms/m", {}, 400, "BAD_BODY"),
        ("PATCH", "tags/org:acme", {"tags": {"a": 7}}, 400, "BAD_BODY"),
        ("POST", "rules", {"name": "web to database", "action": "drop", "after": "x"}, 409, "NAME_TAKEN"),
        ("PATCH", "rules/web%20to%20database", {"form": "web"}, 400, "BAD_BODY"),
        ("PATCH", "rules/none", {"log": True}, 404, "RULE_UNKNOWN"),
        ("PUT", "groups/new?scope=a/b", {"members": []}, 422, "FILE_INVALID"),
        ("PUT", "groups/new?scop=a", {"members": []}, 400, "BAD_QUERY"),
    ],
)
async def test_what_can_not_be_is_refused_and_changes_nothing(
    server: ApiServer, facade: FakeFacade, method: str, path: str, body: Any, status: int, code: str
) -> None:
    headers = {"Authorization": f"Bearer {server.token}", "If-Match": "*"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, f"{server.addresses[1]}/api/v1/{path}", json=body) as response,
    ):
        assert (response.status, (await response.json())["code"]) == (status, code)
    assert len(facade.history) == 1


async def test_without_if_match_nothing_is_changed(server: ApiServer, facade: FakeFacade) -> None:
    headers = {"Authorization": f"Bearer {server.token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.delete(f"{server.addresses[1]}/api/v1/rules/web%20to%20database") as response,
    ):
        assert (response.status, (await response.json())["code"]) == (428, "IF_MATCH_NEEDED")
    assert len(facade.history) == 1
