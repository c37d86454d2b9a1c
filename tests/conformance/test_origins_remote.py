"""The origins that keep their bytes elsewhere hold the promise of every origin, as far as their store can."""

from __future__ import annotations

import base64
import zlib
from collections.abc import AsyncIterator

import pytest_asyncio

from headrace.base.errors import Conflict, Invalid, NotFound
from headrace.base.rng import token_hex
from headrace.model.objects import Attributes, Conditions
from headrace.origin.base import Origin, Page, Upload
from headrace.origin.objectstore import ObstoreOrigin
from headrace.origin.s3 import S3Account, S3Origin
from headrace.testing.origins import OriginTests, fails, read, upload
from headrace.testing.servers import S3Server


class TestMemory(OriginTests):
    """memory://"""

    md5_etags = False
    conditional_deletes = False
    unusual_keys = (*OriginTests.unusual_keys, "/", "//", "a//b", "../up", "nul\0byte", "line\nbreak")

    @pytest_asyncio.fixture
    async def origin(self) -> AsyncIterator[Origin]:
        origin = ObstoreOrigin.at(f"memory://{token_hex()}")
        yield origin
        await origin.close()


class TestS3(OriginTests):
    """s3:// at SeaweedFS, behind a prefix of a bucket that holds other keys too.

    SeaweedFS keeps keys as files in folders, which shows: those tests are told again without what it
    cannot do, since they are about our side of the line.
    """

    @pytest_asyncio.fixture
    async def origin(self, s3_server: S3Server) -> AsyncIterator[Origin]:
        account = S3Account(s3_server.url())
        if "conformance" not in await account.buckets():
            await account.client.answer("PUT", "", raw_path="conformance")
            for key in ("a", "p", "p!", "p0", "z"):
                await account.origin("conformance").put(key, upload(b"beside"))
        origin = S3Origin(s3_server.url("conformance", f"p/{token_hex(4)}%20x"))
        yield origin
        await origin.close()
        await account.close()

    async def test_missing_objects(self, origin: Origin) -> None:
        """Without the folder of a key, which is an object there."""
        await fails("NoSuchKey", NotFound, origin.head("nothing"))
        await fails("NoSuchKey", NotFound, origin.open("nothing"))
        await origin.delete("nothing")

    async def test_attributes_come_back(self, origin: Origin) -> None:
        """With a checksum that is true, and names that HTTP allows."""
        late = Attributes(
            headers={
                "content-type": "image/png",
                "cache-control": "no-store",
                "expires": "Thu, 01 Jan 2037 00:00:00 GMT",
            },
            metadata={"colour": "blue", "umlaut": "ö"},
            checksums={"crc32": base64.b64encode(zlib.crc32(b"pixels").to_bytes(4, "big")).decode()},
            checksum_type="FULL_OBJECT",
        )

        async def body() -> AsyncIterator[bytes]:
            yield b"pixels"
            sent.attributes = late

        sent = Upload(body(), size=6)
        info = await origin.put("picture", sent)
        assert info == await origin.head("picture")
        assert info.attributes == late
        opened = await origin.open("picture")
        assert opened.info == info
        assert b"".join([piece async for piece in opened.body]) == b"pixels"

    async def test_refused_keys_leave_nothing(self, origin: Origin) -> None:
        """Without keys that name folders above."""
        await fails("KeyTooLongError", Invalid, origin.put("x" * 1025, upload(b"x")))
        assert await origin.list() == Page((), (), None)

    async def test_conditional_puts(self, origin: Origin) -> None:
        """Without If-Match on a missing key, which is a failed condition there."""
        create = Conditions(if_none_match=("*",))
        first = await origin.put("c", upload(b"one"), create)
        await fails("PreconditionFailed", Conflict, origin.put("c", upload(b"two"), create))
        await fails("PreconditionFailed", Conflict, origin.put("c", upload(b"two"), Conditions(if_match=("no",))))
        assert await read(origin, "c") == b"one"
        await origin.put("c", upload(b"two"), Conditions(if_match=(first.etag,)))
        assert await read(origin, "c") == b"two"

    async def test_delete(self, origin: Origin) -> None:
        """Without the folder, which stays for a while."""
        await origin.put("one", upload(b"1"))
        await origin.put("two", upload(b"2"))
        await origin.delete("one")
        await fails("NoSuchKey", NotFound, origin.head("one"))
        assert [info.key for info in (await origin.list()).objects] == ["two"]

    async def test_list_is_in_byte_order(self, origin: Origin) -> None:
        """Within one folder."""
        keys = ["a", "a-b", "a.b", "a0", "b", "ä", "ñ", "ﬀ", "\U00010000"]
        for key in reversed(keys):
            await origin.put(key, upload(key.encode()))
        page = await origin.list()
        assert [info.key for info in page.objects] == sorted(keys, key=str.encode)
        for info in page.objects:
            head = await origin.head(info.key)
            assert (info.version.etag, info.version.size) == (head.version.etag, head.version.size)
            assert info.version.modified_ms // 1000 == head.version.modified_ms // 1000
