"""The strict signature verifier: what botocore signs is accepted, everything else gets S3's own error."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.base.clock import wall
from headrace.base.errors import HeadraceError
from headrace.gateway.addressing import parse_query
from headrace.gateway.sigv4 import Signature, Verifier, canonical_path, canonical_query

ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
CREDENTIALS = Credentials(ACCESS, SECRET)


def verifier() -> Verifier:
    """A verifier that knows one key."""
    return Verifier({ACCESS: SECRET}.get)


def signed(method: str, url: str, headers: dict[str, str] | None = None, region: str = "us-east-1") -> AWSRequest:
    """A request as botocore signs it in its headers."""
    request = AWSRequest(method, url, headers={"Host": urlsplit(url).netloc, **(headers or {})})
    request.context["payload_signing_enabled"] = False
    S3SigV4Auth(CREDENTIALS, "s3", region).add_auth(request)
    return request


def presigned(url: str, expires: int = 60) -> AWSRequest:
    """A presigned GET."""
    request = AWSRequest("GET", url)
    S3SigV4QueryAuth(CREDENTIALS, "s3", "us-east-1", expires=expires).add_auth(request)
    return request


def check(request: AWSRequest, now: float | None = None, /, **change: str) -> Signature | None:
    """Verify a request; `change` replaces (or, with "", removes) headers after signing."""
    url = urlsplit(request.url)
    headers = {name.lower(): value for name, value in request.headers.items()}
    headers.setdefault("host", url.netloc)
    for name, value in change.items():
        headers[name.replace("_", "-")] = value
    raw = [(name.encode(), value.encode()) for name, value in headers.items() if value]
    path, query = url.path.encode(), url.query.encode()
    return verifier().verify(request.method, path, query, raw, parse_query(query), now if now is not None else wall())


def kind_of(request: AWSRequest, now: float | None = None, /, **change: str) -> str:
    """The S3 error code a request is refused with."""
    with pytest.raises(HeadraceError) as caught:
        check(request, now, **change)
    return caught.value.kind


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST", "HEAD"])
@pytest.mark.parametrize(
    "path", ["/", "/bucket", "/b/k%20ey", "/b/a//b", "/b/%C3%A9/~x_-.", "/b/k?uploads", "/b?prefix=a%2Fb&max-keys=3"]
)
def test_accepts_what_botocore_signs(method: str, path: str) -> None:
    found = check(signed(method, "http://127.0.0.1:9000" + path))
    assert found is not None
    assert (found.access_key, found.presigned) == (ACCESS, False)


def test_accepts_any_region_and_collapsed_spaces() -> None:
    request = signed("PUT", "http://h:1/b/k", {"x-amz-meta-a": "one   two "}, region="eu-west-7")
    found = check(request)
    assert found is not None
    assert found.scope.endswith("/eu-west-7/s3/aws4_request")


def test_accepts_presigned_until_it_expires() -> None:
    request = presigned("http://127.0.0.1:9000/bucket/key", 60)
    found = check(request)
    assert found is not None
    assert found.presigned
    assert kind_of(request, wall() + 61) == "AccessDenied"
    assert kind_of(request, wall() - 901) == "AccessDenied"


def test_no_credentials_is_anonymous() -> None:
    assert check(AWSRequest("GET", "http://127.0.0.1:9000/bucket/key")) is None


def test_clock_skew_is_refused() -> None:
    request = signed("GET", "http://h:1/b/k")
    assert kind_of(request, wall() + 901) == "RequestTimeTooSkewed"
    assert kind_of(request, wall() - 901) == "RequestTimeTooSkewed"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"authorization": "AWS AKID:abc="}, "InvalidRequest"),
        ({"authorization": "Bearer x"}, "InvalidArgument"),
        ({"authorization": "AWS4-HMAC-SHA256 nonsense"}, "AuthorizationHeaderMalformed"),
        ({"x_amz_content_sha256": ""}, "InvalidRequest"),
        ({"x_amz_content_sha256": "nonsense"}, "InvalidArgument"),
        ({"x_amz_date": ""}, "AccessDenied"),
        ({"x_amz_date": "20260101"}, "AccessDenied"),
        ({"x_amz_date": "20269999T999999Z"}, "AccessDenied"),
        ({"x_amz_acl": "public-read"}, "AccessDenied"),
        ({"host": "other"}, "SignatureDoesNotMatch"),
    ],
)
def test_tampering_gets_its_own_error(change: dict[str, str], kind: str) -> None:
    assert kind_of(signed("GET", "http://h:1/b/k"), **change) == kind


def test_unknown_key_and_foreign_service_are_named() -> None:
    request = signed("GET", "http://h:1/b/k")
    text = request.headers["Authorization"]
    assert kind_of(request, authorization=text.replace(ACCESS, "NOBODY")) == "InvalidAccessKeyId"
    assert kind_of(request, authorization=text.replace("/s3/", "/iam/")) == "AuthorizationHeaderMalformed"
    assert kind_of(request, authorization=text.replace("host;", "")) == "SignatureDoesNotMatch"


@pytest.mark.parametrize("expires", ["0", "604801", "x", "-1", ""])
def test_presigned_expiry_has_bounds(expires: str) -> None:
    request = presigned("http://h:1/b/k", 60)
    request.url = request.url.replace("X-Amz-Expires=60", f"X-Amz-Expires={expires}")
    assert kind_of(request) == "AuthorizationQueryParametersError"


def test_signature_v2_in_the_query_is_explained() -> None:
    with pytest.raises(HeadraceError, match="AWS4-HMAC-SHA256"):
        check(AWSRequest("GET", "http://h:1/b/k?AWSAccessKeyId=a&Signature=b&Expires=1"))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
@example("AWS4-HMAC-SHA256 Credential=A/20260101/r/s3/aws4_request, SignedHeaders=host, Signature=\x80")
def test_any_authorization_text_is_refused_without_a_crash(text: str) -> None:
    request = signed("GET", "http://h:1/b/k")
    raw = [(b"host", b"h:1"), (b"authorization", text.encode("utf-8", "surrogatepass"))]
    raw += [(b"x-amz-date", request.headers["X-Amz-Date"].encode()), (b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD")]
    with pytest.raises(HeadraceError):
        verifier().verify("GET", b"/b/k", b"", raw, {}, wall())


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2000), st.sampled_from("0aZ%&/=+ "))
def test_any_changed_character_of_a_signed_url_is_refused(position: int, character: str) -> None:
    request = presigned("http://127.0.0.1:9000/bucket/key")
    start = request.url.index("/bucket")
    position = start + position % (len(request.url) - start)
    changed = request.url[:position] + character + request.url[position + 1 :]
    path, _, query = changed[start:].encode().partition(b"?")
    old_path, _, old_query = request.url[start:].encode().partition(b"?")
    try:
        found = verifier().verify("GET", path, query, [(b"host", b"127.0.0.1:9000")], parse_query(query), wall())
    except HeadraceError:
        return
    if found is not None:  # accepted: then it is only another spelling of what was signed
        assert canonical_path(path) == canonical_path(old_path)
        assert canonical_query(query) == canonical_query(old_query)
