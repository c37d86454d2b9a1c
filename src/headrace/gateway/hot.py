"""The warm hit: a verified head to bytes on the socket, without a task, a parser or a copy.

Short, straight, measured code. It serves a GET only when everything is beyond doubt: a shape
verified the head, the memo of path -> location is unchanged by its generation words, the key may read
the object, and the first slice is in the page cache. In any other case it says no and the general
path answers; nothing is refused here.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

from headrace.base.clock import monotonic_ns, wall
from headrace.base.errors import HeadraceError
from headrace.base.limits import MEMO_ENTRIES_MAX, MEMO_INLINE_BYTES_MAX, SHAPES_MAX, SLICE_BYTES_MAX, SMALL_BYTES_MAX
from headrace.gateway.addressing import split_path
from headrace.gateway.files import HeldFile, OpenFiles
from headrace.gateway.object_headers import clean, object_headers
from headrace.gateway.outlet import Outlet
from headrace.gateway.shapes import Shape, parse_range
from headrace.media.residency import resident
from headrace.model.objects import ObjectInfo
from headrace.telemetry.records import MEMORY, NO_TRACE, Ring
from headrace.wire.words import BINDINGS, EPOCH, INDEX, KEYS, Words, stripe

INLINE_BYTES_MAX = 8 * 1024
SECURE_BYTES_MAX = 256 * 1024
"""The largest answer that goes out in one piece under TLS; larger ones are cut up by the general path."""
_SHAPES_TRIED_MAX = 8
_NO_EXPIRY = float("inf")


class Found(NamedTuple):
    """Where one object's bytes lie now: all of them in one piece of one file.

    `headers` are added to every answer. Of a cached remote object, `fetched` and `expires` are when its
    metadata was read and when it must be renewed (wall clock seconds), and `touch` tells eviction of a
    hit; of the embedded store's objects generation words alone decide.
    """

    info: ObjectInfo
    path: str
    token: str
    offset: int
    headers: tuple[tuple[str, str], ...] = ()
    fetched: float | None = None
    expires: float = _NO_EXPIRY
    touch: Callable[[], None] | None = None


class Client(Protocol):
    """What the hot path needs of a connection."""

    shape: Shape | None
    outlet: Outlet
    last_ns: int

    def note(
        self, trace: bytes | None, access_key: str, bucket_number: int, status: int, size: int, start_ns: int
    ) -> None:
        """Record a warm read, now or when its transfer ends."""

    def send_file(self, head: bytes, held: HeldFile, offset: int, length: int) -> None:
        """Send an answer whose body is a file range, and release the file after it."""


Lookup = Callable[[str, str], Found | None]
MayRead = Callable[[str, str, str], bool]


class Entry:
    """What the memo keeps of one object. Heads lack only Date, request id and the empty line."""

    __slots__ = ("bucket_number", "etag", "expires", "fetched", "heads", "inline", "offset", "path", "range_head",
                 "readers", "size", "stamp", "stripe", "token", "touch")  # fmt: skip

    def __init__(self, found: Found, word: int, stamp: int, bucket: str) -> None:
        info = found.info
        self.stripe = word
        self.stamp = stamp
        self.size = info.size
        self.etag = b'"%s"' % info.etag.encode()
        self.path = found.path
        self.token = found.token
        self.offset = found.offset
        self.fetched = found.fetched
        self.expires = found.expires
        self.touch = found.touch
        self.inline: bytes | None = None
        self.readers: set[str] = set()
        self.bucket_number = zlib.crc32(bucket.encode())
        extra = [*found.headers, ("x-headrace-source", "memory")]
        whole = b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n"
        self.heads = tuple(
            whole % (_lines([*object_headers(info, checksum_mode=mode), *extra]), info.size) for mode in (False, True)
        )
        self.range_head = b"HTTP/1.1 206 Partial Content\r\n" + _lines([*object_headers(info), *extra])


def _lines(headers: list[tuple[str, str]]) -> bytes:
    return "".join(f"{name}: {clean(value)}\r\n" for name, value in headers).encode("utf-8")


class Hot:
    """The fast path of one worker."""

    def __init__(self, words: Words, files: OpenFiles, ring: Ring, lookup: Lookup, may_read: MayRead) -> None:
        self._view = words.view
        self._files = files
        self._ring = ring
        self._lookup = lookup
        self._may_read = may_read
        self._memo: dict[bytes, Entry] = {}
        self._inline_bytes = 0
        self._shapes: list[Shape] = []
        self._token = object()
        self._generation = self._read_generation()
        self._buffer = bytearray(SMALL_BYTES_MAX)
        self._buffer_view = memoryview(self._buffer)
        self.now = wall()
        self.tail = b""
        """"Date: ...", "Server: ..." and the start of the request id header; renewed every second."""
        self.count = int.from_bytes(os.urandom(6), "little") << 16
        self.served = 0
        self.matched = False
        """Whether a shape verified the head that `serve` was last asked about."""

    def _read_generation(self) -> tuple[int, int, int, int]:
        view = self._view
        return view[EPOCH], view[KEYS], view[BINDINGS], view[INDEX]

    def add_shape(self, shape: Shape) -> None:
        """Remember a layout, newest first."""
        shape.token = self._token
        self._shapes.insert(0, shape)
        del self._shapes[SHAPES_MAX:]

    def forget(self) -> None:
        """Drop everything remembered: keys, bindings, segments or the epoch changed."""
        self._token = object()  # connections may still hold shapes: they are void from here on
        self._shapes.clear()
        self._memo.clear()
        self._inline_bytes = 0

    def serve(self, connection: Client, data: bytes) -> bool:
        """Answer a whole request head if it is a warm, plain GET; False leaves it to the general path."""
        start_ns = monotonic_ns()
        view = self._view
        self.matched = False
        if (view[EPOCH], view[KEYS], view[BINDINGS], view[INDEX]) != self._generation:
            self._generation = self._read_generation()
            self.forget()
            return False
        shape = connection.shape
        matched = shape.match(data, self.now) if shape is not None and shape.token is self._token else None
        if matched is None:
            for shape in self._shapes[:_SHAPES_TRIED_MAX]:
                matched = shape.match(data, self.now)
                if matched is not None:
                    connection.shape = shape
                    break
        if matched is None or shape is None:
            return False
        self.matched = True
        path = shape.bucket_prefix + matched.path
        entry = self._memo.get(path)
        # `self.now` is up to a second old, which a lease may not be.
        if (
            entry is None
            or view[entry.stripe] != entry.stamp
            or (entry.expires < _NO_EXPIRY and not (entry.fetched or 0.0) <= wall() <= entry.expires)
        ):
            entry = self._load(path)
            if entry is None:
                return False
        if shape.access_key not in entry.readers and not self._admit(entry, shape.access_key, path):
            return False
        if matched.if_match is not None and matched.if_match != entry.etag:
            return False
        if matched.range is None:
            start, length, status = 0, entry.size, 200
            head = entry.heads[shape.checksum_mode]
        else:
            span = parse_range(matched.range, entry.size)
            if span is None:
                return False
            start, length, status = span[0], span[1] - span[0], 206
            head = b"%sContent-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n" % (
                entry.range_head,
                start,
                span[1] - 1,
                entry.size,
                length,
            )
        if entry.fetched is not None:
            head = b"%sx-headrace-age: %d\r\n" % (head, max(0, wall() - entry.fetched))
        self.count += 1
        head = b"%s%s%016X\r\n\r\n" % (head, self.tail, self.count)
        if length <= SMALL_BYTES_MAX:
            if not self._send_small(connection, entry, head, start, length):
                return False
        elif not self._send_large(connection, entry, head, start, length):
            return False
        if entry.touch is not None:
            entry.touch()
        self.served += 1
        connection.note(matched.trace, shape.access_key, entry.bucket_number, status, length, start_ns)
        return True

    def _send_small(self, connection: Client, entry: Entry, head: bytes, start: int, length: int) -> bool:
        """Head and body in one send."""
        inline = entry.inline
        if inline is not None:
            body: bytes | memoryview = inline if length == entry.size else inline[start : start + length]
        elif length:
            held = self._hold(entry)
            if held is None:
                return False
            try:
                got = os.preadv(held.descriptor, (self._buffer_view[:length],), entry.offset + start, os.RWF_NOWAIT)
            except OSError:
                got = -1  # Not in the page cache (EAGAIN), or the file system can't say.
            finally:
                self._files.release(held)
            if got != length:
                return False
            body = self._buffer_view[:length]
            if length == entry.size <= INLINE_BYTES_MAX:
                self._keep_inline(entry, bytes(body))
        else:
            body = b""
        connection.outlet.write(head + body)
        connection.last_ns = 0
        return True

    def _keep_inline(self, entry: Entry, body: bytes) -> None:
        if self._inline_bytes + len(body) > MEMO_INLINE_BYTES_MAX:
            return
        entry.inline = body
        self._inline_bytes += len(body)

    def _send_large(self, connection: Client, entry: Entry, head: bytes, start: int, length: int) -> bool:
        """Head with MSG_MORE, then sendfile; the first slice must be resident, of a cached object all of it."""
        if connection.outlet.secure and length > SECURE_BYTES_MAX:
            return False
        held = self._hold(entry)
        if held is None:
            return False
        offset = entry.offset + start
        # A cached object whose end must come from the device may have to be checked first.
        if not resident(held.descriptor, offset, length if entry.touch is not None else min(length, SLICE_BYTES_MAX)):
            self._files.release(held)
            return False
        if connection.outlet.secure:  # TLS needs the bytes in user space
            try:
                data = os.pread(held.descriptor, length, offset)
            except OSError:
                return False
            finally:
                self._files.release(held)
            if len(data) != length:
                return False
            connection.outlet.write(head + data)
            connection.last_ns = 0
            return True
        connection.send_file(head, held, offset, length)
        return True

    def _hold(self, entry: Entry) -> HeldFile | None:
        try:
            return self._files.hold(entry.path, entry.token)
        except (OSError, HeadraceError):
            return None  # Replaced or unlinked since: the general path looks it up again.

    def _admit(self, entry: Entry, access_key: str, path: bytes) -> bool:
        bucket, key = split_path(path, "")
        if not self._may_read(access_key, bucket, key):
            return False
        entry.readers.add(access_key)
        return True

    def _load(self, path: bytes) -> Entry | None:
        """Look an object up; the words are noted before, so a change in between shows."""
        bucket, key = split_path(path, "")
        if not key:
            return None
        word = stripe(bucket, key)
        stamp = self._view[word]
        old = self._memo.pop(path, None)
        if old is not None and old.inline is not None:
            self._inline_bytes -= len(old.inline)
        try:
            found = self._lookup(bucket, key)
        except HeadraceError:
            return None
        if found is None:
            return None
        if len(self._memo) >= MEMO_ENTRIES_MAX:
            self._evict()
        entry = self._memo[path] = Entry(found, word, stamp, bucket)
        return entry

    def _evict(self) -> None:
        """Drop the oldest sixteenth: cheap, bounded, and a dropped entry costs one look-up."""
        for path in list(self._memo)[: MEMO_ENTRIES_MAX // 16]:
            gone = self._memo.pop(path)
            if gone.inline is not None:
                self._inline_bytes -= len(gone.inline)

    def record(
        self,
        trace: bytes | None,
        access_key: str,
        bucket_number: int,
        status: int,
        size: int,
        start_ns: int,
        end_ns: int,
    ) -> None:
        """Note one warm read."""
        self._ring.append(
            trace_id(trace),
            zlib.crc32(access_key.encode()),
            bucket_number,
            MEMORY,
            status,
            size,
            start_ns,
            0,
            0,
            end_ns - start_ns,
            end_ns - start_ns,
        )


def trace_id(traceparent: bytes | None) -> bytes:
    """The 16-byte trace id of a W3C traceparent header; zeros when there is none."""
    if traceparent is None or len(traceparent) < 55:
        return NO_TRACE
    try:
        return bytes.fromhex(traceparent[3:35].decode("latin-1"))
    except ValueError:
        return NO_TRACE
