"""Documents of a bucket itself: tags, policy, access control list, and what headrace has none of.

Clients probe many sub-resources. Those that headrace doesn't have answer as a bucket does on which
nobody configured them; setting one is NotImplemented, removing one succeeds.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from headrace.base.errors import Conflict, Invalid, NotFound
from headrace.base.limits import BUCKET_TAGS_MAX
from headrace.gateway import acl
from headrace.gateway.access import policy_of
from headrace.gateway.codec import render
from headrace.gateway.errors import KINDS
from headrace.gateway.messages import Request, Response
from headrace.gateway.policy import compile_policy
from headrace.gateway.tags import checked_tags
from headrace.origin.store import Store

if TYPE_CHECKING:
    from headrace.gateway.context import BucketTarget, Context

Params = dict[str, Any]
Handler = Callable[["Context", Request, Params], Awaitable[Response]]


def _store_of(target: BucketTarget) -> Store:
    """Where the bucket's documents are kept. Raises Invalid (NotImplemented)."""
    if target.store is None:
        raise Invalid(
            "Documents are kept only for buckets of the embedded store; this one is bound to another origin",
            kind="NotImplemented",
        )
    return target.store


def _missing(kind: str, bucket: str) -> NotFound:
    return NotFound(KINDS[kind].message, kind=kind, details={"BucketName": bucket})


# -- tags


async def get_bucket_tagging(context: Context, request: Request, params: Params) -> Response:  # noqa: ARG001 - one signature
    """The bucket's tags. Raises NotFound (NoSuchTagSet)."""
    target = context.resolve(request.bucket)
    text = await target.store.get_document(request.bucket, "tagging") if target.store is not None else None
    if text is None:
        raise _missing("NoSuchTagSet", request.bucket)
    tags = json.loads(text)
    return render("GetBucketTagging", {"TagSet": [{"Key": key, "Value": value} for key, value in tags.items()]})


async def put_bucket_tagging(context: Context, request: Request, params: Params) -> Response:
    """Replace the bucket's tags."""
    pairs = ((tag["Key"], tag["Value"]) for tag in params["Tagging"]["TagSet"])
    tags = checked_tags(pairs, BUCKET_TAGS_MAX)
    await _store_of(context.resolve(request.bucket)).put_document(request.bucket, "tagging", json.dumps(tags))
    return render("PutBucketTagging", status=204)


async def delete_bucket_tagging(context: Context, request: Request, params: Params) -> Response:  # noqa: ARG001 - one signature
    """Remove the bucket's tags."""
    await _store_of(context.resolve(request.bucket)).delete_document(request.bucket, "tagging")
    return render("DeleteBucketTagging")


# -- policy


async def get_bucket_policy(context: Context, request: Request, params: Params) -> Response:  # noqa: ARG001 - one signature
    """The policy as it was put. Raises NotFound (NoSuchBucketPolicy)."""
    policy = context.resolve(request.bucket).policy
    if policy is None:
        raise _missing("NoSuchBucketPolicy", request.bucket)
    response = render("GetBucketPolicy", {"Policy": policy})
    response.headers = [("Content-Type", "application/json")]
    return response


async def put_bucket_policy(context: Context, request: Request, params: Params) -> Response:
    """Check and store a policy. Raises Invalid (MalformedPolicy)."""
    document = str(params.get("Policy") or "")
    compile_policy(document)
    await _store_of(context.resolve(request.bucket)).put_document(request.bucket, "policy", document)
    return render("PutBucketPolicy", status=204)


async def delete_bucket_policy(context: Context, request: Request, params: Params) -> Response:  # noqa: ARG001 - one signature
    """Remove the policy."""
    await _store_of(context.resolve(request.bucket)).delete_document(request.bucket, "policy")
    return render("DeleteBucketPolicy")


async def get_bucket_policy_status(context: Context, request: Request, params: Params) -> Response:  # noqa: ARG001 - one signature
    """Whether strangers are let in, by policy or by ACL."""
    target = context.resolve(request.bucket)
    policy = policy_of(target)
    public = acl.public(target.acl) or (policy is not None and policy.public)
    return render("GetBucketPolicyStatus", {"PolicyStatus": {"IsPublic": public}})


# -- access control list


async def get_bucket_acl(context: Context, request: Request, params: Params) -> Response:  # noqa: ARG001 - one signature
    """The bucket's owner and grants."""
    target = context.resolve(request.bucket)
    document = acl.to_document(target.acl, context.person(target.owner), context.display_name)
    return render("GetBucketAcl", document)


