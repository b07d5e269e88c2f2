"""On which PostgreSQL do tests run? On one of their own, which can be killed and paused like a real one's."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cfbridge.simulator import runs


class Server:
    """On a unix socket in a folder of its own. `close` ends it and removes the folder."""

    def __init__(self) -> None:
        self._folder = runs.folder()
        self.folder = self._folder.name
        self._identity: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            account = pwd.getpwnam(_user())
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            self._identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        subprocess.run(
            [
                _program("initdb"),
                "-D",
                self._cluster,
                "-U",
                "cfbridge",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "-N",
            ],
            check=True,
            capture_output=True,
            cwd=self.folder,
            timeout=120,
            **self._identity,
        )
        self._process = self._spawn()
        self._await_answer()

    @property
    def _cluster(self) -> str:
        return f"{self.folder}/cluster"

    def url(self, database: str) -> str:
        return f"postgresql://cfbridge@/{database}?host={self.folder}&port=5432"

    def kill(self) -> None:
        """All of its processes at once, as with the machine's power; what it promised is on its disk."""
        processes = [self._process.pid, *self._backends()]
        for each in (signal.SIGSTOP, signal.SIGKILL):  # nobody notices that another died
            _signal(processes, each)
        self._process.wait()
        _until(lambda: not any(map(_lives, processes)), "the backends to end")

    def start(self) -> None:
        """Again, after `kill`."""
        self._process = self._spawn()
        self._await_answer()

    def pause(self) -> None:
        """It neither answers nor hangs up. (The first alone may fork another while it is looked for.)"""
        _signal([self._process.pid], signal.SIGSTOP)
        _signal(self._backends(), signal.SIGSTOP)

    def resume(self) -> None:
        _signal([*self._backends(), self._process.pid], signal.SIGCONT)

    def close(self) -> None:
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        self._folder.cleanup()

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [_program("postgres"), "-D", self._cluster, "-k", self.folder, "-c", "listen_addresses="]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*command, "-c", "port=5432"], stdout=log, stderr=log, cwd=self.folder, **self._identity
            )

    @property
    def _log(self) -> Path:
        return Path(self.folder) / "log"

    def _await_answer(self) -> None:
        def answers() -> bool:
            assert self._process.poll() is None, self._log.read_text()
            asked = [_program("pg_isready"), "-q", "-h", self.folder, "-p", "5432"]
            return subprocess.run(asked, check=False).returncode == 0

        _until(answers, "PostgreSQL to come up")

    def _backends(self) -> list[int]:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        try:
            return [int(pid) for pid in children.read_text().split()]
        except OSError:
            return []


def _program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    path = str(found[-1]) if found else shutil.which(name)
    assert path, f"{name} is not installed; these tests need PostgreSQL (apt install postgresql)"
    return path


def _user() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _signal(processes: list[int], number: signal.Signals) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _until(condition: Any, what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def running() -> Iterator[Server]:
    """For a fixture."""
    server = Server()
    try:
        yield server
    finally:
        server.close()
