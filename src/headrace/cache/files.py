"""A worker's open segment files: few, shared, and never closed under a reader."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable

from headrace.base import errors, limits
from headrace.media.frames import FrameHeader, SegmentKey
from headrace.media.layout import read_segment_header
from headrace.media.residency import PAGE_BYTES, resident
from headrace.media.segments import read_frame_header


class SegmentFile:
    """An open segment. The descriptor closes when the last reference to this value goes."""

    __slots__ = ("_key", "descriptor", "path", "segment")

    def __init__(self, segment: int, path: str) -> None:
        self.segment = segment
        self.path = path
        self._key: SegmentKey | None = None
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def frame(self, offset: int) -> FrameHeader:
        """The frame header at `offset`. Raises Damaged, OSError."""
        if self._key is None:
            self._key = read_segment_header(self.descriptor).key
        return read_frame_header(self.descriptor, offset, self._key)

    def ready_at(self, start: int, stop: int) -> bool:
        """Whether a frame and bytes in [start, stop) can be read now without the device."""
        return resident(self.descriptor, start, stop - start) and (
            self._key is not None or resident(self.descriptor, 0, PAGE_BYTES)
        )

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class OpenFiles:
    """The segments used lately, at most `bound` of them, besides those still in use."""

    def __init__(self, path_of: Callable[[int], str], bound: int = limits.OPEN_FILES_MAX) -> None:
        self._path_of = path_of
        self._bound = bound
        self._files: OrderedDict[int, SegmentFile] = OrderedDict()

    def get(self, segment: int, path: str = "") -> SegmentFile:
        """The open segment; `path` where it is known already. Raises NotFound (it is gone), Unavailable."""
        file = self._files.get(segment)
        if file is not None:
            self._files.move_to_end(segment)
            return file
        try:
            file = SegmentFile(segment, path or self._path_of(segment))
        except FileNotFoundError as error:
            raise errors.NotFound(f"segment {segment:016x} is gone", kind="SegmentGone") from error
        except OSError as error:
            raise errors.Unavailable(f"segment {segment:016x} cannot be opened: {error}", kind="TierFailed") from error
        self._files[segment] = file
        if len(self._files) > self._bound:
            self._files.popitem(last=False)
        return file

    def forget(self, segment: int) -> None:
        """Do not give this file out again."""
        self._files.pop(segment, None)

    def forget_unlinked(self) -> None:
        """Do not keep the space of segments that are gone; readers under way keep theirs."""
        for segment, file in list(self._files.items()):
            if os.fstat(file.descriptor).st_nlink == 0:
                del self._files[segment]

    def clear(self) -> None:
        """Forget all files."""
        self._files.clear()

    def __len__(self) -> int:
        return len(self._files)
