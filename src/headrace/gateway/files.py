"""Open descriptors of the files that answers are sent from: kept a while, bounded, never closed in use.

One cache serves one worker (one thread). A file is looked up by its path and the version token of the
object it belongs to, so a folder's file that was replaced is opened anew.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence

from headrace.base.errors import Busy
from headrace.base.limits import EXTENTS_HELD_MAX, OPEN_FILES_MAX
from headrace.model.objects import Extent, FileSlice


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

    def hold(self, path: str, token: str = "") -> HeldFile:
        """The open file; every call is paired with one `release`.

        Raises FileNotFoundError (look up again: the object changed), OSError, and Busy when all
        descriptors are in use.
        """
        key = (path, token)
        held = self._held.get(key)
        if held is not None:
            self._held.move_to_end(key)
            held.uses += 1
            return held
        if len(self._held) >= self._files_max and not self._close_one():
            raise Busy(f"all {self._files_max} descriptors for object files are in use; try again")
        held = HeldFile(key, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
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

    def forget(self, path: str, token: str = "") -> None:
        """Close the file now if nobody uses it, so that an unlinked body gives its space back."""
        held = self._held.get((path, token))
        if held is not None and held.uses == 0:
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
