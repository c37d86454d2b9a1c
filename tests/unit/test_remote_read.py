"""Reads through the cache's reader: what the answer says of the cache, and a HEAD that stages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest

from headrace.base.errors import Busy, Conflict, Unavailable
from headrace.gateway.messages import Request, Response
from headrace.gateway.objects_read import get_object, head_object
from headrace.model.bindings import Binding
from headrace.model.objects import Conditions, ObjectInfo, Version

INFO = ObjectInfo(key="k", version=Version("abc", 783459811_000, 10))
BODY = b"0123456789"


class _Known(NamedTuple):
    info: ObjectInfo
    age_seconds: float
    confirmed: bool
    fresh: bool


class _Answer(NamedTuple):
    info: ObjectInfo
    start: int
    length: int
    age_seconds: float
    cache: str
    pieces: AsyncIterator[bytes]
    source: str


@dataclass
class FakeReader:
    """A reader that answers what it is told to."""

    cache: str = "HIT"
    known: _Known = field(default_factory=lambda: _Known(INFO, 12.7, False, False))
    error: Exception | None = None
    refusal: Exception | None = None
    staged: list[str] = field(default_factory=list)
    ranges: list[tuple[int, int | None]] = field(default_factory=list)

    @property
    def client(self) -> FakeReader:
        """It is its own client."""
        return self

    async def stage(self, binding: Binding, key: str) -> None:
        """Note it."""
        self.staged.append(f"{binding.bucket}/{key}")
        if self.refusal is not None:
            raise self.refusal

    async def head(self, binding: Binding, key: str) -> _Known:
        """What was set."""
        return self.known

    async def open(
        self,
        binding: Binding,
        key: str,
        byte_range: tuple[int, int | None],
        conditions: Conditions,
    ) -> _Answer:
        """The bytes, or the error that was set."""
        self.ranges.append(byte_range)
        if self.error is not None:
            raise self.error
        start, stop, _ = slice(*byte_range).indices(len(BODY))
        return _Answer(INFO, start, stop - start, 12.7, self.cache, self._pieces(BODY[start:stop]), "device")

    async def _pieces(self, body: bytes) -> AsyncIterator[bytes]:
        yield body


async def _call(reader: FakeReader, method: str, **headers: str) -> Response:
    binding = Binding(1, "far", "s3://far")
    origin = SimpleNamespace(local=False, writable=True, url="s3://far")
    target = SimpleNamespace(bucket="far", origin=origin, binding=binding)
    context = cast(Any, SimpleNamespace(reader=reader, resolve=lambda _bucket: target))
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    request = Request(method, b"/far/k", b"", sent, "far", "k")
    return await (get_object if method == "GET" else head_object)(context, request, {})


async def test_what_an_answer_says_of_the_cache() -> None:
    for cache, age in (("HIT", "12"), ("MISS", "12"), ("REVALIDATED", "12"), ("BYPASS", None)):
        response = await _call(FakeReader(cache), "GET")
        headers = dict(response.headers)
        assert (headers["x-cache"], headers.get("x-headrace-age")) == (cache, age)
        assert headers["x-headrace-source"] == response.source == "device"
        assert (response.status, response.length) == (200, 10)
        assert not isinstance(response.body, bytes)
        assert [piece async for piece in response.body] == [BODY]


@pytest.mark.parametrize(
    ("header", "asked", "shown"),
    [
        ("bytes=2-4", (2, 5), "bytes 2-4/10"),
        ("bytes=7-", (7, None), "bytes 7-9/10"),
        ("bytes=-3", (-3, None), "bytes 7-9/10"),
    ],
)
async def test_a_range_is_asked_of_the_reader(header: str, asked: tuple[int, int | None], shown: str) -> None:
    reader = FakeReader()
    response = await _call(reader, "GET", range=header)
    assert reader.ranges == [asked]
    assert (response.status, dict(response.headers)["Content-Range"], response.length) == (206, shown, 3)


@pytest.mark.parametrize(
    ("confirmed", "fresh", "cache", "source"),
    [(False, False, "HIT", "memory"), (True, False, "REVALIDATED", "origin"), (False, True, "MISS", "origin")],
)
async def test_a_head_says_where_it_knows_from(confirmed: bool, fresh: bool, cache: str, source: str) -> None:
    reader = FakeReader(known=_Known(INFO, 3.0, confirmed, fresh))
    headers = dict((await _call(reader, "HEAD")).headers)
    assert (headers["x-cache"], headers["x-headrace-source"], headers["x-headrace-age"]) == (cache, source, "3")
    assert headers["Content-Length"] == "10"
    assert reader.staged == []


@pytest.mark.parametrize("refusal", [None, Busy("full"), Unavailable("no agent")])
async def test_a_head_of_the_first_byte_stages(refusal: Exception | None) -> None:
    reader = FakeReader(refusal=refusal)
    response = await _call(reader, "HEAD", range="bytes=0-0")
    assert reader.staged == ["far/k"]
    assert (response.status, dict(response.headers)["Content-Range"]) == (206, "bytes 0-0/10")


async def test_nothing_changed_names_the_etag_even_when_the_origin_does_not() -> None:
    reader = FakeReader(error=Conflict("not modified", kind="NotModified"))
    response = await _call(reader, "GET", if_none_match='"abc"')
    assert (response.status, dict(response.headers)["ETag"]) == (304, '"abc"')
    told = FakeReader(error=Conflict("not modified", kind="NotModified", details={"ETag": '"abc"'}))
    with pytest.raises(Conflict):
        await _call(told, "GET", if_none_match='"abc"')
