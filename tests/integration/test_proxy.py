"""Requests passed on to a real S3 server: what the client sees is the server's answer in headrace's names."""

from __future__ import annotations

import asyncio
import base64
import re
import zlib
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from headrace.base import rng
from headrace.base.errors import Bug, Denied, Invalid, NotFound, Unavailable
from headrace.gateway.messages import Request, Response
from headrace.gateway.proxy import forward
from headrace.origin.objectstore import ObstoreOrigin
from headrace.origin.s3 import S3Account, S3Origin
from headrace.testing.faults import FaultProxy
from headrace.testing.origins import broken, pieces, read, upload
from headrace.testing.servers import S3Server


class Gateway:
    """What forwarding asks of a gateway, and a client of it."""

    def __init__(self) -> None:
        self.targets: dict[str, Any] = {}
        self.forgotten: list[tuple[str, list[str] | None]] = []

    def resolve(self, bucket: str) -> Any:
        if bucket not in self.targets:
            raise NotFound(bucket, kind="NoSuchBucket")
        return self.targets[bucket]

    async def invalidate(self, bucket: str, keys: Sequence[str] | None) -> None:
        self.forgotten.append((bucket, None if keys is None else list(keys)))

    async def ask(
        self,
        method: str,
        bucket: str,
        key: str = "",
        body: bytes | AsyncIterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        length: int | None = None,
        **params: str,
    ) -> tuple[Response, bytes]:
        """Forward one request; the answer, and its body read whole."""
        raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        request = Request(
            method, b"", b"", raw, bucket=bucket, key=key, host="here:1",
            params={name.replace("_", "-") if name != "uploadId" else name: value for name, value in params.items()},
            body=pieces(body) if isinstance(body, bytes) else body,
            content_length=len(body) if isinstance(body, bytes) else length,
        )  # fmt: skip
        response = await forward(self, request, self.resolve(bucket))
        if isinstance(response.body, bytes):
            return response, response.body
        return response, b"".join([piece async for piece in response.body])  # type: ignore[misc]


def header(response: Response, name: str) -> str | None:
    return next((value for key, value in response.headers if key.lower() == name), None)


@pytest_asyncio.fixture
async def gateway(s3_server: S3Server) -> AsyncIterator[Gateway]:
    """`proxied` is a bucket of the same name, `mine` a prefix of it under another name."""
    account = S3Account(s3_server.url())
    if "proxied" not in await account.buckets():
        await account.client.answer("PUT", "", raw_path="proxied")
    whole, part = account.origin("proxied"), S3Origin(s3_server.url("proxied", "pre%20fix"))
    gateway = Gateway()
    gateway.targets = {"proxied": SimpleNamespace(origin=whole), "mine": SimpleNamespace(origin=part)}
    yield gateway
    await part.close()
    await account.close()


@pytest.mark.parametrize("bucket", ["proxied", "mine"])
async def test_an_object_with_metadata_and_tags_round_trips(gateway: Gateway, bucket: str) -> None:
    sent = {"content-type": "a/b", "x-amz-meta-colour": "blü", "expect": "100-continue", "authorization": "client's"}
    response, _ = await gateway.ask("PUT", bucket, "k&1 ü", b"hello", sent)
    assert response.status == 200
    tags = b"<Tagging><TagSet><Tag><Key>pre fix/a</Key><Value>b</Value></Tag></TagSet></Tagging>"
    assert (await gateway.ask("PUT", bucket, "k&1 ü", tags, tagging=""))[0].status == 200
    _, body = await gateway.ask("GET", bucket, "k&1 ü", tagging="")
    assert b"<Key>pre fix/a</Key>" in body  # a tag's key is no object's key
    response, body = await gateway.ask("GET", bucket, "k&1 ü", headers={"range": "bytes=1-3"})
    assert (response.status, body, response.length) == (206, b"ell", 3)
    assert header(response, "content-range") == "bytes 1-3/5"
    assert header(response, "x-amz-meta-colour") == "blü"
    response, body = await gateway.ask("HEAD", bucket, "k&1 ü")
    assert (response.status, body, response.length) == (200, b"", 5)
    response, body = await gateway.ask(
        "GET", bucket, "k&1 ü", headers={"if-none-match": header(response, "etag") or ""}
    )
    assert (response.status, body) == (304, b"")
    assert gateway.forgotten == [(bucket, ["k&1 ü"])] * 2


