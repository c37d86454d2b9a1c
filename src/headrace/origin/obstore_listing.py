"""S3's listing over a store that only knows flat listings in order: prefixes rolled up, pages cut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from headrace.base.errors import Unavailable
from headrace.model.objects import ObjectInfo
from headrace.origin.base import Page

_AFTER_EVERYTHING = "\U0010ffff"
_STRIDE = 2000
"""Keys of one common prefix to read past before asking anew behind it: two pages are cheaper than a request."""


async def roll_up(
    flat: Callable[[str, str], AsyncIterator[ObjectInfo]], prefix: str, after: str, delimiter: str, limit: int
) -> Page:
    """One page. `flat(prefix, after)` yields every object with the prefix, in UTF-8 order, after a key.

    Raises Unavailable when the store lists out of order, since a page could silently miss keys then.
    """
    objects: list[ObjectInfo] = []
    prefixes: list[str] = []
    last = after
    start = after
    if after and after.startswith(prefix) and _rolled(after, prefix, delimiter) == after:
        start = after + _AFTER_EVERYTHING
    while limit > 0:
        again = ""
        skipped = 0
        previous = b""
        async with aclosing(_generator(flat(prefix, start))) as listing:
            async for info in listing:
                if info.key.encode() < previous:
                    raise Unavailable(f"the origin lists out of order near {info.key!r}", kind="InternalError")
                previous = info.key.encode()
                common = _rolled(info.key, prefix, delimiter)
                if common and ((prefixes and prefixes[-1] == common) or common.encode() <= after.encode()):
                    skipped += 1
                    if skipped > _STRIDE:
                        again = common + _AFTER_EVERYTHING
                        break
                    continue
                if len(objects) + len(prefixes) == limit:
                    return Page(tuple(objects), tuple(prefixes), last)
                skipped = 0
                last = common or info.key
                if common:
                    prefixes.append(common)
                else:
                    objects.append(info)
        if not again:
            break
        start = again
    return Page(tuple(objects), tuple(prefixes), None)


def _rolled(key: str, prefix: str, delimiter: str) -> str:
    """The common prefix that stands for the key; "" when it is listed itself."""
    found = key.find(delimiter, len(prefix)) if delimiter else -1
    return key[: found + len(delimiter)] if found >= 0 else ""


def _generator(listing: AsyncIterator[ObjectInfo]) -> Any:
    """The listing, which is an async generator and can be closed."""
    return listing
