"""Segment files: written once from front to back, sealed, read, one day unlinked; never overwritten.

Several threads may fill reservations of one segment at the same time, each its own bytes; a commit
writes the frame's header behind its bytes, and only then may the index learn of it. All calls here
are blocking; `seal` waits for the disk and belongs in a worker thread.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace.base import rng
from headrace.base.clock import wall
from headrace.base.errors import Bug, Invalid, Unavailable
from headrace.base.limits import BLOCK_BYTES, FRAME_HEADER_BYTES_MAX, FRAMES_PER_SEGMENT_MAX
from headrace.media.frames import (
    KEY_BYTES,
    PAGE_BYTES,
    BlockName,
    Buffer,
    FrameHeader,
    SegmentKey,
    decode_header,
    encode_header,
    encode_name,
    header_length,
    place,
)
from headrace.media.layout import (
    Entry,
    Location,
    SegmentHeader,
    decode_rows,
    encode_footer,
    encode_row,
    encode_segment_header,
    read_segment_header,
)

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_CHECKSUM = slice(8, 24)


@dataclass(slots=True, eq=False)
class Reservation:
    """Room for one block in an open segment.

    Write the block's bytes to [data_offset, data_offset + data_length) of `descriptor` (or through
    `SegmentWriter.write`), then commit or abandon, exactly once.
    """

    segment_id: int
    path: str
    descriptor: int
    data_offset: int
    data_length: int
    frame_offset: int
    name: BlockName
    writer: SegmentWriter = field(repr=False)
    encoded_name: bytes = field(repr=False)
    open: bool = True

    @property
    def location(self) -> Location:
        """Where the block lies once committed."""
        return Location(self.segment_id, self.data_offset, self.data_length, self.frame_offset)


class SegmentWriter:
    """One open segment file, appended to by its only owner.

    `size_bytes` counts what is allocated (holes do not count); past `limit_bytes` nothing more is
    reserved. A failing append closes the segment: what is committed stays readable.
    """

    def __init__(self, path: Path, header: SegmentHeader, limit_bytes: int) -> None:
        self.path = path
        self.header = header
        self.limit_bytes = limit_bytes
        self.size_bytes = PAGE_BYTES
        self.error: Unavailable | None = None
        self.sealed = False
        self.pending = 0
        self._key: SegmentKey = header.key
        self._cursor = PAGE_BYTES
        self._closed = False
        self._sealing = False
        self._rows: list[bytes] = []
        self._lock = threading.Lock()
        try:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unavailable(error, path) from error
        try:
            _write(self.descriptor, encode_segment_header(header), 0)
        except OSError as error:
            os.close(self.descriptor)
            path.unlink(missing_ok=True)
            raise unavailable(error, path) from error

    @property
    def segment_id(self) -> int:
        """The segment's number, never used twice."""
        return self.header.segment_id

    @property
    def open(self) -> bool:
        """True while reservations are given out."""
        return not self._closed

    @property
    def frame_count(self) -> int:
        """How many frames are committed."""
        return len(self._rows)

    def reserve(self, data_length: int, name: BlockName) -> Reservation | None:
        """Room for one block, or None when the segment is full or closed.

        Raises Invalid when the length or the name cannot stand in a frame.
        """
        if not 0 <= data_length <= BLOCK_BYTES:
            raise Invalid(f"a block has at most {BLOCK_BYTES} bytes, not {data_length}")
        if name.binding != self.header.binding:
            raise Bug(f"a block of binding {name.binding} in a segment of {self.header.binding}")
        encoded = encode_name(name)
        header_bytes = header_length(encoded, data_length)
        with self._lock:
            if self._closed:
                return None
            full = self.size_bytes + data_length > self.limit_bytes and self._cursor > PAGE_BYTES
            if full or len(self._rows) + self.pending >= FRAMES_PER_SEGMENT_MAX:
                self._closed = True
                return None
            frame_offset, data_offset = place(self._cursor, header_bytes, data_length)
            end = data_offset + data_length
            # what is skipped is a hole, beyond the rest of a page; the footer's row counts already
            self.size_bytes += min(end - self._cursor, allocated_bytes(header_bytes, data_length)) + header_bytes
            self._cursor = end
            self.pending += 1
        return Reservation(
            segment_id=self.header.segment_id,
            path=str(self.path),
            descriptor=self.descriptor,
            data_offset=data_offset,
            data_length=data_length,
            frame_offset=frame_offset,
            name=name,
            writer=self,
            encoded_name=encoded,
        )

    def write(self, reservation: Reservation, offset: int, data: Buffer) -> None:
        """Put `data` at `offset` of the block. Raises Unavailable (TierFull, TierFailed)."""
        if offset < 0 or offset + len(data) > reservation.data_length:
            raise Bug(f"{len(data)} bytes at {offset} overrun a block of {reservation.data_length}")
        try:
            _write(self.descriptor, data, reservation.data_offset + offset)
        except OSError as error:
            raise self.fail(error) from error

    def commit(self, reservation: Reservation, checksums: Sequence[int]) -> Entry:
        """Make the frame valid: its bytes are all written and have these unit checksums.

        Raises Unavailable (TierFull, TierFailed; the reservation is then spent), Invalid (as many
        checksums as the block has units are wanted; it is still open).
        """
        header = encode_header(
            self._key,
            reservation.encoded_name,
            reservation.frame_offset,
            reservation.data_offset,
            reservation.data_length,
            checksums,
        )
        try:
            _write(self.descriptor, header, reservation.frame_offset)
        except OSError as error:
            self.abandon(reservation)
            raise self.fail(error) from error
        location = reservation.location
        row = encode_row(location, len(header), header[_CHECKSUM], reservation.encoded_name)
        with self._lock:
            self._spend(reservation)
            self._rows.append(row)
        return Entry(reservation.name, location, header[_CHECKSUM])

    def abandon(self, reservation: Reservation) -> None:
        """Give the reservation up; its place stays unused until the segment is unlinked."""
        with self._lock:
            self._spend(reservation)

    def fail(self, error: OSError) -> Unavailable:
        """Close the segment because of `error` (from a filler's own write, too); returns what to raise."""
        failure = unavailable(error, self.path)
        with self._lock:
            self._closed = True
            self.error = self.error or failure
        return failure

    def close(self) -> None:
        """Give out no more reservations; those given out may still be committed."""
        with self._lock:
            self._closed = True

    def entries(self) -> list[Entry]:
        """All committed frames."""
        with self._lock:
            rows = list(self._rows)
        return decode_rows(self.segment_id, b"".join(rows), len(rows))

    def seal(self) -> bool:
        """Write the footer and make everything durable; False while reservations are open, or after a failure.

        The bytes are on disk before the footer is written, so a footer vouches for them. On failure
        raises Unavailable; the segment is then complete but unsealed, and would be scanned.
        """
        with self._lock:
            self._closed = True
            if self.pending:
                return False
            if self._sealing:
                return self.sealed
            self._sealing = True
        try:
            os.fsync(self.descriptor)
            write_footer(self.descriptor, self.header, self._rows, self._cursor)
            self.size_bytes = os.fstat(self.descriptor).st_blocks * 512
            sync_folder(self.path.parent)
            self.sealed = True
        except OSError as error:
            raise self.fail(error) from error
        finally:
            os.close(self.descriptor)
        return True

    def _spend(self, reservation: Reservation) -> None:
        if not reservation.open:
            raise Bug(f"a reservation of {reservation.name} was committed or abandoned twice")
        reservation.open = False
        self.pending -= 1


