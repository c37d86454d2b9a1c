"""Reading a segment's table of frames: from its footer, or by looking for frames one by one."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from xxhash import xxh3_64_intdigest

from headrace.base.errors import Damaged
from headrace.base.limits import CHECKSUM_UNIT_BYTES, FRAME_GRAIN_BYTES, FRAME_HEADER_BYTES_MAX, MIB
from headrace.media.frames import PAGE_BYTES, FrameHeader, SegmentKey, decode_header, encode_name
from headrace.media.layout import (
    Entry,
    Location,
    SegmentHeader,
    encode_row,
    ends_in_footer,
    read_footer,
    read_segment_header,
)
from headrace.media.segments import sync_folder, write_footer

_STEP_BYTES = MIB


@dataclass(frozen=True, slots=True)
class SegmentTable:
    """The frames of one segment file.

    `sealed`: the table is its footer's. Else it was scanned, every frame's data was verified,
    and `torn` frames had a valid header over bytes that do not match.
    """

    header: SegmentHeader
    entries: tuple[Entry, ...]
    sealed: bool
    size_bytes: int
    torn: int = 0


def read_table(path: Path) -> SegmentTable:
    """All frames of the segment at `path`. Raises Damaged when it has no readable header, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = read_segment_header(descriptor)
        status = os.fstat(descriptor)
        size_bytes = status.st_blocks * 512
        entries = read_footer(descriptor, header, status.st_size)
        if entries is not None:
            return SegmentTable(header, tuple(entries), True, size_bytes)
        found, torn = _scan(descriptor, header, status.st_size)
        return SegmentTable(header, tuple(found), False, size_bytes, torn)
    finally:
        os.close(descriptor)


def has_footer(path: Path) -> bool:
    """True when the segment looks sealed; False too when it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return ends_in_footer(descriptor, read_segment_header(descriptor), os.fstat(descriptor).st_size)
    except (Damaged, OSError):
        return False
    finally:
        os.close(descriptor)


def seal_scanned(path: Path, table: SegmentTable) -> None:
    """Give a scanned segment, whose writer is gone, its footer, so that it is not scanned again.

    The footer goes behind whatever is there: a torn append stays, as nothing published is ever cut
    or overwritten. Raises Damaged, OSError.
    """
    key = table.header.key
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        rows = []
        for entry in table.entries:
            offset = entry.location.frame_offset
            header = decode_header(key, os.pread(descriptor, FRAME_HEADER_BYTES_MAX, offset), offset)
            name = encode_name(entry.name)
            rows.append(encode_row(entry.location, header.header_length, entry.header_checksum, name))
        os.fsync(descriptor)
        write_footer(descriptor, table.header, rows, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def verify_frame(descriptor: int, header: FrameHeader) -> bool:
    """True when the frame's bytes match its checksums. Raises OSError."""
    end = header.data_offset + header.data_length
    for index, expected in enumerate(header.checksums):
        start = header.data_offset + index * CHECKSUM_UNIT_BYTES
        length = min(CHECKSUM_UNIT_BYTES, end - start)
        data = os.pread(descriptor, length, start)
        if len(data) != length or xxh3_64_intdigest(data) != expected:
            return False
    return True


def _scan(descriptor: int, header: SegmentHeader, file_bytes: int) -> tuple[list[Entry], int]:
    """Frames found by their magic: (whole ones, number of torn ones)."""
    key = header.key
    entries: list[Entry] = []
    torn = 0
    position = PAGE_BYTES
    while (hit := _next_magic(descriptor, key, position, file_bytes)) is not None:
        buffer = os.pread(descriptor, FRAME_HEADER_BYTES_MAX, hit)
        position = hit + FRAME_GRAIN_BYTES
        try:
            frame = decode_header(key, buffer, hit)
        except Damaged:
            continue
        if verify_frame(descriptor, frame):
            location = Location(header.segment_id, frame.data_offset, frame.data_length, hit)
            entries.append(Entry(frame.name, location, buffer[8:24]))
        else:
            torn += 1
        position = _up(frame.data_offset + frame.data_length)
    return entries, torn


def _next_magic(descriptor: int, key: SegmentKey, position: int, file_bytes: int) -> int | None:
    """The next grain-aligned offset >= `position` where the frame magic stands; holes are skipped."""
    while position < file_bytes:
        try:
            data = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            raise
        position = max(position, data // FRAME_GRAIN_BYTES * FRAME_GRAIN_BYTES)
        if os.pread(descriptor, len(key.magic), position) == key.magic:
            return position
        buffer = os.pread(descriptor, _STEP_BYTES, position)
        if not buffer:
            return None
        found = buffer.find(key.magic)
        while found >= 0 and found % FRAME_GRAIN_BYTES:
            found = buffer.find(key.magic, found + 1)
        if found >= 0:
            return position + found
        position = _up(position + len(buffer))
    return None


def _up(offset: int) -> int:
    return -(-offset // FRAME_GRAIN_BYTES) * FRAME_GRAIN_BYTES
