"""Does each word of the command line do what its help says, quickly, and fail in one sentence?"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import click
import pytest
from pydantic_core import to_jsonable_python
from structlog.testing import capture_logs

from cfbridge import cli
from cfbridge.api.views import Alarm
from cfbridge.client import AdminClient
from cfbridge.commands import daemons, tables
from cfbridge.config import load_agent, read_bridge
from cfbridge.edits import Edit, Verb
from tests.cfbridge.api.serving import Running
from tests.cfbridge.api.world import SNAPSHOT, FakeFacade

NEEDS_MORE = ("serve", "agent", "demo", "sim")
"""Their examples start daemons or change the box; their own tests run them."""

BRIDGE_YML = """
foundations:
  - name: cf
    api: https://api.example.com
    client_id: cfbridge
    client_secret_file: /secret
    policy_server: {url: "https://policy-server:4003"}
pools: [{name: overlay, kind: container, prefixes: [10.240.0.0/14]}]
"""


POLICY = "groups: {a: [10.0.0.1]}"
WHOLE = """
groups: {old: [10.0.0.1]}
vms: {old: {addresses: [10.0.0.9], tags: {tier: db}}}
rules:
  environment:
    zones: [{name: first, action: drop}, {name: second, action: drop}]
"""


@pytest.fixture
def bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    running = Running(FakeFacade(), tmp_path)
    monkeypatch.setenv("CFBRIDGE_SOCKET", running.socket)
    monkeypatch.delenv("CFBRIDGE_URL", raising=False)
    monkeypatch.delenv("CFBRIDGE_TOKEN", raising=False)
    with capture_logs():  # else what the bridge says would be among what the command says
        yield running
    running.close()


def every_command(
    command: click.Command, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if words:
        yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from every_command(below, (*words, name))


COMMANDS = dict(every_command(cli.cfbridge))


def example_of(command: click.Command) -> list[str]:
    found = re.search(r"Example:\n\s+cfbridge (.+)", command.help or "")
    assert found, f"the help of {command.name} has no example"
    return found[1].split()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_commands_help_has_an_example_of_it(words: tuple[str, ...]) -> None:
    assert tuple(example_of(COMMANDS[words])[: len(words)]) == words


@pytest.mark.parametrize("words", [w for w in COMMANDS if w[0] not in NEEDS_MORE], ids=" ".join)
def test_every_example_runs(
    bridge: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    (tmp_path / "bridge.yml").write_text(BRIDGE_YML)
    (tmp_path / "policy.yaml").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    bridge.publish(*(f"groups: {{g{number}: [10.0.0.1]}}" for number in range(7)), WHOLE)  # one of them is revision 7
    bridge.draft("zones", Edit(Verb.REMOVE, "rule", "first"))
    assert cli.run(example_of(COMMANDS[words])) == 0


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_example_is_understood(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    rest = example_of(command)[len(words) :]
    needed = ["--api", "http://127.0.0.1:1"] if words[0] == "sim" and len(words) > 1 else []
    assert command.make_context(words[-1], rest + needed, resilient_parsing=isinstance(command, click.Group))


LISTS = [
    *(((kind, "list"), f"{kind}s") for kind in ("foundation", "cell", "org", "pool", "asg", "workload", "rule", "vm")),
    *(((kind, "list"), f"{kind}s") for kind in ("revision", "draft")),
    (("policy", "list"), "policies"),
    (("group", "list"), "groups"),
]


@pytest.mark.parametrize(
    "kind",
    ["foundation", "cell", "org", "pool", "policy", "asg", "workload", "rule", "vm", "group", "revision", "draft"],
)
def test_every_list_is_a_table_for_people_and_json_for_programs(
    bridge: Running, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    bridge.publish(POLICY)
    bridge.draft("zones", Edit(Verb.SET, "group", "b", []))
    assert cli.run([kind, "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert cli.run([kind, "list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(lines) - 1 > 0


@pytest.mark.parametrize(("words", "resource"), LISTS)
def test_the_command_line_says_what_the_api_says(
    bridge: Running, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], resource: str
) -> None:
    """hubble-ui#1125: the one saw drops that the other did not."""

    async def rows() -> list[dict[str, object]]:
        async with AdminClient.local(bridge.socket) as client:
            return [asdict(row) async for row in client.list(resource)]

    bridge.publish(POLICY)
    bridge.draft("zones", Edit(Verb.SET, "group", "b", []))
    assert cli.run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == to_jsonable_python(asyncio.run(rows()))


