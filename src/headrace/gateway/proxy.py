"""Requests that headrace does not itself answer, signed anew and passed to the bucket's S3 origin.

The client's signature and payload were verified before; here the bucket's name and prefix are
translated, the request is signed with headrace's own keys, and both bodies are streamed. Writes are
sent once. Whatever became of a write, what headrace remembers of its keys is dropped before the
client learns the outcome.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import quote, unquote

import aiohttp

from headrace.base import limits
from headrace.base.errors import Bug, Denied, Invalid
from headrace.gateway.messages import BodyPiece, Request, Response
from headrace.gateway.proxy_names import Names
from headrace.gateway.xml_reader import Element, read_document
from headrace.origin.base import Origin
from headrace.origin.checksums import Checksum
from headrace.origin.s3 import S3Origin
from headrace.origin.s3body import framed, framed_length, held_back
from headrace.origin.s3client import UNSIGNED, Pieces, read_whole
from headrace.origin.s3wire import CHECKSUMS, CREDENTIAL_CODES, codings_of, document, error_of, text_of

_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
})  # fmt: skip
_NOT_SENT = _HOP | {
    "authorization", "host", "date", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token", "content-length",
    "expect", "x-amz-decoded-content-length", "x-amz-trailer", "x-amz-copy-source", "user-agent", "x-forwarded-for",
    "x-forwarded-host", "x-forwarded-proto", "forwarded",
}  # fmt: skip
_NOT_ANSWERED = _HOP | {"date", "server", "x-amz-request-id", "content-length", "alt-svc"}
_STREAMING = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
_BUFFERED_BYTES_MAX = 64 * limits.KIB
_NO_BODY = frozenset({204, 205, 304})


class ProxyTarget(Protocol):
    """A bound bucket."""

    @property
    def origin(self) -> Origin:
        """The origin it is bound to."""


class ProxyContext(Protocol):
    """What forwarding asks of the gateway."""

    def resolve(self, bucket: str) -> ProxyTarget:
        """The bound bucket. Raises NotFound (NoSuchBucket)."""

    async def invalidate(self, bucket: str, keys: Sequence[str] | None) -> None:
        """Forget what is remembered of these keys, in every process; None: of the bucket as such."""


class OwnDocument(NamedTuple):
    """A document of headrace's own in place of the client's, and the keys it may change, as the client calls them.

    The origin's answer to it comes back as it is when the call succeeds.
    """

    body: bytes
    headers: Mapping[str, str]
    keys: Sequence[str]


class _Outgoing(NamedTuple):
    """A request body as the origin gets it, the hash that is signed, and what must be forgotten after it."""

    body: bytes | AsyncIterator[bytes] | None
    length: int | None
    payload: str
    keys: Sequence[str] | None


def s3_origin(request: Request, target: ProxyTarget) -> S3Origin:
    """The target's origin. Raises Invalid (NotImplemented) when it is no S3 bucket."""
    origin = target.origin
    if not isinstance(origin, S3Origin):
        raise Invalid(
            f"{request.method} with {', '.join(request.params) or 'these headers'} needs an S3 origin; "
            f"this bucket is bound to {origin.url}",
            kind="NotImplemented",
        )
    return origin


async def forward(
    context: ProxyContext, request: Request, target: ProxyTarget, own: OwnDocument | None = None
) -> Response:
    """Pass `request` to the S3 origin of `target` and its answer back, whatever its status.

    `own` goes in place of the request's body, which was read. Raises Invalid (NotImplemented) when the
    origin is no S3 bucket or the call reaches beyond it, Denied when the origin refuses headrace's own
    keys, Unavailable when it cannot be reached.
    """
    origin = s3_origin(request, target)
    names = Names(request.bucket, origin.bucket, origin.prefix)
    if own is None:
        _check_call(request)
        names.check(request.method, request.params, request.key)
    headers = _headers(request)
    if (source := request.header("x-amz-copy-source")) is not None:
        headers["x-amz-copy-source"] = await _copy_source(context, origin, source)
    outgoing = await _outgoing(request, headers) if own is None else _replaced(own, headers)
    key = names.prefix + request.key if request.key else ""
    query = names.query(request.params, request.key)
    forgets = request.method not in {"GET", "HEAD"} and outgoing.keys != ()
    done = False
    try:
        answer = await origin.client.send(
            request.method, origin.bucket, key, query, headers,
            body=outgoing.body, length=outgoing.length, payload=outgoing.payload,
        )  # fmt: skip
        response = await _answered(request, names, answer, as_is=own is not None)
        if forgets and not isinstance(response.body, bytes):
            response.body = _then_forget(context, request.bucket, outgoing.keys, response.body)
            await anext(response.body)  # begun, so that its end runs even when the client is gone by now
            forgets = False
        done = True
        return response
    finally:
        # A write that failed or whose answer was lost may have happened all the same.
        if forgets and (not done or response.status < 300 or response.status >= 500):
            await context.invalidate(request.bucket, outgoing.keys)


