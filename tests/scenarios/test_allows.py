"""Does every allow in force pass a packet, and nothing beside them, after any restart? (cf-networking-release#42)"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.simulator import control, lab
from cfbridge.simulator.policy_table import PolicyKey
from egress.values import Unavailable
from tests.scenarios.matrix import APPS, Matrix, allow
from tests.scenarios.stage import LATE_SECONDS, becomes, known_app, spec, start, status, tcp, udp

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def matrix(box: Box) -> AsyncIterator[Matrix]:
    for app, org in APPS.items():
        await box.push(org, "dev", app, instances=2 if app == "server" else 1)
    await allow(box)
    made = Matrix(box, {app: box.instance(app) for app in APPS}, box.instance("server", 1))
    await made.holds()
    yield made


@pytest.mark.parametrize("who", [("agent",), ("bridge",), ("bridge", "agent"), ("agent", "bridge")], ids=" and ".join)
async def test_every_allow_passes_and_nothing_else_does_after_a_restart_of(
    matrix: Matrix, who: tuple[str, ...]
) -> None:
    for name in who:
        matrix.box.kill(name)
    for name in reversed(who):
        if name == "bridge":
            matrix.box.start_bridge()
        else:
            matrix.box.start_agent()
    await becomes(True, partial(_agree, matrix.box), LATE_SECONDS)
    assert await matrix.seen() == matrix.expected()


async def _agree(box: Box) -> bool:
    """Bridge and agent have found each other, and the newest revision is in force."""
    try:
        cells: list[dict[str, Any]] = await box.api("cells")
    except (OSError, Unavailable):
        return False
    return bool(cells) and all(cell["connected"] and cell["reached_revision"] for cell in cells)


async def test_ssh_and_app_are_reached_by_the_ports_that_garden_was_told(box: Box) -> None:
    """Each mapped port leads to its own container port, of its own container (diego-release#427: `cf ssh`)."""
    await known_app(box, "acme", "dev", "shelled")
    one = await start(box, spec(box, "shelled", netin=[(0, 8080), (0, 2222)]), serve=True)
    two = await start(box, spec(box, "shelled", netin=[(0, 8080), (0, 2222)]), serve=True)
    for instance in (one, two):
        box.probe(instance).listen("tcp", 2222)
    told = [instance.mapped_port(port) for instance in (one, two) for port in (8080, 2222)]
    assert len({*told}) == 4
    for instance in (one, two):
        before = box.probe(instance).counted()["tcp:2222"]["connections"]
        assert (await box.tcp_from("router", lab.CELL, instance.mapped_port(2222))).result == "open"
        assert box.probe(instance).counted()["tcp:2222"]["connections"] == before + 1
        assert (await box.tcp_from("router", lab.CELL, instance.mapped_port(8080))).result == "open"


async def test_a_policy_for_an_app_that_nobody_knows_opens_nothing_and_stops_no_other(box: Box) -> None:
    """The policy server says who may write one; what it names and nobody has, matches nobody (Cilium GO-2023-2080)."""
    await box.push("acme", "dev", "near")
    await box.push("globex", "dev", "far")
    near, far = box.instance("near"), box.instance("far")
    stranger = await box.create_unknown("acme")
    ghost = "00000000-0000-4000-8000-000000000000"
    known = [box.app_guid(name) for name in ("near", "far")]
    ghosts = [PolicyKey(guid, ghost, "tcp", 1, 65535) for guid in known]
    ghosts += [PolicyKey(ghost, guid, "tcp", 1, 65535) for guid in known]
    box.foundation.state.policies.create(ghosts)
    await box.add_policy("near", "far", "udp", "5000")
    await becomes("open", partial(udp, box, near, far))
    for source in (near, stranger):
        assert await tcp(box, source, far) == "refused"
    assert await tcp(box, far, near) == "refused"


QUARANTINE = """
rules:
  emergency:
    quarantine:
      - {{name: held back, from: {app}, to: any, action: reject}}
"""


async def test_who_renames_his_app_and_space_stays_under_a_rule_that_names_them_by_guid(box: Box) -> None:
    """What a developer can change is no way out of a rule (Cilium GO-2022-0959, GO-2023-2078)."""
    await box.push("acme", "dev", "held")
    await box.push("acme", "dev", "sought")
    held, sought = box.instance("held"), box.instance("sought")
    await box.add_policy("held", "sought")
    await becomes("open", partial(tcp, box, held, sought))
    app = box.foundation.state.apps[box.app_guid("held")]
    space = box.foundation.state.spaces[app.space]
    box.add_rules(QUARANTINE.format(app=f"app:{app.guid}"))
    try:
        await becomes("refused", partial(tcp, box, held, sought))
        _rename(box, "held", "escaped")
        box.foundation.state.change_space(replace(space, name="elsewhere"))
        await becomes(("escaped", "elsewhere"), partial(_names, box, held))
        assert await tcp(box, held, sought) == "refused"
        box.foundation.state.change_space(space)
    finally:
        box.add_rules("")


async def test_who_renames_his_app_out_of_a_rule_that_names_it_by_name_is_reported(box: Box) -> None:
    """Such a name is bound by what it is now; binding it for good comes with publishing."""
    await box.push("acme", "dev", "named")
    box.add_rules(QUARANTINE.format(app="acme/dev/named"))
    try:
        await becomes(False, partial(_alarmed, box, "NAME_UNKNOWN"))
        _rename(box, "named", "nameless")
        await becomes(True, partial(_alarmed, box, "NAME_UNKNOWN acme/dev/named"))
    finally:
        box.add_rules("")


def _rename(box: Box, name: str, new_name: str) -> None:
    control.rename(box.foundation.state, {"org": "acme", "space": "dev", "name": name, "new_name": new_name})


async def _names(box: Box, instance: Instance) -> tuple[str, str]:
    row = next(row for row in await box.api("workloads") if row["id"].endswith(instance.handle))
    return row["app"], row["space"]


async def _alarmed(box: Box, words: str) -> bool:
    said = (await status(box))[1]
    return all(word in said for word in words.split())


async def test_of_two_changes_of_a_security_group_in_one_second_none_is_lost(box: Box) -> None:
    """cloud_controller_ng#3479: their stamp was the same, and the second was never read."""
    await box.push("acme", "hasty", "hasty")
    hasty = box.instance("hasty")
    for port in ("80", "443"):
        await box.bind_asg("hasty", [{"protocol": "tcp", "destination": lab.EXT, "ports": port}], "acme/hasty")
    await becomes("open", partial(tcp, box, hasty, lab.EXT, 443))
    await becomes("refused", partial(tcp, box, hasty, lab.EXT, 80), LATE_SECONDS)
