"""Multipart uploads of the embedded store."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from awscrt import checksums as crt

from headrace.base import rng
from headrace.base.errors import Conflict, Invalid, NotFound
from headrace.model.objects import Attributes, Conditions, PartInfo
from headrace.origin.base import Located, Upload
from headrace.origin.checksums import ALGORITHMS, Checksum, composite, full_object
from headrace.origin.complete import CompletePart
from headrace.origin.store import Store
from headrace.origin.store_bucket import StoreBucket
from headrace.testing.origin_calls import bodies_left, body_files, broken, fails, read, upload

PART = rng.seeded("part").randbytes(5 * 1024 * 1024)
TAIL = b"the last part may be short"


@pytest_asyncio.fixture
async def bucket(tmp_path: Path) -> AsyncIterator[StoreBucket]:
    """A bucket of a fresh store."""
    store = Store.open(tmp_path / "store")
    await store.create_bucket("bucket")
    yield store.bucket("bucket")
    store.close()


def named(*parts: PartInfo) -> list[CompletePart]:
    """The parts as a client names them."""
    return [CompletePart(part.number, part.etag, part.checksums) for part in parts]


def md5(*data: bytes) -> bytes:
    """MD5 of the joined bytes."""
    return hashlib.md5(b"".join(data), usedforsecurity=False).digest()


async def two_parts(bucket: StoreBucket, upload_id: str) -> list[PartInfo]:
    """The parts 2 and 7 of an upload."""
    return [await bucket.put_part(upload_id, 2, upload(PART)), await bucket.put_part(upload_id, 7, upload(TAIL))]


async def test_the_parts_files_become_the_object(bucket: StoreBucket, tmp_path: Path) -> None:
    """Nothing is copied; the ETag is S3's; attributes are those the upload began with."""
    upload_id = await bucket.create_upload("k", Attributes(headers={"content-type": "a/b"}, owner="ann"))
    parts = await two_parts(bucket, upload_id)
    before = set(body_files(tmp_path / "store").values())
    await fails("NoSuchKey", NotFound, bucket.head("k"))
    info = await bucket.complete_upload("k", upload_id, named(*parts))
    assert info.etag == hashlib.md5(md5(PART) + md5(TAIL), usedforsecurity=False).hexdigest() + "-2"
    assert info.size == len(PART) + len(TAIL)
    assert [(part.number, part.size) for part in info.parts] == [(2, len(PART)), (7, len(TAIL))]
    assert (info.attributes.headers, info.attributes.owner) == ({"content-type": "a/b"}, "ann")
    assert await bucket.head("k") == info
    assert await read(bucket, "k") == PART + TAIL
    assert await read(bucket, "k", len(PART) - 3, len(PART) + 3) == PART[-3:] + TAIL[:3]
    assert set(body_files(tmp_path / "store").values()) == before
    await bucket.delete("k")
    await bodies_left(tmp_path / "store", 0)


async def test_completing_again_gives_the_same_answer(bucket: StoreBucket) -> None:
    """Also after the object was replaced; every other call finds the upload gone."""
    upload_id = await bucket.create_upload("k")
    parts = named(*await two_parts(bucket, upload_id))
    first = await bucket.complete_upload("k", upload_id, parts)
    assert await bucket.complete_upload("k", upload_id, parts) == first
    await bucket.put("k", upload(b"newer"))
    assert await bucket.complete_upload("k", upload_id, parts, Conditions(if_none_match=("*",))) == first
    assert await read(bucket, "k") == b"newer"
    await fails("NoSuchUpload", NotFound, bucket.complete_upload("other", upload_id, parts))
    await fails("NoSuchUpload", NotFound, bucket.abort_upload(upload_id))
    await fails("NoSuchUpload", NotFound, bucket.put_part(upload_id, 1, upload(b"x")))
    await fails("NoSuchUpload", NotFound, bucket.list_parts(upload_id))


