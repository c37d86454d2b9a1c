"""GetObjectAttributes, and an object's tags and ACL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.base.errors import Invalid
from headrace.base.limits import LIST_KEYS_MAX
from headrace.gateway.codec import render
from headrace.gateway.messages import Request, Response
from headrace.gateway.object_bodies import checksum_members
from headrace.gateway.object_requests import check_version
from headrace.gateway.object_targets import store_of
from headrace.gateway.tags import parse_tag_document, tag_document
from headrace.model.objects import ObjectInfo

if TYPE_CHECKING:
    from headrace.gateway.context import Context

_KNOWN = frozenset({"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"})


async def get_object_attributes(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Tell the asked-for attributes of an object."""
    check_version(params.get("VersionId"))
    wanted = set(params.get("ObjectAttributes") or ())
    if not wanted or wanted - _KNOWN:
        raise Invalid(
            "Invalid attribute name specified.",
            kind="InvalidArgument",
            details={"ArgumentName": "x-amz-object-attributes", "ArgumentValue": ", ".join(sorted(wanted))[:200]},
        )
    limit, marker = _page(params)
    info = await context.resolve(request.bucket).origin.head(request.key)
    said = info.attributes
    output: dict[str, Any] = {"LastModified": info.version.modified_ms / 1000}
    if "ETag" in wanted:
        output["ETag"] = info.etag
    if "Checksum" in wanted and said.checksums:
        output["Checksum"] = checksum_members(said.checksums, said.checksum_type)
    if "ObjectParts" in wanted and info.parts:
        output["ObjectParts"] = _parts(info, limit, marker)
    if "StorageClass" in wanted:
        output["StorageClass"] = said.headers.get("x-amz-storage-class", "STANDARD")
    if "ObjectSize" in wanted:
        output["ObjectSize"] = info.size
    return render("GetObjectAttributes", output)


def _page(params: dict[str, Any]) -> tuple[int, int]:
    """(most parts, number after which to start). Raises Invalid (InvalidArgument)."""
    limit = params.get("MaxParts")
    marker = params.get("PartNumberMarker")
    try:
        asked = LIST_KEYS_MAX if limit is None else int(limit)
        after = 0 if marker in (None, "") else int(marker)
    except ValueError:
        asked = after = -1
    if asked < 0 or after < 0:
        raise Invalid("x-amz-max-parts and x-amz-part-number-marker are numbers from 0 on", kind="InvalidArgument")
    return min(asked, LIST_KEYS_MAX), after


def _parts(info: ObjectInfo, limit: int, marker: int) -> dict[str, Any]:
    """The page of an object's parts that begins after `marker`."""
    following = [part for part in info.parts if part.number > marker]
    shown = following[:limit]
    return {
        "TotalPartsCount": len(info.parts),
        "PartNumberMarker": marker,
        "NextPartNumberMarker": shown[-1].number if shown else marker,
        "MaxParts": limit,
        "IsTruncated": len(shown) < len(following),
        "Parts": [{"PartNumber": part.number, "Size": part.size, **checksum_members(part.checksums)} for part in shown],
    }


async def get_object_tagging(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Tell an object's tags."""
    check_version(params.get("VersionId"))
    info = await store_of(context.resolve(request.bucket), "Tags").head(request.key)
    return render("GetObjectTagging", tag_document(info.attributes.tags))


async def put_object_tagging(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Replace an object's tags."""
    check_version(params.get("VersionId"))
    tags = parse_tag_document(params.get("Tagging"))
    await store_of(context.resolve(request.bucket), "Tags").set_tags(request.key, tags)
    return render("PutObjectTagging")


async def delete_object_tagging(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Remove an object's tags."""
    check_version(params.get("VersionId"))
    await store_of(context.resolve(request.bucket), "Tags").set_tags(request.key, {})
    return render("DeleteObjectTagging")
