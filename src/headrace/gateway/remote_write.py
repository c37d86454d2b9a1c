"""Writes to remote origins: spooled on this machine, sent from there, then handed to the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from headrace.base import clock
from headrace.base.errors import HeadraceError
from headrace.model.objects import Conditions, ObjectInfo
from headrace.origin.base import Upload

if TYPE_CHECKING:
    from headrace.gateway.context import BucketTarget, Context

log = structlog.get_logger("headrace.gateway")


async def put_remote(
    context: Context, target: BucketTarget, key: str, upload: Upload, conditions: Conditions
) -> ObjectInfo:
    """Store a body at a remote origin; durable there on return.

    With a cache the body is kept in a spool file meanwhile, so that it need not be read back; a disk
    that does not take it is passed by. What was known of the object is forgotten, whatever the
    outcome; the caller stamps its word.
    """
    reader, spool = context.reader, context.spool
    if reader is None or spool is None or target.binding is None or not reader.client.connected:
        return await _put_through(context, target, key, upload, conditions)
    if spool.sick:
        reader.note_bypass("spool-failed")
        return await _put_through(context, target, key, upload, conditions)
    path = spool.new_path()
    try:
        kept = await spool.keep(path, upload)
        if not kept.whole:
            reader.note_bypass("spool-failed")
            return await _put_through(context, target, key, kept.upload, conditions)
        asked = clock.steady()
        try:
            info = await target.origin.put(key, kept.upload, conditions)
        except BaseException:  # an unknown outcome, too: it may have been stored
            await reader.forget(target.binding, key)
            raise
        try:
            await reader.client.ingest(target.binding, key, info, path, asked)
        except HeadraceError as problem:
            reader.note_bypass("not-ingested")
            log.debug("a written object was not cached", bucket=target.bucket, reason=problem.message)
        return info
    finally:
        await spool.remove(path)


async def _put_through(
    context: Context, target: BucketTarget, key: str, upload: Upload, conditions: Conditions
) -> ObjectInfo:
    """Store the body as it comes, without a copy."""
    try:
        return await target.origin.put(key, upload, conditions)
    finally:
        if context.reader is not None and target.binding is not None:
            await context.reader.forget(target.binding, key)