async def put_bucket_acl(context: Context, request: Request, params: Params) -> Response:
    """Replace the bucket's grants, by canned name, grant headers or document."""
    target = context.resolve(request.bucket)
    store = _store_of(target)
    owner_id = context.person(target.owner)["ID"]
    text = acl.from_headers(params, owner_id, context.knows_user)
    if text is None:
        if not params.get("AccessControlPolicy"):
            raise Invalid("Your request was missing a required header: x-amz-acl", kind="MissingSecurityHeader")
        text = acl.from_document(params["AccessControlPolicy"], owner_id, context.knows_user)
    await store.put_document(request.bucket, "acl", text)
    return render("PutBucketAcl")


# -- what headrace has none of


def _answering(name: str, output: Params) -> Handler:
    """A call that tells the state of a bucket on which nobody configured the thing."""

    async def answer(context: Context, request: Request, params: Params) -> Response:  # noqa: ARG001 - one signature
        context.resolve(request.bucket)
        return render(name, output)

    return answer


def _failing(kind: str) -> Handler:
    """A call whose answer is that nothing is configured."""

    async def fail(context: Context, request: Request, params: Params) -> Response:  # noqa: ARG001 - one signature
        context.resolve(request.bucket)
        if KINDS[kind].status == 409:
            raise Conflict(KINDS[kind].message, kind=kind)
        if KINDS[kind].status == 404:
            raise _missing(kind, request.bucket)
        raise Invalid("Bucket is missing Object Lock Configuration", kind=kind)

    return fail


async def put_bucket_request_payment(context: Context, request: Request, params: Params) -> Response:
    """Accept that the owner pays, as it is; anything else is NotImplemented."""
    context.resolve(request.bucket)
    if (params.get("RequestPaymentConfiguration") or {}).get("Payer") != "BucketOwner":
        raise Invalid("Requester pays is not implemented", kind="NotImplemented")
    return render("PutBucketRequestPayment")


_EMPTY: dict[str, Params] = {
    "DeleteBucketCors": {},
    "DeleteBucketEncryption": {},
    "DeleteBucketLifecycle": {},
    "DeleteBucketOwnershipControls": {},
    "DeleteBucketReplication": {},
    "DeleteBucketWebsite": {},
    "DeletePublicAccessBlock": {},
    "GetBucketAccelerateConfiguration": {},
    "GetBucketLogging": {},
    "GetBucketNotificationConfiguration": {},
    "GetBucketRequestPayment": {"Payer": "BucketOwner"},
    "GetBucketVersioning": {},
    "ListBucketAnalyticsConfigurations": {"IsTruncated": False},
    "ListBucketIntelligentTieringConfigurations": {"IsTruncated": False},
    "ListBucketInventoryConfigurations": {"IsTruncated": False},
    "ListBucketMetricsConfigurations": {"IsTruncated": False},
}
_ABSENT = {
    "GetBucketAnalyticsConfiguration": "NoSuchConfiguration",
    "GetBucketCors": "NoSuchCORSConfiguration",
    "GetBucketEncryption": "ServerSideEncryptionConfigurationNotFoundError",
    "GetBucketIntelligentTieringConfiguration": "NoSuchConfiguration",
    "GetBucketInventoryConfiguration": "NoSuchConfiguration",
    "GetBucketLifecycleConfiguration": "NoSuchLifecycleConfiguration",
    "GetBucketMetricsConfiguration": "NoSuchConfiguration",
    "GetBucketOwnershipControls": "OwnershipControlsNotFoundError",
    "GetBucketReplication": "ReplicationConfigurationNotFoundError",
    "GetBucketWebsite": "NoSuchWebsiteConfiguration",
    "GetObjectLegalHold": "InvalidRequest",
    "GetObjectLockConfiguration": "ObjectLockConfigurationNotFoundError",
    "GetObjectRetention": "InvalidRequest",
    "GetPublicAccessBlock": "NoSuchPublicAccessBlockConfiguration",
    "PutObjectLegalHold": "InvalidRequest",
    "PutObjectLockConfiguration": "InvalidBucketState",
    "PutObjectRetention": "InvalidRequest",
}

DOCUMENT_OPERATIONS: dict[str, Handler] = {
    "DeleteBucketPolicy": delete_bucket_policy,
    "DeleteBucketTagging": delete_bucket_tagging,
    "GetBucketAcl": get_bucket_acl,
    "GetBucketPolicy": get_bucket_policy,
    "GetBucketPolicyStatus": get_bucket_policy_status,
    "GetBucketTagging": get_bucket_tagging,
    "PutBucketAcl": put_bucket_acl,
    "PutBucketPolicy": put_bucket_policy,
    "PutBucketRequestPayment": put_bucket_request_payment,
    "PutBucketTagging": put_bucket_tagging,
    **{name: _answering(name, output) for name, output in _EMPTY.items()},
    **{name: _failing(kind) for name, kind in _ABSENT.items()},
}
