"""Which points are there, and which were met? What the launcher noted, and what the source says there should be."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.seams import ROOT

SERVING, STARTING = "serving", "starting"
ROLES = ("agent", "bridge")


@dataclass(frozen=True, slots=True, order=True)
class Point:
    role: str
    phase: str
    name: str
    kind: str = field(compare=False, default="")
    when: str = field(compare=False, default="")
    path: str = field(compare=False, default="")

    @property
    def id(self) -> str:
        return f"{self.role}:{self.phase}:{self.name}"

    def __str__(self) -> str:
        """Short: the last three calls."""
        calls = [call.rpartition(".")[2] for call in self.path.split(">")]
        return f"{self.role}, {self.phase}, {self.when} {self.kind}: {' > '.join(calls[-3:])}"


@dataclass
class Seen:
    """What one role's processes noted, read as it grows."""

    role: str
    path: Path
    points: dict[str, Point] = field(default_factory=dict)
    passed: Counter[str] = field(default_factory=Counter)
    """Since `forget`."""
    died_at: list[str] = field(default_factory=list)
    """Since `forget`."""
    _offset: int = 0

    def forget(self) -> None:
        self.read()
        self.passed.clear()
        self.died_at.clear()

    def read(self) -> list[Point]:
        """The points that are new."""
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        new = []
        for line in whole.decode().splitlines():
            name = line[1:].partition(" ")[0]
            if line[0] == "=" and name not in self.points:
                phase, kind, when, path = line.partition(" ")[2].split("|")
                new.append(Point(self.role, phase, name, kind, when, path))
                self.points[name] = new[-1]
            elif line[0] == "+":
                self.passed[name] += 1
            elif line[0] == "!":
                self.died_at.append(name)
        return new


# --- what the source says ---------------------------------------------------------------------------------------------

_SEAMS = {
    "garden_plugin/cell/netlink.py": ("_socket.send",),
    "garden_plugin/cell/nft.py": ("_socket.send", "subprocess.Popen"),
    "garden_plugin/dataplane/linux/conntrack.py": (
        "_socket.send",
        "conntrack.stamp",
        "conntrack.delete",
        "self.delete",
    ),
    "garden_plugin/dataplane/linux/driver.py": (
        *("_table.fill", "_table.replace", "_table.retire", "_table.observe", "_conntrack.forget"),
        *("links.apply", "conntrack.restamp"),
    ),
    "garden_plugin/dataplane/linux/table.py": ("nft.commit", "self._run"),
    "garden_plugin/dataplane/linux/links.py": (
        *("netlink.exchange", "plug.plug_container", "plug.unplug_containers", "plug.plug_vm", "plug.unplug_vm"),
        "plug.announce",
    ),
    "garden_plugin/cell/plug.py": ("netlink.exchange", "container.exchange", "wire.send"),
    "garden_plugin/cell/attach.py": ("_libc.mount", "_libc.umount2", "path.touch", "path.unlink"),
    "garden_plugin/cell/spool.py": ("os.replace", "beside.write_bytes", "path.unlink", "unlink"),
    "garden_plugin/cell/records.py": ("write_whole", "unlink", "path.replace"),
    "cfbridge/store/store.py": ("connection.execute",),
}
"""Calls that change something outside the process, or lead straight to one: by file, as they are written there."""


ELSEWHERE = {
    "garden_plugin/cell/plug.py: _plug: netlink.exchange": "a handle that comes back in another namespace",
    "garden_plugin/cell/attach.py: Namespaces._mount: path.unlink": "a kernel that does not mount",
    "garden_plugin/cell/records.py: Records.__init__: path.replace": "a damaged record",
    "garden_plugin/cell/spool.py: remove_halves: path.unlink": "met on the way back from a half-written file",
    "cfbridge/store/store.py: Store.settings: connection.execute": "asked by nobody in a storm",
    "cfbridge/store/store.py: Store.set: connection.execute": "a store that was away",
    "cfbridge/store/store.py: Store.confirm: connection.execute": "a withdrawal that is held",
    "cfbridge/store/store.py: _write: connection.execute": "rows that rested, and go or change hands",
    "cfbridge/store/store.py: _migrate: connection.execute": "PostgreSQL's lock",
}
"""What no storm need come by, and what it would take."""


@dataclass(frozen=True, slots=True, order=True)
class Site:
    file: str
    function: str
    first: int
    last: int
    """Lines in the function, counted as in a path."""
    written: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.file}: {self.function}: {self.written}"

    def on(self, path: str) -> bool:
        module = self.file.removesuffix(".py").replace("/", ".")
        lines = re.findall(rf"{re.escape(module)}:{re.escape(self.function)}\+(\d+)", path)
        return any(self.first <= int(line) <= self.last for line in lines)


def sites() -> list[Site]:
    return [site for file, written in _SEAMS.items() for site in _sites(file, written)]


def _sites(file: str, written: tuple[str, ...]) -> Iterator[Site]:
    tree = ast.parse((ROOT / file).read_text())

    def walk(node: ast.AST, names: tuple[str, ...], start: int) -> Iterator[Site]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([child.lineno, *(each.lineno for each in child.decorator_list)])
                yield from walk(child, (*names, child.name, "<locals>"), first)
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, (*names, child.name), start)
            else:
                if isinstance(child, ast.Call) and names and _is_one_of(name := ast.unparse(child.func), written):
                    first, last = child.lineno - start, (child.end_lineno or child.lineno) - start
                    yield Site(file, ".".join(names[:-1]), first, last, name)
                yield from walk(child, names, start)

    yield from walk(tree, (), 0)


def _is_one_of(name: str, written: tuple[str, ...]) -> bool:
    return any(name == each or name.endswith(f".{each}") for each in written)