@pytest.mark.parametrize("bucket", ["proxied", "mine"])
@pytest.mark.parametrize("size", [0, 10, 300_000, 3_000_000])
async def test_a_trailing_checksum_reaches_the_origin(gateway: Gateway, bucket: str, size: int) -> None:
    data = rng.seeded(size).randbytes(size)
    sent = {"x-amz-trailer": "x-amz-checksum-crc32", "content-encoding": "aws-chunked,gzip", "x-amz-date": "old"}
    response, _ = await gateway.ask("PUT", bucket, "trailer", data, sent)
    assert response.status == 200
    response, body = await gateway.ask("GET", bucket, "trailer", headers={"x-amz-checksum-mode": "ENABLED"})
    assert body == data
    assert header(response, "content-encoding") == "gzip"
    if size:  # the server keeps none for empty objects
        want = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
        assert header(response, "x-amz-checksum-crc32") == want


@pytest.mark.parametrize("bucket", ["proxied", "mine"])
async def test_listings_speak_of_the_bound_bucket(gateway: Gateway, bucket: str) -> None:
    for key in ("list/a&b", "list/c/d"):
        await gateway.ask("PUT", bucket, key, b"x")
    _, body = await gateway.ask("GET", bucket, prefix="list/", delimiter="/")
    assert f"<Name>{bucket}</Name><Prefix>list/</Prefix>".encode() in body
    assert b"<Key>list/a&amp;b</Key>" in body
    assert b"<CommonPrefixes><Prefix>list/c/</Prefix></CommonPrefixes>" in body
    _, body = await gateway.ask("GET", bucket, list_type="2", prefix="list/", encoding_type="url", start_after="list/b")
    assert re.findall(rb"<Key>(.*?)</Key>", body) == [b"list/c/d"]
    response, body = await gateway.ask("GET", bucket, "absent")
    assert response.status == 404
    assert f"<Resource>/{bucket}/absent</Resource>".encode() in body
    assert b"<Key>absent</Key>" in body


async def test_a_prefix_hides_the_rest_of_its_bucket(gateway: Gateway) -> None:
    await gateway.ask("PUT", "proxied", "outside", b"x")
    await gateway.ask("PUT", "mine", "inside", b"x")
    _, body = await gateway.ask("GET", "mine", list_type="2")
    assert b"<Key>inside</Key>" in body
    assert b"outside" not in body
    for method, params in (("PUT", {"policy": ""}), ("DELETE", {}), ("PUT", {"versioning": ""})):
        with pytest.raises(Invalid) as caught:
            await gateway.ask(method, "mine", **params)
        assert caught.value.kind == "NotImplemented"
    assert (await gateway.targets["mine"].origin.head("inside")).size == 1


@pytest.mark.parametrize("bucket", ["proxied", "mine"])
async def test_multipart_and_copy(gateway: Gateway, bucket: str) -> None:
    await gateway.ask("PUT", bucket, "k", b"hello")
    gateway.forgotten.clear()
    response, body = await gateway.ask("PUT", bucket, "copy", headers={"x-amz-copy-source": f"/{bucket}/k"})
    assert (response.status, b"CopyObjectResult" in body) == (200, True)
    _, body = await gateway.ask("POST", bucket, "mp", b"", uploads="")
    found = re.search(rb"<UploadId>(.*?)</", body)
    assert found
    upload_id = found[1].decode()
    assert b"<Key>mp</Key>" in body
    response, _ = await gateway.ask("PUT", bucket, "mp", b"part", uploadId=upload_id, partNumber="1")
    etag = header(response, "etag")
    done = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
    _, body = await gateway.ask("POST", bucket, "mp", f"{done}</CompleteMultipartUpload>".encode(), uploadId=upload_id)
    assert f"<Bucket>{bucket}</Bucket><Key>mp</Key>".encode() in body
    assert gateway.forgotten == [(bucket, ["copy"]), (bucket, ["mp"])]
    with pytest.raises(Bug):  # only a document of headrace's own may go to the origin
        await gateway.ask("POST", bucket, body=b"<Delete><Object><Key>mp</Key></Object></Delete>", delete="")
    assert (await gateway.ask("GET", bucket, "mp"))[0].status == 200


