"""The headers that describe an object, and what writers may say in theirs."""

import pytest

from headrace.base.errors import Invalid, NotFound
from headrace.gateway.copy_source import CopySource, parse_copy_source
from headrace.gateway.messages import Identity, Request
from headrace.gateway.object_headers import not_modified_headers, object_headers
from headrace.gateway.tags import checked_tags, parse_tag_document, parse_tag_header, tag_document
from headrace.gateway.write_attributes import check_key, request_attributes
from headrace.model.objects import Attributes, ObjectInfo, PartInfo, Version

ETAG = "37b51d194a7513e45b56f6524f2d51f2"
INFO = ObjectInfo(
    key="k",
    version=Version(ETAG, 783459811_900, 11),
    attributes=Attributes(
        headers={"content-type": "text/bla", "cache-control": "no-cache"},
        metadata={"foo": "bar"},
        tags={"a": "1", "b": "2"},
        checksums={"crc32": "AAAAAA=="},
        checksum_type="FULL_OBJECT",
    ),
)
BASE = [
    ("Last-Modified", "Sat, 29 Oct 1994 19:43:31 GMT"),
    ("ETag", f'"{ETAG}"'),
    ("Accept-Ranges", "bytes"),
    ("Cache-Control", "no-cache"),
    ("Content-Type", "text/bla"),
    ("x-amz-meta-foo", "bar"),
    ("x-amz-tagging-count", "2"),
]
CHECKSUM = [("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-type", "FULL_OBJECT")]


def test_plain_headers() -> None:
    assert object_headers(INFO) == BASE


def test_checksums_only_when_asked() -> None:
    assert object_headers(INFO, checksum_mode=True) == BASE + CHECKSUM


def test_a_part_shows_its_own_checksum() -> None:
    part = PartInfo(2, 4, ETAG, 0, {"crc32": "BBBBBB=="})
    headers = object_headers(INFO, checksum_mode=True, part=part, parts_count=3)
    assert ("x-amz-mp-parts-count", "3") in headers
    assert ("x-amz-checksum-crc32", "BBBBBB==") in headers


def test_overrides_replace_and_add() -> None:
    headers = dict(object_headers(INFO, overrides={"content-type": "x/y", "content-language": "eo"}))
    assert headers["Content-Type"] == "x/y"
    assert headers["Content-Language"] == "eo"
    assert headers["Cache-Control"] == "no-cache"


def test_a_tag_count_without_the_tags() -> None:
    info = ObjectInfo(key="k", version=Version("e", 0, 0), attributes=Attributes(headers={"x-amz-tagging-count": "3"}))
    assert ("x-amz-tagging-count", "3") in object_headers(info)


def test_defaults() -> None:
    headers = dict(object_headers(ObjectInfo(key="k", version=Version("e", 0, 0)), checksum_mode=True))
    assert headers["Content-Type"] == "binary/octet-stream"
    assert "x-amz-tagging-count" not in headers
    assert "x-amz-checksum-type" not in headers


def test_not_modified() -> None:
    assert [name for name, _ in not_modified_headers(INFO)] == ["Last-Modified", "ETag", "Cache-Control"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("b/k", CopySource("b", "k")),
        ("/b/k", CopySource("b", "k")),
        ("b//k", CopySource("b", "/k")),
        ("b/a%2Fb%20c", CopySource("b", "a/b c")),
        ("b/a+b", CopySource("b", "a+b")),
        ("b/any%2525.txt", CopySource("b", "any%25.txt")),
        ("b/%3FversionId", CopySource("b", "?versionId")),
        ("b/k?versionId=null", CopySource("b", "k")),
        ("b%2Fk", CopySource("b", "k")),
        ("b/\u00e9", CopySource("b", "\u00e9")),
    ],
)
def test_copy_source(header: str, expected: CopySource) -> None:
    assert parse_copy_source(header) == expected


@pytest.mark.parametrize("header", [None, "", "b", "/b", "b/", "/", "b/%ff", "b/%00", "arn:aws:s3:::x/object/k"])
def test_bad_copy_source(header: str | None) -> None:
    with pytest.raises(Invalid) as caught:
        parse_copy_source(header)
    assert caught.value.kind == "InvalidArgument"


def test_copy_source_of_another_version() -> None:
    with pytest.raises(NotFound) as caught:
        parse_copy_source("b/k?versionId=abc")
    assert caught.value.kind == "NoSuchVersion"


