"""Every payload mode: whatever the pieces, the same bytes come out; whatever is tampered with, nothing commits."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.base.errors import HeadraceError
from headrace.base.limits import CHUNK_HEADER_BYTES_MAX, HASH_INLINE_BYTES_MAX, TRAILER_BYTES_MAX
from headrace.gateway.aws_chunked import CHUNK_BYTES_MIN, AwsChunkDecoder
from headrace.gateway.messages import Request
from headrace.gateway.payload import Payload, open_payload
from headrace.origin.checksums import ALGORITHMS, Checksum
from headrace.wire.signing import signing_key

Headers = list[tuple[bytes, bytes]]
SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Signer:
    """The verified head of a request."""

    payload_hash: str
    signing_key: bytes = signing_key("secret", "20260102", "us-east-1")
    amz_date: str = "20260102T030405Z"
    scope: str = "20260102/us-east-1/s3/aws4_request"
    seed_signature: str = "ab" * 32

    def sign(self, kind: str, previous: str, *hashes: str) -> str:
        """A link of the signature chain."""
        text = "\n".join((kind, self.amz_date, self.scope, previous, *hashes))
        return hmac.new(self.signing_key, text.encode(), "sha256").hexdigest()


def checksum(algorithm: str, data: bytes) -> str:
    """The base64 checksum of `data`."""
    running = Checksum(algorithm)
    running.update(data)
    return running.value()


def signed_body(data: bytes, chunk_bytes: int, signer: Signer, trailer: str = "") -> bytes:
    """`data` as signed chunks; `trailer` is `name:value`."""
    wire, previous = b"", signer.seed_signature
    chunks = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
    for chunk in [*chunks, b""]:
        previous = signer.sign("AWS4-HMAC-SHA256-PAYLOAD", previous, EMPTY, hashlib.sha256(chunk).hexdigest())
        wire += b"%x;chunk-signature=%b\r\n%b" % (len(chunk), previous.encode(), chunk)
        wire += b"\r\n" if chunk or not trailer else b""
    if not trailer:
        return wire
    canonical = hashlib.sha256(f"{trailer}\n".encode()).hexdigest()
    signature = signer.sign("AWS4-HMAC-SHA256-TRAILER", previous, canonical)
    return wire + f"{trailer}\r\nx-amz-trailer-signature:{signature}\r\n\r\n".encode()


def unsigned_body(data: bytes, chunk_bytes: int, trailer: str = "") -> bytes:
    """`data` as unsigned chunks."""
    chunks = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
    wire = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return wire + b"0\r\n" + (f"{trailer}\r\n".encode() if trailer else b"") + b"\r\n"


async def _raw(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def opened(headers: Headers, pieces: Sequence[bytes], signer: Signer | None, length: int | None) -> Payload:
    """A PUT's payload."""
    if signer is not None:
        headers = [*headers, (b"x-amz-content-sha256", signer.payload_hash.encode())]
    request = Request("PUT", b"/b/k", b"", headers, bucket="b", key="k", content_length=length)
    return open_payload(request, _raw(pieces), signer, chunked=length is None)


def received(
    headers: Headers, pieces: Sequence[bytes], signer: Signer | None, length: int | None
) -> tuple[bytes, Payload]:
    """All bytes a writer gets before the body ends without an error, and the payload."""

    async def run() -> tuple[bytes, Payload]:
        payload = opened(headers, pieces, signer, length)
        return b"".join([piece async for piece in payload]), payload

    return asyncio.run(run())


def refused(headers: Headers, pieces: Sequence[bytes], signer: Signer | None, length: int | None) -> str:
    """The kind of error that stops the body."""
    with pytest.raises(HeadraceError) as error:
        received(headers, pieces, signer, length)
    return error.value.kind


def cut(wire: bytes, places: Sequence[int]) -> list[bytes]:
    """`wire` cut at the given places."""
    marks = sorted({0, len(wire), *(place % (len(wire) + 1) for place in places)})
    return [wire[start:stop] for start, stop in pairwise(marks)]


def framed(mode: str, data: bytes, chunk_bytes: int, algorithm: str) -> tuple[Headers, bytes, Signer]:
    """Headers, wire bytes and signer of a framed body."""
    signer = Signer(mode)
    headers = [(b"x-amz-decoded-content-length", b"%d" % len(data))]
    trailer = ""
    if mode != SIGNED:
        trailer = f"x-amz-checksum-{algorithm}:{checksum(algorithm, data)}"
        headers.append((b"x-amz-trailer", f"x-amz-checksum-{algorithm}".encode()))
    if mode == UNSIGNED_TRAILER:
        return headers, unsigned_body(data, chunk_bytes, trailer), signer
    return headers, signed_body(data, chunk_bytes, signer, trailer), signer


