"""What does a container gain by saying that it is another's? Nothing: it is shut off, alone, and somebody is told."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.simulator.garden import ContainerSpec, GardenError
from tests.scenarios.stage import LATE_SECONDS, becomes, fault, known_app, org_row, spec, start, status, tcp, verdict

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]


def saying(honest: ContainerSpec, **claims: str) -> ContainerSpec:
    """The same, but for these of `org_id`, `space_id` and `app_id`."""
    said = {f"network.{key}": value for key, value in claims.items()}
    return replace(honest, properties={**honest.properties, **said})


async def read(box: Box) -> None:
    """Cloud Controller's apps and spaces are the bridge's as well; rows show Garden's names before."""
    known = box.foundation.state

    async def counted() -> tuple[int, int]:
        (row,) = await box.api("foundations")
        return row["spaces"], row["apps"]

    await becomes((len(known.spaces), len(known.apps)), counted, LATE_SECONDS)


async def server_of(box: Box, org: str, space: str, app: str) -> Instance:
    await known_app(box, org, space, app)
    return await start(box, spec(box, app), serve=True)


async def test_an_up_that_says_what_cloud_controller_knows_otherwise_is_refused(box: Box) -> None:
    await known_app(box, "bank", "prod", "vault")
    await known_app(box, "thief", "dev", "picklock")
    first = await start(box, spec(box, "vault"))
    honest = await start(box, spec(box, "picklock"))
    await read(box)
    mine, theirs = (spec(box, app).properties for app in ("picklock", "vault"))
    for lie in ("org_id", "space_id", "app_id"):
        claim = {lie: theirs[f"network.{lie}"]}
        with pytest.raises(GardenError) as refused:
            await start(box, saying(spec(box, "picklock"), **claim))
        assert "Cloud Controller has that in" in refused.value.stderr
    assert mine["network.org_id"] != theirs["network.org_id"]
    assert {row["app"] for row in await box.api("workloads") if row["org"] in ("bank", "thief")} == {
        "vault",
        "picklock",
    }
    await becomes("ok", partial(verdict, box))
    for each in (first, honest):
        await box.diego.guardian.destroy(each.handle)


async def test_one_that_lied_before_its_app_was_read_is_shut_off_then_and_no_other(box: Box) -> None:
    server = await server_of(box, "till", "prod", "till-server")
    await known_app(box, "crook", "dev", "crook-app")
    await read(box)
    await becomes("ok", partial(verdict, box))
    fault(box, "cloud_controller", "error", status=502)
    try:
        await known_app(box, "till", "prod", "till-late")  # pushed, and our look is older
        await box.add_policy("till-late", "till-server")
        crook = spec(box, "crook-app").properties
        own = {key: crook[f"network.{key}"] for key in ("org_id", "space_id")}
        honest = await start(box, spec(box, "till-late"))
        liar = await start(box, saying(spec(box, "till-late"), **own), serve=True)
        for each in (honest, liar):  # so far nobody knows better
            await becomes("open", partial(tcp, box, each, server))
        await box.open_stream(liar, "theft", server.address, 8080)
        await box.open_stream(honest, "trade", server.address, 8080)
        assert await box.flows(liar, "theft")
    finally:
        fault(box, "cloud_controller", "none")
    await becomes("refused", partial(tcp, box, liar, server))
    assert await box.until_cut(liar, "theft", 10)
    assert await box.flows(honest, "trade")
    assert await tcp(box, honest, server) == "open"
    assert (await box.tcp_from("cell", liar.address, 8080)).result == "refused"
    verdict_, said = await status(box)
    assert verdict_ == "degraded"
    assert "CLAIM_MISMATCH" in said
    assert liar.handle in said
    row = next(row for row in await box.api("workloads") if row["id"].endswith(liar.handle))
    assert row["refusal_code"] == "CLAIM_MISMATCH"
    await box.diego.guardian.destroy(liar.handle)
    await becomes("ok", partial(verdict, box))


async def test_a_handle_that_is_up_again_for_another_org_without_a_down_has_nothing_of_the_first(box: Box) -> None:
    first = await server_of(box, "past", "dev", "past-server")
    await known_app(box, "past", "dev", "past-client")
    await known_app(box, "future", "dev", "future-app")
    await box.add_policy("past-client", "past-server")
    client = await start(box, spec(box, "past-client"))
    await becomes("open", partial(tcp, box, client, first))
    lost = box.diego.guardian.containers.pop(client.handle)  # Garden forgot it, and its process goes on
    old = box._probes.pop(client.handle)
    try:
        again = await start(box, spec(box, "future-app", handle=client.handle), serve=True)
        assert again.address != client.address
        assert box.in_subnet(again.address, await org_row(box, "future"))
        assert await tcp(box, again, first) == "refused"
        assert old.tcp(first.address, 8080, timeout=0.5).result != "open"
        assert [row["app"] for row in await box.api("workloads") if row["id"].endswith(client.handle)] == ["future-app"]
    finally:
        old.close()
        if lost.init is not None:
            lost.init.kill()
            lost.init.wait()


async def test_one_handle_again_and_again_is_each_time_what_it_says_now(box: Box) -> None:
    server = await server_of(box, "odd", "dev", "odd-server")
    for org, app in (("odd", "odd-app"), ("even", "even-app")):
        await known_app(box, org, "dev", app)
    await box.add_policy("odd-app", "odd-server")
    for turn in range(6):
        org, app, expected = ("even", "even-app", "refused") if turn % 2 else ("odd", "odd-app", "open")
        container = await start(box, spec(box, app, handle="again-and-again"))
        assert box.in_subnet(container.address, await org_row(box, org))
        await becomes(expected, partial(tcp, box, container, server))
        probe = box._probes.pop(container.handle)
        probe.close()
        await box.diego.guardian.destroy(container.handle)
