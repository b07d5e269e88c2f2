"""Does the agent do what Garden relies on? Against a fake bridge and a dataplane in a dict."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from egress.values import RefusedError
from garden_plugin import agent as agent_module
from garden_plugin import wire
from garden_plugin.cell.drifts import AT_ONCE
from garden_plugin.cell.spool import hash_of
from garden_plugin.dataplane.cell import device_name
from tests.garden_plugin.conftest import CHECK, Cell, app


async def test_up_answers_exactly_what_garden_expects(cell: Cell) -> None:
    async with cell.agent():
        ok, printed = await cell.up("one", app(8080, 2222))
    assert ok
    assert json.loads(printed) == {
        "properties": {
            "garden.network.container-ip": "10.240.0.4",
            "garden.network.host-ip": "255.255.255.255",
            "garden.network.mapped-ports": (
                '[{"HostPort":61000,"ContainerPort":8080},{"HostPort":61001,"ContainerPort":2222}]'
            ),
            "garden.network.interface": "eth0",
        },
        "dns_servers": ["169.254.0.53"],
    }


async def test_a_second_family_and_search_domains_are_answered_where_they_are(cell: Cell) -> None:
    cell.change(search_domains=("apps.internal",))
    cell.bridge.second_family = True
    async with cell.agent():
        _, printed = await cell.up("one")
    assert json.loads(printed)["properties"]["garden.network.container-ipv6"] == "fd00::4"
    assert json.loads(printed)["search_domains"] == ["apps.internal"]


async def test_up_is_answered_only_when_the_revision_is_in_force(cell: Cell) -> None:
    async with cell.agent():
        await cell.bridge.hears(lambda b: b.of(wire.Reached))
        cell.bridge.withhold_spans = True
        up = asyncio.create_task(cell.up("one"))
        await cell.bridge.hears(lambda b: b.of(wire.Attach))
        done, _ = await asyncio.wait([up], timeout=0.1)
        assert not done
        assert not cell.dataplane.links
        cell.bridge.withhold_spans = False
        cell.bridge.publish()
        assert (await up)[0]
        assert device_name("one") in cell.dataplane.links


async def test_a_repeated_up_gets_the_same_answer(cell: Cell) -> None:
    async with cell.agent():
        first = await cell.up("one", app(8080))
        assert await cell.up("one", app(8080)) == first
        assert len(cell.bridge.of(wire.Attach)) == 1


async def test_another_container_by_the_same_handle_replaces_the_old_one(cell: Cell) -> None:
    async with cell.agent():
        await cell.up("one")
        other = os.open("/dev/null", os.O_RDONLY)
        ok, _ = await cell.up("one", netns=other)
        os.close(other)
        assert ok
        assert [d.handle for d in cell.bridge.of(wire.Detached)] == ["one"]
        assert len(cell.dataplane.links) == 1


async def test_down_leaves_nothing_and_tells_the_bridge(cell: Cell) -> None:
    async with cell.agent():
        await cell.up("one", app(8080))
        assert await cell.call("down", "one") == (True, "")
        assert not cell.dataplane.links
        assert not cell.namespaces.held
        await cell.bridge.hears(lambda b: b.of(wire.Detached))
        assert not cell.bridge.leases


async def test_down_of_an_unknown_handle_and_twice_is_fine(cell: Cell) -> None:
    async with cell.agent():
        assert await cell.call("down", "never seen") == (True, "")
        await cell.up("one")
        assert await cell.call("down", "one") == (True, "")
        assert await cell.call("down", "one") == (True, "")


async def test_a_health_check_needs_no_bridge(cell: Cell) -> None:
    await cell.bridge.stop()
    async with cell.agent():
        ok, printed = await cell.up("check-1", CHECK)
        assert ok
        assert json.loads(printed)["properties"]["garden.network.container-ip"] == "169.254.64.1"
        assert cell.dataplane.links[device_name("check-1")].isolated
        assert await cell.call("down", "check-1") == (True, "")
        assert not cell.dataplane.links


async def test_down_needs_no_bridge_and_is_told_when_it_is_back(cell: Cell) -> None:
    async with cell.agent():
        await cell.up("one")
        await cell.bridge.stop()
        assert await cell.call("down", "one") == (True, "")
    await cell.bridge.start()
    async with cell.agent():
        await cell.bridge.hears(lambda b: b.of(wire.Detached))


async def test_an_up_without_bridge_fails_by_its_deadline_and_names_it(cell: Cell) -> None:
    await cell.bridge.stop()
    cell.change(deadline_seconds=0.3)
    async with cell.agent():
        ok, line = await cell.up("one", app(8080))
    assert not ok
    assert "the bridge at" in line
    assert "is away" in line
    assert not cell.namespaces.held


async def test_an_up_without_dataplane_fails_by_its_deadline_names_it_and_is_rolled_back(cell: Cell) -> None:
    cell.change(deadline_seconds=0.5)
    async with cell.agent():
        await cell.bridge.hears(lambda b: b.of(wire.Reached))
        cell.dataplane.fails = "netlink: no buffer space"
        up = asyncio.create_task(cell.up("one"))
        await asyncio.sleep(0.7)
        cell.dataplane.fails = ""
        ok, line = await up
        assert not ok
        assert "netlink: no buffer space" in line
        assert await cell.call("down", "one") == (True, "")
        assert not cell.dataplane.links
        await cell.bridge.hears(lambda b: not b.leases)


async def test_a_refusal_of_the_bridge_is_passed_on_and_rolled_back(cell: Cell) -> None:
    cell.change(mapped_ports=(61000, 61000))
    cell.bridge.deny = [wire.Denied(0, "IP_POOL_EXHAUSTED", "pool overlay is full; add a prefix to it", False)]
    async with cell.agent():
        ok, line = await cell.up("one", app(8080))
        assert (ok, line) == (False, "pool overlay is full; add a prefix to it (IP_POOL_EXHAUSTED)")
        assert not cell.namespaces.held
        cell.clock += 301
        assert (await cell.up("two", app(8080)))[0]


async def test_a_bridge_that_is_not_ready_is_asked_again(cell: Cell) -> None:
    cell.bridge.deny = [wire.Denied(0, "NOT_READY", "the foundation was not read yet", True)]
    async with cell.agent():
        assert (await cell.up("one"))[0]


async def test_a_bridge_that_restarts_in_the_middle_of_an_up_is_asked_again(cell: Cell) -> None:
    async with cell.agent():
        await cell.bridge.hears(lambda b: b.of(wire.Reached))
        cell.bridge.silent = True
        up = asyncio.create_task(cell.up("one"))
        await cell.bridge.hears(lambda b: b.of(wire.Attach))
        await cell.bridge.stop()
        cell.bridge.silent = False
        cell.bridge.revision = 0
        await cell.bridge.start()
        assert (await up)[0]


async def test_a_bridge_that_counts_from_anew_is_not_taken_for_being_ahead(cell: Cell) -> None:
    async with cell.agent():
        for handle in ("a", "b", "c"):
            await cell.up(handle)
        await cell.bridge.stop()
        cell.bridge.revision = 0
        cell.bridge.heard.clear()
        await cell.bridge.start()
        await cell.bridge.hears(lambda b: b.of(wire.Reached))
        cell.bridge.withhold_spans = True
        up = asyncio.create_task(cell.up("d"))
        await cell.bridge.hears(lambda b: b.of(wire.Attach))
        done, _ = await asyncio.wait([up], timeout=0.1)
        assert not done
        cell.bridge.withhold_spans = False
        cell.bridge.publish()
        assert (await up)[0]


async def test_a_bridge_of_an_older_epoch_is_not_followed(cell: Cell) -> None:
    cell.bridge.epoch = 7
    cell.change(deadline_seconds=0.3)
    async with cell.agent():
        await cell.up("one")
        await cell.bridge.stop()
        cell.bridge.epoch = 6
        await cell.bridge.start()
        ok, line = await cell.up("two")
        assert not ok
        assert "epoch 6" in line


async def test_a_container_that_its_span_does_not_hold_waits(cell: Cell) -> None:
    cell.change(deadline_seconds=0.5)
    async with cell.agent():
        await cell.bridge.hears(lambda b: b.of(wire.Reached))
        cell.bridge.network = lambda: type(network)(cell.bridge.revision)  # type: ignore[method-assign]
        network = type(cell.bridge)("").network()
        ok, line = await cell.up("one")
        assert not ok
        assert "holds this container" in line
        assert not cell.dataplane.links


async def test_a_restarted_agent_adopts_and_tears_nothing_down(cell: Cell) -> None:
    async with cell.agent():
        first = await cell.up("one", app(8080))
        await cell.up("check-1", CHECK)
    before = dict(cell.dataplane.links)
    cell.bridge.heard.clear()
    async with cell.agent():
        await cell.bridge.hears(lambda b: b.of(wire.Reached))
        assert cell.dataplane.links == before
        assert cell.dataplane.detached == 0
        (hello,) = cell.bridge.of(wire.Hello)
        assert [(p.handle, p.addresses, p.mapped_ports) for p in hello.ports] == [
            ("one", ("10.240.0.4",), (wire.MappedPort(61000, 8080),))
        ]
        assert await cell.up("one", app(8080)) == first


async def test_a_restarted_agent_without_bridge_keeps_what_is_in_force(cell: Cell) -> None:
    async with cell.agent():
        await cell.up("one")
    await cell.bridge.stop()
    async with cell.agent():
        assert (await cell.up("check-1", CHECK))[0]
        assert sorted(cell.dataplane.links) == sorted([device_name("one"), device_name("check-1")])


async def test_after_a_reboot_absent_containers_are_released(cell: Cell) -> None:
    async with cell.agent():
        await cell.up("one", app(8080))
    cell.boot_id = "boot-2"
    cell.namespaces.held.clear()
    cell.dataplane.links.clear()
    cell.bridge.heard.clear()
    async with cell.agent():
        await cell.bridge.hears(lambda b: b.of(wire.Detached))
        assert cell.bridge.of(wire.Hello)[0].ports == ()
        _, printed = await cell.up("two", app(8080))
        assert '"HostPort\\":61001' in printed


async def test_a_released_mapped_port_rests_over_a_restart(cell: Cell) -> None:
    cell.change(mapped_ports=(61000, 61000))
    async with cell.agent():
        await cell.up("one", app(8080))
        await cell.call("down", "one")
    async with cell.agent():
        ok, line = await cell.up("two", app(8080))
        assert not ok
        assert "allocating port: port pool exhausted" in line
        cell.clock += 301
        assert (await cell.up("two", app(8080)))[0]


async def test_spooled_downs_run_before_a_new_up(cell: Cell) -> None:
    async with cell.agent():
        await cell.up("one")
    spool = Path(cell.config.socket).parent / "spool"
    spool.mkdir()
    (spool / "1-1.down").write_text("one")
    async with cell.agent():
        assert not cell.dataplane.links
        (spool / "2-1.down").write_text("two")
        assert (await cell.up("two"))[0]
        assert not [*spool.iterdir()]
        assert [*cell.dataplane.links] == [device_name("two")]


async def test_a_hundred_spooled_downs_run_before_a_new_up_and_share_their_work(cell: Cell) -> None:
    handles = [f"app-{n}" for n in range(100)]
    async with cell.agent():
        assert all(ok for ok, _ in await asyncio.gather(*(cell.up(h) for h in handles)))
    spool = Path(cell.config.socket).parent / "spool"
    spool.mkdir()
    for number, handle in enumerate(handles):
        (spool / f"{number:020d}-1.down").write_text(handle)
    cell.dataplane.detached = 0
    async with cell.agent():
        assert (await cell.up("new"))[0]
        assert [*cell.dataplane.links] == [device_name("new")]
        assert not [*spool.iterdir()]
        assert cell.dataplane.detached < 50
        await cell.bridge.hears(lambda b: [*b.leases] == ["new"])


async def test_a_handle_that_comes_up_again_after_spooled_downs_of_it_is_another_container(cell: Cell) -> None:
    spool = Path(cell.config.socket).parent / "spool"
    async with cell.agent():
        _, first = await cell.up("one")
        spool.mkdir()
        (spool / "1-1.down").write_text("one")
        (spool / "2-1.down").write_text("one")
        ok, second = await cell.up("one")
        assert ok
        assert first != second
        assert [*cell.dataplane.links] == [device_name("one")]
        assert not [*spool.iterdir()]
        kinds = [type(m) for m in cell.bridge.heard if isinstance(m, wire.Attach | wire.Detached)]
        assert kinds[0] is wire.Attach
        assert wire.Detached in kinds[:-1]
        assert kinds[-1] is wire.Attach


async def test_an_up_whose_bridge_goes_midway_ends_by_its_deadline_names_it_and_leaves_nothing(cell: Cell) -> None:
    cell.change(deadline_seconds=1.0)
    async with cell.agent():
        await cell.bridge.hears(lambda b: b.of(wire.Reached))
        cell.bridge.silent = True
        up = asyncio.create_task(cell.up("one", app(8080)))
        await cell.bridge.hears(lambda b: b.of(wire.Attach))
        await cell.bridge.stop()
        ok, line = await up
        assert not ok
        assert "gave up after 1 s" in line
        assert "the bridge at" in line
        assert "is away" in line
        assert not cell.namespaces.held
        assert not cell.dataplane.links


async def test_an_up_that_was_granted_and_whose_bridge_goes_before_its_span_is_in_force_with_the_next(
    cell: Cell,
) -> None:
    async with cell.agent():
        await cell.bridge.hears(lambda b: b.of(wire.Reached))
        cell.bridge.withhold_spans = True
        up = asyncio.create_task(cell.up("one"))
        await cell.bridge.hears(lambda b: b.of(wire.Attach))
        done, _ = await asyncio.wait([up], timeout=0.1)
        assert not done
        await cell.bridge.stop()
        cell.bridge.withhold_spans = False
        await cell.bridge.start()
        assert (await up)[0]
        assert [*cell.dataplane.links] == [device_name("one")]


async def test_a_hello_says_which_epoch_was_followed(cell: Cell) -> None:
    cell.bridge.epoch = 7
    async with cell.agent():
        await cell.bridge.hears(lambda b: b.of(wire.Reached))
        await cell.bridge.stop()
        await cell.bridge.start()
        await cell.bridge.hears(lambda b: len(b.of(wire.Hello)) == 2)
        assert [hello.epoch for hello in cell.bridge.of(wire.Hello)] == [0, 7]


async def test_a_bridge_that_takes_the_hello_and_says_nothing_is_named(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("garden_plugin.bridge_client.WELCOME_SECONDS", 0.05)
    cell.bridge.silent = True
    cell.change(deadline_seconds=1.0)
    async with cell.agent():
        ok, line = await cell.up("one")
    assert not ok
    assert "did not answer within 0.05 s" in line


async def test_a_boot_id_that_cannot_be_read_is_refused_in_words(cell: Cell) -> None:
    cell.boot_id = ""
    cell.change(boot_id_file="/nowhere/boot_id")
    with pytest.raises(RefusedError, match="correct boot_id_file"):
        async with cell.agent():
            pass


async def test_net_in_adds_a_mapped_port_and_tells_the_bridge(cell: Cell) -> None:
    async with cell.agent():
        await cell.up("one", app(8080))
        stdin = {"HostIP": "192.0.2.10", "HostPort": 0, "ContainerIP": "10.240.0.4", "ContainerPort": 9090}
        assert await cell.call("net-in", "one", stdin) == (True, '{"host_port":61001,"container_port":9090}')
        (update,) = cell.bridge.of(wire.Update)
        assert update.port.mapped_ports == (wire.MappedPort(61000, 8080), wire.MappedPort(61001, 9090))
        assert cell.dataplane.links[device_name("one")].mapped_ports == update.port.mapped_ports


async def test_net_in_with_a_host_port_in_use_is_refused(cell: Cell) -> None:
    async with cell.agent():
        await cell.up("one", app(8080))
        await cell.up("two")
        ok, line = await cell.call("net-in", "two", {"HostPort": 61000, "ContainerPort": 9090})
        assert not ok
        assert "61000 is in use by one" in line


async def test_net_in_of_an_unknown_handle_is_refused(cell: Cell) -> None:
    async with cell.agent():
        assert (await cell.call("net-in", "one", {"HostPort": 0, "ContainerPort": 1}))[1].startswith("cannot find")


async def test_net_out_and_bulk_net_out_are_in_force_when_answered(cell: Cell) -> None:
    tcp = {"protocol": 1, "networks": [{"start": "8.8.8.8", "end": "8.8.8.8"}], "ports": [{"start": 53, "end": 53}]}
    async with cell.agent():
        await cell.up("one")
        assert await cell.call("net-out", "one", {"container_ip": "x", "netout_rule": tcp}) == (True, "")
        assert await cell.call("bulk-net-out", "one", {"netout_rules": [tcp, {"protocol": 2}]}) == (True, "")
        assert await cell.call("bulk-net-out", "one", {"netout_rules": None}) == (True, "")
        updates = cell.bridge.of(wire.Update)
        assert [len(u.port.added_net_out) for u in updates] == [1, 2]
        assert cell.bridge.of(wire.Reached)[-1].revision >= cell.bridge.revision


async def test_a_net_out_that_fails_is_as_if_never_asked(cell: Cell) -> None:
    cell.bridge.deny = []
    async with cell.agent():
        await cell.up("one")
        cell.bridge.deny = [wire.Denied(0, "STORE", "disk full", False)]
        assert not (await cell.call("net-out", "one", {"netout_rule": {"protocol": 1}}))[0]
        await cell.bridge.hears(lambda b: len(b.of(wire.Update)) == 2)
        assert cell.bridge.of(wire.Update)[-1].port.added_net_out == ()


async def test_drift_is_told_to_the_bridge(cell: Cell) -> None:
    async with cell.agent():
        await cell.bridge.hears(lambda b: b.of(wire.Reached))
        cell.dataplane.drifted("table inet cfbridge was flushed")
        await cell.bridge.hears(lambda b: b.of(wire.Drifted))


async def test_drift_while_the_bridge_is_away_is_told_when_it_is_back(cell: Cell) -> None:
    await cell.bridge.stop()
    async with cell.agent():
        cell.dataplane.drifted("rule of chain forward was added")
        await cell.bridge.start()
        await cell.bridge.hears(lambda b: b.of(wire.Drifted))
    assert cell.bridge.of(wire.Drifted) == [wire.Drifted("rule of chain forward was added")]


async def test_who_meddles_a_hundred_times_is_told_a_few_times(cell: Cell) -> None:
    async with cell.agent():
        await cell.bridge.hears(lambda b: b.of(wire.Reached))
        for number in range(100):
            cell.dataplane.drifted(f"touch {number}")
        assert (await cell.up("one"))[0]
    assert len(cell.bridge.of(wire.Drifted)) == AT_ONCE


async def test_a_record_that_somebody_deletes_is_written_again_and_said(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "SPOOL_SECONDS", 0.05)
    async with cell.agent():
        assert (await cell.up("one"))[0]
        path = Path(cell.config.state_dir, "ports", hash_of("one"))
        written = path.read_bytes()
        path.unlink()
        await cell.bridge.hears(lambda b: b.of(wire.Drifted))
        assert path.read_bytes() == written
    assert "the record of one was deleted on disk" in cell.bridge.of(wire.Drifted)[0].what


async def test_a_bug_that_ends_healing_ends_the_agent_loudly_and_leaves_the_network(cell: Cell) -> None:
    async def until_it_ends() -> None:
        async with cell.agent():
            assert (await cell.up("one"))[0]
            cell.dataplane.broken(KeyError("a bug"))
            await asyncio.sleep(30)

    with pytest.raises(ExceptionGroup) as ended:
        await until_it_ends()
    assert ended.group_contains(KeyError)
    assert [*cell.dataplane.links] == [device_name("one")]


@pytest.mark.parametrize("stdin", [b"", b"null", b"[]", b'{"Pid":"x"}', b'{"Pid":1,"netin":7}', b"{" * 100_000])
async def test_bad_stdin_leaves_nothing(cell: Cell, stdin: bytes) -> None:
    async with cell.agent():
        ok, line = await cell.up("one", stdin)
        assert not ok
        assert "stdin from Garden" in line
        assert not cell.namespaces.held


async def test_an_unknown_action_is_refused(cell: Cell) -> None:
    async with cell.agent():
        assert await cell.call("restore", "one") == (False, "unrecognized action: restore (UNKNOWN_ACTION)")


async def test_a_second_agent_on_the_same_state_is_refused(cell: Cell) -> None:
    async with cell.agent():
        with pytest.raises(Exception, match="another agent works"):
            async with cell.agent():
                pass


async def test_a_hundred_at_once_up_then_down_share_their_work(cell: Cell) -> None:
    handles = [f"app-{n}" for n in range(100)]
    cell.dataplane.pause_seconds = 0.02
    async with cell.agent():
        await cell.bridge.hears(lambda b: b.of(wire.Reached))
        answers = await asyncio.gather(*(cell.up(h, app(8080)) for h in handles))
        assert all(ok for ok, _ in answers)
        addresses = {json.loads(printed)["properties"]["garden.network.container-ip"] for _, printed in answers}
        assert len(addresses) == len(cell.dataplane.links) == 100
        assert cell.dataplane.converged < 50
        twice = [*handles, *handles, *(f"unknown-{n}" for n in range(50))]
        assert all(ok for ok, _ in await asyncio.gather(*(cell.call("down", h) for h in twice)))
        assert not cell.dataplane.links
        assert not cell.namespaces.held
        assert cell.dataplane.detached < 50
        await cell.bridge.hears(lambda b: not b.leases)


async def test_a_container_that_cannot_be_plugged_is_refused_at_once_and_stops_nobody(cell: Cell) -> None:
    cell.dataplane.unpluggable[device_name("bad")] = "its network namespace has an eth0 already"
    async with cell.agent():
        (bad, line), (good, _) = await asyncio.gather(cell.up("bad"), cell.up("good"))
        assert (bad, good) == (False, True)
        assert "has an eth0 already" in line
        assert [*cell.dataplane.links] == [device_name("good")]


async def test_a_container_that_stands_is_not_unplugged_by_a_span_that_lacks_it(cell: Cell) -> None:
    async with cell.agent():
        await cell.up("one")
        cell.bridge.leases.clear()
        cell.bridge.publish()
        await cell.bridge.hears(lambda b: b.of(wire.Reached)[-1].revision == b.revision)
        assert [*cell.dataplane.links] == [device_name("one")]


async def test_an_up_waits_until_the_bridge_knows_that_the_last_one_of_this_handle_ended(cell: Cell) -> None:
    async with cell.agent():
        await cell.up("one")
        await cell.bridge.stop()
        await cell.call("down", "one")
        await cell.bridge.start()
        assert (await cell.up("one"))[0]
        kinds = [type(m) for m in cell.bridge.heard if isinstance(m, wire.Attach | wire.Detached)]
        assert kinds == [wire.Attach, wire.Detached, wire.Attach]
        assert "one" in cell.bridge.leases


async def test_a_bridge_that_goes_is_logged_once_and_once_more_when_it_is_back(cell: Cell) -> None:
    await cell.bridge.stop()
    cell.change(deadline_seconds=0.5)
    async with cell.agent():
        await cell.up("one")  # meanwhile it tried several times
        assert len(cell.log.of("bridge away")) == 1
        await cell.bridge.start()
        await cell.bridge.hears(lambda b: b.of(wire.Reached))
        assert len(cell.log.of("bridge connected")) == 1
        await cell.bridge.stop()
        await cell.up("two")
        assert len(cell.log.of("bridge away")) == 2
