"""A tier: one directory with a byte limit, its segment files, and its open logs.

Layout of the directory::

    tier.json   number (upper 16 bits of all its segment ids) and the ids given out so far
    lock        held by the one agent that owns the tier
    segments/   <id as 16 hex digits>.seg
    spool/      bodies on their way in, written by gateway workers

Only the agent opens a `Tier`; workers find files with `SegmentPaths`.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from headrace.base import rng
from headrace.base.clock import SYSTEM, Clock
from headrace.base.errors import Busy, Conflict, Invalid, NotFound, Unavailable
from headrace.base.limits import (
    FRAME_GRAIN_BYTES,
    LOGS_MAX,
    MIB,
    SEAL_IDLE_SECONDS,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    SEGMENTS_PER_LOG,
    TIER_BYTES_MIN,
    UNLINK_GRACE_SECONDS,
)
from headrace.media.frames import BlockName
from headrace.media.layout import SEGMENT_SUFFIX, Entry
from headrace.media.scan import read_table
from headrace.media.segments import Reservation, SegmentWriter, allocated_bytes, new_header, sync_folder, unavailable

_COUNTER_BITS = 48
_IDS_AHEAD = 64
_IDS_SKIPPED = 1 << 20


class TierStatistics(NamedTuple):
    """What a tier holds; `unlinked_bytes` may still be held by readers and count as used."""

    limit_bytes: int
    used_bytes: int
    unlinked_bytes: int
    segments: int
    open_logs: int
    failures: int


class SegmentPaths:
    """Where the segments of several tiers lie; for processes that only read."""

    def __init__(self, tiers: Iterable[Path]) -> None:
        self._tiers = tuple(tiers)
        self._folders: dict[int, str] = {}

    def path_of(self, segment_id: int) -> str:
        """Path of a segment, whether or not it still exists. Raises NotFound (no such tier)."""
        number = segment_id >> _COUNTER_BITS
        folder = self._folders.get(number)
        if folder is None:
            for tier in self._tiers:
                state = _read_state(tier)
                if state is not None:
                    self._folders[state[0]] = f"{tier}/segments/"
            folder = self._folders.get(number)
        if folder is None:
            raise NotFound(f"no tier holds segment {segment_id:016x}")
        return f"{folder}{segment_id:016x}{SEGMENT_SUFFIX}"


@dataclass(slots=True, eq=False)
class Log:
    """The open end of one binding's blocks in one tier: a segment, and the next when it is full.

    `writer` is the segment being filled, `used_steady` when something was last reserved.
    """

    tier: Tier
    binding: str
    kind: str
    writer: SegmentWriter | None = None
    used_steady: float = 0.0

    def reserve(self, data_length: int, name: BlockName) -> Reservation:
        """Room for one block; starts a new segment when needed.

        Raises Unavailable: TierFull (evict, then try again) or TierFailed; Invalid (name, length).
        """
        return self.tier.reserve(self, data_length, name)


class Tier:
    """A tier opened by its owner.

    Raises Invalid when the limit is too small, Conflict when another agent has it, Unavailable when
    the directory cannot be used. `segment_bytes` overrides the derived segment size, `taken_numbers`
    are the numbers of this node's other tiers.
    """

    def __init__(
        self,
        path: Path,
        limit_bytes: int,
        *,
        segment_bytes: int | None = None,
        taken_numbers: Collection[int] = (),
        clock: Clock = SYSTEM,
    ) -> None:
        if limit_bytes < TIER_BYTES_MIN and segment_bytes is None:
            raise Invalid(
                f"tier {path}: {limit_bytes / MIB:.0f} MiB is too small, give it at least {TIER_BYTES_MIN / MIB:.0f}"
            )
        self.path = path
        self.limit_bytes = limit_bytes
        self.boot_id = read_boot_id()
        self.failures = 0
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._lock = threading.RLock()
        self._sizes: dict[int, int] = {}
        self._writers: dict[int, SegmentWriter] = {}
        self._logs: dict[tuple[str, str], Log] = {}
        self._unlinked: list[tuple[float, int]] = []
        self._folder = path / "segments"
        try:
            for folder in (path, self._folder, path / "spool"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_descriptor = _take_lock(path)
        except OSError as error:
            raise unavailable(error, path) from error
        try:
            self._open(taken_numbers)
        except BaseException:
            os.close(self._lock_descriptor)
            raise

    def _open(self, taken_numbers: Collection[int]) -> None:
        for path in self._folder.glob(f"*{SEGMENT_SUFFIX}"):
            try:
                self._sizes[int(path.stem, 16)] = path.stat().st_blocks * 512
            except (ValueError, FileNotFoundError):
                continue
        self._closed_bytes = sum(self._sizes.values())
        highest = max(self._sizes, default=0)
        state = _read_state(self.path)
        if state is not None:
            self.number, self._next = state
        elif highest:
            self.number, self._next = highest >> _COUNTER_BITS, (highest & (1 << _COUNTER_BITS) - 1) + _IDS_SKIPPED
        else:
            free = [number for number in range(1, 1 << 15) if number not in taken_numbers]
            self.number, self._next = rng.fresh().choice(free), 1
        if self.number in taken_numbers:
            raise Conflict(f"tier {self.path} is a copy of another tier of this node: empty one of them")
        self._next_limit = self._next
        self._take_id(count=0)

    def open_log(self, binding_id: str, kind: str = "main") -> Log:
        """The log of a binding; `kind` is "main" or "transient". Raises Busy when there are too many."""
        with self._lock:
            log = self._logs.get((binding_id, kind))
            if log is None:
                bound = LOGS_MAX if self._segment_bytes else min(self.limit_bytes // (2 * SEGMENT_BYTES_MIN), LOGS_MAX)
                if len(self._logs) >= bound:
                    raise Busy(f"tier {self.path} has {len(self._logs)} open logs, its limit allows no more")
                log = self._logs[binding_id, kind] = Log(self, binding_id, kind)
            return log

    def reserve(self, log: Log, data_length: int, name: BlockName) -> Reservation:
        """Room for one block in `log`; see `Log.reserve`."""
        with self._lock:
            log.used_steady = self._clock.steady()
            self._logs.setdefault((log.binding, log.kind), log)
            used = self.used_bytes()
            if used + allocated_bytes(FRAME_GRAIN_BYTES, data_length) > self.limit_bytes:
                raise Unavailable(f"tier {self.path} is full: {used} of {self.limit_bytes} bytes", kind="TierFull")
            for _ in range(2):
                if log.writer is None:
                    log.writer = self._start_segment(log.binding, log.kind)
                reservation = log.writer.reserve(data_length, name)
                if reservation is not None:
                    return reservation
                log.writer = None
        raise Unavailable(f"tier {self.path}: a new segment takes no block", kind="TierFailed")

    def segment_bytes(self) -> int:
        """Size at which the next segment will be full: limit / (64 x open logs), 16 MiB to 1 GiB."""
        if self._segment_bytes is not None:
            return self._segment_bytes
        share = self.limit_bytes // (SEGMENTS_PER_LOG * max(len(self._logs), 1))
        return min(max(share, SEGMENT_BYTES_MIN), SEGMENT_BYTES_MAX)

    def segment_ids(self) -> list[int]:
        """All segments, oldest first."""
        with self._lock:
            return sorted(self._sizes)

    def path_of(self, segment_id: int) -> Path:
        """Path of a segment of this tier."""
        return self._folder / f"{segment_id:016x}{SEGMENT_SUFFIX}"

    def segment_size_bytes(self, segment_id: int) -> int:
        """Allocated bytes of one segment; 0 when it is gone."""
        with self._lock:
            writer = self._writers.get(segment_id)
            return writer.size_bytes if writer else self._sizes.get(segment_id, 0)

    def is_open(self, segment_id: int) -> bool:
        """True while the segment is being written or waits to be sealed."""
        return segment_id in self._writers

    def entries(self, segment_id: int) -> list[Entry]:
        """The frames of a segment, from memory or from its file. Raises Damaged, NotFound, OSError."""
        with self._lock:
            writer = self._writers.get(segment_id)
        if writer is not None:
            return writer.entries()
        try:
            return list(read_table(self.path_of(segment_id)).entries)
        except FileNotFoundError as error:
            raise NotFound(f"segment {segment_id:016x} is gone from {self.path}") from error

    def used_bytes(self) -> int:
        """Bytes that count against the limit: all segments, and what was unlinked a moment ago.

        A reader that holds an unlinked file keeps its bytes allocated and nobody can tell cheaply, so
        they count for UNLINK_GRACE_SECONDS longer: the time in which nearly every answer ends. A
        client slower than that can hold bytes beyond the limit, bounded by the connections it has.
        """
        with self._lock:
            if self._unlinked:
                now = self._clock.steady()
                self._unlinked = [item for item in self._unlinked if item[0] > now]
            open_bytes = sum(writer.size_bytes for writer in self._writers.values())
            return self._closed_bytes + open_bytes + sum(size for _, size in self._unlinked)

    def unlink(self, segment_id: int) -> None:
        """Remove a segment's file; open readers keep reading. Drop its blocks from the index first, and
        stamp the generation word that guards remembered locations.

        Raises Busy while it is being written, Unavailable when the disk refuses.
        """
        with self._lock:
            if segment_id in self._writers:
                raise Busy(f"segment {segment_id:016x} is still being written")
            try:
                self.path_of(segment_id).unlink(missing_ok=True)
            except OSError as error:
                self.failures += 1
                raise unavailable(error, self.path_of(segment_id)) from error
            size = self._sizes.pop(segment_id, 0)
            self._closed_bytes -= size
            self._unlinked.append((self._clock.steady() + UNLINK_GRACE_SECONDS, size))

    def maintain(self, *, idle_seconds: float = SEAL_IDLE_SECONDS) -> list[int]:
        """Seal full segments and those of logs idle for `idle_seconds`; returns the sealed ids.

        Waits for the disk: call it in a worker thread, every second or so. Raises Unavailable for
        the first segment that cannot be sealed (it stays readable), after trying all.
        """
        with self._lock:
            deadline = self._clock.steady() - idle_seconds
            for key, log in list(self._logs.items()):
                if log.used_steady <= deadline:
                    if log.writer is not None:
                        log.writer.close()
                        log.writer = None
                    del self._logs[key]
            ready = [writer for writer in self._writers.values() if not writer.open and not writer.pending]
        sealed = []
        failure: Unavailable | None = None
        for writer in ready:
            try:
                if writer.frame_count and writer.seal():
                    sealed.append(writer.segment_id)
            except Unavailable as error:
                self.failures += 1
                failure = failure or error
            self._retire(writer)
        if failure is not None:
            raise failure
        return sealed

    def statistics(self) -> TierStatistics:
        """Counts for metrics."""
        with self._lock:
            used = self.used_bytes()
            unlinked = sum(size for _, size in self._unlinked)
            return TierStatistics(self.limit_bytes, used, unlinked, len(self._sizes), len(self._logs), self.failures)

    def close(self) -> bool:
        """Seal every log and release the tier; False when something could not be sealed."""
        clean = True
        try:
            self.maintain(idle_seconds=0)
        except Unavailable:
            clean = False
        with self._lock:
            clean = clean and not self._writers
            os.close(self._lock_descriptor)
        return clean

    def _start_segment(self, binding: str, kind: str) -> SegmentWriter:
        segment_id = self._take_id()
        header = new_header(segment_id, binding, self.number, kind, self.boot_id)
        try:
            writer = SegmentWriter(self.path_of(segment_id), header, self.segment_bytes())
        except Unavailable:
            self.failures += 1
            raise
        self._sizes[segment_id] = 0
        self._writers[segment_id] = writer
        return writer

    def _retire(self, writer: SegmentWriter) -> None:
        """Forget the writer of a segment that is complete; one without frames is removed."""
        with self._lock:
            if self._writers.pop(writer.segment_id, None) is None:
                return
            if writer.frame_count:
                self._sizes[writer.segment_id] = writer.size_bytes
                self._closed_bytes += writer.size_bytes
                return
            os.close(writer.descriptor)
            self._sizes.pop(writer.segment_id, None)
            self.path_of(writer.segment_id).unlink(missing_ok=True)

    def _take_id(self, count: int = 1) -> int:
        """The next segment id; what is given out is on disk before it is used, so none comes twice."""
        if self._next + count > self._next_limit or not count:
            self._next_limit = self._next + _IDS_AHEAD
            try:
                _write_state(self.path, self.number, self._next_limit)
            except OSError as error:
                self.failures += 1
                raise unavailable(error, self.path) from error
        segment_id = self.number << _COUNTER_BITS | self._next
        self._next += count
        return segment_id


def read_boot_id() -> str:
    """What tells this boot of the machine from every other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _take_lock(path: Path) -> int:
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Conflict(f"tier {path} is in use by another agent", kind="TierLocked") from error
    return descriptor


def _read_state(path: Path) -> tuple[int, int] | None:
    try:
        state = json.loads((path / "tier.json").read_bytes())
        return int(state["number"]), int(state["next"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_state(path: Path, number: int, following: int) -> None:
    temporary = path / "tier.json.new"
    with temporary.open("w") as file:
        json.dump({"number": number, "next": following}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path / "tier.json")
    sync_folder(path)
