"""Signature version 4: the strict, general verifier. It is the judge; `shapes` is its short-cut.

Source: "Authenticating Requests (AWS Signature Version 4)" in the Amazon S3 API reference.
Decides who signed a request and how its payload is to be checked; never reads the payload.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from headrace.base.errors import Denied, Invalid
from headrace.base.limits import CLOCK_SKEW_SECONDS_MAX, PRESIGN_SECONDS_MAX
from headrace.wire.signing import ALGORITHM, signing_key, string_to_sign

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
STREAMING_MODES = frozenset(
    {
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    }
)
_SAFE = "/-_.~"
_HEX64 = re.compile(r"[0-9a-f]{64}\Z")
_AMZ_DATE = re.compile(r"\d{8}T\d{6}Z\Z")
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=([^, ]+)[, ]+SignedHeaders=([^, ]+)[, ]+Signature=([^, ]+) *\Z"
)
_SPACES = re.compile(rb" +")
_SIGNING_KEYS_MAX = 1024

Headers = Sequence[tuple[bytes, bytes]]
SecretOf = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signed, and what a chunked payload needs to be verified with.

    `payload_hash` is the value of x-amz-content-sha256 (or UNSIGNED-PAYLOAD when presigned).
    """

    access_key: str
    signing_key: bytes
    amz_date: str
    scope: str
    seed_signature: str
    payload_hash: str
    signed_headers: tuple[str, ...]
    presigned: bool


class Credential(NamedTuple):
    """The five parts of a credential scope."""

    access_key: str
    date: str
    region: str
    service: str
    terminator: str

    @property
    def scope(self) -> str:
        """The scope as it is signed: date/region/service/aws4_request."""
        return f"{self.date}/{self.region}/{self.service}/{self.terminator}"


