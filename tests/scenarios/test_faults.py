"""What is withdrawn when Cloud Controller, UAA or the policy server misbehave? Nothing; and the status says who it was.

All tests share one client and one server, a policy, a security group and a live stream between them.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import pytest_asyncio

from cfbridge.demo.box import Box
from cfbridge.demo.installation import ROOT
from cfbridge.simulator import commands, lab
from cfbridge.simulator.policy_table import PolicyKey
from tests.scenarios.stage import LATE_SECONDS, OUT, Pair, becomes, fault, known_app, spec, start, status, tcp, verdict

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

MODES = ("error", "limited", "unauthorized", "reset", "partial", "truncated", "short", "garbage", "blank")
LOOKS = {"delta_seconds": 0.2, "asg_seconds": 0.2, "sweep_seconds": 1.0}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box() -> AsyncIterator[Box]:
    async with Box(looks=LOOKS) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(box: Box) -> Pair:
    return await Pair.made(box, "acme")


@asynccontextmanager
async def outage(box: Box, service: str, mode: str, *names: str, **more: object) -> AsyncIterator[None]:
    """Begins when the status says that things are stale, and who it was; after it, all is well again."""
    await becomes("ok", partial(verdict, box), LATE_SECONDS)
    fault(box, service, mode, **more)
    try:
        await becomes(True, partial(_says, box, "are stale since 20", *names), 60)
        assert await verdict(box) == "degraded"
        yield
    finally:
        fault(box, service, "none")
    await becomes("ok", partial(verdict, box), 60)


async def _says(box: Box, *words: str) -> bool:
    said = (await status(box))[1]
    return all(word in said for word in words)


@pytest.mark.parametrize("mode", MODES)
async def test_policies_groups_and_streams_stay_while_servers_misbehave(pair: Pair, mode: str) -> None:
    # A token that Cloud Controller does not take is renewed, and then it is UAA that gives none.
    who = "UAA at http" if mode == "unauthorized" else "Cloud Controller at http"
    async with outage(pair.box, "all", mode, who, "policies of cf are stale"):
        await pair.is_as_before()


@pytest.mark.parametrize("mode", ["error", "unauthorized", "reset", "garbage"])
async def test_a_uaa_that_misbehaves_when_tokens_end_is_named_and_withdraws_nothing(pair: Pair, mode: str) -> None:
    box = pair.box
    box.foundation.tokens.end()
    async with outage(box, "uaa", mode, "UAA at http"):
        await pair.is_as_before()


@pytest.mark.parametrize("mode", ["hang", "drip", "slow"])
async def test_a_policy_server_that_is_too_slow_is_stale_and_comes_back(pair: Pair, mode: str) -> None:
    async with outage(pair.box, "policy_server_internal", mode, "policy server at https", seconds=7):
        await pair.is_as_before()


async def test_a_policy_is_in_force_while_cloud_controller_hangs(pair: Pair) -> None:
    box = pair.box
    fault(box, "cloud_controller", "hang")
    try:
        await box.add_policy("client", "server", ports="8081")
        await becomes("open", partial(tcp, box, pair.client, pair.server, 8081))
        await box.remove_policy("client", "server", ports="8081")
        await becomes("refused", partial(tcp, box, pair.client, pair.server, 8081))
    finally:
        fault(box, "cloud_controller", "none")
    await pair.is_as_before()


async def test_policies_are_added_while_tokens_end_and_keys_are_rotated(pair: Pair) -> None:
    box = pair.box
    for name, happens in (("ended", box.foundation.tokens.end), ("rotated", partial(_rotate, box))):
        happens()
        await box.push("acme", "dev", name)
        await box.add_policy("client", name)
        await becomes("open", partial(tcp, box, pair.client, box.instance(name)))
        await becomes(True, partial(_reads, box, name))
    await becomes("ok", partial(verdict, box), LATE_SECONDS)
    await pair.is_as_before()


def _rotate(box: Box) -> None:
    box.foundation.tokens.rotate(forget=True)


async def _reads(box: Box, app: str) -> bool:
    """Cloud Controller told the bridge of it."""
    return app in {row["app"] for row in await box.api("workloads")}


async def test_a_client_certificate_that_is_over_is_named_and_its_successor_needs_no_restart(pair: Pair) -> None:
    box = pair.box
    await _certificates(box, client_seconds=-60)
    try:
        await becomes(
            True, partial(_says, box, "our certificate", "'network-policy-client'", "ended at 20"), LATE_SECONDS
        )
        await pair.is_as_before()
    finally:
        await _certificates(box)
    await becomes("ok", partial(verdict, box), LATE_SECONDS)


async def test_a_policy_servers_certificate_that_is_over_is_named_and_withdraws_nothing(pair: Pair) -> None:
    box = pair.box
    await _certificates(box, server_seconds=-60)
    try:
        await becomes(True, partial(_says, box, "the certificate of 127.0.0.1", "ended at 20"), LATE_SECONDS)
        await pair.is_as_before()
    finally:
        await _certificates(box)
    await becomes("ok", partial(verdict, box), LATE_SECONDS)


async def test_a_new_authority_of_both_sides_needs_no_restart(pair: Pair) -> None:
    box = pair.box
    await _certificates(box, authority=True)
    await box.add_policy("client", "server", ports="8081")
    await becomes("open", partial(tcp, box, pair.client, pair.server, 8081))
    await box.remove_policy("client", "server", ports="8081")
    await becomes("ok", partial(verdict, box), LATE_SECONDS)
    await pair.is_as_before()


async def _certificates(box: Box, **how: float | bool) -> None:
    renew = partial(commands.renew_certificates, box.foundation.foundation.api_url, **how)  # type: ignore[arg-type]
    await asyncio.to_thread(renew)


async def test_a_container_starts_while_cloud_controller_and_policy_server_are_away(pair: Pair) -> None:
    box = pair.box
    await known_app(box, "acme", "dev", "late")
    async with outage(box, "all", "error", status=502):
        assert (await start(box, spec(box, "late"))).address


async def test_a_policy_added_during_an_outage_is_in_force_after_it(pair: Pair) -> None:
    box = pair.box
    async with outage(box, "policy_server_internal", "error"):
        await box.add_policy("client", "server", ports="8081")
        assert await tcp(box, pair.client, pair.server, 8081) == "refused"
    await becomes("open", partial(tcp, box, pair.client, pair.server, 8081))
    await box.remove_policy("client", "server", ports="8081")


async def test_changes_that_no_number_tells_of_are_in_force_all_the_same(pair: Pair) -> None:
    """cloud_controller_ng#3479: of two changes in one second the second was lost, for it did not move the timestamp."""
    box = pair.box
    await becomes("ok", partial(verdict, box), LATE_SECONDS)
    fault(box, "policy_server_internal", "stale")
    try:
        for port in ("80,443", "80,8080"):
            await box.bind_asg("out", [OUT | {"ports": port}], "acme/dev")
            await becomes("open", partial(tcp, box, pair.client, lab.EXT, int(port.partition(",")[2])))
        await becomes("refused", partial(tcp, box, pair.client, lab.EXT, 443), LATE_SECONDS)
        await box.add_policy("client", "server", ports="8081")
        await becomes("open", partial(tcp, box, pair.client, pair.server, 8081))
        await box.remove_policy("client", "server", ports="8081")
        await becomes("refused", partial(tcp, box, pair.client, pair.server, 8081))
    finally:
        fault(box, "policy_server_internal", "none")
    await box.bind_asg("out", [OUT], "acme/dev")
    await becomes("refused", partial(tcp, box, pair.client, lab.EXT, 8080), LATE_SECONDS)


