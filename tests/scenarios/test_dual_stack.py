"""Does the story hold on IPv6 as on IPv4? One foundation whose pools have both; every refusal is asked on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
import pytest_asyncio
import yaml

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.demo.installation import VM_ADDRESS, VM_DEVICE, VM_NAME
from cfbridge.simulator import lab
from cfbridge.simulator.probe import Outcome
from tests.scenarios.stage import back, becomes, known_app, org_row, restart, spec, start

pytestmark = [pytest.mark.packets, pytest.mark.asyncio(loop_scope="module")]

VM_ADDRESS6 = "fd00:cf:0:ffff::11"
DENIED, DENIED6 = "198.51.100.66", "2001:db8:e::66"
METADATA, METADATA6 = "169.254.169.254", "fd00:ec2::254"
PLAIN = {"name": "plain", "kind": "container", "prefixes": ["10.250.0.0/24"], "org_prefix_length": 28}
POOLS = (
    {"name": "overlay", "kind": "container", "prefixes": ["10.240.0.0/14", "fd00:cf::/48"], "org_prefix_length": 24},
    PLAIN,
    {
        "name": "routable",
        "kind": "container",
        "prefixes": ["172.20.0.0/16", "2001:db8:a::/48"],
        "org_prefix_length": 24,
        "routable": True,
    },
    {"name": "snat", "kind": "snat", "prefixes": ["203.0.113.0/28", "2001:db8:5::/120"]},
    {"name": "snat4", "kind": "snat", "prefixes": ["203.0.113.16/28"]},
)
INTENT = {
    "tenants": {
        "acme": {"mode": "nat"},
        "globex": {"mode": "routed"},
        "half": {"mode": "nat", "snat_pool": "snat4"},
        "late": {"mode": "shared", "pool": "plain"},
    },
    "vms": {VM_NAME: {"org": "acme", "addresses": [VM_ADDRESS, VM_ADDRESS6], "port": VM_DEVICE}},
}
EVERYTHING = [{"protocol": "all", "destination": "0.0.0.0/0"}, {"protocol": "all", "destination": "::/0"}]
FIREWALL = {"deny_networks_always": [f"{DENIED}/32", f"{DENIED6}/128"]}
EXT, CELL, FREE = (lab.EXT, lab.EXT6), (lab.CELL, lab.CELL6), ("10.243.255.77", "fd00:cf:0:1::7777")
OPEN, REFUSED = ["open", "open"], ["refused", "refused"]
STREAMS = ("on IPv4", "on IPv6")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box() -> AsyncIterator[Box]:
    settings = {"firewall": FIREWALL}
    async with Box(pools=POOLS, intent=yaml.safe_dump(INTENT), settings=settings, vm_address6=VM_ADDRESS6) as made:
        for prefix in ("2001:db8:5::/120", "172.20.0.0/16", "2001:db8:a::/48"):
            made.lab.announce(prefix)
        made.lab.ext.ip(f"address add {DENIED}/24 dev eth0\naddress add {DENIED6}/64 dev eth0 nodad preferred_lft 0\n")
        yield made


async def _app(box: Box, name: str, org: str = "acme", space: str = "dev") -> Instance:
    """A container in which the app's servers run."""
    await known_app(box, org, space, name)
    return await start(box, spec(box, name), serve=True)


def _ends(to: Instance | tuple[str, str]) -> tuple[str, str]:
    return (to.address, to.address6) if isinstance(to, Instance) else to


async def tcp(box: Box, source: Instance, to: Instance | tuple[str, str], port: int = 8080) -> list[str]:
    """What becomes of it on IPv4 and on IPv6."""
    return [(await box.tcp(source, address, port)).result for address in _ends(to)]


async def udp(box: Box, source: Instance, to: Instance | tuple[str, str], port: int = 5000) -> list[str]:
    return [(await box.udp(source, address, port)).result for address in _ends(to)]


async def ping(box: Box, source: Instance, to: Instance | tuple[str, str]) -> list[str]:
    probe = box.probe(source)
    return [(await asyncio.to_thread(probe.ping, address)).result for address in _ends(to)]


async def tcp_from(box: Box, label: str, to: Instance | tuple[str, str], port: int = 8080) -> list[str]:
    return [(await box.tcp_from(label, address, port)).result for address in _ends(to)]