def _check_call(request: Request) -> None:
    """Refuse calls that name a second object where nothing here judges it. Raises Invalid (NotImplemented), Bug."""
    if "renameObject" in request.params or request.header("x-amz-rename-source") is not None:
        raise Invalid("RenameObject is not implemented", kind="NotImplemented")
    if request.method == "POST" and not request.key and "delete" in request.params:
        raise Bug("a DeleteObjects document was about to be passed on unread")


def _headers(request: Request) -> dict[str, str]:
    """The request's headers for the origin: what concerns one connection or one signature stays here."""
    named = request.header("connection") or ""
    dropped = _NOT_SENT | {word.strip().lower() for word in named.split(",")}
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name = raw_name.decode("latin-1").lower()
        if name in dropped:
            continue
        value = text_of(raw_value.decode("utf-8", "surrogateescape"))
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    if "content-encoding" in headers:
        kept = codings_of(headers.pop("content-encoding"))
        if kept:
            headers["content-encoding"] = kept
    return headers


def _replaced(own: OwnDocument, headers: dict[str, str]) -> _Outgoing:
    """headrace's own document; `headers` lose what was said of the client's."""
    for name in [n for n in headers if n.startswith("x-amz-checksum-") or n == "x-amz-sdk-checksum-algorithm"]:
        del headers[name]
    headers.pop("content-encoding", None)
    headers.update(own.headers)
    return _Outgoing(own.body, None, hashlib.sha256(own.body).hexdigest(), own.keys)


async def _outgoing(request: Request, headers: dict[str, str]) -> _Outgoing:
    """The body for the origin; adds to `headers` what its form needs."""
    keys = _forgotten(request)
    body, length = request.body, request.content_length
    if body is None or request.method in {"GET", "HEAD"} or not (length or request.method in {"PUT", "POST"}):
        return _Outgoing(None, None, UNSIGNED, keys)
    if "multipart/form-data" in headers.get("content-type", ""):
        raise Invalid("a form upload is signed by its own policy and cannot be passed on", kind="NotImplemented")
    if request.method == "POST" and "restore" in request.params:
        whole = await _whole(body, limits.XML_BODY_BYTES_MAX)
        if whole.strip() and _names_a_place(read_document(whole)):
            raise Invalid("a restore that writes to another place is not implemented", kind="NotImplemented")
        return _Outgoing(whole, None, hashlib.sha256(whole).hexdigest(), keys)
    trailer = (request.header("x-amz-trailer") or "").strip().lower()
    if trailer.startswith("x-amz-checksum-") and trailer[15:] in CHECKSUMS and length is not None:
        return _with_trailer(request, body, length, trailer, headers, keys)
    if length is None or length <= _BUFFERED_BYTES_MAX:
        whole = await _whole(body, limits.BODY_BUFFER_BYTES_MAX)
        return _Outgoing(whole, None, hashlib.sha256(whole).hexdigest(), keys)
    signed = request.header("x-amz-content-sha256") or ""
    return _Outgoing(held_back(body), length, signed if len(signed) == 64 else UNSIGNED, keys)


def _names_a_place(element: Element) -> bool:
    """Whether a restore's document names a bucket to write to, which nothing here judges."""
    return element.name == "OutputLocation" or any(_names_a_place(child) for child in element.children)


def _with_trailer(
    request: Request,
    body: AsyncIterator[bytes],
    length: int,
    trailer: str,
    headers: dict[str, str],
    keys: Sequence[str] | None,
) -> _Outgoing:
    """The body framed anew with the same trailing checksum, so that the origin verifies and stores it."""
    checksum = Checksum(trailer[15:])
    # Only where the client said so: some servers store the word with the object.
    if "aws-chunked" in (request.header("content-encoding") or "").lower():
        headers["content-encoding"] = ",".join(filter(None, ("aws-chunked", headers.get("content-encoding", ""))))
    headers["x-amz-decoded-content-length"] = str(length)
    headers["x-amz-trailer"] = trailer
    size = framed_length(length, trailer, checksum)
    return _Outgoing(framed(body, trailer, checksum), size, _STREAMING, keys)


def _forgotten(request: Request) -> Sequence[str] | None:
    """The keys whose state this request may change; None: the bucket's own; () for none."""
    if request.method in {"GET", "HEAD"} or {"uploads", "select"} & request.params.keys():
        return ()
    if not request.key:
        return None
    if "uploadId" in request.params and request.method != "POST":
        return ()
    return (request.key,)


