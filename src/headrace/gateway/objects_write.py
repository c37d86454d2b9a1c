"""PutObject, DeleteObject and DeleteObjects."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from headrace.base.errors import HeadraceError, Invalid
from headrace.base.limits import DELETE_KEYS_AT_ONCE, DELETE_KEYS_MAX
from headrace.gateway.codec import render
from headrace.gateway.conditions import parse_etags, write_conditions
from headrace.gateway.errors import known_error, message_of
from headrace.gateway.messages import Request, Response
from headrace.gateway.object_acl import requested_acl
from headrace.gateway.object_bodies import check_length, payload_of, stored_members, upload_of
from headrace.gateway.object_requests import check_version
from headrace.gateway.object_targets import delete_object_at, put_object_at
from headrace.gateway.write_attributes import check_key, request_attributes
from headrace.model.objects import Conditions

if TYPE_CHECKING:
    from headrace.gateway.context import BucketTarget, Context


async def put_object(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Store an object whole."""
    check_key(request.key)
    check_length(request)
    upload = upload_of(request, request_attributes(request, requested_acl(context, request, params)))
    target = context.resolve(request.bucket)
    info = await put_object_at(context, target, request.key, upload, write_conditions(request))
    return render("PutObject", stored_members(info))


async def delete_object(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Delete an object; no error when there is none."""
    check_version(params.get("VersionId"))
    target = context.resolve(request.bucket)
    await delete_object_at(
        context,
        target,
        request.key,
        write_conditions(request),
        size=params.get("IfMatchSize"),
        modified=params.get("IfMatchLastModifiedTime"),
    )
    return render("DeleteObject")


async def delete_objects(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Delete up to 1,000 objects; failures are told key by key."""
    document = params.get("Delete") or {}
    wanted = document.get("Objects") or []
    if not 1 <= len(wanted) <= DELETE_KEYS_MAX:
        raise Invalid(
            f"The XML you provided was not well-formed or did not validate against our published schema: "
            f"1 to {DELETE_KEYS_MAX} objects",
            kind="MalformedXML",
        )
    if not payload_of(request).protected:
        raise Invalid(
            "Missing required header for this request: Content-MD5 OR x-amz-checksum-*", kind="InvalidRequest"
        )
    target = context.resolve(request.bucket)
    deleted: list[dict[str, str]] = []
    failed: list[dict[str, str]] = []
    for first in range(0, len(wanted), DELETE_KEYS_AT_ONCE):
        batch = wanted[first : first + DELETE_KEYS_AT_ONCE]
        outcomes = await asyncio.gather(*[_delete_one(context, request, target, entry) for entry in batch])
        for entry, error in zip(batch, outcomes, strict=True):
            named = {"Key": str(entry.get("Key") or "")}
            if entry.get("VersionId"):
                named["VersionId"] = str(entry["VersionId"])
            if error is not None:
                failed.append(named | {"Code": error.kind, "Message": message_of(error)})
            elif not document.get("Quiet"):
                deleted.append(named)
    return render("DeleteObjects", {"Deleted": deleted, "Errors": failed})


async def _delete_one(
    context: Context, request: Request, target: BucketTarget, entry: dict[str, Any]
) -> HeadraceError | None:
    """Delete one object of a list; returns the error, if any."""
    try:
        key = str(entry.get("Key") or "")
        check_version(entry.get("VersionId"))
        check_key(key)
        context.authorize(request, "DeleteObject", key=key)
        await delete_object_at(
            context,
            target,
            key,
            Conditions(if_match=parse_etags(entry.get("ETag"))),
            size=entry.get("Size"),
            modified=entry.get("LastModifiedTime"),
        )
    except Exception as error:
        return known_error(error, request.request_id)
    return None
