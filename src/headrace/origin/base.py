"""What an origin must do. One origin is the store of record of *one* bucket.

An outsider's origin implements `Origin` and inherits `headrace.testing.origins.OriginTests`.
Errors are headrace's: NotFound (kind NoSuchKey / NoSuchBucket / NoSuchUpload), Conflict (kind
PreconditionFailed; NotModified for If-None-Match on reads), Denied, Invalid, Busy, Unavailable.
No method retries a conditional write by itself: a lost answer must not become a false conflict.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple

from headrace.base.errors import Bug
from headrace.model.objects import NO_ATTRIBUTES, NO_CONDITIONS, Attributes, Conditions, Extent, ObjectInfo

Body = AsyncIterator[bytes]
"""Bytes in order, in pieces of any size; the consumer awaits, so it is its own back-pressure."""


class Page(NamedTuple):
    """One page of a listing, in UTF-8 byte order over keys and common prefixes together.

    `next_after` is None on the last page; else pass it as `after` (it is a key or a common prefix;
    everything that is, or starts with, that prefix has been listed).
    """

    objects: tuple[ObjectInfo, ...]
    prefixes: tuple[str, ...]
    next_after: str | None


class Opened(NamedTuple):
    """An answer that is streaming: bytes [start, start + length) of `info`'s version."""

    info: ObjectInfo
    start: int
    length: int
    body: Body


class Located(NamedTuple):
    """Where an object's bytes lie on this machine, in order; lengths sum to info.size."""

    info: ObjectInfo
    extents: tuple[Extent, ...]


class Written(NamedTuple):
    """What a write was acknowledged with."""

    info: ObjectInfo


@dataclass(slots=True)
class Upload:
    """A body on its way in.

    `body` yields the decoded payload and raises (Invalid BadDigest, InvalidChunkSizeException, ...)
    *before* its end if length, digest or signature are wrong, so a writer that commits only after
    exhausting it never commits bad bytes. `size` is None when not announced. After exhaustion
    `attributes` is final (trailing checksums are in it), so read it then, not before.
    """

    body: Body
    size: int | None = None
    attributes: Attributes = NO_ATTRIBUTES
    md5: str | None = None
    """The body's MD5 in hex where the body itself verifies it before its end: nobody need compute it again."""
    etag: str | None = None
    """The ETag to store instead of the body's MD5 (assembled uploads, copies)."""


class Origin(ABC):
    """The store of record of one bucket. Keys are text, byte-exact in UTF-8."""

    url: str = ""
    local: bool = False
    """True when `locate` works: bodies lie on this machine and are served in place."""
    writable: bool = True

    @abstractmethod
    async def head(self, key: str) -> ObjectInfo:
        """The object's current state. Raises NotFound."""

    @abstractmethod
    async def open(
        self, key: str, start: int = 0, stop: int | None = None, conditions: Conditions = NO_CONDITIONS
    ) -> Opened:
        """Start reading bytes [start, stop) in one request to the store.

        A negative `start` with stop None means the last -start bytes; `stop` past the end is clipped.
        Raises NotFound, Conflict (a condition failed), Invalid (kind InvalidRange: nothing to send).
        An empty object opened with start 0 yields nothing and is no error.
        """

    @abstractmethod
    async def put(self, key: str, upload: Upload, conditions: Conditions = NO_CONDITIONS) -> ObjectInfo:
        """Store the body whole or not at all; returns when it is durable. Conditions are atomic."""

    @abstractmethod
    async def delete(self, key: str, conditions: Conditions = NO_CONDITIONS) -> None:
        """Remove the object; no error when it does not exist."""

    @abstractmethod
    async def list(self, prefix: str = "", *, after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        """At most `limit` keys and common prefixes greater than `after` that start with `prefix`."""

    async def locate(self, key: str) -> Located:
        """Where the bytes lie (only when `local`). Raises NotFound; Bug when the origin is not local.

        Files stay readable through open descriptors after delete or overwrite. A folder's files may be
        changed by others: whoever opens one compares it with the version's token.
        """
        raise Bug(f"{self.url} does not lie on this machine: {key!r} has no place in its files")

    async def close(self) -> None:
        """Release what the origin holds."""
