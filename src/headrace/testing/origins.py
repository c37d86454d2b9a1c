"""The origin promise as tests. Anyone's origin inherits them:

    class TestMine(OriginTests):
        @pytest_asyncio.fixture
        async def origin(self):
            mine = MyOrigin(...)
            yield mine
            await mine.close()

The bucket must be empty at the start of each test. Attributes of the class say what an origin cannot
do by its nature; every other test must pass.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator

from headrace.base import rng
from headrace.base.errors import Conflict, HeadraceError, Invalid, NotFound
from headrace.model.objects import Attributes, Conditions, ObjectInfo
from headrace.origin.base import Origin, Page, Upload
from headrace.testing.origin_calls import broken, every_page, fails, pieces, read, upload


class OriginTests:
    """What every origin must do."""

    keeps_attributes = True
    """User metadata and content-type come back as given."""
    md5_etags = True
    """The ETag of an object put in one piece is its MD5."""
    keeps_old_bodies = True
    """A body that is being read stays readable when its object is overwritten or deleted."""
    conditional_deletes = True
    """delete() honours If-Match."""
    unusual_keys = (
        "plain",
        "with space",
        "a+b%2F?#&=",
        "ünïcødé",
        "日本/語",
        "emoji-😀",
        "tab\there",
        "dot.",
        "-",
        "~",
    )
    """Keys that must come back byte for byte."""

    # -- one object

    async def test_put_then_head_and_open(self, origin: Origin) -> None:
        """What was put is there at once, whole, under one version."""
        data = b"forty-two bytes are enough for one object."
        info = await origin.put("dir/object", upload(data))
        assert info.key == "dir/object"
        assert info.size == len(data)
        assert info.version.modified_ms > 0
        if self.md5_etags:
            assert info.etag == hashlib.md5(data, usedforsecurity=False).hexdigest()
        assert await origin.head("dir/object") == info
        opened = await origin.open("dir/object")
        assert opened.info.version == info.version
        assert (opened.start, opened.length) == (0, len(data))
        assert b"".join([piece async for piece in opened.body]) == data

    async def test_missing_objects(self, origin: Origin) -> None:
        """Reading what does not exist is NoSuchKey; deleting it is no error."""
        await fails("NoSuchKey", NotFound, origin.head("nothing"))
        await fails("NoSuchKey", NotFound, origin.open("nothing"))
        await origin.put("present/below", upload(b"x"))
        await fails("NoSuchKey", NotFound, origin.head("present"))
        await fails("NoSuchKey", NotFound, origin.head("present/"))
        await origin.delete("nothing")

    async def test_empty_object(self, origin: Origin) -> None:
        """An empty object is an object; reading it from its start yields nothing."""
        info = await origin.put("empty", upload(b""))
        assert info.size == 0
        assert (await origin.head("empty")).version == info.version
        assert await read(origin, "empty") == b""
        await fails("InvalidRange", Invalid, origin.open("empty", 1))

    async def test_large_body_in_odd_pieces(self, origin: Origin) -> None:
        """A body of many pieces arrives in order and whole, with and without an announced length."""
        data = rng.seeded(7).randbytes(3 * 1024 * 1024 + 17)
        for number, size in enumerate((1000, 65_537, 2 * 1024 * 1024)):
            await origin.put(f"large-{number}", Upload(pieces(data, size)))
            assert await read(origin, f"large-{number}") == data

    async def test_attributes_come_back(self, origin: Origin) -> None:
        """Headers, metadata and trailing checksums are those the upload had when its body ended."""
        if not self.keeps_attributes:
            return
        early = Attributes(headers={"content-type": "image/png"}, metadata={"colour": "blue", "ä": "ö"})
        crc = base64.b64encode(b"1234").decode()
        late = Attributes(
            headers=early.headers, metadata=early.metadata, checksums={"crc32": crc}, checksum_type="FULL_OBJECT"
        )

        async def body() -> AsyncIterator[bytes]:
            yield b"pixels"
            sent.attributes = late

        sent = Upload(body(), size=6, attributes=early)
        await origin.put("picture", sent)
        found = (await origin.head("picture")).attributes
        assert dict(found.headers)["content-type"] == "image/png"
        assert dict(found.metadata) == {"colour": "blue", "ä": "ö"}
        assert dict(found.checksums) == {"crc32": crc}
        assert found.checksum_type == "FULL_OBJECT"

    async def test_unusual_keys(self, origin: Origin) -> None:
        """Keys are bytes: none is folded, trimmed, decoded or joined."""
        for key in self.unusual_keys:
            await origin.put(key, upload(key.encode()))
        for key in self.unusual_keys:
            assert await read(origin, key) == key.encode()
        keys, _ = await every_page(origin, 1000)
        assert keys == sorted(self.unusual_keys, key=str.encode)

    async def test_refused_keys_leave_nothing(self, origin: Origin) -> None:
        """A key that is too long, or that the origin cannot keep, is refused whole."""
        await fails("KeyTooLongError", Invalid, origin.put("x" * 1025, upload(b"x")))
        await origin.delete("a/../b")
        assert await origin.list() == Page((), (), None)

    # -- ranges

    async def test_ranges(self, origin: Origin) -> None:
        """First, inner, last, suffix and clipped ranges; InvalidRange when nothing is selected."""
        data = bytes(range(256)) * 20
        size = len(data)
        await origin.put("r", upload(data))
        for start, stop in ((0, 1), (0, size), (1, 2), (100, 4000), (size - 1, size), (5000, size + 999), (7, None)):
            assert await read(origin, "r", start, stop) == data[start:stop]
        assert await read(origin, "r", -5) == data[-5:]
        assert await read(origin, "r", -size - 5) == data
        opened = await origin.open("r", 10, 20)
        assert (opened.start, opened.length, opened.info.size) == (10, 10, size)
        assert b"".join([piece async for piece in opened.body]) == data[10:20]
        await fails("InvalidRange", Invalid, origin.open("r", size))
        await fails("InvalidRange", Invalid, origin.open("r", size + 5, size + 9))

    async def test_body_given_up(self, origin: Origin) -> None:
        """A reader may stop in the middle."""
        await origin.put("r", upload(bytes(1 << 20)))
        opened = await origin.open("r")
        async for _ in opened.body:
            break
        await opened.body.aclose()  # type: ignore[attr-defined]
        assert await read(origin, "r", 0, 10) == bytes(10)

    # -- conditions

    async def test_conditional_reads(self, origin: Origin) -> None:
        """If-Match, If-None-Match and the dates, each held and failed."""
        info = await origin.put("c", upload(b"conditional"))
        seconds = info.version.modified_ms // 1000
        for held in (
            Conditions(if_match=(info.etag,)),
            Conditions(if_match=("*",)),
            Conditions(if_match=("other", info.etag)),
            Conditions(if_none_match=("other",)),
            Conditions(if_modified_since=seconds - 10),
            Conditions(if_unmodified_since=seconds),
            Conditions(if_match=(info.etag,), if_unmodified_since=seconds - 10),
        ):
            assert await read(origin, "c", conditions=held) == b"conditional"
        for kind, failed in (
            ("PreconditionFailed", Conditions(if_match=("other",))),
            ("PreconditionFailed", Conditions(if_unmodified_since=seconds - 10)),
            ("NotModified", Conditions(if_none_match=(info.etag,))),
            ("NotModified", Conditions(if_none_match=("*",))),
            ("NotModified", Conditions(if_modified_since=seconds)),
        ):
            await fails(kind, Conflict, origin.open("c", conditions=failed))

    async def test_conditional_puts(self, origin: Origin) -> None:
        """Create-if-absent and replace-if-same; a refused write changes nothing."""
        create = Conditions(if_none_match=("*",))
        first = await origin.put("c", upload(b"one"), create)
        await fails("PreconditionFailed", Conflict, origin.put("c", upload(b"two"), create))
        await fails("PreconditionFailed", Conflict, origin.put("c", upload(b"two"), Conditions(if_match=("no",))))
        assert await read(origin, "c") == b"one"
        second = await origin.put("c", upload(b"two"), Conditions(if_match=(first.etag,)))
        assert second.version != first.version
        assert await read(origin, "c") == b"two"
        await fails("NoSuchKey", NotFound, origin.put("absent", upload(b"x"), Conditions(if_match=("*",))))
        await fails("NoSuchKey", NotFound, origin.head("absent"))

    async def test_concurrent_creates_have_one_winner(self, origin: Origin) -> None:
        """Of many writers that create one key, exactly one is told it did, and its bytes are there."""
        bodies = [b"%d" % number * 1000 for number in range(12)]
        create = Conditions(if_none_match=("*",))
        results = await asyncio.gather(
            *(origin.put("race", upload(body), create) for body in bodies), return_exceptions=True
        )
        won = [number for number, result in enumerate(results) if isinstance(result, ObjectInfo)]
        assert len(won) == 1
        assert all(isinstance(result, Conflict) for number, result in enumerate(results) if number != won[0])
        assert await read(origin, "race") == bodies[won[0]]

    async def test_concurrent_puts_leave_one_whole_body(self, origin: Origin) -> None:
        """Unconditional writers of one key: one of the bodies, whole, and the version that belongs to it."""
        bodies = [bytes([number]) * 200_000 for number in range(8)]
        infos = await asyncio.gather(*(origin.put("race", upload(body)) for body in bodies))
        found = await read(origin, "race")
        assert found in bodies
        head = await origin.head("race")
        assert head.etag == infos[bodies.index(found)].etag

    async def test_conditional_delete(self, origin: Origin) -> None:
        """delete() with If-Match removes only that version, and is no error when there is nothing."""
        if not self.conditional_deletes:
            return
        info = await origin.put("c", upload(b"one"))
        await fails("PreconditionFailed", Conflict, origin.delete("c", Conditions(if_match=("other",))))
        assert await read(origin, "c") == b"one"
        await origin.delete("c", Conditions(if_match=(info.etag,)))
        await fails("NoSuchKey", NotFound, origin.head("c"))
        await origin.delete("c", Conditions(if_match=("other",)))

    # -- change

    async def test_overwrite(self, origin: Origin) -> None:
        """An overwrite shows at once, is a new version, and is not dated before the old one."""
        first = await origin.put("o", upload(b"first, which is longer"))
        second = await origin.put("o", upload(b"second"))
        assert second.version != first.version
        assert second.version.modified_ms >= first.version.modified_ms
        assert await read(origin, "o") == b"second"
        assert (await origin.head("o")).version == second.version
        assert len((await origin.list()).objects) == 1

    async def test_delete(self, origin: Origin) -> None:
        """A deleted object is gone from every view, and its key can be used again."""
        await origin.put("d/one", upload(b"1"))
        await origin.put("d/two", upload(b"2"))
        await origin.delete("d/one")
        await fails("NoSuchKey", NotFound, origin.head("d/one"))
        assert [info.key for info in (await origin.list()).objects] == ["d/two"]
        await origin.delete("d/two")
        assert await origin.list(delimiter="/") == Page((), (), None)
        await origin.put("d", upload(b"now no folder"))
        assert await read(origin, "d") == b"now no folder"

    async def test_reading_while_the_object_changes(self, origin: Origin) -> None:
        """A body that has begun ends as the version it began with, or fails; it never mixes two."""
        old = rng.seeded(1).randbytes(4 * 1024 * 1024)
        for change in ("overwrite", "delete"):
            await origin.put("w", upload(old))
            opened = await origin.open("w")
            got = [await anext(opened.body)]
            if change == "overwrite":
                await origin.put("w", upload(bytes(len(old))))
            else:
                await origin.delete("w")
            try:
                got += [piece async for piece in opened.body]
            except HeadraceError:
                assert not self.keeps_old_bodies
                continue
            assert b"".join(got) == old

    async def test_failed_body_leaves_nothing(self, origin: Origin) -> None:
        """A body that breaks off, at its start or far in, changes nothing and its error comes through."""
        digest = Invalid("the digest does not match", kind="BadDigest")
        await origin.put("kept", upload(b"kept"))
        for data in (b"", b"short", bytes(3 * 1024 * 1024)):
            await fails("BadDigest", Invalid, origin.put("broken", Upload(broken(data, digest), size=len(data))))
            await fails("NoSuchKey", NotFound, origin.head("broken"))
            await fails("BadDigest", Invalid, origin.put("kept", Upload(broken(data, digest))))
        assert await read(origin, "kept") == b"kept"
        assert [info.key for info in (await origin.list()).objects] == ["kept"]

    async def test_cancelled_put(self, origin: Origin) -> None:
        """A writer that is cancelled while its body stalls leaves nothing."""
        stalled = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield bytes(1 << 20)
            stalled.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(origin.put("stalled", Upload(body())))
        await stalled.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await fails("NoSuchKey", NotFound, origin.head("stalled"))
        assert (await origin.list()).objects == ()

    # -- listing

    async def test_list_is_in_byte_order(self, origin: Origin) -> None:
        """Keys come in UTF-8 byte order, across `/` too, with size, ETag and date as head says."""
        keys = ["a", "a-b", "a.b/c", "a/b", "a/b-c", "a/b/c", "a0", "aa/b", "b", "ä", "ñ", "ﬀ", "\U00010000"]
        keys = [key for key in keys if not any(other.startswith(key + "/") for other in keys)]
        for key in reversed(keys):
            await origin.put(key, upload(key.encode()))
        page = await origin.list()
        assert [info.key for info in page.objects] == sorted(keys, key=str.encode)
        assert page.next_after is None
        for info in page.objects:
            head = await origin.head(info.key)
            assert (info.version.etag, info.version.size) == (head.version.etag, head.version.size)
            assert info.version.modified_ms // 1000 == head.version.modified_ms // 1000

    async def test_list_pages(self, origin: Origin) -> None:
        """Pages of every size join to the whole, with a prefix, an `after` and a delimiter."""
        keys = sorted(
            [f"{first}{second}/{third}" for first in "ab" for second in "xyz" for third in "012"] + ["a0", "b0", "top"],
            key=str.encode,
        )
        for key in keys:
            await origin.put(key, upload(b"x"))
        for limit in (1, 2, 5, 1000):
            assert await every_page(origin, limit) == (keys, [])
            assert await every_page(origin, limit, prefix="a") == ([key for key in keys if key[0] == "a"], [])
            assert await every_page(origin, limit, prefix="ax/") == (["ax/0", "ax/1", "ax/2"], [])
            assert await every_page(origin, limit, delimiter="/") == (
                ["a0", "b0", "top"],
                ["ax/", "ay/", "az/", "bx/", "by/", "bz/"],
            )
            assert await every_page(origin, limit, prefix="b", delimiter="/") == (["b0"], ["bx/", "by/", "bz/"])
            assert await every_page(origin, limit, prefix="ax/", delimiter="/") == (["ax/0", "ax/1", "ax/2"], [])
        assert await every_page(origin, 10, prefix="nothing") == ([], [])
        assert [info.key for info in (await origin.list(after="b0")).objects] == [key for key in keys if key > "b0"]
        assert [info.key for info in (await origin.list(after="ay/1", limit=1)).objects] == ["ay/2"]
        assert await origin.list(limit=0) == Page((), (), None)

    async def test_list_next_after_is_exact(self, origin: Origin) -> None:
        """A full last page says that it is the last."""
        for key in ("a", "b/1", "b/2", "c"):
            await origin.put(key, upload(b"x"))
        page = await origin.list(delimiter="/", limit=3)
        assert page.next_after is None
        page = await origin.list(delimiter="/", limit=2)
        assert (page.next_after, page.prefixes) == ("b/", ("b/",))
        page = await origin.list(delimiter="/", limit=2, after="b/")
        assert [info.key for info in page.objects] == ["c"]
        assert page.next_after is None

    async def test_deep_keys_are_one_prefix(self, origin: Origin) -> None:
        """What lies below a common prefix is never listed beside it."""
        for number in range(30):
            await origin.put(f"deep/{number % 3}/{number}", upload(b"x"))
        await origin.put("deeper", upload(b"x"))
        assert await every_page(origin, 1000, delimiter="/") == (["deeper"], ["deep/"])
        assert await every_page(origin, 2, prefix="deep/", delimiter="/") == ([], ["deep/0/", "deep/1/", "deep/2/"])

    # -- on this machine

    async def test_locate(self, origin: Origin) -> None:
        """Where `local`, the extents hold the object's bytes, also through a delete once opened."""
        if not origin.local:
            return
        data = rng.seeded(2).randbytes(300_000)
        info = await origin.put("l", upload(data))
        located = await origin.locate("l")
        assert located.info.version == info.version
        assert sum(extent.length for extent in located.extents) == info.size
        descriptors = [open(extent.path, "rb") for extent in located.extents]  # noqa: SIM115, PTH123, ASYNC230 - held over the delete
        try:
            await origin.put("l", upload(b"new"))
            await origin.delete("l")
            found = b""
            for extent, file in zip(located.extents, descriptors, strict=True):
                file.seek(extent.offset)
                found += file.read(extent.length)
            assert found == data
        finally:
            for file in descriptors:
                file.close()
        await fails("NoSuchKey", NotFound, origin.locate("l"))