def test_tags_are_sorted_and_decoded() -> None:
    assert list(parse_tag_header("foo=bar&bar").items()) == [("bar", ""), ("foo", "bar")]
    assert parse_tag_header("a%20b=c%3Dd+e") == {"a b": "c=d e"}
    assert parse_tag_header(None) == {}
    assert tag_document({"b": "2", "a": "1"}) == {"TagSet": [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}]}
    assert parse_tag_document({"TagSet": [{"Key": "a"}, {"Key": "0", "Value": "x"}]}) == {"0": "x", "a": ""}
    assert parse_tag_document({}) == {}


@pytest.mark.parametrize(
    "pairs",
    [
        [("", "x")],
        [("k" * 129, "x")],
        [("k", "v" * 257)],
        [("a", "1"), ("a", "2")],
        [(str(number), "") for number in range(11)],
        [("a\r\n", "x")],
    ],
)
def test_tags_outside_the_limits(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(Invalid) as caught:
        checked_tags(pairs)
    assert caught.value.kind == "InvalidTag"


def test_tags_at_the_limits() -> None:
    assert len(checked_tags([(f"{number:0128d}", "v" * 256) for number in range(10)])) == 10


def _put(*headers: tuple[bytes, bytes]) -> Request:
    return Request(method="PUT", path=b"/b/k", query=b"", headers=list(headers), identity=Identity("AK", "me"))


def test_attributes_of_a_request() -> None:
    attributes = request_attributes(
        _put(
            (b"content-type", b"text/plain"),
            (b"content-encoding", b"aws-chunked, gzip"),
            (b"content-length", b"3"),
            (b"x-amz-meta-a", b"1"),
            (b"x-amz-meta-a", b"2"),
            (b"x-amz-meta-empty", b""),
            (b"x-amz-tagging", b"t=u"),
            (b"x-amz-storage-class", b"STANDARD"),
            (b"expires", b"Sat, 29 Oct 1994 19:43:31 GMT"),
        ),
        "public-read",
    )
    assert attributes == Attributes(
        headers={"content-encoding": "gzip", "content-type": "text/plain", "expires": "Sat, 29 Oct 1994 19:43:31 GMT"},
        metadata={"a": "1,2", "empty": ""},
        tags={"t": "u"},
        acl="public-read",
        owner="me",
    )


@pytest.mark.parametrize("value", [b"aws-chunked", b"aws-chunked, aws-chunked", b"AWS-chunked,"])
def test_transfer_coding_is_not_kept(value: bytes) -> None:
    assert request_attributes(_put((b"content-encoding", value))).headers == {}


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ((b"x-amz-storage-class", b"GLACIER"), "InvalidStorageClass"),
        ((b"x-amz-meta-a", b"x" * 2048), "MetadataTooLarge"),
        ((b"x-amz-server-side-encryption-customer-algorithm", b"AES256"), "NotImplemented"),
        ((b"x-amz-object-lock-mode", b"GOVERNANCE"), "NotImplemented"),
        ((b"x-amz-tagging", b"a=1&a=2"), "InvalidTag"),
        ((b"x-amz-tagging", b"a=%ff"), "InvalidArgument"),
        ((b"x-amz-tagging", b"&".join(b"%d=" % n for n in range(100))), "InvalidArgument"),
    ],
)
def test_attributes_outside_the_limits(header: tuple[bytes, bytes], kind: str) -> None:
    with pytest.raises(Invalid) as caught:
        request_attributes(_put(header))
    assert caught.value.kind == kind


def test_metadata_is_utf_8_or_else_latin_1() -> None:
    assert request_attributes(_put((b"x-amz-meta-a", "Hällo\u4e16".encode()))).metadata["a"] == "Hällo\u4e16"
    assert request_attributes(_put((b"x-amz-meta-a", "Hällo".encode("latin-1")))).metadata["a"] == "Hällo"


@pytest.mark.parametrize(
    ("key", "kind"), [("", "InvalidURI"), ("a\0b", "InvalidURI"), ("\u4e16" * 342, "KeyTooLongError")]
)
def test_bad_keys(key: str, kind: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_key(key)
    assert caught.value.kind == kind


def test_longest_key() -> None:
    check_key("\u4e16" * 341 + "a")
