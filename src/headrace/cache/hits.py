"""What a worker finds in the cache by itself: index look-ups, open segments, checks on first use."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from headrace.base import errors, limits
from headrace.base.clock import Clock
from headrace.cache.client import AgentClient
from headrace.cache.files import OpenFiles, SegmentFile
from headrace.media.frames import BlockName, block_digest
from headrace.media.index import IndexReader
from headrace.media.layout import Location
from headrace.media.residency import resident, warm
from headrace.media.tiers import SegmentPaths
from headrace.model.objects import FileSlice
from headrace.wire.agent import Touch
from headrace.wire.words import INDEX, Words

_INDEX_CHECK_SECONDS = 1.0
_UNIT = limits.CHECKSUM_UNIT_BYTES
_DISK_ERRORS = (errno.EIO, errno.ENXIO, errno.ENODEV)
"""What a failing disk says; a lack of descriptors or memory says nothing about a block."""


class Ready(NamedTuple):
    """A cached block, its segment open and its checksums proven: `file` keeps the descriptor open."""

    file: SegmentFile
    location: Location
    source: str

    def slice(self, start: int, stop: int) -> FileSlice:
        """Bytes [start, stop) of the block."""
        return FileSlice(self.file.descriptor, self.location.data_offset + start, stop - start, self.source)


class IndexHandle:
    """The index of one worker: opened when it is there, and anew when the agent replaced it."""

    def __init__(self, path: Path, clock: Clock, *, map_bytes: int = limits.INDEX_MAP_BYTES) -> None:
        self._path = path
        self._clock = clock
        self._map_bytes = map_bytes
        self._reader: IndexReader | None = None
        self._checked = float("-inf")

    def current(self) -> IndexReader | None:
        """The index, or None while there is none."""
        now = self._clock.steady()
        if now - self._checked >= _INDEX_CHECK_SECONDS:
            self._checked = now
            if self._reader is not None and self._reader.stale():
                self.close()
            if self._reader is None:
                with suppress(errors.Unavailable):
                    self._reader = IndexReader(self._path, map_bytes=self._map_bytes)
        return self._reader

    def close(self) -> None:
        """Unmap the index."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class Hits:
    """Finds, opens and checks cached blocks.

    The first time this worker uses a block, its full name is compared and its bytes are checked
    against the frame's checksums (all of them, or the 64 KiB units of a range whose block is not in
    memory); what fails is dropped from the cache and treated as missing. Bytes that were in memory then
    prove nothing of the device, so they are checked again the first time they come from there.
    """

    def __init__(self, index: IndexHandle, paths: SegmentPaths, client: AgentClient, words: Words) -> None:
        self.index = index
        self.files = OpenFiles(paths.path_of)
        self.counts: Counter[str] = Counter()
        self._client = client
        self._view = words.view
        self._unlinked = self._view[INDEX]
        self._pool = ThreadPoolExecutor(limits.DEVICE_READS_MAX, thread_name_prefix="headrace-check")
        self._checked: OrderedDict[tuple[int, int], bool] = OrderedDict()
        """Checked blocks by segment and frame; True when their bytes came from the device, not from memory."""
        self._touches: list[tuple[bytes, int]] = []
        self._flush: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Stop the threads, close files and index."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self._pool.shutdown()
        self.files.clear()
        self.index.close()

    def find(self, names: Sequence[BlockName]) -> list[Location | None]:
        """Where the blocks lie, as far as the index knows."""
        if self._view[INDEX] != self._unlinked:  # a segment went: let its bytes go, too
            self._unlinked = self._view[INDEX]
            self.files.forget_unlinked()
        index = self.index.current()
        return [None] * len(names) if index is None else index.blocks([block_digest(*name) for name in names])

    async def ready(self, name: BlockName, start: int, stop: int) -> Ready | None:
        """The block, fit to serve [start, stop) of; None when it must be had from the agent."""
        for _ in range(2):
            location = self.find([name])[0]
            if location is None:
                return None
            if location.length < stop:
                return None
            try:
                file = self.files.get(location.segment_id)
                first = min(stop - start, limits.SLICE_BYTES_MAX)  # looked at before a check brings it in
                source = "memory" if resident(file.descriptor, location.data_offset + start, first) else "device"
                if not await self._check(file, location, name, start, stop):
                    return None
            except errors.NotFound:  # unlinked since: the index knows better by now, or is told
                self.files.forget(location.segment_id)
                if self.find([name])[0] == location:
                    await self._drop(name, location.segment_id, corrupt=False)
                continue
            except (errors.Unavailable, OSError) as error:
                self.counts["hit unreadable"] += 1
                reason = error if isinstance(error, OSError) else error.__cause__
                if isinstance(reason, OSError) and reason.errno in _DISK_ERRORS:  # else it is this worker's trouble
                    await self._drop(name, location.segment_id, corrupt=isinstance(error, OSError))
                return None
            self.touch(block_digest(*name), location.segment_id)
            return Ready(file, location, source)
        return None

    def now(self, name: BlockName, location: Location) -> Ready | None:
        """The block if its segment opens and it was checked before, or can be without waiting."""
        proven = self._checked.get((location.segment_id, location.frame_offset))
        if proven is None and location.length > limits.SMALL_FILL_BYTES_MAX:
            return None
        try:
            file = self.files.get(location.segment_id)
        except errors.HeadraceError:
            return None
        if proven is None and not self._check_now(file, location, name):
            return None
        if not proven and not resident(file.descriptor, location.data_offset, location.length):
            return None
        self.touch(block_digest(*name), location.segment_id)
        return Ready(file, location, "memory")

    def touch(self, digest: bytes, segment: int) -> None:
        """Note a hit; the agent hears of hits twice a second, which is what eviction goes by."""
        if len(self._touches) < limits.TOUCHES_MAX:
            self._touches.append((digest, segment))
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(limits.TOUCH_SECONDS, self._send_touches)

    def _send_touches(self) -> None:
        self._flush = None
        touches, self._touches = self._touches, []
        self._client.tell(Touch(touches))

    async def _check(self, file: SegmentFile, location: Location, name: BlockName, start: int, stop: int) -> bool:
        """Check what this worker did not check before. Raises OSError; False when it is not the block."""
        known = location.segment_id, location.frame_offset
        proven = self._checked.get(known)
        if proven or (proven is False and resident(file.descriptor, location.data_offset + start, stop - start)):
            self._checked.move_to_end(known)
            return True
        if proven is None and self._check_now(file, location, name):
            return True
        in_memory = resident(file.descriptor, location.data_offset, location.length)
        whole = in_memory or (start, stop) == (0, location.length)
        span = (
            (0, location.length) if whole else (start // _UNIT * _UNIT, min(-(-stop // _UNIT) * _UNIT, location.length))
        )
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, _verify, file, location, name, *span)
        except errors.Damaged:
            self.counts["corrupt"] += 1
            self.files.forget(location.segment_id)
            await self._drop(name, location.segment_id, corrupt=True)
            return False
        if whole:
            self._note(known, not in_memory)
        return True

    def _check_now(self, file: SegmentFile, location: Location, name: BlockName) -> bool:
        """Check a small block that is wholly in memory at once: that costs less than asking a thread."""
        if location.length > limits.SMALL_FILL_BYTES_MAX or not file.ready_at(
            location.frame_offset, location.data_offset + location.length
        ):
            return False
        try:
            _verify(file, location, name, 0, location.length)
        except (errors.Damaged, OSError):
            return False  # met again, and told, where there is time for it
        self._note((location.segment_id, location.frame_offset), False)
        return True

    def _note(self, known: tuple[int, int], from_device: bool) -> None:
        self._checked[known] = from_device
        if len(self._checked) > limits.CHECKED_BLOCKS_MAX:
            self._checked.popitem(last=False)

    async def _drop(self, name: BlockName, segment: int, *, corrupt: bool) -> None:
        with suppress(errors.HeadraceError):
            await self._client.damage(int(name.binding), name.key, name.version, name.number, segment, corrupt=corrupt)


def _verify(file: SegmentFile, location: Location, name: BlockName, start: int, stop: int) -> None:
    """In a worker thread: the frame is this block's and units [start, stop) match. Raises Damaged, OSError."""
    frame = file.frame(location.frame_offset)
    if frame.name != name or (frame.data_offset, frame.data_length) != (location.data_offset, location.length):
        raise errors.Damaged(f"the index leads from {name} to another block")
    units = frame.checksums[start // _UNIT : -(-stop // _UNIT)]
    warm(file.descriptor, location.data_offset + start, stop - start, units)