async def test_what_cannot_be_completed(bucket: StoreBucket) -> None:
    """Each mistake gets S3's own error and leaves the upload as it was."""
    upload_id = await bucket.create_upload("k")
    two, seven = named(*await two_parts(bucket, upload_id))
    eight = named(await bucket.put_part(upload_id, 8, upload(b"short too")))[0]
    for kind, parts in (
        ("MalformedXML", []),
        ("InvalidPartOrder", [seven, two]),
        ("InvalidPartOrder", [two, two]),
        ("InvalidPart", [two, CompletePart(3, two.etag)]),
        ("InvalidPart", [CompletePart(2, seven.etag), seven]),
        ("EntityTooSmall", [two, seven, eight]),
    ):
        await fails(kind, Invalid, bucket.complete_upload("k", upload_id, parts))
    await fails("NoSuchUpload", NotFound, bucket.complete_upload("k", "none", [two]))
    await fails("InvalidRequest", Invalid, bucket.complete_upload("k", upload_id, [two], expected_size=1))
    await fails("NoSuchKey", NotFound, bucket.complete_upload("k", upload_id, [two], Conditions(if_match=("*",))))
    await bucket.put("k", upload(b"there"))
    create = Conditions(if_none_match=("*",))
    await fails("PreconditionFailed", Conflict, bucket.complete_upload("k", upload_id, [two], create))
    assert await read(bucket, "k") == b"there"
    assert [part.number for part in (await bucket.list_parts(upload_id)).parts] == [2, 7, 8]
    await bucket.complete_upload("k", upload_id, [two, CompletePart(7, f'"{seven.etag}"')])
    assert await read(bucket, "k") == PART + TAIL


async def test_parts_are_replaced_and_aborted(bucket: StoreBucket, tmp_path: Path) -> None:
    """A part sent again takes the earlier one's place; unused and aborted parts leave no file."""
    upload_id = await bucket.create_upload("k")
    await bucket.put_part(upload_id, 1, upload(b"first"))
    second = await bucket.put_part(upload_id, 1, upload(b"second"))
    await bucket.put_part(upload_id, 2, upload(b"unused"))
    await fails(
        "BadDigest", Invalid, bucket.put_part(upload_id, 3, Upload(broken(b"x", Invalid("", kind="BadDigest"))))
    )
    await bodies_left(tmp_path / "store", 2)
    await bucket.complete_upload("k", upload_id, named(second))
    assert await read(bucket, "k") == b"second"
    await bodies_left(tmp_path / "store", 1)
    upload_id = await bucket.create_upload("other")
    await bucket.put_part(upload_id, 1, upload(b"aborted"))
    await fails("NoSuchUpload", NotFound, bucket.abort_upload(upload_id, "wrong key"))
    await bucket.abort_upload(upload_id, "other")
    await fails("NoSuchUpload", NotFound, bucket.abort_upload(upload_id))
    await bodies_left(tmp_path / "store", 1)
    await fails("InvalidArgument", Invalid, bucket.put_part(upload_id, 0, upload(b"")))
    await fails("InvalidArgument", Invalid, bucket.put_part(upload_id, 10_001, upload(b"")))


