"""CopyObject and UploadPartCopy: directives, conditions, ranges, and copies that cross origins."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from hashlib import md5, sha256

import pytest
import pytest_asyncio
from object_world import Distant, Headers, World

from headrace.origin.folder import Folder
from headrace.origin.store import Store

BODY = b"".join(number.to_bytes(4, "big") for number in range(5000))
ETAG = f'"{md5(BODY, usedforsecurity=False).hexdigest()}"'
PAST, FUTURE = "Sat, 29 Oct 1994 19:43:31 GMT", "Sat, 29 Oct 2095 19:43:31 GMT"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A gateway with two buckets of its own, a distant one and a folder, for all tests of this file."""
    base = tmp_path_factory.mktemp("gateway")
    world = World(base)
    distant = Store.open(base / "distant")
    asyncio.run(distant.create_bucket("far"))
    (base / "folder").mkdir()
    folder = Folder(base / "folder")
    world.bind("far", Distant(distant, "far"))
    world.bind("folder", folder)
    for bucket in ("bucket", "second"):
        asyncio.run(world.call("PUT", f"/{bucket}"))
    yield world
    asyncio.run(folder.close())
    distant.close()
    world.close()


@pytest_asyncio.fixture
async def world(gateway: World) -> AsyncIterator[World]:
    """The gateway, holding nothing but the sources."""
    headers = {"content-type": "a/b", "x-amz-meta-color": "blue", "cache-control": "no-cache"}
    for bucket in ("bucket", "far"):
        put = await gateway.call("PUT", f"/{bucket}/source", headers | {"x-amz-tagging": "t=1"}, BODY)
        assert put.status == 200
    assert (await gateway.call("PUT", "/folder/source", {"content-type": "a/b"}, BODY)).status == 200
    yield gateway
    await gateway.clear()


async def test_everything_said_is_kept_by_default(world: World) -> None:
    copied = await world.call("PUT", "/second/k", {"x-amz-copy-source": "bucket/source", "content-type": "x/y"})
    assert (copied.status, copied.text("ETag")) == (200, ETAG)
    got = await world.call("GET", "/second/k")
    assert got.body == BODY
    assert (got.headers["content-type"], got.headers["x-amz-meta-color"]) == ("a/b", "blue")
    assert await world.tag_text("/second/k") == "t=1"


async def test_what_is_replaced(world: World) -> None:
    headers = {
        "x-amz-copy-source": "/bucket/source",
        "x-amz-metadata-directive": "REPLACE",
        "x-amz-tagging-directive": "REPLACE",
        "x-amz-tagging": "u=2",
        "x-amz-meta-shape": "round",
    }
    assert (await world.call("PUT", "/bucket/source", headers)).status == 200
    got = await world.call("GET", "/bucket/source")
    assert got.body == BODY
    assert got.headers["content-type"] == "binary/octet-stream"
    assert got.headers["x-amz-meta-shape"] == "round"
    assert "x-amz-meta-color" not in got.headers
    assert await world.tag_text("/bucket/source") == "u=2"


@pytest.mark.parametrize(
    ("target", "headers", "code"),
    [
        ("/bucket/source", {}, "InvalidRequest"),
        ("/bucket/k", {"x-amz-metadata-directive": "MOVE"}, "InvalidArgument"),
        ("/bucket/k", {"x-amz-copy-source": "bucket/none"}, "NoSuchKey"),
        ("/bucket/k", {"x-amz-copy-source": "nowhere/source"}, "NoSuchBucket"),
        ("/bucket/k", {"x-amz-copy-source": "bucket"}, "InvalidArgument"),
        ("/bucket/k", {"x-amz-copy-source": "bucket/source?versionId=v7"}, "NoSuchVersion"),
        ("/bucket/k", {"x-amz-copy-source-if-match": '"x"'}, "PreconditionFailed"),
        ("/bucket/k", {"x-amz-copy-source-if-none-match": ETAG}, "PreconditionFailed"),
        ("/bucket/k", {"x-amz-copy-source-if-modified-since": FUTURE}, "PreconditionFailed"),
        ("/bucket/k", {"x-amz-copy-source-if-unmodified-since": PAST}, "PreconditionFailed"),
        ("/bucket/k", {"if-match": "*"}, "NoSuchKey"),
        ("/bucket/source", {"x-amz-metadata-directive": "REPLACE", "if-none-match": "*"}, "PreconditionFailed"),
        ("/bucket/k", {"x-amz-checksum-algorithm": "CRC16"}, "InvalidRequest"),
    ],
)
async def test_refused_copies(world: World, target: str, headers: Headers, code: str) -> None:
    answer = await world.call("PUT", target, {"x-amz-copy-source": "bucket/source"} | headers)
    assert answer.code == code
    if target.endswith("/k"):
        assert (await world.call("GET", target)).code == "NoSuchKey"


