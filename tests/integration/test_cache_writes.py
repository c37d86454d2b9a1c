"""What is written through a worker, forgotten, or staged."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cache_world import Node, eventually, noise

from headrace.base import errors, limits
from headrace.base.clock import steady
from headrace.model.objects import ObjectInfo
from headrace.wire import agent as wire

BLOCK = limits.BLOCK_BYTES


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


async def test_a_spool_file_that_is_gone_is_no_fault_of_the_tier(tmp_path: Path) -> None:
    async with Node(tmp_path, "immutable") as node:
        data = noise(2 * BLOCK)
        version = node.origin.set("a", data)
        assert node.agent is not None
        tools = node.agent._tools
        spool = tmp_path / "tier" / "spool" / "one"
        spool.write_bytes(data)
        reserve = tools.shelf.reserve

        async def leave_then_reserve(*arguments: Any) -> Any:
            spool.unlink(missing_ok=True)  # as a worker does whose client leaves
            return await reserve(*arguments)

        tools.shelf.reserve = leave_then_reserve  # type: ignore[method-assign]
        with pytest.raises(errors.Invalid):
            await node.reader.client.ingest(node.binding, "a", ObjectInfo(key="a", version=version), spool, steady())
        tools.shelf.reserve = reserve  # type: ignore[method-assign]
        assert node.agent.statistics().sick == ("",)
        await node.get("a")
        await node.settled()
        assert (await node.get("a"))[1].cache == "HIT"


async def test_a_change_that_no_agent_was_told_of_shows_though_its_worker_was_killed(tmp_path: Path) -> None:
    """Others, and a new agent, must not believe the index about what the dead worker alone knew."""
    async with Node(tmp_path, "immutable") as node:
        other = await node.worker()
        for key in ("a", "b"):
            node.origin.set(key, noise(5000, 1))
            await node.get(key)
            await node.settled()
            assert (await node.get(key, reader=other))[1].cache == "HIT"
        await node.stop_agent()
        await eventually(lambda: not node.reader.client.connected and not other.client.connected, "still connected")
        node.origin.set("a", noise(5000, 2))
        await node.reader.forget(node.binding, "a")
        await node.reader.client.stop()
        await node.start_agent()
        await eventually(lambda: other.client.trusted, "no agent")
        assert other.hit_now(node.binding, "a") is None
        assert (await node.get("a", reader=other))[0] == noise(5000, 2)
        got, answer = await node.get("b", reader=other)
        assert (got, answer.cache) == (noise(5000, 1), "REVALIDATED")


async def test_a_new_agent_publishes_nothing_that_was_asked_before_it_lived(tmp_path: Path) -> None:
    """The old one may have been told since that it is outdated, and took that with it."""
    async with Node(tmp_path, "immutable") as node:
        asked = steady()
        old = ObjectInfo(key="a", version=node.origin.set("a", noise(5000, 1)))
        node.origin.set("a", noise(5000, 2))
        await node.reader.forget(node.binding, "a")
        await node.stop_agent()
        await eventually(lambda: not node.reader.client.connected, "still connected")
        await node.start_agent()
        await eventually(lambda: node.reader.client.trusted, "no agent")
        node.reader.client.tell(wire.Note(node.binding.id, "a", old, asked))
        await node.reader.forget(node.binding, "z")  # committed after the note
        assert (await node.get("a"))[0] == noise(5000, 2)
        assert (await node.get("a"))[0] == noise(5000, 2)


async def test_more_changes_than_are_noted_without_an_agent_fail_no_write_and_hide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AGENT_FORGETS_PENDING_MAX", 2)
    async with Node(tmp_path, "immutable") as node:
        for key in "abcd":
            node.origin.set(key, noise(5000, 1))
            await node.get(key)
        await node.settled()
        await node.stop_agent()
        await eventually(lambda: not node.reader.client.connected, "still connected")
        for key in "abcd":
            node.origin.set(key, noise(5000, 2))
            await node.reader.forget(node.binding, key)
        await node.start_agent()
        await eventually(lambda: node.reader.client.trusted, "the changes are not told")
        for key in "abcd":
            assert (await node.get(key))[0] == noise(5000, 2)