async def leaves_by(box: Box, source: Instance) -> list[str]:
    """The addresses that the outside sees it by, or what came of it."""
    outcomes: list[Outcome] = [await box.tcp(source, address, 80) for address in EXT]
    return [outcome.seen or outcome.result for outcome in outcomes]


async def open_streams(box: Box, source: Instance, to: Instance) -> None:
    for name, address in zip(STREAMS, _ends(to), strict=True):
        await box.open_stream(source, name, address, 8080)


async def streams(box: Box, source: Instance, ask: Callable[[Instance, str], Awaitable[bool]]) -> list[bool]:
    return [await ask(source, name) for name in STREAMS]


# --- addresses --------------------------------------------------------------------------------------------------------


async def test_garden_is_told_an_address_of_each_family_out_of_the_orgs_own_subnets(box: Box) -> None:
    one, other = await _app(box, "first"), await _app(box, "second", "globex")
    for container, org in ((one, "acme"), (other, "globex")):
        row = await org_row(box, org)
        assert [":" in container.address, ":" in container.address6] == [False, True]
        assert all(box.in_subnet(address, row) for address in _ends(container))
    subnets = [{*(await org_row(box, org))["subnets"]} for org in ("acme", "globex")]
    assert not subnets[0] & subnets[1]


async def test_an_org_of_a_pool_without_ipv6_has_none_and_reaches_none(box: Box) -> None:
    plain, other = await _app(box, "without", "late"), await _app(box, "with")
    await box.bind_asg("everything", EVERYTHING, "late/dev")
    await box.add_policy("without", "with")
    assert plain.address6 == ""
    await becomes(["open", "unreachable"], partial(tcp, box, plain, other))
    await becomes(["open", "unreachable"], partial(tcp, box, plain, EXT, 80))
    assert (await asyncio.to_thread(box.probe(plain).tcp, plain.address, 8080)).result == "open"


# --- policies ---------------------------------------------------------------------------------------------------------


async def test_containers_of_any_org_are_refused_until_a_policy_opens_its_port_to_both_families(box: Box) -> None:
    client, server = await _app(box, "client"), await _app(box, "server")
    stranger, unread = await _app(box, "stranger", "globex"), await box.create_unknown("initech")
    for source in (client, stranger, unread):
        assert await tcp(box, source, server) == REFUSED
        assert await udp(box, source, server) == REFUSED
        assert await ping(box, source, server) == REFUSED
    await box.add_policy("client", "server")
    await becomes(OPEN, partial(tcp, box, client, server))
    assert [(await box.tcp(client, address, 8080)).seen for address in _ends(server)] == [*_ends(client)]
    assert await tcp(box, client, server, 8081) == REFUSED
    assert await udp(box, client, server) == REFUSED
    assert await ping(box, client, server) == REFUSED
    assert await tcp(box, server, client) == REFUSED
    for source in (stranger, unread):
        assert await tcp(box, source, server) == REFUSED
    await box.add_policy("client", "server", "udp", "5000")
    await becomes(OPEN, partial(udp, box, client, server))


async def test_a_removed_policy_cuts_the_streams_of_both_families_and_no_other(box: Box) -> None:
    gone, kept, server = await _app(box, "gone"), await _app(box, "kept"), await _app(box, "served")
    for name, source in (("gone", gone), ("kept", kept)):
        await box.add_policy(name, "served")
        await becomes(OPEN, partial(tcp, box, source, server))
        await open_streams(box, source, server)
    await box.remove_policy("gone", "served")
    assert await streams(box, gone, lambda source, name: box.until_cut(source, name, 5)) == [True, True]
    assert await tcp(box, gone, server) == REFUSED
    assert await streams(box, kept, box.flows) == [True, True]


# --- security groups --------------------------------------------------------------------------------------------------


async def test_a_security_group_opens_the_family_that_it_names_and_never_a_container(box: Box) -> None:
    source, twin = await _app(box, "sender", space="asg"), await _app(box, "twin", space="asg")
    assert await tcp(box, source, EXT, 80) == REFUSED
    for network, seen in (("0.0.0.0/0", ["open", "refused"]), ("::/0", ["refused", "open"])):
        await box.bind_asg("wide", [{"protocol": "all", "destination": network}], "acme/asg")
        await becomes(seen, partial(tcp, box, source, EXT, 80))
        assert await udp(box, source, EXT, 5353) == seen
        assert await ping(box, source, EXT) == seen
        assert await tcp(box, source, twin) == REFUSED
        assert "open" not in await tcp(box, source, FREE)
        assert await tcp(box, source, CELL, box.cell_service_port) == REFUSED
        await box.unbind_asg("wide", "acme/asg")
        await becomes(REFUSED, partial(tcp, box, source, EXT, 80))