async def test_a_copy_between_names_of_one_origin(gateway: Gateway) -> None:
    await gateway.ask("PUT", "mine", "source", b"hello")
    await gateway.ask("PUT", "proxied", "target", headers={"x-amz-copy-source": "mine/source"})
    assert await read(gateway.targets["proxied"].origin, "target") == b"hello"
    gateway.targets["memory"] = SimpleNamespace(origin=ObstoreOrigin.at("memory://proxy"))
    for source, kind in (
        ("memory/source", "NotImplemented"),
        ("mine", "InvalidArgument"),
        ("arn:aws:s3:::b/k", "InvalidArgument"),
    ):
        with pytest.raises(Invalid) as caught:
            await gateway.ask("PUT", "proxied", "target", headers={"x-amz-copy-source": source})
        assert caught.value.kind == kind
    with pytest.raises(Invalid):
        await gateway.ask("GET", "memory", acl="")


async def test_a_body_that_proves_bad_at_its_end_is_not_stored(gateway: Gateway) -> None:
    for size in (10, 500_000):
        for trailer in ({}, {"x-amz-trailer": "x-amz-checksum-crc32"}):
            bad = broken(bytes(size), Invalid("wrong", kind="BadDigest"))
            with pytest.raises(Invalid) as caught:
                await gateway.ask("PUT", "proxied", "bad", bad, trailer, length=size)
            assert caught.value.kind == "BadDigest"
            with pytest.raises(NotFound):
                await gateway.targets["proxied"].origin.head("bad")


async def test_a_lost_answer_is_unavailable_sent_once_and_forgotten(gateway: Gateway, s3_server: S3Server) -> None:
    async with FaultProxy(s3_server.endpoint) as faults:
        origin = S3Origin(s3_server.url("proxied").replace(s3_server.endpoint, faults.url))
        gateway.targets["lossy"] = SimpleNamespace(origin=origin)
        faults.add("lose", "PUT")
        with pytest.raises(Unavailable):
            await gateway.ask("PUT", "lossy", "k", b"x")
        assert faults.count("PUT") == 1
        assert gateway.forgotten == [("lossy", ["k"])]
        faults.add("status", "PUT", status=503)
        response, body = await gateway.ask("PUT", "lossy", "k", b"x")
        assert (response.status, b"SlowDown" in body) == (503, True)
        assert faults.count("PUT") == 2
        await origin.close()


async def test_wrong_keys_of_headrace_are_not_the_clients_fault(gateway: Gateway, s3_server: S3Server) -> None:
    url = s3_server.url("proxied").replace(f"{s3_server.access_key}:", "nobody:")
    gateway.targets["denied"] = SimpleNamespace(origin=S3Origin(url))
    with pytest.raises(Denied) as caught:
        await gateway.ask("GET", "denied", "k")
    assert caught.value.kind == "AccessDenied"
    assert "headrace's own credentials" in caught.value.message
    await gateway.targets["denied"].origin.close()


async def test_a_large_answer_streams_and_may_be_given_up(gateway: Gateway) -> None:
    data = rng.seeded(3).randbytes(8_000_000)
    await gateway.targets["proxied"].origin.put("large", upload(data))
    request = Request("GET", b"", b"", [], bucket="proxied", key="large", host="here")
    response = await forward(gateway, request, gateway.targets["proxied"])
    assert response.length == len(data)
    assert not isinstance(response.body, bytes)
    assert data.startswith(await anext(response.body))  # type: ignore[arg-type]
    await response.body.aclose()  # type: ignore[attr-defined]
    bodies = await asyncio.gather(*(gateway.ask("GET", "proxied", "large") for _ in range(3)))
    assert all(body == data for _, body in bodies)
