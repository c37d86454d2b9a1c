"""Spool files: whatever the disk does, the origin gets the body that the client sent."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.base.errors import Invalid, Unavailable
from headrace.base.limits import MIB, PUT_BYTES_MAX, TIER_PROBE_SECONDS
from headrace.base.rng import seeded
from headrace.gateway import spool as module
from headrace.gateway.spool import Spool
from headrace.model.objects import Attributes
from headrace.origin.base import Upload

BODY = seeded("spool").randbytes(3 * MIB + 77)
PIECE = 300_000


class Hand:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def steady(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def upload_of(body: bytes, size: int | None) -> Upload:
    upload = Upload(body=iter_pieces(body), size=size)
    inner = upload.body

    async def finishing() -> AsyncIterator[bytes]:
        async for piece in inner:
            yield piece
        upload.attributes = Attributes(checksums={"crc32": "late"})

    upload.body = finishing()
    return upload


async def iter_pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), PIECE):
        yield body[at : at + PIECE]


async def read(upload: Upload) -> bytes:
    return b"".join([piece async for piece in upload.body])


def fail_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """The disk takes `writes` steps and half of the next."""
    real, count = module._write, 0

    def write(file: object, pieces: list[bytes]) -> None:
        nonlocal count
        count += 1
        if count > writes:
            real(file, [pieces[0][:100]] if pieces else [])  # type: ignore[arg-type]
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, pieces)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_write", write)


@pytest.mark.parametrize("size", [None, len(BODY)])
async def test_a_body_is_kept_whole(tmp_path: Path, size: int | None) -> None:
    spool = Spool(tmp_path)
    path = spool.new_path()
    kept = await spool.keep(path, upload_of(BODY, size))
    assert kept.whole
    assert path.read_bytes() == BODY
    assert await read(kept.upload) == BODY
    assert (kept.upload.size, kept.upload.attributes.checksums) == (len(BODY), {"crc32": "late"})
    await spool.remove(path)
    await spool.remove(path)
    assert not await asyncio.to_thread(path.exists)


@pytest.mark.parametrize("writes", range(4))
@pytest.mark.parametrize("size", [None, len(BODY)])
async def test_a_disk_that_fails_at_any_step_is_passed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int, size: int | None
) -> None:
    clock = Hand()
    spool = Spool(tmp_path, clock)
    fail_after(monkeypatch, writes)
    kept = await spool.keep(spool.new_path(), upload_of(BODY, size))
    assert kept.whole == (writes == 3)
    assert await read(kept.upload) == BODY
    assert kept.upload.attributes.checksums == {"crc32": "late"}
    assert spool.sick == (writes < 3)
    clock.now += TIER_PROBE_SECONDS + 1
    assert not spool.sick


async def test_a_folder_that_is_gone_is_passed_by(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "gone")
    kept = await spool.keep(spool.new_path(), upload_of(BODY, None))
    assert not kept.whole
    assert await read(kept.upload) == BODY
    await spool.remove(tmp_path / "gone" / "x")


async def test_a_client_that_breaks_off_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path)

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 10
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        await spool.keep(spool.new_path(), Upload(body=broken(), size=20))
    assert not spool.sick


async def test_lengths_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(Invalid) as caught:
        await spool.keep(spool.new_path(), upload_of(BODY, len(BODY) + 1))
    assert caught.value.kind == "IncompleteBody"
    assert len(BODY) < PUT_BYTES_MAX
    monkeypatch.setattr(module, "PUT_BYTES_MAX", len(BODY) - 1)
    with pytest.raises(Invalid) as caught:
        await spool.keep(spool.new_path(), upload_of(BODY, None))
    assert caught.value.kind == "EntityTooLarge"


async def test_what_cannot_be_read_back_is_an_error_not_a_short_body(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    path = spool.new_path()
    kept = await spool.keep(path, upload_of(BODY, None))
    path.write_bytes(BODY[:-1])
    with pytest.raises(Unavailable):
        await read(kept.upload)
    path.unlink()
    kept = await spool.keep(path, upload_of(BODY, None))
    path.unlink()
    with pytest.raises(Unavailable):
        await read(kept.upload)


def test_what_killed_workers_left_goes(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    mine = spool.new_path()
    mine.write_bytes(b"x")
    (tmp_path / f"{2**22 + 1}-{'0' * 32}.put").write_bytes(b"x")  # above the kernel's largest pid
    spool.clear_dead()
    assert list(tmp_path.iterdir()) == [mine]
