"""Body files of the embedded store: written once under a new name, made durable, linked, unlinked.

A name is `<session><number>`; the session is one opening of the store by one process, alive as long
as that process holds a lock on its file in `sessions/`. A body is never written again under the same
name, so a reader's open descriptor and a cached location can never show other bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from headrace.base.errors import Unavailable
from headrace.base.rng import token_hex
from headrace.origin.checksums import Checksum
from headrace.origin.ready import ReadyFile, ReadyFiles

SESSION_CHARS = 8
EMPTY_MD5 = hashlib.md5(usedforsecurity=False).hexdigest()
_NUMBER_CHARS = 12
SHARD = slice(-4, -2)
"""The part of a name that says its folder: 256 consecutive bodies share one, and so its fsync."""
_SHARDS = 256
_WRITEBACK_BYTES = 256 * 1024
_SYNC_FILE_RANGE_WRITE = 2
_LIBC = ctypes.CDLL(None, use_errno=True)
_IOV_MAX = 512


class Piece(NamedTuple):
    """`length` bytes at `offset` of the body file `name`: one extent of an object."""

    name: str
    offset: int
    length: int


def unavailable(error: OSError, doing: str) -> Unavailable:
    """The error to raise when the disk refuses; ENOSPC gets its own advice."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(f"no space left {doing}: free some space or grow the file system")
    return Unavailable(f"the disk failed {doing}: {error.strerror or error}")


def write_all(descriptor: int, pieces: Sequence[bytes]) -> int:
    """Write every byte of the pieces in order; returns how many."""
    total = 0
    pending = [memoryview(piece) for piece in pieces if piece]
    while pending:
        count = os.writev(descriptor, pending[:_IOV_MAX])
        total += count
        done = 0
        while done < len(pending) and count >= len(pending[done]):
            count -= len(pending[done])
            done += 1
        del pending[:done]
        if count:
            pending[0] = pending[0][count:]
    return total


