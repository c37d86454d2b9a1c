"""Short ways to say what a test does with an origin."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headrace.base.errors import HeadraceError
from headrace.model.objects import NO_ATTRIBUTES, NO_CONDITIONS, Attributes, Conditions
from headrace.origin.base import Origin, Upload


async def pieces(data: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    """The bytes in pieces of `size`."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def broken(data: bytes, error: Exception) -> AsyncIterator[bytes]:
    """The bytes, and then the error instead of an end."""
    async for piece in pieces(data):
        yield piece
    raise error


def upload(data: bytes, attributes: Attributes = NO_ATTRIBUTES, size: int = 65_536) -> Upload:
    """The bytes as a body with its length announced."""
    return Upload(pieces(data, size), size=len(data), attributes=attributes)


async def read(
    origin: Origin, key: str, start: int = 0, stop: int | None = None, conditions: Conditions = NO_CONDITIONS
) -> bytes:
    """The bytes of one open; checks that they are as many as the answer announced."""
    opened = await origin.open(key, start, stop, conditions)
    data = b"".join([piece async for piece in opened.body])
    assert len(data) == opened.length
    return data


async def every_page(origin: Origin, limit: int, prefix: str = "", delimiter: str = "") -> tuple[list[str], list[str]]:
    """All keys and prefixes of a listing, page by page; checks that pages keep their bounds."""
    keys: list[str] = []
    prefixes: list[str] = []
    after = ""
    while True:
        page = await origin.list(prefix, after=after, delimiter=delimiter, limit=limit)
        assert len(page.objects) + len(page.prefixes) <= limit
        keys += [info.key for info in page.objects]
        prefixes += page.prefixes
        if page.next_after is None:
            return keys, prefixes
        assert page.objects or page.prefixes
        assert page.next_after.encode() > after.encode()
        after = page.next_after


async def fails(kind: str, error: type[HeadraceError], call: Any) -> None:
    """Check that awaiting `call` raises `error` of that kind."""
    with pytest.raises(error) as caught:
        await call
    assert caught.value.kind == kind


def body_files(store: Path) -> dict[str, int]:
    """Inodes of the body files of an embedded store that hold something, by name."""
    found: dict[str, int] = {}
    for file in (store / "bodies").glob("*/*"):
        with contextlib.suppress(FileNotFoundError):
            status = file.stat()
            if status.st_size:
                found[file.name] = status.st_ino
    return found


async def bodies_left(store: Path, count: int) -> None:
    """Wait until `count` bodies are left: replaced ones are unlinked a moment after the answer."""
    for _ in range(500):
        if len(body_files(store)) == count:
            break
        await asyncio.sleep(0.01)
    assert len(body_files(store)) == count
