"""Request bodies decoded and verified: every payload mode and checksum S3 has, as one async iterator.

The raw bytes come from the protocol, HTTP framing removed. What was announced (length, SHA-256,
Content-MD5, one flexible checksum, chunk and trailer signatures) is verified before the iterator
ends, so a writer that commits only after exhausting it never commits bytes that were not meant.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Protocol

from headrace.base.errors import Denied, Invalid
from headrace.base.limits import HASH_INLINE_BYTES_MAX, HASH_THREADS
from headrace.gateway.aws_chunked import AwsChunkDecoder, AwsChunkEnd, Trailers
from headrace.gateway.digests import CHECKSUM_PREFIX, Announced, announced_by, digest_of
from headrace.gateway.messages import Request

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

_pool = ThreadPoolExecutor(max_workers=HASH_THREADS, thread_name_prefix="headrace-hash")


class AwsChunkSigner(Protocol):
    """What the verified head of a request says about its body; `sigv4.Signature` is one."""

    @property
    def signing_key(self) -> bytes:
        """The derived key."""

    @property
    def amz_date(self) -> str:
        """The request's time as it was signed."""

    @property
    def scope(self) -> str:
        """date/region/service/aws4_request."""

    @property
    def seed_signature(self) -> str:
        """The signature of the head, the first link of the chain."""

    @property
    def payload_hash(self) -> str:
        """The value of x-amz-content-sha256 as it was signed."""


class Payload:
    """The decoded body. Iterate it once; it raises before its end when anything is wrong.

    After exhaustion `checksums` holds the verified or wanted flexible checksums (algorithm -> base64)
    and `received` the decoded length. `protected` says that a Content-MD5 or a flexible checksum was
    announced, `md5` which MD5 (hex) or None. `length` is the announced decoded length or None.
    """

    def __init__(self, raw: AsyncIterator[bytes], announced: Announced, signer: AwsChunkSigner | None) -> None:
        self._raw = raw
        self._announced = announced
        self._chain = _SignatureChain(signer) if signer is not None and announced.chunked_signed else None
        self._decoder = (
            AwsChunkDecoder(signed=announced.chunked_signed, trailing=bool(announced.trailing))
            if announced.framed
            else None
        )
        self._digests = {name: digest_of(name) for name in announced.digests}
        self._hashing: asyncio.Future[None] | None = None
        self._pieces = self._verified()
        self._started = False
        self._wanted: list[str] = []
        self.length = announced.length
        self.protected = announced.protected
        self.md5 = announced.md5.hex() or None
        self.received = 0
        self.checksums: dict[str, str] = {}

    def want(self, algorithm: str) -> None:
        """Compute a checksum nobody sent; call it before reading. Raises Invalid for an unknown name."""
        if not self._started:
            self._digests.setdefault(algorithm, digest_of(algorithm))
            self._wanted.append(algorithm)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self._started = True
        return await self._pieces.__anext__()

    async def aclose(self) -> None:
        """Stop reading; what is left stays with the connection."""
        await self._pieces.aclose()

    async def _verified(self) -> AsyncGenerator[bytes, None]:
        """Pieces as they come; their digests are computed while the reader works on them."""
        limit = self.length
        async with aclosing(self._decoded()) as decoded:
            async for piece in decoded:
                self.received += len(piece)
                if limit is not None and self.received > limit:
                    raise _incomplete(self.received, limit)
                await self._update(piece)
                yield piece
        await self._settle()
        if limit is not None and self.received != limit:
            raise _incomplete(self.received, limit)
        self._judge()

    async def _decoded(self) -> AsyncGenerator[bytes, None]:
        """The payload without aws-chunked framing; chunk and trailer signatures verified."""
        decoder = self._decoder
        if decoder is None:
            async for piece in self._raw:
                if piece:
                    yield piece
            return
        async for piece in self._raw:
            for token in decoder.feed(piece):
                if isinstance(token, bytes):
                    yield token
                elif isinstance(token, AwsChunkEnd):
                    await self._on_aws_chunk(token)
                else:
                    self._on_trailers(token)
        decoder.finish()

    async def _on_aws_chunk(self, end: AwsChunkEnd) -> None:
        if self._chain is not None:
            await self._settle()
            self._chain.check_aws_chunk(end.signature)

    def _on_trailers(self, trailers: Trailers) -> None:
        announced = self._announced
        if self._chain is not None and announced.trailing:
            self._chain.check_trailers(trailers)
        names = [name for name, _ in trailers.fields]
        if sorted(names) != sorted(announced.trailing):
            raise Invalid(
                "The trailers that were sent are not those that x-amz-trailer names.", kind="MalformedTrailerError"
            )
        for name, value in trailers.fields:
            if name.startswith(CHECKSUM_PREFIX):
                announced.expected[name.removeprefix(CHECKSUM_PREFIX)] = value

    async def _update(self, piece: bytes) -> None:
        """Take a piece into all digests: big ones in a thread, which the reader's work overlaps."""
        await self._settle()
        if not self._digests and self._chain is None:
            return
        if len(piece) <= HASH_INLINE_BYTES_MAX:
            self._hash(piece)
        else:
            self._hashing = asyncio.get_running_loop().run_in_executor(_pool, self._hash, piece)

    def _hash(self, piece: bytes) -> None:
        for digest in self._digests.values():
            digest.update(piece)
        if self._chain is not None:
            self._chain.update(piece)

    async def _settle(self) -> None:
        """Wait for the digest of the piece before."""
        if self._hashing is not None:
            pending, self._hashing = self._hashing, None
            await pending

    def _judge(self) -> None:
        """Compare what was announced with what came. Raises Invalid (BadDigest, XAmzContentSHA256Mismatch)."""
        announced = self._announced
        if announced.sha256 and self._digests["sha256"].digest().hex() != announced.sha256:
            raise Invalid(
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
                kind="XAmzContentSHA256Mismatch",
                details={"ClientComputedContentSHA256": announced.sha256},
            )
        if announced.md5 and self._digests["md5"].digest() != announced.md5:
            raise Invalid("The Content-MD5 you specified did not match what we received.", kind="BadDigest")
        for name, value in announced.expected.items():
            computed = b64encode(self._digests[name].digest()).decode()
            if computed != value:
                raise Invalid(
                    f"The {name.upper()} you specified did not match the calculated checksum.", kind="BadDigest"
                )
            self.checksums[name] = computed
        for name in self._wanted:
            self.checksums.setdefault(name, b64encode(self._digests[name].digest()).decode())


