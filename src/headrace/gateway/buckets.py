"""ListBuckets, CreateBucket, HeadBucket, DeleteBucket and GetBucketLocation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from headrace.base.errors import Conflict, Invalid
from headrace.base.limits import STORE_BUCKETS_MAX
from headrace.gateway import acl
from headrace.gateway.access import visible
from headrace.gateway.codec import render
from headrace.gateway.context import STORE, BucketTarget
from headrace.gateway.listing import after_of, page_size, token_of
from headrace.gateway.messages import Request, Response
from headrace.gateway.proxy import forward

if TYPE_CHECKING:
    from headrace.gateway.context import Context

Params = dict[str, Any]

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+\Z")
_REGION = re.compile(r"[A-Za-z0-9-]{1,32}\Z")
_RESERVED_STARTS = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_ENDS = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")


def check_bucket_name(name: str) -> None:
    """Raise Invalid (InvalidBucketName) unless S3's rules for general purpose buckets allow the name."""
    if (
        not _NAME.match(name)
        or any(pair in name for pair in ("..", ".-", "-."))
        or _ADDRESS.match(name)
        or name.startswith(_RESERVED_STARTS)
        or name.endswith(_RESERVED_ENDS)
    ):
        raise Invalid("The specified bucket is not valid.", kind="InvalidBucketName", details={"BucketName": name})


async def _targets(context: Context, request: Request) -> list[BucketTarget]:
    """The buckets the caller may see, by name; those of accounts as they are now."""
    await context.bindings.renew()
    found = {target.bucket: target for target in context.bindings.listed()}
    for info in await context.store.buckets():
        # A name that no bucket may have is the store's own (unfinished uploads of other origins).
        if info.name not in found and _NAME.match(info.name):
            found[info.name] = BucketTarget(
                bucket=info.name,
                origin=context.store.bucket(info.name),
                kind=STORE,
                store=context.store,
                owner=info.owner,
                created_ms=info.created_ms,
                region=info.attributes.get("region", ""),
            )
    return [found[name] for name in sorted(found) if visible(context, request.identity, found[name])]


async def list_buckets(context: Context, request: Request, params: Params) -> Response:
    """The caller's buckets, by name."""
    size = page_size(params, "MaxBuckets", "max-buckets", STORE_BUCKETS_MAX)
    if params.get("MaxBuckets") == 0:
        raise Invalid("Argument max-buckets must be an integer between 1 and 10000", kind="InvalidArgument")
    prefix, region = params.get("Prefix") or "", params.get("BucketRegion")
    after = after_of(params["ContinuationToken"]) if params.get("ContinuationToken") else ""
    matching = [
        target
        for target in await _targets(context, request)
        if target.bucket.startswith(prefix)
        and target.bucket > after
        and region in (None, target.region or context.region)
    ]
    page = matching[:size]
    paged = any(params.get(name) is not None for name in ("MaxBuckets", "Prefix", "ContinuationToken", "BucketRegion"))
    output: dict[str, Any] = {
        "Owner": context.person(request.identity.name),
        "Buckets": [
            {
                "Name": target.bucket,
                "CreationDate": target.created_ms / 1000,
                "BucketRegion": (target.region or context.region) if paged else None,
            }
            for target in page
        ],
        "Prefix": params.get("Prefix"),
    }
    if len(matching) > size:
        output["ContinuationToken"] = token_of(page[-1].bucket)
    return render("ListBuckets", output)


async def create_bucket(context: Context, request: Request, params: Params) -> Response:
    """Make a bucket in the embedded store, or in the account where new buckets go.

    The owner may repeat the call with the same ACL, as in us-east-1.
    """
    name = request.bucket
    check_bucket_name(name)
    region = str((params.get("CreateBucketConfiguration") or {}).get("LocationConstraint") or "")
    if region and not _REGION.match(region):
        raise Invalid(
            "The specified location-constraint is not valid", kind="InvalidLocationConstraint",
            details={"LocationConstraint": region[:64]},
        )  # fmt: skip
    if params.get("ObjectLockEnabledForBucket"):
        raise Invalid("Object lock is not implemented", kind="NotImplemented")
    owner_id = context.user(request.identity)
    access = acl.from_headers(params, owner_id, context.knows_user) or acl.PRIVATE
    elsewhere = context.bindings.target(name)
    account = context.bindings.account_target(name)
    if elsewhere is not None and (account is None or elsewhere.kind != "proxy"):
        raise Conflict(
            "The requested bucket name is bound to an origin.", kind="BucketAlreadyExists", details={"BucketName": name}
        )
    if account is not None:
        response = await forward(context, request, account)
        if response.status < 300:
            context.bindings.created(name)
        return response
    try:
        await context.store.create_bucket(name, request.identity.name, {"acl": access, "region": region})
    except Conflict as conflict:
        if conflict.kind != "BucketAlreadyOwnedByYou":
            raise
        if context.resolve(name).acl != access:
            raise Conflict(
                "The bucket exists with another ACL.", kind="BucketAlreadyExists", details={"BucketName": name}
            ) from conflict
    return render("CreateBucket", {"Location": f"/{name}"})


async def head_bucket(context: Context, request: Request, params: Params) -> Response:  # noqa: ARG001 - one signature
    """Tell that a bucket exists and where."""
    target = context.resolve(request.bucket)
    return render("HeadBucket", {"BucketRegion": target.region or context.region, "AccessPointAlias": False})


async def delete_bucket(context: Context, request: Request, params: Params) -> Response:  # noqa: ARG001 - one signature
    """Remove an empty bucket of the embedded store."""
    target = context.resolve(request.bucket)
    if target.store is None or target.binding is not None:
        raise Invalid(
            "This bucket is bound to an origin; `headrace bucket remove` unbinds it.",
            kind="MethodNotAllowed",
        )
    await target.store.delete_bucket(request.bucket)
    return render("DeleteBucket")


async def get_bucket_location(context: Context, request: Request, params: Params) -> Response:  # noqa: ARG001 - one signature
    """The region a bucket was made in; none for us-east-1."""
    region = context.resolve(request.bucket).region
    return render("GetBucketLocation", {"LocationConstraint": "" if region == "us-east-1" else region})
