"""What the hot path asks where its memo knows nothing: where does an object lie, without waiting.

Only knowledge that generation words (and a lease's end) keep true is given out. Folders (`file://`)
change behind headrace's back and are looked at per request, so they are never answered here.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from headrace.base.clock import wall
from headrace.base.errors import HeadraceError
from headrace.gateway.context import PROXY, REMOTE, STORE, BucketTarget
from headrace.gateway.hot import Found, Lookup
from headrace.gateway.remote_read import cache_headers
from headrace.media.frames import BlockName, block_digest
from headrace.origin.store_bucket import StoreBucket

if TYPE_CHECKING:
    from headrace.gateway.context import Context


def make_lookup(context: Context) -> Lookup:
    """The look-up of one worker."""

    def look_up(bucket: str, key: str) -> Found | None:
        target = context.resolve(bucket)
        if target.kind == STORE:
            return _in_store(target, key)
        if target.kind in {REMOTE, PROXY}:
            return _in_cache(context, target, key)
        return None

    return look_up


def _in_store(target: BucketTarget, key: str) -> Found | None:
    """An object of the embedded store whose bytes are one piece of one file. Raises NotFound."""
    origin = target.origin
    if not isinstance(origin, StoreBucket):
        return None
    info, extents = origin.locate_now(key)
    if not extents:
        return Found(info, "", "", 0)
    if len(extents) > 1:
        return None
    path, offset, _ = extents[0]
    return Found(info, path, info.version.token, offset)


def _in_cache(context: Context, target: BucketTarget, key: str) -> Found | None:
    """An object that lies whole in one cached block, under a rule that trusts what is known."""
    if context.reader is None or target.binding is None:
        return None
    try:
        hit = context.reader.hit_now(target.binding, key)
    except HeadraceError:
        return None
    if hit is None or len(hit.pieces) != 1:
        return None
    file = hit.files[0]
    digest = block_digest(*BlockName(str(target.binding.id), key, hit.info.version, 0))
    return Found(
        hit.info,
        file.path,
        "",
        hit.pieces[0][1],
        headers=tuple(cache_headers("HIT", None)),
        fetched=wall() - hit.age_seconds,
        expires=hit.expires_wall,
        touch=partial(context.reader.hits.touch, digest, file.segment),
    )
