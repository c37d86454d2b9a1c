"""What a request's head announces of its body, read and checked before the first byte is taken.

Source: "Checking object integrity in Amazon S3" and the PutObject reference. The header of an
assembled upload (POST ?uploadId=) names the object's checksum, not the body's, so it is left alone.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from headrace.base.errors import Denied, Invalid
from headrace.base.limits import PUT_BYTES_MAX
from headrace.gateway.messages import Request
from headrace.origin.checksums import ALGORITHMS, Checksum

CHECKSUM_PREFIX = "x-amz-checksum-"
UNSIGNED = "UNSIGNED-PAYLOAD"
STREAMING_UNSIGNED = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
STREAMING_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
_FRAMED = frozenset({STREAMING_UNSIGNED, STREAMING_SIGNED, STREAMING_SIGNED_TRAILER})
_NOT_OF_THE_BODY = frozenset({"algorithm", "type", "mode"})
_MD5 = "md5"


class Digest(Protocol):
    """A running digest."""

    def update(self, piece: bytes, /) -> object:
        """Take in the next bytes."""

    def digest(self) -> bytes:
        """The digest of all bytes so far."""


@dataclass(slots=True)
class Announced:
    """What the body must turn out to be.

    `length`: decoded bytes, None when unknown. `framed`: aws-chunked; `chunked_signed`: with a
    signature each; `trailing`: names of announced trailers. `sha256`: hex, "" when not announced.
    `md5`: raw, b"" when not announced. `expected`: flexible checksums (algorithm -> base64).
    `digests`: algorithms to compute.
    """

    length: int | None
    framed: bool = False
    chunked_signed: bool = False
    trailing: tuple[str, ...] = ()
    sha256: str = ""
    md5: bytes = b""
    expected: dict[str, str] = field(default_factory=dict)
    digests: tuple[str, ...] = ()

    @property
    def protected(self) -> bool:
        """True when a Content-MD5 or a flexible checksum comes with the body."""
        return bool(self.md5 or self.expected or any(name.startswith(CHECKSUM_PREFIX) for name in self.trailing))


def digest_of(algorithm: str) -> Digest:
    """A running digest: `md5` or one of the flexible checksums. Raises Invalid for an unknown name."""
    return hashlib.md5(usedforsecurity=False) if algorithm == _MD5 else Checksum(algorithm)


def announced_by(request: Request, payload_hash: str | None, *, chunked: bool) -> Announced:
    """Read the head. `payload_hash` is the signed x-amz-content-sha256, None for anonymous requests.

    `chunked`: HTTP's chunked coding delimits the body, so no length is not a length of zero. Raises
    Invalid (InvalidDigest, InvalidRequest, InvalidArgument, MissingContentLength) or Denied.
    """
    mode = payload_hash or (request.header("x-amz-content-sha256") or UNSIGNED).strip()
    framed = mode in _FRAMED
    if framed and mode != STREAMING_UNSIGNED and payload_hash is None:
        raise Denied("A payload of signed chunks needs a signed request.")
    has_body = request.method in ("PUT", "POST")
    found = Announced(length=_length(request, framed=framed, chunked=chunked), framed=framed)
    found.chunked_signed = framed and mode != STREAMING_UNSIGNED
    if framed and mode != STREAMING_SIGNED:
        found.trailing = _trailing(request)
    if not framed and mode != UNSIGNED and has_body:
        found.sha256 = mode.lower()
    if has_body:
        found.md5 = _content_md5(request)
        if not (request.method == "POST" and "uploadId" in request.params):
            found.expected = _checksum_header(request, found.trailing)
    found.digests = tuple(_to_compute(found))
    return found


def _to_compute(found: Announced) -> Iterable[str]:
    """The algorithms that the announcements need, each once."""
    names = dict.fromkeys(found.expected)
    names.update(dict.fromkeys(_algorithm(name) for name in found.trailing if name.startswith(CHECKSUM_PREFIX)))
    if found.sha256:
        names["sha256"] = None
    if found.md5:
        names[_MD5] = None
    return names


def _length(request: Request, *, framed: bool, chunked: bool) -> int | None:
    """The announced length of the decoded payload."""
    if framed:
        text = (request.header("x-amz-decoded-content-length") or "").strip()
        if not text:
            raise Invalid("You must provide the x-amz-decoded-content-length HTTP header.", kind="MissingContentLength")
        if not (text.isascii() and text.isdigit() and len(text) <= 19):
            raise Invalid(
                "x-amz-decoded-content-length is not a number of bytes.",
                kind="InvalidArgument",
                details={"ArgumentName": "x-amz-decoded-content-length", "ArgumentValue": text[:64]},
            )
        length: int | None = int(text)
    elif chunked:
        length = None
    else:
        length = request.content_length
    if length is not None and length > PUT_BYTES_MAX:
        raise Invalid(
            "Your proposed upload exceeds the maximum allowed size",
            kind="EntityTooLarge",
            details={"ProposedSize": str(length), "MaxSizeAllowed": str(PUT_BYTES_MAX)},
        )
    return length


def _trailing(request: Request) -> tuple[str, ...]:
    """Names of the announced trailers, lower case."""
    names = tuple(name.strip().lower() for name in (request.header("x-amz-trailer") or "").split(",") if name.strip())
    for name in names:
        if name.startswith(CHECKSUM_PREFIX):
            _algorithm(name)
    if len(names) != len(set(names)) or sum(name.startswith(CHECKSUM_PREFIX) for name in names) > 1:
        raise Invalid("Expecting a single x-amz-checksum- trailer.", kind="InvalidRequest")
    return names


def _algorithm(name: str) -> str:
    """The algorithm of a checksum header or trailer. Raises Invalid for one that isn't known."""
    algorithm = name.removeprefix(CHECKSUM_PREFIX)
    if algorithm not in ALGORITHMS:
        raise Invalid(f"The checksum algorithm of {name} is not supported.", kind="InvalidRequest")
    return algorithm


