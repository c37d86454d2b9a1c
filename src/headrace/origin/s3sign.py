"""Signs requests to S3 endpoints (Signature version 4), quickly: one derived key serves a whole day.

Source: "Authenticating Requests (AWS Signature Version 4)" in the Amazon S3 API reference; which
headers stay unsigned, because others change them on the way, is as in botocore.
"""

from __future__ import annotations

import hmac
import time

from headrace.base.clock import SYSTEM, Clock
from headrace.origin.credentials import Keys
from headrace.wire.signing import ALGORITHM, signing_key, string_to_sign

_UNSIGNED_HEADERS = frozenset({
    "baggage", "connection", "expect", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "traceparent",
    "tracestate", "trailer", "transfer-encoding", "upgrade", "user-agent", "x-amzn-trace-id",
})  # fmt: skip
_KEYS_MAX = 64


class Signer:
    """Signs for whatever keys it is given, and remembers what it derived from the latest."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._derived: dict[tuple[str, str, str], bytes] = {}

    def sign(self, keys: Keys, method: str, url: str, headers: dict[str, str], region: str, payload: str) -> None:
        """Add date, payload hash, token and signature to `headers`, whose names are lower-case.

        `url` is percent-encoded as it will be sent; `payload` is the value of x-amz-content-sha256.
        """
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock.wall()))
        authority, _, target = url.partition("://")[2].partition("/")
        headers.pop("authorization", None)
        headers.pop("date", None)
        headers.setdefault("host", authority)
        headers["x-amz-date"] = now
        headers["x-amz-content-sha256"] = payload
        if keys.token:
            headers["x-amz-security-token"] = keys.token
        path, _, query = target.partition("?")
        names = sorted(name for name in headers if name not in _UNSIGNED_HEADERS)
        lines = "".join([f"{name}:{' '.join(headers[name].split())}\n" for name in names])
        signed = ";".join(names)
        canonical = f"{method}\n/{path}\n{_sorted(query)}\n{lines}\n{signed}\n{payload}"
        scope = f"{now[:8]}/{region}/s3/aws4_request"
        key = self._key(keys.secret_key, now[:8], region)
        signature = hmac.digest(key, string_to_sign(now, scope, canonical).encode(), "sha256").hex()
        headers["authorization"] = (
            f"{ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
        )

    def _key(self, secret: str, date: str, region: str) -> bytes:
        name = (secret, date, region)
        key = self._derived.get(name)
        if key is None:
            if len(self._derived) >= _KEYS_MAX:
                self._derived.clear()
            key = self._derived[name] = signing_key(secret, date, region)
        return key


def _sorted(query: str) -> str:
    """The query's parameters, each with a `=`, in the order in which they are signed."""
    if not query:
        return ""
    pairs = sorted((name, value) for name, _, value in (item.partition("=") for item in query.split("&")))
    return "&".join([f"{name}={value}" for name, value in pairs])
