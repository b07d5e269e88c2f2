"""Do the servers fail as they are told to, and are they well again when the fault is taken back?"""

from __future__ import annotations

import asyncio
import json
import re

import aiohttp
import pytest
from click.testing import CliRunner

from cfbridge.commands.simulated import fault as fault_command
from cfbridge.simulator.box import Box
from cfbridge.simulator.nouns import FAULT_MODES, Fault
from cfbridge.simulator.policy_table import PolicyKey

Headers = dict[str, str]


async def status(session: aiohttp.ClientSession, url: str, headers: Headers) -> int:
    async with session.get(url, headers=headers) as response:
        await response.read()
        return response.status


async def test_an_error_lasts_until_it_is_taken_back(session: aiohttp.ClientSession, box: Box, admin: Headers) -> None:
    url = f"{box.foundation.api_url}/v3/apps"
    box.state.set_fault("cloud_controller", Fault("error", status=502))
    assert await status(session, url, admin) == 502
    box.state.set_fault("cloud_controller", None)
    assert await status(session, url, admin) == 200


async def test_a_fault_of_one_server_leaves_the_others_alone(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    box.state.set_fault("uaa", Fault("error"))
    assert await status(session, f"{box.foundation.uaa_url}/login", {}) == 503
    assert await status(session, f"{box.foundation.api_url}/v3/apps", admin) == 200


@pytest.mark.parametrize(
    ("service", "answers"),
    [
        ("policy_server", (503, 503)),
        ("policy_server_external", (503, 200)),
        ("policy_server_internal", (200, 503)),
    ],
)
async def test_both_policy_apis_fail_together_or_one_alone(
    service: str, answers: tuple[int, int], session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    box.state.set_fault(service, Fault("error"))
    external = await status(session, f"{box.foundation.policy_url}/networking/v1/external/policies", admin)
    internal = await status(session, f"{box.foundation.internal_url}/networking/v1/internal/policies", {})
    assert (external, internal) == answers


async def test_a_partial_answer_breaks_off_in_the_middle(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    box.state.set_fault("cloud_controller", Fault("partial"))
    async with session.get(f"{box.foundation.api_url}/v3/apps", headers=admin) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_garbage_is_no_json_though_the_status_is_good(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    box.state.set_fault("cloud_controller", Fault("garbage"))
    async with session.get(f"{box.foundation.api_url}/v3/apps", headers=admin) as response:
        assert response.status == 200
        with pytest.raises(ValueError):
            json.loads(await response.read())


async def test_a_blank_answer_has_a_good_status_and_no_body(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    box.state.set_fault("cloud_controller", Fault("blank"))
    async with session.get(f"{box.foundation.api_url}/v3/apps", headers=admin) as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_an_empty_answer_says_well_formed_that_there_is_nothing(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    for service in ("cloud_controller", "policy_server"):
        box.state.set_fault(service, Fault("empty"))
    async with session.get(f"{box.foundation.api_url}/v3/apps", headers=admin) as response:
        document = await response.json()
        assert (document["pagination"]["total_results"], document["resources"]) == (0, [])
    async with session.get(f"{box.foundation.internal_url}/networking/v1/internal/security_groups") as response:
        assert json.loads(await response.read()) == {"next": 0, "security_groups": []}


async def test_who_hangs_is_answered_when_the_fault_is_taken_back(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    box.state.set_fault("cloud_controller", Fault("hang"))
    waiting = asyncio.create_task(status(session, f"{box.foundation.api_url}/v3/apps", admin))
    # Another fault of another server wakes the waiter, who must go on waiting.
    while not box.state.requests_under("cloud_controller"):
        await asyncio.sleep(0)
    box.state.set_fault("uaa", Fault("error"))
    assert await status(session, f"{box.foundation.uaa_url}/login", {}) == 503
    assert not waiting.done()
    box.state.set_fault("cloud_controller", None)
    assert await waiting == 200


async def test_a_box_stops_though_somebody_hangs(session: aiohttp.ClientSession, box: Box, admin: Headers) -> None:
    box.state.set_fault("cloud_controller", Fault("hang"))
    waiting = asyncio.create_task(status(session, f"{box.foundation.api_url}/v3/apps", admin))
    while not box.state.requests_under("cloud_controller"):
        await asyncio.sleep(0)
    await box.stop()
    assert await asyncio.gather(waiting, return_exceptions=True)


async def test_a_slow_server_answers_well_in_the_end(session: aiohttp.ClientSession, box: Box, admin: Headers) -> None:
    loop = asyncio.get_running_loop()
    box.state.set_fault("cloud_controller", Fault("slow", seconds=0.05))
    before = loop.time()
    assert await status(session, f"{box.foundation.api_url}/v3/apps", admin) == 200
    # 10 ms for the clock's own coarseness.
    assert loop.time() - before >= 0.04


async def test_a_fault_may_come_late_and_pass(session: aiohttp.ClientSession, box: Box, admin: Headers) -> None:
    box.state.set_fault("cloud_controller", Fault("error", path="/v3/apps", after=1, times=2))
    apps, orgs = (f"{box.foundation.api_url}/v3/{kind}" for kind in ("apps", "organizations"))
    assert await status(session, orgs, admin) == 200
    assert [await status(session, apps, admin) for _ in range(4)] == [200, 503, 503, 200]


async def test_a_limited_server_says_429_when_to_come_back_and_nothing_else(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    box.state.set_fault("cloud_controller", Fault("limited", seconds=7))
    async with session.get(f"{box.foundation.api_url}/v3/apps", headers=admin) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
        assert response.content_type == "text/plain"
        assert json.loads(await response.read())["errors"][0]["title"] == "CF-RateLimitExceeded"


async def test_who_is_unauthorized_is_told_so_in_the_words_of_each_server(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    for service in ("cloud_controller", "uaa", "policy_server"):
        box.state.set_fault(service, Fault("unauthorized"))
    there = box.foundation
    said = {}
    for url in (
        f"{there.api_url}/v3/apps",
        f"{there.uaa_url}/login",
        f"{there.policy_url}/networking/v1/external/tags",
    ):
        async with session.get(url, headers=admin) as response:
            assert response.status == 401
            said[url] = await response.read()
    controller, uaa, policies = said.values()
    assert json.loads(controller)["errors"][0]["code"] == 1000
    assert json.loads(uaa)["error"] == "unauthorized"
    assert policies == b'{"error": "failed to verify token with uaa"}'


async def test_a_reset_connection_ends_without_an_answer(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    for service, url in (
        ("cloud_controller", f"{box.foundation.api_url}/v3/apps"),
        ("policy_server", f"{box.foundation.internal_url}/networking/v1/internal/policies"),
    ):
        box.state.set_fault(service, Fault("reset"))
        with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
            await status(session, url, admin)


async def test_a_truncated_body_has_the_length_that_it_says_and_is_no_json(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    box.state.set_fault("cloud_controller", Fault("truncated"))
    async with session.get(f"{box.foundation.api_url}/v3/apps", headers=admin) as response:
        body = await response.read()
    assert response.status == 200
    assert len(body) == int(response.headers["Content-Length"])
    with pytest.raises(ValueError):
        json.loads(body)


async def test_a_short_list_counts_a_row_that_it_lacks(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    box.state.policies.create([PolicyKey("a", "b", "tcp", 1, 1), PolicyKey("a", "b", "tcp", 2, 2)])
    for service in ("cloud_controller", "policy_server"):
        box.state.set_fault(service, Fault("short"))
    async with session.get(f"{box.foundation.api_url}/v3/apps", headers=admin) as response:
        document = await response.json()
        assert (document["pagination"]["total_results"], len(document["resources"])) == (4, 3)
    async with session.get(f"{box.foundation.internal_url}/networking/v1/internal/policies") as response:
        document = json.loads(await response.read())
        assert (document["total_policies"], len(document["policies"])) == (2, 1)


async def test_a_dripping_server_sends_byte_by_byte_and_the_rest_when_the_fault_is_taken_back(
    session: aiohttp.ClientSession, box: Box, admin: Headers
) -> None:
    url = f"{box.foundation.api_url}/v3/apps"
    async with session.get(url, headers=admin) as response:
        honest = await response.read()
    box.state.set_fault("cloud_controller", Fault("drip", seconds=0.01))
    async with session.get(url, headers=admin) as response:
        first = await response.content.read(1)
        second = await response.content.readany()
        assert len(first) + len(second) < len(honest)
        box.state.set_fault("cloud_controller", None)
        assert first + second + await response.content.read() == honest


async def test_stale_numbers_stay_while_policies_and_groups_change(session: aiohttp.ClientSession, box: Box) -> None:
    base = f"{box.foundation.internal_url}/networking/v1/internal"

    async def numbers() -> list[int]:
        found = []
        for kind in ("policies", "security_groups"):
            async with session.get(f"{base}/{kind}_last_updated") as response:
                found.append(int(await response.read()))
        return found

    before = await numbers()
    box.state.set_fault("policy_server", Fault("stale"))
    box.state.policies.create([PolicyKey("a", "b", "tcp", 1, 1)])
    box.state.create_security_group("mail", running=True)
    assert await numbers() == before
    async with session.get(f"{base}/policies") as response:
        assert json.loads(await response.read())["total_policies"] == 1
    async with session.get(f"{base}/security_groups") as response:
        assert "mail" in {group["name"] for group in json.loads(await response.read())["security_groups"]}
    box.state.set_fault("policy_server", None)
    after = await numbers()
    assert all(new > old for new, old in zip(after, before, strict=True))


async def test_every_fault_can_be_set_from_the_command_line_and_stands_in_its_help(box: Box) -> None:
    said = CliRunner().invoke(fault_command, ["--help"]).output
    for mode, does in FAULT_MODES.items():
        assert re.search(rf"^ +{mode} +{re.escape(does)}$", said, re.MULTILINE)
        words = ["uaa", mode, "--api", box.foundation.api_url]
        assert (await asyncio.to_thread(CliRunner().invoke, fault_command, words)).exit_code == 0
        assert box.state.faults["uaa"].mode == mode
