"""Objects of the embedded store through the operations: reads, writes, deletes, tags, ACLs, attributes."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from hashlib import md5, sha256

import pytest
import pytest_asyncio
from object_world import Answer, Headers, World

BODY = b"".join(number.to_bytes(4, "big") for number in range(2560))
ETAG = f'"{md5(BODY, usedforsecurity=False).hexdigest()}"'
PAST, FUTURE = "Sat, 29 Oct 1994 19:43:31 GMT", "Sat, 29 Oct 2095 19:43:31 GMT"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A gateway with a bucket, for all tests of this file."""
    world = World(tmp_path_factory.mktemp("gateway"))
    asyncio.run(world.call("PUT", "/bucket"))
    yield world
    world.close()


@pytest_asyncio.fixture
async def world(gateway: World) -> AsyncIterator[World]:
    """The gateway, empty."""
    yield gateway
    await gateway.clear()


async def test_what_is_put_is_read(world: World) -> None:
    headers = {
        "content-type": "text/plain",
        "cache-control": "public, max-age=14400",
        "content-encoding": "gzip, aws-chunked",
        "expires": FUTURE,
        "x-amz-meta-color": "blue",
        "x-amz-meta-empty": "",
        "x-amz-tagging": "b=2&a",
    }
    put = await world.call("PUT", "/bucket/a key//b", headers, BODY)
    assert (put.status, put.headers["etag"]) == (200, ETAG)
    got = await world.call("GET", "/bucket/a key//b")
    assert (got.status, got.body) == (200, BODY)
    head = await world.call("HEAD", "/bucket/a key//b")
    assert (head.status, head.headers["content-length"]) == (200, str(len(BODY)))
    for answer in (got, head):
        expected = headers | {
            "content-encoding": "gzip",
            "x-amz-tagging-count": "2",
            "etag": ETAG,
            "accept-ranges": "bytes",
        }
        del expected["x-amz-tagging"]
        assert expected.items() <= answer.headers.items()
    assert got.headers["x-headrace-source"] in {"memory", "device"}
    assert await world.tag_text("/bucket/a key//b") == "a=,b=2"


async def test_an_empty_object(world: World) -> None:
    assert (await world.call("PUT", "/bucket/k")).status == 200
    got = await world.call("GET", "/bucket/k")
    assert (got.status, got.body) == (200, b"")
    assert (await world.call("HEAD", "/bucket/k")).headers["content-length"] == "0"
    assert (await world.call("GET", "/bucket/k", {"range": "bytes=0-0"})).code == "InvalidRange"
    assert (await world.call("GET", "/bucket/k?partNumber=1")).status == 200


@pytest.mark.parametrize(
    ("header", "status", "expected"),
    [
        ("bytes=4-7", 206, BODY[4:8]),
        ("bytes=4-", 206, BODY[4:]),
        ("bytes=-7", 206, BODY[-7:]),
        ("bytes=0-99999999", 206, BODY),
        ("bytes=0-1,4-5", 200, BODY),
        ("bytes=7-4", 200, BODY),
    ],
)
async def test_ranges(world: World, header: str, status: int, expected: bytes) -> None:
    await world.call("PUT", "/bucket/k", {}, BODY)
    got = await world.call("GET", "/bucket/k", {"range": header})
    assert (got.status, got.body) == (status, expected)
    head = await world.call("HEAD", "/bucket/k", {"range": header})
    assert (head.status, head.headers["content-length"]) == (status, str(len(expected)))
    assert got.headers.get("content-range") == head.headers.get("content-range")
    if status == 206:
        start = BODY.index(expected)
        assert got.headers["content-range"] == f"bytes {start}-{start + len(expected) - 1}/{len(BODY)}"


