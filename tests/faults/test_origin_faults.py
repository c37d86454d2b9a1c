"""A misbehaving S3 origin: every failure is an error of its kind, in time, and no write is sent twice."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from headrace.base import rng
from headrace.base.errors import Busy, Conflict, Invalid, NotFound, Unavailable
from headrace.model.objects import Conditions
from headrace.origin.base import Opened, Upload
from headrace.origin.s3 import S3Account, S3Origin
from headrace.origin.s3client import Timeouts
from headrace.testing.faults import FaultProxy
from headrace.testing.origins import pieces, read, upload
from headrace.testing.servers import S3Server

DATA = rng.seeded("faults").randbytes(3_000_000)
QUICK = Timeouts(connect=3.0, first_byte=4.0, stall=2.0)


@pytest_asyncio.fixture
async def proxy(s3_server: S3Server) -> AsyncIterator[FaultProxy]:
    """A fault proxy in front of the server, which has a bucket `faults` with one object."""
    account = S3Account(s3_server.url())
    if "faults" not in await account.buckets():
        await account.client.answer("PUT", "", raw_path="faults")
    await account.origin("faults").put("object", upload(DATA))
    await account.close()
    async with FaultProxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def origin(proxy: FaultProxy, s3_server: S3Server) -> AsyncIterator[S3Origin]:
    """The bucket as seen through the proxy."""
    origin = S3Origin(s3_server.url("faults").replace(s3_server.endpoint, proxy.url), timeouts=QUICK)
    yield origin
    await origin.close()


async def collect(opened: Opened, got: bytearray) -> None:
    """Read to the end, keeping what came."""
    async for piece in opened.body:
        got += piece


async def test_without_faults_bytes_pass_unchanged(proxy: FaultProxy, origin: S3Origin) -> None:
    assert await read(origin, "object") == DATA
    info = await origin.put("copy", upload(DATA))
    assert info.etag == hashlib.md5(DATA, usedforsecurity=False).hexdigest()
    assert await read(origin, "copy", 1000, 2000) == DATA[1000:2000]
    assert proxy.count("PUT") == 1


@pytest.mark.parametrize("after", [0, 1, 1_000_000, len(DATA) - 1])
async def test_a_cut_body_is_an_error_and_never_a_short_one(proxy: FaultProxy, origin: S3Origin, after: int) -> None:
    proxy.add("cut", "GET .*object", after=after)
    opened = await origin.open("object")
    got = bytearray()
    with pytest.raises(Unavailable):
        await collect(opened, got)
    assert got == DATA[: len(got)]
    assert await read(origin, "object") == DATA


async def test_a_stalled_body_ends_in_time(proxy: FaultProxy, origin: S3Origin) -> None:
    proxy.add("stall", "GET .*object", after=500_000)
    opened = await origin.open("object")
    with pytest.raises(Unavailable):
        await asyncio.wait_for(collect(opened, bytearray()), 20)


async def test_a_slow_first_byte_is_unavailable_in_time_and_not_tried_again(
    proxy: FaultProxy, origin: S3Origin
) -> None:
    proxy.add("delay", "GET .*object", seconds=30, times=None)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(origin.open("object"), 20)
    assert proxy.count("GET .*object") == 1


async def test_a_burst_of_503_is_ridden_out(proxy: FaultProxy, origin: S3Origin) -> None:
    proxy.add("status", "GET .*object", status=503, times=2)
    assert await read(origin, "object") == DATA
    assert proxy.count("GET .*object") == 3


async def test_lasting_503_come_through_as_busy_within_the_budget(proxy: FaultProxy, origin: S3Origin) -> None:
    proxy.add("status", "GET|HEAD", status=503, times=None)
    for _ in range(15):
        with pytest.raises(Busy) as caught:
            await origin.open("object")
        assert caught.value.kind == "SlowDown"
    # 15 first tries, and 20 retries at most however many callers there are
    assert proxy.count("GET") <= 15 + 20


async def test_a_dropped_read_is_tried_again_but_a_write_is_not(proxy: FaultProxy, origin: S3Origin) -> None:
    proxy.add("lose", "GET .*object")
    assert await read(origin, "object") == DATA
    proxy.add("lose", "PUT .*once")
    with pytest.raises(Unavailable):
        await origin.put("once", upload(b"once"), Conditions(if_none_match=("*",)))
    assert proxy.count("PUT .*once") == 1
    assert await read(origin, "once") == b"once"  # it had happened: only the answer was lost
    await origin.delete("once")


@pytest.mark.parametrize("size", [10, 2_000_000])
async def test_a_refused_write_is_sent_once(proxy: FaultProxy, origin: S3Origin, size: int) -> None:
    proxy.add("status", "PUT", status=503, times=None)
    with pytest.raises((Busy, Unavailable)):
        await origin.put("refused", upload(bytes(size)))
    proxy.clear()
    assert proxy.count("PUT .*refused") == 1
    with pytest.raises(NotFound):
        await origin.head("refused")


async def test_another_version_behind_if_match_is_a_conflict(proxy: FaultProxy, origin: S3Origin) -> None:
    info = await origin.head("object")
    with pytest.raises(Conflict) as caught:
        await origin.open("object", 0, 10, Conditions(if_match=("0" * 32,)))
    assert caught.value.kind == "PreconditionFailed"
    proxy.add("etag", "GET .*object")
    opened = await origin.open("object", 0, 10, Conditions(if_match=(info.etag,)))
    assert opened.info.etag != info.etag  # it shows, so the cache can refuse to mix versions
    await opened.body.aclose()  # type: ignore[attr-defined]


async def test_corruption_passes_the_origin_and_is_for_checksums_to_find(proxy: FaultProxy, origin: S3Origin) -> None:
    proxy.add("corrupt", "GET .*object", after=1234)
    got = await read(origin, "object")
    assert [index for index in range(len(DATA)) if got[index] != DATA[index]] == [1234]


async def test_nobody_listens(s3_server: S3Server) -> None:
    origin = S3Origin(s3_server.url("faults").replace(s3_server.endpoint, "http://127.0.0.1:1"), timeouts=QUICK)
    with pytest.raises(Unavailable):
        await origin.head("object")
    await origin.close()


async def test_parts_that_fail_abort_the_upload(proxy: FaultProxy, origin: S3Origin) -> None:
    proxy.add("status", r"PUT .*partNumber=3", status=500)
    with pytest.raises(Unavailable):
        await origin.put("parts", Upload(pieces(bytes(40 * 1024 * 1024), 1024 * 1024)))
    assert proxy.count(r"DELETE .*uploadId=") == 1
    with pytest.raises(NotFound):
        await origin.head("parts")


async def test_a_large_body_goes_in_parts_and_a_bad_end_leaves_nothing(proxy: FaultProxy, origin: S3Origin) -> None:
    data = DATA * 8

    async def body() -> AsyncIterator[bytes]:
        async for piece in pieces(data, 700_000):
            yield piece
        raise Invalid("wrong digest", kind="BadDigest")

    with pytest.raises(Invalid, match="wrong digest"):
        await origin.put("parts", Upload(body()))
    assert proxy.count(r"DELETE .*uploadId=") == 1
    await origin.put("parts", Upload(pieces(data, 700_000)))
    assert await read(origin, "parts") == data
    await origin.delete("parts")


async def test_delay_and_rate_hold(proxy: FaultProxy, origin: S3Origin) -> None:
    loop = asyncio.get_running_loop()
    await origin.head("object")
    proxy.delay_seconds = 0.2
    began = loop.time()
    await origin.head("object")
    assert loop.time() - began >= 0.2
    proxy.delay_seconds = 0.0
    proxy.set_rate(10e6)
    began = loop.time()
    assert await read(origin, "object") == DATA
    assert loop.time() - began >= 0.9 * len(DATA) / 10e6 - 0.05
