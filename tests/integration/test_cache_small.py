"""Small blocks: answered with their bytes, written behind, checked without a thread."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from cache_world import Node, eventually, noise

from headrace.base import limits
from headrace.cache import hits, small
from headrace.cache.service import Connection
from headrace.media.frames import BlockName

SIZE = limits.SMALL_FILL_BYTES_MAX


@pytest.mark.parametrize("rule", ["validate", "immutable"])
async def test_a_small_object_is_answered_while_the_disk_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """Whoever asks meanwhile is answered too, and the origin is read once."""
    free, written = threading.Event(), os.pwrite

    def pwrite(descriptor: int, piece: bytes, offset: int) -> int:
        assert free.wait(20)
        return written(descriptor, piece, offset)

    async with Node(tmp_path, rule) as node:
        node.origin.set("before", b"x")
        await node.get("before")
        await node.settled()
        monkeypatch.setattr(os, "pwrite", pwrite)
        data = noise(SIZE)
        node.origin.set("a", data)
        try:
            for _ in range(3):
                got, answer = await node.get("a")
                assert (got, answer.cache, answer.source) == (data, "MISS", "origin")
        finally:
            free.set()
        await node.settled()
        assert node.origin.opens["a", 0, SIZE] == 1
        assert (await node.get("a"))[1].cache in {"HIT", "REVALIDATED"}


async def test_a_worker_that_lags_behind_reads_small_blocks_from_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "keeps_up", property(lambda _: False))
    async with Node(tmp_path, "immutable") as node:
        data = noise(5000)
        node.origin.set("a", data)
        got, answer = await node.get("a")
        assert (got, answer.cache) == (data, "MISS")
        await node.settled()
        assert (await node.get("a"))[1].cache == "HIT"


@pytest.mark.parametrize("lagging", [False, True])
async def test_a_small_block_that_the_disk_refuses_is_answered_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lagging: bool
) -> None:
    if lagging:
        monkeypatch.setattr(Connection, "keeps_up", property(lambda _: False))
    async with Node(tmp_path, "immutable") as node:
        node.origin.set("before", b"x")
        await node.get("before")
        await node.settled()

        def pwrite(descriptor: int, piece: bytes, offset: int) -> int:
            raise OSError(28, "No space left on device")

        data = noise(5000)
        node.origin.set("a", data)
        with monkeypatch.context() as broken:
            broken.setattr(os, "pwrite", pwrite)
            assert (await node.get("a"))[0] == data
            await node.settled()
            assert node.agent is not None
            assert node.agent.statistics().sick == ("disk-full",)
        assert (await node.get("a"))[1].cache == "BYPASS"


async def test_beyond_the_bound_small_blocks_are_taken_like_large_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SMALL_FILLS_PENDING_BYTES_MAX", 10_000)
    async with Node(tmp_path, "immutable") as node:
        for number in range(40):
            node.origin.set(f"k{number}", noise(4096, number))
        answers = await asyncio.gather(*(node.get(f"k{number}") for number in range(40)))
        assert [got for got, _ in answers] == [noise(4096, number) for number in range(40)]
        await node.settled()
        assert {(await node.get(f"k{number}"))[1].cache for number in range(40)} == {"HIT"}


async def test_blocks_that_wait_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    write_all = small._write_all
    monkeypatch.setattr(small, "_write_all", lambda batch: batches.append(len(batch)) or write_all(batch))
    async with Node(tmp_path, "immutable") as node:
        for number in range(32):
            node.origin.set(f"k{number}", noise(4096, number))
        await asyncio.gather(*(node.get(f"k{number}") for number in range(32)))
        await node.settled()
    assert sum(batches) == 32
    assert len(batches) < 32


async def test_a_small_block_is_a_hit_at_once_and_yet_checked_first(tmp_path: Path) -> None:
    async with Node(tmp_path, "immutable") as node:
        other = await node.worker()
        for key in ("good", "bad"):
            node.origin.set(key, noise(5000))
            await node.get(key)
        await node.settled()
        version = node.origin.objects["bad"][0]
        location = other.hits.find([BlockName("7", "bad", version, 0)])[0]
        assert location is not None
        with node.segments()[0].open("r+b") as file:
            file.seek(location.data_offset + 100)
            file.write(bytes(10))
        assert other.hit_now(node.binding, "good") is not None
        assert other.hit_now(node.binding, "bad") is None
        got, answer = await node.get("bad", reader=other)
        assert (got, answer.cache) == (noise(5000), "MISS")


@pytest.mark.parametrize("size", [5000, 300_000])
async def test_a_block_that_lies_cold_is_told_from_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Though the check brings it into memory before it is sent."""
    async with Node(tmp_path, "immutable") as node:
        node.origin.set("a", noise(size))
        await node.get("a")
        await node.settled()
        with monkeypatch.context() as cold:
            cold.setattr(hits, "resident", lambda *_: False)
            cold.setattr("headrace.cache.files.resident", lambda *_: False)
            assert (await node.get("a"))[1].source == "device"
            assert (await node.get("a"))[1].source == "device"
        await eventually(lambda: node.reader.hit_now(node.binding, "a") is not None, "not a hit")
        assert (await node.get("a"))[1].source == "memory"
