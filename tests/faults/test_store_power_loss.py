"""Power loss, simulated: at every commit only what was fsynced by then is kept, and must be enough.

The catalogue itself is taken as it lies when a write was acknowledged: that its commit is durable is
SQLite's promise under synchronous=FULL, which the store asks for and this test checks it does. Bodies
and their names are taken as fsynced when the COMMIT *began*, so a body that became durable after the
commit that names it, or not at all, shows as lost. Two controls leave an fsync out, and must fail.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.power_loss import PowerLoss, Snapshot
from headrace.base import rng
from headrace.base.errors import Damaged, Unavailable
from headrace.model.objects import Attributes
from headrace.origin.bodies import Bodies, BodyWriter
from headrace.origin.complete import CompletePart
from headrace.origin.folder import Folder
from headrace.origin.store import Store
from headrace.origin.store_bucket import StoreBucket
from headrace.testing.origin_calls import read, upload

PART = rng.seeded("power").randbytes(5 * 1024 * 1024)


class Losses:
    """A store under a simulated power loss after each write."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.store = Store.open(folder)
        self.power = PowerLoss(folder, monkeypatch)
        self.objects: dict[str, bytes] = {}
        self.at_commit: Snapshot | None = None
        self.count = 0
        writer = self.store._engine.catalogue._writer
        assert writer.execute("PRAGMA synchronous").fetchone() == (2,)
        writer.set_trace_callback(self.trace)

    def trace(self, statement: str) -> None:
        """Called as each statement of the writing connection begins."""
        if statement == "COMMIT":
            self.at_commit = self.power.snapshot()

    async def check(self) -> None:
        """Cut the power now; reopen what is left and compare it with what was acknowledged."""
        assert self.at_commit is not None
        self.count += 1
        target = self.folder.with_name(f"after-{self.count}")
        await asyncio.to_thread(self.at_commit.restore, target)
        for name in ("catalogue.db", "catalogue.db-wal"):
            shutil.copyfile(self.folder / name, target / name)
        (target / "catalogue.db-shm").unlink(missing_ok=True)
        survivor = Store.open(target)
        try:
            bucket = survivor.bucket("bucket")
            assert {info.key for info in (await bucket.list()).objects} == set(self.objects)
            for key, body in self.objects.items():
                assert await read(bucket, key) == body, f"{key} is damaged after {self.count} writes"
        finally:
            survivor.close()
            shutil.rmtree(target)


async def every_kind_of_write(losses: Losses, bucket: StoreBucket) -> None:
    """One write after another, each followed by a power loss."""
    for number, size in enumerate((100, 0, 70_000, 1_500_000)):
        body = rng.seeded(number).randbytes(size)
        await bucket.put(f"new-{number}", upload(body))
        losses.objects[f"new-{number}"] = body
        await losses.check()
    for key in ("new-0", "new-2"):
        await bucket.put(key, upload(b"overwritten"))
        losses.objects[key] = b"overwritten"
        await losses.check()
    await bucket.copy_from(bucket, "new-3", "copy")
    losses.objects["copy"] = losses.objects["new-3"]
    await losses.check()
    await bucket.delete("new-3")
    del losses.objects["new-3"]
    await losses.check()
    upload_id = await bucket.create_upload("parts")
    first = await bucket.put_part(upload_id, 1, upload(PART))
    second = await bucket.copy_part(upload_id, 2, await bucket.locate("copy"), 0, 1000)
    await losses.check()
    parts = [CompletePart(part.number, part.etag) for part in (first, second)]
    await bucket.complete_upload("parts", upload_id, parts)
    losses.objects["parts"] = PART + losses.objects["copy"][:1000]
    await losses.check()
    puts = {f"many-{number}": b"%d" % number for number in range(40)}
    await asyncio.gather(*(bucket.put(key, upload(body)) for key, body in puts.items()))
    losses.objects |= puts
    await losses.check()


async def test_nothing_acknowledged_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of write, on a young store and on one whose ready files are in use."""
    losses = Losses(tmp_path / "store", monkeypatch)
    await losses.store.create_bucket("bucket")
    await every_kind_of_write(losses, losses.store.bucket("bucket"))
    losses.store.close()


def leave_out_file_fsync(writer: BodyWriter) -> None:
    """A `finish` that forgets the bytes."""
    writer._bodies.sync_shard(writer.name)
    writer._close()


@pytest.mark.parametrize("control", ["file", "folder"])
async def test_the_simulation_sees_a_missing_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    """Leaving out the fsync of bodies, or of their folders, is found by the very same steps."""
    if control == "file":
        monkeypatch.setattr(BodyWriter, "finish", leave_out_file_fsync)
    else:
        nothing: Callable[[Bodies, str], None] = lambda _bodies, _name: None  # noqa: E731 - a typed stand-in
        monkeypatch.setattr(Bodies, "sync_shard", nothing)
    losses = Losses(tmp_path / "store", monkeypatch)
    await losses.store.create_bucket("bucket")
    with pytest.raises((Damaged, Unavailable), match=r"shorter than recorded|cannot be found"):
        await every_kind_of_write(losses, losses.store.bucket("bucket"))
    losses.store.close()


async def test_a_folder_keeps_what_it_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a plain folder: bytes, names in new folders, ETag and attributes."""
    root = tmp_path / "root"
    root.mkdir()
    power = PowerLoss(root, monkeypatch)
    folder = Folder(root)
    objects: dict[str, bytes] = {}
    said = Attributes(metadata={"a": "b"})
    for number, key in enumerate(("top", "a/b/c/deep", "a/b/other", "top", "a/second", "top")):
        body = rng.seeded(number).randbytes((10, 100_000)[number % 2])
        info = await folder.put(key, upload(body, said))
        objects[key] = body
        target = tmp_path / f"after-{number}"
        power.snapshot().restore(target)
        survivor = Folder(target)
        for known, expected in objects.items():
            assert await read(survivor, known) == expected
        head = await survivor.head(key)
        assert (head.etag, head.attributes) == (info.etag, said)
        await survivor.close()
    await folder.delete("a/b/c/deep")
    power.snapshot().restore(tmp_path / "after-delete")
    survivor = Folder(tmp_path / "after-delete")
    assert [info.key for info in (await survivor.list()).objects] == ["a/b/other", "a/second", "top"]
    await survivor.close()
    await folder.close()
