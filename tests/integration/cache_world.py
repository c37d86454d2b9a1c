"""A node in one process: an agent, workers' readers, and an origin in memory that can misbehave."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from hashlib import md5
from pathlib import Path
from typing import Self

from headrace.base import errors, limits
from headrace.base.clock import SYSTEM
from headrace.base.rng import seeded
from headrace.cache.client import AgentClient
from headrace.cache.hits import IndexHandle
from headrace.cache.reader import Answer, Reader
from headrace.cache.runner import Agent, AgentSettings, TierSettings
from headrace.media.frames import BlockName
from headrace.media.index import IndexReader
from headrace.media.tiers import SegmentPaths
from headrace.model.bindings import Binding
from headrace.model.objects import NO_CONDITIONS, Conditions, FileSlice, ObjectInfo, Version
from headrace.origin.base import Opened, Origin, Page, Upload
from headrace.origin.conditions import check_read, resolve_range
from headrace.wire.words import Words

MAP_BYTES = 256 * limits.MIB


class MemoryOrigin(Origin):
    """Objects in a dict. `gate`, when set, holds back every body after its first piece until it is set."""

    url = "test://"

    def __init__(self) -> None:
        self.objects: dict[str, tuple[Version, bytes]] = {}
        self.opens: Counter[tuple[str, int, int]] = Counter()
        self.heads: Counter[str] = Counter()
        self.gate: asyncio.Event | None = None
        self.open_gate: asyncio.Event | None = None
        self.fail_open: Exception | None = None
        self.cut_after: int | None = None
        self.piece_bytes = 128 * limits.KIB
        self._time = 1_700_000_000_000

    def set(self, key: str, data: bytes) -> Version:
        self._time += 1000
        version = Version(md5(data, usedforsecurity=False).hexdigest(), self._time, len(data))
        self.objects[key] = version, data
        return version

    def touch(self, key: str) -> Version:
        """A metadata-only change: the ETag stays."""
        self._time += 1000
        version, data = self.objects[key]
        self.objects[key] = version._replace(modified_ms=self._time), data
        return self.objects[key][0]

    def info(self, key: str) -> ObjectInfo:
        if key not in self.objects:
            raise errors.NotFound(f"no {key}", kind="NoSuchKey")
        return ObjectInfo(key=key, version=self.objects[key][0])

    @property
    def reads(self) -> int:
        return sum(self.opens.values())

    async def head(self, key: str) -> ObjectInfo:
        self.heads[key] += 1
        await asyncio.sleep(0)
        return self.info(key)

    async def open(
        self, key: str, start: int = 0, stop: int | None = None, conditions: Conditions = NO_CONDITIONS
    ) -> Opened:
        if self.fail_open is not None:
            raise self.fail_open
        info = self.info(key)
        data = self.objects[key][1]
        check_read(info, conditions)
        first, last = resolve_range(info.size, start, stop)
        self.opens[key, first, last] += 1
        if self.open_gate is not None:
            await self.open_gate.wait()
        else:
            await asyncio.sleep(0.001)
        return Opened(info, first, last - first, self._body(data[first:last]))

    async def _body(self, data: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(data), self.piece_bytes):
            if self.cut_after is not None and at >= self.cut_after:
                return
            yield data[at : at + self.piece_bytes]
            await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate.wait()

    async def put(self, key: str, upload: Upload, conditions: Conditions = NO_CONDITIONS) -> ObjectInfo:
        self.set(key, b"".join([piece async for piece in upload.body]))
        return self.info(key)

    async def delete(self, key: str, conditions: Conditions = NO_CONDITIONS) -> None:
        self.objects.pop(key, None)

    async def list(self, prefix: str = "", *, after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        return Page((), (), None)


class SharedIndex(IndexHandle):
    """The agent's own index: LMDB opens a file only once in one process."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.settings.index_path, SYSTEM, map_bytes=MAP_BYTES)
        self._node = node

    def current(self) -> IndexReader | None:
        return self._node.index


class Node:
    """An agent with one tier, and any number of workers."""

    def __init__(
        self,
        folder: Path,
        rule: str = "validate",
        *,
        tier_bytes: int = 256 * limits.MIB,
        segment_bytes: int | None = None,
    ) -> None:
        self.folder = folder
        self.origin = MemoryOrigin()
        self.binding = Binding(7, "bucket", "test://", (("", rule),))
        (folder / "run").mkdir(parents=True, exist_ok=True)
        self.words = Words(folder / "run" / "words")
        self.settings = AgentSettings(
            socket_path=folder / "run" / "agent.sock",
            index_path=folder / "index",
            tiers=(TierSettings(path=folder / "tier", limit_bytes=tier_bytes, segment_bytes=segment_bytes),),
            index_map_bytes=MAP_BYTES,
        )
        self.agent: Agent | None = None
        self.index: IndexReader | None = None
        self.readers: list[Reader] = []

    async def __aenter__(self) -> Self:
        await self.start_agent()
        await self.worker()
        return self

    async def __aexit__(self, *_: object) -> None:
        for reader in self.readers:
            await reader.client.stop()
            reader.close()
        self.readers.clear()
        await self.stop_agent()
        self.words.close()

    async def start_agent(self) -> None:
        self.agent = Agent(self.settings, self.resolve, self.words)
        await self.agent.start()
        self.index = self.agent._index

    async def stop_agent(self) -> None:
        agent, self.agent = self.agent, None
        self.index = None
        if agent is not None:
            await agent.stop()

    def resolve(self, binding: int) -> Origin:
        if binding != self.binding.id:
            raise errors.NotFound(f"no binding {binding}", kind="NoSuchBucket")
        return self.origin

    async def worker(self) -> Reader:
        client = AgentClient(self.settings.socket_path, self.words)
        await client.start()
        reader = Reader(
            SharedIndex(self),
            client,
            self.words,
            lambda binding: self.resolve(binding.id),
            SegmentPaths([self.folder / "tier"]),
        )
        self.readers.append(reader)
        return reader

    @property
    def reader(self) -> Reader:
        return self.readers[0]

    async def get(
        self, key: str, start: int = 0, stop: int | None = None, *, reader: Reader | None = None, **more: object
    ) -> tuple[bytes, Answer]:
        answer = await (reader or self.reader).open(self.binding, key, (start, stop), **more)  # type: ignore[arg-type]
        return await drain(answer), answer

    async def settled(self) -> None:
        """Wait until no fill is under way and the index knows all."""
        assert self.agent is not None
        for _ in range(2000):
            if not self.agent._machine.fills:
                return
            await asyncio.sleep(0.005)
        raise AssertionError("fills do not end")

    def segments(self) -> list[Path]:
        return sorted((self.folder / "tier" / "segments").glob("*.seg"))


def read_piece(piece: bytes | FileSlice) -> bytes:
    """What a gateway would send of a piece."""
    if isinstance(piece, bytes):
        return piece
    data = os.pread(piece.descriptor, piece.length, piece.offset)
    assert len(data) == piece.length
    return data


async def drain(answer: Answer) -> bytes:
    """All bytes of an answer, checked for length."""
    try:
        data = b"".join([read_piece(piece) async for piece in answer.pieces])
    finally:
        await answer.pieces.aclose()
    assert len(data) == answer.length
    return data


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that no two blocks share."""
    return seeded(seed).randbytes(size)


async def eventually(holds: Callable[[], object], what: str) -> None:
    """Wait until `holds()`; a generous bound, so that time decides nothing."""
    for _ in range(4000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(what)


def name(node: Node, key: str, block: int = 0) -> BlockName:
    return BlockName(str(node.binding.id), key, node.origin.objects[key][0], block)
