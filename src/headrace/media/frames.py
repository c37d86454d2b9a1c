"""The frame: how one block lies in a segment file.

A frame is a header and, behind it, the block's bytes. The header carries the block's full name, its
length and an xxh3-64 of every 64 KiB unit of the bytes. It begins with a magic and a checksum keyed
by the segment's random key, which lies only in the segment's first page: a body that imitates a
frame can neither guess the magic nor the checksum, and a header copied to another place fails
because its own offset is under the checksum. The header is written *after* the bytes, so a frame
whose bytes are not all there is invisible.

Layout of a header, little-endian::

    8s magic | 16s checksum of all that follows | I header length | I data length
    Q frame offset | Q data offset | name | Q x units

    name: I block number | H binding | H key | H etag | H token (lengths) | q modified_ms | Q size | texts
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from xxhash import xxh3_64, xxh3_64_intdigest, xxh3_128_digest

from headrace.base.errors import Damaged, Invalid
from headrace.base.limits import (
    BLOCK_BYTES,
    CHECKSUM_UNIT_BYTES,
    FRAME_GRAIN_BYTES,
    FRAME_HEADER_BYTES_MAX,
    FRAME_PACKED_BYTES_MAX,
    MIB,
)
from headrace.model.objects import Version

Buffer = bytes | bytearray | memoryview

PAGE_BYTES = 4096
LARGE_BYTES_MIN = MIB
LARGE_ALIGNMENT_BYTES = 2 * MIB
CHECKSUM_BYTES = 16
KEY_BYTES = 16

_PREFIX = struct.Struct("<8s16sIIQQ")
_NAME = struct.Struct("<IHHHHqQ")
_SIGNED_START = 24
DIGEST_BYTES = 16


class BlockName(NamedTuple):
    """The full name of a block: which binding, object, version, and which of its blocks."""

    binding: str
    key: str
    version: Version
    number: int


class FrameHeader(NamedTuple):
    """A decoded frame header; `checksums` has one xxh3-64 per 64 KiB unit of the data."""

    name: BlockName
    frame_offset: int
    data_offset: int
    data_length: int
    checksums: tuple[int, ...]
    header_length: int


class SegmentKey:
    """The random key of one segment, with its derived magic and a prepared hash state."""

    __slots__ = ("_state", "magic", "secret")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise Invalid(f"a segment key has {KEY_BYTES} bytes, not {len(secret)}")
        self.secret = secret
        self.magic = blake2b(b"headrace frame", key=secret, digest_size=8).digest()
        self._state = blake2b(key=secret, digest_size=CHECKSUM_BYTES)

    def checksum(self, data: Buffer) -> bytes:
        """The keyed 16-byte checksum of `data`."""
        state = self._state.copy()
        state.update(data)
        return state.digest()


def block_digest(binding: str, key: str, version: Version, number: int) -> bytes:
    """The 16-byte index key of a block. Not proof of identity: verify the name in the frame once."""
    etag, modified_ms, size, token = version
    text = f"{number}:{modified_ms}:{size}:{len(binding)}:{len(key)}:{len(etag)}:{binding}{key}{etag}{token}"
    return xxh3_128_digest(text.encode("utf-8", "surrogatepass"))


def object_digest(binding: str, key: str) -> bytes:
    """The 16-byte index key of an object's metadata."""
    return xxh3_128_digest(f"{len(binding)}:{binding}{key}".encode("utf-8", "surrogatepass"))


def encode_name(name: BlockName) -> bytes:
    """The name as it stands in headers and footers. Raises Invalid when it does not fit."""
    texts = [part.encode("utf-8", "surrogatepass") for part in (name.binding, name.key, *name.version[::3])]
    try:
        fixed = _NAME.pack(name.number, *map(len, texts), name.version.modified_ms, name.version.size)
    except struct.error as error:
        raise Invalid(f"block name is out of range: {error}") from error
    encoded = fixed + b"".join(texts)
    if len(encoded) + _PREFIX.size + BLOCK_BYTES // CHECKSUM_UNIT_BYTES * 8 > FRAME_HEADER_BYTES_MAX:
        raise Invalid(f"block name of {len(encoded)} bytes does not fit a frame header")
    return encoded


def decode_name(buffer: Buffer, offset: int = 0) -> tuple[BlockName, int]:
    """The name that starts at `offset`, and where it ends. Raises Damaged."""
    try:
        number, binding, key, etag, token, modified_ms, size = _NAME.unpack_from(buffer, offset)
        start = offset + _NAME.size
        end = start + binding + key + etag + token
        texts = bytes(buffer[start:end])
        if len(texts) != end - start:
            raise Damaged("a block name runs past its buffer")
        key += binding
        etag += key
        name = BlockName(
            texts[:binding].decode("utf-8", "surrogatepass"),
            texts[binding:key].decode("utf-8", "surrogatepass"),
            Version(
                texts[key:etag].decode("utf-8", "surrogatepass"),
                modified_ms,
                size,
                texts[etag:].decode("utf-8", "surrogatepass"),
            ),
            number,
        )
    except (struct.error, UnicodeDecodeError) as error:
        raise Damaged(f"a block name cannot be read: {error}") from error
    return name, end


