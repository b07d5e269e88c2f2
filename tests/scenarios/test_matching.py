"""What exactly do a policy and a security group match? Ends, protocols, the edges of ranges, and entries gone wrong."""

from __future__ import annotations

from functools import partial

import pytest

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.simulator import lab
from tests.scenarios.stage import becomes, known_app, ping, spec, start, status, tcp, udp

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]


async def _listen(box: Box, instance: Instance, *ports: int) -> None:
    for port in ports:
        box.probe(instance).listen("tcp", port)


async def test_instances_of_one_app_need_a_policy_to_themselves(box: Box) -> None:
    await box.push("acme", "dev", "clustered", instances=2)
    one, two = box.instance("clustered", 0), box.instance("clustered", 1)
    assert await tcp(box, one, two) == "refused"
    await box.add_policy("clustered", "clustered")
    await becomes("open", partial(tcp, box, one, two))
    await becomes("open", partial(tcp, box, two, one))


async def test_a_policy_lets_in_one_direction_only(box: Box) -> None:
    await box.push("acme", "dev", "asking")
    await box.push("acme", "dev", "asked")
    asking, asked = box.instance("asking"), box.instance("asked")
    await box.add_policy("asking", "asked")
    await becomes("open", partial(tcp, box, asking, asked))
    assert await tcp(box, asked, asking) == "refused"


async def test_a_policy_for_udp_opens_udp_alone(box: Box) -> None:
    await box.push("acme", "dev", "udp-client")
    await box.push("acme", "dev", "udp-server")
    client, server = box.instance("udp-client"), box.instance("udp-server")
    assert await udp(box, client, server) == "refused"
    await box.add_policy("udp-client", "udp-server", "udp", "5000-9000")
    await becomes("open", partial(udp, box, client, server))
    assert await tcp(box, client, server, 8080) == "refused"


async def test_a_policy_for_a_range_of_ports_ends_exactly_where_it_says(box: Box) -> None:
    for app in ("range-client", "range-server"):
        await known_app(box, "acme", "dev", app)
    client = await start(box, spec(box, "range-client"))
    server = await start(box, spec(box, "range-server"))
    await _listen(box, server, 6999, 7000, 7005, 7010, 7011)
    await box.add_policy("range-client", "range-server", "tcp", "7000-7010")
    await becomes("open", partial(tcp, box, client, server, 7000))
    assert await tcp(box, client, server, 7010) == "open"
    assert await tcp(box, client, server, 7005) == "open"
    assert await tcp(box, client, server, 6999) == "refused"
    assert await tcp(box, client, server, 7011) == "refused"


async def test_overlapping_policies_keep_what_the_other_one_opens(box: Box) -> None:
    for app in ("over-client", "over-server"):
        await known_app(box, "acme", "dev", app)
    client = await start(box, spec(box, "over-client"))
    server = await start(box, spec(box, "over-server"))
    await _listen(box, server, 7000, 7010, 7020)
    await box.add_policy("over-client", "over-server", "tcp", "7000-7010")
    await box.add_policy("over-client", "over-server", "tcp", "7010-7020")
    await becomes("open", partial(tcp, box, client, server, 7000))
    await becomes("open", partial(tcp, box, client, server, 7020))
    await box.open_stream(client, "shared", server.address, 7010)
    await box.remove_policy("over-client", "over-server", "tcp", "7000-7010")
    await becomes("refused", partial(tcp, box, client, server, 7000))
    assert await tcp(box, client, server, 7010) == "open"
    assert await box.flows(client, "shared")


async def test_no_policy_opens_ping_between_containers(box: Box) -> None:
    await box.push("acme", "dev", "ping-client")
    await box.push("acme", "dev", "ping-server")
    client, server = box.instance("ping-client"), box.instance("ping-server")
    await box.add_policy("ping-client", "ping-server", "tcp", "1-65535")
    await becomes("open", partial(tcp, box, client, server))
    assert await ping(box, client, server.address) == "refused"


async def test_a_group_with_any_icmp_opens_ping_outside_and_to_no_container(box: Box) -> None:
    await known_app(box, "acme", "icmp", "icmp-client")
    client = await start(box, spec(box, "icmp-client"))
    other = await start(box, spec(box, "icmp-client"), serve=True)
    assert await ping(box, client, lab.EXT) == "refused"
    rule = {"protocol": "icmp", "destination": "0.0.0.0/0", "type": -1, "code": -1}
    await box.bind_asg("any-icmp", [rule], "acme/icmp")
    await becomes("open", partial(ping, box, client, lab.EXT))
    assert await ping(box, client, other.address) == "refused"
    assert await tcp(box, client, lab.EXT, 80) == "refused"
    assert (await start(box, spec(box, "icmp-client"))).address


async def test_an_entry_without_ports_opens_nothing_and_alarms_and_the_others_of_its_group_work(box: Box) -> None:
    await known_app(box, "acme", "portless", "portless-client")
    client = await start(box, spec(box, "portless-client"))
    state = box.foundation.state
    rules = [
        {"protocol": "tcp", "destination": lab.EXT},
        {"protocol": "tcp", "destination": lab.EXT, "ports": "443"},
    ]
    group = state.create_security_group("portless", rules)  # past Cloud Controller's checks, as old rows are
    state.bind(group, "running", [state.apps[box.app_guid("portless-client")].space])
    await becomes("open", partial(tcp, box, client, lab.EXT, 443))
    assert await tcp(box, client, lab.EXT, 80) == "refused"
    _, said = await status(box)
    assert "ASG_ENTRY_MATCHES_NOTHING" in said
    assert "portless" in said


async def test_a_container_that_comes_with_a_rule_without_ports_starts_and_its_other_rules_work(box: Box) -> None:
    await known_app(box, "acme", "portless-up", "portless-up")
    outside = [{"start": lab.EXT, "end": lab.EXT}]
    rules = [
        {"protocol": 1, "networks": outside},
        {"protocol": 3, "networks": outside},
        {"protocol": 1, "networks": outside, "ports": [{"start": 443, "end": 443}]},
    ]
    container = await start(box, spec(box, "portless-up", netout_rules=rules))
    await box.diego.guardian.bulk_net_out(container.handle, rules)
    assert await tcp(box, container, lab.EXT, 443) == "open"
    assert await tcp(box, container, lab.EXT, 80) == "refused"
    assert await ping(box, container, lab.EXT) == "refused"
