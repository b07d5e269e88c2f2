"""Is what must not be forgotten on disk, whole?"""

from __future__ import annotations

from pathlib import Path

from garden_plugin.cell.records import CellMemory, Record, Records
from garden_plugin.cell.spool import Tombstones, Unacknowledged, hash_of
from garden_plugin.wire import MappedPort, PortReport

HOSTILE = "../../etc/passwd\n\udc80 🦊" * 50


def record(handle: str) -> Record:
    return Record(PortReport(handle, ("10.0.0.1",), mapped_ports=(MappedPort(61000, 8080),)), mtu=1442)


def test_what_no_networker_left_in_the_spool_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "1-1.down").mkdir()
    (tmp_path / "2-1.down").write_text("second")
    assert [handle for _, handle in Tombstones((str(tmp_path),)).waiting()] == ["second"]


def test_a_record_is_read_back_by_the_next_agent(tmp_path: Path) -> None:
    Records(tmp_path).write(record("one"))
    Records(tmp_path).remember(CellMemory("boot", "cf", {61000: 7.5}))
    again = Records(tmp_path)
    assert again.by_handle == {"one": record("one")}
    assert again.memory == CellMemory("boot", "cf", {61000: 7.5})


def test_a_removed_record_is_gone(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.write(record("one"))
    records.remove("one")
    records.remove("one")
    assert Records(tmp_path).by_handle == {}


def test_a_damaged_record_is_set_aside_and_the_others_are_read(tmp_path: Path) -> None:
    Records(tmp_path).write(record("one"))
    (tmp_path / "ports" / "broken").write_bytes(b"\xc1")
    again = Records(tmp_path)
    assert [*again.by_handle] == ["one"]
    assert [path.name for path in again.unreadable] == ["broken"]
    assert Records(tmp_path).unreadable == []


def test_what_somebody_does_to_a_file_is_said_and_mended(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for handle in ("one", "two", "three"):
        records.write(record(handle))
    records.remember(CellMemory("boot", "cf"))
    assert records.mend() == []
    (tmp_path / "ports" / hash_of("one")).unlink()
    (tmp_path / "ports" / hash_of("two")).write_bytes(b"garbage")
    (tmp_path / "cell").unlink()
    assert records.mend() == [
        "the record of one was deleted on disk",
        "the record of two was changed on disk",
        "what the cell remembers was deleted on disk",
    ]
    assert records.mend() == []
    again = Records(tmp_path)
    assert again.by_handle == records.by_handle
    assert again.memory == records.memory


def test_a_half_written_file_is_not_read(tmp_path: Path) -> None:
    Records(tmp_path)
    (tmp_path / "ports" / "abc.new").write_bytes(b"half")
    assert Records(tmp_path).by_handle == {}


def test_what_a_death_left_half_written_is_removed_by_the_next_agent(tmp_path: Path) -> None:
    Records(tmp_path)
    Unacknowledged(tmp_path / "detached")
    halves = [tmp_path / "ports" / "abc.new", tmp_path / "detached" / "abc.new"]
    for half in halves:
        half.write_bytes(b"ha")
    assert Records(tmp_path).by_handle == {}
    assert not Unacknowledged(tmp_path / "detached").handles
    assert not any(half.exists() for half in halves)


def test_tombstones_come_oldest_first_from_every_directory(tmp_path: Path) -> None:
    for name, handle in (("a/2-1.down", "second"), ("b/1-9.down", "first"), ("a/3-1.new", "half")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(handle)
    tombstones = Tombstones((str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "never made")))
    assert [handle for _, handle in tombstones.waiting()] == ["first", "second"]
    for path, _ in tombstones.waiting():
        tombstones.clear(path)
    assert tombstones.waiting() == []


def test_a_removal_is_remembered_until_it_is_acknowledged(tmp_path: Path) -> None:
    spool = Unacknowledged(tmp_path)
    spool.add(HOSTILE)
    spool.add("two")
    assert [*Unacknowledged(tmp_path).handles] == [HOSTILE, "two"]
    spool.acknowledged(HOSTILE)
    spool.acknowledged("never said")
    assert [*Unacknowledged(tmp_path).handles] == ["two"]
