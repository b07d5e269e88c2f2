"""What does a renamed org, space or app keep, and what does a new one by an old name get? Everything; nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
import pytest_asyncio

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.simulator import control, lab
from tests.scenarios.stage import LATE_SECONDS, Pair, becomes, org_row, restart, tcp, verdict

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

LOOKS = {"delta_seconds": 0.2, "asg_seconds": 0.2, "sweep_seconds": 1.0}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box() -> AsyncIterator[Box]:
    async with Box(looks=LOOKS) as made:
        yield made


async def _seen_as(box: Box, instance: Instance) -> tuple[str, str, str]:
    """Org, space and app by which the bridge shows a container."""
    row = next(row for row in await box.api("workloads") if row["id"].endswith(instance.handle))
    return row["org"], row["space"], row["app"]


def _change(box: Box, deed: str, **body: object) -> None:
    getattr(control, deed)(box.foundation.state, body)


async def _network(box: Box, org: str) -> tuple[object, ...]:
    row = await org_row(box, org)
    return row["id"], row["mode"], tuple(row["subnets"]), tuple(row["snat_addresses"])


async def test_a_renamed_org_space_and_app_keep_streams_policies_groups_subnet_and_way_out(box: Box) -> None:
    pair = await Pair.made(box, "acme", "renamed-")
    before = await _network(box, "acme")
    source = (await box.tcp(pair.client, lab.EXT, 80)).seen
    _change(box, "rename", org="acme", space="dev", name="renamed-client", new_name="customer")
    await becomes(("acme", "dev", "customer"), partial(_seen_as, box, pair.client))
    await pair.is_as_before()
    _change(box, "rename", org="acme", space="dev", new_name="development")
    await becomes(("acme", "development", "customer"), partial(_seen_as, box, pair.client))
    await pair.is_as_before()
    _change(box, "rename", org="acme", new_name="umbrella")
    await becomes(("umbrella", "development", "customer"), partial(_seen_as, box, pair.client))
    await pair.is_as_before()
    assert await _network(box, "umbrella") == before
    assert (await box.tcp(pair.client, lab.EXT, 80)).seen == source
    await restart(box, "bridge")
    assert await _network(box, "umbrella") == before
    assert (await box.tcp(pair.client, lab.EXT, 80)).seen == source
    await box.scale("umbrella", "development", "customer", 2)
    await becomes("open", partial(tcp, box, box.instance("customer", 1), pair.server))
    _change(box, "rename", org="umbrella", new_name="acme")
    await becomes(("acme", "development", "customer"), partial(_seen_as, box, pair.client))
    await pair.is_as_before()


@pytest.mark.parametrize(
    ("thing", "deeper"),
    [("app", {"space": "dev", "name": "app-client"}), ("space", {"space": "dev"}), ("org", {})],
)
async def test_a_new_one_by_the_name_of_a_deleted_one_has_nothing_of_it(
    box: Box, thing: str, deeper: dict[str, str]
) -> None:
    org = f"phoenix-{thing}"
    await box.push("globex", "dev", f"{thing}-witness")
    pair = await Pair.made(box, org, f"{thing}-")
    before = await _network(box, org)
    await box.add_policy(f"{thing}-client", f"{thing}-witness")
    await becomes("open", partial(tcp, box, pair.client, box.instance(f"{thing}-witness")))
    _change(box, "delete", **{"org": org, **deeper})
    await box.settled()
    await box.push(org, "dev", f"{thing}-client")
    heir = box.instance(f"{thing}-client")
    await becomes((org, "dev", f"{thing}-client"), partial(_seen_as, box, heir))
    # The policies of the deleted one still stand in the policy server, as they do until its hourly cleanup.
    assert await tcp(box, heir, box.instance(f"{thing}-witness")) == "refused"
    if thing == "app":
        assert await tcp(box, heir, pair.server) == "refused"
        assert await _network(box, org) == before
    else:
        assert await tcp(box, heir, lab.EXT, 80) == "refused"
    if thing == "org":
        (now,) = [row for row in await box.api("orgs") if box.in_subnet(heir.address, row)]
        assert now["id"] != before[0]
        assert not {*now["subnets"]} & {*before[2]}
    await becomes("ok", partial(verdict, box), LATE_SECONDS)


async def test_a_suspended_org_keeps_its_network_and_is_shown_as_suspended(box: Box) -> None:
    """Cloud Foundry lets its apps run: suspension ends what people may change, not what runs."""
    pair = await Pair.made(box, "hooli", "suspended-")
    _change(box, "suspend", org="hooli")

    async def shown() -> bool:
        return bool((await org_row(box, "hooli"))["suspended"])

    await becomes(True, shown)
    await pair.is_as_before()
    await box.scale("hooli", "dev", "suspended-client", 2)
    await becomes("open", partial(tcp, box, box.instance("suspended-client", 1), pair.server))
    _change(box, "suspend", org="hooli", suspended=False)
    await becomes(False, shown)
    await pair.is_as_before()


async def test_a_stopped_app_gives_its_addresses_back_and_has_its_policies_when_it_starts_again(box: Box) -> None:
    pair = await Pair.made(box, "vandelay", "stopped-")
    _change(box, "stop", org="vandelay", space="dev", name="stopped-server")
    await box.settled()
    assert await box.until_cut(pair.client, "live", 15)
    assert pair.server.address not in {address for row in await box.api("workloads") for address in row["addresses"]}
    await box.push("vandelay", "dev", "stopped-server")
    await becomes("open", partial(tcp, box, pair.client, box.instance("stopped-server")))
