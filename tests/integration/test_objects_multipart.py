"""Multipart uploads: in the embedded store, and staged for origins that know none."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from hashlib import md5

import pytest
import pytest_asyncio
from object_world import Answer, Distant, Headers, World

from headrace.base.errors import Unavailable
from headrace.origin.checksums import ALGORITHMS, Checksum
from headrace.origin.folder import Folder
from headrace.origin.store import Store

PART = 5 * 1024 * 1024
BUCKETS = ("bucket", "far", "folder")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A gateway with a bucket of its own, a distant one and a folder, for all tests of this file."""
    base = tmp_path_factory.mktemp("gateway")
    world = World(base)
    distant = Store.open(base / "distant")
    asyncio.run(distant.create_bucket("far"))
    (base / "folder").mkdir()
    folder = Folder(base / "folder")
    world.bind("far", Distant(distant, "far"))
    world.bind("folder", folder)
    asyncio.run(world.call("PUT", "/bucket"))
    yield world
    asyncio.run(folder.close())
    distant.close()
    world.close()


@pytest_asyncio.fixture
async def world(gateway: World) -> AsyncIterator[World]:
    """The gateway, empty."""
    yield gateway
    await gateway.clear()


def _document(*parts: tuple[int, str], extra: str = "") -> bytes:
    entries = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag>{extra}</Part>" for n, etag in parts)
    return f"<CompleteMultipartUpload>{entries}</CompleteMultipartUpload>".encode()


async def _begin(world: World, target: str, headers: Headers | None = None) -> str:
    answer = await world.call("POST", f"{target}?uploads", headers)
    assert answer.status == 200
    return answer.text("UploadId")


async def _part(world: World, target: str, upload: str, number: int, body: bytes) -> str:
    answer = await world.call("PUT", f"{target}?partNumber={number}&uploadId={upload}", {}, body)
    assert answer.status == 200
    return answer.headers["etag"]


async def _complete(
    world: World, target: str, upload: str, parts: list[tuple[int, str]], headers: Headers | None = None
) -> Answer:
    return await world.call("POST", f"{target}?uploadId={upload}", headers, _document(*parts))


@pytest.mark.parametrize("bucket", BUCKETS)
async def test_parts_become_one_object(world: World, bucket: str) -> None:
    target = f"/{bucket}/k"
    upload = await _begin(world, target, {"content-type": "a/b", "x-amz-meta-color": "blue"})
    bodies = {7: b"c" * 3, 2: b"a" * PART, 3: b"x" * 10}
    etags = {number: await _part(world, target, upload, number, body) for number, body in bodies.items()}
    etags[3] = await _part(world, target, upload, 3, b"b" * PART)
    assert (await world.call("GET", target)).code == "NoSuchKey"
    listed = await world.call("GET", f"{target}?uploadId={upload}&max-parts=2")
    assert listed.texts("Part/PartNumber") == ["2", "3"]
    assert listed.texts("Part/Size") == [str(PART), str(PART)]
    assert (listed.text("IsTruncated"), listed.text("NextPartNumberMarker")) == ("true", "3")
    rest = await world.call("GET", f"{target}?uploadId={upload}&part-number-marker=3")
    assert (rest.texts("Part/PartNumber"), rest.text("IsTruncated")) == (["7"], "false")
    parts = sorted(etags.items())
    done = await _complete(world, target, upload, parts)
    assert done.status == 200
    assert done.text("Location").endswith(target)
    got = await world.call("GET", target)
    assert got.body == b"a" * PART + b"b" * PART + b"ccc"
    assert got.headers["etag"] == done.text("ETag")
    if bucket != "folder":
        raw = b"".join(bytes.fromhex(etag.strip('"')) for _, etag in parts)
        assert done.text("ETag") == f'"{md5(raw, usedforsecurity=False).hexdigest()}-3"'
        assert (got.headers["content-type"], got.headers["x-amz-meta-color"]) == ("a/b", "blue")
    again = await _complete(world, target, upload, parts)
    assert again.status == 200
    assert (await world.call("GET", f"{target}?uploadId={upload}")).code == "NoSuchUpload"


