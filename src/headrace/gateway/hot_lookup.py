"""What the hot path may answer for: where an object lies, decided without waiting for anything.

Embedded store: one indexed SELECT, valid while the object's word stands. Cached remote objects of one
block under `lease` or `immutable`: one index look-up, valid until a word changes or the lease ends.
Folders change behind headrace's back, `validate` needs the origin, and objects in several pieces need
a plan: all of these are the general path's.
"""

from __future__ import annotations

from functools import partial

from headrace.base.clock import wall
from headrace.gateway.context import STORE, Context
from headrace.gateway.hot import Found
from headrace.gateway.remote_read import cache_headers
from headrace.media.frames import BlockName, block_digest
from headrace.origin.store_bucket import StoreBucket


def look_up(context: Context, bucket: str, key: str) -> Found | None:
    """The object if the hot path may serve it, else None. Raises NotFound and others of its kind."""
    target = context.resolve(bucket)
    if target.kind == STORE and isinstance(target.origin, StoreBucket):
        located = target.origin.locate_now(key)
        if not located.extents:
            return Found(located.info, "", "", 0)
        if len(located.extents) > 1:
            return None
        extent = located.extents[0]
        return Found(located.info, extent.path, located.info.version.token, extent.offset)
    reader, binding = context.reader, target.binding
    if reader is None or binding is None or target.origin.local:
        return None
    hit = reader.hit_now(binding, key)
    if hit is None or len(hit.pieces) != 1:
        return None
    file = hit.files[0]
    digest = block_digest(*BlockName(str(binding.id), key, hit.info.version, 0))
    return Found(
        hit.info,
        file.path,
        "",
        hit.pieces[0][1],
        headers=tuple(cache_headers("HIT", None)),
        fetched=wall() - hit.age_seconds,
        expires=hit.expires_wall,
        touch=partial(reader.hits.touch, digest, file.segment),
    )
