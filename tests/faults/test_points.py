"""Do the seams see what the product does, and do they name it the same each time?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.faults import points
from tests.faults.launcher import Arm
from tests.faults.points import SERVING, STARTING, Seen
from tests.faults.seams import ROOT

_WRITES = """
import sys
from pathlib import Path
from tests.faults import launcher, seams
directory = Path(sys.argv[1])
seams.wrap(launcher.Recorder(directory, "agent").passed)
from garden_plugin.cell.spool import Unacknowledged
spool = Unacknowledged(directory / "spool")
for number in range(3):
    spool.add(f"handle-{number}")
spool.acknowledged("handle-1")
"""


def _run(directory: Path, arm: Arm) -> tuple[int, Seen]:
    arm.write(directory / "agent.arm")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", _WRITES, str(directory)], env=environment, timeout=60)
    seen = Seen("agent", directory / "agent.seen")
    seen.read()
    return done.returncode, seen


def test_each_operation_is_a_point_before_and_after_it_by_the_way_that_led_there(tmp_path: Path) -> None:
    status, seen = _run(tmp_path, Arm(SERVING))
    assert status == 0
    kinds = {(point.kind, point.when) for point in seen.points.values()}
    assert {("file write", "before"), ("file replace", "after"), ("file unlink", "before")} <= kinds
    replaced = next(p for p in seen.points.values() if (p.kind, p.when) == ("file replace", "before"))
    assert [call.partition("+")[0] for call in replaced.path.split(">")] == [
        "garden_plugin.cell.spool:Unacknowledged.add",
        "garden_plugin.cell.spool:write_whole",
    ]
    assert seen.passed[replaced.name] == 3


def test_a_point_has_the_same_name_in_every_process_and_another_in_every_phase(tmp_path: Path) -> None:
    names = []
    for number, phase in enumerate((SERVING, SERVING, STARTING)):
        directory = tmp_path / str(number)
        directory.mkdir()
        names.append({*_run(directory, Arm(phase))[1].points})
    assert names[0] == names[1]
    assert names[0].isdisjoint(names[2])


def test_a_process_dies_at_the_passing_that_it_was_armed_for(tmp_path: Path) -> None:
    _, seen = _run(tmp_path, Arm(SERVING))
    replaced = next(p for p in seen.points.values() if (p.kind, p.when) == ("file replace", "before"))
    (tmp_path / "again").mkdir()
    status, seen = _run(tmp_path / "again", Arm(SERVING, (replaced.name,), 2))
    assert status == -signal.SIGKILL
    assert seen.died_at == [replaced.name]
    assert sorted(path.suffix for path in (tmp_path / "again" / "spool").iterdir()) == ["", ".new"]


def test_what_stands_in_the_source_is_found_on_the_ways_that_lead_there(tmp_path: Path) -> None:
    _, seen = _run(tmp_path, Arm(SERVING))
    paths = [point.path for point in seen.points.values()]
    reached = {str(site) for site in points.sites() if any(site.on(path) for path in paths)}
    assert {name for name in reached if "write_whole" in name} == {
        "garden_plugin/cell/spool.py: write_whole: beside.write_bytes",
        "garden_plugin/cell/spool.py: write_whole: os.replace",
    }
    assert len(points.sites()) > 60


def test_an_armed_point_is_written_whole(tmp_path: Path) -> None:
    Arm(STARTING, ("abc",), 4).write(tmp_path / "agent.arm")
    assert json.loads((tmp_path / "agent.arm").read_text()) == {"phase": STARTING, "points": ["abc"], "passing": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["agent.arm"]
