"""Agent and reader together: what a gateway worker gets."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from cache_world import Node, drain, eventually, noise, read_piece

from headrace.base import errors, limits
from headrace.base.clock import SYSTEM
from headrace.cache.freshness import IMMUTABLE
from headrace.model.objects import Conditions, FileSlice
from headrace.wire.words import stripe

BLOCK = limits.BLOCK_BYTES


@pytest.mark.parametrize("size", [0, 1, 4096, 100_000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 77])
async def test_an_object_is_read_once_and_then_served_from_the_cache(tmp_path: Path, size: int) -> None:
    async with Node(tmp_path, "immutable") as node:
        data = noise(size)
        node.origin.set("a", data)
        got, answer = await node.get("a")
        assert got == data
        assert answer.cache == "MISS"
        await node.settled()
        reads = node.origin.reads
        assert reads == max(1, -(-size // BLOCK))
        got, answer = await node.get("a")
        assert got == data
        assert answer.cache == "HIT"
        assert answer.source == "memory"
        assert (node.origin.reads, node.origin.heads["a"]) == (reads, 0)
        hit = node.reader.hit_now(node.binding, "a")
        assert hit is not None
        assert b"".join(os.pread(fd, length, offset) for fd, offset, length in hit.pieces) == data


@pytest.mark.parametrize("rule", ["validate", "immutable"])
async def test_64_readers_of_a_cold_object_read_the_origin_once(tmp_path: Path, rule: str) -> None:
    async with Node(tmp_path, rule) as node:
        data = noise(2 * BLOCK + 5000)
        node.origin.set("a", data)
        other = await node.worker()
        readers = [node.reader, other] * 32
        answers = await asyncio.gather(*(node.get("a", reader=reader) for reader in readers))
        assert all(got == data for got, _ in answers)
        await node.settled()
        assert set(node.origin.opens.values()) == {1}
        assert node.origin.reads == 3


async def test_a_late_joiner_reads_what_is_there_before_the_fill_ends(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        data = noise(BLOCK)
        node.origin.set("a", data)
        node.origin.gate = asyncio.Event()
        first = await node.reader.open(node.binding, "a")
        piece = await anext(first.pieces)
        assert isinstance(piece, FileSlice)
        late = await (await node.worker()).open(node.binding, "a")
        joined = await anext(late.pieces)
        assert isinstance(joined, FileSlice)
        assert read_piece(joined) == data[: joined.length]
        assert node.origin.reads == 1
        node.origin.gate.set()
        rest = b"".join([read_piece(more) async for more in late.pieces])
        assert read_piece(joined) + rest == data
        assert read_piece(piece) + b"".join([read_piece(more) async for more in first.pieces]) == data
        assert node.origin.reads == 1


async def test_a_small_range_of_a_cold_block_is_answered_before_the_block_is_filled(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        data = noise(2 * BLOCK)
        node.origin.set("a", data)
        got, answer = await node.get("a", 5_000_000, 5_004_096)
        assert got == data[5_000_000:5_004_096]
        assert answer.cache == "MISS"
        assert node.origin.opens["a", 5_000_000, 5_004_096] == 1
        await eventually(lambda: node.origin.opens["a", BLOCK, 2 * BLOCK] == 1, "no fill behind the range")
        await node.settled()
        reads = node.origin.reads
        got, answer = await node.get("a", 5_000_000, 5_004_096)
        assert got == data[5_000_000:5_004_096]
        assert answer.cache == "REVALIDATED"
        got, answer = await node.get("a", 100, 4196)  # known now, but this block is missing
        assert got == data[100:4196]
        assert node.origin.opens["a", 100, 4196] == 1
        await node.settled()
        assert node.origin.reads == reads + 2
        got, answer = await node.get("a", -10)
        assert (got, answer.start) == (data[-10:], 2 * BLOCK - 10)


@pytest.mark.parametrize("how", ["bytes", "metadata only", "deleted"])
async def test_a_change_at_the_origin_shows_at_once_under_validate(tmp_path: Path, how: str) -> None:
    async with Node(tmp_path) as node:
        old, new = noise(BLOCK + 10, 1), noise(BLOCK + 10, 2)
        before = node.origin.set("a", old)
        await node.get("a")
        await node.settled()
        word = stripe("bucket", "a")
        stamp = node.words.view[word]
        if how == "deleted":
            await node.origin.delete("a")
            with pytest.raises(errors.NotFound):
                await node.get("a")
            node.origin.set("a", new)
            got, answer = await node.get("a")
            assert got == new
            return
        now = node.origin.set("a", new) if how == "bytes" else node.origin.touch("a")
        got, answer = await node.get("a")
        assert got == (new if how == "bytes" else old)
        assert answer.info.version == now != before
        assert node.words.view[word] != stamp
        await node.settled()
        got, answer = await node.get("a")
        assert answer.cache == "REVALIDATED"


async def test_a_lease_is_believed_until_it_ends_and_immutable_for_ever(tmp_path: Path) -> None:
    async with Node(tmp_path, "lease(1h)") as node:
        old, new = noise(1000, 1), noise(1000, 2)
        node.origin.set("a", old)
        await node.get("a")
        await node.settled()
        node.origin.set("a", new)
        got, answer = await node.get("a")
        assert (got, answer.cache) == (old, "HIT")
        assert answer.age_seconds >= 0
        got, answer = await node.get("a", rule=IMMUTABLE)
        assert got == old
        node.binding = node.binding._replace(rules=(("", "lease(1ms)"),))
        await asyncio.sleep(0.01)
        got, answer = await node.get("a")
        assert (got, answer.cache) == (new, "MISS")


class _SteppedBack:
    """A clock whose wall time an administrator has set an hour back."""

    def wall(self) -> float:
        return SYSTEM.wall() - 3600.0

    def steady(self) -> float:
        return SYSTEM.steady()


async def test_a_lease_is_not_lengthened_by_a_clock_that_steps_back(tmp_path: Path) -> None:
    async with Node(tmp_path, "lease(10m)") as node:
        node.origin.set("a", noise(1000, 1))
        await node.get("a")
        await node.settled()
        assert (await node.get("a"))[1].cache == "HIT"
        assert node.reader.hit_now(node.binding, "a") is not None
        node.origin.set("a", noise(1000, 2))
        node.reader._clock = _SteppedBack()
        assert node.reader.hit_now(node.binding, "a") is None
        assert (await node.get("a", rule=IMMUTABLE))[1].age_seconds == 0
        assert (await node.get("a"))[0] == noise(1000, 2)


async def test_an_object_that_changes_under_a_read_is_looked_up_again(tmp_path: Path) -> None:
    async with Node(tmp_path, "immutable") as node:
        node.origin.set("a", noise(3 * BLOCK, 1))
        await node.get("a", 0, 2_000_000)
        await node.settled()
        new = noise(3 * BLOCK + 9, 2)
        node.origin.set("a", new)
        got, answer = await node.get("a", BLOCK + 1, None)  # immutable: believed, until If-Match says no
        assert got == new[BLOCK + 1 :]
        assert answer.info.size == len(new)
        assert node.reader.counts["changed"] == 1


async def test_a_change_after_bytes_went_out_cuts_the_answer(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        node.origin.set("a", noise(20 * BLOCK, 1))
        answer = await node.reader.open(node.binding, "a")
        await anext(answer.pieces)
        node.origin.set("a", noise(20 * BLOCK, 2))
        with pytest.raises(errors.Conflict):
            await drain(answer)


async def test_conditions_are_judged_before_any_byte(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        version = node.origin.set("a", noise(1000))
        for _ in range(2):
            with pytest.raises(errors.Conflict) as refused:
                await node.get("a", conditions=Conditions(if_none_match=(version.etag,)))
            assert refused.value.kind == "NotModified"
            with pytest.raises(errors.Conflict) as refused:
                await node.get("a", conditions=Conditions(if_match=("other",)))
            assert refused.value.kind == "PreconditionFailed"
            with pytest.raises(errors.Invalid) as invalid:
                await node.get("a", 5000, 6000)
            assert invalid.value.kind == "InvalidRange"
            await node.get("a")