async def test_a_range_past_the_end(world: World) -> None:
    await world.call("PUT", "/bucket/k", {}, BODY)
    got = await world.call("GET", "/bucket/k", {"range": f"bytes={len(BODY)}-"})
    assert (got.status, got.code, got.headers["content-range"]) == (416, "InvalidRange", f"bytes */{len(BODY)}")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-match": ETAG}, 200),
        ({"if-match": f'"x", {ETAG}'}, 200),
        ({"if-match": '"x"'}, 412),
        ({"if-match": '""'}, 412),
        ({"if-none-match": ETAG}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"x"'}, 200),
        ({"if-modified-since": PAST}, 200),
        ({"if-modified-since": FUTURE}, 304),
        ({"if-unmodified-since": PAST}, 412),
        ({"if-unmodified-since": FUTURE}, 200),
        ({"if-match": ETAG, "if-unmodified-since": PAST}, 200),
        ({"if-none-match": '"x"', "if-modified-since": FUTURE}, 200),
        ({"if-none-match": ETAG, "if-modified-since": PAST}, 304),
        ({"if-match": '"x"', "range": "bytes=0-1"}, 412),
        ({"if-match": ETAG, "range": "bytes=0-1"}, 206),
    ],
)
async def test_conditional_reads(world: World, headers: Headers, status: int) -> None:
    await world.call("PUT", "/bucket/k", {}, BODY)
    for method in ("GET", "HEAD"):
        answer = await world.call(method, "/bucket/k", headers)
        assert answer.status == status
        if status == 304:
            assert answer.headers["etag"] == ETAG
    assert (await world.call("GET", "/bucket/missing", headers)).code == "NoSuchKey"


async def test_response_overrides_need_a_signature(world: World) -> None:
    await world.call("PUT", "/bucket/k", {"x-amz-acl": "public-read", "content-type": "a/b"}, BODY)
    query = "response-content-type=foo/bar&response-content-disposition=bla&response-expires=123"
    got = await world.call("GET", f"/bucket/k?{query}")
    assert (got.headers["content-type"], got.headers["content-disposition"]) == ("foo/bar", "bla")
    assert got.headers["expires"] == "123"
    assert (await world.call("GET", "/bucket/k", access_key="")).headers["content-type"] == "a/b"
    assert (await world.call("GET", f"/bucket/k?{query}", access_key="")).code == "InvalidRequest"
    split = await world.call("GET", "/bucket/k?response-content-type=a%0d%0aset-cookie:x")
    assert split.code == "InvalidArgument"


@pytest.mark.parametrize(
    ("target", "headers", "code"),
    [
        ("/bucket/k?partNumber=2", {}, "InvalidPart"),
        ("/bucket/k?partNumber=0", {}, "InvalidArgument"),
        ("/bucket/k?partNumber=10001", {}, "InvalidArgument"),
        ("/bucket/k?partNumber=x", {}, "InvalidArgument"),
        ("/bucket/k?partNumber=1", {"range": "bytes=0-1"}, "InvalidRequest"),
        ("/bucket/k?versionId=abc", {}, "NoSuchVersion"),
        ("/bucket/missing", {}, "NoSuchKey"),
        ("/missing/k", {}, "NoSuchBucket"),
    ],
)
async def test_refused_reads(world: World, target: str, headers: Headers, code: str) -> None:
    await world.call("PUT", "/bucket/k", {}, BODY)
    assert (await world.call("GET", target, headers)).code == code


async def test_the_null_version(world: World) -> None:
    await world.call("PUT", "/bucket/k", {}, BODY)
    assert (await world.call("GET", "/bucket/k?versionId=null")).body == BODY
    assert (await world.call("DELETE", "/bucket/k?versionId=abc")).code == "NoSuchVersion"
    assert (await world.call("DELETE", "/bucket/k?versionId=null")).status == 204
    assert (await world.call("GET", "/bucket/k")).code == "NoSuchKey"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-amz-storage-class": "GLACIER"}, "InvalidStorageClass"),
        ({"x-amz-acl": "nonsense"}, "InvalidArgument"),
        ({"x-amz-meta-a": "x" * 2048}, "MetadataTooLarge"),
        ({"x-amz-tagging": "&".join(f"k{n}=v" for n in range(11))}, "InvalidTag"),
        ({"x-amz-checksum-sha256": "bad"}, "BadDigest"),
        ({"content-md5": b64encode(bytes(16)).decode()}, "BadDigest"),
        ({"content-md5": "x"}, "InvalidDigest"),
        ({"x-amz-object-lock-mode": "COMPLIANCE"}, "NotImplemented"),
    ],
)
async def test_refused_writes_leave_nothing(world: World, headers: Headers, code: str) -> None:
    assert (await world.call("PUT", "/bucket/k", headers, BODY)).code == code
    assert (await world.call("GET", "/bucket/k")).code == "NoSuchKey"


async def test_keys_at_and_over_the_limit(world: World) -> None:
    assert (await world.call("PUT", f"/bucket/{'k' * 1024}", {}, b"x")).status == 200
    assert (await world.call("PUT", f"/bucket/{'k' * 1025}", {}, b"x")).code == "KeyTooLongError"
    assert (await world.call("GET", f"/bucket/{'k' * 1024}")).body == b"x"


