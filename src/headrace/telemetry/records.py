"""One fixed-size record per read, in a per-worker ring: bounded, drops counted, no allocation kept.

The ring is appended to on the hit path, so `append` is one struct.pack_into; everything else
happens once a second in `drain`, which hands whole records to whoever folds them into metrics.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from headrace.base.limits import RECORD_RING_ENTRIES

SOURCES = ("memory", "device", "origin", "none")
MEMORY, DEVICE, ORIGIN, NONE = range(4)

_LAYOUT = struct.Struct("<16sIIHHQQIIII")
"""trace id (16 bytes, zero when none), access-key number, bucket number, source, HTTP status, bytes,
start, queue, device, first byte, last byte: times in nanoseconds, the last four relative to start
(queue: waited before served; device: spent reading a device or origin)."""
NO_TRACE = bytes(16)
_MAX = 0xFFFFFFFF


class ReadRecord(NamedTuple):
    """One read as drained. Times in nanoseconds; all but `start_ns` relative to it, capped at 4.29 s."""

    trace: bytes
    key_number: int
    bucket_number: int
    source: int
    status: int
    size: int
    start_ns: int
    queue_ns: int
    device_ns: int
    first_ns: int
    last_ns: int


class Ring:
    """A bounded ring of records with one writer and one reader in the same thread."""

    __slots__ = ("_buffer", "_entries", "_read", "_written", "dropped")

    def __init__(self, entries: int = RECORD_RING_ENTRIES) -> None:
        self._entries = entries
        self._buffer = bytearray(entries * _LAYOUT.size)
        self._written = 0
        self._read = 0
        self.dropped = 0

    def append(
        self,
        trace: bytes,
        key_number: int,
        bucket_number: int,
        source: int,
        status: int,
        size: int,
        start_ns: int,
        queue_ns: int,
        device_ns: int,
        first_ns: int,
        last_ns: int,
    ) -> None:
        """Note one read; dropped and counted when the ring is full."""
        written = self._written
        if written - self._read >= self._entries:
            self.dropped += 1
            return
        _LAYOUT.pack_into(
            self._buffer,
            (written % self._entries) * _LAYOUT.size,
            trace,
            key_number,
            bucket_number,
            source,
            status,
            size,
            start_ns,
            queue_ns if queue_ns < _MAX else _MAX,
            device_ns if device_ns < _MAX else _MAX,
            first_ns if first_ns < _MAX else _MAX,
            last_ns if last_ns < _MAX else _MAX,
        )
        self._written = written + 1

    def drain(self) -> Iterator[ReadRecord]:
        """Yield and free all records appended before this call."""
        end = self._written
        while self._read < end:
            offset = (self._read % self._entries) * _LAYOUT.size
            record = ReadRecord._make(_LAYOUT.unpack_from(self._buffer, offset))
            self._read += 1
            yield record