async def test_parts_are_read_by_number(world: World) -> None:
    upload = await _begin(world, "/bucket/k")
    parts = [(n, await _part(world, "/bucket/k", upload, n, body)) for n, body in ((1, b"a" * PART), (2, b"bb"))]
    await _complete(world, "/bucket/k", upload, parts)
    second = await world.call("GET", "/bucket/k?partNumber=2")
    assert (second.status, second.body, second.headers["x-amz-mp-parts-count"]) == (206, b"bb", "2")
    assert second.headers["content-range"] == f"bytes {PART}-{PART + 1}/{PART + 2}"
    assert (await world.call("HEAD", "/bucket/k?partNumber=1")).headers["content-length"] == str(PART)
    assert (await world.call("GET", "/bucket/k?partNumber=3")).code == "InvalidPart"
    across = await world.call("GET", "/bucket/k", {"range": f"bytes={PART - 2}-{PART}"})
    assert across.body == b"aab"
    wanted = {"x-amz-object-attributes": "ObjectParts", "x-amz-max-parts": "1", "x-amz-part-number-marker": "1"}
    page = await world.call("GET", "/bucket/k?attributes", wanted)
    assert page.text("ObjectParts/PartsCount") == "2"
    assert page.texts("ObjectParts/Part/PartNumber") == ["2"]
    assert page.text("ObjectParts/IsTruncated") == "false"


@pytest.mark.parametrize("bucket", BUCKETS)
async def test_refused_completions(world: World, bucket: str) -> None:
    target = f"/{bucket}/k"
    upload = await _begin(world, target)
    small = await _part(world, target, upload, 1, b"small")
    last = await _part(world, target, upload, 2, b"last")

    async def complete(*parts: tuple[int, str], **headers: str) -> Answer:
        return await _complete(world, target, upload, list(parts), headers)

    assert (await complete()).code == "MalformedXML"
    assert (await complete((1, small), (2, last))).code == "EntityTooSmall"
    assert (await complete((2, last), (1, small))).code == "InvalidPartOrder"
    assert (await complete((9, last))).code == "InvalidPart"
    assert (await complete((1, "f" * 32))).code == "InvalidPart"
    assert (await complete((1, small), **{"x-amz-mp-object-size": "4"})).code == "InvalidRequest"
    assert (await complete((1, small), **{"if-match": "*"})).code == "NoSuchKey"
    unknown = await _complete(world, target, "0" * 44, [(1, small)])
    assert unknown.code == "NoSuchUpload"
    assert (await world.call("GET", target)).code == "NoSuchKey"
    done = await complete((1, small), **{"if-none-match": "*", "x-amz-mp-object-size": "5"})
    assert done.status == 200
    assert (await world.call("GET", target)).body == b"small"


@pytest.mark.parametrize("bucket", BUCKETS)
async def test_aborting(world: World, bucket: str) -> None:
    target = f"/{bucket}/k"
    assert (await world.call("DELETE", f"{target}?uploadId=none")).code == "NoSuchUpload"
    assert (await world.call("PUT", f"{target}?partNumber=1&uploadId=none", {}, b"x")).code == "NoSuchUpload"
    upload = await _begin(world, target)
    etag = await _part(world, target, upload, 1, b"x")
    assert (await world.call("DELETE", f"/{bucket}/other?uploadId={upload}")).code == "NoSuchUpload"
    assert (await world.call("DELETE", f"{target}?uploadId={upload}")).status == 204
    assert (await world.call("DELETE", f"{target}?uploadId={upload}")).code == "NoSuchUpload"
    assert (await _complete(world, target, upload, [(1, etag)])).code == "NoSuchUpload"


@pytest.mark.parametrize("number", ["0", "10001", "-1", "x", ""])
async def test_part_numbers_have_bounds(world: World, number: str) -> None:
    upload = await _begin(world, "/bucket/k")
    answer = await world.call("PUT", f"/bucket/k?partNumber={number}&uploadId={upload}", {}, b"x")
    assert answer.code == "InvalidArgument"