async def test_a_single_empty_part(bucket: StoreBucket) -> None:
    """An upload may consist of one part of no bytes."""
    upload_id = await bucket.create_upload("k", algorithm="crc32")
    part = await bucket.put_part(upload_id, 1, upload(b""))
    info = await bucket.complete_upload("k", upload_id, named(part))
    assert (info.size, await read(bucket, "k")) == (0, b"")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_checksums_are_computed_and_combined(bucket: StoreBucket, algorithm: str) -> None:
    """Parts that bring no checksum get theirs; the whole gets S3's composite or full-object value."""
    whole = Checksum(algorithm)
    whole.update(PART)
    whole.update(TAIL)
    kinds = [("COMPOSITE", ""), ("FULL_OBJECT", "")]
    if algorithm.startswith("sha"):
        await fails(
            "InvalidRequest", Invalid, bucket.create_upload("k", algorithm=algorithm, checksum_type="FULL_OBJECT")
        )
        kinds.pop()
    if algorithm == "crc64nvme":
        await fails(
            "InvalidRequest", Invalid, bucket.create_upload("k", algorithm=algorithm, checksum_type="COMPOSITE")
        )
        kinds.pop(0)
    for checksum_type, _ in kinds:
        upload_id = await bucket.create_upload("k", algorithm=algorithm, checksum_type=checksum_type)
        parts = await two_parts(bucket, upload_id)
        digests = b"".join(base64.b64decode(part.checksums[algorithm]) for part in parts)
        joined = Checksum(algorithm)
        joined.update(digests)
        expected = whole.value() if checksum_type == "FULL_OBJECT" else f"{joined.value()}-2"
        wrong = {algorithm: "bad"}
        await fails("BadDigest", Invalid, bucket.complete_upload("k", upload_id, named(*parts), expected=wrong))
        info = await bucket.complete_upload(
            "k", upload_id, named(*parts), expected={algorithm: expected}, expected_type=checksum_type
        )
        assert dict(info.attributes.checksums) == {algorithm: expected}
        assert info.attributes.checksum_type == checksum_type


async def test_part_checksums_that_do_not_fit(bucket: StoreBucket) -> None:
    """A part of another algorithm is refused; so is a part named with another checksum than it has."""
    upload_id = await bucket.create_upload("k", algorithm="crc32c")
    other = Attributes(checksums={"sha1": "x"})
    await fails("InvalidRequest", Invalid, bucket.put_part(upload_id, 1, upload(b"x", other)))
    part = await bucket.put_part(upload_id, 1, upload(b"x"))
    forged = CompletePart(1, part.etag, {"crc32c": "AAAAAA=="})
    await fails("InvalidPart", Invalid, bucket.complete_upload("k", upload_id, [forged]))
    await fails("InvalidRequest", Invalid, bucket.create_upload("k", algorithm="md4"))


def test_published_checksum_values() -> None:
    """Composite values as other servers' own tests have them (parts of 5 MiB of A, B and C)."""
    parts = [bytes([letter]) * (5 * 1024 * 1024) for letter in b"ABC"]
    values: dict[str, list[str]] = {}
    for algorithm in ("sha256", "crc64nvme", "crc32"):
        for part in parts:
            running = Checksum(algorithm)
            running.update(part)
            values.setdefault(algorithm, []).append(running.value())
    assert values["sha256"][0] == "275VF5loJr1YYawit0XSHREhkFXYkkPKGuoK0x9VKxI="
    assert composite("sha256", values["sha256"]) == "uWBwpe1dxI4Vw8Gf0X9ynOdw/SS6VBzfWm9giiv1sf4=-3"
    sized = [(value, 5 * 1024 * 1024) for value in values["crc64nvme"]]
    assert full_object("crc64nvme", sized) == "i+6LR0y3eFo="
    assert full_object("crc32", [(value, 5 * 1024 * 1024) for value in values["crc32"]]) == "WgDhBQ=="
    assert base64.b64decode(values["crc32"][0]) == crt.crc32(parts[0]).to_bytes(4, "big")
    with pytest.raises(Invalid):
        full_object("sha256", sized)
    with pytest.raises(Invalid):
        composite("crc32", ["not base64!"])


