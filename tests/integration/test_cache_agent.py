"""Agent and reader together: what a gateway worker gets, whatever happens."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from headrace.base import errors, limits
from headrace.model.objects import Conditions
from cache_world import Node, drain, noise, read_piece

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