def _sum(algorithm: str, body: bytes) -> bytes:
    checksum = Checksum(algorithm)
    checksum.update(body)
    return checksum.digest()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_checksums_of_the_whole(world: World, algorithm: str) -> None:
    full = algorithm.startswith("crc")
    kind = "FULL_OBJECT" if full else "COMPOSITE"
    headers = {"x-amz-checksum-algorithm": algorithm.upper(), "x-amz-checksum-type": kind}
    upload = await _begin(world, "/bucket/k", headers)
    bodies = [b"a" * PART, b"b" * 1000]
    name = f"x-amz-checksum-{algorithm}"
    parts = []
    for number, body in enumerate(bodies, 1):
        value = b64encode(_sum(algorithm, body)).decode()
        sent = {name: value} if number == 1 else {}
        answer = await world.call("PUT", f"/bucket/k?partNumber={number}&uploadId={upload}", sent, body)
        assert answer.headers[name] == value
        parts.append((number, answer.headers["etag"]))
    sums = [_sum(algorithm, body) for body in bodies]
    whole = _sum(algorithm, b"".join(bodies)) if full else _sum(algorithm, b"".join(sums))
    expected = b64encode(whole).decode() + ("" if full else "-2")
    assert (await _complete(world, "/bucket/k", upload, parts, {name: "bad"})).code == "BadDigest"
    done = await _complete(world, "/bucket/k", upload, parts, {name: expected, "x-amz-checksum-type": kind})
    assert done.text(f"Checksum{algorithm.upper()}") == expected
    assert done.text("ChecksumType") == kind
    shown = await world.call("HEAD", "/bucket/k", {"x-amz-checksum-mode": "ENABLED"})
    assert (shown.headers[name], shown.headers["x-amz-checksum-type"]) == (expected, kind)
    part = await world.call("GET", "/bucket/k?partNumber=2", {"x-amz-checksum-mode": "ENABLED"})
    assert part.headers[name] == b64encode(sums[1]).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-checksum-algorithm": "SHA256", "x-amz-checksum-type": "FULL_OBJECT"},
        {"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "COMPOSITE"},
        {"x-amz-checksum-algorithm": "CRC16"},
        {"x-amz-checksum-type": "COMPOSITE"},
    ],
)
async def test_checksum_kinds_that_do_not_exist(world: World, headers: Headers) -> None:
    assert (await world.call("POST", "/bucket/k?uploads", headers)).code == "InvalidRequest"


@pytest.mark.parametrize("bucket", BUCKETS)
async def test_listing_uploads(world: World, bucket: str) -> None:
    nothing = await world.call("GET", f"/{bucket}?uploads")
    assert (nothing.status, nothing.texts("Upload")) == (200, [])
    for key in ("a", "b/1", "b/2", "c d"):
        await _begin(world, f"/{bucket}/{key}")
    assert (await world.call("GET", f"/{bucket}?uploads")).texts("Upload/Key") == ["a", "b/1", "b/2", "c d"]
    shown = await world.call("GET", f"/{bucket}?uploads&delimiter=/&encoding-type=url")
    assert shown.texts("Upload/Key") == ["a", "c%20d"]
    assert shown.texts("CommonPrefixes/Prefix") == ["b/"]
    assert (await world.call("GET", f"/{bucket}?uploads&prefix=b/")).texts("Upload/Key") == ["b/1", "b/2"]
    found, markers = [], ""
    for _ in range(10):
        page = await world.call("GET", f"/{bucket}?uploads&max-uploads=1{markers}")
        found += page.texts("Upload/Key")
        if page.text("IsTruncated") == "false":
            break
        markers = f"&key-marker={page.text('NextKeyMarker')}&upload-id-marker={page.text('NextUploadIdMarker')}"
        markers = markers.replace(" ", "%20")
    assert found == ["a", "b/1", "b/2", "c d"]
    assert (await world.call("GET", f"/{bucket}?uploads&encoding-type=x")).code == "InvalidArgument"


async def test_staged_buckets_are_out_of_reach(world: World) -> None:
    upload = await _begin(world, "/far/k")
    await _part(world, "/far/k", upload, 1, b"x")
    assert (await world.call("GET", "/")).texts("Buckets/Bucket/Name") == ["bucket", "far", "folder"]
    for name in ("%00uploads%2Ffar", "uploads", "uploads%2Ffar"):
        assert (await world.call("GET", f"/{name}?uploads")).code in {"NoSuchBucket", "InvalidURI"}


