"""Whose is it? Every namespace and every folder of a run carries the run's id: `cfb-<run>-<label>`.

A run is a part of a process: its pid, when that started (in ticks since boot, since pids are reused), and a number of
its own. So what a dead one left behind can be told from what a living one uses, and `reap` removes that alone:
processes, mounts, namespaces and folders.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

PREFIX = "cfb-"
NETNS = Path("/run/netns")

_MNT_DETACH = 2
_NAME = re.compile(rf"{PREFIX}(\d+)\.(\d+)-\d+-")
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)


def new_id() -> str:
    return f"{os.getpid()}.{_started(os.getpid())}-{next(_numbers)}"


def folder(parent: Path | None = None) -> tempfile.TemporaryDirectory[str]:
    """A scratch folder that says whose it is; gone when it is closed, or with the next `reap` of its parent."""
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{new_id()}-", dir=parent, ignore_cleanup_errors=True)


def reap(*parents: Path) -> list[str]:
    """Remove what runs left whose process is gone: namespaces, folders in these parents and in the common one for such
    things, and the processes that still live in either. The names of what was removed."""
    places = dict.fromkeys((NETNS, Path(tempfile.gettempdir()), *parents))
    dead = [path for place in places for path in _entries(place) if _is_dead(path.name)]
    if not dead:
        return []
    for pid in _living_in(dead):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for path in dead:
        if path.parent == NETNS:
            unmake(path)
        else:
            unmount_below(path)
            shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in dead]


def unmake(path: Path) -> None:
    """A namespace loses its name. (A process that lives in it keeps its devices alive.)"""
    _libc.umount2(str(path).encode(), _MNT_DETACH)
    path.unlink(missing_ok=True)


def unmount_below(directory: Path) -> None:
    """The agent leaves its mounts of network namespaces in place; with its folder they go."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        target = line.split()[1].encode().decode("unicode_escape")
        if Path(target).is_relative_to(directory):
            _libc.umount2(target.encode(), _MNT_DETACH)


def _entries(place: Path) -> Iterator[Path]:
    return place.glob(f"{PREFIX}*") if place.is_dir() else iter(())


def _is_dead(name: str) -> bool:
    met = _NAME.match(name)
    return met is not None and _started(int(met[1])) != int(met[2])


def _started(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def _living_in(dead: Iterable[Path]) -> Iterator[int]:
    """Processes in one of these namespaces, or told to work in one of these folders."""
    dead = list(dead)
    folders = [str(path).encode() for path in dead if path.parent != NETNS]
    namespaces = set()
    for path in dead:
        with contextlib.suppress(OSError):
            namespaces.add((path.stat().st_dev, path.stat().st_ino))
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ends just now
            home = (process / "ns/net").stat()
            command = (process / "cmdline").read_bytes()
            if (home.st_dev, home.st_ino) in namespaces or any(folder in command for folder in folders):
                yield int(process.name)
