"""From a verified request to its answer: route, authorize, parse, call; errors become answers.

Buckets of an S3 origin answer for themselves whatever headrace doesn't speed up: such requests are
forwarded whole, so what the origin can do isn't lost behind headrace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from headrace.base.errors import Denied, HeadraceError, Invalid, NotFound
from headrace.base.limits import XML_BODY_BYTES_MAX
from headrace.gateway import buckets, listing
from headrace.gateway.bucket_documents import DOCUMENT_OPERATIONS
from headrace.gateway.codec import accepts_document, operation_of, parse, streams_body
from headrace.gateway.context import PROXY
from headrace.gateway.copy_source import parse_copy_source
from headrace.gateway.errors import error_response
from headrace.gateway.keyring import user_id
from headrace.gateway.messages import Request, Response
from headrace.gateway.model import PREFLIGHT
from headrace.gateway.objects import OBJECT_OPERATIONS
from headrace.gateway.proxy import can_copy, forward
from headrace.gateway.proxy_delete import forward_deletes

if TYPE_CHECKING:
    from headrace.gateway.context import BucketTarget, Context

Handler = Callable[["Context", Request, dict[str, Any]], Awaitable[Response]]

OPERATIONS: dict[str, Handler] = {
    "CreateBucket": buckets.create_bucket,
    "DeleteBucket": buckets.delete_bucket,
    "GetBucketLocation": buckets.get_bucket_location,
    "HeadBucket": buckets.head_bucket,
    "ListBuckets": buckets.list_buckets,
    "ListObjects": listing.list_objects,
    "ListObjectsV2": listing.list_objects_v2,
    "ListObjectVersions": listing.list_object_versions,
    **DOCUMENT_OPERATIONS,
    **OBJECT_OPERATIONS,
}
"""Every operation headrace itself answers."""

_CACHED_READS = frozenset({"GetObject", "HeadObject"})
_ORIGIN_READ_PARAMS = frozenset({"versionId", "partNumber"})
_ORIGIN_READ_HEADERS = (b"x-amz-server-side-encryption", b"x-amz-request-payer")
_PLAIN_WRITE_HEADERS = (
    b"x-amz-acl", b"x-amz-checksum-", b"x-amz-content-sha256", b"x-amz-date", b"x-amz-decoded-content-length",
    b"x-amz-meta-", b"x-amz-sdk-checksum-algorithm", b"x-amz-security-token", b"x-amz-tagging", b"x-amz-trailer",
    b"x-amz-user-agent",
)  # fmt: skip


async def handle(context: Context, request: Request) -> Response:
    """The answer to a request; never raises for what a request may be or meet."""
    try:
        response = await _answer(context, request)
    except Exception as error:  # the border: every failure is told in S3's way
        response = error_response(request, error)
    _count(context, request, response)
    return response


def _count(context: Context, request: Request, response: Response) -> None:
    """Count every call but object reads, which leave a record each."""
    if context.metrics is None:
        return
    try:
        name = operation_of(request.method, bool(request.bucket), bool(request.key), request.params, request.headers)
    except HeadraceError:  # no operation of S3
        name = ""
    if name != "GetObject":
        context.metrics.count_request(name if name in OPERATIONS else "Other", response.status)


async def _answer(context: Context, request: Request) -> Response:
    name = operation_of(request.method, bool(request.bucket), bool(request.key), request.params, request.headers)
    if name == PREFLIGHT:
        if request.header("origin") is None:
            raise Invalid("Insufficient information. Origin request header needed.", kind="BadRequest")
        raise Denied("CORSResponse: CORS is not enabled for this bucket.", kind="AccessForbidden")
    target = await _target(context, request)
    if name != "DeleteObjects":  # judged key by key
        context.authorize(request, name)
    if target is not None and target.kind == PROXY and _is_the_origins(context, name, request):
        _authorize_source(context, request)
        if name != "CopyObject" or await _is_copied_there(context, request, target):
            response = await forward(context, request, target)
            if name == "DeleteBucket" and (response.status < 300 or response.status == 404):
                context.bindings.deleted(request.bucket)
            return response
    handler = OPERATIONS.get(name)
    if handler is None:
        raise Invalid(f"{name} is not implemented", kind="NotImplemented")
    body = b"" if streams_body(name) or request.method in ("GET", "HEAD") else await _read_document(request, name)
    params = parse(name, request, body)
    if name == "DeleteObjects" and target is not None and target.kind == PROXY:
        return await forward_deletes(context, request, target, params)
    return await handler(context, request, params)


async def _target(context: Context, request: Request) -> BucketTarget | None:
    """The request's bucket, and its copy source's looked for. Raises NotFound, Denied (another owner expected)."""
    if not request.bucket or (request.method == "PUT" and not request.key and not request.params.keys() - {"x-id"}):
        return None
    target = await _bucket(context, request, request.bucket)
    expected = request.header("x-amz-expected-bucket-owner")
    if expected and target.owner and expected not in (target.owner, target.owner_id):
        raise Denied("Access Denied")
    source = request.header("x-amz-copy-source")
    if source:
        with contextlib.suppress(NotFound):  # the operation itself says so, after its own checks
            await _check_source(context, request, parse_copy_source(source).bucket)
    return target


async def _bucket(context: Context, request: Request, bucket: str) -> BucketTarget:
    """A bucket by name; only who signed may make headrace ask an account for it. Raises NotFound."""
    return await context.find(bucket) if request.identity.access_key else context.resolve(bucket)


async def _check_source(context: Context, request: Request, bucket: str) -> None:
    source = await _bucket(context, request, bucket)
    expected = request.header("x-amz-source-expected-bucket-owner")
    if expected and source.owner and expected not in (source.owner, user_id(source.owner)):
        raise Denied("Access Denied")


def _authorize_source(context: Context, request: Request) -> None:
    """A forwarded copy reads an object that the origin would let headrace read, but perhaps not the caller."""
    source = request.header("x-amz-copy-source")
    if source:
        named = parse_copy_source(source.partition("?versionId=")[0])
        context.authorize(request, "GetObject", bucket=named.bucket, key=named.key)


async def _is_copied_there(context: Context, request: Request, target: BucketTarget) -> bool:
    """Whether the origin sees a copy's source; else its bytes pass through here. Raises NotFound, Invalid."""
    source = parse_copy_source((request.header("x-amz-copy-source") or "").partition("?versionId=")[0])
    return await can_copy(context.resolve(source.bucket).origin, target.origin)