async def test_a_completion_that_the_origin_refused_can_be_repeated_or_aborted(world: World) -> None:
    distant = world.bound.targets["far"].origin
    assert isinstance(distant, Distant)
    for ending in ("repeat", "abort"):
        upload = await _begin(world, "/far/k")
        etag = await _part(world, "/far/k", upload, 1, b"body")
        distant.failure = Unavailable("the origin is away")
        assert (await _complete(world, "/far/k", upload, [(1, etag)])).code == "ServiceUnavailable"
        distant.failure = None
        assert (await world.call("GET", "/far/k")).code == "NoSuchKey"
        if ending == "abort":
            assert (await world.call("DELETE", f"/far/k?uploadId={upload}")).status == 204
            assert (await world.call("GET", "/far/k")).code == "NoSuchKey"
            assert (await _complete(world, "/far/k", upload, [(1, etag)])).code == "NoSuchUpload"
            assert (await world.call("DELETE", f"/far/k?uploadId={upload}")).code == "NoSuchUpload"
            continue
        assert (await _complete(world, "/far/k", upload, [(1, etag)])).status == 200
        assert (await world.call("GET", "/far/k")).body == b"body"
        assert (await world.call("DELETE", "/far/k")).status == 204


async def test_a_completion_is_acknowledged_only_when_the_origin_has_it(world: World) -> None:
    distant = world.bound.targets["far"].origin
    assert isinstance(distant, Distant)
    lost, kept = [await _begin(world, "/far/k") for _ in range(2)]
    etags = [await _part(world, "/far/k", upload, 1, body) for upload, body in ((lost, b"lost"), (kept, b"kept"))]
    distant.failure = Unavailable("the origin is away")
    assert (await _complete(world, "/far/k", lost, [(1, etags[0])])).code == "ServiceUnavailable"
    distant.failure = None
    assert (await _complete(world, "/far/k", kept, [(1, etags[1])])).status == 200  # takes the other's hidden place
    assert (await _complete(world, "/far/k", lost, [(1, etags[0])])).code == "NoSuchUpload"
    assert (await world.call("GET", "/far/k")).body == b"kept"
    puts = distant.asked.count("put")
    assert (await _complete(world, "/far/k", kept, [(1, etags[1])])).status == 200
    assert distant.asked.count("put") == puts
    assert (await world.call("DELETE", f"/far/k?uploadId={kept}")).code == "NoSuchUpload"


async def test_tags_and_lists_stay_with_the_embedded_store(world: World) -> None:
    await world.call("PUT", "/far/k", {}, b"body")
    assert (await world.call("GET", "/far/k?tagging")).code == "NotImplemented"
    assert (await world.call("PUT", "/far/k?acl", {"x-amz-acl": "public-read"})).code == "NotImplemented"
    assert (await world.call("PUT", "/far/k?acl", {"x-amz-acl": "private"})).status == 200
    assert (await world.call("GET", "/far/k?acl")).texts("AccessControlList/Grant/Permission") == ["FULL_CONTROL"]


async def test_a_distant_object_answers_conditions_and_ranges_alike(world: World) -> None:
    body = b"0123456789"
    for bucket in ("bucket", "far"):
        await world.call("PUT", f"/{bucket}/k", {"content-type": "a/b", "x-amz-meta-color": "blue"}, body)
    etag = (await world.call("HEAD", "/bucket/k")).headers["etag"]
    for headers in (
        {},
        {"range": "bytes=2-4"},
        {"range": "bytes=-3"},
        {"range": "bytes=10-"},
        {"if-match": etag},
        {"if-match": '"x"'},
        {"if-none-match": etag},
        {"if-none-match": '"x"', "range": "bytes=0-0"},
        {"if-modified-since": "Sat, 29 Oct 2095 19:43:31 GMT"},
        {"if-unmodified-since": "Sat, 29 Oct 1994 19:43:31 GMT"},
    ):
        for method in ("GET", "HEAD"):
            near = await world.call(method, "/bucket/k", headers)
            far = await world.call(method, "/far/k", headers)
            assert (far.status, far.code) == (near.status, near.code)
            if near.status < 300:
                assert far.body == near.body
            shown = ("etag", "content-type", "content-range", "content-length", "x-amz-meta-color")
            if near.status < 400:
                assert [far.headers.get(name) for name in shown] == [near.headers.get(name) for name in shown]
                assert far.headers.get("x-cache", "BYPASS") == "BYPASS"
