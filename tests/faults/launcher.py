"""How is `cfbridge` started so that it notes where it could die, and dies where it is told? As it is, with its seams
watched.

    python -m tests.faults.launcher serve|agent --config <directory>/….yaml

<directory>/faults/<role>.seen    written here: `=name kind|before or after|path` at a point's first passing, `+name` at
                                  each, `!name` at the last
<directory>/faults/<role>.arm     read here, whenever it changed: phase, and perhaps the points to die at, whichever is
                                  first, and the number of passings until then
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults import seams


@dataclass(frozen=True, slots=True)
class Arm:
    phase: str
    """`starting`, until whoever watches says `serving`: the same path may be walked in both."""
    points: tuple[str, ...] = ()
    passing: int = 1

    def write(self, path: Path) -> None:
        fresh = path.with_suffix(".fresh")
        fresh.write_text(json.dumps(asdict(self)))
        fresh.replace(path)


class Recorder:
    """What seams call. Used by every thread of the process."""

    def __init__(self, directory: Path, role: str) -> None:
        self._path = directory / f"{role}.arm"
        self._seen = os.open(directory / f"{role}.seen", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._known: set[str] = set()
        self._arm, self._written, self._left = Arm("starting"), (0, 0), 0
        self._lock = threading.Lock()

    def passed(self, kind: str, path: str, when: str) -> None:
        with self._lock:
            self._read()
            phase = self._arm.phase
            name = seams.name_of(f"{phase} {kind}", path, when)
            if name not in self._known:
                self._known.add(name)
                self._write(f"={name} {phase}|{kind}|{when}|{path}")
            self._write(f"+{name}")
            if name in self._arm.points:
                self._left -= 1
                if self._left == 0:
                    self._write(f"!{name}")
                    os.kill(os.getpid(), signal.SIGKILL)

    def _read(self) -> None:
        there = os.stat(self._path)
        now = (there.st_ino, there.st_mtime_ns)
        if now != self._written:
            with open(self._path) as file:
                self._arm = Arm(**json.load(file))
            self._written, self._left = now, self._arm.passing

    def _write(self, line: str) -> None:
        os.write(self._seen, f"{line}\n".encode())


def main(words: list[str]) -> None:
    directory = Path(words[words.index("--config") + 1]).parent / "faults"
    role = {"serve": "bridge", "agent": "agent"}[words[0]]
    recorder = Recorder(directory, role)
    seams.wrap(recorder.passed)
    if role == "bridge":
        seams.wrap_sql(recorder.passed)
    from cfbridge.cli import main as cfbridge

    sys.argv = ["cfbridge", *words]
    cfbridge()


if __name__ == "__main__":
    main(sys.argv[1:])
