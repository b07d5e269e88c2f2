"""What does the cell remember of its containers? One file each, written before anything is made for it in the kernel.

<state_dir>/ports/<hash>     Record: what Garden said, addresses, mapped ports     read at start, and adopted
<state_dir>/cell             CellMemory: this boot, foundation, what rests
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from garden_plugin.cell.spool import hash_of, write_whole
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
        self.unreadable: list[Path] = []
        """Damaged, or of another version: set aside as `.bad`."""
        for path in sorted(self._directory.iterdir()):
            if path.suffix:
                continue
            record = _read(path, Record)
            if record is None:
                path.replace(path.with_suffix(".bad"))
                self.unreadable.append(path)
            else:
                self.by_handle[record.report.handle] = record

    def write(self, record: Record) -> None:
        write_whole(self._directory / hash_of(record.report.handle), msgspec.msgpack.encode(record))
        self.by_handle[record.report.handle] = record

    def remove(self, handle: str) -> None:
        (self._directory / hash_of(handle)).unlink(missing_ok=True)
        self.by_handle.pop(handle, None)

    def remember(self, memory: CellMemory) -> None:
        if memory != self.memory:
            write_whole(self._memory_path, msgspec.msgpack.encode(memory))
            self.memory = memory


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
