"""The shape cache accepts only what the strict verifier accepts."""

from __future__ import annotations

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.base.clock import wall
from headrace.base.errors import HeadraceError
from headrace.gateway import shapes
from headrace.gateway.addressing import parse_query
from headrace.gateway.sigv4 import Verifier

ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
VERIFIER = Verifier({ACCESS: SECRET}.get)


def head_of(path: str, headers: dict[str, str] | None = None, secret: str = SECRET) -> bytes:
    """A request head as boto3 sends it."""
    request = AWSRequest("GET", "http://127.0.0.1:9000" + path, headers={"User-Agent": "Boto3/1 x", **(headers or {})})
    request.context["payload_signing_enabled"] = True
    S3SigV4Auth(Credentials(ACCESS, secret), "s3", "us-east-1").add_auth(request)
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1:9000", "Accept-Encoding: identity"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    lines += ["amz-sdk-invocation-id: 1b2e8a3c-5c3d-4e7a-9f7b-000000000001", "amz-sdk-request: attempt=1", "", ""]
    return "\r\n".join(lines).encode()


def judge(head: bytes) -> object:
    """What the general verifier says of a head: a Signature, or the error."""
    lines = head[:-4].split(b"\r\n")
    target = lines[0].split(b" ")[1]
    path, _, query = target.partition(b"?")
    headers = [(n.lower(), v.strip()) for n, _, v in (line.partition(b":") for line in lines[1:])]
    try:
        return VERIFIER.verify("GET", path, query, headers, parse_query(query), wall())
    except HeadraceError as error:
        return error


def shape_of(head: bytes) -> shapes.Shape:
    """The shape made from a head that must have one."""
    signature = judge(head)
    assert not isinstance(signature, HeadraceError)
    shape = shapes.build(head, signature, b"")  # type: ignore[arg-type]
    assert shape is not None
    return shape


def test_matches_what_differs_only_in_path_time_and_signature() -> None:
    shape = shape_of(head_of("/bucket/one"))
    matched = shape.match(head_of("/bucket/two/three.png"), wall())
    assert matched == shapes.Matched(b"/bucket/two/three.png", None, None, None)


def test_reads_range_if_match_and_trace() -> None:
    extra = {"Range": "bytes=5-9", "If-Match": '"abc"', "traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"}
    shape = shape_of(head_of("/b/one", extra))
    extra["Range"] = "bytes=100-"
    matched = shape.match(head_of("/b/other", extra), wall())
    assert matched is not None
    assert (matched.range, matched.if_match) == (b"bytes=100-", b'"abc"')
    assert matched.trace == extra["traceparent"].encode()


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/b/with%20space", {}),
        ("/b/key?versionId=null", {}),
        ("/b/key", {"If-None-Match": '"x"'}),
        ("/b/key", {"x-amz-expected-bucket-owner": "me"}),
        ("/b/key", {"Cache-Control": "no-cache"}),
        ("/b/key", {"Range": "bytes=-5"}),
    ],
)
def test_other_requests_have_no_fast_path(path: str, headers: dict[str, str]) -> None:
    head = head_of(path, headers)
    shape = shape_of(head_of("/b/plain"))
    assert shape.match(head, wall()) is None
    signature = judge(head)
    built = None if isinstance(signature, HeadraceError) else shapes.build(head, signature, b"")  # type: ignore[arg-type]
    assert built is None


def test_wrong_secret_and_old_date_are_left_to_the_judge() -> None:
    shape = shape_of(head_of("/b/one"))
    assert shape.match(head_of("/b/one", secret="wrong"), wall()) is None
    good = head_of("/b/two")
    assert shape.match(good, wall()) is not None
    assert shape.match(good, wall() + 901) is None
    assert shape.match(good, wall() - 901) is None


HEAD = head_of("/bucket/key-1", {"Range": "bytes=0-99"})
SHAPE = shape_of(HEAD)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(HEAD) - 1), st.integers(0, 255))
def test_any_changed_byte_is_judged_alike(position: int, value: int) -> None:
    """A tampered head that the shape accepts must be one that the strict verifier accepts too."""
    tampered = HEAD[:position] + bytes([value]) + HEAD[position + 1 :]
    if SHAPE.match(tampered, wall()) is not None:
        assert not isinstance(judge(tampered), HeadraceError)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(HEAD) - 1), st.binary(min_size=1, max_size=40))
def test_any_inserted_bytes_are_judged_alike(position: int, extra: bytes) -> None:
    tampered = HEAD[:position] + extra + HEAD[position:]
    if SHAPE.match(tampered, wall()) is not None:
        assert not isinstance(judge(tampered), HeadraceError)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_range_stays_within_the_object(first: int, last: int, size: int) -> None:
    span = shapes.parse_range(b"bytes=%d-%d" % (first, last), size)
    if span is None:
        assert first > last or first >= size
    else:
        assert 0 <= span[0] < span[1] <= size
        assert span == (first, min(last + 1, size))
