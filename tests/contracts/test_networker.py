"""Do networker and agent speak the same bytes, and does the networker behave as Garden relies on?

The networker runs as Guardian runs it: a process of its own, the extra argument first, stdin without newline.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfbridge.simulator import runs
from egress.values import RefusedError
from garden_plugin import networker
from garden_plugin.cell import door
from garden_plugin.cell.door import Answer, Request
from garden_plugin.cell.spool import Tombstones

NETWORKER = networker.__file__


def test_both_ends_agree_on_the_pinned_bytes() -> None:
    head, body = networker.request("net-in", "h ä".encode(), b'{"a":"\n"}')
    assert head + body == b'1 net-in 4 9\nh \xc3\xa4{"a":"\n"}'
    assert door.parse(head + body, 7) == Request("net-in", "h ä", b'{"a":"\n"}', 7)


def test_the_agent_answers_in_the_pinned_bytes() -> None:
    assert door.reply(Answer(True, '{"ü":1}')) == b'0{"\xc3\xbc":1}'
    assert door.reply(Answer(False, "no")) == b"1no"


def test_a_failure_is_one_line_that_a_terminal_can_show_whatever_the_handle() -> None:
    assert door.reply(Answer(False, "up of a\n\x1b[2J\u202e\ud800: no")) == rb"1up of a\n\x1b[2J\u202e\ud800: no"


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"1 up 1 1\nabc", b"2 up 1 1\nab", b"1 up 1 1\n\xffb", b"1 up -1 3\nab", b"GET / HTTP/1.1\r\n"],
)
def test_what_is_no_request_is_refused(content: bytes) -> None:
    with pytest.raises(RefusedError, match="did not understand the networker"):
        door.parse(content, None)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(content: bytes) -> None:
    with suppress(RefusedError):
        assert door.parse(content, None).action in content.decode("utf-8", "replace")


@given(st.sampled_from(networker.ACTIONS), st.text(), st.binary())
def test_any_handle_and_stdin_arrive_as_they_were(action: str, handle: str, stdin: bytes) -> None:
    head, body = networker.request(action, handle.encode("utf-8", "replace"), stdin)
    request = door.parse(head + body, None)
    assert (request.action, request.stdin) == (action, stdin)
    assert request.handle.encode() == handle.encode("utf-8", "replace")


@given(st.lists(st.text() | st.sampled_from(["--action", "--handle", "--configFile=x", "-action=up", "--handle=h"])))
def test_any_arguments_are_read_or_refused(words: list[str]) -> None:
    with suppress(networker.Failed):
        assert all(networker.arguments(words))


@given(st.binary() | st.text().map(lambda t: f'{{"socket":"/a","deadline_seconds":{t}}}'.encode()))
def test_any_config_file_is_read_or_refused(written: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file, suppress(networker.Failed):
        file.write(written)
        file.flush()
        socket_path, seconds, _ = networker.settings(file.name)
        assert socket_path.startswith("/")
        assert seconds > 0


@given(st.binary() | st.integers().map(lambda n: f'{{"Pid":{n}}}'.encode()))
def test_any_stdin_names_a_process_or_none(stdin: bytes) -> None:
    process = networker.process_of(stdin)
    assert process is None or process >= 0


@dataclass
class FakeAgent:
    """Takes each request whole, keeps it, and writes one reply."""

    directory: Path
    reply: bytes = b'0{"ok":1}'
    heard: list[tuple[bytes, list[int]]] = field(default_factory=list)
    """(bytes, inodes of the descriptors)"""

    def __post_init__(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.directory / "agent.sock"))
        self.listener.listen(300)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            content, inodes = b"", []
            while True:
                part, descriptors, _, _ = socket.recv_fds(connection, 65536, 4)
                for descriptor in descriptors:
                    inodes.append(os.fstat(descriptor).st_ino)
                    os.close(descriptor)
                if not part:
                    break
                content += part
            self.heard.append((content, inodes))
            connection.sendall(self.reply)
            connection.close()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    with runs.folder() as path:
        yield Path(path)


@pytest.fixture
def config(directory: Path) -> Path:
    path = directory / "networker.json"
    path.write_text(f'{{"socket": "{directory}/agent.sock", "deadline_seconds": 25}}')
    return path


@pytest.fixture
def agent(directory: Path) -> Iterator[FakeAgent]:
    agent = FakeAgent(directory)
    yield agent
    agent.close()


def run(*words: str | Path, stdin: bytes = b"null") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-I", "-S", NETWORKER, *map(str, words)],
        input=stdin,
        capture_output=True,
        timeout=60,
        process_group=0,
    )


def up_stdin(process: int | None = None) -> bytes:
    return b'{"Pid":%d,"Properties":{"org_id":"o"}}' % (os.getpid() if process is None else process)


def fails_in_one_line(done: subprocess.CompletedProcess[bytes], *said: str) -> None:
    assert done.returncode == 1
    assert done.stdout == b""
    line = done.stderr.decode()
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert "Traceback" not in line
    for word in said:
        assert word in line


def test_up_carries_stdin_and_the_namespace_and_prints_the_answer(agent: FakeAgent, config: Path) -> None:
    done = run(f"--configFile={config}", "--action", "up", "--handle", "h", stdin=up_stdin())
    assert (done.returncode, done.stdout, done.stderr) == (0, b'{"ok":1}', b"")
    head, body = networker.request("up", b"h", up_stdin())
    assert agent.heard == [(head + body, [os.stat("/proc/self/ns/net").st_ino])]


def test_down_carries_no_namespace(agent: FakeAgent, config: Path) -> None:
    assert run(f"--configFile={config}", "--action", "down", "--handle", "h").returncode == 0
    assert agent.heard == [(b"1 down 1 4\nhnull", [])]


@pytest.mark.parametrize("handle", ["-h", "--help", "--", "--action", "-handle=x"])
def test_a_handle_that_looks_like_a_switch_is_a_handle(agent: FakeAgent, config: Path, handle: str) -> None:
    assert run("--configFile", config, "--action", "down", "--handle", handle).returncode == 0
    head, body = networker.request("down", handle.encode(), b"null")
    assert agent.heard == [(head + body, [])]


@pytest.mark.parametrize(
    "words",
    [
        ("--action", "net-in", "--handle", "h"),
        ("--action=net-in", "--handle=h"),
        ("-action", "net-in", "-handle", "h"),
        ("-action=net-in", "-handle=h", "--verbose", "extra"),
    ],
)
def test_every_way_to_write_the_arguments_is_read(agent: FakeAgent, config: Path, words: tuple[str, ...]) -> None:
    assert run("something", "--configFile", config, *words, stdin=b"{}").stdout == b'{"ok":1}'
    assert agent.heard == [(b"1 net-in 1 2\nh{}", [])]


def test_a_large_stdin_and_a_large_answer_pass_whole(agent: FakeAgent, config: Path) -> None:
    stdin = up_stdin()[:-1] + b',"x":"' + b"y" * 1_500_000 + b'"}'
    agent.reply = b"0" + b"z" * 1_500_000
    done = run(f"--configFile={config}", "--action", "up", "--handle", "h", stdin=stdin)
    assert done.stdout == agent.reply[1:]
    assert agent.heard[0][0].endswith(stdin)


def test_a_refusal_is_one_line_and_nothing_on_stdout(agent: FakeAgent, config: Path) -> None:
    agent.reply = b"1the pool is full\nadd a prefix"
    done = run(f"--configFile={config}", "--action", "up", "--handle", "h", stdin=up_stdin())
    fails_in_one_line(done, "the pool is full add a prefix")


@pytest.mark.parametrize("action", ["up", "net-in", "net-out", "bulk-net-out"])
def test_without_agent_an_action_fails_and_names_what_is_away(config: Path, action: str) -> None:
    done = run(f"--configFile={config}", "--action", action, "--handle", "h", stdin=up_stdin())
    fails_in_one_line(done, "the agent at", "agent.sock is away")


def test_an_agent_that_dies_before_it_answers_is_away(agent: FakeAgent, config: Path) -> None:
    agent.reply = b""
    done = run(f"--configFile={config}", "--action", "up", "--handle", "h", stdin=up_stdin())
    fails_in_one_line(done, "went away before it answered")


def test_an_agent_that_hangs_is_away_after_the_deadline(directory: Path, config: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "agent.sock"))
        listener.listen(1)
        # the grace for the agent's own words comes on top; without it this test would wait for seconds
        source = Path(NETWORKER).read_text().replace("GRACE_SECONDS = 5.0", "GRACE_SECONDS = 0.05")
        impatient = directory / "networker.py"
        impatient.write_text(source)
        config.write_text(f'{{"socket":"{directory}/agent.sock","deadline_seconds":0.05}}')
        words = [
            sys.executable,
            "-I",
            "-S",
            str(impatient),
            f"--configFile={config}",
            "--action",
            "up",
            "--handle",
            "h",
        ]
        done = subprocess.run(words, input=up_stdin(), capture_output=True, timeout=60)
    fails_in_one_line(done, "did not answer within 0.1 s")


@pytest.mark.parametrize("spool", ["spool", "elsewhere"])
def test_without_agent_a_down_is_spooled_and_succeeds(directory: Path, config: Path, spool: str) -> None:
    if spool != "spool":
        config.write_text(f'{{"socket":"{directory}/agent.sock","spool_dir":"{directory}/{spool}"}}')
    for handle in ("one", "zwei ü"):
        done = run(f"--configFile={config}", "--action", "down", "--handle", handle)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert [handle for _, handle in Tombstones((f"{directory}/{spool}",)).waiting()] == ["one", "zwei ü"]


def test_a_down_that_can_not_be_spooled_fails_so_that_garden_tries_again(directory: Path, config: Path) -> None:
    (directory / "spool").write_text("a file, no directory")
    fails_in_one_line(run(f"--configFile={config}", "--action", "down", "--handle", "h"), "spool")


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",)])
def test_run_by_a_person_it_says_what_upstream_says(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 1
    assert done.stderr == b"cfnetworking: this is a plugin for Garden-runC.  Don't run it directly.\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--action", "up"), "--configFile is missing"),
        (("--configFile=/none", "--action", "up"), "--handle is missing"),
        (("--configFile=/none", "--handle", "h", "--action"), "--action needs a value"),
        (("--configFile=/none", "--handle", "h", "--action", "restore"), "unrecognized action: 'restore'"),
        (("--configFile=/none", "--handle", "h", "--action", "up"), "cannot read the config file '/none'"),
    ],
)
def test_wrong_arguments_are_named(words: tuple[str, ...], said: str) -> None:
    fails_in_one_line(run(*words), said)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "names no socket"),
        ("{}", "names no socket"),
        ('{"socket":"relative"}', "names no socket"),
        ('{"socket":7}', "names no socket"),
        ('{"socket":"/a","deadline_seconds":"soon"}', "not as expected"),
        ('{"socket":"/a","deadline_seconds":-1}', "deadline_seconds"),
        ('{"socket":"/a', "not as expected"),
        ('{"socket":"\\u002', "not as expected"),
        ('["\\u0020"]', "not as expected"),
    ],
)
def test_a_wrong_config_file_is_named(config: Path, written: str, said: str) -> None:
    config.write_text(written)
    fails_in_one_line(run(f"--configFile={config}", "--action", "up", "--handle", "h"), str(config), said)


def test_a_config_file_with_escapes_is_read(agent: FakeAgent, config: Path, directory: Path) -> None:
    config.write_text(f'{{\n  "deadline_seconds" : 25.5 ,\n "socket":"{directory}\\/agent.sock"}}')
    assert run(f"--configFile={config}", "--action", "down", "--handle", "h").returncode == 0
    assert agent.heard


def test_a_process_that_is_gone_is_named(agent: FakeAgent, config: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    done = run(f"--configFile={config}", "--action", "up", "--handle", "h", stdin=up_stdin(gone.pid))
    fails_in_one_line(done, f"network namespace of process {gone.pid}")


def test_pid_zero_means_descriptor_three(agent: FakeAgent, config: Path) -> None:
    script = 'exec "$0" -I -S "$@" 3</proc/self/ns/net'
    words = [NETWORKER, f"--configFile={config}", "--action", "up", "--handle", "h"]
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, *words], input=up_stdin(0), capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert agent.heard[0][1] == [os.stat("/proc/self/ns/net").st_ino]


def test_a_tenant_cannot_name_the_process() -> None:
    hostile = b'{"Properties":{"log_config":"{\\"Pid\\":1}","Pid":"2","x\\\\":"\\"pid\\":3"},"pid" : 4711}'
    assert networker.process_of(hostile) == 4711
    assert networker.process_of(b"null") is None


def test_it_imports_nothing_slow() -> None:
    source = "import sys; before = set(sys.modules)\n"
    source += f"exec(compile(open({NETWORKER!r}).read(), 'n', 'exec'), {{'__name__': 'n'}})\n"
    source += "print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_hundred_at_once_are_answered(agent: FakeAgent, config: Path) -> None:
    words = [sys.executable, "-I", "-S", NETWORKER, f"--configFile={config}", "--action", "up", "--handle"]
    running = [
        subprocess.Popen([*words, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in range(100)
    ]
    for process in running:
        assert process.stdin is not None
        process.stdin.write(up_stdin())
        process.stdin.close()
        process.stdin = None
    done = [process.communicate() for process in running]
    assert done == [(b'{"ok":1}', b"")] * 100
    assert len(agent.heard) == 100
