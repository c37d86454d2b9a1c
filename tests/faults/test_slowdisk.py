"""The slow, full and failing disks do what other tests rely on, where this machine allows them at all."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.base.errors import Denied
from headrace.base.limits import MIB
from headrace.testing.slowdisk import disk_of, failing_filesystem, small_filesystem, throttled


@contextlib.contextmanager
def or_skip() -> Iterator[None]:
    """Skip where the kernel or our rights forbid it."""
    try:
        yield
    except Denied as reason:
        pytest.skip(reason.message)


def write_durably(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_a_small_file_system_fills_and_goes_away(tmp_path: Path) -> None:
    with or_skip(), small_filesystem(tmp_path, 2 * MIB) as place:
        write_durably(place / "fits", bytes(MIB))
        with pytest.raises(OSError, match="No space left") as caught:
            write_durably(place / "does not", bytes(4 * MIB))
        assert caught.value.errno == errno.ENOSPC
        assert (place / "fits").stat().st_size == MIB
    assert not list(tmp_path.iterdir())


def test_a_failing_disk_refuses_writes_then_takes_them_then_gives_nothing(tmp_path: Path) -> None:
    with or_skip(), failing_filesystem(tmp_path, 32 * MIB) as disk:
        write_durably(disk.place / "before", b"b" * MIB)
        disk.fail_writes()
        with pytest.raises(OSError, match=r".") as caught:
            write_durably(disk.place / "during", b"d" * 4 * MIB)
        assert caught.value.errno in {errno.EIO, errno.ENOSPC}
        assert (disk.place / "before").read_bytes() == b"b" * MIB
        disk.mend_writes()
        write_durably(disk.place / "after", b"a" * MIB)
        disk.fail_reads()
        descriptor = os.open(disk.place / "before", os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            with pytest.raises(OSError, match=r".") as caught:
                os.read(descriptor, MIB)
            assert caught.value.errno == errno.EIO
        finally:
            os.close(descriptor)


def test_a_throttled_process_reads_slowly(tmp_path: Path) -> None:
    path = tmp_path / "data"
    write_durably(path, bytes(4 * MIB))
    reader = (
        "import os, sys, time; input(); f = os.open(sys.argv[1], os.O_RDONLY);"
        "os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED); t = time.monotonic();"
        "n = sum(iter(lambda: len(os.read(f, 65536)), 0)); print(n, time.monotonic() - t)"
    )
    with or_skip(), throttled(tmp_path, rbps=4 * MIB) as group:
        child = subprocess.Popen(
            [sys.executable, "-c", reader, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        group.add(child.pid)
        assert child.pid in group.members()
        said, _ = child.communicate("\n", timeout=60)
        size, seconds = said.split()
        assert int(size) == 4 * MIB
        assert float(seconds) > 0.5  # 1 s by the rate, less what the kernel allows at once


def test_what_lies_on_no_disk_is_said(tmp_path: Path) -> None:
    with or_skip(), small_filesystem(tmp_path) as place, pytest.raises(Denied, match="no block device"):
        disk_of(place)
