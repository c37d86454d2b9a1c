"""Large puts to S3: parts in parallel, bounded in memory, aborted when anything fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from headrace.base import limits
from headrace.base.errors import HeadraceError, Invalid, Unavailable
from headrace.origin.base import Upload
from headrace.origin.s3client import S3Client
from headrace.origin.s3wire import checksum_headers, complete_document, document, put_headers


async def put_in_parts(
    client: S3Client, bucket: str, name: str, upload: Upload, checks: Mapping[str, str]
) -> tuple[dict[str, str], int]:
    """Store `upload` as a multipart upload; (the answer's headers with its ETag, bytes stored).

    The body is proved (exhausted without an error) before the upload is completed. A body that
    turns out to fit one part goes as one PUT. Conditions are S3's own on the completion.
    """
    part_bytes = limits.ORIGIN_PART_BYTES
    if upload.size is not None:
        part_bytes = max(part_bytes, -(-upload.size // limits.PART_NUMBER_MAX))
    parts = _cut(upload, part_bytes)
    first = await anext(parts, b"")
    if len(first) < part_bytes:
        headers = {**put_headers(upload.attributes), **checksum_headers(upload.attributes), **checks}
        return dict((await client.answer("PUT", bucket, name, headers=headers, body=first))[0]), len(first)
    crc = next((n for n in ("crc64nvme", "crc32c", "crc32") if n in upload.attributes.checksums), "")
    headers = put_headers(upload.attributes)
    if crc:
        headers |= {"x-amz-checksum-algorithm": crc.upper(), "x-amz-checksum-type": "FULL_OBJECT"}
    _, body = await client.answer("POST", bucket, name, query=[("uploads", "")], headers=headers)
    upload_id = document(body).findtext("UploadId") or ""
    if not upload_id:
        raise Unavailable("the origin began an upload without an id", kind="InternalError")
    try:
        etags, size = await _send_parts(client, bucket, name, upload_id, first, parts)
        if upload.size is not None and size != upload.size:
            raise Invalid(f"the body has {size} bytes, announced were {upload.size}", kind="IncompleteBody")
        more = {**checks, **(checksum_headers(upload.attributes) if crc else {})}
        return await _complete(client, bucket, name, upload_id, etags, more), size
    except BaseException:
        # Not after a lost answer alone: a completed upload cannot be aborted, so asking is safe.
        with contextlib.suppress(HeadraceError):
            await asyncio.shield(client.answer("DELETE", bucket, name, query=[("uploadId", upload_id)]))
        raise


async def _cut(upload: Upload, part_bytes: int) -> AsyncIterator[bytes]:
    """The body in parts of `part_bytes`, the last shorter (absent when the body is empty)."""
    waiting = bytearray()
    async for piece in upload.body:
        waiting += piece
        while len(waiting) >= part_bytes:
            part = bytes(memoryview(waiting)[:part_bytes])
            del waiting[:part_bytes]
            yield part
    if waiting:
        yield bytes(waiting)


async def _send_parts(
    client: S3Client, bucket: str, name: str, upload_id: str, first: bytes, parts: AsyncIterator[bytes]
) -> tuple[list[str], int]:
    """Send all parts, as many at once as the client's bound allows; their ETags in order, and their bytes."""
    tasks: list[asyncio.Task[str]] = []
    size = 0

    async def send(number: int, part: bytes) -> str:
        try:
            query = [("partNumber", str(number)), ("uploadId", upload_id)]
            headers, _ = await client.answer("PUT", bucket, name, query=query, body=part)
            return headers.get("ETag", "").strip('"')
        finally:
            client.parts.release()

    try:
        async with asyncio.TaskGroup() as group:
            part = first
            while part:
                if len(tasks) == limits.PART_NUMBER_MAX:
                    raise Invalid("the body needs more than 10,000 parts", kind="EntityTooLarge")
                await client.parts.acquire()
                size += len(part)
                tasks.append(group.create_task(send(len(tasks) + 1, part)))
                part = await anext(parts, b"")
    except BaseExceptionGroup as failed:
        raise _first(failed) from failed
    return [task.result() for task in tasks], size


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group of tasks; the others only followed from it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _complete(
    client: S3Client, bucket: str, name: str, upload_id: str, etags: list[str], headers: Mapping[str, str]
) -> dict[str, str]:
    """Complete the upload. Raises what the origin says, also where it says so after a 200."""
    body = complete_document((number, etag, {}) for number, etag in enumerate(etags, 1))
    more = {**headers, "content-type": "application/xml"}
    answer, said = await client.answer("POST", bucket, name, query=[("uploadId", upload_id)], headers=more, body=body)
    root = document(said)
    if root.tag == "Error":
        raise Unavailable(f"the origin failed to assemble {name}: {root.findtext('Message')}", kind="InternalError")
    return {**answer, "ETag": root.findtext("ETag") or ""}
