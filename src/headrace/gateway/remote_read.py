"""Reads of objects at remote origins: through the cache's reader, or straight through without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import structlog

from headrace.base.errors import Busy, Invalid, Unavailable
from headrace.cache.body import Body as CachedBody
from headrace.gateway.object_headers import Header
from headrace.gateway.object_requests import ReadRequest
from headrace.gateway.ranges import ByteRange
from headrace.model.objects import FileSlice, ObjectInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace.gateway.context import BucketTarget, Context

log = structlog.get_logger("headrace.gateway")

BYPASS = "BYPASS"
_STAGING = ByteRange(0, 0)


class Remote(NamedTuple):
    """An answer under way: the object, the bytes asked for, and where they come from.

    `headers` tell the cache's part in it; `source` is memory, device or origin.
    """

    info: ObjectInfo
    pieces: AsyncIterator[bytes | FileSlice] | bytes
    headers: list[Header]
    source: str

    async def close(self) -> None:
        """Give up the answer without reading it."""
        close = getattr(self.pieces, "aclose", None)
        if close is not None:
            await close()


def cache_headers(cache: str, age_seconds: float | None) -> list[Header]:
    """x-cache, and x-headrace-age in whole seconds where the cache answers for it."""
    headers = [("x-cache", cache)]
    if age_seconds is not None:
        headers.append(("x-headrace-age", str(int(age_seconds))))
    return headers


def _no_parts(wanted: ReadRequest) -> None:
    if wanted.part_number is not None:
        raise Invalid("Parts of objects at this bucket's origin are not known; read a range", kind="NotImplemented")


async def open_remote(context: Context, target: BucketTarget, key: str, wanted: ReadRequest) -> Remote:
    """Start reading what is asked for. Raises NotFound, Conflict (PreconditionFailed, NotModified), Invalid."""
    _no_parts(wanted)
    byte_range = wanted.byte_range.start_stop() if wanted.byte_range is not None else (0, None)
    if context.reader is None or target.binding is None:
        opened = await target.origin.open(key, *byte_range, wanted.conditions)
        return Remote(opened.info, opened.body, cache_headers(BYPASS, None), "origin")
    answer = await context.reader.open(target.binding, key, byte_range, wanted.conditions)
    age = None if answer.cache == BYPASS else answer.age_seconds
    whole = answer.pieces.take_whole() if isinstance(answer.pieces, CachedBody) else None
    return Remote(
        answer.info, answer.pieces if whole is None else whole, cache_headers(answer.cache, age), answer.source
    )


async def head_remote(
    context: Context, target: BucketTarget, key: str, wanted: ReadRequest
) -> tuple[ObjectInfo, str, list[Header]]:
    """The object's state, its source and cache headers; a range of the first byte stages the object."""
    _no_parts(wanted)
    reader = context.reader
    if reader is None or target.binding is None:
        return await target.origin.head(key), "origin", cache_headers(BYPASS, None)
    known = await reader.head(target.binding, key)
    if wanted.byte_range == _STAGING:
        try:
            await reader.client.stage(target.binding, key)
        except (Busy, Unavailable) as refusal:
            log.info("an object was not staged", bucket=target.bucket, reason=refusal.message)
    cached = not known.fresh and not known.confirmed
    cache = "HIT" if cached else "REVALIDATED" if known.confirmed else "MISS"
    return known.info, "memory" if cached else "origin", cache_headers(cache, known.age_seconds)