class SigningKeys:
    """Derived signing keys, bounded; emptied when an access key changed."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str, str], bytes] = {}

    def derive(self, secret: str, credential: Credential) -> bytes:
        """The signing key of one secret, day and region."""
        name = (secret, credential.date, credential.region)
        key = self._keys.get(name)
        if key is None:
            if len(self._keys) >= _SIGNING_KEYS_MAX:
                self._keys.clear()
            key = signing_key(secret, credential.date, credential.region, credential.service)
            self._keys[name] = key
        return key

    def clear(self) -> None:
        """Forget every derived key."""
        self._keys.clear()


def canonical_path(path: bytes) -> str:
    """The path decoded and encoded again the one way S3 signs it."""
    return quote_from_bytes(unquote_to_bytes(path), safe=_SAFE)


def canonical_query(query: bytes, *, without: bytes = b"") -> str:
    """Query parameters decoded, encoded again and sorted; `without` names one to leave out."""
    pairs = []
    for item in query.split(b"&"):
        if not item:
            continue
        name, _, value = item.partition(b"=")
        decoded = unquote_to_bytes(name.replace(b"+", b" "))
        if without and decoded == without:
            continue
        text = quote_from_bytes(unquote_to_bytes(value.replace(b"+", b" ")), safe="-_.~")
        pairs.append((quote_from_bytes(decoded, safe="-_.~"), text))
    pairs.sort()
    return "&".join(f"{name}={value}" for name, value in pairs)


def canonical_headers(headers: Headers, signed: Sequence[str]) -> str:
    """The signed headers, one line each: values trimmed, inner spaces collapsed, repeats joined."""
    values: dict[str, list[str]] = {}
    for raw_name, value in headers:
        values.setdefault(raw_name.decode("latin-1"), []).append(
            _SPACES.sub(b" ", value.strip()).decode("utf-8", "replace")
        )
    lines = []
    for name in signed:
        if name not in values:
            raise Denied(f"The signed header {name!r} is missing from the request.", kind="SignatureDoesNotMatch")
        lines.append(f"{name}:{','.join(values[name])}\n")
    return "".join(lines)


def parse_amz_date(text: str) -> float:
    """Seconds since the epoch of a basic-format UTC time such as 20260102T030405Z."""
    if not _AMZ_DATE.match(text):
        raise Denied(f"The request time {text!r} is not of the form YYYYMMDDTHHMMSSZ.", kind="AccessDenied")
    try:
        year, month, day = int(text[:4]), int(text[4:6]), int(text[6:8])
        moment = datetime(year, month, day, int(text[9:11]), int(text[11:13]), int(text[13:15]), tzinfo=UTC)
        return moment.timestamp()
    except ValueError:
        raise Denied(f"The request time {text!r} is not a valid date.", kind="AccessDenied") from None


def parse_credential(text: str, *, kind: str) -> Credential:
    """Split and check a credential scope."""
    parts = text.rsplit("/", 4)
    if len(parts) != 5 or not parts[0]:
        raise Invalid("The credential is malformed: expected ACCESS_KEY/YYYYMMDD/REGION/s3/aws4_request.", kind=kind)
    credential = Credential(*parts)
    if credential.terminator != "aws4_request" or credential.service != "s3":
        raise Invalid(f"The credential scope {credential.scope!r} must end in s3/aws4_request.", kind=kind)
    if not re.fullmatch(r"\d{8}", credential.date):
        raise Invalid(f"The date {credential.date!r} in the credential scope must be YYYYMMDD.", kind=kind)
    return credential


class Verifier:
    """Judges requests against the secrets `secret_of` knows."""

    def __init__(self, secret_of: SecretOf) -> None:
        self._secret_of = secret_of
        self.keys = SigningKeys()

    def verify(
        self, method: str, path: bytes, query: bytes, headers: Headers, params: dict[str, str], now: float
    ) -> Signature | None:
        """Return who signed, or None when the request carries no credentials at all.

        Raises Denied or Invalid with S3's own error code in `kind`.
        """
        authorization = [value for name, value in headers if name == b"authorization"]
        if authorization:
            if "X-Amz-Signature" in params or "X-Amz-Algorithm" in params or len(authorization) > 1:
                raise Invalid("Only one authentication mechanism is allowed.", kind="InvalidArgument")
            return self._verify_header(method, path, query, headers, authorization[0], now)
        if "X-Amz-Algorithm" in params or "X-Amz-Signature" in params or "X-Amz-Credential" in params:
            return self._verify_presigned(method, path, query, headers, params, now)
        if "AWSAccessKeyId" in params and "Signature" in params:
            raise _signature_v2()
        return None

    def _verify_header(
        self, method: str, path: bytes, query: bytes, headers: Headers, authorization: bytes, now: float
    ) -> Signature:
        text = authorization.decode("latin-1")
        if text.startswith("AWS "):
            raise _signature_v2()
        if not text.startswith(ALGORITHM):
            raise Invalid("Unsupported Authorization Type; use AWS4-HMAC-SHA256.", kind="InvalidArgument")
        found = _AUTHORIZATION.match(text)
        if found is None:
            raise Invalid(
                "The authorization header is malformed: Credential, SignedHeaders and Signature are needed.",
                kind="AuthorizationHeaderMalformed",
            )
        credential = parse_credential(found[1], kind="AuthorizationHeaderMalformed")
        amz_date = _request_time(headers)
        payload_hash = _payload_hash(headers)
        if abs(now - parse_amz_date(amz_date)) > CLOCK_SKEW_SECONDS_MAX:
            raise Denied(
                "The difference between the request time and the server's time is too large.",
                kind="RequestTimeTooSkewed",
                details={"RequestTime": amz_date, "MaxAllowedSkewMilliseconds": str(CLOCK_SKEW_SECONDS_MAX * 1000)},
            )
        signed = tuple(found[2].split(";"))
        return self._judge(
            method, path, canonical_query(query), headers, credential, signed, found[3], amz_date, payload_hash, False
        )

    def _verify_presigned(
        self, method: str, path: bytes, query: bytes, headers: Headers, params: dict[str, str], now: float
    ) -> Signature:
        kind = "AuthorizationQueryParametersError"
        needed = ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")
        values = {name: params.get(f"X-Amz-{name}", "") for name in needed}
        missing = [f"X-Amz-{name}" for name, value in values.items() if not value]
        if missing:
            raise Invalid(f"Query-string authentication needs {', '.join(missing)}.", kind=kind)
        if values["Algorithm"] != ALGORITHM:
            raise Invalid(f"X-Amz-Algorithm only supports {ALGORITHM}.", kind=kind)
        credential = parse_credential(values["Credential"], kind=kind)
        if not values["Expires"].isdigit() or not 0 < int(values["Expires"]) <= PRESIGN_SECONDS_MAX:
            raise Invalid(f"X-Amz-Expires must be between 1 and {PRESIGN_SECONDS_MAX} seconds.", kind=kind)
        signed_at = parse_amz_date(values["Date"])
        if signed_at - now > CLOCK_SKEW_SECONDS_MAX:
            raise Denied("Request is not valid yet.", kind="AccessDenied")
        if now > signed_at + int(values["Expires"]):
            raise Denied("Request has expired.", kind="AccessDenied", details={"X-Amz-Expires": values["Expires"]})
        signed = tuple(values["SignedHeaders"].split(";"))
        payload_hash = params.get("X-Amz-Content-Sha256") or _payload_hash(headers, default=UNSIGNED_PAYLOAD)
        text = canonical_query(query, without=b"X-Amz-Signature")
        return self._judge(
            method, path, text, headers, credential, signed, values["Signature"], values["Date"], payload_hash, True
        )

    def _judge(
        self,
        method: str,
        path: bytes,
        query: str,
        headers: Headers,
        credential: Credential,
        signed: tuple[str, ...],
        signature: str,
        amz_date: str,
        payload_hash: str,
        presigned: bool,
    ) -> Signature:
        if credential.date != amz_date[:8]:
            raise Denied(
                "The date in the credential scope differs from the request's date.", kind="SignatureDoesNotMatch"
            )
        if "host" not in signed or list(signed) != sorted(set(signed)):
            raise Denied("SignedHeaders must be sorted and must hold 'host'.", kind="SignatureDoesNotMatch")
        unsigned = {n.decode("latin-1") for n, _ in headers if n.startswith(b"x-amz-")}.difference(signed)
        if presigned:
            unsigned.discard("x-amz-content-sha256")
        if unsigned:
            raise Denied(
                "There were headers present in the request which were not signed.",
                details={"HeadersNotSigned": ", ".join(sorted(unsigned))},
            )
        secret = self._secret_of(credential.access_key)
        if secret is None:
            raise Denied(
                "The access key id you provided does not exist in our records.",
                kind="InvalidAccessKeyId",
                details={"AWSAccessKeyId": credential.access_key},
            )
        key = self.keys.derive(secret, credential)
        canonical = "\n".join(
            (method, canonical_path(path), query, canonical_headers(headers, signed), ";".join(signed), payload_hash)
        )
        expected = hmac.digest(key, string_to_sign(amz_date, credential.scope, canonical).encode(), "sha256").hex()
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
            raise Denied(
                "The request signature we calculated does not match the signature you provided. "
                "Check your secret key and signing method.",
                kind="SignatureDoesNotMatch",
                details={"AWSAccessKeyId": credential.access_key},
            )
        return Signature(
            credential.access_key, key, amz_date, credential.scope, signature, payload_hash, signed, presigned
        )


def _signature_v2() -> Invalid:
    return Invalid(
        "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256 "
        "(signature version 4; in boto3: Config(signature_version='s3v4')).",
        kind="InvalidRequest",
    )


def _request_time(headers: Headers) -> str:
    """x-amz-date, or the Date header in the same form."""
    found = {name: value for name, value in headers if name in (b"x-amz-date", b"date")}
    if b"x-amz-date" in found:
        return found[b"x-amz-date"].strip().decode("latin-1")
    if b"date" in found:
        text = found[b"date"].strip().decode("latin-1")
        if _AMZ_DATE.match(text):
            return text
        try:
            when = parsedate_to_datetime(text)
        except ValueError:
            raise Denied("The Date header is not a valid date.", kind="AccessDenied") from None
        return time.strftime("%Y%m%dT%H%M%SZ", when.utctimetuple())
    raise Denied("AWS authentication requires a valid Date or x-amz-date header.", kind="AccessDenied")


def _payload_hash(headers: Headers, default: str = "") -> str:
    found = [value.strip().decode("latin-1") for name, value in headers if name == b"x-amz-content-sha256"]
    text = found[0] if found else default
    if not text:
        raise Invalid("Missing required header for this request: x-amz-content-sha256.", kind="InvalidRequest")
    if text == UNSIGNED_PAYLOAD or text in STREAMING_MODES or _HEX64.match(text):
        return text
    raise Invalid(
        "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, a STREAMING- mode, or a valid sha256 value.",
        kind="InvalidArgument",
    )
