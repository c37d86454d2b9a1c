"""The agent as a real process: killed, stopped and restarted while workers read."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cache_agent_process import MAP_BYTES, DerivedOrigin, content, settings_in

from headrace.base import limits
from headrace.base.clock import SYSTEM
from headrace.base.rng import seeded
from headrace.cache.client import AgentClient
from headrace.cache.hits import IndexHandle
from headrace.cache.reader import Reader
from headrace.media.tiers import SegmentPaths
from headrace.model.bindings import Binding
from headrace.model.objects import FileSlice
from headrace.wire.words import Words

PROGRAM = Path(__file__).with_name("cache_agent_process.py")
BINDING = Binding(3, "bucket", "derived://", (("", "immutable"),))


class Worker:
    """A reader in this process beside an agent in another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.words = Words(folder / "words")
        self.settings = settings_in(folder)
        self.client = AgentClient(self.settings.socket_path, self.words)
        self.reader = Reader(
            IndexHandle(self.settings.index_path, SYSTEM, map_bytes=MAP_BYTES),
            self.client,
            self.words,
            lambda _: DerivedOrigin(folder / "worker-log"),
            SegmentPaths([folder / "tier"]),
        )
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.spawn()
        await self.client.start()
        await self.connected()

    def spawn(self) -> None:
        self.process = subprocess.Popen([sys.executable, str(PROGRAM), str(self.folder)])

    async def connected(self) -> None:
        for _ in range(2000):
            if self.client.connected:
                return
            assert self.process is not None
            assert self.process.poll() is None, "the agent did not start"
            await asyncio.sleep(0.01)
        raise AssertionError("no agent")

    async def disconnected(self) -> None:
        for _ in range(2000):
            if not self.client.connected:
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the agent's end goes unnoticed")

    def end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(timeout=30)

    async def close(self) -> None:
        await self.client.stop()
        self.reader.close()
        self.words.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=30)

    async def get(self, key: str, start: int = 0, stop: int | None = None) -> str:
        answer = await self.reader.open(BINDING, key, (start, stop))
        parts = []
        async for piece in answer.pieces:
            parts.append(
                os.pread(piece.descriptor, piece.length, piece.offset) if isinstance(piece, FileSlice) else piece
            )
            await asyncio.sleep(0)
        await answer.pieces.aclose()
        assert b"".join(parts) == content(key)[start:stop]
        return answer.cache


@pytest.fixture
async def worker(tmp_path: Path):
    worker = Worker(tmp_path)
    await worker.start()
    yield worker
    await worker.close()


async def test_a_clean_stop_is_adopted_whole(worker: Worker, tmp_path: Path) -> None:
    keys = [f"{size}-1" for size in (1, 5000, 300_000, limits.BLOCK_BYTES + 9)]
    for key in keys:
        assert await worker.get(key) == "MISS"
    assert worker.end(signal.SIGTERM) == 0
    worker.spawn()
    await worker.disconnected()
    await worker.connected()
    (tmp_path / "log").unlink()
    for key in keys:
        assert await worker.get(key) == "HIT"
    assert not (tmp_path / "log").exists()
    assert not (tmp_path / "worker-log").exists()


async def test_killed_at_any_instant_no_reader_sees_a_wrong_byte_or_an_error(worker: Worker) -> None:
    random = seeded(5)
    keys = [f"{random.choice([100, 70_000, 1_500_000, 9_000_000])}-{number}" for number in range(12)]
    over = False

    async def read() -> None:
        while not over:
            await worker.get(random.choice(keys))
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read()) for _ in range(4)]
    for _ in range(4):
        await asyncio.sleep(random.uniform(0.05, 0.4))
        worker.end(signal.SIGKILL)
        worker.spawn()
        await asyncio.sleep(0.05)
        await worker.connected()
    over = True
    await asyncio.gather(*readers)
    for key in keys:
        await worker.get(key)


async def test_a_stopped_agent_is_noticed_and_passed_by(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "AGENT_SILENCE_SECONDS_MAX", 0.1)
    assert worker.process is not None
    worker.process.send_signal(signal.SIGSTOP)
    try:
        assert await worker.get("500000-1") == "BYPASS"
        assert not worker.client.connected
        assert await worker.get("500000-1", 7, 90) == "BYPASS"
        assert worker.reader.counts["bypass agent-absent"] == 1
    finally:
        worker.process.send_signal(signal.SIGCONT)
    await worker.connected()
    assert await worker.get("500000-2") == "MISS"