async def _whole(body: AsyncIterator[bytes], size_max: int) -> bytes:
    """A small body, read and so verified whole. Raises Invalid (MaxMessageLengthExceeded)."""
    pieces: list[bytes] = []
    size = 0
    async for piece in body:
        size += len(piece)
        if size > size_max:
            raise Invalid("Your request was too big.", kind="MaxMessageLengthExceeded")
        pieces.append(piece)
    return b"".join(pieces)


async def can_copy(source: Origin, origin: Origin) -> bool:
    """Whether `origin` can copy from `source` by itself: both are buckets that one S3 server shows to the same keys."""
    if not isinstance(source, S3Origin) or not isinstance(origin, S3Origin):
        return False
    return await source.client.identity() == await origin.client.identity()


async def _copy_source(context: ProxyContext, origin: S3Origin, header: str) -> str:
    """The source in the origin's names. Raises Invalid (NotImplemented) when it lies at another origin."""
    path, mark, version = header.partition("?versionId=")
    bucket, slash, key = unquote(path).removeprefix("/").partition("/")
    if path.startswith("arn:") or not slash or not key:
        raise Invalid(
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey", kind="InvalidArgument"
        )
    source = context.resolve(bucket).origin
    if not isinstance(source, S3Origin) or not await can_copy(source, origin):
        raise Invalid(f"{bucket} lies at another origin than the copy's target", kind="NotImplemented")
    return quote(f"/{source.bucket}/{source.prefix}{key}", safe="-_.~/") + mark + version


async def _answered(request: Request, names: Names, answer: aiohttp.ClientResponse, *, as_is: bool = False) -> Response:
    """The origin's answer as ours; `as_is`: a success is read whole, in the origin's names."""
    status = answer.status
    kept = [(name, text_of(value)) for name, value in answer.headers.items() if name.lower() not in _NOT_ANSWERED]
    if "aws-chunked" in answer.headers.get("Content-Encoding", "").lower():
        kept = [(name, value) for name, value in kept if name.lower() != "content-encoding"]
        kept += [("Content-Encoding", codings)] if (codings := codings_of(answer.headers["Content-Encoding"])) else []
    announced = answer.headers.get("Content-Length", "")
    length = int(announced) if announced.isdigit() else None
    if request.method == "HEAD" or status in _NO_BODY or length == 0:
        answer.release()
        if status in {301, 307, 308}:
            raise error_of(status, answer.headers, b"", request.bucket)
        return Response(status, kept, b"", length if request.method == "HEAD" else 0, source="origin")
    xml = "xml" in answer.headers.get("Content-Type", "xml")
    if status >= 300:
        body = await read_whole(answer, limits.ORIGIN_ERROR_BYTES_MAX)
        _check_refusal(status, answer.headers, body, request.bucket)
    elif as_is or (xml and (not names.same) and _describes(request)):
        body = await read_whole(answer, limits.ORIGIN_ANSWER_BYTES_MAX)
    elif length is not None and length <= _BUFFERED_BYTES_MAX:
        body = await read_whole(answer, _BUFFERED_BYTES_MAX)
    else:
        return Response(status, kept, Pieces(answer), length, source="origin")
    if xml and (status >= 300 or (_describes(request) and not as_is)):
        place = f"{'https' if request.secure else 'http'}://{request.host}/{names.bound}/{quote(request.key)}"
        body = names.answered(body, request.params, place, failed=status >= 300)
    return Response(status, kept, body, len(body), source="origin")


def _describes(request: Request) -> bool:
    """True when a 2xx answer's body is S3's own document, never an object's bytes."""
    if request.method != "GET" or not request.key:
        return True
    subresources = {"acl", "attributes", "legal-hold", "retention", "tagging", "torrent", "uploadId"}
    return bool(subresources & request.params.keys())


def _check_refusal(status: int, headers: Mapping[str, str], body: bytes, bucket: str) -> None:
    """Raise for what the origin says to headrace and not to its client: bad keys, another region."""
    if status in {301, 307, 308}:
        raise error_of(status, headers, body, bucket)
    if status in {400, 403} and any(code.encode() in body for code in CREDENTIAL_CODES):
        error = error_of(status, headers, body, bucket)
        if document(body).findtext("Code") in CREDENTIAL_CODES:
            raise Denied(error.message, kind="AccessDenied")


async def _then_forget(
    context: ProxyContext, bucket: str, keys: Sequence[str] | None, body: AsyncIterator[BodyPiece]
) -> AsyncIterator[BodyPiece]:
    """An empty piece, then the answer's body, its last piece only after memories of the write are gone."""
    held: BodyPiece = b""
    try:
        yield held
        async for piece in body:
            if held:
                yield held
            held = piece
    finally:
        await context.invalidate(bucket, keys)
    if held:
        yield held
