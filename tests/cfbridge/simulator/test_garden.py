"""Does the simulated Guardian do what the real one was seen to do? (Recorded stdin; a networker that keeps notes.)"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cfbridge.simulator import garden
from cfbridge.simulator.garden import ContainerSpec, GardenError, Guardian

RECORDED = Path(__file__).parents[2] / "garden_plugin" / "garden"
CALLS = [json.loads(line) for line in (RECORDED / "calls.jsonl").read_text().splitlines()]

NOTES = """#!{python} -IS
import os, sys
stdin = sys.stdin.buffer.read()
action = sys.argv[sys.argv.index('--action') + 1]
with open({directory!r} + '/notes', 'ab') as notes:
    own_group = os.getpgrp() == os.getpid()
    alive = action == 'up' and os.path.exists('/proc/%d/ns/net' % eval(stdin, {{'null': None}})['Pid'])
    notes.write(repr((sys.argv[1:], stdin, own_group, os.environ.get('FROM_GDN'), alive)).encode() + b'\\n')
answer = {directory!r} + '/' + action
if os.path.exists(answer):
    sys.stdout.write(open(answer).read())
if os.path.exists(answer + '.fails'):
    sys.stderr.write('no way\\n')
    sys.exit(3)
"""


@pytest.fixture
async def guardian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Guardian]:
    plugin = tmp_path / "networker"
    plugin.write_text(NOTES.format(python=sys.executable, directory=str(tmp_path)))
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("FROM_GDN", "yes")
    properties = {"garden.network.container-ip": "10.240.0.4", "garden.network.mapped-ports": "[]"}
    (tmp_path / "up").write_text(json.dumps({"properties": properties, "dns_servers": ["169.254.0.53"]}))
    async with Guardian(str(plugin), ["--configFile=/x.json"], retry_seconds=0.01) as guardian:
        yield guardian


def notes(tmp_path: Path) -> list[tuple[list[str], bytes, bool, str, bool]]:
    return [ast.literal_eval(line) for line in (tmp_path / "notes").read_text().splitlines()]


def test_stdin_is_byte_for_byte_what_was_recorded() -> None:
    recorded = next(call["stdin_raw"] for call in CALLS if "up" in call["argv"])
    known = json.loads(recorded)
    named = {f"network.{k}": v for k, v in known["Properties"].items() if k != "log_config"}
    spec = ContainerSpec(
        "h",
        {"executor:owner": "executor", "log_config": known["Properties"]["log_config"], **named},
        [(each["host_port"], each["container_port"]) for each in known["netin"]],
        known["netout_rules"],
    )
    assert garden.up_stdin(spec, known["Pid"]) == recorded.encode()


def test_a_health_check_shows_its_one_property() -> None:
    assert garden.up_stdin(garden.health_check_spec("check-1"), 27169) in [call["stdin_raw"].encode() for call in CALLS]


def test_diego_sends_six_properties_and_the_names() -> None:
    spec = garden.diego_spec(
        "h", org="o", space="s", app="a", org_name="acme", space_name="dev", app_name='<"ü&', netin=[(0, 61001)]
    )
    sent = json.loads(garden.up_stdin(spec, 1))["Properties"]
    assert sorted(sent) == [
        "app_id",
        "container_workload",
        "log_config",
        "org_id",
        "policy_group_id",
        "ports",
        "space_id",
    ]
    assert json.loads(sent["log_config"])["tags"]["app_name"] == '<"ü&'
    assert garden.diego_spec("h", org="o", space="s", app="a", lifecycle="task", netin=[(0, 1)]).netin == ()


def test_go_leaves_out_zero_values_and_escapes_html() -> None:
    rule = {
        "log": False,
        "icmps": {"type": 0, "code": 0},
        "networks": [{"start": "1.1.1.1", "end": "1.1.1.1"}],
        "protocol": 3,
    }
    assert garden.go_json(garden.net_out_rule(rule)) == (
        b'{"protocol":3,"networks":[{"start":"1.1.1.1","end":"1.1.1.1"}],"icmps":{"code":0}}'
    )
    assert garden.go_json("<&>") == b'"\\u003c\\u0026\\u003e"'


@pytest.mark.packets
async def test_create_calls_up_with_a_process_in_a_namespace_of_its_own(guardian: Guardian, tmp_path: Path) -> None:
    container = await guardian.create(ContainerSpec("h"))
    assert os.stat(container.netns).st_ino != os.stat("/proc/self/ns/net").st_ino
    ((words, stdin, own_group, from_gdn, alive),) = notes(tmp_path)
    assert words == ["--configFile=/x.json", "--action", "up", "--handle", "h"]
    assert stdin == b'{"Pid":%d,"Properties":{}}' % container.pid
    assert (own_group, from_gdn, alive) == (True, "yes", True)
    assert container.address == "10.240.0.4"
    assert container.dns_servers == ("169.254.0.53",)


@pytest.mark.packets
async def test_a_user_process_runs_in_the_containers_namespace_and_ends_with_it(guardian: Guardian) -> None:
    container = await guardian.create(ContainerSpec("h"))
    looking = await guardian.run("h", ["readlink", "/proc/self/ns/net"])
    printed, _ = await asyncio.to_thread(looking.communicate)
    assert printed.decode().strip() == os.readlink(container.netns)
    sleeping = await guardian.run("h", ["sleep", "1000"])
    await guardian.destroy("h")
    assert sleeping.returncode == -9


@pytest.mark.packets
async def test_destroy_kills_first_and_then_calls_down(guardian: Guardian, tmp_path: Path) -> None:
    container = await guardian.create(ContainerSpec("h"))
    pid = container.pid
    await guardian.destroy("h")
    assert not os.path.exists(f"/proc/{pid}")
    assert notes(tmp_path)[-1][:2] == (["--configFile=/x.json", "--action", "down", "--handle", "h"], b"null")
    assert guardian.containers == {}
    with pytest.raises(GardenError, match="unknown handle: h"):
        await guardian.destroy("h")


async def test_a_runtime_that_fails_gets_a_down_without_an_up(guardian: Guardian, tmp_path: Path) -> None:
    with pytest.raises(GardenError, match="runc run"):
        await guardian.create(ContainerSpec("h", runtime_fails=True))
    assert [note[0][2] for note in notes(tmp_path)] == ["down"]
    assert guardian.containers == {}


@pytest.mark.packets
@pytest.mark.parametrize("answer", ['{"properties":{"x":1}}', "{} trailing", "{"])
async def test_an_answer_that_go_could_not_read_fails_the_create(
    guardian: Guardian, tmp_path: Path, answer: str
) -> None:
    (tmp_path / "up").write_text(answer)
    with pytest.raises(GardenError, match="unmarshaling result"):
        await guardian.create(ContainerSpec("h"))
    assert [note[0][2] for note in notes(tmp_path)] == ["up", "down"]


@pytest.mark.packets
async def test_a_failing_up_is_told_in_guardians_words_and_gets_a_down(guardian: Guardian, tmp_path: Path) -> None:
    (tmp_path / "up.fails").touch()
    with pytest.raises(GardenError, match="encountered an error running 'up' action: exit status 3") as failure:
        await guardian.create(ContainerSpec("h"))
    assert failure.value.stderr == "no way\n"
    assert [call.action for call in guardian.calls] == ["up", "down"]


@pytest.mark.packets
async def test_a_failing_down_keeps_the_handle_until_it_works(guardian: Guardian, tmp_path: Path) -> None:
    await guardian.create(ContainerSpec("h"))
    (tmp_path / "down.fails").touch()
    with pytest.raises(GardenError, match="'down' action"):
        await guardian.destroy("h")
    assert [*guardian.containers] == ["h"]
    (tmp_path / "down.fails").unlink()
    await guardian.destroy("h")
    assert guardian.containers == {}


@pytest.mark.packets
async def test_a_restart_makes_no_calls_unless_it_destroys(guardian: Guardian) -> None:
    await asyncio.gather(*(guardian.create(ContainerSpec(f"h{n}")) for n in range(8)))
    await guardian.restart()
    assert [call.action for call in guardian.calls] == ["up"] * 8
    await guardian.restart(destroy_containers=True)
    assert sorted(call.handle for call in guardian.calls if call.action == "down") == [f"h{n}" for n in range(8)]
    assert guardian.containers == {}


@pytest.mark.packets
async def test_net_in_is_recorded_by_guardian_itself(guardian: Guardian, tmp_path: Path) -> None:
    container = await guardian.create(ContainerSpec("h"))
    (tmp_path / "net-in").write_text('{"host_port":61007,"container_port":9090}')
    assert await guardian.net_in("h", 0, 9090) == (61007, 9090)
    assert container.mapped_ports == {9090: 61007}
    sent = b'{"HostIP":"192.0.2.10","HostPort":0,"ContainerIP":"10.240.0.4","ContainerPort":9090}'
    assert notes(tmp_path)[-1][1] == sent


@pytest.mark.packets
async def test_net_out_and_bulk_net_out_send_the_recorded_bytes(guardian: Guardian, tmp_path: Path) -> None:
    await guardian.create(ContainerSpec("h"))
    one = json.loads((RECORDED / "net-out-0.stdin.json").read_text())
    many = json.loads((RECORDED / "bulk-net-out-0.stdin.json").read_text())
    await guardian.net_out("h", one["netout_rule"])
    await guardian.bulk_net_out("h", many["netout_rules"])
    await guardian.bulk_net_out("h", None)
    recorded = [(RECORDED / f"{name}.stdin.json").read_bytes() for name in ("net-out-0", "bulk-net-out-0")]
    expected = [content.replace(b"10.255.7.151", b"10.240.0.4") for content in recorded]
    assert [note[1] for note in notes(tmp_path)[1:]] == [
        *expected,
        b'{"container_ip":"10.240.0.4","netout_rules":null}',
    ]
