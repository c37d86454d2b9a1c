"""ListObjects (both versions) and ListObjectVersions over any origin's pages.

What S3 lists is what `Origin.list` yields; this module adds S3's parameters, echoes and markers. An
object has one version, the null one.
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from headrace.base.errors import Invalid
from headrace.base.limits import KEY_BYTES_MAX, LIST_KEYS_MAX
from headrace.gateway.codec import render
from headrace.gateway.messages import Request, Response
from headrace.origin.base import Page

if TYPE_CHECKING:
    from headrace.gateway.context import BucketTarget, Context

Params = dict[str, Any]
Encode = Callable[[str], str]
_NULL_VERSION = "null"
_NOT_PLAIN = re.compile(r"[%+\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")
_EMPTY = Page((), (), None)


def invalid_argument(message: str, name: str, value: str) -> Invalid:
    """S3's error for a bad parameter."""
    return Invalid(message, kind="InvalidArgument", details={"ArgumentName": name, "ArgumentValue": value[:1024]})


def page_size(params: Params, member: str, wire: str, size_max: int = LIST_KEYS_MAX) -> int:
    """How many entries a page may have. Raises Invalid (InvalidArgument)."""
    wanted = params.get(member)
    if wanted is None:
        return size_max
    if wanted < 0 or wanted > 2**31 - 1:
        raise invalid_argument(f"Argument {wire} must be an integer between 0 and 2147483647", wire, str(wanted))
    return min(int(wanted), size_max)


def encoder(params: Params) -> Encode:
    """How names are written: as they are, or percent-encoded. Raises Invalid (InvalidArgument)."""
    encoding = params.get("EncodingType")
    if encoding is None:
        return lambda text: text
    if encoding != "url":
        raise invalid_argument("Invalid Encoding Method specified in Request", "encoding-type", str(encoding))
    return lambda text: quote(text, safe="/-_.~*", errors="surrogatepass")


def token_of(after: str) -> str:
    """An opaque continuation token."""
    return urlsafe_b64encode(b"1" + after.encode("utf-8", "surrogatepass")).decode()


def after_of(token: str) -> str:
    """The place a token stands for. Raises Invalid (InvalidArgument)."""
    try:
        raw = urlsafe_b64decode(token.encode())
        if raw[:1] == b"1" and len(raw) <= KEY_BYTES_MAX + 1:
            return raw[1:].decode("utf-8", "surrogatepass")
    except (binascii.Error, ValueError):
        pass
    raise invalid_argument("The continuation token provided is incorrect", "continuation-token", token)


async def _page(target: BucketTarget, params: Params, after: str, limit: int) -> Page:
    if limit == 0:
        return _EMPTY
    prefix, delimiter = params.get("Prefix") or "", params.get("Delimiter") or ""
    if len(prefix.encode("utf-8", "surrogatepass")) > KEY_BYTES_MAX:
        return _EMPTY
    return await target.origin.list(prefix, after=after, delimiter=delimiter, limit=limit)


def _entries(
    context: Context, target: BucketTarget, page: Page, encode: Encode, *, owner: bool
) -> list[dict[str, Any]]:
    """The objects of a page as a listing shows them."""
    people: dict[str, dict[str, str]] = {}
    entries = []
    for info in page.objects:
        attributes = info.attributes
        entry: dict[str, Any] = {
            "Key": encode(info.key),
            "LastModified": info.version.modified_ms / 1000,
            "ETag": f'"{info.etag}"',
            "Size": info.size,
            "StorageClass": attributes.headers.get("x-amz-storage-class", "STANDARD"),
        }
        if attributes.checksums:
            entry["ChecksumAlgorithm"] = [name.upper() for name in attributes.checksums]
            entry["ChecksumType"] = attributes.checksum_type or None
        if owner:
            name = attributes.owner or target.owner
            if name not in people:
                people[name] = context.person(name)
            entry["Owner"] = people[name]
        entries.append(entry)
    return entries


def _common(request: Request, params: Params, page: Page, limit: int, encode: Encode) -> dict[str, Any]:
    """What both versions of a listing say."""
    output: dict[str, Any] = {
        "Name": request.bucket,
        "Prefix": encode(params.get("Prefix") or ""),
        "MaxKeys": limit,
        "IsTruncated": page.next_after is not None,
        "EncodingType": params.get("EncodingType"),
        "CommonPrefixes": [{"Prefix": encode(prefix)} for prefix in page.prefixes],
    }
    if params.get("Delimiter"):
        output["Delimiter"] = encode(params["Delimiter"])
    return output


def _echo(prefix: str, encode: Encode) -> str:
    """The prefix of a version 1 listing, as it is where that can't be misread.

    S3 encodes it, some clients decode it, and botocore does not.
    """
    return encode(prefix) if _NOT_PLAIN.search(prefix) else prefix


async def list_objects(context: Context, request: Request, params: Params) -> Response:
    """Version 1: pages by marker."""
    limit, encode = page_size(params, "MaxKeys", "max-keys"), encoder(params)
    target = context.resolve(request.bucket)
    marker = params.get("Marker") or ""
    page = await _page(target, params, marker, limit)
    output = _common(request, params, page, limit, encode)
    output["Prefix"] = _echo(params.get("Prefix") or "", encode)
    output["Marker"] = encode(marker)
    output["Contents"] = _entries(context, target, page, encode, owner=True)
    if page.next_after is not None and params.get("Delimiter"):
        output["NextMarker"] = encode(page.next_after)
    return render("ListObjects", output)


async def list_objects_v2(context: Context, request: Request, params: Params) -> Response:
    """Version 2: pages by continuation token."""
    limit, encode = page_size(params, "MaxKeys", "max-keys"), encoder(params)
    target = context.resolve(request.bucket)
    token, start_after = params.get("ContinuationToken"), params.get("StartAfter")
    after = after_of(token) if token else start_after or ""
    page = await _page(target, params, after, limit)
    owner = bool(params.get("FetchOwner"))
    output = _common(request, params, page, limit, encode)
    output["Contents"] = _entries(context, target, page, encode, owner=owner)
    output["KeyCount"] = len(page.objects) + len(page.prefixes)
    output["ContinuationToken"] = token
    output["StartAfter"] = None if start_after is None else encode(start_after)
    if page.next_after is not None:
        output["NextContinuationToken"] = token_of(page.next_after)
    return render("ListObjectsV2", output)


async def list_object_versions(context: Context, request: Request, params: Params) -> Response:
    """Versions: every object's null version, which is its latest."""
    limit, encode = page_size(params, "MaxKeys", "max-keys"), encoder(params)
    target = context.resolve(request.bucket)
    marker, version_marker = params.get("KeyMarker") or "", params.get("VersionIdMarker")
    if version_marker is not None and not marker:
        raise invalid_argument(
            "A version-id marker cannot be specified without a key marker.", "version-id-marker", version_marker
        )
    page = await _page(target, params, marker, limit)
    output = _common(request, params, page, limit, encode)
    output["KeyMarker"] = encode(marker)
    output["VersionIdMarker"] = version_marker or ""
    output["Versions"] = [
        {**entry, "VersionId": _NULL_VERSION, "IsLatest": True}
        for entry in _entries(context, target, page, encode, owner=True)
    ]
    if page.next_after is not None:
        output["NextKeyMarker"] = encode(page.next_after)
        output["NextVersionIdMarker"] = _NULL_VERSION
    return render("ListObjectVersions", output)