def test_every_list_there_is_is_compared_with_the_api() -> None:
    assert {words for words in COMMANDS if words[-1] == "list"} == {words for words, _ in LISTS}


def test_orgs_are_a_table_as_cf_prints_them(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["org", "list"])
    assert capsys.readouterr().out == (
        "name       mode     subnets         leaves as     no way out   workloads   refused\n"
        "acme       nat      10.240.1.0/24   203.0.113.7                2\n"
        "globex     shared                                              0\n"
        "newcomer   shared                                              1\n"
    )


def test_guids_are_shown_only_when_asked_for(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["workload", "list"])
    assert "cf:" not in capsys.readouterr().out
    cli.run(["workload", "list", "--guids", "--app", "backend"])
    assert "cf:app-back" in capsys.readouterr().out


def test_a_long_list_is_read_to_its_end(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    policy = next(iter(SNAPSHOT.inventory["cf"].policies))
    many = frozenset(replace(policy, first_port=port, last_port=port) for port in range(1, 1202))
    inventory = {"cf": replace(SNAPSHOT.inventory["cf"], policies=many)}
    bridge.facade.snapshot = replace(SNAPSHOT, inventory=inventory)
    cli.run(["policy", "list", "--json"])
    assert len(json.loads(capsys.readouterr().out)) == 1201


def test_an_empty_list_says_so(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["org", "list", "--name", "nobody"]) == 0
    assert capsys.readouterr().out == "No orgs found.\n"


def test_a_cell_is_shown_with_all_that_is_known_of_it(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["cell", "show", "cell-1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["connected", "yes"] in lines
    assert ["reached", "revision", "41"] in lines


def test_a_cell_that_is_connected_is_not_removed(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["cell", "remove", "cell-1"]) == cli.REFUSED
    assert "CELL_CONNECTED" in capsys.readouterr().err
    assert cli.run(["cell", "remove", "cell-9"]) == 0
    assert bridge.facade.removed == ["cell-9"]


def test_what_is_held_is_shown_with_what_it_waits_for_and_some_of_it(
    bridge: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["held", "show"]) == 0
    assert capsys.readouterr().out == (
        "foundation   kind       held     since                  until                  looks\n"
        "cf           policies   2 of 2   2027-01-15T08:00:00Z   2027-01-15T08:01:00Z   1 of 3\n"
        "\n"
        "cf policies:\n"
        "  acme/dev/backend to acme/dev/frontend udp/5000-5100\n"
        "  acme/dev/frontend to acme/dev/backend tcp/8080\n"
    )
    assert cli.run(["held", "show", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["count"], row["discarded"]) == (2, 0)


@pytest.mark.parametrize("verdict", ["apply", "discard"])
def test_what_is_held_is_applied_or_discarded_as_a_person_says(
    bridge: Running, capsys: pytest.CaptureFixture[str], verdict: str
) -> None:
    assert cli.run(["held", verdict, "--kind", "apps"]) == 0
    assert capsys.readouterr().out == "Nothing is held.\n"
    assert bridge.facade.decided == []
    assert cli.run(["held", verdict, "--foundation", "cf"]) == 0
    assert capsys.readouterr().out.startswith("2 policies of cf ")
    assert cli.run(["held", verdict, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"id": "cf:policies", "verdict": verdict, "count": 2}]
    assert bridge.facade.decided == [("cf", "policies", verdict == "apply")] * 2


def test_status_is_one_line_when_all_is_well(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["status"]) == 0
    assert capsys.readouterr().out == "ok: 3 workloads on 1 cell, revision 41\n"


def test_status_ends_with_3_when_degraded(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    bridge.facade.alarms = (Alarm("degraded", "CELL_AWAY", "the agent of cell-1 is not connected"),)
    assert cli.run(["status"]) == 3
    assert capsys.readouterr().out == "degraded: the agent of cell-1 is not connected\n"
    assert cli.run(["status", "--json"]) == 3


def test_by_url_a_token_is_needed(
    bridge: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CFBRIDGE_URL", bridge.server.addresses[1])
    assert cli.run(["status"]) == 1
    assert "CFBRIDGE_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("CFBRIDGE_TOKEN", bridge.server.token)
    assert cli.run(["status"]) == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["status", "--socket", "/nowhere/api.sock"], 3, "Is `cfbridge serve` running? (UNAVAILABLE)"),
        (["status", "--url", "http://127.0.0.1:1"], 3, "(UNAVAILABLE)"),
        (["status", "--url", "gopher://x"], 1, "(BAD_URL)"),
        (["status", "--url", "http://127.0.0.1:port"], 1, "(BAD_URL)"),
        (["config", "check", "/nowhere.yml"], 1, "can not be read"),
        (["ogr", "list"], 2, "Did you mean 'org'?"),
        (["org", "list", "--gids"], 2, "--guids"),
        (["sim", "push", "frontend", "--api", "http://127.0.0.1:1"], 2, "ORG/SPACE/APP"),
        (["serve"], 2, "--config"),
        (["serve", "--config", "/nowhere.yml"], 1, "can not be read"),
        (["agent", "--config", "/nowhere.yml"], 1, "can not be read"),
    ],
)
def test_an_error_is_a_sentence_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, says: str
) -> None:
    assert cli.run(words) == code
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said


def test_config_check_names_the_line_and_the_nearest_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bridge.yml"
    path.write_text(BRIDGE_YML.replace("client_id", "client_ids"))
    assert cli.run(["config", "check", str(path)]) == 1
    assert re.search(r"line 5, column \d+: .*did you mean 'client_id'\?", capsys.readouterr().err)


def test_config_check_reads_the_intent_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "intent.yml").write_text("groups: {a: [nonsense]}")
    path = tmp_path / "bridge.yml"
    path.write_text(f"{BRIDGE_YML}intent_file: {tmp_path}/intent.yml\n")
    assert cli.run(["config", "check", str(path)]) == 1
    assert "names nothing" in capsys.readouterr().err


def test_an_agent_told_in_the_bridges_file_gets_a_file_of_its_own(tmp_path: Path) -> None:
    settings = read_bridge(f"{BRIDGE_YML}state_dir: {tmp_path}/state\ncell: {{name: cell-1, uplinks: [eth0]}}\n")
    written = daemons.with_agent_file(settings)
    assert settings.cell is not None
    assert written.cell is not None
    assert load_agent(written.cell.agent_config) == settings.cell.agent
    assert Path(written.cell.agent_config).stat().st_mode & 0o777 == 0o600


def test_names_can_not_move_the_terminals_cursor(
    bridge: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "a\x1b[2Jb\n\u202e\ud800" + "n" * 10_000
    assert cli.run(["cell", "remove", hostile]) == 1
    assert cli.run(["config", "check", str(tmp_path / "\x1b[2J\u202e")]) == 1
    written = capsys.readouterr()
    for line in (written.out + written.err).splitlines():
        assert line.isprintable()
    assert tables.table(["name"], [["a\x1b[2Jb\n"], ["日本"]]).splitlines()[1] == r"a\x1b[2Jb\n"


@pytest.mark.parametrize("words", [["--help"], ["org", "list", "--help"], ["org", "list", "--json"]])
def test_asking_imports_nothing_heavy(bridge: Running, words: list[str]) -> None:
    look = (
        "import sys; from cfbridge import cli; code = cli.run(sys.argv[1:]); "
        "heavy = {'aiohttp', 'pydantic', 'structlog', 'sqlalchemy', 'yaml', 'rich', 'msgspec', 'asyncio'}; "
        "print('\\nHEAVY', sorted(heavy & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", look, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY [] 0"


def test_a_plan_says_in_words_what_would_change_and_changes_nothing(
    bridge: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bridge.publish("{groups: {a: [10.0.0.1]}, vms: {old: {addresses: [10.0.0.9]}}}")
    file = tmp_path / "policy.yaml"
    file.write_text("groups: {a: [10.0.0.1, 10.0.0.2], web: 'tag tier = \"web\"'}")
    assert cli.run(["plan", "-f", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "~ group a",
        "    members: 10.0.0.1 → 10.0.0.1, 10.0.0.2",
        "+ group web",
        '    criteria: tag tier = "web"',
        "- vm old",
        "1 to add, 1 to change, 1 to remove.",
    ]
    assert len(bridge.facade.history) == 1


def test_what_is_applied_is_exported_and_applied_again_changes_nothing(
    bridge: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    assert cli.run(["apply", "-f", str(file), "--reason", "SEC-112"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Revision 1 is in force."
    assert cli.run(["export"]) == 0
    file.write_text(capsys.readouterr().out)
    assert cli.run(["apply", "-f", str(file)]) == 0
    assert capsys.readouterr().out == "Nothing changes.\n"
    assert cli.run(["revision", "list"]) == 0
    assert "SEC-112" in capsys.readouterr().out
    assert len(bridge.facade.history) == 1


def test_a_rollback_says_what_it_changed(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    bridge.publish(POLICY, "{}")
    assert cli.run(["revision", "show", "1"]) == 0
    assert capsys.readouterr().out == "cfbridge: v1\ngroups:\n  a:\n  - 10.0.0.1\n"
    assert cli.run(["revision", "rollback", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["1 to add.", "Revision 3 is in force."]
    assert cli.run(["revision", "rollback", "9"]) == 1
    assert "There is no revision 9. (REVISION_UNKNOWN)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (b"grups: {}", "line 1, column 8: grups: unknown key 'grups'; did you mean 'groups'? (UNKNOWN_KEY)"),
        (b"\xff", "is not UTF-8. (FILE_UNREADABLE)"),
        (None, "can not be read: No such file or directory (FILE_UNREADABLE)"),
    ],
)
def test_a_file_that_can_not_be_published_is_refused_in_words(
    bridge: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str], written: bytes | None, says: str
) -> None:
    file = tmp_path / "policy.yaml"
    if written is not None:
        file.write_bytes(written)
    assert cli.run(["apply", "-f", str(file)]) == 1
    assert says in capsys.readouterr().err
    assert bridge.facade.history == ()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["group", "set", "web", "--criteria", 'app ~ "web-*"'], ["+ group web", '    criteria: app ~ "web-*"']),
        (["tag", "add", "vm:old", "env=prod"], ["~ vm old", "    tags: tier=db → env=prod, tier=db"]),
        (["tag", "add", "acme/dev/web", "a=b=c"], ["+ tags acme/dev/web", "    a: b=c"]),
        (["rule", "move", "second", "--before", "first"], ["> rule second", "    now first of its tier"]),
        (["rule", "set", "first", "--from", "old", "--no-log"], ["~ rule first", "    from: nothing → old"]),
        (["vm", "remove", "old"], ["- vm old"]),
    ],
)
def test_one_thing_is_changed_or_planned_only(
    bridge: Running, capsys: pytest.CaptureFixture[str], words: list[str], says: list[str]
) -> None:
    bridge.publish(WHOLE)
    assert cli.run([*words, "--plan"]) == 0
    planned = capsys.readouterr().out.splitlines()
    assert planned[: len(says)] == says
    assert len(bridge.facade.history) == 1
    assert cli.run([*words, "--why", "SEC-112"]) == 0
    assert capsys.readouterr().out.splitlines() == [*planned, "Revision 2 is in force."]
    assert bridge.facade.history[0].reason == "SEC-112"


def test_a_tag_without_a_value_is_refused_in_words(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["tag", "add", "org:acme", "prod"]) == 1
    assert "'prod' is no tag; write KEY=VALUE. (TAG_INVALID)" in capsys.readouterr().err


def test_edits_are_collected_in_a_draft_shown_and_published_as_one_revision(
    bridge: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge.publish(WHOLE)
    monkeypatch.setenv("CFBRIDGE_DRAFT", "zones")
    assert cli.run(["rule", "remove", "second"]) == 0
    assert cli.run(["rule", "set", "first", "--action", "reject"]) == 0
    capsys.readouterr()
    assert cli.run(["draft", "show", "zones"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["~ rule first", "    action: drop → reject", "- rule second", "1 to change, 1 to remove."]
    assert len(bridge.facade.history) == 1
    assert cli.run(["draft", "publish", "zones"]) == 0
    assert capsys.readouterr().out.splitlines() == [*shown, "Revision 2 is in force."]
    assert bridge.facade.history[0].reason == "draft zones"
    assert cli.run(["draft", "discard", "zones"]) == 1
    assert "There is no draft 'zones'. (DRAFT_UNKNOWN)" in capsys.readouterr().err
