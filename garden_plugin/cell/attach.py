"""How does a container's network namespace stay within reach after Garden has killed its process? By a bind mount.

descriptor from the networker ──mount --bind /proc/self/fd/N──> <state_dir>/netns/<hash of handle>
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
from pathlib import Path

from egress.values import Unavailable
from garden_plugin.cell.spool import hash_of

_MS_BIND = 0x1000
_MNT_DETACH = 2
_NS_GET_NSTYPE = 0xB703
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Namespaces:
    """The bind mounts of one cell."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._open: dict[Path, int] = {}
        """The same namespaces by descriptor: a mount can't be taken away but lazily, and is made again then."""

    def path(self, handle: str) -> Path:
        return self._directory / hash_of(handle)

    def hold(self, handle: str, descriptor: int) -> None:
        """Idempotent: whatever is mounted there gives way. Unavailable when the kernel refuses."""
        if self.is_held(handle, descriptor):
            return
        try:
            kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
        except OSError:
            kind = 0
        if kind != _CLONE_NEWNET:
            raise Unavailable("the descriptor that came with the request is no network namespace")
        if os.stat("/proc/self/ns/net").st_ino == os.fstat(descriptor).st_ino:
            raise Unavailable("the container's process is in the cell's own network namespace")
        self.release(handle)
        path = self.path(handle)
        self._mount(path, descriptor)

    def _mount(self, path: Path, descriptor: int) -> None:
        path.touch(mode=0o600)
        source = f"/proc/self/fd/{descriptor}".encode()
        if _libc.mount(source, os.fsencode(path), b"none", _MS_BIND, None) != 0:
            fault = os.strerror(ctypes.get_errno())
            path.unlink(missing_ok=True)
            raise Unavailable(f"cannot keep the container's network namespace at {path}: {fault}")

    def holds(self, handle: str) -> bool:
        return is_namespace(self.path(handle))

    def is_held(self, handle: str, descriptor: int) -> bool:
        """Whether it is this very namespace that is held."""
        if not self.holds(handle):
            return False
        held, offered = self.path(handle).stat(), os.fstat(descriptor)
        return (held.st_dev, held.st_ino) == (offered.st_dev, offered.st_ino)

    def release(self, handle: str) -> None:
        """Idempotent. Lazy, so that a driver which still has it open does not hold up a `down`."""
        path = self.path(handle)
        if (kept := self._open.pop(path, None)) is not None:
            os.close(kept)
        _libc.umount2(os.fsencode(path), _MNT_DETACH)
        path.unlink(missing_ok=True)

    def mend(self, handle: str) -> str:
        """Mount it again where somebody took it away; what was found, in words, and nothing when all is well."""
        path = self.path(handle)
        if is_namespace(path):
            if path not in self._open:
                with contextlib.suppress(OSError):  # too many open files, or it is just going: then it is not kept
                    self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return ""
        kept = self._open.pop(path, None)
        if kept is None:
            return ""
        try:
            self._mount(path, kept)
        finally:
            os.close(kept)
        return f"the mount of the network namespace of {handle} was taken away"

    def names(self) -> frozenset[str]:
        """File names (see `hash_of`) of everything that lies there, mounted or left over."""
        return frozenset(os.listdir(self._directory))

    def release_stranger(self, name: str) -> None:
        """One that belongs to no known container."""
        path = self._directory / name
        _libc.umount2(os.fsencode(path), _MNT_DETACH)
        path.unlink(missing_ok=True)


def is_namespace(path: Path) -> bool:
    """Whether something of the kernel's namespace file system is mounted there."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False
