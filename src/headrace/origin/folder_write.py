"""Writing into a folder: unfinished bodies beside the tree, one lock for what changes names."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence

from headrace.base import clock
from headrace.base.errors import Busy, Conflict, Invalid
from headrace.base.limits import STORE_LOCK_SECONDS_MAX
from headrace.base.rng import token_hex
from headrace.model.objects import Attributes, Conditions, ObjectInfo
from headrace.origin.beneath import Beneath
from headrace.origin.bodies import EMPTY_MD5, unavailable, write_all
from headrace.origin.conditions import check_write
from headrace.origin.folder_files import PRIVATE, describe, keep, kept_beside, pack

_MADE = "user.headrace.made"
_TEMPORARY = PRIVATE + b"/tmp"
_YOUNG_SECONDS = 60.0
"""A body this young may not be locked yet by the process that began it."""


class FileWriter:
    """A body on its way into the folder: a hidden file, locked while its writer lives."""

    def __init__(self, temporary: int) -> None:
        self._temporary = temporary
        self.name = token_hex()
        self.size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        try:
            self.descriptor = os.open(
                self.name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=temporary
            )
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise unavailable(error, "while creating a file") from error

    def write(self, pieces: Sequence[bytes]) -> None:
        """Hash and append the pieces."""
        for piece in pieces:
            self._md5.update(piece)
        try:
            self.size += write_all(self.descriptor, pieces)
        except OSError as error:
            raise unavailable(error, "while writing a file") from error

    @property
    def md5(self) -> str:
        """MD5 of what was written, in hex."""
        return self._md5.hexdigest()

    def date(self, mtime_ns: int, attributes: Attributes, etag: str) -> None:
        """Give the file its date and its attribute, and make both and the bytes durable."""
        os.utime(self.descriptor, ns=(mtime_ns, mtime_ns))
        keep(self.descriptor, pack(attributes, etag, self.size, mtime_ns))
        os.fsync(self.descriptor)

    def close(self) -> None:
        """Close the descriptor; the file stays."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def abandon(self) -> None:
        """Remove the file."""
        self.close()
        with contextlib.suppress(OSError):
            os.unlink(self.name, dir_fd=self._temporary)