def _is_the_origins(context: Context, name: str, request: Request) -> bool:
    """Whether an S3 origin answers the request itself: all but plain object reads and writes."""
    if name in _CACHED_READS:
        if not _ORIGIN_READ_PARAMS.isdisjoint(request.params):
            return True
        return any(key.startswith(_ORIGIN_READ_HEADERS) for key, _ in request.headers)
    if name == "PutObject":
        return any(key.startswith(b"x-amz-") and not key.startswith(_PLAIN_WRITE_HEADERS) for key, _ in request.headers)
    if name == "DeleteBucket":  # a bucket bound by hand is unbound by hand
        return context.bindings.in_account(request.bucket)
    return name != "DeleteObjects"  # its document is read, judged and written anew here


async def _read_document(request: Request, name: str) -> bytes:
    """The whole body, verified. Raises Invalid (MaxMessageLengthExceeded, UnexpectedContent)."""
    if request.body is None:
        return b""
    size_max = XML_BODY_BYTES_MAX if accepts_document(name) else 0
    if (request.content_length or 0) > size_max and size_max:
        raise Invalid("Your request was too large.", kind="MaxMessageLengthExceeded")
    body = bytearray()
    async for piece in request.body:
        body += piece
        if len(body) > size_max:
            kind = "MaxMessageLengthExceeded" if size_max else "UnexpectedContent"
            raise Invalid("The request's body is longer than this call takes.", kind=kind)
    return bytes(body)
