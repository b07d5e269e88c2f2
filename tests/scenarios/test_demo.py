"""Does `cfbridge demo --check` keep its word: judged steps, one JSON object, and nothing left behind?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cfbridge.demo.installation import ROOT

pytestmark = pytest.mark.packets

COMMAND = [sys.executable, "-m", "cfbridge", "demo", "--check", "--json"]


def _told(*command: str) -> list[str]:
    return sorted(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())


def _traces(demo: int) -> dict[str, list[str]]:
    """What a demo of that process could leave on this machine. Other boxes may come and go meanwhile."""
    run = ROOT / ".run"
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    processes = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/environ")
        if f"CFB_TEST_DEMO={os.getpid()}\0" in _text(path)
    ]
    return {
        "namespaces": sorted(path.name for path in Path("/run/netns").glob(f"cfb-{demo}.*")),
        "mounts": [line for line in mounts if f"cfb-{demo}." in line],
        "processes": processes,
        "rules": _told("ip", "rule"),
        "routes": _told("ip", "route", "show", "table", "all"),
        "tables": _told("nft", "list", "tables"),
        "boxes": sorted(path.name for path in run.glob(f"cfb-{demo}.*")) if run.is_dir() else [],
    }


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:  # ended meanwhile
        return ""


def _demo() -> subprocess.Popen[str]:
    environment = {**os.environ, "CFB_TEST_DEMO": str(os.getpid())}
    return subprocess.Popen(
        COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_the_demo_plays_as_expected_says_so_in_json_and_leaves_nothing() -> None:
    before = _traces(0)
    demo = _demo()
    said, complaints = demo.communicate(timeout=90)
    assert demo.returncode == 0, said + complaints
    story = json.loads(said)
    assert story.keys() == {"ok", "seconds", "dataplane", "steps"}
    assert (story["ok"], story["dataplane"]) == (True, "linux")
    assert len(story["steps"]) > 30
    assert all(step.keys() == {"name", "expected", "seen", "ok"} and step["ok"] for step in story["steps"])
    assert _traces(demo.pid) == before


def test_a_demo_that_is_told_to_end_in_the_middle_leaves_nothing() -> None:
    before = _traces(0)
    demo = _demo()
    deadline = time.monotonic() + 60
    while not any(Path("/run/netns").glob(f"cfb-{demo.pid}.*-cell")) or len(_traces(demo.pid)["processes"]) < 6:
        assert demo.poll() is None, demo.stderr and demo.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    demo.send_signal(signal.SIGTERM)
    _, complaints = demo.communicate(timeout=60)
    assert demo.returncode == 3, complaints
    assert "Traceback" not in complaints
    assert _traces(demo.pid) == before