async def test_objects_that_nobody_understands_are_left_out_alone_and_stop_nothing(pair: Pair) -> None:
    """docs-pcf-install#584: a wrong tag on one foreign object put the whole plugin in a crash loop."""
    box, state = pair.box, pair.box.foundation.state
    await becomes("ok", partial(verdict, box), LATE_SECONDS)
    acme = state.org_named("acme")
    assert acme is not None
    known = state.apps[box.app_guid("client")]
    strange_org = replace(acme, guid="strange-org", name=None, updated_at=state.now())  # type: ignore[arg-type]
    strange_app = replace(known, guid="strange-app", name="lost", space="no-such-space", updated_at=state.now())
    state.orgs[strange_org.guid], state.apps[strange_app.guid] = strange_org, strange_app
    await box.bind_asg("odd", [], "acme/dev")
    odd = state.group_named("odd")
    assert odd is not None
    rules = (
        {"protocol": "gre", "destination": lab.EXT},
        OUT | {"ports": "443"},
        {"destination": 7},
        OUT | {"ports": ""},
    )
    state.change_security_group(replace(odd, rules=rules))
    state.policies.create([PolicyKey("strange-app", "never-heard-of", "tcp", 1, 2)])
    try:
        await becomes(
            True, partial(_says, box, "one organization is left out", "entry 1 of security group 'odd'"), LATE_SECONDS
        )
        await becomes(True, partial(_says, box, "entry 3 of security group 'odd'", "entry 4 of security group 'odd'"))
        await becomes("open", partial(tcp, box, pair.client, lab.EXT, 443))
        await box.push("globex", "dev", "beside")  # Diego itself starts nothing with such a group
        await becomes(True, partial(_reads, box, "beside"))
        await box.add_policy("client", "beside")
        await becomes("open", partial(tcp, box, pair.client, box.instance("beside")))
    finally:
        del state.orgs[strange_org.guid], state.apps[strange_app.guid], state.security_groups[odd.guid]
    await becomes("ok", partial(verdict, box), LATE_SECONDS)
    await becomes("refused", partial(tcp, box, pair.client, lab.EXT, 443), LATE_SECONDS)
    await pair.is_as_before()


async def test_the_status_command_says_in_one_line_and_by_its_exit_code_what_is_stale(pair: Pair) -> None:
    box = pair.box

    def asked() -> tuple[int, str]:
        environment = {**os.environ, "CFBRIDGE_SOCKET": str(box.directory / "api.sock")}
        command = [sys.executable, "-m", "cfbridge", "status"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)
        return done.returncode, done.stdout

    await becomes("ok", partial(verdict, box), LATE_SECONDS)
    assert (await asyncio.to_thread(asked))[0] == 0
    async with outage(box, "policy_server", "error"):
        code, said = await asyncio.to_thread(asked)
    assert code != 0
    assert "stale since" in said
    assert "degraded" in said.splitlines()[0]


async def test_after_all_these_outages_a_removed_policy_still_ends_its_stream(pair: Pair) -> None:
    assert await pair.box.flows(pair.client, "live")
    await pair.box.remove_policy("client", "server")
    assert await pair.box.until_cut(pair.client, "live", LATE_SECONDS)
