"""What `headrace doctor` looks at on this machine: kernel, limits, clocks, disks, ports.

Each check is bounded in time and space, changes nothing that lasts, and ends in a line that says what
to change. Origins are looked at in `origin_checks`.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import platform
import resource
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from headrace.base import clock
from headrace.base.errors import HeadraceError
from headrace.base.limits import (
    BLOCK_BYTES,
    CONNECTIONS_MAX,
    DOCTOR_DISK_BYTES_MAX,
    DOCTOR_DISK_SECONDS_MAX,
    GIB,
    MIB,
    OPEN_FILES_MAX,
    TIER_BYTES_MIN,
)
from headrace.config.load import tiers
from headrace.config.settings import Settings
from headrace.config.units import format_bytes
from headrace.media.residency import Probe
from headrace.serve import ports
from headrace.serve.layout import Layout

OK, WARN, FAIL = "ok", "warn", "fail"
_CACHESTAT_KERNEL = (6, 5)
_FREE_BYTES_WANTED = 10 * GIB
_SYNC_SECONDS_SLOW = 0.05
_SPEED_SLOW = 100 * MIB


class Check(NamedTuple):
    """One line of the report. `advice` says what to change; empty when all is well."""

    name: str
    state: str
    found: str
    advice: str = ""


def check_machine(settings: Settings, layout: Layout) -> list[Check]:
    """All checks that need nothing but this machine."""
    found = [check_kernel(), check_page_cache(), check_sendfile(), check_open_files(), check_clock()]
    found += check_directory("data directory", layout.data)
    for number, tier in enumerate(tiers(settings)):
        found += check_directory(f"tier {number}", tier.path)
        found.append(check_tier_size(number, tier.path, tier.size_bytes))
    found.append(check_port(settings, layout))
    return found


def check_kernel() -> Check:
    """The kernel's version."""
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < _CACHESTAT_KERNEL:
        return Check("kernel", WARN, f"Linux {release}", "Linux 6.5 or newer tells faster what is in the page cache.")
    return Check("kernel", OK, f"Linux {release}, Python {platform.python_version()}")


def check_page_cache() -> Check:
    """Whether cachestat(2) may be called and is right about a page just written."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(mmap.PAGESIZE))
        file.flush()
        pages = Probe().cached_pages(file.fileno(), 0, mmap.PAGESIZE)
    if pages < 0:
        return Check(
            "page cache probe", WARN, "cachestat is missing or forbidden; mincore is used, which costs more per read",
            "Use Linux 6.5 or newer, and allow system call 451 in the container's seccomp profile.",
        )  # fmt: skip
    return Check("page cache probe", OK, "cachestat works")


def check_sendfile() -> Check:
    """Whether a file can be sent without a copy."""
    import socket

    left, right = socket.socketpair()
    with left, right, tempfile.TemporaryFile() as file:
        file.write(b"x" * 100)
        file.flush()
        try:
            sent = os.sendfile(left.fileno(), file.fileno(), 0, 100)
        except OSError as problem:
            return Check("sendfile", FAIL, str(problem), "The temporary directory's file system must allow sendfile.")
        same = right.recv(100) == b"x" * 100
    if sent != 100 or not same:
        return Check("sendfile", FAIL, "bytes sent differ from the file's", "Use another kernel; this one is broken.")
    return Check("sendfile", OK, "works")


def check_open_files() -> Check:
    """The hard limit on open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + OPEN_FILES_MAX
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        return Check("open files", OK, "no limit" if hard == resource.RLIM_INFINITY else f"up to {hard}")
    return Check(
        "open files", WARN, f"at most {hard}",
        f"Raise the hard limit to {wanted} (`ulimit -Hn`, LimitNOFILE= in systemd); connections are refused earlier.",
    )  # fmt: skip


def check_clock() -> Check:
    """Whether the wall clock runs in step with the steady one."""
    before = clock.wall() - clock.steady()
    clock.pause(0.05)
    drift = abs(clock.wall() - clock.steady() - before)
    if drift > 0.01:
        return Check(
            "clock", WARN, f"the wall clock moved {drift:.3f} s against the steady one within 50 ms",
            "Let chrony or systemd-timesyncd slew the clock instead of stepping it.",
        )  # fmt: skip
    if clock.wall() < 1_700_000_000:
        return Check("clock", FAIL, "the wall clock is years behind", "Set it; S3 signatures carry the time.")
    return Check("clock", OK, "steady")