class _SignatureChain:
    """Signatures of chunks, each over the one before, and of the trailers."""

    def __init__(self, signer: AwsChunkSigner) -> None:
        self._key = signer.signing_key
        self._suffix = f"{signer.amz_date}\n{signer.scope}\n"
        self._previous = signer.seed_signature
        self._data = hashlib.sha256()

    def update(self, piece: bytes) -> None:
        """Take in data of the current chunk."""
        self._data.update(piece)

    def check_aws_chunk(self, signature: str) -> None:
        """Verify the chunk whose data was taken in. Raises Denied (SignatureDoesNotMatch)."""
        text = f"AWS4-HMAC-SHA256-PAYLOAD\n{self._suffix}{self._previous}\n{EMPTY_SHA256}\n{self._data.hexdigest()}"
        self._data = hashlib.sha256()
        self._check(text, signature, "chunk")

    def check_trailers(self, trailers: Trailers) -> None:
        """Verify the trailers. Raises Denied (SignatureDoesNotMatch)."""
        canonical = "".join(f"{name}:{value}\n" for name, value in trailers.fields)
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256-TRAILER\n{self._suffix}{self._previous}\n{digest}"
        self._check(text, trailers.signature, "trailer")

    def _check(self, text: str, signature: str, what: str) -> None:
        wanted = hmac.digest(self._key, text.encode(), "sha256").hex()
        if not hmac.compare_digest(wanted, signature):
            raise Denied(f"The signature of a {what} does not match its content.", kind="SignatureDoesNotMatch")
        self._previous = signature


def _incomplete(received: int, announced: int) -> Invalid:
    return Invalid(
        "You did not provide the number of bytes specified by the Content-Length HTTP header.",
        kind="IncompleteBody",
        details={"NumberBytesExpected": str(announced), "NumberBytesReceived": str(received)},
    )


def open_payload(
    request: Request, raw: AsyncIterator[bytes], signer: AwsChunkSigner | None, *, chunked: bool = False
) -> Payload:
    """Decide from the head how the body is read, and set `request.body` and `request.content_length`.

    `chunked` says that HTTP's own chunked coding was used, so that a missing length is no length of
    zero. Raises Invalid (InvalidDigest, InvalidRequest, MissingContentLength, ...) and Denied.
    """
    announced = announced_by(request, signer.payload_hash if signer is not None else None, chunked=chunked)
    payload = Payload(raw, announced, signer)
    request.body = payload
    request.content_length = announced.length
    return payload