async def test_a_security_group_of_one_ipv6_address_and_port_opens_nothing_beside(box: Box) -> None:
    source = await _app(box, "narrow", space="narrow")
    await box.bind_asg("narrow", [{"protocol": "tcp", "destination": lab.EXT6, "ports": "80"}], "acme/narrow")
    await becomes(["refused", "open"], partial(tcp, box, source, EXT, 80))
    assert await tcp(box, source, EXT, 443) == REFUSED
    assert await ping(box, source, EXT) == REFUSED
    entry = {"protocol": "icmpv6", "destination": "::/0", "type": 128, "code": 0}
    await box.bind_asg("ping6", [entry], "acme/narrow")
    await becomes(["refused", "open"], partial(ping, box, source, EXT))


async def test_denied_networks_and_metadata_addresses_stay_closed_whatever_a_group_says(box: Box) -> None:
    source = await _app(box, "curious", space="denied")
    await box.bind_asg("everything", EVERYTHING, "acme/denied")
    await becomes(OPEN, partial(tcp, box, source, EXT, 80))
    assert await tcp(box, source, (DENIED, DENIED6), 80) == REFUSED
    assert await tcp(box, source, (METADATA, METADATA6), 80) == REFUSED
    assert await udp(box, source, (METADATA, METADATA6), 80) == REFUSED
    assert await tcp_from(box, "router", (DENIED, DENIED6), 80) == OPEN  # somebody answers there


async def test_the_cell_and_its_name_server_are_at_their_ipv4_address_alone(box: Box) -> None:
    source = await _app(box, "asking", space="denied")
    await box.bind_asg("everything", EVERYTHING, "acme/denied")
    await becomes(OPEN, partial(tcp, box, source, EXT, 80))
    assert await box.resolve(source, tcp=False) == "answered"
    assert await tcp(box, source, CELL, box.cell_service_port) == REFUSED
    assert await udp(box, source, CELL, 53) == REFUSED
    assert await tcp_from(box, "router", CELL, box.cell_service_port) == OPEN


# --- in and out -------------------------------------------------------------------------------------------------------


async def test_every_org_leaves_by_its_own_addresses_of_both_families_or_not_at_all(box: Box) -> None:
    containers = {org: await _app(box, f"from-{org}", org) for org in ("acme", "globex", "half", "plain")}
    for org in containers:
        await box.bind_asg("everything", EVERYTHING, f"{org}/dev")
    acme, half = await org_row(box, "acme"), await org_row(box, "half")
    assert [":" in address for address in acme["snat_addresses"]] == [False, True]
    await becomes([*acme["snat_addresses"]], partial(leaves_by, box, containers["acme"]))
    await becomes([*_ends(containers["globex"])], partial(leaves_by, box, containers["globex"]))
    await becomes([lab.CELL, lab.CELL6], partial(leaves_by, box, containers["plain"]))
    await becomes([*half["snat_addresses"], "unreachable"], partial(leaves_by, box, containers["half"]))
    assert not {*_ends(containers["half"]), *_ends(containers["acme"])} & await box.seen_by_firewall()
    stuck = {org: (await org_row(box, org))["no_way_out"] for org in containers}
    assert stuck.pop("half") == tuple(subnet for subnet in half["subnets"] if ":" in subnet)
    assert not any(stuck.values())


async def test_a_router_reaches_a_mapped_port_on_both_families_and_a_container_itself_on_none(box: Box) -> None:
    await box.push("globex", "dev", "mapped")
    app = box.instance("mapped")
    port = app.mapped_port(8080)
    assert await tcp_from(box, "router", CELL, port) == OPEN
    assert await tcp_from(box, "router", app) == REFUSED
    await box.delete("globex", "dev", "mapped")
    await becomes(REFUSED, partial(tcp_from, box, "router", CELL, port))


