"""What do `net-in`, `net-out` and `bulk-net-out` open while a container runs? By Guardian, seen in packets."""

from __future__ import annotations

from functools import partial

import pytest

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.simulator import lab
from cfbridge.simulator.garden import GardenError, health_check_spec
from tests.scenarios.stage import becomes, known_app, ping, spec, start, tcp

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]


def _to_outside(*ports: int) -> dict[str, object]:
    """As Garden's API has it."""
    named = [{"start": port, "end": port} for port in ports]
    return {"protocol": 1, "networks": [{"start": lab.EXT, "end": lab.EXT}], "ports": named}


async def _unread_space(box: Box, app: str) -> None:
    """An app in a space of its own, so that no other test's security groups apply."""
    await known_app(box, "acme", f"{app}-space", app)


async def test_net_in_maps_a_port_of_the_cells_own_choice(box: Box) -> None:
    await _unread_space(box, "net-in")
    container = await start(box, spec(box, "net-in"), serve=True)
    host, inside = await box.diego.guardian.net_in(container.handle, 0, 8081)
    assert inside == 8081
    assert 61000 <= host <= 65535
    assert (await box.tcp_from("router", lab.CELL, host)).result == "open"


async def test_net_in_maps_exactly_the_port_that_is_asked_for(box: Box) -> None:
    await _unread_space(box, "net-in-exact")
    container = await start(box, spec(box, "net-in-exact"), serve=True)
    assert await box.diego.guardian.net_in(container.handle, 61999, 8080) == (61999, 8080)
    assert (await box.tcp_from("router", lab.CELL, 61999)).result == "open"
    await box.diego.guardian.destroy(container.handle)
    assert (await box.tcp_from("router", lab.CELL, 61999)).result == "refused"


async def test_net_in_of_a_port_that_another_container_has_is_refused(box: Box) -> None:
    await _unread_space(box, "net-in-twice")
    first = await start(box, spec(box, "net-in-twice"))
    second = await start(box, spec(box, "net-in-twice"))
    host, _ = await box.diego.guardian.net_in(first.handle, 0, 8080)
    with pytest.raises(GardenError):
        await box.diego.guardian.net_in(second.handle, host, 8080)


async def test_net_out_opens_what_it_names_when_it_returns_and_nothing_else(box: Box) -> None:
    await _unread_space(box, "net-out")
    container = await start(box, spec(box, "net-out"))
    assert await tcp(box, container, lab.EXT, 443) == "refused"
    await box.diego.guardian.net_out(container.handle, _to_outside(443))
    assert await tcp(box, container, lab.EXT, 443) == "open"
    assert await tcp(box, container, lab.EXT, 80) == "refused"


async def test_net_out_is_for_its_own_container_alone(box: Box) -> None:
    await _unread_space(box, "net-out-alone")
    favoured = await start(box, spec(box, "net-out-alone"))
    other = await start(box, spec(box, "net-out-alone"))
    await box.diego.guardian.net_out(favoured.handle, _to_outside(443))
    assert await tcp(box, favoured, lab.EXT, 443) == "open"
    assert await tcp(box, other, lab.EXT, 443) == "refused"


async def test_bulk_net_out_opens_all_that_it_names(box: Box) -> None:
    await _unread_space(box, "bulk")
    container = await start(box, spec(box, "bulk"))
    ping_rule = {"protocol": 3, "networks": [{"start": lab.EXT, "end": lab.EXT}], "icmps": {"type": 255, "code": 255}}
    await box.diego.guardian.bulk_net_out(container.handle, [_to_outside(80, 8080), _to_outside(443), ping_rule])
    assert [await tcp(box, container, lab.EXT, port) for port in (80, 443, 8080)] == ["open"] * 3
    assert await ping(box, container, lab.EXT) == "open"


async def test_bulk_net_out_of_nothing_changes_nothing(box: Box) -> None:
    await _unread_space(box, "bulk-nothing")
    container = await start(box, spec(box, "bulk-nothing"))
    await box.diego.guardian.net_out(container.handle, _to_outside(443))
    for nothing in (None, []):
        await box.diego.guardian.bulk_net_out(container.handle, nothing)
    assert await tcp(box, container, lab.EXT, 443) == "open"
    assert await tcp(box, container, lab.EXT, 80) == "refused"


async def test_net_out_to_everything_opens_no_container(box: Box) -> None:
    await _unread_space(box, "net-out-wide")
    container = await start(box, spec(box, "net-out-wide"))
    neighbour = await start(box, spec(box, "net-out-wide"), serve=True)
    everything = {"protocol": 0, "networks": [{"start": "0.0.0.0", "end": "255.255.255.255"}]}
    await box.diego.guardian.net_out(container.handle, everything)
    assert await tcp(box, container, lab.EXT, 80) == "open"
    assert await tcp(box, container, neighbour) == "refused"


async def test_net_out_stays_when_the_agent_is_restarted(box: Box) -> None:
    await _unread_space(box, "net-out-stays")
    container = await start(box, spec(box, "net-out-stays"))
    await box.diego.guardian.net_out(container.handle, _to_outside(443))
    box.kill("agent")
    box.start_agent()
    probe = await _start_when_back(box, "net-out-stays")
    assert await tcp(box, container, lab.EXT, 443) == "open"
    assert await tcp(box, probe, lab.EXT, 443) == "refused"


async def _start_when_back(box: Box, app: str) -> Instance:
    async def back() -> bool:
        return all(cell["connected"] for cell in await box.api("cells")) and (box.directory / "agent.sock").exists()

    await becomes(True, back)
    return await start(box, spec(box, app))


async def test_net_out_to_a_handle_that_is_not_up_fails(box: Box) -> None:
    check = await box.diego.guardian.create(health_check_spec("check-net-out"))
    with pytest.raises(GardenError):
        await box.diego.guardian.net_out(check.handle, _to_outside(443))
    with pytest.raises(GardenError, match="unknown handle"):
        await box.diego.guardian.net_out("nobody", _to_outside(443))


async def test_net_out_serves_a_container_of_an_org_that_nobody_has_read(box: Box) -> None:
    stranger = await box.create_unknown("hooli")
    await box.diego.guardian.net_out(stranger.handle, _to_outside(80))
    await becomes("open", partial(tcp, box, stranger, lab.EXT, 80))
    assert await tcp(box, stranger, lab.EXT, 443) == "refused"
