"""Signature version 4: what signing and verifying have in common.

Source: "Authenticating Requests (AWS Signature Version 4)" in the Amazon S3 API reference.
"""

from __future__ import annotations

import hashlib
import hmac

ALGORITHM = "AWS4-HMAC-SHA256"


def signing_key(secret: str, date: str, region: str, service: str = "s3") -> bytes:
    """Derive a signing key by the four HMAC steps of the specification."""
    key = hmac.digest(b"AWS4" + secret.encode(), date.encode(), "sha256")
    for part in (region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def string_to_sign(amz_date: str, scope: str, canonical_request: str) -> str:
    """The text whose HMAC is the signature."""
    hashed = hashlib.sha256(canonical_request.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{ALGORITHM}\n{amz_date}\n{scope}\n{hashed}"
