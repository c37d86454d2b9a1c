"""What a power loss would leave of a folder tree, by the letter of POSIX: only what was fsynced.

While a `PowerLoss` is installed every os.fsync of a file below its root notes that file's bytes,
attributes and date, and every os.fsync of a folder notes the names in it. `snapshot` is the state of
that moment with everything else forgotten: a file that was never fsynced is empty, a name whose folder
was not fsynced since does not exist, an unlinked name is gone although nobody asked for that to be
durable. What SQLite does to its own files is not seen here; the tests say how they treat those.
"""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import NamedTuple

import pytest


class File(NamedTuple):
    """A file as it was fsynced."""

    data: bytes
    mtime_ns: int
    attributes: dict[str, bytes]


class Snapshot(NamedTuple):
    """Durable names by folder inode, and durable files by inode."""

    root: int
    names: dict[int, dict[str, int]]
    files: dict[int, File]

    def restore(self, target: Path) -> None:
        """Build the tree at `target`."""
        self._restore(self.root, target)

    def _restore(self, inode: int, target: Path) -> None:
        target.mkdir()
        for name, child in self.names[inode].items():
            if child in self.names:
                self._restore(child, target / name)
                continue
            file = self.files.get(child, File(b"", 0, {}))
            (target / name).write_bytes(file.data)
            for attribute, value in file.attributes.items():
                os.setxattr(target / name, attribute, value)
            os.utime(target / name, ns=(file.mtime_ns, file.mtime_ns))


class PowerLoss:
    """Notes every fsync below `root`; what is there already counts as durable."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root.resolve()
        self._names: dict[int, dict[str, int]] = {}
        self._files: dict[int, File] = {}
        self._lock = threading.Lock()
        self._fsync = os.fsync
        for path in (self._root, *self._root.rglob("*")):
            descriptor = os.open(path, os.O_RDONLY)
            self._note(descriptor)
            os.close(descriptor)
        monkeypatch.setattr(os, "fsync", self._noting_fsync)

    def _noting_fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(self._root):
            self._note(descriptor)

    def _note(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(descriptor) as entries:
                names = {entry.name: entry.inode() for entry in entries}
            with self._lock:
                self._names[status.st_ino] = names
        else:
            attributes = {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor)}
            data = os.pread(descriptor, status.st_size, 0) if _readable(descriptor) else _reread(descriptor)
            with self._lock:
                self._files[status.st_ino] = File(data, status.st_mtime_ns, attributes)

    def snapshot(self) -> Snapshot:
        """What a power loss at this moment would leave."""
        present = {self._root.stat().st_ino: self._root}
        present |= {path.stat().st_ino: path for path in self._root.rglob("*") if path.is_dir()}
        with self._lock:
            names = {
                inode: {name: child for name, child in found.items() if (present[inode] / name).exists()}
                for inode, found in self._names.items()
                if inode in present
            }
            return Snapshot(self._root.stat().st_ino, names, dict(self._files))


def _readable(descriptor: int) -> bool:
    flags = int(Path(f"/proc/self/fdinfo/{descriptor}").read_text().split("flags:")[1].split()[0], 8)
    return flags & os.O_ACCMODE != os.O_WRONLY


def _reread(descriptor: int) -> bytes:
    return Path(f"/proc/self/fd/{descriptor}").read_bytes()
