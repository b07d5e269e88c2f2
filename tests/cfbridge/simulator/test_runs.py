"""Is what a dead run left removed, and nothing else?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfbridge.simulator import runs
from cfbridge.simulator.lab import Lab

pytestmark = pytest.mark.packets

_RUN = """
import subprocess, sys, time
from pathlib import Path
from cfbridge.simulator import runs
from cfbridge.simulator.lab import Lab
lab, folder = Lab(), runs.folder(Path(sys.argv[1]))
wait = "import time; time.sleep(600)"
inside = subprocess.Popen(lab.cell.command(sys.executable, "-c", wait))
told = subprocess.Popen([sys.executable, "-c", wait, folder.name])
while not Path(f"/proc/{inside.pid}/cmdline").read_text().startswith(sys.executable):
    time.sleep(0.01)
subprocess.run(["mkdir", f"{folder.name}/mounted"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "none", f"{folder.name}/mounted"], check=True)
print(lab.cell.path, folder.name, inside.pid, told.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[list[str]]:
    """What a run left that was killed: a namespace, a folder with a mount, and two processes."""
    with subprocess.Popen([sys.executable, "-c", _RUN, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = process.stdout.readline().split()
        process.kill()
    yield left
    runs.reap(tmp_path)


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_processes_mounts_namespaces_and_folders_of_a_killed_run_are_removed(killed: list[str], tmp_path: Path) -> None:
    namespace, folder, *pids = killed
    assert all(map(_lives, pids))
    assert Path(folder, "mounted").is_mount()
    runs.reap(tmp_path)  # another box that starts just now may have removed the namespace
    until = time.monotonic() + 10
    while any(map(_lives, pids)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(_lives, pids))
    assert not Path(namespace).exists()
    assert not Path(folder).exists()


def test_what_a_living_run_uses_is_left_alone(killed: list[str], tmp_path: Path) -> None:
    with Lab() as living, runs.folder(tmp_path) as folder:
        runs.reap(tmp_path)
        assert living.cell.run("ip", "-br", "link", "show", "up0")
        assert Path(folder).is_dir()


@pytest.mark.parametrize("name", ["cfb-thing", "cfb-1.x-1-cell", "other-1.1-1-cell", "cfb-1.1"])
def test_what_is_not_named_as_a_runs_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    runs.reap(tmp_path)
    assert (tmp_path / name).is_dir()
