"""Do the servers fail as they are told to, and are they well again when the fault is taken back?"""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from cfbridge.simulator.box import Box
from cfbridge.simulator.nouns import Fault

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
