"""The page-cache probe: what was dropped from the cache is told from what is in it, by every method."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.base.errors import Damaged
from headrace.base.limits import KIB, MIB
from headrace.media import residency
from headrace.media.frames import checksums_of
from headrace.media.residency import PAGE_BYTES, Probe, own_probe, resident, warm

SIZE = 4 * MIB
METHODS = [resident, own_probe(), Probe().resident, Probe().resident_by_mincore, Probe().resident_by_bytes]


@pytest.fixture
def content() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def descriptor(tmp_path: Path, content: bytes) -> Iterator[int]:
    """A file on a disk, all of it in the page cache and clean."""
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(opened, content)
    os.fsync(opened)
    yield opened
    os.close(opened)


def drop(descriptor: int) -> None:
    """Take the file out of the page cache; skips where the file system has no other place for it."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    for _ in range(100):  # a page that is just being read cannot be dropped yet
        os.posix_fadvise(descriptor, 0, SIZE, os.POSIX_FADV_DONTNEED)
        if Probe().cached_pages(descriptor, 0, SIZE) <= 0:
            return
        time.sleep(0.01)
    pytest.skip("this file system keeps every page in memory")


def becomes_resident(probe, descriptor: int, offset: int, length: int) -> bool:
    """Warm and ask, a few times: the machine may take any page back at any moment."""
    for _ in range(20):
        warm(descriptor, offset, length)
        if probe(descriptor, offset, length):
            return True
    return False


def read_all_but(descriptor: int, page: int) -> None:
    """Bring every page but one in, page by page, since the cache drops larger pieces only whole."""
    drop(descriptor)
    for number in range(SIZE // PAGE_BYTES):
        if number != page:
            os.pread(descriptor, PAGE_BYTES, number * PAGE_BYTES)


@pytest.mark.parametrize("probe", METHODS)
def test_a_cached_file_is_resident_at_any_range(descriptor: int, probe) -> None:
    for offset, length in ((0, 1), (0, SIZE), (4095, 2), (5, 70_000), (SIZE - 1, 1), (MIB + 1, MIB)):
        assert becomes_resident(probe, descriptor, offset, length), (offset, length)


@pytest.mark.parametrize("probe", METHODS)
def test_a_dropped_file_is_not_resident_until_warmed(descriptor: int, probe) -> None:
    drop(descriptor)
    assert not probe(descriptor, 0, SIZE)
    drop(descriptor)
    assert becomes_resident(probe, descriptor, MIB, MIB)
    assert not probe(descriptor, MIB, 2 * MIB + 1)


@pytest.mark.parametrize("probe", METHODS[:4])
def test_one_missing_page_anywhere_is_seen(descriptor: int, probe) -> None:
    for page in (0, 17, SIZE // PAGE_BYTES - 1):
        read_all_but(descriptor, page)
        assert not probe(descriptor, 0, SIZE), page
        assert becomes_resident(probe, descriptor, 0, SIZE), page


@pytest.mark.parametrize("probe", METHODS)
def test_what_lies_past_the_end_is_not_resident(descriptor: int, probe) -> None:
    assert not probe(descriptor, SIZE - 10, 64 * KIB)


@pytest.mark.parametrize("probe", METHODS)
def test_a_bad_descriptor_is_not_resident(probe) -> None:
    assert not probe(1_000_000, 0, 4096)


def test_a_forbidden_call_falls_back(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a sandbox refuses cachestat(2), detection picks another way and answers stay right."""
    monkeypatch.setattr(residency, "_CACHESTAT", 100_000)
    assert residency._detect() == "mincore"
    assert becomes_resident(Probe().resident, descriptor, 0, SIZE)
    read_all_but(descriptor, MIB // PAGE_BYTES)
    assert not Probe().resident(descriptor, 0, SIZE)
    monkeypatch.setattr(residency, "_mmap", lambda *_: None)
    assert residency._detect() == "nowait"
    drop(descriptor)
    assert not Probe().resident(descriptor, MIB, PAGE_BYTES)
    monkeypatch.setattr(os, "memfd_create", _refuse)
    assert residency._detect() == "nowait"


@pytest.mark.parametrize("probe", METHODS[:4])
def test_pages_that_are_still_being_read_are_not_resident(
    descriptor: int, probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cachestat counts them; the NOWAIT byte, refused here as the kernel would, tells."""
    assert becomes_resident(probe, descriptor, 0, SIZE)
    monkeypatch.setattr(os, "preadv", _still_reading)
    assert not probe(descriptor, 0, SIZE)


@pytest.mark.parametrize("probe", METHODS[:4])
def test_a_file_in_memory_is_resident(probe) -> None:
    """tmpfs takes no NOWAIT reads, yet nothing there is ever waited for."""
    descriptor = os.memfd_create("test")
    try:
        os.write(descriptor, bytes(MIB))
        assert probe(descriptor, 5, MIB - 5)
        assert not probe(descriptor, 0, MIB + 5)
        os.ftruncate(descriptor, 2 * MIB)
        assert not probe(descriptor, 0, 2 * MIB)
    finally:
        os.close(descriptor)


def test_warming_verifies_every_unit(descriptor: int, content: bytes) -> None:
    checksums = checksums_of(content)
    warm(descriptor, 0, SIZE, checksums)
    for unit in (0, 15, 16, 63):
        wrong = list(checksums)
        wrong[unit] ^= 1
        with pytest.raises(Damaged, match=f"unit {unit}$"):
            warm(descriptor, 0, SIZE, wrong)


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (3, 100), (7, 3 * MIB + 5), (0, 64 * KIB), (1, 64 * KIB + 1)])
def test_warming_verifies_ranges_of_any_shape(descriptor: int, content: bytes, offset: int, length: int) -> None:
    data = content[offset : offset + length]
    warm(descriptor, offset, length, checksums_of(data))
    os.pwrite(descriptor, bytes([data[-1] ^ 1]), offset + length - 1)
    with pytest.raises(Damaged):
        warm(descriptor, offset, length, checksums_of(data))


def test_warming_past_the_end_is_damage(descriptor: int) -> None:
    with pytest.raises(Damaged, match="ends"):
        warm(descriptor, SIZE - 10, 11)
    with pytest.raises(Damaged, match="match"):
        warm(descriptor, 0, 100, ())


def _refuse(*_: object) -> int:
    raise PermissionError(1, "Operation not permitted")


def _still_reading(*_: object) -> int:
    raise BlockingIOError(11, "Resource temporarily unavailable")
