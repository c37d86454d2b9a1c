"""Reads and writes of one object at the origin a bucket is bound to, whatever kind it is.

Writes to remote origins are spooled, put, and told to the cache; then the object's word is stamped, so
no worker answers from what it remembers. The embedded store stamps by itself, within its commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.base.errors import Conflict, Invalid
from headrace.gateway.remote_write import put_remote
from headrace.model.objects import NO_CONDITIONS, Conditions, ObjectInfo
from headrace.origin.base import Upload
from headrace.origin.store_bucket import StoreBucket
from headrace.wire.words import stripe

if TYPE_CHECKING:
    from headrace.gateway.context import BucketTarget, Context


def store_of(target: BucketTarget, what: str) -> StoreBucket:
    """The target as a bucket of the embedded store. Raises Invalid (NotImplemented) when it is none."""
    if isinstance(target.origin, StoreBucket):
        return target.origin
    raise Invalid(
        f"{what} are kept only in buckets of the embedded store; this bucket is bound to {target.origin.url}",
        kind="NotImplemented",
    )


async def put_object_at(
    context: Context, target: BucketTarget, key: str, upload: Upload, conditions: Conditions = NO_CONDITIONS
) -> ObjectInfo:
    """Store a body at the target's origin; durable there on return."""
    origin = target.origin
    require_writable(target)
    if isinstance(origin, StoreBucket):
        return await origin.put(key, upload, conditions)
    try:
        if origin.local:
            return await origin.put(key, upload, conditions)
        return await put_remote(context, target, key, upload, conditions)
    finally:  # put_remote has told the cache what became of it
        context.words.stamp(stripe(target.bucket, key))


async def delete_object_at(
    context: Context,
    target: BucketTarget,
    key: str,
    conditions: Conditions = NO_CONDITIONS,
    *,
    size: int | None = None,
    modified: float | None = None,
) -> None:
    """Delete an object at the target's origin. `size` and `modified` (seconds) are further conditions.

    Raises Conflict (PreconditionFailed), Invalid (NotImplemented: a condition the origin cannot judge).
    """
    origin = target.origin
    require_writable(target)
    if isinstance(origin, StoreBucket):
        seconds = None if modified is None else int(modified)
        await origin.delete(key, conditions, size=size, modified_seconds=seconds)
        return
    if size is not None or modified is not None:
        raise Invalid("this bucket's origin judges only If-Match on deletes", kind="NotImplemented")
    try:
        await origin.delete(key, conditions)
    finally:
        await context.invalidate(target.bucket, [key])


def require_writable(target: BucketTarget) -> None:
    """Raise Conflict (MethodNotAllowed) when the target's origin is read only."""
    if not target.origin.writable:
        raise Conflict(f"{target.origin.url} is read only", kind="MethodNotAllowed")