def unit_count(data_length: int) -> int:
    """How many checksums a block of `data_length` bytes has."""
    return -(-data_length // CHECKSUM_UNIT_BYTES)


def header_length(encoded_name: bytes, data_length: int) -> int:
    """Length in bytes of the header of such a frame."""
    return _PREFIX.size + len(encoded_name) + 8 * unit_count(data_length)


def place(cursor: int, header_bytes: int, data_length: int) -> tuple[int, int]:
    """Where a frame goes that may start at `cursor`: (frame offset, data offset).

    Blocks of >= 1 MiB start at a multiple of 2 MiB (the page cache then holds them in large folios),
    middling ones at a page; small ones lie right behind their header, else half of a tier and of its
    page cache would be headers. What is skipped is a hole and costs no disk.
    """
    frame = _up(cursor, FRAME_GRAIN_BYTES)
    if data_length >= LARGE_BYTES_MIN:
        data = _up(frame + FRAME_HEADER_BYTES_MAX, LARGE_ALIGNMENT_BYTES)
        return data - FRAME_HEADER_BYTES_MAX, data
    if data_length > FRAME_PACKED_BYTES_MAX:
        data = _up(frame + header_bytes, PAGE_BYTES)
        return data - _up(header_bytes, FRAME_GRAIN_BYTES), data
    return frame, _up(frame + header_bytes, 64)


def encode_header(
    key: SegmentKey,
    encoded_name: bytes,
    frame_offset: int,
    data_offset: int,
    data_length: int,
    checksums: Sequence[int],
) -> bytes:
    """The bytes of a frame header. Raises Invalid when lengths and checksums do not agree."""
    units = unit_count(data_length)
    if len(checksums) != units or data_length > BLOCK_BYTES:
        raise Invalid(f"a block of {data_length} bytes has {units} checksums, not {len(checksums)}")
    length = header_length(encoded_name, data_length)
    prefix = _PREFIX.pack(key.magic, b"", length, data_length, frame_offset, data_offset)
    signed = b"".join((prefix[_SIGNED_START:], encoded_name, struct.pack(f"<{units}Q", *checksums)))
    return key.magic + key.checksum(signed) + signed


def decode_header(key: SegmentKey, buffer: Buffer, frame_offset: int) -> FrameHeader:
    """The header at the start of `buffer`, read from `frame_offset` of its segment. Raises Damaged."""
    if len(buffer) < _PREFIX.size:
        raise Damaged("a frame header is cut short")
    magic, checksum, length, data_length, own_offset, data_offset = _PREFIX.unpack_from(buffer)
    if magic != key.magic:
        raise Damaged("no frame starts here")
    if not _PREFIX.size <= length <= min(len(buffer), FRAME_HEADER_BYTES_MAX):
        raise Damaged("a frame header has an impossible length")
    if key.checksum(buffer[_SIGNED_START:length]) != checksum:
        raise Damaged("a frame header does not match its checksum")
    if own_offset != frame_offset or data_offset < frame_offset + length or data_length > BLOCK_BYTES:
        raise Damaged("a frame header names an impossible place")
    name, end = decode_name(buffer[:length], _PREFIX.size)
    units = unit_count(data_length)
    if end + 8 * units != length:
        raise Damaged("a frame header has the wrong number of checksums")
    return FrameHeader(
        name, frame_offset, data_offset, data_length, struct.unpack_from(f"<{units}Q", buffer, end), length
    )


def checksums_of(data: Buffer) -> tuple[int, ...]:
    """The xxh3-64 of every 64 KiB unit of `data`; the last unit may be shorter."""
    view = memoryview(data)
    return tuple(
        xxh3_64_intdigest(view[start : start + CHECKSUM_UNIT_BYTES])
        for start in range(0, len(view), CHECKSUM_UNIT_BYTES)
    )


class Checksummer:
    """Unit checksums of a block that arrives in pieces of any size."""

    __slots__ = ("_checksums", "_filled", "_state")

    def __init__(self) -> None:
        self._checksums: list[int] = []
        self._filled = 0
        self._state = xxh3_64()

    def update(self, data: Buffer) -> None:
        """Take the next bytes of the block."""
        view = memoryview(data)
        start = 0
        while start < len(view):
            piece = view[start : start + CHECKSUM_UNIT_BYTES - self._filled]
            start += len(piece)
            if len(piece) == CHECKSUM_UNIT_BYTES:
                self._checksums.append(xxh3_64_intdigest(piece))
                continue
            self._state.update(piece)
            self._filled += len(piece)
            if self._filled == CHECKSUM_UNIT_BYTES:
                self._close_unit()

    def finish(self) -> tuple[int, ...]:
        """The checksums of everything taken; the object is spent afterwards."""
        if self._filled:
            self._close_unit()
        return tuple(self._checksums)

    def _close_unit(self) -> None:
        self._checksums.append(self._state.intdigest())
        self._state.reset()
        self._filled = 0


def _up(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
