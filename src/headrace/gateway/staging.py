"""Multipart uploads, wherever a bucket's objects lie.

A bucket of the embedded store has them itself. For any other origin the parts wait in a hidden bucket
of the embedded store and go to the origin as one body on completion: the upload is first completed
there (which verifies it and can be repeated), then streamed out, then noted as delivered and removed
in one transaction. A crash in between leaves the hidden object, and the client's next attempt goes on
from it. Only that note makes a repeated completion succeed without an object to deliver.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from headrace.base import clock
from headrace.base.errors import Conflict, NotFound
from headrace.base.limits import STAGED_SECONDS_MAX, STAGED_SWEPT_MAX
from headrace.gateway.object_targets import put_object_at, require_writable
from headrace.model.objects import NO_CONDITIONS, Conditions, ObjectInfo
from headrace.origin.base import Opened, Upload
from headrace.origin.complete import CompletePart
from headrace.origin.store_bucket import StoreBucket
from headrace.origin.upload_rows import DELIVERED, no_such_upload

if TYPE_CHECKING:
    from headrace.gateway.context import BucketTarget, Context

HIDDEN = "\0uploads/"
"""Start of the names of hidden buckets: no request can name one, since NUL is refused in paths."""


def parts_bucket(context: Context, target: BucketTarget) -> StoreBucket:
    """The bucket of the embedded store that holds the target's unfinished uploads; it may not exist yet."""
    if isinstance(target.origin, StoreBucket):
        return target.origin
    return context.store.bucket(HIDDEN + target.bucket)


def has_uploads(context: Context, bucket: StoreBucket) -> bool:
    """Whether a `parts_bucket` exists, which a hidden one does from the first upload on."""
    return not bucket.name.startswith(HIDDEN) or context.store.bucket_now(bucket.name) is not None


def upload_bucket(context: Context, target: BucketTarget, upload_id: str) -> StoreBucket:
    """The bucket that holds the parts of an upload. Raises NotFound (NoSuchUpload) when there is none."""
    bucket = parts_bucket(context, target)
    if not has_uploads(context, bucket):
        raise no_such_upload(upload_id)
    return bucket


async def begin(context: Context, target: BucketTarget) -> StoreBucket:
    """`parts_bucket` for a new upload: made when missing, and cleared of what nobody came back for."""
    require_writable(target)
    bucket = parts_bucket(context, target)
    if bucket is target.origin:
        return bucket
    if not has_uploads(context, bucket):
        with contextlib.suppress(Conflict):  # another worker made it just now
            await context.store.create_bucket(bucket.name)
        return bucket
    oldest_ms = (clock.wall() - STAGED_SECONDS_MAX) * 1000
    for info in (await bucket.list(limit=STAGED_SWEPT_MAX)).objects:
        if info.version.modified_ms < oldest_ms:
            with contextlib.suppress(Conflict):
                await bucket.delete(info.key, Conditions(if_match=(info.etag,)))
    return bucket


async def complete(
    context: Context,
    target: BucketTarget,
    key: str,
    upload_id: str,
    parts: Sequence[CompletePart],
    conditions: Conditions,
    expected: Mapping[str, str],
    expected_type: str = "",
    expected_size: int | None = None,
) -> ObjectInfo:
    """Make the parts the object at the target's origin; repeating it gives the same answer.

    Raises what `StoreBucket.complete_upload` and `Origin.put` raise, Conflict (OperationAborted) when
    another upload of the same key was completed in between, and NotFound (NoSuchUpload) when the
    body is gone though it was never delivered.
    """
    require_writable(target)
    bucket = upload_bucket(context, target, upload_id)
    if bucket is target.origin:
        return await bucket.complete_upload(key, upload_id, parts, conditions, expected, expected_type, expected_size)
    whole = await bucket.complete_upload(key, upload_id, parts, NO_CONDITIONS, expected, expected_type, expected_size)
    if whole.version.token == DELIVERED:
        return whole  # only the answer was lost
    try:
        opened = await bucket.open(key)
    except NotFound:
        opened = None
    if opened is None or opened.info.version != whole.version:
        if opened is not None:
            await _close(opened)
        if (await bucket.complete_upload(key, upload_id, parts)).version.token == DELIVERED:
            return whole  # by another attempt, just now
        if opened is None:
            raise no_such_upload(upload_id)
        raise Conflict(
            "A conflicting conditional operation is currently in progress against this resource. Please try again.",
            kind="OperationAborted",
        )
    upload = Upload(body=opened.body, size=opened.length, attributes=whole.attributes, etag=whole.etag)
    info = await put_object_at(context, target, key, upload, conditions)
    await bucket.note_delivered(key, upload_id, whole.version)
    return info


async def abort(context: Context, target: BucketTarget, key: str, upload_id: str) -> None:
    """Forget an upload and its parts. Raises NotFound (NoSuchUpload)."""
    bucket = upload_bucket(context, target, upload_id)
    try:
        await bucket.abort_upload(upload_id, key)
    except NotFound:
        if bucket is target.origin:
            raise
        await bucket.forget_completed(key, upload_id)


async def _close(opened: Opened) -> None:
    close = getattr(opened.body, "aclose", None)
    if close is not None:
        await close()
