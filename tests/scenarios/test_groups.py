"""Whom does a security group serve, and from when to when?"""

from __future__ import annotations

from functools import partial

import pytest

from cfbridge.demo.box import Box
from cfbridge.simulator import lab
from tests.scenarios.stage import becomes, known_app, spec, start, tcp

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

WEB = [{"protocol": "tcp", "destination": lab.EXT, "ports": "80"}]


async def test_an_asg_is_for_its_space_alone(box: Box) -> None:
    await box.push("acme", "bound", "bound-app")
    await box.push("acme", "unbound", "unbound-app")
    await box.bind_asg("one-space", WEB, "acme/bound")
    await becomes("open", partial(tcp, box, box.instance("bound-app"), lab.EXT, 80))
    assert await tcp(box, box.instance("unbound-app"), lab.EXT, 80) == "refused"


async def test_running_and_staging_have_their_groups_apart(box: Box) -> None:
    await known_app(box, "acme", "stage", "staged")
    running = await start(box, spec(box, "staged"))
    staging = await start(box, spec(box, "staged", lifecycle="staging"))
    task = await start(box, spec(box, "staged", lifecycle="task"))
    await box.bind_asg("staging-out", WEB, "acme/stage", "staging")
    await becomes("open", partial(tcp, box, staging, lab.EXT, 80))
    assert await tcp(box, running, lab.EXT, 80) == "refused"
    assert await tcp(box, task, lab.EXT, 80) == "refused"
    await box.bind_asg("running-out", WEB, "acme/stage", "running")
    await becomes("open", partial(tcp, box, running, lab.EXT, 80))
    await becomes("open", partial(tcp, box, task, lab.EXT, 80))


async def test_what_garden_handed_over_ends_when_the_foundation_says_otherwise(box: Box) -> None:
    """An app that started with a group loses it when the group is unbound, without a restart."""
    handed = {"protocol": 1, "networks": [{"start": lab.EXT, "end": lab.EXT}], "ports": [{"start": 80, "end": 80}]}
    await known_app(box, "acme", "handed", "handed-app")
    app = await start(box, spec(box, "handed-app", netout_rules=[handed]))
    await becomes("refused", partial(tcp, box, app, lab.EXT, 80))


async def test_a_mapped_port_lets_no_container_in_without_a_policy(box: Box) -> None:
    await box.push("acme", "dev", "mapped-server")
    await box.push("acme", "dev", "mapped-client")
    server, client = box.instance("mapped-server"), box.instance("mapped-client")
    assert await tcp(box, client, lab.CELL, server.mapped_port(8080)) == "refused"


async def test_a_policy_reaches_across_orgs(box: Box) -> None:
    await box.push("acme", "dev", "here")
    await box.push("globex", "dev", "there")
    await box.add_policy("here", "there")
    await becomes("open", partial(tcp, box, box.instance("here"), box.instance("there")))