class FolderWriter:
    """Changes names in one folder tree. All methods block."""

    def __init__(self, beneath: Beneath) -> None:
        self._beneath = beneath
        self._pause = threading.Event()
        self._mutex = threading.Lock()
        self.temporary = -1
        self._lock = -1

    def prepare(self) -> None:
        """Make headrace's own folder and remove what dead writers left in it; once, at the first write."""
        with self._mutex:
            if self.temporary >= 0:
                return
            try:
                for name in (PRIVATE, _TEMPORARY):
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=self._beneath.root)
                self._lock = os.open(
                    PRIVATE + b"/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._beneath.root
                )
                temporary = self._beneath.folder(_TEMPORARY)
            except OSError as error:
                raise unavailable(error, "while preparing the folder for writing") from error
            _sweep(temporary)
            self.temporary = temporary

    def close(self) -> None:
        """Close what is held."""
        for descriptor in (self.temporary, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self.temporary = self._lock = -1

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock, against threads and against other processes. Raises Busy."""
        deadline = clock.steady() + STORE_LOCK_SECONDS_MAX
        if not self._mutex.acquire(timeout=STORE_LOCK_SECONDS_MAX):
            raise Busy("the folder is being written to for too long")
        try:
            pause = 0.0001
            while True:
                try:
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if clock.steady() > deadline:
                        raise Busy("another process has been writing to the folder for too long") from error
                    self._pause.wait(pause)
                    pause = min(pause * 1.5, 0.002)
            try:
                yield
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
        finally:
            self._mutex.release()

    def present(self, path: bytes, key: str) -> ObjectInfo | None:
        """The object at `path` (a trailing slash means the folder), or None."""
        try:
            descriptor = self._beneath.folder(path[:-1]) if path.endswith(b"/") else self._beneath.file(path)
        except OSError:
            return None
        try:
            return describe(key, os.fstat(descriptor), kept_beside(descriptor))
        finally:
            os.close(descriptor)

    def publish(
        self, path: bytes, key: str, writer: FileWriter, attributes: Attributes, etag: str, conditions: Conditions
    ) -> ObjectInfo:
        """Give a finished body its name; durable on return. The writer's file is gone or renamed after."""
        now_ns = int(clock.wall() * 1e3) * 1_000_000
        writer.date(now_ns, attributes, etag)
        folder, _, name = path.rpartition(b"/")
        with self.locked():
            before = self._checked(path, key, conditions)
            if before is not None and before.version.modified_ms * 1_000_000 > now_ns:
                writer.date(before.version.modified_ms * 1_000_000, attributes, etag)
            parent = self.make_folders(folder, key)
            try:
                self._place(writer.name, name, parent, key, create="*" in conditions.if_none_match)
                os.fsync(parent)
            finally:
                os.close(parent)
            info = describe(key, os.fstat(writer.descriptor), kept_beside(writer.descriptor))
        if info is None:
            raise Conflict(f"{key!r} is no file any more")
        return info

    def _checked(self, path: bytes, key: str, conditions: Conditions) -> ObjectInfo | None:
        """What is there now, if the conditions allow to replace it. Raises Conflict, NotFound."""
        before = self.present(path, key)
        if before is None:
            check_write(key, None, 0, conditions)
        else:
            check_write(key, before.etag, before.version.modified_ms, conditions)
        return before

    def _place(self, temporary: str, name: bytes, parent: int, key: str, *, create: bool) -> None:
        try:
            self._give_way(name, parent)
            if create:  # link(2) refuses an existing name, also one that somebody else made just now
                os.link(temporary, name, src_dir_fd=self.temporary, dst_dir_fd=parent)
                os.unlink(temporary, dir_fd=self.temporary)
                return
            os.rename(temporary, name, src_dir_fd=self.temporary, dst_dir_fd=parent)
        except FileExistsError as error:
            raise Conflict(f"the key {key!r} exists already", kind="PreconditionFailed") from error
        except IsADirectoryError as error:
            raise Invalid(f"the key {key!r} is the name of a folder that has something in it") from error

    def _give_way(self, name: bytes, parent: int) -> None:
        """Remove an empty folder of that name which nobody put as an object."""
        with contextlib.suppress(OSError):
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                marked = kept_beside(descriptor) is not None
            finally:
                os.close(descriptor)
            if not marked:
                os.rmdir(name, dir_fd=parent)

    def put_folder(self, path: bytes, key: str, attributes: Attributes, conditions: Conditions) -> ObjectInfo:
        """Make the folder an object of its own."""
        with self.locked():
            self._checked(path, key, conditions)
            folder = self.make_folders(path[:-1], key)
            try:
                if not keep(folder, pack(attributes, EMPTY_MD5, 0, 0)):
                    raise Invalid("this file system cannot mark a folder as an object: keys must not end in a slash")
                os.utime(folder)
                os.fsync(folder)
                info = describe(key, os.fstat(folder), kept_beside(folder))
            finally:
                os.close(folder)
        if info is None:
            raise Conflict(f"{key!r} is no folder any more")
        return info

    def make_folders(self, path: bytes, key: str) -> int:
        """A descriptor of the folder, made durably with all above it where missing."""
        held = self._beneath.folder(b"")
        try:
            for name in path.split(b"/") if path else ():
                try:
                    os.mkdir(name, 0o777, dir_fd=held)
                    made = True
                except FileExistsError:
                    made = False
                step = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held)
                if made:
                    with contextlib.suppress(OSError):
                        os.setxattr(step, _MADE, b"1")
                    os.fsync(held)
                os.close(held)
                held = step
        except OSError as error:
            os.close(held)
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise Invalid(f"the key {key!r} lies below something that is no folder") from error
            raise
        return held

    def delete(self, path: bytes, key: str, conditions: Conditions) -> None:
        """Remove the object if it exists, and the folders made for it that are empty now."""
        folder, _, name = path.removesuffix(b"/").rpartition(b"/")
        with self.locked():
            before = self.present(path, key)
            if before is None:
                return
            check_write(key, before.etag, before.version.modified_ms, conditions)
            parent = self._beneath.folder(folder)
            try:
                if path.endswith(b"/"):
                    self._unmark(name, parent)
                else:
                    os.unlink(name, dir_fd=parent)
                os.fsync(parent)
            finally:
                os.close(parent)
            self._prune(folder)

    def _unmark(self, name: bytes, parent: int) -> None:
        """The folder is no object any more; it goes if it is empty."""
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.removexattr(descriptor, "user.headrace")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=parent)

    def _prune(self, folder: bytes) -> None:
        """Remove empty folders upwards, as long as headrace made them and nobody put them as objects."""
        while folder:
            above, _, name = folder.rpartition(b"/")
            try:
                descriptor = self._beneath.folder(folder)
                try:
                    os.getxattr(descriptor, _MADE)
                    if kept_beside(descriptor) is not None:
                        return
                finally:
                    os.close(descriptor)
                parent = self._beneath.folder(above)
                try:
                    os.rmdir(name, dir_fd=parent)
                    os.fsync(parent)
                finally:
                    os.close(parent)
            except OSError:
                return
            folder = above


def _sweep(temporary: int) -> None:
    """Remove unfinished bodies whose writers are gone: their locks are free."""
    for name in os.listdir(temporary):
        with contextlib.suppress(OSError):
            descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=temporary)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if clock.wall() - os.fstat(descriptor).st_ctime > _YOUNG_SECONDS:
                    os.unlink(name, dir_fd=temporary)
            finally:
                os.close(descriptor)
