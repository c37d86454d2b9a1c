"""Agent and reader together when things break: origins, disks, bytes, processes."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from cache_world import Node, eventually, name, noise, read_piece

from headrace.base import errors, limits
from headrace.cache import files
from headrace.cache.files import SegmentFile
from headrace.wire import agent as wire

BLOCK = limits.BLOCK_BYTES


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


@pytest.mark.parametrize(("number", "dropped"), [(errno.EMFILE, False), (errno.ENOMEM, False), (errno.EIO, True)])
async def test_a_block_is_dropped_for_what_its_disk_says_not_for_what_the_worker_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, dropped: bool
) -> None:
    async with Node(tmp_path, "immutable") as node:
        data = noise(BLOCK)
        node.origin.set("a", data)
        await node.get("a")
        await node.settled()

        def refuse(*_: object) -> SegmentFile:
            raise OSError(number, os.strerror(number))

        node.reader.hits.files.clear()
        with monkeypatch.context() as trouble:
            trouble.setattr(files, "SegmentFile", refuse)
            assert (await node.get("a"))[0] == data
        assert node.reader.counts["BYPASS"] == 1
        found = node.reader.hits.find([name(node, "a")])[0]
        assert (found is None) == dropped


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
