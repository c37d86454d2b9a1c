"""Writes to remote origins: spooled on this machine, sent from there, then handed to the cache."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog

from headrace.base import clock
from headrace.base.errors import Bug, HeadraceError
from headrace.base.limits import HANDOVER_GRACE_SECONDS
from headrace.model.bindings import Binding
from headrace.model.objects import Conditions, ObjectInfo
from headrace.origin.base import Upload

if TYPE_CHECKING:
    from headrace.gateway.context import BucketTarget, Context

log = structlog.get_logger("headrace.gateway")


class Written(NamedTuple):
    """A spool file, and the steady time at which its body was sent to the origin."""

    path: Path
    asked: float


async def put_remote(
    context: Context, target: BucketTarget, key: str, upload: Upload, conditions: Conditions
) -> ObjectInfo:
    """Store a body at a remote origin; durable there on return.

    With a cache the body is kept in a spool file meanwhile, so that it need not be read back; a disk
    that does not take it is passed by. Before this returns, nobody can find what was known of the
    object any more, whatever the outcome; the cache takes the new body over behind the answer if it
    needs more than a moment. The caller stamps the object's word.
    """
    reader, spool = context.reader, context.spool
    if reader is None or spool is None or target.binding is None or not reader.client.connected:
        return await _put_through(context, target, key, upload, conditions)
    if spool.sick:
        reader.note_bypass("spool-failed")
        return await _put_through(context, target, key, upload, conditions)
    path = spool.new_path()
    handover: asyncio.Task[None] | None = None
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
        handover = await _hand_over(context, target.binding, key, info, Written(path, asked))
        if handover is not None:
            await asyncio.wait({handover}, timeout=HANDOVER_GRACE_SECONDS)
        return info
    finally:
        if handover is None:
            await spool.remove(path)


async def _hand_over(
    context: Context, binding: Binding, key: str, info: ObjectInfo, written: Written
) -> asyncio.Task[None] | None:
    """Have what was known forgotten, and the cache take the spool file; None when it stays the caller's."""
    reader, spool, handovers = context.reader, context.spool, context.handovers
    if reader is None or spool is None:
        raise Bug("a body was kept without a cache")
    if not handovers.fits(info.size):
        reader.note_bypass("not-ingested")
        await reader.forget(binding, key)
        return None
    try:
        taken = await reader.client.begin_ingest(binding, key, info, written.path, written.asked)
    except HeadraceError as problem:
        reader.note_bypass("not-ingested")
        log.debug("a written object was not cached", bucket=binding.bucket, reason=problem.message)
        return None
    return handovers.add(
        info.size, taken, partial(spool.remove, written.path), partial(reader.note_bypass, "not-ingested")
    )


async def _put_through(
    context: Context, target: BucketTarget, key: str, upload: Upload, conditions: Conditions
) -> ObjectInfo:
    """Store the body as it comes, without a copy."""
    try:
        return await target.origin.put(key, upload, conditions)
    finally:
        if context.reader is not None and target.binding is not None:
            await context.reader.forget(target.binding, key)
