"""Access control lists of objects: what a write asks for, GetObjectAcl and PutObjectAcl."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.base.errors import Invalid
from headrace.gateway import acl
from headrace.gateway.codec import render
from headrace.gateway.messages import Request, Response
from headrace.gateway.object_requests import check_version
from headrace.gateway.object_targets import store_of
from headrace.origin.store_bucket import StoreBucket

if TYPE_CHECKING:
    from headrace.gateway.context import BucketTarget, Context


def requested_acl(context: Context, request: Request, params: dict[str, Any]) -> str:
    """The list a write's x-amz-acl or x-amz-grant-* headers ask for, private without. Raises Invalid."""
    return acl.from_headers(params, context.user(request.identity), context.knows_user) or acl.PRIVATE


def _owner_of(context: Context, target: BucketTarget, stored: str) -> dict[str, str]:
    """ID and DisplayName of an object's owner: who wrote it, else the bucket's owner."""
    return context.person(stored or target.owner)


async def get_object_acl(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Tell an object's access control list; objects outside the embedded store are private."""
    check_version(params.get("VersionId"))
    target = context.resolve(request.bucket)
    said = (await target.origin.head(request.key)).attributes
    text = said.acl if isinstance(target.origin, StoreBucket) else acl.PRIVATE
    owner = _owner_of(context, target, said.owner)
    return render("GetObjectAcl", acl.to_document(text, owner, context.display_name))


async def put_object_acl(context: Context, request: Request, params: dict[str, Any]) -> Response:
    """Replace an object's access control list. Outside the embedded store only private is accepted."""
    check_version(params.get("VersionId"))
    target = context.resolve(request.bucket)
    info = await target.origin.head(request.key)
    owner_id = _owner_of(context, target, info.attributes.owner)["ID"]
    text = acl.from_headers(params, owner_id, context.knows_user)
    document = params.get("AccessControlPolicy")
    if text is None:
        if not document:
            raise Invalid("Your request was missing a required header or document", kind="MissingSecurityHeader")
        text = acl.from_document(document, owner_id, context.knows_user)
    elif document:
        raise Invalid("This request does not support content", kind="UnexpectedContent")
    if isinstance(target.origin, StoreBucket) or text != acl.PRIVATE:
        await store_of(target, "Access control lists").set_acl(request.key, text)
    return render("PutObjectAcl")