async def test_chunked_coding_needs_no_length(world: World) -> None:
    put = await world.call("PUT", "/bucket/k", {"transfer-encoding": "chunked"}, BODY, chunked=True)
    assert put.status == 200
    assert (await world.call("GET", "/bucket/k")).body == BODY


async def test_conditional_writes(world: World) -> None:
    async def put(**headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await world.call("PUT", "/bucket/k", sent, BODY)

    assert (await put(if_match="*")).code == "NoSuchKey"
    assert (await put(if_match=ETAG)).code == "NoSuchKey"
    assert (await put(if_none_match="*")).status == 200
    assert (await put(if_none_match="*")).code == "PreconditionFailed"
    assert (await put(if_none_match=ETAG)).code == "PreconditionFailed"
    assert (await put(if_none_match="other")).status == 200
    assert (await put(if_match="other")).code == "PreconditionFailed"
    assert (await put(if_match=ETAG)).status == 200
    assert (await world.call("DELETE", "/bucket/k", {"if-match": "other"})).code == "PreconditionFailed"
    assert (await world.call("DELETE", "/bucket/k", {"x-amz-if-match-size": "1"})).code == "PreconditionFailed"
    assert (await world.call("DELETE", "/bucket/k", {"if-match": ETAG})).status == 204
    assert (await world.call("DELETE", "/bucket/k", {"if-match": ETAG})).status == 204


async def test_checksums_are_echoed_stored_and_shown_when_asked(world: World) -> None:
    value = b64encode(sha256(BODY).digest()).decode()
    put = await world.call("PUT", "/bucket/k", {"x-amz-checksum-sha256": value}, BODY)
    assert put.headers["x-amz-checksum-sha256"] == value
    assert "x-amz-checksum-sha256" not in (await world.call("GET", "/bucket/k")).headers
    for mode in ("ENABLED", "enabled"):
        shown = await world.call("HEAD", "/bucket/k", {"x-amz-checksum-mode": mode})
        assert shown.headers["x-amz-checksum-sha256"] == value
        assert shown.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    ranged = await world.call("GET", "/bucket/k", {"x-amz-checksum-mode": "ENABLED", "range": "bytes=0-3"})
    assert "x-amz-checksum-sha256" not in ranged.headers


def _delete(*entries: str, quiet: bool = False) -> tuple[Headers, bytes]:
    objects = "".join(f"<Object>{entry}</Object>" for entry in entries)
    body = f"<Delete>{'<Quiet>true</Quiet>' if quiet else ''}{objects}</Delete>".encode()
    return {"content-md5": b64encode(md5(body, usedforsecurity=False).digest()).decode()}, body


async def test_deleting_many(world: World) -> None:
    for key in ("a", "b", "c"):
        await world.call("PUT", f"/bucket/{key}", {}, BODY)
    answer = await world.call(
        "POST",
        "/bucket?delete",
        *_delete(
            "<Key>a</Key>",
            "<Key>never-was</Key>",
            "<Key>b</Key><ETag>other</ETag>",
            "<Key>c</Key><VersionId>null</VersionId>",
            "<Key>c</Key><VersionId>v1</VersionId>",
        ),
    )
    assert answer.status == 200
    assert answer.texts("Deleted/Key") == ["a", "never-was", "c"]
    assert answer.texts("Deleted/VersionId") == ["null"]
    assert answer.texts("Error/Key") == ["b", "c"]
    assert answer.texts("Error/Code") == ["PreconditionFailed", "NoSuchVersion"]
    quiet = await world.call("POST", "/bucket?delete", *_delete("<Key>b</Key>", quiet=True))
    assert (quiet.status, len(quiet.xml)) == (200, 0)
    assert (await world.call("GET", "/bucket/b")).code == "NoSuchKey"


async def test_deleting_many_is_bounded_and_protected(world: World) -> None:
    headers, body = _delete(*[f"<Key>k{number}</Key>" for number in range(1001)])
    assert (await world.call("POST", "/bucket?delete", headers, body)).code == "MalformedXML"
    assert (await world.call("POST", "/bucket?delete", *_delete())).code == "MalformedXML"
    headers, body = _delete("<Key>k</Key>")
    assert (await world.call("POST", "/bucket?delete", {}, body)).code == "InvalidRequest"
    crc = {"x-amz-checksum-sha256": b64encode(sha256(body).digest()).decode()}
    assert (await world.call("POST", "/bucket?delete", crc, body)).status == 200


async def test_deleting_what_belongs_to_others(world: World) -> None:
    await world.call("PUT", "/bucket/k", {}, BODY)
    answer = await world.call("POST", "/bucket?delete", *_delete("<Key>k</Key>"), access_key="OTHER")
    assert answer.texts("Error/Code") == ["AccessDenied"]
    assert (await world.call("GET", "/bucket/k")).body == BODY


async def test_tags(world: World) -> None:
    await world.call("PUT", "/bucket/k", {}, BODY)
    document = "<Tagging><TagSet>{}</TagSet></Tagging>".format
    tag = "<Tag><Key>{}</Key><Value>{}</Value></Tag>".format
    put = await world.call("PUT", "/bucket/k?tagging", {}, document(tag("z", "1") + tag("a", "2")).encode())
    assert put.status == 200
    assert await world.tag_text("/bucket/k") == "a=2,z=1"
    excess = document("".join(tag(n, n) for n in range(11)))
    assert (await world.call("PUT", "/bucket/k?tagging", {}, excess.encode())).code == "InvalidTag"
    assert (await world.call("HEAD", "/bucket/k")).headers["x-amz-tagging-count"] == "2"
    assert (await world.call("DELETE", "/bucket/k?tagging")).status == 204
    assert await world.tag_text("/bucket/k") == ""
    assert (await world.call("GET", "/bucket/none?tagging")).code == "NoSuchKey"


async def test_access_lists(world: World) -> None:
    await world.call("PUT", "/bucket/k", {}, BODY)
    assert (await world.call("GET", "/bucket/k", access_key="OTHER")).code == "AccessDenied"
    assert (await world.call("PUT", "/bucket/k?acl", {"x-amz-acl": "public-read"})).status == 200
    assert (await world.call("GET", "/bucket/k", access_key="")).body == BODY
    shown = await world.call("GET", "/bucket/k?acl")
    assert sorted(shown.texts("AccessControlList/Grant/Permission")) == ["FULL_CONTROL", "READ"]
    owner = f"<Owner><ID>{shown.text('Owner/ID')}</ID></Owner>"
    grantee = (
        '<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser">'
        f"<ID>{world.other.user_id}</ID></Grantee>"
    )
    grant = f"<AccessControlList><Grant>{grantee}<Permission>READ</Permission></Grant></AccessControlList>"
    document = f"<AccessControlPolicy>{owner}{grant}</AccessControlPolicy>".encode()
    assert (await world.call("PUT", "/bucket/k?acl", {}, document)).status == 200
    assert (await world.call("GET", "/bucket/k", access_key="OTHER")).body == BODY
    assert (await world.call("GET", "/bucket/k", access_key="")).code == "AccessDenied"
    assert (await world.call("PUT", "/bucket/k?acl")).code == "MissingSecurityHeader"


async def test_attributes(world: World) -> None:
    value = b64encode(sha256(BODY).digest()).decode()
    await world.call("PUT", "/bucket/k", {"x-amz-checksum-sha256": value}, BODY)
    wanted = {"x-amz-object-attributes": "ETag,Checksum,ObjectParts,StorageClass,ObjectSize"}
    shown = await world.call("GET", "/bucket/k?attributes", wanted)
    assert shown.text("ETag") == ETAG.strip('"')
    assert shown.text("Checksum/ChecksumSHA256") == value
    assert shown.text("Checksum/ChecksumType") == "FULL_OBJECT"
    assert shown.text("StorageClass") == "STANDARD"
    assert shown.text("ObjectSize") == str(len(BODY))
    assert shown.xml.find("ObjectParts") is None
    only = await world.call("GET", "/bucket/k?attributes", {"x-amz-object-attributes": "ObjectSize"})
    assert [element.tag for element in only.xml] == ["ObjectSize"]
    bad = await world.call("GET", "/bucket/k?attributes", {"x-amz-object-attributes": "Color"})
    assert bad.code == "InvalidArgument"


async def test_an_answer_under_way_survives_overwrite_and_delete(world: World) -> None:
    await world.call("PUT", "/bucket/k", {}, BODY)
    origin = world.context.resolve("bucket").origin
    opened = await origin.open("k")
    await world.call("PUT", "/bucket/k", {}, b"other")
    await world.call("DELETE", "/bucket/k")
    assert b"".join([piece async for piece in opened.body]) == BODY