MODES = st.sampled_from([SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER])
BODIES = st.one_of(st.binary(max_size=60), st.integers(0, 40_000).map(lambda size: bytes(range(256)) * (size // 256)))
CUTS = st.lists(st.integers(0, 2**20), max_size=12)


@settings(max_examples=120, deadline=None)
@given(MODES, BODIES, CUTS, st.sampled_from(ALGORITHMS), st.sampled_from([CHUNK_BYTES_MIN, 9000, 65536]))
def test_pieces_do_not_matter(mode: str, data: bytes, places: list[int], algorithm: str, chunk_bytes: int) -> None:
    headers, wire, signer = framed(mode, data, chunk_bytes, algorithm)
    body, payload = received(headers, cut(wire, places), signer, None)
    assert body == data
    assert payload.received == payload.length == len(data)
    if mode != SIGNED:
        assert payload.checksums == {algorithm: checksum(algorithm, data)}
        assert payload.protected


@settings(max_examples=10, deadline=None)
@given(MODES, st.binary(min_size=1, max_size=40), st.sampled_from(ALGORITHMS))
def test_every_tampered_byte_is_noticed(mode: str, data: bytes, algorithm: str) -> None:
    headers, wire, signer = framed(mode, data, CHUNK_BYTES_MIN, algorithm)
    for place in range(len(wire)):
        for flip in (0x01, 0x20, 0x80):
            changed = wire[:place] + bytes([wire[place] ^ flip]) + wire[place + 1 :]
            try:
                body, _ = received(headers, [changed], signer, None)
            except HeadraceError:
                continue
            assert body == data  # only the letters' case in sizes and names may differ


@settings(max_examples=30, deadline=None)
@given(MODES, st.binary(min_size=1, max_size=40), st.sampled_from(ALGORITHMS), st.data())
def test_a_body_cut_off_never_ends_well(mode: str, data: bytes, algorithm: str, draw: st.DataObject) -> None:
    headers, wire, signer = framed(mode, data, CHUNK_BYTES_MIN, algorithm)
    kept = draw.draw(st.integers(0, len(wire) - 1))
    assert refused(headers, [wire[:kept]], signer, None) in (
        "IncompleteBody", "SignatureDoesNotMatch", "MalformedTrailerError"
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.booleans(), st.booleans(), CUTS)
def test_the_decoder_refuses_noise_the_same_way_in_any_pieces(
    noise: bytes, signed: bool, trailing: bool, places: list[int]
) -> None:
    def outcome(pieces: Sequence[bytes]) -> tuple[bytes, str]:
        decoder, data = AwsChunkDecoder(signed=signed, trailing=trailing), b""
        try:
            for piece in pieces:
                for token in decoder.feed(piece):
                    data += token if isinstance(token, bytes) else b""
            decoder.finish()
        except HeadraceError as error:
            return data, error.kind
        return data, ""

    assert outcome([noise]) == outcome(cut(noise, places))


@pytest.mark.parametrize("size", [0, 1, HASH_INLINE_BYTES_MAX + 1, 3 * HASH_INLINE_BYTES_MAX])
def test_whole_bodies_with_everything_announced(size: int) -> None:
    data = bytes(size)
    for algorithm in ALGORITHMS:
        headers = [
            (f"x-amz-checksum-{algorithm}".encode(), checksum(algorithm, data).encode()),
            (b"x-amz-sdk-checksum-algorithm", algorithm.upper().encode()),
            (b"content-md5", b64encode(hashlib.md5(data, usedforsecurity=False).digest())),
        ]
        signer = Signer(hashlib.sha256(data).hexdigest())
        body, payload = received(headers, cut(data, [size // 2]), signer, size)
        assert body == data
        assert payload.checksums == {algorithm: checksum(algorithm, data)}


def test_a_big_piece_is_hashed_beside_its_writer_and_still_judged() -> None:
    data = bytes(4 * HASH_INLINE_BYTES_MAX)
    signer = Signer(hashlib.sha256(data + b"x").hexdigest())
    assert refused([], [data], signer, len(data)) == "XAmzContentSHA256Mismatch"


def test_wanted_checksums_are_computed() -> None:
    async def run() -> dict[str, str]:
        payload = opened([], [b"abc"], Signer("UNSIGNED-PAYLOAD"), 3)
        payload.want("crc64nvme")
        payload.want("sha256")
        assert [piece async for piece in payload] == [b"abc"]
        return payload.checksums

    assert asyncio.run(run()) == {name: checksum(name, b"abc") for name in ("crc64nvme", "sha256")}


GOOD_MD5 = b64encode(hashlib.md5(b"abc", usedforsecurity=False).digest())
UNSIGNED = Signer("UNSIGNED-PAYLOAD")


@pytest.mark.parametrize(
    ("headers", "length", "kind"),
    [
        ([(b"content-md5", b"")], 3, "InvalidDigest"),
        ([(b"content-md5", b"YWJyYWNhZGFicmE=")], 3, "InvalidDigest"),
        ([(b"content-md5", b"rL0Y20xC+Fzt72VPzMSk2A==")], 3, "BadDigest"),
        ([(b"content-md5", GOOD_MD5)], 4, "IncompleteBody"),
        ([(b"content-md5", GOOD_MD5)], 2, "IncompleteBody"),
        ([(b"x-amz-checksum-crc32", b"AAAAAA==")], 3, "BadDigest"),
        ([(b"x-amz-checksum-sha256", b"bad")], 3, "BadDigest"),
        ([(b"x-amz-checksum-rot13", b"bad")], 3, "InvalidRequest"),
        ([(b"x-amz-checksum-crc32", b"x"), (b"x-amz-checksum-sha1", b"y")], 3, "InvalidRequest"),
        ([(b"x-amz-sdk-checksum-algorithm", b"CRC32")], 3, "InvalidRequest"),
        ([(b"x-amz-sdk-checksum-algorithm", b"SHA1"), (b"x-amz-checksum-crc32", b"x")], 3, "InvalidRequest"),
        ([], 6 * 2**30, "EntityTooLarge"),
    ],
)
def test_wrong_announcements(headers: Headers, length: int, kind: str) -> None:
    assert refused(headers, [b"abc"], UNSIGNED, length) == kind


LENGTH = (b"x-amz-decoded-content-length", b"3")
TRAILER = (b"x-amz-trailer", b"x-amz-checksum-crc32")
GOOD = f"x-amz-checksum-crc32:{checksum('crc32', b'abc')}"


@pytest.mark.parametrize(
    ("headers", "wire", "kind"),
    [
        ([TRAILER], b"", "MissingContentLength"),
        ([(LENGTH[0], b"three"), TRAILER], b"", "InvalidArgument"),
        ([LENGTH, TRAILER], unsigned_body(b"abcd", 9, GOOD), "IncompleteBody"),
        ([LENGTH, TRAILER], unsigned_body(b"ab", 9, GOOD), "IncompleteBody"),
        ([LENGTH, TRAILER], unsigned_body(b"abd", 9, GOOD), "BadDigest"),
        ([LENGTH, TRAILER], unsigned_body(b"abc", 9), "MalformedTrailerError"),
        ([LENGTH], unsigned_body(b"abc", 9, GOOD), "MalformedTrailerError"),
        ([LENGTH, TRAILER], unsigned_body(b"abc", 9, "no colon"), "MalformedTrailerError"),
        ([LENGTH, TRAILER], unsigned_body(b"abc", 9, "x-amz-checksum-sha1:x"), "MalformedTrailerError"),
        ([LENGTH, TRAILER], unsigned_body(b"abc", 9, "a:" + "b" * TRAILER_BYTES_MAX), "IncompleteBody"),
        ([LENGTH, TRAILER], unsigned_body(b"abc", 9, GOOD) + b"more\r\n", "IncompleteBody"),
        ([LENGTH, TRAILER], b"3" * CHUNK_HEADER_BYTES_MAX + b"\r\n", "IncompleteBody"),
        ([LENGTH, TRAILER], b"3;x=y\r\nabc\r\n0\r\n\r\n", "IncompleteBody"),
        ([LENGTH, TRAILER], b"fffffffffffffff\r\nabc", "InvalidChunkSizeError"),
        ([LENGTH, (TRAILER[0], b"x-amz-checksum-crc32,x-amz-checksum-sha1")], b"", "InvalidRequest"),
    ],
)
def test_wrong_framing(headers: Headers, wire: bytes, kind: str) -> None:
    assert refused(headers, [wire], Signer(UNSIGNED_TRAILER), None) == kind


@pytest.mark.parametrize("ending", [b"\r\n\r\n", b"\n\r\n", b"\n\r\n\r\n"])
def test_writers_end_trailers_differently(ending: bytes) -> None:
    wire = b"3\r\nabc\r\n0\r\n" + GOOD.encode() + ending
    assert received([LENGTH, TRAILER], [wire], Signer(UNSIGNED_TRAILER), None)[0] == b"abc"


def test_small_signed_chunks_are_refused() -> None:
    signer = Signer(SIGNED)
    wire = signed_body(b"abcdef", 3, signer)
    headers = [(b"x-amz-decoded-content-length", b"6")]
    assert refused(headers, [wire], signer, None) == "InvalidChunkSizeError"


def test_signed_chunks_need_a_signed_request() -> None:
    headers = [(b"x-amz-content-sha256", SIGNED.encode()), LENGTH]
    assert refused(headers, [b""], None, None) == "AccessDenied"


def test_the_checksum_of_an_assembled_object_is_not_its_documents() -> None:
    headers = [(b"x-amz-checksum-crc64nvme", b"AAAAAAAAAAA=")]
    request = Request("POST", b"/b/k", b"uploadId=u", headers, params={"uploadId": "u"}, content_length=3)

    async def run() -> bytes:
        return b"".join([piece async for piece in open_payload(request, _raw([b"abc"]), UNSIGNED)])

    assert asyncio.run(run()) == b"abc"
