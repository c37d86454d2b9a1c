"""Open descriptors of the files that answers are sent from: kept a while, bounded, never closed in use.

One cache serves one worker (one thread). A file is looked up by its path and the version token of the
object it belongs to, so a folder's file that was replaced is opened anew.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import OrderedDict
from collections.abc import Sequence

from headrace.base.errors import Busy, Unavailable
from headrace.base.limits import CHANGING_PIECE_BYTES, CHANGING_TAIL_BYTES, EXTENTS_HELD_MAX, OPEN_FILES_MAX
from headrace.media.residency import resident
from headrace.model.objects import Extent, FileSlice
from headrace.origin.folder_files import token_of

_REPLACED = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV)


class HeldFile:
    """An open file and how many answers use it now. Belongs to an OpenFiles."""

    __slots__ = ("descriptor", "key", "uses")

    def __init__(self, key: tuple[str, str], descriptor: int) -> None:
        self.key = key
        self.descriptor = descriptor
        self.uses = 1


class OpenFiles:
    """A bounded least-recently-used cache of read-only descriptors."""

    def __init__(self, files_max: int = OPEN_FILES_MAX) -> None:
        self._files_max = files_max
        self._held: OrderedDict[tuple[str, str], HeldFile] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, path: str, token: str = "", *, changing: bool = False) -> HeldFile:
        """The open file; every call is paired with one `release`.

        `changing`: others write the file too, so it is held only while `token` is that of its inode.
        Raises FileNotFoundError (look up again: the object changed), OSError, and Busy when all
        descriptors are in use.
        """
        key = (path, token)
        held = self._held.get(key)
        if held is not None:
            if changing and token_of(os.fstat(held.descriptor)) != token:
                self._drop(held)
                raise FileNotFoundError(errno.ENOENT, "changed since it was looked up", path)
            self._held.move_to_end(key)
            held.uses += 1
            return held
        if len(self._held) >= self._files_max and not self._close_one():
            raise Busy(f"all {self._files_max} descriptors for object files are in use; try again")
        held = HeldFile(key, _open_as_found(path, token) if changing else os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        self._held[key] = held
        return held

    def release(self, held: HeldFile) -> None:
        """Give back what `hold` returned. The file stays open until its place is needed."""
        held.uses -= 1

    def _close_one(self) -> bool:
        for key, held in self._held.items():
            if held.uses == 0:
                del self._held[key]
                os.close(held.descriptor)
                return True
        return False

    def _drop(self, held: HeldFile) -> None:
        """Close the file if nobody uses it."""
        if held.uses == 0:
            del self._held[held.key]
            os.close(held.descriptor)

    def forget_unlinked(self) -> int:
        """Close every unused file that no name leads to any more; returns how many."""
        gone = [held for held in self._held.values() if held.uses == 0 and os.fstat(held.descriptor).st_nlink == 0]
        for held in gone:
            del self._held[held.key]
            os.close(held.descriptor)
        return len(gone)

    def close(self) -> None:
        """Close everything; no answer may be under way."""
        for held in self._held.values():
            os.close(held.descriptor)
        self._held.clear()


def _open_as_found(path: str, token: str) -> int:
    """Open the very inode that was looked up, unchanged. Raises FileNotFoundError when it is another now.

    Neither a link nor a device that took its name in the meantime is followed or waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _REPLACED:
            raise FileNotFoundError(errno.ENOENT, "replaced since it was looked up", path) from error
        raise
    if token_of(os.fstat(descriptor)) != token:
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "changed since it was looked up", path)
    return descriptor


