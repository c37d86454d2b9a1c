"""Disks that fail or fill under a local origin: a clear error, nothing half there, and on it goes."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from headrace.base.errors import Conflict, Invalid, Unavailable
from headrace.model.objects import Attributes, Conditions, ObjectInfo
from headrace.origin import bodies as store_bodies
from headrace.origin import folder_write
from headrace.origin.base import Origin
from headrace.origin.folder import Folder
from headrace.origin.store import Store
from headrace.testing.origin_calls import bodies_left, body_files, fails, read, upload


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store with one bucket and one object in it."""
    opened = Store.open(tmp_path / "store")
    await opened.create_bucket("bucket")
    await opened.bucket("bucket").put("kept", upload(b"kept"))
    yield opened
    opened.close()


def refusing(number: int) -> Callable[..., int]:
    """A call that fails with this errno."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


async def still_whole(origin: Origin) -> None:
    """The object of before is there, and nothing of the failed write."""
    assert [info.key for info in (await origin.list()).objects] == ["kept"]
    assert await read(origin, "kept") == b"kept"


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_a_full_disk_under_bodies(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """ENOSPC is said as such; when there is space again writing goes on."""
    bucket = store.bucket("bucket")
    with monkeypatch.context() as patched:
        patched.setattr(store_bodies, "write_all", refusing(errno.ENOSPC))
        with pytest.raises(Unavailable, match="no space left"):
            await bucket.put("kept", upload(bytes(size)))
        with pytest.raises(Unavailable, match="no space left"):
            await bucket.put("new", upload(bytes(size)))
        await still_whole(bucket)
    await bodies_left(tmp_path / "store", 1)
    await bucket.put("new", upload(b"again"))
    assert await read(bucket, "new") == b"again"


async def test_an_fsync_that_fails(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that could not be made durable is never part of an object."""
    bucket = store.bucket("bucket")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refusing(errno.EIO))
        await fails("ServiceUnavailable", Unavailable, bucket.put("new", upload(b"x")))
        await fails("ServiceUnavailable", Unavailable, bucket.copy_from(bucket, "kept", "copy"))
    await still_whole(bucket)
    await bodies_left(tmp_path / "store", 1)


class FailingCommits:
    """A connection whose COMMIT fails."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        """Pass everything on but COMMIT."""
        if statement == "COMMIT":
            raise sqlite3.OperationalError("database or disk is full")
        return self._db.execute(statement, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


async def test_a_commit_that_fails(store: Store, tmp_path: Path) -> None:
    """The outcome is unknown to us: the body stays until the next start decides by the catalogue."""
    bucket = store.bucket("bucket")
    catalogue = store._engine.catalogue
    real = catalogue._writer
    catalogue._writer = FailingCommits(real)  # type: ignore[assignment]
    with pytest.raises(Unavailable, match="no space left for the catalogue"):
        await bucket.put("new", upload(b"in doubt"))
    catalogue._writer = real
    await still_whole(bucket)
    await bucket.put("later", upload(b"later"))
    assert len(body_files(tmp_path / "store")) == 3
    await bucket.delete("later")
    store.close()
    again = Store.open(tmp_path / "store")
    await bodies_left(tmp_path / "store", 1)
    await still_whole(again.bucket("bucket"))
    again.close()


async def test_waiting_writes_share_one_commit(store: Store) -> None:
    """What waits while a commit runs goes into the next one together; one that fails spoils no other."""
    bucket = store.bucket("bucket")
    catalogue = store._engine.catalogue
    create = Conditions(if_none_match=("*",))
    with catalogue._leading:
        writes = [asyncio.create_task(bucket.put(f"{number}", upload(b"x"))) for number in range(5)]
        writes.append(asyncio.create_task(bucket.put("kept", upload(b"x"), create)))
        while len(catalogue._tickets) < len(writes):  # noqa: ASYNC110 - pool threads bring them, and set no event
            await asyncio.sleep(0.001)
        before = catalogue._commits
    await store.put_document("bucket", "policy", "{}")
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert sum(isinstance(result, ObjectInfo) for result in results) == 5
    assert isinstance(results[-1], Conflict)
    assert catalogue._commits == before + 1
    assert len((await bucket.list()).objects) == 6


async def test_a_full_disk_under_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a plain folder; no unfinished file stays."""
    folder = Folder(tmp_path)
    await folder.put("kept", upload(b"kept"))
    for name, number in (("write_all", errno.ENOSPC), ("write_all", errno.EIO)):
        with monkeypatch.context() as patched:
            patched.setattr(folder_write, name, refusing(number))
            for size in (10, 3_000_000):
                await fails("ServiceUnavailable", Unavailable, folder.put("kept", upload(bytes(size))))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refusing(errno.EIO))
        await fails("ServiceUnavailable", Unavailable, folder.put("new", upload(b"x")))
    await still_whole(folder)
    await folder.close()
    assert list((tmp_path / ".headrace" / "tmp").iterdir()) == []


async def test_a_file_system_without_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are kept under a derived ETag; metadata, which would be lost in silence, is refused."""
    missing: Callable[[object, Sequence[str]], None] = refusing(errno.EOPNOTSUPP)  # type: ignore[assignment]
    monkeypatch.setattr(os, "setxattr", missing)
    monkeypatch.setattr(os, "getxattr", missing)
    folder = Folder(tmp_path)
    info = await folder.put("k", upload(b"x", Attributes(headers={"content-type": "a/b"})))
    assert info.etag.endswith("-f")
    assert await folder.head("k") == info
    await fails("InvalidRequest", Invalid, folder.put("m", upload(b"x", Attributes(metadata={"a": "b"}))))
    await fails("InvalidRequest", Invalid, folder.put("f/", upload(b"")))
    assert [found.key for found in (await folder.list()).objects] == ["k"]
    await folder.close()
