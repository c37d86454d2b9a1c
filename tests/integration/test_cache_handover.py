"""A body written through a gateway and what the cache makes of it, before and after the answer."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cache_world import Node, eventually, noise
from object_world import World

from headrace.base import errors, limits
from headrace.gateway.spool import Spool

BLOCK = limits.BLOCK_BYTES


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A cache whose origin takes writes."""
    async with Node(tmp_path / "node", "immutable") as node:
        yield node


@pytest_asyncio.fixture
async def world(tmp_path: Path, node: Node) -> AsyncIterator[World]:
    """A gateway whose bucket is bound to the node's origin."""
    (tmp_path / "gateway").mkdir()
    world = World(tmp_path / "gateway")
    world.bind("bucket", node.origin)
    world.bound.targets["bucket"] = dataclasses.replace(world.bound.targets["bucket"], binding=node.binding)
    own, world.context.words = world.context.words, node.words
    world.context.reader = node.reader
    world.context.spool = Spool(node.folder / "tier" / "spool")
    yield world
    await world.context.handovers.drain()
    world.context.words = own
    world.close()


async def _hold_ingests(node: Node) -> None:
    assert node.agent is not None
    for _ in range(limits.INGESTS_MAX):
        await node.agent._ingests.acquire()


def _release_ingests(node: Node) -> None:
    assert node.agent is not None
    for _ in range(limits.INGESTS_MAX):
        node.agent._ingests.release()


@pytest.mark.parametrize("size", [0, 1000, BLOCK + 4321])
async def test_what_was_written_is_the_next_reads_hit(world: World, node: Node, size: int) -> None:
    for number in (1, 2):
        data = noise(size, number)
        assert (await world.call("PUT", "/bucket/a", {}, data)).status == 200
        await world.context.handovers.drain()
        got, answer = await node.get("a")
        assert (got, answer.cache) == (data, "HIT")
    assert (node.origin.reads, node.origin.heads["a"]) == (0, 0)
    assert not list(world.context.spool.folder.iterdir())


async def test_a_write_is_acknowledged_before_the_cache_has_it(world: World, node: Node) -> None:
    node.origin.set("a", noise(5000, 1))
    await node.get("a")
    await node.settled()
    other = await node.worker()
    await _hold_ingests(node)
    async with asyncio.timeout(limits.AGENT_ANSWER_SECONDS_MAX / 2):
        assert (await world.call("PUT", "/bucket/a", {}, noise(5000, 2))).status == 200
    for reader in (node.reader, other):
        assert reader.hit_now(node.binding, "a") is None
        assert (await node.get("a", reader=reader))[0] == noise(5000, 2)
    _release_ingests(node)
    await world.context.handovers.drain()
    assert (await node.get("a"))[0] == noise(5000, 2)
    assert not list(world.context.spool.folder.iterdir())


async def test_a_write_does_not_hide_what_was_learnt_after_it(world: World, node: Node) -> None:
    await _hold_ingests(node)
    assert (await world.call("PUT", "/bucket/a", {}, noise(5000, 1))).status == 200
    node.origin.set("a", noise(5000, 2))
    assert (await node.get("a"))[0] == noise(5000, 2)
    await node.settled()
    _release_ingests(node)
    await world.context.handovers.drain()
    assert (await node.get("a"))[0] == noise(5000, 2)


async def test_bodies_that_wait_for_the_cache_are_bounded(
    world: World, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HANDOVERS_MAX", 2)
    await _hold_ingests(node)
    for number in range(5):
        assert (await world.call("PUT", f"/bucket/{number}", {}, noise(5000, number))).status == 200
    assert node.reader.counts["bypass not-ingested"] == 3
    assert len(list(world.context.spool.folder.iterdir())) == 2
    _release_ingests(node)
    await world.context.handovers.drain()
    reads = node.origin.reads
    for number in range(5):
        assert (await node.get(str(number)))[0] == noise(5000, number)
    assert node.origin.reads - reads == 3


async def test_an_agent_that_dies_while_it_takes_a_body_costs_only_the_copy(world: World, node: Node) -> None:
    await _hold_ingests(node)
    assert (await world.call("PUT", "/bucket/a", {}, noise(5000, 1))).status == 200
    await node.stop_agent()
    await world.context.handovers.drain()
    assert not list(world.context.spool.folder.iterdir())
    assert (await world.call("PUT", "/bucket/a", {}, noise(5000, 2))).status == 200
    await node.start_agent()
    await eventually(lambda: node.reader.client.trusted, "no agent")
    assert (await node.get("a"))[0] == noise(5000, 2)


async def test_a_write_that_failed_leaves_nothing_to_be_believed(
    world: World, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.origin.set("a", noise(5000, 1))
    await node.get("a")
    await node.settled()
    put = node.origin.put

    async def put_and_lose_the_answer(*arguments: object) -> None:
        await put(*arguments)  # type: ignore[arg-type]
        raise errors.Unavailable("the answer is lost")

    monkeypatch.setattr(node.origin, "put", put_and_lose_the_answer)
    assert (await world.call("PUT", "/bucket/a", {}, noise(5000, 2))).status == 503
    assert (await node.get("a"))[0] == noise(5000, 2)
    assert not list(world.context.spool.folder.iterdir())