def check_directory(name: str, path: Path) -> list[Check]:
    """Whether the directory can be used, its free space and its speed."""
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return [Check(name, FAIL, f"{existing} is not a directory", "Choose another path.")]
    if not os.access(existing, os.W_OK | os.X_OK):
        return [Check(name, FAIL, f"{existing} may not be written", "Change its owner or mode, or choose another.")]
    free = shutil.disk_usage(existing).free
    space = Check(f"{name}: space", OK, f"{format_bytes(free)} free in {path}")
    if free < TIER_BYTES_MIN:
        advice = "Free some space or choose another disk."
        return [Check(f"{name}: space", FAIL, f"only {format_bytes(free)} free in {path}", advice)]
    if free < _FREE_BYTES_WANTED:
        space = Check(f"{name}: space", WARN, f"only {format_bytes(free)} free in {path}", "A cache likes more room.")
    return [space, check_disk(name, existing)]


def check_tier_size(number: int, path: Path, size_bytes: int) -> Check:
    """Whether the tier's limit fits its disk."""
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    total = shutil.disk_usage(existing).total
    found = f"limit {format_bytes(size_bytes)} on a disk of {format_bytes(total)}"
    if size_bytes < TIER_BYTES_MIN:
        return Check(f"tier {number}: size", FAIL, found, f"Give it at least {format_bytes(TIER_BYTES_MIN)}.")
    if size_bytes > total * 0.95:
        return Check(f"tier {number}: size", WARN, found, "Leave 5 % of the disk to the file system.")
    return Check(f"tier {number}: size", OK, found)


def check_disk(name: str, directory: Path) -> Check:
    """Write, sync and read back a file of bounded size, and say how fast that was."""
    try:
        written, wrote_seconds, sync_seconds, read_seconds = _time_disk(directory)
    except OSError as problem:
        hint = "Free some space." if problem.errno in (errno.ENOSPC, errno.EDQUOT) else "Look at the kernel's log."
        return Check(f"{name}: speed", FAIL, f"cannot write and read: {problem.strerror}", hint)
    write_speed, read_speed = written / max(wrote_seconds, 1e-6), written / max(read_seconds, 1e-6)
    found = (
        f"writes {format_bytes(write_speed)}/s, reads {format_bytes(read_speed)}/s, "
        f"a small sync takes {sync_seconds * 1000:.1f} ms"
    )
    if sync_seconds > _SYNC_SECONDS_SLOW:
        advice = "Every acknowledged PUT waits for a sync: put the data directory on a disk that syncs faster."
        return Check(f"{name}: speed", WARN, found, advice)
    if min(write_speed, read_speed) < _SPEED_SLOW:
        return Check(f"{name}: speed", WARN, found, "A network is often faster; put the cache on NVMe.")
    return Check(f"{name}: speed", OK, found)


def _time_disk(directory: Path) -> tuple[int, float, float, float]:
    """(bytes, seconds to write them durably, seconds of a small sync, seconds to read from the device)."""
    block = os.urandom(BLOCK_BYTES)
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        start = clock.steady()
        written = 0
        while written < DOCTOR_DISK_BYTES_MAX and clock.steady() - start < DOCTOR_DISK_SECONDS_MAX:
            written += file.write(block)
        os.fsync(file.fileno())
        wrote = clock.steady()
        os.pwrite(file.fileno(), b"x", 0)
        os.fsync(file.fileno())
        synced = clock.steady()
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        reading = clock.steady()
        offset = 0
        while offset < written:
            offset += len(os.pread(file.fileno(), BLOCK_BYTES, offset))
        return written, wrote - start, synced - wrote, clock.steady() - reading


def check_port(settings: Settings, layout: Layout) -> Check:
    """Whether the port is free, or held by this very node."""
    if settings.port == 0:
        return Check("port", OK, "a free one is picked at start")
    running = layout.running()
    if running is not None:
        return Check("port", OK, f"a node runs on {layout.data} (process {running})")
    try:
        for listener in ports.open_listeners(settings.host, settings.port, 1):
            listener.close()
    except HeadraceError as problem:
        return Check("port", FAIL, problem.message, "Stop the other program, or set another port.")
    return Check("port", OK, f"{settings.port} on {settings.host} is free")
