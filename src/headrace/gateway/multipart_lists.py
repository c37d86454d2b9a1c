"""ListParts and ListMultipartUploads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.base.limits import PART_NUMBER_MAX
from headrace.gateway import staging
from headrace.gateway.codec import render
from headrace.gateway.listing import encoder, page_size
from headrace.gateway.messages import Request, Response
from headrace.gateway.object_bodies import checksum_members
from headrace.origin.upload_rows import UploadInfo, UploadPage

if TYPE_CHECKING:
    from headrace.gateway.context import BucketTarget, Context

_STANDARD = "STANDARD"


async def list_parts(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Tell the parts an unfinished upload has, a page at a time."""
    upload_id = str(params.get("UploadId") or "")
    limit = page_size(params, "MaxParts", "max-parts")
    marker = str(params.get("PartNumberMarker") or "")
    after = int(marker) if marker.isascii() and marker.isdigit() and len(marker) < 10 else 0
    target = context.resolve(request.bucket)
    bucket = staging.upload_bucket(context, target, upload_id)
    page = await bucket.list_parts(upload_id, min(after, PART_NUMBER_MAX), limit, request.key)
    upload = page.upload
    person = context.person(upload.attributes.owner or target.owner)
    output: dict[str, Any] = {
        "Bucket": request.bucket,
        "Key": request.key,
        "UploadId": upload_id,
        "PartNumberMarker": after,
        "NextPartNumberMarker": page.parts[-1].number if page.parts else after,
        "MaxParts": limit,
        "IsTruncated": page.next_after is not None,
        "Parts": [
            {
                "PartNumber": part.number,
                "LastModified": part.modified_ms / 1000,
                "ETag": f'"{part.etag}"',
                "Size": part.size,
                **checksum_members(part.checksums),
            }
            for part in page.parts
        ],
        "Initiator": person,
        "Owner": person,
        "StorageClass": _STANDARD,
    }
    if upload.algorithm:
        output |= {"ChecksumAlgorithm": upload.algorithm.upper(), "ChecksumType": upload.checksum_type}
    return render("ListParts", output)


async def list_multipart_uploads(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Tell the unfinished uploads of a bucket, a page at a time."""
    limit = page_size(params, "MaxUploads", "max-uploads")
    prefix, delimiter = str(params.get("Prefix") or ""), str(params.get("Delimiter") or "")
    key_marker, id_marker = str(params.get("KeyMarker") or ""), str(params.get("UploadIdMarker") or "")
    shown = encoder(params)
    target = context.resolve(request.bucket)
    bucket = staging.parts_bucket(context, target)
    page = UploadPage((), ())
    if staging.has_uploads(context, bucket):
        page = await bucket.list_uploads(prefix, key_marker, id_marker if key_marker else "", delimiter, limit)

    output: dict[str, Any] = {
        "Bucket": request.bucket,
        "KeyMarker": shown(key_marker),
        "UploadIdMarker": id_marker,
        "Prefix": shown(prefix),
        "MaxUploads": limit,
        "IsTruncated": page.next_key is not None,
        "EncodingType": params.get("EncodingType"),
        "Uploads": [_upload(context, target, upload, shown(upload.key)) for upload in page.uploads],
        "CommonPrefixes": [{"Prefix": shown(common)} for common in page.prefixes],
    }
    if delimiter:
        output["Delimiter"] = shown(delimiter)
    if page.next_key is not None:
        output |= {"NextKeyMarker": shown(page.next_key), "NextUploadIdMarker": page.next_upload_id}
    return render("ListMultipartUploads", output)


def _upload(context: Context, target: BucketTarget, upload: UploadInfo, key: str) -> dict[str, Any]:
    person = context.person(upload.attributes.owner or target.owner)
    described: dict[str, Any] = {
        "UploadId": upload.upload_id,
        "Key": key,
        "Initiated": upload.created_ms / 1000,
        "StorageClass": _STANDARD,
        "Owner": person,
        "Initiator": person,
    }
    if upload.algorithm:
        described |= {"ChecksumAlgorithm": upload.algorithm.upper(), "ChecksumType": upload.checksum_type}
    return described
