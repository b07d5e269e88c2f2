"""What can a tenant break by the name of an org, a space or an app? Nothing, anywhere the name goes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.demo.installation import ROOT
from cfbridge.simulator import lab
from cfbridge.simulator.garden import GardenError
from tests.scenarios.stage import becomes, bridge_knows, known_app, spec, start, tcp, verdict

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

HANDLES = (
    "with space",
    "a/b/../c",
    "../../../../../../tmp/cfbridge-handle",
    "/tmp/cfbridge-handle",
    "..",
    ".",
    "/",
    "-h",
    "--",
    "%00%2e",
    "line\nbreak\x1b[2J",
    "quote'\"s $(touch /tmp/cfbridge-handle)",
    "cf:cf:cf",
    "check:one",
    "vm:one",
    "dash-" + "x" * 200,
    "x" * 900,
    "ünï\u202e",
)
OWNED = Path("/tmp/cfbridge-scenario-owned")
NAMES = {
    "quotes": """it's "quoted" `here` \\ and \\" there""",
    "newlines": 'first\nsecond\r\n{"event": "forged"}\n\tlast',
    "unicode": "Ünï ☃ 漢字 \u202egnorw\u202c \U0001f600 e\u0301 \ufeff",
    "controls": "bell\a esc\x1b[31mred\x1b[0m nul-less \x7f \x85 \u2028",
    "shell": "$(touch /tmp/owned); `reboot`; && | > /dev/null #",
    "nft": '"; flush ruleset; add rule inet cfbridge forward accept; comment "',
    "sql": "'; DROP TABLE leases; --",
    "path": "../../../etc/passwd/acme/dev/frontend",
    "long": "n" * 10_000,
    "markup": "<script>alert(1)</script>&amp;%s%n{0}${x}",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box() -> AsyncIterator[Box]:
    """Its tenants are wished for by their hostile names as well."""
    tenants = {f"{name} org": {"mode": "nat"} for name in NAMES.values()}
    async with Box(intent=json.dumps({"tenants": tenants})) as made:
        yield made


async def _pair(box: Box, kind: str, suffix: str = "") -> tuple[Instance, Instance, str, str]:
    """Two apps with such names in a space and an org with such names; (client, server, their apps)."""
    name = NAMES[kind]
    client_app, server_app = f"{name} client{suffix}", f"{name} server{suffix}"
    for app in (client_app, server_app):
        await known_app(box, f"{name} org", f"{name} space", app)
    client = await start(box, spec(box, client_app))
    return client, await start(box, spec(box, server_app), serve=True), client_app, server_app


def _cli(box: Box, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = (sys.executable, "-m", "cfbridge", *words)
    environment = {"PYTHONPATH": str(ROOT), "CFBRIDGE_SOCKET": str(box.directory / "api.sock"), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, timeout=30, env=environment)


@pytest.mark.parametrize("kind", NAMES)
async def test_containers_of_apps_with_such_names_have_a_network_and_their_policies(box: Box, kind: str) -> None:
    client, server, client_app, server_app = await _pair(box, kind)
    assert await tcp(box, client, server) == "refused"
    await box.add_policy(client_app, server_app)
    await becomes("open", partial(tcp, box, client, server))
    await becomes("ok", partial(verdict, box))


@pytest.mark.parametrize("kind", NAMES)
async def test_rows_show_such_names_whole(box: Box, kind: str) -> None:
    _, _, client_app, server_app = await _pair(box, kind, " shown")
    await box.add_policy(client_app, server_app)
    await bridge_knows(box, client_app, server_app)
    name = NAMES[kind]
    org = next(row for row in await box.api("orgs") if row["name"] == f"{name} org")
    assert org["mode"] == "nat"
    assert org["snat_addresses"]
    workload = next(row for row in await box.api("workloads") if row["app"] == client_app)
    assert (workload["org"], workload["space"]) == (f"{name} org", f"{name} space")

    async def shown() -> bool:
        policies = [row for row in await box.api("policies") if row["destination_app"] == server_app]
        return [row["source_app"] for row in policies] == [client_app]

    await becomes(True, shown)


async def test_tables_for_people_show_no_control_character_and_one_line_a_row(box: Box) -> None:
    for kind in NAMES:
        await _pair(box, kind, " listed")
    workloads = len(await box.api("workloads"))
    for resource in ("org", "workload", "policy", "asg", "rule", "pool", "cell"):
        done = _cli(box, resource, "list")
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode()
        assert not [c for c in text if c != "\n" and not c.isprintable()], resource
        if resource == "workload":
            assert len(text.splitlines()) == workloads + 1
        assert isinstance(json.loads(_cli(box, resource, "list", "--json").stdout), list)
    await becomes("ok", partial(verdict, box))
    assert _cli(box, "status").stdout.decode().splitlines()[0].isprintable()


async def test_every_line_of_the_logs_is_one_json_object_of_ours(box: Box) -> None:
    for kind in NAMES:
        client, *_ = await _pair(box, kind, " logged")
        await box.diego.guardian.destroy(client.handle)
    for daemon in ("bridge", "agent"):
        lines = box.log(daemon).split("\n")
        events = [json.loads(line) for line in lines if line]
        assert events
        assert all(isinstance(event, dict) and event.get("event") != "forged" for event in events)


async def test_nothing_of_such_a_name_is_executed(box: Box) -> None:
    before = box.lab.cell.run("nft", "list", "tables")
    for kind in NAMES:
        await _pair(box, kind, " ran")
    assert box.lab.cell.run("nft", "list", "tables") == before
    assert _cli(box, "status").returncode == 0
    assert not OWNED.exists()


async def test_a_handle_that_is_no_word_is_taken_as_it_is(box: Box) -> None:
    await known_app(box, "handles", "dev", "handle-client")
    for handle in HANDLES:
        container = await start(box, spec(box, "handle-client", handle=handle))
        await becomes("refused", partial(tcp, box, container, lab.EXT, 80))
        await box.diego.guardian.destroy(handle)
    assert [row for row in await box.api("workloads") if row["app"] == "handle-client"] == []
    assert not Path("/tmp/cfbridge-handle").exists()


async def test_a_handle_that_cannot_be_kept_is_refused_and_its_down_is_well(box: Box) -> None:
    await known_app(box, "handles", "dev", "handle-client")
    for handle in ("h" * 1_001, "ü" * 5_000, "n" * 100_000):
        with pytest.raises(GardenError) as refused:
            await start(box, spec(box, "handle-client", handle=handle))
        assert refused.value.stderr.strip().isprintable()
        await box.diego.guardian.down(handle)
    container = await start(box, spec(box, "handle-client"))
    assert container.address
    await becomes("ok", partial(verdict, box))
