"""What is withdrawn when Cloud Controller, UAA or the policy server misbehave? Nothing; and the status says so."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from functools import partial

import pytest

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.demo.installation import ROOT
from cfbridge.simulator import lab
from tests.scenarios.stage import becomes, fault, known_app, spec, start, status, tcp, verdict

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

MODES = ("error", "garbage", "blank", "partial")


async def _streaming(box: Box, name: str) -> tuple[Instance, Instance]:
    await box.push("acme", "dev", f"{name}-client")
    await box.push("acme", "dev", f"{name}-server")
    client, server = box.instance(f"{name}-client"), box.instance(f"{name}-server")
    await box.add_policy(f"{name}-client", f"{name}-server")
    await box.bind_asg(f"{name}-out", [{"protocol": "tcp", "destination": lab.EXT, "ports": "80"}], "acme/dev")
    await becomes("open", partial(tcp, box, client, server))
    await becomes("open", partial(tcp, box, client, lab.EXT, 80))
    await box.open_stream(client, "live", server.address, 8080)
    assert await box.flows(client, "live")
    return client, server


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("service", ["policy_server", "cloud_controller"])
async def test_policies_groups_and_streams_stay_while_a_server_misbehaves(box: Box, service: str, mode: str) -> None:
    name = f"{service}-{mode}".replace("_", "-")
    client, server = await _streaming(box, name)
    fault(box, service, mode)
    try:
        await becomes("degraded", partial(verdict, box))
        assert "stale since" in (await status(box))[1]
        assert await box.flows(client, "live")
        assert await tcp(box, client, server) == "open"
        assert await tcp(box, client, lab.EXT, 80) == "open"
        assert await tcp(box, server, client) == "refused"
    finally:
        fault(box, service, "none")
    await becomes("ok", partial(verdict, box), 30)
    await box.unbind_asg(f"{name}-out", "acme/dev")
    await box.remove_policy(f"{name}-client", f"{name}-server")
    assert await box.until_cut(client, "live", 15)


async def test_a_policy_server_that_hangs_is_stale_in_the_end_and_comes_back(box: Box) -> None:
    client, server = await _streaming(box, "hanging")
    fault(box, "policy_server", "hang")
    try:
        await becomes("degraded", partial(verdict, box), 60)
        assert await box.flows(client, "live")
        assert await tcp(box, client, server) == "open"
    finally:
        fault(box, "policy_server", "none")
    await becomes("ok", partial(verdict, box), 30)


async def test_everything_away_at_once_changes_nothing_on_the_cell(box: Box) -> None:
    client, server = await _streaming(box, "everything")
    fault(box, "all", "error", status=502)
    try:
        await becomes("degraded", partial(verdict, box))
        assert await box.flows(client, "live")
        assert await tcp(box, client, server) == "open"
    finally:
        fault(box, "all", "none")
    await becomes("ok", partial(verdict, box), 30)


async def test_a_container_starts_while_cloud_controller_and_policy_server_are_away(box: Box) -> None:
    await known_app(box, "acme", "dev", "late")
    await becomes("ok", partial(verdict, box), 30)
    fault(box, "all", "error")
    try:
        await becomes("degraded", partial(verdict, box))
        assert (await start(box, spec(box, "late"))).address
    finally:
        fault(box, "all", "none")
    await becomes("ok", partial(verdict, box), 30)


async def test_a_policy_added_during_an_outage_is_in_force_after_it(box: Box) -> None:
    await box.push("acme", "dev", "outage-client")
    await box.push("acme", "dev", "outage-server")
    fault(box, "policy_server_internal", "error")
    try:
        await box.add_policy("outage-client", "outage-server")
        await becomes("degraded", partial(verdict, box))
    finally:
        fault(box, "policy_server_internal", "none")
    await becomes("open", partial(tcp, box, box.instance("outage-client"), box.instance("outage-server")))


async def test_two_changes_of_a_group_in_one_second_are_both_seen(box: Box) -> None:
    """cloud_controller_ng#3479: the second was lost."""
    await box.push("acme", "dev", "quick")
    quick = box.instance("quick")
    for ports in ("80", "443", "8080"):
        await box.bind_asg("quick-out", [{"protocol": "tcp", "destination": lab.EXT, "ports": ports}], "acme/dev")
        await asyncio.sleep(0.05)
    await becomes("open", partial(tcp, box, quick, lab.EXT, 8080))
    await becomes("refused", partial(tcp, box, quick, lab.EXT, 443))
    await box.unbind_asg("quick-out", "acme/dev")


async def test_the_status_command_says_in_one_line_and_by_its_exit_code_what_is_stale(box: Box) -> None:
    def asked() -> tuple[int, str]:
        environment = {**os.environ, "CFBRIDGE_SOCKET": str(box.directory / "api.sock")}
        command = [sys.executable, "-m", "cfbridge", "status"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=30)
        return done.returncode, done.stdout

    await becomes("ok", partial(verdict, box), 30)
    assert (await asyncio.to_thread(asked))[0] == 0
    fault(box, "policy_server", "error")
    try:
        await becomes("degraded", partial(verdict, box))
        code, said = await asyncio.to_thread(asked)
    finally:
        fault(box, "policy_server", "none")
    assert code != 0
    assert "stale since" in said
    assert "degraded" in said.splitlines()[0]
