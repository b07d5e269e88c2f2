"""Does the box's DNS answer what it knows, and only that?"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cfbridge.simulator import dns

NAMES = {"db.example": "10.30.0.5", ".apps.example": "192.0.2.20"}


def addresses(said: bytes | None) -> tuple[int, str]:
    """(response code, the address answered or "")."""
    assert said is not None
    _, flags, _, answers, _, _ = struct.unpack_from("!HHHHHH", said)
    return flags & 15, socket.inet_ntoa(said[-4:]) if answers else ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("db.example", (0, "10.30.0.5")),
        ("DB.Example", (0, "10.30.0.5")),
        ("shop.apps.example", (0, "192.0.2.20")),
        ("a.b.apps.example", (0, "192.0.2.20")),
        ("apps.example", (3, "")),
        ("else.where", (3, "")),
    ],
)
def test_a_name_is_answered_from_the_table(name: str, expected: tuple[int, str]) -> None:
    assert addresses(dns.answer(dns.query(name), NAMES)) == expected


def test_a_known_name_without_such_a_record_is_empty_and_not_unknown() -> None:
    ipv6 = dns.query("db.example")[:-4] + struct.pack("!HH", 28, 1)
    assert addresses(dns.answer(ipv6, NAMES)) == (0, "")


@pytest.mark.parametrize("damaged", [b"", b"\0" * 5, dns.query("db.example")[:-5], dns.query("x" * 63)[:20]])
def test_damaged_queries_are_refused_or_passed_over(damaged: bytes) -> None:
    said = dns.answer(damaged, NAMES)
    assert said is None or addresses(said) == (1, "")


def test_an_answer_is_not_answered() -> None:
    said = dns.answer(dns.query("db.example"), NAMES)
    assert said is not None
    assert dns.answer(said, NAMES) is None


@pytest.fixture
def port() -> Iterator[int]:
    command = [
        sys.executable,
        "-m",
        "cfbridge.simulator.dns",
        "--address",
        "127.0.0.1",
        "--port",
        "0",
        "db.example=10.30.0.5",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["listening"]
    finally:
        process.kill()
        process.communicate()


def test_it_answers_by_both_protocols(port: int) -> None:
    asked = dns.query("db.example")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        asking.sendto(asked, ("127.0.0.1", port))
        assert addresses(asking.recv(512)) == (0, "10.30.0.5")
    with socket.create_connection(("127.0.0.1", port), 5) as asking:
        asking.sendall(struct.pack("!H", len(asked)) + asked[:7])
        asking.sendall(asked[7:])
        with asking.makefile("rb") as answers:
            length = struct.unpack("!H", answers.read(2))[0]
            assert addresses(answers.read(length)) == (0, "10.30.0.5")
