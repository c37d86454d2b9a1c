"""Listing a folder tree in the byte order of keys, with bounded memory.

A folder sorts as its name and a slash, which is where the keys below it come. Names of a folder are
read whole and sorted; of a very large folder a window of them is. Windows are kept while the folder's
own mtime shows that no name came or went.
"""

from __future__ import annotations

import heapq
import os
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from headrace.base import clock
from headrace.base.limits import FOLDER_DEPTH_MAX, FOLDER_LISTINGS_NAMES_MAX, FOLDER_NAMES_MAX
from headrace.origin.beneath import Beneath
from headrace.origin.folder_files import PRIVATE
from headrace.origin.rows import above

_SETTLED_NS = 2_000_000_000
"""A folder changed less than this ago may change again within one tick of its mtime."""


class Window(NamedTuple):
    """Sorted names (folders with a slash) of one folder from `start` on; all that follow, if `complete`."""

    start: bytes
    names: list[bytes]
    complete: bool


class _Kept(NamedTuple):
    window: Window
    inode: int
    mtime_ns: int
    ctime_ns: int


def _names(descriptor: int, base: bytes) -> Iterator[bytes]:
    """The names of a folder that may be, or lead to, objects; those that are not UTF-8 are left out."""
    with os.scandir(descriptor) as entries:
        for entry in entries:
            try:
                name = entry.name.encode()
            except UnicodeEncodeError:
                continue
            if entry.is_dir(follow_symlinks=False):
                if base or name != PRIVATE:
                    yield name + b"/"
            elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
                yield name


class Listings:
    """Reads folders, and keeps what it read for the next page."""

    def __init__(self, beneath: Beneath) -> None:
        self._beneath = beneath
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def window(self, base: bytes, start: bytes) -> Window:
        """Names >= `start` of the folder `base` ("" or ending in a slash); empty when it is gone."""
        try:
            descriptor = self._beneath.folder(base.removesuffix(b"/"))
        except OSError:
            return Window(b"", [], complete=True)
        try:
            status = os.fstat(descriptor)
            with self._lock:
                kept = self._kept.get(base)
                if (
                    kept is not None
                    and kept[1:] == (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
                    and kept.window.start <= start
                    and (kept.window.complete or start <= kept.window.names[-1])
                ):
                    self._kept.move_to_end(base)
                    return kept.window
            window = self._read(descriptor, base, start)
        finally:
            os.close(descriptor)
        if clock.wall() * 1e9 - status.st_mtime_ns > _SETTLED_NS:
            self._keep(base, _Kept(window, status.st_ino, status.st_mtime_ns, status.st_ctime_ns))
        return window

    def holds_file(self, base: bytes) -> bool:
        """Whether any file lies at or below the folder `base`; stops at the first."""
        folders = [base]
        while folders:
            folder = folders.pop()
            try:
                descriptor = self._beneath.folder(folder.removesuffix(b"/"))
            except OSError:
                continue
            try:
                for name in _names(descriptor, folder):
                    if name.endswith(b"/"):
                        folders.append(folder + name)
                    else:
                        return True
            finally:
                os.close(descriptor)
        return False

    def _read(self, descriptor: int, base: bytes, start: bytes) -> Window:
        first: list[bytes] = []
        names = _names(descriptor, base)
        for name in names:
            first.append(name)
            if len(first) > FOLDER_NAMES_MAX:
                break
        else:
            first.sort()
            return Window(b"", first, complete=True)

        def wanted() -> Iterator[bytes]:
            yield from (name for name in first if name >= start)
            first.clear()
            yield from (name for name in names if name >= start)

        found = heapq.nsmallest(FOLDER_NAMES_MAX, wanted())
        return Window(start, found, complete=len(found) < FOLDER_NAMES_MAX)

    def _keep(self, base: bytes, kept: _Kept) -> None:
        with self._lock:
            before = self._kept.pop(base, None)
            self._count += len(kept.window.names) + 1 - (len(before.window.names) + 1 if before else 0)
            self._kept[base] = kept
            while self._count > FOLDER_LISTINGS_NAMES_MAX:
                _, oldest = self._kept.popitem(last=False)
                self._count -= len(oldest.window.names) + 1


class _Frame:
    """One folder that is being walked."""

    __slots__ = ("base", "position", "window")

    def __init__(self, base: bytes, window: Window, position: int) -> None:
        self.base = base
        self.window = window
        self.position = position


def _start_in(base: bytes, low: bytes) -> bytes:
    """The first name of folder `base` that can hold keys >= `low` (which is below `above(base)`)."""
    if low <= base:
        return b""
    name, slash, _ = low[len(base) :].partition(b"/")
    return name + slash


class Walk:
    """Names in key order: files, and folders (with a slash) before what they hold. `seek` skips ahead."""

    def __init__(self, listings: Listings, prefix: bytes, low: bytes) -> None:
        self._listings = listings
        self._prefix = prefix
        self._low = max(low, prefix)
        self._end = above(prefix)
        self._frames: list[_Frame] = []
        self._pending: bytes | None = None
        root, _, _ = prefix.rpartition(b"/")
        self._push(root + b"/" if root else b"")
        self._own = root + b"/" if root and root + b"/" >= self._low else None

    def seek(self, low: bytes) -> None:
        """Skip everything below `low`."""
        self._low = max(self._low, low)

    def __iter__(self) -> Walk:
        return self

    def __next__(self) -> bytes:
        if self._own is not None:
            own, self._own = self._own, None
            return own
        while self._frames:
            if self._pending is not None:
                pending, self._pending = self._pending, None
                beyond = above(pending)
                if (beyond is None or beyond > self._low) and len(self._frames) < FOLDER_DEPTH_MAX:
                    self._push(pending)
            name = self._step(self._frames[-1])
            if name is not None:
                return name
        raise StopIteration

    def _push(self, base: bytes) -> None:
        start = _start_in(base, self._low)
        window = self._listings.window(base, start)
        self._frames.append(_Frame(base, window, bisect_left(window.names, start)))

    def _step(self, frame: _Frame) -> bytes | None:
        """The next name of the frame; None when it led up, down or past something."""
        if frame.base and (beyond := above(frame.base)) is not None and beyond <= self._low:
            self._frames.pop()
            return None
        names = frame.window.names
        start = _start_in(frame.base, self._low)
        if frame.position < len(names) and names[frame.position] < start:
            frame.position = bisect_left(names, start, frame.position)
        if frame.position >= len(names):
            if frame.window.complete:
                self._frames.pop()
            else:
                last = max(names[-1] + b"\0", start)
                frame.window = self._listings.window(frame.base, last)
                frame.position = bisect_left(frame.window.names, last)
            return None
        name = frame.base + names[frame.position]
        frame.position += 1
        if self._end is not None and name >= self._end:
            self._frames.clear()
            return None
        if name.endswith(b"/"):
            self._pending = name  # entered by the next step, unless the caller seeks past it first
        return name if name >= self._low and name.startswith(self._prefix) else None
