"""Is a range of a file in the page cache? And bringing it there.

cachestat(2) (Linux 6.5) counts a range's cached pages without a mapping and without I/O, but also
counts pages still being read; one RWF_NOWAIT byte at the range's end tells those apart. Where the
kernel lacks it, or forbids it, mincore(2) on an own short-lived mapping takes its place, and where
that fails too one NOWAIT byte per 64 KiB, which cannot see a lone missing page between them.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Callable, Sequence

from xxhash import xxh3_64_intdigest

from headrace.base.errors import Damaged
from headrace.base.limits import CHECKSUM_UNIT_BYTES, SLICE_BYTES_MAX

PAGE_BYTES = mmap.PAGESIZE
_PAGE_SHIFT = PAGE_BYTES.bit_length() - 1
_CACHESTAT = 451
"""The same number on every architecture: it came after the tables were unified."""
_NOWAIT = os.RWF_NOWAIT
_MAP_FAILED = ctypes.c_void_p(-1).value

assert SLICE_BYTES_MAX % CHECKSUM_UNIT_BYTES == 0

_held = ctypes.PyDLL(None)  # keeps the GIL: releasing it costs as much as the call
_library = ctypes.CDLL(None)
_mmap = _library.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_munmap = _library.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_mincore = _library.mincore
_mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recent"))


class Probe:
    """A page-cache probe with its own buffers, for one thread."""

    __slots__ = ("_byte", "_call", "_counts", "_counts_pointer", "_range", "_range_pointer")

    def __init__(self) -> None:
        self._range = _Range()
        self._counts = _Counts()
        self._range_pointer = ctypes.byref(self._range)
        self._counts_pointer = ctypes.byref(self._counts)
        self._byte = [bytearray(1)]
        self._call = _held["syscall"]
        self._call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint)
        self._call.restype = ctypes.c_long

    def cached_pages(self, descriptor: int, offset: int, length: int) -> int:
        """How many pages of the range cachestat(2) counts; -1 when it may not be asked."""
        self._range.offset = offset
        self._range.length = length
        if self._call(_CACHESTAT, descriptor, self._range_pointer, self._counts_pointer, 0):
            return -1
        return int(self._counts.cached)

    def resident(self, descriptor: int, offset: int, length: int) -> bool:
        """True when every byte of the range (length >= 1) can be read now without the device."""
        wanted = self._range
        wanted.offset = offset
        wanted.length = length
        if self._call(_CACHESTAT, descriptor, self._range_pointer, self._counts_pointer, 0):
            return self.resident_by_mincore(descriptor, offset, length)
        last = offset + length - 1
        if self._counts.cached <= (last >> _PAGE_SHIFT) - (offset >> _PAGE_SHIFT):
            return False
        try:
            return os.preadv(descriptor, self._byte, last, _NOWAIT) == 1
        except OSError as error:
            return error.errno == errno.EOPNOTSUPP  # tmpfs: what is counted is never still being read

    def resident_by_mincore(self, descriptor: int, offset: int, length: int) -> bool:
        """As `resident`, by mincore(2) and, failing that, by NOWAIT bytes."""
        start = offset & -PAGE_BYTES
        span = offset + length - start
        address = _mmap(None, span, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, start)
        if address is None or address == _MAP_FAILED:
            return self.resident_by_bytes(descriptor, offset, length)
        pages = (ctypes.c_ubyte * -(-span // PAGE_BYTES))()
        failed = _mincore(address, span, ctypes.addressof(pages))
        _munmap(address, span)
        if failed:
            return self.resident_by_bytes(descriptor, offset, length)
        return all(page & 1 for page in pages) and self._readable(descriptor, offset + length - 1, True)

    def resident_by_bytes(self, descriptor: int, offset: int, length: int) -> bool:
        """As `resident`, by one NOWAIT byte per 64 KiB and one at the end."""
        for position in range(offset, offset + length, CHECKSUM_UNIT_BYTES):
            if not self._readable(descriptor, position):
                return False
        return self._readable(descriptor, offset + length - 1)

    def _readable(self, descriptor: int, position: int, unsupported: bool = False) -> bool:
        try:
            return os.preadv(descriptor, self._byte, position, _NOWAIT) == 1
        except OSError as error:
            return unsupported and error.errno == errno.EOPNOTSUPP


def _detect() -> str:
    """Which way works on this kernel: "cachestat", "mincore" or "nowait"; never raises."""
    probe = Probe()
    try:
        descriptor = os.memfd_create("headrace-probe", os.MFD_CLOEXEC)
    except OSError:
        return "nowait"
    try:
        os.write(descriptor, b"x")
        if probe.cached_pages(descriptor, 0, 1) == 1:
            return "cachestat"
        return "mincore" if probe.resident_by_mincore(descriptor, 0, 1) else "nowait"
    except OSError:
        return "nowait"
    finally:
        os.close(descriptor)


METHOD = _detect()
"""What this kernel offers: "cachestat", "mincore" or "nowait"."""


def own_probe() -> Callable[[int, int, int], bool]:
    """A `resident(descriptor, offset, length)` with its own buffers: the quickest, for one thread."""
    probe = Probe()
    if METHOD == "cachestat":
        return probe.resident
    return probe.resident_by_mincore if METHOD == "mincore" else probe.resident_by_bytes


class _Probes(threading.local):
    def __init__(self) -> None:
        self.resident = own_probe()


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(SLICE_BYTES_MAX))


_probes = _Probes()
_scratch = _Scratch()


def resident(descriptor: int, offset: int, length: int) -> bool:
    """True when every byte of the range (length >= 1) can be read now without the device.

    The answer can be outdated by the time it is used: the kernel may reclaim pages at any moment.
    """
    return _probes.resident(descriptor, offset, length)


def warm(descriptor: int, offset: int, length: int, checksums: Sequence[int] | None = None) -> None:
    """Read the range into the page cache, in steps of 1 MiB; blocks, so call it in a worker thread.

    With `checksums`, one xxh3-64 per 64 KiB counted from `offset` (the last unit may be shorter),
    the bytes are verified. Raises Damaged (wrong bytes, or the file ends early), OSError.
    """
    view = _scratch.buffer
    position = offset
    end = offset + length
    while position < end:
        wanted = min(SLICE_BYTES_MAX, end - position)
        filled = 0
        while filled < wanted:
            count = os.preadv(descriptor, [view[filled:wanted]], position + filled)
            if count == 0:
                raise Damaged(f"a segment ends at {position + filled}, before {end}")
            filled += count
        if checksums is not None:
            _verify(view[:wanted], position - offset, checksums)
        position += wanted


def _verify(data: memoryview, start: int, checksums: Sequence[int]) -> None:
    """Check the units of `data`, which begins `start` bytes (a multiple of 64 KiB) into the range."""
    unit = start // CHECKSUM_UNIT_BYTES
    for position in range(0, len(data), CHECKSUM_UNIT_BYTES):
        if (
            unit >= len(checksums)
            or xxh3_64_intdigest(data[position : position + CHECKSUM_UNIT_BYTES]) != checksums[unit]
        ):
            raise Damaged(f"stored bytes do not match their checksum, unit {unit}")
        unit += 1
