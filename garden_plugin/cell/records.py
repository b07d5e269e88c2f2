"""What does the cell remember of its containers? One file each, written before anything is made for it in the kernel.

<state_dir>/ports/<hash>     Record: what Garden said, addresses, mapped ports     read at start, and adopted
<state_dir>/cell             CellMemory: this boot, foundation, what rests
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from garden_plugin.cell.spool import hash_of, remove_halves, write_whole
from garden_plugin.wire import PortReport

_T = TypeVar("_T")


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    report: PortReport
    """Its `addresses` are empty until they were granted."""
    isolated: bool = False
    mtu: int = 0
    """As granted; 0 = the cell's own choice."""


class CellMemory(msgspec.Struct, frozen=True, omit_defaults=True):
    boot_id: str = ""
    foundation: str = ""
    ports_at_rest: dict[int, float] = {}
    addresses_at_rest: dict[int, float] = {}


class Records:
    """All records, by handle; on disk and here the same."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "ports"
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._memory_path = state_dir / "cell"
        self.memory = _read(self._memory_path, CellMemory) or CellMemory()
        self.by_handle: dict[str, Record] = {}
        self._looks: dict[Path, _Look | None] = {}
        """Each file as we left it."""
        self.unreadable: list[Path] = []
        """Damaged, or of another version: set aside as `.bad`."""
        remove_halves(self._directory)
        for path in sorted(self._directory.iterdir()):
            if path.suffix:
                continue
            record = _read(path, Record)
            if record is None:
                path.replace(path.with_suffix(".bad"))
                self.unreadable.append(path)
            else:
                self.by_handle[record.report.handle] = record
                self._looks[path] = _look(path)

    def write(self, record: Record) -> None:
        self._write(self._path(record.report.handle), record)
        self.by_handle[record.report.handle] = record

    def remove(self, handle: str) -> None:
        self._path(handle).unlink(missing_ok=True)
        self._looks.pop(self._path(handle), None)
        self.by_handle.pop(handle, None)

    def remember(self, memory: CellMemory) -> None:
        if memory != self.memory:
            self._write(self._memory_path, memory)
            self.memory = memory

    def mend(self) -> list[str]:
        """Write again what somebody changed or deleted; which files, in words. OSError: the disk does not take it."""
        files: dict[Path, tuple[str, Record | CellMemory]] = {
            self._path(handle): (f"the record of {handle}", record) for handle, record in self.by_handle.items()
        }
        files[self._memory_path] = ("what the cell remembers", self.memory)
        said = []
        for path, (what, content) in files.items():
            if path in self._looks and (now := _look(path)) != self._looks[path]:
                self._write(path, content)
                said.append(f"{what} was {'changed' if now else 'deleted'} on disk")
        return said

    def _path(self, handle: str) -> Path:
        return self._directory / hash_of(handle)

    def _write(self, path: Path, content: Record | CellMemory) -> None:
        write_whole(path, msgspec.msgpack.encode(content))
        self._looks[path] = _look(path)


_Look = tuple[int, int, int]


def _look(path: Path) -> _Look | None:
    """Which file is there, since when, of which size."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