async def test_conditions_that_hold(world: World) -> None:
    headers = {
        "x-amz-copy-source": "bucket/source?versionId=null",
        "x-amz-copy-source-if-match": ETAG,
        "x-amz-copy-source-if-none-match": '"x"',
        "if-none-match": "*",
    }
    assert (await world.call("PUT", "/bucket/k", headers)).status == 200


async def test_a_source_one_may_not_read(world: World) -> None:
    assert (await world.call("PUT", "/others", access_key="OTHER")).status == 200
    copy = {"x-amz-copy-source": "bucket/source"}
    assert (await world.call("PUT", "/others/k", copy, access_key="OTHER")).code == "AccessDenied"


async def test_a_checksum_made_for_the_copy(world: World) -> None:
    expected = b64encode(sha256(BODY).digest()).decode()
    headers = {"x-amz-copy-source": "bucket/source", "x-amz-checksum-algorithm": "SHA256"}
    copied = await world.call("PUT", "/bucket/k", headers)
    assert copied.text("ChecksumSHA256") == expected
    head = await world.call("HEAD", "/bucket/k", {"x-amz-checksum-mode": "ENABLED"})
    assert head.headers["x-amz-checksum-sha256"] == expected
    again = await world.call("PUT", "/bucket/k2", {"x-amz-copy-source": "bucket/k"})
    assert again.text("ChecksumSHA256") == expected


@pytest.mark.parametrize("source", ["bucket", "far", "folder"])
@pytest.mark.parametrize("target", ["second", "far", "folder"])
async def test_copies_cross_origins(world: World, source: str, target: str) -> None:
    copied = await world.call("PUT", f"/{target}/k", {"x-amz-copy-source": f"{source}/source"})
    assert copied.status == 200
    got = await world.call("GET", f"/{target}/k")
    assert got.body == BODY
    assert got.headers["etag"] == copied.text("ETag")
    assert got.headers["content-type"] == "a/b" or "folder" in (source, target)


@pytest.mark.parametrize("source", ["bucket", "far", "folder"])
@pytest.mark.parametrize("target", ["second", "far"])
async def test_a_range_as_a_part(world: World, source: str, target: str) -> None:
    upload = (await world.call("POST", f"/{target}/k?uploads")).text("UploadId")
    part = f"/{target}/k?partNumber=1&uploadId={upload}"
    copy = {"x-amz-copy-source": f"{source}/source"}
    for bad in ("0-2", "bytes=0", "bytes=hello-world", "bytes=0-2,3-5"):
        answer = await world.call("PUT", part, copy | {"x-amz-copy-source-range": bad})
        assert answer.code == "InvalidArgument"
    past = await world.call("PUT", part, copy | {"x-amz-copy-source-range": f"bytes=0-{len(BODY)}"})
    assert past.code == "InvalidRange"
    made = await world.call("PUT", part, copy | {"x-amz-copy-source-range": "bytes=10-4009"})
    assert made.text("ETag") == f'"{md5(BODY[10:4010], usedforsecurity=False).hexdigest()}"'
    whole = await world.call("PUT", part.replace("partNumber=1", "partNumber=2"), copy)
    assert whole.text("ETag") == ETAG
    document = (
        f"<CompleteMultipartUpload><Part><PartNumber>2</PartNumber><ETag>{ETAG}</ETag></Part></CompleteMultipartUpload>"
    )
    done = await world.call("POST", f"/{target}/k?uploadId={upload}", {}, document.encode())
    assert done.status == 200
    assert (await world.call("GET", f"/{target}/k")).body == BODY


async def test_a_part_of_what_is_not_there(world: World) -> None:
    upload = (await world.call("POST", "/bucket/k?uploads")).text("UploadId")
    part = f"/bucket/k?partNumber=1&uploadId={upload}"
    await world.call("PUT", "/bucket/any%2525.txt", {}, BODY)
    assert (await world.call("PUT", part, {"x-amz-copy-source": "bucket/any%25.txt"})).code == "NoSuchKey"
    assert (await world.call("PUT", part, {"x-amz-copy-source": "bucket/any%2525.txt"})).status == 200
    other = f"/bucket/k?partNumber=1&uploadId={'0' * 32}"
    assert (await world.call("PUT", other, {"x-amz-copy-source": "bucket/source"})).code == "NoSuchUpload"
