"""Writes to remote origins: spooled on this machine, sent from there, then handed to the cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import structlog

from headrace.base import clock
from headrace.base.errors import HeadraceError, Invalid, Unavailable
from headrace.base.limits import MIB, PUT_BYTES_MAX
from headrace.base.rng import token_hex
from headrace.model.objects import Conditions, ObjectInfo
from headrace.origin.base import Upload

if TYPE_CHECKING:
    from headrace.gateway.context import BucketTarget, Context

log = structlog.get_logger("headrace.gateway")
_STEP_BYTES = MIB


async def put_remote(
    context: Context, target: BucketTarget, key: str, upload: Upload, conditions: Conditions
) -> ObjectInfo:
    """Store a body at a remote origin; durable there on return.

    With a cache the body is kept in a spool file meanwhile, so that it need not be read back. What
    was known of the object is forgotten, whatever the outcome; the caller stamps its word.
    """
    reader, folder = context.reader, context.spool
    if reader is None or folder is None or target.binding is None or not reader.client.connected:
        try:
            return await target.origin.put(key, upload, conditions)
        finally:
            if reader is not None and target.binding is not None:
                await reader.forget(target.binding, key)
    path = folder / f"{token_hex(16)}.put"
    try:
        size = await _spool(path, upload)
        spooled = Upload(body=_read(path, size), size=size, attributes=upload.attributes, etag=upload.etag)
        asked = clock.steady()
        try:
            info = await target.origin.put(key, spooled, conditions)
        except BaseException:  # an unknown outcome, too: it may have been stored
            await reader.forget(target.binding, key)
            raise
        try:
            await reader.client.ingest(target.binding, key, info, path, asked)
        except HeadraceError as problem:
            log.info("a written object was not cached", bucket=target.bucket, reason=problem.message)
        return info
    finally:
        await asyncio.shield(asyncio.to_thread(path.unlink, missing_ok=True))


async def _spool(path: Path, upload: Upload) -> int:
    """Write the body to the file; returns its length. Raises Unavailable (disk), Invalid, and what the body raises."""
    size = 0
    try:
        file: IO[bytes] = await asyncio.to_thread(path.open, "xb", 0)
        try:
            pending: list[bytes] = []
            held = 0
            async for piece in upload.body:
                pending.append(piece)
                held += len(piece)
                size += len(piece)
                if size > PUT_BYTES_MAX:
                    raise Invalid("Your proposed upload exceeds the maximum allowed size", kind="EntityTooLarge")
                if held >= _STEP_BYTES:
                    await asyncio.to_thread(_write, file, pending)
                    pending, held = [], 0
            await asyncio.to_thread(_write, file, pending)
        finally:
            file.close()
    except OSError as problem:
        raise Unavailable(f"the spool folder cannot take the body: {problem.strerror}") from problem
    if upload.size is not None and upload.size != size:
        raise Invalid(f"the body has {size} bytes, {upload.size} were announced", kind="IncompleteBody")
    return size


def _write(file: IO[bytes], pieces: list[bytes]) -> None:
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[file.write(view) :]


async def _read(path: Path, size: int) -> AsyncIterator[bytes]:
    """The spooled body, for the origin."""
    file = await asyncio.to_thread(path.open, "rb", 0)
    try:
        while size > 0:
            piece = await asyncio.to_thread(file.read, min(size, _STEP_BYTES))
            if not piece:
                raise Unavailable("a spool file is shorter than what was written to it")
            size -= len(piece)
            yield piece
    finally:
        file.close()
