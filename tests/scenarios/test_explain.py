"""Does an app developer who was refused read why, and does what he reads help? By the command line, with packets."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from functools import partial

import pytest

from cfbridge.demo.box import Box
from cfbridge.demo.installation import ROOT, VM_ADDRESS
from cfbridge.simulator import lab
from tests.scenarios.stage import becomes, bridge_knows, known_app, tcp

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

ZONE = """
groups: {vaults: [acme/dev/sealed]}
rules:
  environment:
    zones: [{name: sealed, to: vaults, action: drop, owner: platform-security, reason: SEC-7}]
"""


async def explained(box: Box, *words: str) -> tuple[int, str]:
    """Exit code and text of `cfbridge explain`, as a person runs it."""
    command = [sys.executable, "-m", "cfbridge", "explain", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CFBRIDGE_SOCKET": str(box.directory / "api.sock")}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def explainable(box: Box, app: str) -> None:
    """The bridge has read it."""

    async def known() -> bool:
        return "APP_UNKNOWN" not in (await explained(box, app, lab.EXT, "--port", "443"))[1]

    await becomes(True, known)


def suggested(said: str) -> list[str]:
    (line,) = (line for line in said.splitlines() if line.startswith("to allow it"))
    return shlex.split(line.removeprefix("to allow it"))


async def run(box: Box, words: list[str]) -> None:
    """As `cf` does it: with the org and space of the source targeted."""
    assert words[:2] == ["cf", "add-network-policy"]
    given = dict(zip(words[4::2], words[5::2], strict=True))
    assert given.keys() == {"--protocol", "--port", "-s", "-o"}
    await box.add_policy(words[2], words[3], given["--protocol"], given["--port"])


async def test_the_command_that_is_suggested_makes_the_packet_pass(box: Box) -> None:
    await box.push("acme", "dev", "caller")
    await box.push("globex", "dev", "called")
    await bridge_knows(box, "caller", "called")
    caller, called = box.instance("caller"), box.instance("called")
    assert await tcp(box, caller, called) == "refused"
    code, said = await explained(box, "acme/dev/caller", "globex/dev/called", "--port", "8080")
    assert (code, said.splitlines()[0]) == (1, "No: acme/dev/caller may not open tcp/8080 to globex/dev/called.")
    assert suggested(said) == shlex.split(
        "cf add-network-policy caller called --protocol tcp --port 8080 -s dev -o globex"
    )
    await run(box, suggested(said))
    await becomes("open", partial(tcp, box, caller, called))
    code, said = await explained(box, "caller", "globex/dev/called/0", "--port", "8080", "-o", "acme", "-s", "dev")
    assert (code, said.splitlines()[0]) == (
        0,
        "Yes: acme/dev/caller may open tcp/8080 to globex/dev/called/0.",
    )
    assert "cf network policies" in said
    assert "to allow it" not in said


async def test_the_command_for_an_app_that_does_not_run_yet_is_in_force_when_it_does(box: Box) -> None:
    await box.push("acme", "dev", "early")
    await known_app(box, "acme", "dev", "later")
    await explainable(box, "acme/dev/later")
    code, said = await explained(box, "acme/dev/early", "acme/dev/later", "--port", "8080")
    assert (code, said.splitlines()[-1]) == (1, "No instance of acme/dev/later runs: this is what would happen.")
    await run(box, suggested(said))

    async def explains() -> int:
        return (await explained(box, "acme/dev/early", "acme/dev/later", "--port", "8080"))[0]

    await becomes(0, explains)
    await box.scale("acme", "dev", "later", 1)
    await becomes("open", partial(tcp, box, box.instance("early"), box.instance("later")))


async def test_where_the_security_team_forbids_it_they_are_named_and_a_policy_would_not_help(box: Box) -> None:
    await box.push("acme", "dev", "asking")
    await box.push("acme", "dev", "sealed")
    await box.add_policy("asking", "sealed")
    await bridge_knows(box, "asking", "sealed")
    asking, sealed = box.instance("asking"), box.instance("sealed")
    await becomes("open", partial(tcp, box, asking, sealed))
    box.add_rules(ZONE)
    await becomes("timeout", partial(tcp, box, asking, sealed))
    code, said = await explained(box, "acme/dev/asking", "acme/dev/sealed", "--port", "8080")
    assert code == 1
    assert "to allow it" not in said
    assert "platform-security: rule R" in said
    box.add_rules("")
    await becomes("open", partial(tcp, box, asking, sealed))


async def test_machines_the_outside_and_the_cell_are_explained_as_packets_fare(box: Box) -> None:
    await box.push("acme", "dev", "outgoer")
    await bridge_knows(box, "outgoer")
    for destination, port in ((VM_ADDRESS, 5432), (lab.EXT, 443), (lab.CELL, 2375)):
        assert await tcp(box, box.instance("outgoer"), destination, port) == "refused"
        code, said = await explained(box, "acme/dev/outgoer", destination, "--port", str(port))
        assert (code, "to allow it" in said) == (1, False)
        assert said.splitlines()[-1].startswith("by ")


async def test_whoever_asks_about_nobody_reads_who_is_near(box: Box) -> None:
    await known_app(box, "acme", "dev", "spelled")
    await explainable(box, "acme/dev/spelled")
    code, said = await explained(box, "acme/dev/speled", lab.EXT, "--port", "443")
    assert code == 1
    assert "did you mean 'acme/dev/spelled'?" in said