async def test_part_copies(bucket: StoreBucket, tmp_path: Path) -> None:
    """Large slices share the source's file, small ones get their own; both outlive the source."""
    await bucket.put("source", upload(PART + TAIL))
    source = await bucket.locate("source")
    upload_id = await bucket.create_upload("k", algorithm="crc32")
    large = await bucket.copy_part(upload_id, 1, source, 0, len(PART))
    small = await bucket.copy_part(upload_id, 2, source, len(PART))
    assert (large.etag, small.etag) == (md5(PART).hex(), md5(TAIL).hex())
    assert small.checksums == {"crc32": base64.b64encode(crt.crc32(TAIL).to_bytes(4, "big")).decode()}
    assert len(set(body_files(tmp_path / "store").values())) == 2
    await fails("InvalidRange", Invalid, bucket.copy_part(upload_id, 3, source, len(PART) + 100))
    await fails("NoSuchUpload", NotFound, bucket.copy_part("none", 3, source))
    await bucket.delete("source")
    await bucket.complete_upload("k", upload_id, named(large, small))
    assert await read(bucket, "k") == PART + TAIL
    upload_id = await bucket.create_upload("again")
    twice = await bucket.locate("k")
    across = await bucket.copy_part(upload_id, 1, twice, 10, len(PART) + 10)
    await bucket.complete_upload("again", upload_id, named(across))
    assert await read(bucket, "again") == PART[10:] + TAIL[:10]


async def test_part_copy_from_a_file_elsewhere(bucket: StoreBucket, tmp_path: Path) -> None:
    """Any file of this machine can be a source; one that is gone is SlowDown, and leaves nothing."""
    source = await bucket.put("source", upload(b"x" * 1000))
    file = tmp_path / "elsewhere"
    await asyncio.to_thread(file.write_bytes, b"y" * 1000)
    extent = (await bucket.locate("source")).extents[0]._replace(path=str(file))
    upload_id = await bucket.create_upload("k")
    part = await bucket.copy_part(upload_id, 1, Located(source, (extent,)), 5, 10)
    await bucket.complete_upload("k", upload_id, named(part))
    assert await read(bucket, "k") == b"yyyyy"
    upload_id = await bucket.create_upload("k")
    file.unlink()
    with pytest.raises(Exception, match="replaced meanwhile"):
        await bucket.copy_part(upload_id, 1, Located(source, (extent,)))
    await bodies_left(tmp_path / "store", 2)


async def test_list_parts_in_pages(bucket: StoreBucket) -> None:
    """Parts come by number; the marker is the last number of the page before."""
    upload_id = await bucket.create_upload("k", algorithm="sha1")
    for number in (30, 1, 20, 3):
        await bucket.put_part(upload_id, number, upload(b"x" * number))
    page = await bucket.list_parts(upload_id, limit=3)
    assert ([part.number for part in page.parts], page.next_after) == ([1, 3, 20], 20)
    assert page.upload.algorithm == "sha1"
    assert all(part.checksums["sha1"] and part.modified_ms for part in page.parts)
    page = await bucket.list_parts(upload_id, after=20, limit=1)
    assert ([part.number for part in page.parts], page.next_after) == ([30], None)
    assert (await bucket.list_parts(upload_id, limit=0)).parts == ()


async def test_list_uploads_in_pages(bucket: StoreBucket) -> None:
    """Uploads come by key and age, with prefix, delimiter and both markers."""
    made = [(key, await bucket.create_upload(key)) for key in ("a", "a", "b/1", "b/2", "c") for _ in range(2)]
    made.sort(key=lambda entry: (entry[0].encode(), entry[1]))
    for limit in (1, 3, 4, 100):
        found: list[tuple[str, str]] = []
        key, upload_id = "", ""
        while True:
            page = await bucket.list_uploads(key_marker=key, upload_id_marker=upload_id, limit=limit)
            found += [(entry.key, entry.upload_id) for entry in page.uploads]
            if page.next_key is None:
                break
            key, upload_id = page.next_key, page.next_upload_id
        assert found == made
    page = await bucket.list_uploads(delimiter="/", limit=5)
    assert ([entry.key for entry in page.uploads], page.prefixes, page.next_key) == (["a"] * 4, ("b/",), "b/")
    page = await bucket.list_uploads(delimiter="/", key_marker="b/")
    assert ([entry.key for entry in page.uploads], page.prefixes) == (["c", "c"], ())
    page = await bucket.list_uploads("b/", key_marker="b/1")
    assert [entry.key for entry in page.uploads] == ["b/2", "b/2"]
    assert (await bucket.list_uploads("none")).uploads == ()
