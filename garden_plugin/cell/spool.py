"""What must not be forgotten? `down`s that came while the agent was away, and removals the bridge has not heard of.

<spool>/<time>-<pid>.down        written by the networker: the handle          → run before any new `up`
<state_dir>/detached/<hash>      written here: the handle                     → sent to the bridge until acknowledged
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def hash_of(handle: str) -> str:
    """A file name for a handle, which may be any text."""
    return hashlib.sha256(handle.encode("utf-8", "surrogateescape")).hexdigest()[:40]


def write_whole(path: Path, content: bytes) -> None:
    """The file is there whole or not at all; a full disk raises and changes nothing. No fsync: a process's death loses
    nothing, and what is here counts within one boot only (boot_id); it would hold up 100 `up`s for a third of a
    second."""
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(content)
    os.replace(beside, path)


def remove_halves(directory: Path) -> None:
    """What `write_whole` left there when its process died in it; handles do not come back, so nobody would write over
    it."""
    for path in directory.glob("*.new"):
        path.unlink(missing_ok=True)


class Tombstones:
    """`down`s left by networkers, oldest first."""

    def __init__(self, directories: Iterable[str]) -> None:
        self._directories = tuple(dict.fromkeys(directories))

    def waiting(self) -> list[tuple[Path, str]]:
        """(file, handle) of each; called before every `up`, so it costs one look per directory when there is none."""
        found: list[Path] = []
        for directory in self._directories:
            try:
                found += [Path(directory, name) for name in os.listdir(directory) if name.endswith(".down")]
            except FileNotFoundError:
                continue
        tombstones = []
        for path in sorted(found, key=lambda p: p.name):
            try:
                tombstones.append((path, path.read_bytes().decode("utf-8", "surrogateescape")))
            except OSError:  # run by somebody else meanwhile, or no file at all: no networker of ours left it
                continue
        return tombstones

    def clear(self, path: Path) -> None:
        path.unlink(missing_ok=True)


class Unacknowledged:
    """Handles whose containers are gone from the cell, until the bridge said that it knows."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self.handles: dict[str, None] = {}
        """In order of removal."""
        remove_halves(directory)
        for path in sorted(directory.iterdir(), key=lambda p: p.stat().st_mtime_ns):
            self.handles[path.read_bytes().decode("utf-8", "surrogateescape")] = None

    def add(self, handle: str) -> None:
        write_whole(self._directory / hash_of(handle), handle.encode("utf-8", "surrogateescape"))
        self.handles[handle] = None

    def acknowledged(self, handle: str) -> None:
        self.handles.pop(handle, None)
        (self._directory / hash_of(handle)).unlink(missing_ok=True)
