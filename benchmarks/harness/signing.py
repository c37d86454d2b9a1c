"""Requests exactly as boto3 would put them on the wire, signed, kept as bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config

ACCESS_KEY = "benchmark0access0key"
SECRET_KEY = "benchmark0secret0key0benchmark0secret0ke"  # a made-up key for servers that live for minutes
REGION = "us-east-1"


class Wanted(NamedTuple):
    """One request and what it must be answered with. `crc` 0 means: not checked."""

    bytes: bytes
    length: int
    status: int = 200
    crc: int = 0


def client(port: int, *, secure: bool = False) -> Any:
    """A boto3 client of the server on that port, path-style, that never retries."""
    return boto3.client(
        "s3",
        endpoint_url=f"{'https' if secure else 'http'}://127.0.0.1:{port}",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name=REGION,
        verify=False if secure else None,
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            retries={"total_max_attempts": 1},
            connect_timeout=5,
            read_timeout=300,
            max_pool_connections=16,
        ),
    )


class Signer:
    """Turns boto3 calls into bytes instead of sending them."""

    def __init__(self, port: int, *, secure: bool = False) -> None:
        self._client = client(port, secure=secure)
        self._host = f"127.0.0.1:{port}"
        self._caught = b""
        self._client.meta.events.register("before-send.s3", self._catch)

    def _catch(self, request: Any, **_: object) -> AWSResponse:
        target = request.url.partition(self._host)[2]
        lines = [f"{request.method} {target} HTTP/1.1", "Accept-Encoding: identity"]
        if "host" not in request.headers:
            lines.insert(1, f"Host: {self._host}")
        for name, value in request.headers.items():
            if name.lower() == "expect":
                continue
            lines.append(f"{name}: {value.decode() if isinstance(value, bytes) else value}")
        body = request.body or b""
        if not isinstance(body, bytes):
            body = body.read()
        self._caught = ("\r\n".join(lines) + "\r\n\r\n").encode() + body
        return AWSResponse(request.url, 200, {"content-length": "0", "etag": '"0"'}, _NoBody())

    def get(self, bucket: str, key: str, range_bytes: tuple[int, int] | None = None) -> bytes:
        """GET of an object, or of bytes [start, stop) of it."""
        more = {"Range": f"bytes={range_bytes[0]}-{range_bytes[1] - 1}"} if range_bytes else {}
        self._client.get_object(Bucket=bucket, Key=key, **more)
        return self._caught

    def put(self, bucket: str, key: str, body: bytes) -> bytes:
        """PUT of an object, with Content-MD5, sent at once: no Expect header to wait for."""
        digest = _content_md5(body)
        self._client.put_object(Bucket=bucket, Key=key, Body=body, ContentMD5=digest)
        return self._caught


class _NoBody:
    """The empty body of the answer that was never asked for."""

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        """Nothing."""
        return iter(())

    def read(self, *_: object) -> bytes:
        """Nothing."""
        return b""


def _content_md5(body: bytes) -> str:
    import base64
    import hashlib

    return base64.b64encode(hashlib.md5(body).digest()).decode()