def _content_md5(request: Request) -> bytes:
    """The 16 bytes of Content-MD5, b"" without it. Raises Invalid (InvalidDigest)."""
    text = request.header("content-md5")
    if text is None:
        return b""
    try:
        digest = b64decode(text.strip(), validate=True)
    except ValueError:
        digest = b""
    if len(digest) != hashlib.md5(usedforsecurity=False).digest_size:
        raise Invalid(
            "The Content-MD5 you specified was invalid.", kind="InvalidDigest", details={"Content-MD5": text[:64]}
        )
    return digest


def _checksum_header(request: Request, trailing: tuple[str, ...]) -> dict[str, str]:
    """The one flexible checksum among the headers, as (algorithm -> base64).

    A value that can't be a checksum is left to fail the comparison (BadDigest), as other servers do.
    """
    found: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        if raw_name.startswith(b"x-amz-checksum-"):
            name = raw_name.decode("latin-1")
            if name.removeprefix(CHECKSUM_PREFIX) not in _NOT_OF_THE_BODY:
                found[_algorithm(name)] = raw_value.strip().decode("latin-1")
    if len(found) + sum(name.startswith(CHECKSUM_PREFIX) for name in trailing) > 1:
        raise Invalid(
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
            kind="InvalidRequest",
        )
    wanted = (request.header("x-amz-sdk-checksum-algorithm") or "").strip().lower()
    if wanted:
        sent = set(found) | {name.removeprefix(CHECKSUM_PREFIX) for name in trailing}
        if not sent:
            raise Invalid(
                "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or "
                "x-amz-trailer headers were found.",
                kind="InvalidRequest",
            )
        if wanted not in sent:
            raise Invalid("Value for x-amz-sdk-checksum-algorithm header is invalid.", kind="InvalidRequest")
    return found
