"""The shape of a segment file: its first page, and the footer table that ends a sealed one.

The first page names the segment and holds its random key. A footer is a row for every frame and a
fixed trailer at the very end of the file, under a checksum keyed like the frames: without a valid
trailer a segment counts as unsealed and is scanned.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from headrace.base.errors import Damaged
from headrace.base.limits import FOOTER_BYTES_MAX, FRAMES_PER_SEGMENT_MAX
from headrace.media.frames import DIGEST_BYTES, PAGE_BYTES, BlockName, SegmentKey, block_digest, decode_name

SEGMENT_SUFFIX = ".seg"

_MAGIC = b"HRSEGM01"
_START = struct.Struct("<8s16sI")
_ROW = struct.Struct("<QQII16s")
_TRAILER = struct.Struct("<QIQ16s8s")
_SIGNED_TRAILER = struct.Struct("<QIQ")
_LOCATION = struct.Struct("<QQQI")
LOCATION_BYTES = _LOCATION.size


class Location(NamedTuple):
    """Where a block's bytes lie: segment, first byte, how many; and where its frame header is."""

    segment_id: int
    data_offset: int
    length: int
    frame_offset: int

    def pack(self) -> bytes:
        """The 28 bytes the index keeps."""
        return _LOCATION.pack(self.segment_id, self.data_offset, self.frame_offset, self.length)


class Entry(NamedTuple):
    """A committed frame: its name, place, and the checksum of its header."""

    name: BlockName
    location: Location
    header_checksum: bytes

    @property
    def digest(self) -> bytes:
        """The block's index key."""
        return block_digest(*self.name)


class SegmentHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What the first page of a segment says. `kind` is "main" or "transient"."""

    segment_id: int
    binding: str
    tier: int
    kind: str
    boot_id: str
    secret: bytes
    created_wall: float

    @property
    def key(self) -> SegmentKey:
        """The key its frames and footer are checked with."""
        return SegmentKey(self.secret)


def unpack_location(buffer: bytes | memoryview) -> Location:
    """The inverse of `Location.pack`."""
    segment_id, data_offset, frame_offset, length = _LOCATION.unpack(buffer)
    return Location(segment_id, data_offset, length, frame_offset)


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The first page of a segment, zero-padded."""
    body = msgspec.msgpack.encode(header)
    digest = blake2b(body, digest_size=DIGEST_BYTES).digest()
    return (_START.pack(_MAGIC, digest, len(body)) + body).ljust(PAGE_BYTES, b"\0")


def decode_segment_header(page: bytes) -> SegmentHeader:
    """The header in a segment's first page. Raises Damaged."""
    if len(page) < _START.size:
        raise Damaged("a segment is shorter than its header")
    magic, digest, length = _START.unpack_from(page)
    body = page[_START.size : _START.size + length]
    if magic != _MAGIC or len(body) != length or blake2b(body, digest_size=DIGEST_BYTES).digest() != digest:
        raise Damaged("a segment's first page does not match its checksum")
    try:
        return msgspec.msgpack.decode(body, type=SegmentHeader)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"a segment's first page cannot be read: {error}") from error


def read_segment_header(descriptor: int) -> SegmentHeader:
    """The header of an open segment. Raises Damaged, OSError."""
    return decode_segment_header(os.pread(descriptor, PAGE_BYTES, 0))


def encode_row(location: Location, header_length: int, header_checksum: bytes, encoded_name: bytes) -> bytes:
    """One row of a footer."""
    return (
        _ROW.pack(location.frame_offset, location.data_offset, location.length, header_length, header_checksum)
        + encoded_name
    )


def decode_rows(segment_id: int, rows: bytes, count: int) -> list[Entry]:
    """The entries of `count` rows laid end to end. Raises Damaged."""
    entries = []
    position = 0
    try:
        for _ in range(count):
            frame_offset, data_offset, length, _, checksum = _ROW.unpack_from(rows, position)
            name, position = decode_name(rows, position + _ROW.size)
            entries.append(Entry(name, Location(segment_id, data_offset, length, frame_offset), checksum))
    except struct.error as error:
        raise Damaged(f"the footer of segment {segment_id:016x} is cut short") from error
    if position != len(rows):
        raise Damaged(f"the footer of segment {segment_id:016x} has bytes too many")
    return entries


def encode_footer(key: SegmentKey, segment_id: int, rows: Iterable[bytes], count: int) -> bytes:
    """Rows and trailer, to be the last bytes of the file."""
    table = b"".join(rows)
    signed = _SIGNED_TRAILER.pack(len(table), count, segment_id)
    return table + signed + key.checksum(table + signed) + _footer_magic(key)


def ends_in_footer(descriptor: int, header: SegmentHeader, file_bytes: int) -> bool:
    """True when the file ends in this segment's footer magic (the table itself is not checked)."""
    return os.pread(descriptor, 8, max(file_bytes - 8, 0)) == _footer_magic(header.key)


def read_footer(descriptor: int, header: SegmentHeader, file_bytes: int) -> list[Entry] | None:
    """The entries of a sealed segment; None when it has no valid footer. Raises OSError."""
    key = header.key
    trailer = os.pread(descriptor, _TRAILER.size, max(file_bytes - _TRAILER.size, 0))
    if len(trailer) != _TRAILER.size:
        return None
    table_bytes, count, segment_id, checksum, magic = _TRAILER.unpack(trailer)
    start = file_bytes - _TRAILER.size - table_bytes
    if magic != _footer_magic(key) or segment_id != header.segment_id or start < PAGE_BYTES:
        return None
    if table_bytes > FOOTER_BYTES_MAX or count > FRAMES_PER_SEGMENT_MAX:
        return None
    table = os.pread(descriptor, table_bytes, start)
    if key.checksum(table + trailer[: _SIGNED_TRAILER.size]) != checksum:
        return None
    try:
        return decode_rows(segment_id, table, count)
    except Damaged:
        return None


def _footer_magic(key: SegmentKey) -> bytes:
    return key.checksum(b"headrace footer")[:8]