class FilePieces:
    """An answer's body: one FileSlice for each extent, holding its files until it ends.

    The first files are opened at once, so an object that is overwritten or deleted meanwhile is still
    sent whole; beyond EXTENTS_HELD_MAX they are opened when their turn comes. An async iterator;
    `aclose` (or being dropped) releases what is held.
    """

    def __init__(self, files: OpenFiles, extents: Sequence[Extent], token: str = "", source: str = "memory") -> None:
        self._files = files
        self._extents = extents
        self._token = token
        self._source = source
        self._held: dict[int, HeldFile] = {}
        self._next = 0
        try:
            for number, extent in enumerate(extents[:EXTENTS_HELD_MAX]):
                self._held[number] = files.hold(extent.path, token)
        except Busy:
            if not self._held:
                raise
        except BaseException:
            self._release()
            raise

    @property
    def first(self) -> FileSlice | None:
        """What will be sent first; None when nothing is held."""
        held = self._held.get(self._next)
        if held is None:
            return None
        extent = self._extents[self._next]
        return FileSlice(held.descriptor, extent.offset, extent.length, self._source)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors held now, in the order of their extents."""
        return tuple(self._held[number].descriptor for number in sorted(self._held))

    def __aiter__(self) -> FilePieces:
        return self

    async def __anext__(self) -> FileSlice:
        number = self._next
        done = self._held.pop(number - 1, None)
        if done is not None:
            self._files.release(done)
        if number >= len(self._extents):
            raise StopAsyncIteration
        extent = self._extents[number]
        held = self._held.get(number)
        if held is None:
            held = self._held[number] = self._files.hold(extent.path, self._token)
        self._next = number + 1
        return FileSlice(held.descriptor, extent.offset, extent.length, self._source)

    async def aclose(self) -> None:
        """Release what is held; the body ends here."""
        self._next = len(self._extents) + 1
        self._release()

    def _release(self) -> None:
        for held in self._held.values():
            self._files.release(held)
        self._held.clear()

    def __del__(self) -> None:
        self._release()


class ChangingPieces:
    """An answer's body from one file that others may change in place: its bytes of one version, or an error.

    (mtime, size) are compared before each piece and once more after the tail is read, which is sent
    from memory: a body whose last bytes are sent was one version until then. The ctime only counts
    when the file is opened; losing its name changes that too.
    """

    def __init__(self, files: OpenFiles, extent: Extent, token: str) -> None:
        """Raises FileNotFoundError (look up again), OSError, Busy."""
        self._files = files
        self._position = extent.offset
        self._stop = extent.offset + extent.length
        self._held: HeldFile | None = files.hold(extent.path, token, changing=True)
        self._unchanged = _state(self._held.descriptor)

    @property
    def first(self) -> FileSlice | None:
        """What remains to be sent; None when nothing is held."""
        if self._held is None:
            return None
        return FileSlice(self._held.descriptor, self._position, self._stop - self._position)

    def __aiter__(self) -> ChangingPieces:
        return self

    async def __anext__(self) -> bytes | FileSlice:
        held, left = self._held, self._stop - self._position
        if held is None or left <= 0:
            self._release()
            raise StopAsyncIteration
        if left > CHANGING_TAIL_BYTES:
            self._check(held)
            length = min(left - CHANGING_TAIL_BYTES, CHANGING_PIECE_BYTES)
            piece = FileSlice(held.descriptor, self._position, length)
            self._position += length
            return piece
        if resident(held.descriptor, self._position, left):
            tail = os.pread(held.descriptor, left, self._position)
        else:
            tail = await asyncio.to_thread(os.pread, held.descriptor, left, self._position)
        self._check(held)
        if len(tail) != left:
            raise Unavailable("The file became shorter while it was read; read it again.")
        self._position += left
        return tail

    async def aclose(self) -> None:
        """Release what is held; the body ends here."""
        self._release()

    def _check(self, held: HeldFile) -> None:
        if _state(held.descriptor) != self._unchanged:
            raise Unavailable("The file was changed while it was read; read it again.")

    def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._files.release(held)

    def __del__(self) -> None:
        if hasattr(self, "_held"):
            self._release()


def _state(descriptor: int) -> tuple[int, int]:
    """What a change of the file's bytes changes."""
    status = os.fstat(descriptor)
    return status.st_mtime_ns, status.st_size