async def test_a_machine_and_a_container_meet_by_rule_only_on_both_families(box: Box) -> None:
    app, machine = await _app(box, "to-vm"), (VM_ADDRESS, VM_ADDRESS6)
    assert await tcp(box, app, machine, 5432) == REFUSED
    assert await tcp_from(box, "vm1", app) == REFUSED
    groups = {"web": ["acme/dev/to-vm"], "databases": [f"vm:{VM_NAME}"]}
    one = {"name": "in", "from": "web", "to": "databases", "services": ["tcp/5432"], "action": "allow"}
    answer = {"name": "back", "from": "databases", "to": "web", "services": ["tcp/8080"], "action": "allow"}
    box.add_rules("\n" + yaml.safe_dump({"groups": groups, "rules": {"application": {"payments": [one, answer]}}}))
    await becomes(OPEN, partial(tcp, box, app, machine, 5432))
    await becomes(OPEN, partial(tcp_from, box, "vm1", app))
    assert await tcp(box, app, machine, 22) == REFUSED
    box.add_rules("")
    await becomes(REFUSED, partial(tcp, box, app, machine, 5432))


# --- when things fail -------------------------------------------------------------------------------------------------


async def test_streams_of_both_families_live_and_refusals_stand_while_agent_and_bridge_die(box: Box) -> None:
    client, server = await _app(box, "steady"), await _app(box, "target")
    await box.add_policy("steady", "target")
    await becomes(OPEN, partial(tcp, box, client, server))
    await open_streams(box, client, server)
    for name in ("agent", "bridge"):
        box.kill(name)
        assert await tcp(box, client, server, 8081) == REFUSED
        assert await streams(box, client, box.flows) == [True, True]
        await back(box, name)
        assert await streams(box, client, box.flows) == [True, True]
        assert await tcp(box, client, server) == OPEN
        assert await tcp(box, client, server, 8081) == REFUSED


async def test_a_flush_is_healed_on_both_families_and_closes_both_until_then(box: Box) -> None:
    client, server = await _app(box, "flushed"), await _app(box, "flushed-to")
    await box.bind_asg("everything", EVERYTHING, "acme/dev")
    await box.add_policy("flushed", "flushed-to")
    await becomes(OPEN, partial(tcp, box, client, server))
    await becomes(OPEN, partial(tcp, box, client, EXT, 80))
    await open_streams(box, client, server)
    box.kill("agent")  # so that nobody heals it
    await asyncio.to_thread(box.lab.cell.run, "nft", "flush", "ruleset")
    assert "open" not in await tcp(box, client, server)
    assert "open" not in await tcp(box, client, EXT, 80)
    assert "open" not in await tcp_from(box, "router", server)
    await back(box, "agent")
    await becomes(OPEN, partial(tcp, box, client, server))
    await becomes([True, True], partial(streams, box, client, box.flows))
    assert await tcp(box, client, server, 8081) == REFUSED


# --- pools that change ------------------------------------------------------------------------------------------------


async def test_a_pool_gets_ipv6_and_loses_it_and_each_container_keeps_what_it_started_with(box: Box) -> None:
    old = await _app(box, "old", "late")
    await box.bind_asg("everything", EVERYTHING, "late/dev")
    await _with_pool(box, ["10.250.0.0/24", "fd00:99::/48"])
    new, twin = await _app(box, "new", "late"), await _app(box, "new-twin", "late")
    assert [old.address6, new.address6[:9], twin.address6[:9]] == ["", "fd00:99::", "fd00:99::"]
    await box.add_policy("new", "new-twin")
    await becomes(OPEN, partial(tcp, box, new, twin))
    await becomes([lab.CELL, lab.CELL6], partial(leaves_by, box, new))
    await open_streams(box, new, twin)
    await _with_pool(box, ["10.250.0.0/24"])
    assert (await _app(box, "newest", "late")).address6 == ""
    assert await streams(box, new, box.flows) == [True, True]
    assert await tcp(box, new, twin) == OPEN
    assert await tcp(box, new, twin, 8081) == REFUSED  # its groups say ::/0, and mean the outside still
    assert await tcp(box, twin, new) == REFUSED
    assert await leaves_by(box, new) == [lab.CELL, lab.CELL6]


async def _with_pool(box: Box, prefixes: list[str]) -> None:
    """The operator changes the pool `plain`, and the bridge starts anew."""
    path = box.directory / "bridge.yaml"
    said = yaml.safe_load(path.read_text())
    (pool,) = (each for each in said["pools"] if each["name"] == "plain")
    pool["prefixes"] = prefixes
    path.write_text(yaml.safe_dump(said))
    await restart(box, "bridge")