class BodyWriter:
    """One body on its way to disk. Used by one thread at a time; `abandon` unless `finish` returned."""

    def __init__(self, bodies: Bodies, algorithms: Sequence[str] = (), md5: str | None = None) -> None:
        self._bodies = bodies
        self.size = 0
        self._known_md5 = md5
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._checksums = [Checksum(algorithm) for algorithm in algorithms]
        self._written_back = 0
        ready = bodies.ready.take()
        self._named = ready is not None
        self.name, self._descriptor = ready or bodies.create()

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append and hash the pieces; the device writes while they are hashed."""
        try:
            self.size += write_all(self._descriptor, pieces)
        except OSError as error:
            raise unavailable(error, "while writing a body") from error
        if self.size - self._written_back >= _WRITEBACK_BYTES:
            _LIBC.sync_file_range(
                self._descriptor,
                ctypes.c_int64(self._written_back),
                ctypes.c_int64(self.size - self._written_back),
                _SYNC_FILE_RANGE_WRITE,
            )
            self._written_back = self.size
        for piece in pieces:
            if self._known_md5 is None:
                self._md5.update(piece)
            for checksum in self._checksums:
                checksum.update(piece)

    def finish(self) -> None:
        """Make the file and its name durable, and close it."""
        try:
            os.fsync(self._descriptor)
            if not self._named:
                self._bodies.sync_shard(self.name)
        except OSError as error:
            raise unavailable(error, "while making a body durable") from error
        finally:
            self._close()

    @property
    def md5(self) -> str:
        """MD5 of what was written, in hex."""
        return self._known_md5 or self._md5.hexdigest()

    @property
    def checksums(self) -> dict[str, str]:
        """The asked-for checksums of what was written, in base64."""
        return {checksum.algorithm: checksum.value() for checksum in self._checksums}

    @property
    def piece(self) -> Piece:
        """The whole body as one extent."""
        return Piece(self.name, 0, self.size)

    def abandon(self) -> None:
        """Remove the file; it will never be part of an object."""
        self._close()
        with contextlib.suppress(OSError):  # what cannot be removed now is swept at the next start
            self._bodies.remove(self.name)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Bodies:
    """The folder of body files, as one process writes it. Raises OSError when it cannot be made."""

    def __init__(self, root: Path) -> None:
        self._root = str(root / "bodies")
        self._sessions = root / "sessions"
        self._lock = threading.Lock()
        self._number = 0
        self._unsettled: set[int] = set()
        self._shards: dict[str, int] = {}
        self._make_folders(root)
        self.session, self._session_descriptor = self._begin_session()
        self.ready = ReadyFiles(self._create_many, self.remove)

    def path(self, name: str) -> str:
        """Where the body lies."""
        return f"{self._root}/{name[SHARD]}/{name}"

    def new_name(self) -> str:
        """A name no body ever had; unsettled until `settle`."""
        with self._lock:
            self._number += 1
            number = self._number
            self._unsettled.add(number)
        return f"{self.session}{number:0{_NUMBER_CHARS}x}"

    def create(self) -> ReadyFile:
        """A new empty body; its name is not durable yet. Raises Unavailable."""
        name = self.new_name()
        try:
            return ReadyFile(name, os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError as error:
            self.settle(name)
            raise unavailable(error, "while creating a body") from error

    def _create_many(self, count: int) -> list[ReadyFile]:
        """New empty bodies with durable names, in consecutive folders of which each is fsynced once.

        Raises OSError, having removed what it made.
        """
        made: list[ReadyFile] = []
        try:
            made.extend(self.create() for _ in range(count))
            for name in {file.name[SHARD]: file.name for file in made}.values():
                self.sync_shard(name)
        except (OSError, Unavailable) as error:
            for name, descriptor in made:
                os.close(descriptor)
                with contextlib.suppress(OSError):
                    self.remove(name)
            raise OSError(errno.EIO, str(error)) from error
        return made

    def token(self) -> str:
        """A text no version of any object ever had as its token."""
        with self._lock:
            self._number += 1
            return f"{self.session}{self._number:x}"

    def settle(self, name: str) -> None:
        """The body is in the catalogue, or gone."""
        with self._lock:
            self._unsettled.discard(int(name[SESSION_CHARS:], 16))

    def low_water(self) -> int:
        """Every number of this session below it is settled."""
        with self._lock:
            return min(self._unsettled, default=self._number + 1)

    def sync_shard(self, name: str) -> None:
        """Make the folder entry of the body durable."""
        os.fsync(self._shards[name[SHARD]])

    def link(self, source: Piece) -> Piece:
        """A second name for the source's bytes: a hard link, or a copy where the file system has none.

        The caller makes the folder durable (`sync_shard`). Raises FileNotFoundError when the source
        was unlinked meanwhile.
        """
        name = self.new_name()
        try:
            try:
                os.link(self.path(source.name), self.path(name))
            except OSError as error:
                if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP):
                    raise
                copy_bytes(self.path(source.name), source.offset, source.length, self.path(name))
                return Piece(name, 0, source.length)
        except OSError:
            self.remove(name)
            raise
        return Piece(name, source.offset, source.length)

    def remove(self, name: str) -> None:
        """Unlink a body that no object needs; no error when it is gone."""
        with contextlib.suppress(FileNotFoundError):
            Path(self.path(name)).unlink()
        if name.startswith(self.session):
            self.settle(name)

    def close(self) -> None:
        """End the session; its file stays when something of it is left to sweep."""
        self.ready.close()
        for descriptor in self._shards.values():
            os.close(descriptor)
        self._shards.clear()
        if not self._unsettled:
            with contextlib.suppress(FileNotFoundError):
                (self._sessions / self.session).unlink()
        os.close(self._session_descriptor)

    def _make_folders(self, root: Path) -> None:
        for folder in (root, root / "bodies", self._sessions):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(_SHARDS):
            name = f"{number:02x}"
            path = Path(self._root, name)
            path.mkdir(mode=0o700, exist_ok=True)
            self._shards[name] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for folder in (root / "bodies", root, root.parent):
            sync_folder(folder)

    def _begin_session(self) -> tuple[str, int]:
        """Create and lock a session file; tried again when a sweeper saw it before the lock was on."""
        while True:
            session = token_hex(SESSION_CHARS // 2)
            path = self._sessions / session
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.stat().st_ino == os.fstat(descriptor).st_ino:
                    sync_folder(self._sessions)
                    return session, descriptor
            os.close(descriptor)


def sync_folder(folder: Path | str) -> None:
    """fsync a folder, so that the names in it survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_bytes(source: str, offset: int, length: int, target: str) -> None:
    """Copy a slice of one file into a new file, inside the kernel where it can, and fsync it."""
    with Path(source).open("rb") as reader, Path(target).open("xb") as writer:
        done = 0
        while done < length:
            try:
                count = os.copy_file_range(reader.fileno(), writer.fileno(), length - done, offset + done, done)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                piece = os.pread(reader.fileno(), min(length - done, 1 << 20), offset + done)
                count = os.pwrite(writer.fileno(), piece, done)
            if count == 0:
                raise OSError(errno.EIO, "the source is shorter than its catalogue entry")
            done += count
        os.fsync(writer.fileno())
