"""Multipart uploads: create, parts sent and copied, complete, abort."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from headrace.base.errors import Busy, Invalid
from headrace.gateway import staging
from headrace.gateway.codec import render
from headrace.gateway.conditions import write_conditions
from headrace.gateway.copying import Source, find_source
from headrace.gateway.messages import Request, Response
from headrace.gateway.object_acl import requested_acl
from headrace.gateway.object_bodies import (
    asked_algorithm,
    check_length,
    checksum_members,
    given_checksums,
    payload_of,
    stored_members,
    upload_of,
)
from headrace.gateway.object_requests import parse_part_number
from headrace.gateway.ranges import Span, parse_copy_range, resolve_copy_range
from headrace.gateway.write_attributes import check_key, request_attributes
from headrace.model.objects import Attributes, PartInfo
from headrace.origin.base import Upload
from headrace.origin.complete import CompletePart
from headrace.origin.store_bucket import StoreBucket

if TYPE_CHECKING:
    from headrace.gateway.context import Context

_COPY_TRIES = 8
_TYPES = ("", "COMPOSITE", "FULL_OBJECT")


async def create_multipart_upload(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Begin an upload in parts."""
    check_key(request.key)
    attributes = request_attributes(request, requested_acl(context, request, params))
    algorithm = asked_algorithm(params.get("ChecksumAlgorithm"))
    checksum_type = str(params.get("ChecksumType") or "")
    if checksum_type not in _TYPES or (checksum_type and not algorithm):
        raise Invalid(
            "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header, and is "
            "COMPOSITE or FULL_OBJECT.",
            kind="InvalidRequest",
        )
    bucket = await staging.begin(context, context.resolve(request.bucket))
    upload_id = await bucket.create_upload(request.key, attributes, algorithm, checksum_type)
    output: dict[str, Any] = {"Bucket": request.bucket, "Key": request.key, "UploadId": upload_id}
    if algorithm:
        output["ChecksumAlgorithm"] = algorithm.upper()
        output["ChecksumType"] = bucket.upload_now(upload_id).checksum_type
    return render("CreateMultipartUpload", output)


def _part_of(request: Request) -> tuple[str, int]:
    """(upload id, part number) of a request about one part. Raises Invalid (InvalidArgument)."""
    return request.params.get("uploadId", ""), parse_part_number(request.params.get("partNumber", ""))


async def upload_part(context: Context, request: Request, params: dict[str, Any]) -> Response:  # noqa: ARG001 - one signature
    """Store one part."""
    upload_id, number = _part_of(request)
    check_length(request)
    bucket = staging.upload_bucket(context, context.resolve(request.bucket), upload_id)
    algorithm = bucket.upload_now(upload_id, request.key).algorithm
    upload = upload_of(request)
    if algorithm:
        # Computed while the body is verified, so the store need not do it again: the value follows.
        payload_of(request).want(algorithm)
        upload.attributes = Attributes(checksums={algorithm: ""})
    part = await bucket.put_part(upload_id, number, upload, request.key)
    return render("UploadPart", {"ETag": f'"{part.etag}"', **checksum_members(part.checksums)})


async def upload_part_copy(context: Context, request: Request, params: dict[str, Any]) -> Response:  # noqa: ARG001 - one signature
    """Make a range of an existing object one part."""
    upload_id, number = _part_of(request)
    wanted = parse_copy_range(request.header("x-amz-copy-source-range"))
    bucket = staging.upload_bucket(context, context.resolve(request.bucket), upload_id)
    bucket.upload_now(upload_id, request.key)
    for attempt in range(_COPY_TRIES):
        source = await find_source(context, request)
        span = resolve_copy_range(wanted, source.info.size)
        try:
            part = await _copy_part(bucket, upload_id, number, source, span)
            break
        except Busy:  # the source was replaced between the look-up and the copy
            if attempt == _COPY_TRIES - 1:
                raise
    result = {
        "ETag": f'"{part.etag}"',
        "LastModified": part.modified_ms / 1000,
        **checksum_members(part.checksums),
    }
    return render("UploadPartCopy", {"CopyPartResult": result})


async def _copy_part(bucket: StoreBucket, upload_id: str, number: int, source: Source, span: Span) -> PartInfo:
    """By reference when the source lies on this machine, else as a stream. Raises Busy when it changed."""
    origin = source.target.origin
    stop = span.start + span.length
    if origin.local:
        located = await origin.locate(source.key)
        if located.info.version != source.info.version:
            raise Busy("the source of the copy was replaced meanwhile: try again")
        return await bucket.copy_part(upload_id, number, located, span.start, stop)
    opened = await origin.open(source.key, span.start, stop, source.pinned)
    return await bucket.put_part(upload_id, number, Upload(body=opened.body, size=opened.length))


async def complete_multipart_upload(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Make the named parts the object."""
    check_key(request.key)
    upload_id = str(params.get("UploadId") or "")
    size = params.get("MpuObjectSize")
    try:
        expected_size = None if size is None else int(size)
    except ValueError:
        raise Invalid("x-amz-mp-object-size is a number of bytes", kind="InvalidArgument") from None
    info = await staging.complete(
        context,
        context.resolve(request.bucket),
        request.key,
        upload_id,
        _named_parts(params),
        write_conditions(request),
        given_checksums(params),
        str(params.get("ChecksumType") or ""),
        expected_size,
    )
    scheme = "https" if request.secure else "http"
    location = f"{scheme}://{request.host}{quote(request.path.decode('utf-8', 'replace'), safe='/%')}"
    output = {"Location": location, "Bucket": request.bucket, "Key": request.key, **stored_members(info)}
    return render("CompleteMultipartUpload", output)


def _named_parts(params: dict[str, Any]) -> list[CompletePart]:
    """The parts a client names; of a part named again right after itself, the last. Raises Invalid (MalformedXML)."""
    named = (params.get("MultipartUpload") or {}).get("Parts") or []
    parts: list[CompletePart] = []
    for part in named:
        if part.get("PartNumber") is None or not part.get("ETag"):
            raise Invalid("Every Part has a PartNumber and an ETag", kind="MalformedXML")
        if parts and parts[-1].number == int(part["PartNumber"]):
            parts.pop()  # the client sent this part twice and noted both ETags; only the last can hold
        parts.append(CompletePart(int(part["PartNumber"]), str(part["ETag"]).strip('"'), given_checksums(part)))
    return parts


async def abort_multipart_upload(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Forget an upload and its parts."""
    await staging.abort(context, context.resolve(request.bucket), request.key, str(params.get("UploadId") or ""))
    return render("AbortMultipartUpload")
