"""kill -9 of store writers at random instants: what was acknowledged is there, whole, and nothing else is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from faults.store_writer_process import body_of, parts_of
from headrace.base import rng
from headrace.base.errors import NotFound
from headrace.origin.rows import unpack_pieces
from headrace.origin.store import Store
from headrace.origin.store_bucket import StoreBucket
from headrace.testing.origin_calls import read

ROUNDS = 10
WRITER = Path(__file__).with_name("store_writer_process.py")


class Writer:
    """One child and what it said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.acknowledged: dict[str, int] = {}
        self.pending: dict[str, int] = {}
        self.ready = asyncio.Event()
        self.listening = asyncio.create_task(self.listen())

    @classmethod
    async def start(cls, folder: Path, name: str, seed: int) -> Writer:
        """A child that writes keys below `name`."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                str(WRITER),
                str(folder),
                name,
                str(seed),
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(WRITER.parent.parent)},
            )
        )

    async def listen(self) -> None:
        """Note what the child says until it is dead; a line cut short by its death was not said."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            with contextlib.suppress(json.JSONDecodeError):
                what, key, generation = json.loads(line)
                if what == "try":
                    self.pending[key] = generation
                elif what == "done":
                    self.acknowledged[key] = self.pending.pop(key)
                    assert self.acknowledged[key] == generation
            self.ready.set()

    async def kill(self) -> None:
        """End the child as a power switch would, and hear it out."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        await self.listening


async def found_generation(bucket: StoreBucket, key: str) -> int:
    """Which generation the key holds (0: nothing); checks that its bytes are whole."""
    try:
        info = await bucket.head(key)
    except NotFound:
        return 0
    generation = int(info.attributes.metadata["generation"])
    in_parts = info.attributes.metadata["parts"] == "1"
    expected = b"".join(parts_of(key, generation)) if in_parts else body_of(key, generation)
    assert await read(bucket, key) == expected
    return generation


async def test_acknowledged_objects_survive_kill(tmp_path: Path) -> None:
    """Two processes write to one store and are killed, ten times over; each time all is as it must be."""
    folder = tmp_path / "store"
    store = Store.open(folder)
    await store.create_bucket("bucket")
    store.close()
    chance = rng.seeded("kill")
    known: dict[str, int] = {}
    acknowledged = 0
    for number in range(ROUNDS):
        writers = [await Writer.start(folder, name, number) for name in "ab"]
        await asyncio.gather(*(writer.ready.wait() for writer in writers))
        await asyncio.sleep(chance.uniform(0.02, 0.5))
        await asyncio.gather(*(writer.kill() for writer in writers))
        store = Store.open(folder)
        bucket = store.bucket("bucket")
        for writer in writers:
            known |= writer.acknowledged
            acknowledged += len(writer.acknowledged)
            for key, generation in writer.pending.items():
                found = await found_generation(bucket, key)
                assert found in (generation, known.get(key, 0))
                known[key] = found
        for key, generation in known.items():
            assert await found_generation(bucket, key) == generation
        assert {info.key for info in (await bucket.list()).objects} == {key for key, found in known.items() if found}
        await no_orphans(store, folder)
        store.close()
    assert acknowledged > ROUNDS


async def no_orphans(store: Store, folder: Path) -> None:
    """Wait for the sweeper: at the end exactly the bodies that the catalogue names are left."""
    for upload in (await store.bucket("bucket").list_uploads()).uploads:
        await store.bucket("bucket").abort_upload(upload.upload_id)
    left: set[str] = set()
    for _ in range(1000):
        needed = {
            piece.name
            for (extents,) in store._engine.read_now(lambda db: db.execute("SELECT extents FROM objects").fetchall())
            for piece in unpack_pieces(extents)
        }
        left = {file.name for file in (folder / "bodies").glob("*/*")} ^ needed
        if not left and len(list((folder / "sessions").iterdir())) == 1:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"bodies that nobody names, or the other way round: {left}")
