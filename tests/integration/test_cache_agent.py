"""Agent and reader together: what a gateway worker gets, whatever happens."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from cache_world import Node, drain, noise, read_piece

from headrace.base import errors, limits
from headrace.base.clock import steady
from headrace.cache.freshness import IMMUTABLE
from headrace.media.frames import BlockName
from headrace.model.objects import Conditions, FileSlice, ObjectInfo
from headrace.wire import agent as wire
from headrace.wire.words import stripe

BLOCK = limits.BLOCK_BYTES


async def eventually(holds: object, what: str) -> None:
    """Wait until `holds()`; a generous bound, so that time decides nothing."""
    for _ in range(4000):
        if holds():  # type: ignore[operator]
            return
        await asyncio.sleep(0.005)
    raise AssertionError(what)


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


async def test_a_failed_fill_fails_all_who_wait_with_its_kind(tmp_path: Path) -> None:
    async with Node(tmp_path, "immutable") as node:
        node.origin.set("a", noise(BLOCK))
        node.origin.fail_open = errors.Denied("no", kind="AccessDenied")
        answers = await asyncio.gather(*(node.get("a") for _ in range(8)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {errors.Denied}
        node.origin.fail_open = None
        node.origin.cut_after = BLOCK // 2
        with pytest.raises(errors.Unavailable):
            await node.get("a")
        node.origin.cut_after = None
        got, _ = await node.get("a")
        assert got == node.origin.objects["a"][1]


async def test_without_an_agent_reads_pass_through_and_come_back(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        data = noise(BLOCK + 1)
        node.origin.set("a", data)
        await node.get("a")
        await node.settled()
        await node.stop_agent()
        await eventually(lambda: not node.reader.client.connected, "the agent's end goes unnoticed")
        got, answer = await node.get("a", 5, 500)
        assert (got, answer.cache) == (data[5:500], "BYPASS")
        assert node.reader.counts["bypass agent-absent"] == 1
        await node.start_agent()
        await eventually(lambda: node.reader.client.connected, "no connection to the new agent")
        reads = node.origin.reads
        got, answer = await node.get("a")
        assert (got, answer.cache) == (data, "REVALIDATED")
        assert node.origin.reads == reads


async def test_the_agent_dies_while_a_fill_is_read(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        data = noise(3 * BLOCK)
        node.origin.set("a", data)
        node.origin.gate = asyncio.Event()
        answer = await node.reader.open(node.binding, "a")
        head = read_piece(await anext(answer.pieces))
        await node.stop_agent()
        node.origin.gate.set()
        rest = b"".join([read_piece(piece) async for piece in answer.pieces])
        assert head + rest == data
        assert node.reader.counts["bypass AgentGone"] >= 1


async def test_a_restart_adopts_the_cache_without_reading_the_origin(tmp_path: Path) -> None:
    async with Node(tmp_path, "immutable") as node:
        data = {f"k{number}": noise(50_000 * number + 1, number) for number in range(8)}
        data["big"] = noise(2 * BLOCK + 1, 99)
        for key, value in data.items():
            node.origin.set(key, value)
            await node.get(key)
        await node.settled()
        await node.stop_agent()
        await node.start_agent()
        assert node.agent is not None
        assert node.agent._index.state == "clean"
        await eventually(lambda: node.reader.client.connected, "no connection")
        node.origin.opens.clear()
        for key, value in data.items():
            got, answer = await node.get(key)
            assert (got, answer.cache) == (value, "HIT")
        assert node.origin.reads == 0


async def test_a_corrupt_byte_is_never_served_and_the_block_is_read_again(tmp_path: Path) -> None:
    async with Node(tmp_path, "immutable") as node:
        data = noise(300_000)
        node.origin.set("a", data)
        await node.get("a")
        await node.settled()
        location = node.reader.hits.find([name(node, "a")])[0]
        assert location is not None
        with node.segments()[0].open("r+b") as file:
            file.seek(location.data_offset + 200_000)
            byte = file.read(1)
            file.seek(location.data_offset + 200_000)
            file.write(bytes([byte[0] ^ 1]))
        got, answer = await node.get("a")
        assert got == data
        assert answer.cache == "MISS"
        assert node.reader.hits.counts["corrupt"] == 1
        await node.settled()
        assert (await node.get("a"))[1].cache == "HIT"
        assert node.origin.reads == 2


def name(node: Node, key: str, block: int = 0) -> BlockName:
    return BlockName(str(node.binding.id), key, node.origin.objects[key][0], block)


async def test_a_vanished_segment_is_read_again_from_the_origin(tmp_path: Path) -> None:
    async with Node(tmp_path, "immutable") as node:
        data = noise(300_000)
        node.origin.set("a", data)
        await node.get("a")
        await node.settled()
        await node.stop_agent()
        await node.start_agent()
        await eventually(lambda: node.reader.client.connected, "no connection")
        node.segments()[0].unlink()
        node.reader.hits.files.clear()
        got, answer = await node.get("a")
        assert (got, answer.cache) == (data, "MISS")


async def test_a_full_disk_degrades_to_reading_around_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Node(tmp_path) as node:
        data = noise(2 * BLOCK)
        node.origin.set("a", data)
        written = os.pwrite
        broken = True

        def pwrite(descriptor: int, piece: bytes, offset: int) -> int:
            if broken and len(piece) >= 64 * limits.KIB:
                raise OSError(28, "No space left on device")
            return written(descriptor, piece, offset)

        monkeypatch.setattr(os, "pwrite", pwrite)
        got, answer = await node.get("a")
        assert got == data
        assert node.agent is not None
        assert node.agent.statistics().sick == ("disk-full",)
        assert len([record for record in caplog.records if "takes no more blocks" in record.message]) == 1
        got, answer = await node.get("a")
        assert (got, answer.cache) == (data, "BYPASS")
        assert node.reader.counts["bypass disk-full"] >= 1
        broken = False
        shelved = node.agent._shelf.shelved[0]
        shelved.probe_at = 0.0
        await node.agent._shelf.maintain()
        assert shelved.sick == ""
        await node.get("a")
        await node.settled()
        assert (await node.get("a"))[1].cache == "REVALIDATED"


async def test_a_tier_smaller_than_the_data_evicts_and_keeps_serving_right_bytes(tmp_path: Path) -> None:
    async with Node(tmp_path, "immutable", tier_bytes=16 * limits.MIB, segment_bytes=limits.MIB) as node:
        data = {f"k{number}": noise(200_000, number) for number in range(120)}
        for key, value in data.items():
            node.origin.set(key, value)
        assert node.agent is not None
        for _ in range(3):
            for key, value in data.items():
                got, _ = await node.get(key)
                assert got == value
            await node.settled()
            await node.agent._shelf.maintain()
            statistics = node.agent.statistics()
            assert statistics.tiers[0].used_bytes <= 16 * limits.MIB
        assert node.reader.counts["HIT"] > 0
        assert statistics.counts.get("evicted segments", 0) > 0
        assert statistics.amplification <= 1.5


async def test_a_written_object_is_taken_over_from_its_spool_file(tmp_path: Path) -> None:
    async with Node(tmp_path, "immutable") as node:
        data = noise(BLOCK + 4321)
        asked = steady()
        version = node.origin.set("a", data)
        spool = tmp_path / "tier" / "spool" / "one"
        spool.write_bytes(data)
        await node.reader.client.ingest(node.binding, "a", ObjectInfo(key="a", version=version), spool, asked)
        assert not spool.exists()
        got, answer = await node.get("a")
        assert (got, answer.cache) == (data, "HIT")
        assert (node.origin.reads, node.origin.heads["a"]) == (0, 0)


async def test_overlapping_writes_leave_no_metadata_to_be_believed(tmp_path: Path) -> None:
    async with Node(tmp_path, "immutable") as node:
        asked = steady()
        infos = []
        for number in (1, 2):
            spool = tmp_path / "tier" / "spool" / str(number)
            spool.write_bytes(noise(5000, number))
            infos.append((ObjectInfo(key="a", version=node.origin.set("a", noise(5000, number))), spool))
        for info, spool in reversed(infos):  # the later write is told first
            await node.reader.client.ingest(node.binding, "a", info, spool, asked)
        got, _ = await node.get("a")
        assert got == noise(5000, 2)


async def test_forgetting_hides_old_metadata_even_from_an_opening_under_way(tmp_path: Path) -> None:
    async with Node(tmp_path, "immutable") as node:
        node.origin.set("a", noise(5000, 1))
        node.origin.open_gate = asyncio.Event()
        old = asyncio.create_task(node.get("a"))
        await eventually(lambda: node.origin.reads == 1, "no fill began")
        node.origin.set("a", noise(5000, 2))
        await node.reader.forget(node.binding, "a")
        node.origin.open_gate.set()
        await old
        await node.settled()
        got, _ = await node.get("a")
        assert got == noise(5000, 2)


async def test_what_changed_while_there_was_no_agent_is_told_to_the_next_one(tmp_path: Path) -> None:
    async with Node(tmp_path, "immutable") as node:
        node.origin.set("a", noise(5000, 1))
        await node.get("a")
        await node.settled()
        await node.stop_agent()
        await eventually(lambda: not node.reader.client.connected, "still connected")
        node.origin.set("a", noise(5000, 2))
        await node.reader.forget(node.binding, "a")
        assert not node.reader.client.trusted
        await node.start_agent()
        await eventually(lambda: node.reader.client.trusted, "the change is not told")
        got, _ = await node.get("a")
        assert got == noise(5000, 2)


async def test_staging_brings_a_whole_object_in(tmp_path: Path) -> None:
    async with Node(tmp_path, "immutable") as node:
        data = noise(5 * BLOCK + 3)
        node.origin.set("a", data)
        await node.reader.client.stage(node.binding, "a")
        await eventually(lambda: node.origin.reads == 6, "not all blocks are asked for")
        await node.settled()
        got, answer = await node.get("a")
        assert (got, answer.cache, node.origin.reads) == (data, "HIT", 6)
        with pytest.raises(errors.NotFound):
            await node.reader.client.stage(node.binding, "missing")


async def test_readers_who_leave_free_what_they_waited_for(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        node.origin.set("a", noise(40 * BLOCK))
        node.origin.gate = asyncio.Event()
        answer = await node.reader.open(node.binding, "a")
        await anext(answer.pieces)
        await answer.pieces.aclose()
        assert node.agent is not None
        agent = node.agent
        await eventually(lambda: not agent.statistics().waiting, "somebody still waits")
        node.origin.gate.set()
        await node.settled()
        assert agent.statistics().fills == 0
        assert node.origin.reads <= 1 + limits.READ_AHEAD_BLOCKS_MAX


async def test_nonsense_on_the_socket_cuts_that_connection_only(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        _, writer = await asyncio.open_unix_connection(str(node.settings.socket_path))
        writer.write(b"\xff\xff\xff\xff garbage")
        await writer.drain()
        reader, writer2 = await asyncio.open_unix_connection(str(node.settings.socket_path))
        writer2.write(b"\x05\x00\x00\x00garba")
        assert await reader.read() == b""
        writer.close()
        writer2.close()
        node.origin.set("a", b"x")
        assert (await node.get("a"))[0] == b"x"


async def test_absurd_questions_are_refused_by_name(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        version = node.origin.set("a", b"xyz")
        for block in (-1, 1, 10**9):
            question = node.reader.client.fill(7, "a", version, block)
            await question.changed(lambda: False, 5)
            assert isinstance(question.ended, wire.Failed)
            assert question.ended.kind == "InvalidRequest"
        question = node.reader.client.fill(99, "a", version, 0)
        await question.changed(lambda: False, 5)
        assert isinstance(question.ended, wire.Failed)
        assert question.ended.kind == "NoSuchBucket"
