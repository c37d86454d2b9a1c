"""CopyObject: by reference inside the embedded store, as a stream everywhere else."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from headrace.base.errors import Invalid
from headrace.base.limits import PUT_BYTES_MAX
from headrace.gateway.codec import render
from headrace.gateway.conditions import require_source, source_conditions, write_conditions
from headrace.gateway.copy_source import CopySource, parse_copy_source
from headrace.gateway.messages import Request, Response
from headrace.gateway.object_acl import requested_acl
from headrace.gateway.object_bodies import asked_algorithm, checksum_members, computing_upload
from headrace.gateway.object_targets import put_object_at, require_writable
from headrace.gateway.write_attributes import STORED_HEADERS, check_key, request_attributes
from headrace.model.objects import Attributes, Conditions, ObjectInfo
from headrace.origin.store_bucket import StoreBucket

if TYPE_CHECKING:
    from headrace.gateway.context import BucketTarget, Context

_DIRECTIVES = ("COPY", "REPLACE")


class Source(NamedTuple):
    """A copy's source as found: its bucket, key and state, which satisfies the request's conditions."""

    target: BucketTarget
    key: str
    info: ObjectInfo

    @property
    def pinned(self) -> Conditions:
        """Conditions under which the source is still what was found."""
        return Conditions(if_match=(self.info.etag,))


async def find_source(context: Context, request: Request) -> Source:
    """The object that x-amz-copy-source names, if the caller may read it and the conditions hold.

    Raises Invalid (InvalidArgument), Denied, NotFound, Conflict (PreconditionFailed).
    """
    named: CopySource = parse_copy_source(request.header("x-amz-copy-source"))
    target = context.resolve(named.bucket)
    context.authorize(request, "GetObject", bucket=named.bucket, key=named.key)
    info = await target.origin.head(named.key)
    require_source(source_conditions(request), info)
    return Source(target, named.key, info)


async def copy_object(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Copy an object, its metadata and tags kept or replaced as the directives say."""
    check_key(request.key)
    replaces_metadata = _directive(params, "MetadataDirective") == "REPLACE"
    replaces_tags = _directive(params, "TaggingDirective") == "REPLACE"
    said = request_attributes(request, requested_acl(context, request, params))
    algorithm = asked_algorithm(params.get("ChecksumAlgorithm"))
    source = await find_source(context, request)
    changes = replaces_metadata or replaces_tags or algorithm or "x-amz-website-redirect-location" in said.headers
    if source.target.bucket == request.bucket and source.key == request.key and not changes:
        raise Invalid(
            "This copy request is illegal because it is trying to copy an object to itself without changing the "
            "object's metadata, storage class, website redirect location or encryption attributes.",
            kind="InvalidRequest",
        )
    if source.info.size > PUT_BYTES_MAX:
        raise Invalid(
            f"The specified copy source is larger than the maximum allowable size for a copy source: {PUT_BYTES_MAX}",
            kind="InvalidRequest",
        )
    present = source.info.attributes
    attributes = dataclasses.replace(
        said,
        headers=said.headers if replaces_metadata else _kept_headers(present, said),
        metadata=said.metadata if replaces_metadata else present.metadata,
        tags=said.tags if replaces_tags else present.tags,
    )
    target = context.resolve(request.bucket)
    require_writable(target)
    info = await _copy(context, source, target, request.key, attributes, write_conditions(request), algorithm)
    result = {
        "ETag": f'"{info.etag}"',
        "LastModified": info.version.modified_ms / 1000,
        **checksum_members(info.attributes.checksums, info.attributes.checksum_type),
    }
    return render("CopyObject", {"CopyObjectResult": result})


def _directive(params: dict[str, Any], name: str) -> str:
    """A directive's value, COPY when absent. Raises Invalid (InvalidArgument)."""
    value = str(params.get(name) or "COPY")
    if value not in _DIRECTIVES:
        raise Invalid(
            f"Unknown {name}.", kind="InvalidArgument", details={"ArgumentName": name, "ArgumentValue": value[:100]}
        )
    return value


def _kept_headers(present: Attributes, said: Attributes) -> dict[str, str]:
    """The source's own headers; a redirect location is never copied but taken from the request."""
    name = "x-amz-website-redirect-location"
    headers = {key: value for key, value in present.headers.items() if key in STORED_HEADERS and key != name}
    return headers | {key: value for key, value in said.headers.items() if key == name}


async def _copy(
    context: Context,
    source: Source,
    target: BucketTarget,
    key: str,
    attributes: Attributes,
    conditions: Conditions,
    algorithm: str,
) -> ObjectInfo:
    """Copy the source as found (Conflict when it changed meanwhile) and return the new object."""
    origin, from_origin = target.origin, source.target.origin
    same = source.info.attributes
    computes = (
        algorithm if algorithm and (algorithm not in same.checksums or same.checksum_type != "FULL_OBJECT") else ""
    )
    one_store = target.store is not None and target.store is source.target.store
    if one_store and isinstance(origin, StoreBucket) and isinstance(from_origin, StoreBucket) and not computes:
        return await origin.copy_from(from_origin, source.key, key, attributes, conditions, source.pinned)
    opened = await from_origin.open(source.key, conditions=source.pinned)
    whole = dataclasses.replace(
        attributes,
        checksums=same.checksums if same.checksum_type == "FULL_OBJECT" and not computes else {},
        checksum_type="FULL_OBJECT" if same.checksum_type == "FULL_OBJECT" and not computes else "",
    )
    upload = computing_upload(opened.body, opened.length, whole, computes)
    return await put_object_at(context, target, key, upload, conditions)
