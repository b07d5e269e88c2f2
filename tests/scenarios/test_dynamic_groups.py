"""Does a group follow whom its criteria name: who comes, who is labelled or tagged, who goes? With real packets."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from cfbridge.demo.box import Box
from cfbridge.demo.installation import INTENT, VM_ADDRESS, VM_DEVICE
from tests.scenarios.stage import becomes, tcp

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

RULES = """
groups:
  blue:      label team = "blue"
  databases: tag tier = "db"
  prod:      tag env = "prod"
  not-prod:  not tag env = "prod"
rules:
  environment:
    zones:
      - {name: prod alone, from: not-prod, to: prod, action: reject}
  application:
    payments:
      - {name: blue to blue, from: blue, to: blue, services: [tcp/8080], action: allow}
      - {name: blue to databases, from: blue, to: databases, services: [tcp/5432], action: allow}
"""


def ruled(box: Box, *, vm: str = "", tags: str = "") -> None:
    """The rules, with tags of the machine and of orgs, spaces and apps, as YAML's mappings."""
    box.intent = INTENT.replace(f"port: {VM_DEVICE}", f"port: {VM_DEVICE}, tags: {{{vm}}}")
    box.add_rules(f"{RULES}tags: {{{tags}}}\n")


def label(box: Box, app: str, **labels: str) -> None:
    state = box.foundation.state
    state.change_app(replace(state.apps[box.app_guid(app)], labels=labels))


async def test_an_app_is_a_member_from_its_label_to_its_last_instance(box: Box) -> None:
    ruled(box)
    await box.push("acme", "dev", "painter")
    await box.push("globex", "dev", "painted")
    painter, painted = box.instance("painter"), box.instance("painted")
    assert await tcp(box, painter, painted) == "refused"
    label(box, "painter", team="blue")
    label(box, "painted", team="blue")
    await becomes("open", partial(tcp, box, painter, painted))
    await box.scale("globex", "dev", "painted", 2)
    await becomes("open", partial(tcp, box, painter, box.instance("painted", 1)))
    await box.open_stream(painter, "blue", painted.address, 8080)
    label(box, "painted", team="red")
    await becomes("refused", partial(tcp, box, painter, painted))
    assert await box.until_cut(painter, "blue", 1.0)


async def test_a_machine_that_gets_a_tag_is_reachable_and_one_that_loses_it_is_not(box: Box) -> None:
    ruled(box)
    await box.push("acme", "dev", "reader")
    reader = box.instance("reader")
    label(box, "reader", team="blue")
    assert await tcp(box, reader, VM_ADDRESS, 5432) == "refused"
    ruled(box, vm="tier: db")
    await becomes("open", partial(tcp, box, reader, VM_ADDRESS, 5432))
    ruled(box, vm="tier: cache")
    await becomes("refused", partial(tcp, box, reader, VM_ADDRESS, 5432))


async def test_what_nobody_tagged_yet_reaches_nothing_that_is_tagged(box: Box) -> None:
    """The refusal of a higher tier goes before a developer's policy, and the org's tag is everybody's in it."""
    ruled(box)
    for app, org in (("clerk", "acme"), ("vault", "globex"), ("guest", "initech")):
        await box.push(org, "dev", app)
    clerk, vault, guest = (box.instance(app) for app in ("clerk", "vault", "guest"))
    for app in ("clerk", "guest"):
        await box.add_policy(app, "vault")
        await becomes("open", partial(tcp, box, box.instance(app), vault))
    ruled(box, tags="'org:acme': {env: prod}, 'org:globex': {env: prod}")
    await becomes("refused", partial(tcp, box, guest, vault))
    assert await tcp(box, clerk, vault) == "open"
    ruled(box, tags="'org:acme': {env: prod}, 'org:globex': {env: prod}, 'acme/dev/clerk': {env: stage}")
    await becomes("refused", partial(tcp, box, clerk, vault))
    assert await tcp(box, guest, vault) == "refused"
    ruled(box)
    await becomes("open", partial(tcp, box, guest, vault))
