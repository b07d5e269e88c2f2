"""Does a container's namespace stay within reach when its process is gone?"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from egress.values import Unavailable
from garden_plugin.cell.attach import Namespaces
from garden_plugin.cell.spool import hash_of

pytestmark = pytest.mark.packets


@pytest.fixture
def namespaces(tmp_path: Path) -> Iterator[Namespaces]:
    namespaces = Namespaces(tmp_path / "netns")
    yield namespaces
    for name in namespaces.names():
        namespaces.release_stranger(name)


@pytest.fixture
def container() -> Iterator[int]:
    """A descriptor of a namespace whose only process is gone."""
    init = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert init.stdin is not None
    assert init.stdout is not None
    init.stdin.write(b"\n")
    init.stdout.read(1)
    descriptor = os.open(f"/proc/{init.pid}/ns/net", os.O_RDONLY)
    init.communicate()
    yield descriptor
    os.close(descriptor)


def test_a_namespace_is_held_after_its_process_and_descriptor(namespaces: Namespaces, container: int) -> None:
    inode = os.fstat(container).st_ino
    namespaces.hold("h", container)
    assert namespaces.holds("h")
    assert namespaces.is_held("h", container)
    assert namespaces.path("h").stat().st_ino == inode
    assert namespaces.names() == {hash_of("h")}


def test_held_twice_it_is_mounted_once(namespaces: Namespaces, container: int) -> None:
    namespaces.hold("h", container)
    namespaces.hold("h", container)
    assert Path("/proc/self/mountinfo").read_text().count(str(namespaces.path("h"))) == 1


def test_released_it_is_gone_and_released_again_nothing_happens(namespaces: Namespaces, container: int) -> None:
    namespaces.hold("h", container)
    namespaces.release("h")
    namespaces.release("h")
    namespaces.release("never held")
    assert not namespaces.holds("h")
    assert namespaces.names() == frozenset()


def test_a_left_over_file_holds_nothing_and_gives_way(namespaces: Namespaces, container: int) -> None:
    namespaces.path("h").touch()
    assert not namespaces.holds("h")
    namespaces.hold("h", container)
    assert namespaces.holds("h")


def test_the_cells_own_namespace_is_refused(namespaces: Namespaces) -> None:
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    with pytest.raises(Unavailable, match="cell's own network namespace"):
        namespaces.hold("h", own)
    os.close(own)


def test_what_is_no_network_namespace_is_refused(namespaces: Namespaces) -> None:
    for path in ("/dev/null", "/proc/self/ns/mnt"):
        other = os.open(path, os.O_RDONLY)
        with pytest.raises(Unavailable, match="no network namespace"):
            namespaces.hold("h", other)
        os.close(other)
    assert namespaces.names() == frozenset()


def test_a_mount_that_somebody_takes_away_is_made_again_and_said(namespaces: Namespaces, container: int) -> None:
    namespaces.hold("h", container)
    assert namespaces.mend("h") == ""
    subprocess.run(["umount", "--lazy", str(namespaces.path("h"))], check=True, timeout=30)
    assert not namespaces.holds("h")
    assert namespaces.mend("h") == "the mount of the network namespace of h was taken away"
    assert namespaces.is_held("h", container)
    assert namespaces.mend("h") == ""
    namespaces.release("h")
    assert not namespaces.holds("h")
    assert namespaces.mend("h") == ""
