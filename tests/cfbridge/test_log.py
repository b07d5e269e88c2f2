"""Is every log line one JSON object, whatever it is given?"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from cfbridge import log


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    written = io.StringIO()
    log.configure("info", written)
    yield written
    structlog.reset_defaults()
    root.handlers[:], root.level = before


def test_a_decision_is_one_json_line(stream: io.StringIO) -> None:
    structlog.get_logger("x").info("plan applied", revision=41, created=3)
    (line,) = stream.getvalue().splitlines()
    said = json.loads(line)
    assert (said["event"], said["level"], said["revision"], said["created"]) == ("plan applied", "info", 41, 3)
    assert said["time"].endswith("Z")


def test_what_is_below_the_level_is_not_written(stream: io.StringIO) -> None:
    structlog.get_logger("x").debug("noise")
    assert stream.getvalue() == ""


def test_a_line_is_written_even_of_what_json_has_no_word_for(stream: io.StringIO) -> None:
    structlog.get_logger("x").info("strange", thing={1, 2}, name="a\nb\udce9", number=1 << 70)
    (line,) = stream.getvalue().splitlines()
    said = json.loads(line)
    assert (said["event"], said["thing"] in ("{1, 2}", "{2, 1}")) == ("strange", True)
    assert (said["name"], said["number"]) == ("'a\\nb\\udce9'", str(1 << 70))


def test_an_exception_is_in_its_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("told why")
    except ValueError:
        structlog.get_logger("x").exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["exception"][0]["exc_value"] == "told why"


def test_what_others_log_has_the_same_shape(stream: io.StringIO) -> None:
    logging.getLogger("aiohttp.server").error("their %s", "words")
    logging.getLogger("aiohttp.server").info("their noise")
    (line,) = stream.getvalue().splitlines()
    said = json.loads(line)
    assert (said["event"], said["level"], said["logger"]) == ("their words", "error", "aiohttp.server")
