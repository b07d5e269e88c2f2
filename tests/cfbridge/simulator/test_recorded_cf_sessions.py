"""Does a `cf` user see what was seen on a real policy server? The recorded sessions, command by command.

A real `cf` on PATH plays them too; where there is none, there is no such test.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from cfbridge.simulator import seed
from cfbridge.simulator.box import Box, SimulatorConfig, serve
from cfbridge.simulator.policy_table import PolicyKey

from .cf import Cf

RECORDED = Path(__file__).parent / "recorded" / "cf"
RECORDED_API = "http://127.0.0.1:8180"
APPS = {"frontend": seed.FRONTEND, "backend": seed.BACKEND, "db": seed.DB, "spy": seed.SPY}
REAL = [name for name in ("cf7", "cf8") if shutil.which(name)]


@dataclass(frozen=True)
class Step:
    line: str
    output: str
    code: int

    @property
    def environment(self) -> dict[str, str]:
        return dict(word.split("=", 1) for word in shlex.split(self.line) if re.match(r"CF_[A-Z]+=", word))

    @property
    def arguments(self) -> list[str]:
        return [word for word in shlex.split(self.line) if not re.match(r"CF_[A-Z]+=", word)][1:]


Play = Callable[[Step, Box], Coroutine[None, None, tuple[str, int]]]


def steps_of(name: str) -> list[Step]:
    text = (RECORDED / f"{name}-session.txt").read_text()
    found = re.findall(r"^\$ (.*?)\n(.*?)^\[rc=(\d+)\]$", text, re.MULTILINE | re.DOTALL)
    assert len(found) == text.count("\n[rc=")
    return [Step(line, output, int(code)) for line, output, code in found]


def _ports(text: str) -> tuple[int, int]:
    start, _, end = text.partition("-")
    return int(start), int(end or start)


def left_from_earlier(steps: list[Step]) -> list[PolicyKey]:
    """What the first listing shows though no command of the session made it."""
    made: set[PolicyKey] = set()
    for step in steps:
        words = step.arguments
        if words[0] == "add-network-policy":
            protocol, ports = words[words.index("--protocol") + 1], words[words.index("--port") + 1]
            made.add(PolicyKey(APPS[words[1]], APPS[words[2]], protocol, *_ports(ports)))
        if words[0] == "network-policies":
            rows = [line.split() for line in step.output.splitlines()[3:]]
            shown = [PolicyKey(APPS[row[0]], APPS[row[1]], row[2], *_ports(row[3])) for row in rows]
            return [key for key in shown if key not in made]
    raise AssertionError("the session lists no policies")


def any_order(text: str) -> tuple[str, ...]:
    """Rows come in any order, tables are the only output where that can matter."""
    return tuple(sorted(text.splitlines())) if text.count("   ") > 5 else tuple(text.splitlines())


async def replay(name: str, directory: Path, player: Callable[[Box], Play]) -> list[tuple[Step, str, int]]:
    steps = steps_of(name)
    played: list[tuple[Step, str, int]] = []
    config = SimulatorConfig(directory, api_version="3.172.0")
    async with await serve(config) as box:
        box.state.policies.create(left_from_earlier(steps))
        play = player(box)
        for step in steps:
            text, code = await play(step, box)
            played.append((step, text.replace(box.foundation.api_url, RECORDED_API), code))
    return played


def by_stand_in(name: str, session: aiohttp.ClientSession) -> Callable[[Box], Play]:
    def player(box: Box) -> Play:
        cf = Cf(session, name, steps_of(name)[0].output.split()[-1])

        async def play(step: Step, box: Box) -> tuple[str, int]:
            words = [word.replace(RECORDED_API, box.foundation.api_url) for word in step.arguments]
            return await cf.run(words, step.environment)

        return play

    return player


def by_real_cli(name: str, home: Path) -> Callable[[Box], Play]:
    def player(box: Box) -> Play:
        async def play(step: Step, box: Box) -> tuple[str, int]:
            words = [word.replace(RECORDED_API, box.foundation.api_url) for word in step.arguments]
            environment = {**os.environ, **step.environment, "CF_HOME": str(home), "CF_COLOR": "false"}
            environment.pop("CF_TRACE", None)
            process = await asyncio.create_subprocess_exec(
                name,
                *words,
                env=environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await process.communicate()
            return output.decode(), process.returncode or 0

        return play

    return player


@pytest.mark.parametrize("name", ["cf7", "cf8"])
async def test_a_recorded_session_plays_the_same_on_the_simulator(name: str, certificate_directory: Path) -> None:
    async with aiohttp.ClientSession() as session:
        played = await replay(name, certificate_directory, by_stand_in(name, session))
    for step, text, code in played:
        assert (step.line, any_order(text), code) == (step.line, any_order(step.output), step.code)


# Parametrized over what is installed: with no CLI at all there is nothing to collect, and nothing is said to have run.
if REAL:

    @pytest.mark.parametrize("name", REAL)
    async def test_the_real_cli_plays_its_session_the_same(
        name: str, certificate_directory: Path, tmp_path: Path
    ) -> None:
        played = await replay(name, certificate_directory, by_real_cli(name, tmp_path))
        for step, text, code in played[1:]:
            assert (step.line, any_order(text), code) == (step.line, any_order(step.output), step.code)


def traced_requests(name: str) -> list[tuple[str, str]]:
    """Method and path of the last recorded `add-network-policy`."""
    text = (RECORDED / f"{name}-add-trace.txt").read_text()
    found = re.findall(r"^REQUEST: .*\n(GET|POST) (\S+) HTTP/1.1$", text, re.MULTILINE)
    last = max(index for index, (method, _) in enumerate(found) if method == "POST")
    return found[last - 2 : last + 1]


@pytest.mark.parametrize("name", ["cf7", "cf8"])
async def test_the_stand_in_asks_what_the_real_cli_asked(name: str, certificate_directory: Path) -> None:
    async with aiohttp.ClientSession() as session, await serve(SimulatorConfig(certificate_directory)) as box:
        cf = Cf(session, name)
        login = {"CF_USERNAME": "dev", "CF_PASSWORD": "dev"}
        for line in (f"api {box.foundation.api_url}", "auth", "target -o acme -s dev"):
            await cf.run(line.split(), login)
        cf.requests.clear()
        await cf.run(["add-network-policy", "frontend", "backend", "--protocol", "tcp", "--port", "4444"], {})
    asked = [(method, "/" + url.split("/", 3)[3]) for method, url, _ in cf.requests]
    assert asked == traced_requests(name)
