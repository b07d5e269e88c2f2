"""Does the policy server answer as the real one was recorded? Every recorded case, in the order it was played."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from cfbridge.simulator import certificates
from cfbridge.simulator.box import SimulatorConfig, serve

RECORDED = Path(__file__).parent / "recorded" / "policy_server"
CASES = sorted(RECORDED.glob("*.json"))
BY_DEV = {"03-whoami-dev-403", "22-create-quota-60-ports"}
ALERT = "37-internal-no-client-cert"
CHANGING = {"Date", "X-Vcap-Request-Id"}
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Answer:
    status: int | None
    headers: dict[str, str]
    body: str


def caller(name: str) -> str:
    if name in BY_DEV or "-dev-" in name:
        return "dev"
    return "nobody" if "-nobody-" in name else "admin"


async def play(directory: Path) -> dict[str, Answer]:
    # As recorded: self-service off, a quota of 50, and an ASG syncer that had not looked yet.
    config = SimulatorConfig(directory, policy_quota=50, asg_sync_seconds=None)
    answers: dict[str, Answer] = {}
    async with await serve(config) as box, aiohttp.ClientSession() as session:
        tokens = {user.name: box.tokens.for_user(user, "cf", "password")[0] for user in box.state.users.values()}

        async def ask(name: str, request: dict[str, Any]) -> Answer:
            recorded = urlsplit(request["url"])
            base = box.foundation.internal_url if recorded.port == 4003 else box.foundation.policy_url
            url = base + recorded.path + (f"?{recorded.query}" if recorded.query else "")
            body = request["body"]
            content = body if isinstance(body, str) else None if body is None else json.dumps(body)
            headers = {"Connection": "close"}
            if request["auth"]:
                real = request["auth"] == "bearer eyJ"
                headers["Authorization"] = f"bearer {tokens[caller(name)] if real else 'garbage'}"
            context = certificates.client_context(box.certificates, with_certificate=name != ALERT)
            try:
                async with session.request(
                    request["method"], url, data=content, headers=headers, ssl=context
                ) as response:
                    got = {key.decode(): value.decode() for key, value in response.raw_headers}
                    return Answer(response.status, got, (await response.read()).decode())
            except aiohttp.ClientConnectionError as refused:
                return Answer(None, {}, repr(refused))

        for case in CASES:
            answers[case.stem] = await ask(case.stem, json.loads(case.read_text())["request"])
        box.state.sync_groups()
        url = "https://127.0.0.1:4003/networking/v1/internal/security_groups"
        answers["50"] = await ask("50", {"method": "GET", "url": url, "body": None, "auth": ""})
    return answers


@pytest.fixture(scope="module")
def answers(certificate_directory: Path) -> dict[str, Answer]:
    return asyncio.run(play(certificate_directory))


def expected(case: Path) -> dict[str, Any]:
    response: dict[str, Any] = json.loads(case.read_text())["response"]
    return response


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_the_status_is_as_recorded(case: Path, answers: dict[str, Answer]) -> None:
    assert answers[case.stem].status == expected(case)["status"]


@pytest.mark.parametrize("case", [case for case in CASES if case.stem != ALERT], ids=lambda case: case.stem)
def test_the_body_is_as_recorded(case: Path, answers: dict[str, Answer]) -> None:
    body, recorded = answers[case.stem].body, expected(case)["body"]
    if case.stem == "01-uptime":
        assert re.fullmatch(r"Network policy server, up for [0-9.]+(ms|s)\n", body)
    elif isinstance(recorded, int):
        # A time in nanoseconds, of which the database keeps microseconds.
        assert re.fullmatch(r"\d{16}000", body)
    elif isinstance(recorded, str):
        assert body == recorded
    else:
        # Dumped again, so that the order of keys counts.
        assert json.dumps(json.loads(body)) == json.dumps(recorded)


@pytest.mark.parametrize("case", [case for case in CASES if case.stem != ALERT], ids=lambda case: case.stem)
def test_the_headers_are_as_recorded(case: Path, answers: dict[str, Answer]) -> None:
    got = {key.title(): value for key, value in answers[case.stem].headers.items()}
    recorded = {key.title(): value for key, value in expected(case)["headers"].items()}
    assert got.keys() == recorded.keys()
    free = CHANGING | ({"Content-Length"} if case.stem == "01-uptime" else set())
    assert {k: v for k, v in got.items() if k not in free} == {k: v for k, v in recorded.items() if k not in free}
    assert UUID.fullmatch(got.get("X-Vcap-Request-Id", "0" * 8 + "-0000" * 3 + "-" + "0" * 12))


def test_groups_are_listed_to_the_byte_once_the_syncer_has_looked(answers: dict[str, Answer]) -> None:
    recorded = (RECORDED / "50-internal-security-groups-synced.txt").read_text().replace("\r\n", "\n")
    assert answers["50"].body == recorded.partition("\n\n")[2].strip()


def test_the_database_time_moved_between_the_first_and_the_last_look(answers: dict[str, Answer]) -> None:
    first, last = (answers[name].body for name in ("05-internal-last-updated-0", "34-internal-last-updated-1"))
    assert int(first) < int(last)
