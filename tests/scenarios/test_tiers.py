"""Do the security team's tiers stand above and below what developers ask for, and does each action do what it says?"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial

import pytest

from cfbridge.demo.box import Box
from cfbridge.demo.installation import VM_ADDRESS, VM_NAME
from tests.scenarios.stage import Pair, becomes, tcp

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]


def rules(tier: str, *listed: str, groups: str = "") -> str:
    return f"groups: {{{groups}}}\nrules: {{{tier}: {{said: [{', '.join(listed)}]}}}}\n"


async def test_quarantine_goes_before_a_developers_policy_and_cuts_what_lives(box: Box) -> None:
    pair = await Pair.made(box, "acme", "sick")
    other = await Pair.made(box, "acme", "sound")
    box.add_rules(rules("emergency", "{name: cut, to: acme/dev/sickserver, action: drop}"))
    assert await box.until_cut(pair.client, "live", 5.0)
    await becomes("timeout", partial(tcp, box, pair.client, pair.server))
    await other.is_as_before()
    box.add_rules("")
    await becomes("open", partial(tcp, box, pair.client, pair.server))


async def test_pass_leaves_a_tier_to_developers_and_the_next_rule_refuses_all_others(box: Box) -> None:
    pair = await Pair.made(box, "globex", "passed")
    await box.push("initech", "dev", "stopped")
    stopped = box.instance("stopped")
    await box.add_policy("stopped", "passedserver")
    await becomes("open", partial(tcp, box, stopped, pair.server))
    box.add_rules(
        rules(
            "environment",
            '{name: own org, from: "org:globex", to: "org:globex", action: pass}',
            '{name: zone, to: "org:globex", action: reject}',
        )
    )
    await becomes("refused", partial(tcp, box, stopped, pair.server))
    await pair.is_as_before()
    await box.remove_policy("passedclient", "passedserver")
    await becomes("refused", partial(tcp, box, pair.client, pair.server))  # to pass is not to allow


async def test_baseline_of_ones_own_decides_where_nobody_else_did(box: Box) -> None:
    """Before the platform's own defaults, and after what developers ask for."""
    pair = await Pair.made(box, "acme", "base")
    assert await tcp(box, pair.server, pair.client) == "refused"
    box.add_rules(rules("baseline", "{name: silent, from: acme/dev/baseserver, action: drop}"))
    await becomes("timeout", partial(tcp, box, pair.server, pair.client))
    assert await tcp(box, pair.client, pair.server) == "open"
    box.add_rules(rules("baseline", "{name: friendly, from: acme/dev/baseserver, services: [tcp/8080], action: allow}"))
    await becomes("open", partial(tcp, box, pair.server, pair.client))


async def test_an_allow_that_expires_ends_with_its_connections_and_nobody_elses(box: Box) -> None:
    pair = await Pair.made(box, "acme", "brief")
    await box.push("globex", "dev", "guest")
    guest = box.instance("guest")
    ends = datetime.fromtimestamp(time.time() + 8.0, UTC).isoformat()
    allow = f"{{name: visit, from: globex/dev/guest, to: acme/dev/briefserver, action: allow, expires: '{ends}'}}"
    box.add_rules(rules("application", allow))
    await becomes("open", partial(tcp, box, guest, pair.server))
    await box.open_stream(guest, "visit", pair.server.address, 8080)
    assert await box.until_cut(guest, "visit", 20.0)
    assert time.time() > datetime.fromisoformat(ends).timestamp()
    assert await tcp(box, guest, pair.server) == "refused"
    await pair.is_as_before()


async def test_machine_and_containers_reach_each_other_by_group_both_ways(box: Box) -> None:
    await box.push("globex", "dev", "caller")
    caller = box.instance("caller")
    assert await tcp(box, caller, VM_ADDRESS, 5432) == "refused"
    assert (await box.tcp_from("vm1", caller.address, 8080)).result == "refused"
    groups = f'machines: ["vm:{VM_NAME}"], callers: app = "caller"'
    there = "{name: there, from: callers, to: machines, services: [tcp/5432], action: allow}"
    back = "{name: back, from: machines, to: callers, services: [tcp/8080], action: allow}"
    box.add_rules(rules("application", there, groups=groups))
    await becomes("open", partial(tcp, box, caller, VM_ADDRESS, 5432))
    assert (await box.tcp_from("vm1", caller.address, 8080)).result == "refused"
    box.add_rules(rules("application", there, back, groups=groups))

    async def inward() -> str:
        return (await box.tcp_from("vm1", caller.address, 8080)).result

    await becomes("open", inward)
    box.add_rules(rules("application", back, groups=groups))
    await becomes("refused", partial(tcp, box, caller, VM_ADDRESS, 5432))
    assert await inward() == "open"


async def test_a_rule_on_watch_decides_nothing(box: Box) -> None:
    pair = await Pair.made(box, "acme", "watched")
    box.add_rules(
        rules(
            "emergency",
            "{name: would cut, to: acme/dev/watchedserver, action: drop, mode: watch}",
            "{name: mark, from: acme/dev/watchedserver, action: drop}",
        )
    )
    await becomes("timeout", partial(tcp, box, pair.server, pair.client))  # so all of the file is in force
    assert await box.flows(pair.client, "live")
    assert await tcp(box, pair.client, pair.server) == "open"