def new_header(segment_id: int, binding: str, tier: int, kind: str, boot_id: str) -> SegmentHeader:
    """The header of a segment that starts now, with a fresh random key."""
    return SegmentHeader(
        segment_id=segment_id,
        binding=binding,
        tier=tier,
        kind=kind,
        boot_id=boot_id,
        secret=rng.token(KEY_BYTES),
        created_wall=wall(),
    )


def allocated_bytes(header_bytes: int, data_length: int) -> int:
    """The most that a frame can take on disk: whole pages for its header and its data."""
    return (-(-header_bytes // PAGE_BYTES) - (-data_length // PAGE_BYTES)) * PAGE_BYTES


def write_footer(descriptor: int, header: SegmentHeader, rows: Sequence[bytes], cursor: int) -> None:
    """Append the footer behind `cursor` and fsync. Raises OSError."""
    end = -(-cursor // PAGE_BYTES) * PAGE_BYTES
    _write(descriptor, encode_footer(header.key, header.segment_id, rows, len(rows)), end)
    os.fsync(descriptor)


def read_frame_header(descriptor: int, frame_offset: int, key: SegmentKey | None = None) -> FrameHeader:
    """The header of one frame of an open segment, for its full name and its checksums.

    Pass `key` (`read_segment_header(descriptor).key`) when it is known already: it saves a read.
    Raises Damaged, OSError.
    """
    if key is None:
        key = read_segment_header(descriptor).key
    return decode_header(key, os.pread(descriptor, FRAME_HEADER_BYTES_MAX, frame_offset), frame_offset)


def unavailable(error: OSError, path: Path) -> Unavailable:
    """A failed disk call as headrace's error: kind TierFull or TierFailed."""
    kind = "TierFull" if error.errno in _FULL else "TierFailed"
    return Unavailable(f"cannot write {path}: {error.strerror or error}", kind=kind)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: Buffer, offset: int) -> None:
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):
        more = os.pwrite(descriptor, memoryview(data)[written:], offset + written)
        if more == 0:
            raise OSError(errno.EIO, "the disk takes no more bytes")
        written += more
