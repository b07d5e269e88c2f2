"""Can a person steer a running foundation, and do the cells hear what is wanted?"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from cfbridge.simulator import commands, seed
from cfbridge.simulator.box import Box, SimulatorConfig, serve
from cfbridge.simulator.nouns import DesiredApp
from cfbridge.simulator.state import Foundation
from egress.values import RefusedError


def wanted(desired: DesiredApp) -> tuple[str, str, str, int]:
    return desired.org_name, desired.space_name, desired.app_name, desired.instances


async def test_cells_hear_of_every_change_of_an_app(box: Box) -> None:
    heard: list[DesiredApp] = []
    box.state.subscribe(heard.append)
    assert [wanted(desired)[2] for desired in heard] == ["frontend", "backend", "db", "spy"]
    heard.clear()
    api, to_thread = box.foundation.api_url, asyncio.to_thread
    pushed = await to_thread(commands.push, api, "initech", "tps", "report", 2)
    await to_thread(commands.scale, api, "initech", "tps", "report", 3)
    await to_thread(commands.rename, api, "cover-sheet", "initech", "tps", "report")
    await to_thread(commands.delete, api, "initech", "tps", "cover-sheet")
    assert [wanted(desired) for desired in heard] == [
        ("initech", "tps", "report", 2),
        ("initech", "tps", "report", 3),
        ("initech", "tps", "cover-sheet", 3),
        ("initech", "tps", "cover-sheet", 0),
    ]
    assert {desired.app_guid for desired in heard} == {pushed["guid"]}


async def test_a_stopped_app_wants_no_instance_until_it_is_pushed_again(box: Box) -> None:
    heard: list[DesiredApp] = []
    box.state.subscribe(heard.append)
    heard.clear()
    stopped = await asyncio.to_thread(commands.stop, box.foundation.api_url, "acme", "dev", "frontend")
    assert stopped["state"] == "STOPPED"
    again = await asyncio.to_thread(commands.push, box.foundation.api_url, "acme", "dev", "frontend")
    assert (again["state"], again["guid"]) == ("STARTED", seed.FRONTEND)
    assert [desired.instances for desired in heard] == [0, 1]


async def test_orgs_and_spaces_are_renamed_suspended_and_deleted_by_name(box: Box) -> None:
    api, to_thread = box.foundation.api_url, asyncio.to_thread
    assert (await to_thread(commands.rename, api, "test", "acme", "dev"))["guid"] == seed.ACME_DEV
    assert (await to_thread(commands.rename, api, "wile", "acme"))["guid"] == seed.ACME
    assert (await to_thread(commands.suspend, api, "wile"))["suspended"]
    assert not (await to_thread(commands.suspend, api, "wile", suspended=False))["suspended"]
    assert box.state.apps[seed.FRONTEND].state == "STARTED"
    await to_thread(commands.delete, api, "wile", "test")
    assert seed.ACME_DEV not in box.state.spaces
    await to_thread(commands.delete, api, "wile")
    assert seed.ACME not in box.state.orgs
    with pytest.raises(RefusedError, match="There is no org 'wile'"):
        await to_thread(commands.suspend, api, "wile")


async def test_pushing_again_keeps_the_app_and_scales_it(box: Box) -> None:
    api = box.foundation.api_url
    first = await asyncio.to_thread(commands.push, api, "acme", "dev", "frontend", 2)
    second = await asyncio.to_thread(commands.push, api, "acme", "dev", "frontend")
    assert first["guid"] == second["guid"] == seed.FRONTEND
    assert second["instances"] == 2


def test_who_has_unsubscribed_hears_nothing() -> None:
    state = Foundation()
    heard: list[DesiredApp] = []
    stop = state.subscribe(heard.append)
    stop()
    state.create_app(state.create_space(state.create_org("o").guid, "s").guid, "a")
    assert heard == []


def test_the_apps_of_a_deleted_org_are_wanted_no_longer() -> None:
    state = Foundation()
    seed.recorded(state)
    heard: list[DesiredApp] = []
    state.subscribe(heard.append)
    heard.clear()
    state.delete_org(seed.ACME)
    assert [wanted(desired)[2:] for desired in heard] == [("frontend", 0), ("backend", 0), ("db", 0)]


async def test_a_security_group_is_made_bound_and_unbound_by_names(box: Box) -> None:
    api = box.foundation.api_url
    rules = [{"protocol": "tcp", "destination": "10.7.0.1", "ports": "25"}]
    await asyncio.to_thread(commands.bind_asg, api, "mail", "acme", "prod", "both", rules)
    bound = box.state.group_named("mail")
    assert bound is not None
    assert (bound.running_spaces, bound.staging_spaces) == ((seed.ACME_PROD,), (seed.ACME_PROD,))
    await asyncio.to_thread(commands.unbind_asg, api, "mail", "acme", "prod")
    unbound = box.state.group_named("mail")
    assert unbound is not None
    assert (unbound.running_spaces, unbound.staging_spaces) == ((), (seed.ACME_PROD,))


async def test_a_group_bound_without_a_space_is_for_everybody(box: Box) -> None:
    await asyncio.to_thread(commands.bind_asg, box.foundation.api_url, "db-only")
    group = box.state.group_named("db-only")
    assert group is not None
    assert group.running


async def test_a_fault_is_set_seen_and_taken_back(box: Box) -> None:
    api = box.foundation.api_url
    await asyncio.to_thread(commands.fault, api, "cc", "error", status=500)
    # The control surface goes on answering while Cloud Controller on the same port does not.
    seen = await asyncio.to_thread(commands.look, api)
    assert seen["faults"]["cloud_controller"]["status"] == 500
    assert (await asyncio.to_thread(commands.fault, api, "cc", "none"))["faults"] == {}


@pytest.mark.parametrize(
    ("service", "mode", "says"), [("dns", "error", "No service 'dns'"), ("uaa", "explode", "No fault 'explode'")]
)
async def test_an_unknown_fault_is_refused_in_words(service: str, mode: str, says: str, box: Box) -> None:
    with pytest.raises(RefusedError, match=says):
        await asyncio.to_thread(commands.fault, box.foundation.api_url, service, mode)


async def test_scaling_what_is_not_there_is_refused_in_words(box: Box) -> None:
    with pytest.raises(RefusedError, match="There is no app 'nope' in 'acme/dev'"):
        await asyncio.to_thread(commands.scale, box.foundation.api_url, "acme", "dev", "nope", 2)


async def test_no_box_is_refused_in_words(box: Box) -> None:
    await box.stop()
    with pytest.raises(RefusedError, match="No simulated foundation answers"):
        await asyncio.to_thread(commands.look, box.foundation.api_url)


async def test_a_box_with_tls_is_steered_with_its_ca(certificate_directory: Path) -> None:
    async with await serve(SimulatorConfig(certificate_directory, tls=True)) as box:
        api = box.foundation.api_url
        assert api.startswith("https://")
        assert (await asyncio.to_thread(commands.look, api, ca=box.foundation.ca))["orgs"] == 2
        with pytest.raises(RefusedError):
            await asyncio.to_thread(commands.look, api)


async def test_a_process_of_its_own_says_where_it_is_and_ends_on_sigterm(certificate_directory: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cfbridge.simulator", str(certificate_directory), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        ready = json.loads(await process.stdout.readline())
        async with aiohttp.ClientSession() as session, session.get(ready["api_url"]) as response:
            assert (await response.json())["links"]["uaa"]["href"] == ready["uaa_url"]
        assert Path(ready["client_secret_file"]).stat().st_mode & 0o777 == 0o600
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
