"""Slow, full and failing disks for tests: real file systems of the kernel, where root may make them.

Each context raises Denied with the reason where this machine does not allow it, so that a test can
skip itself and say why.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from headrace.base.errors import Denied
from headrace.base.limits import MIB
from headrace.base.rng import token_hex

_COMMAND_SECONDS_MAX = 30
_V1 = Path("/sys/fs/cgroup/blkio")
_V2 = Path("/sys/fs/cgroup")
_V1_FILES = {
    "rbps": "blkio.throttle.read_bps_device",
    "wbps": "blkio.throttle.write_bps_device",
    "riops": "blkio.throttle.read_iops_device",
    "wiops": "blkio.throttle.write_iops_device",
}


def disk_of(path: Path) -> str:
    """`major:minor` of the whole disk that holds `path`. Raises Denied when it lies on no disk (tmpfs, overlay)."""
    device = path.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    place = Path("/sys/dev/block") / name
    if not os.major(device) or not place.exists():
        raise Denied(f"{path} lies on no block device ({name})")
    whole = place.resolve()
    if (whole / "partition").exists():
        whole = whole.parent
    return (whole / "dev").read_text().strip()


class Throttle:
    """A control group whose members get only so much of one disk."""

    def __init__(self, group: Path, disk: str, *, unified: bool) -> None:
        self._group = group
        self._disk = disk
        self._unified = unified
        self.unified = unified
        """True for cgroup v2, which slows buffered writes too; v1 slows reads, direct and synced writes."""

    def add(self, pid: int) -> None:
        """Slow this process from now on, and those that it starts. Raises Denied."""
        _write(self._group / "cgroup.procs", str(pid))

    def limit(self, **rates: int | None) -> None:
        """Set `rbps`, `wbps` (bytes a second), `riops`, `wiops` (requests a second); None lifts one. Raises Denied."""
        for name, rate in rates.items():
            if self._unified:
                _write(self._group / "io.max", f"{self._disk} {name}={'max' if rate is None else rate}")
            else:
                _write(self._group / _V1_FILES[name], f"{self._disk} {rate or 0}")

    def members(self) -> list[int]:
        """Pids of those it holds now."""
        return [int(line) for line in (self._group / "cgroup.procs").read_text().split()]


@contextlib.contextmanager
def throttled(path: Path, **rates: int | None) -> Iterator[Throttle]:
    """A group for processes that shall find the disk below `path` slow. Raises Denied where cgroups forbid it."""
    disk = disk_of(path)
    unified = "io" in _controllers()
    root = _V2 if unified else _V1
    if not unified and not (_V1 / _V1_FILES["rbps"]).exists():
        raise Denied("neither cgroup v1 blkio nor v2 io is there to throttle with")
    if unified and "io" not in (_V2 / "cgroup.subtree_control").read_text().split():
        _write(_V2 / "cgroup.subtree_control", "+io")
    group = root / f"headrace-test-{token_hex(4)}"
    try:
        group.mkdir()
    except OSError as error:
        raise Denied(f"cannot make the control group {group}: {error.strerror}") from error
    throttle = Throttle(group, disk, unified=unified)
    try:
        throttle.limit(**rates)
        yield throttle
    finally:
        with contextlib.suppress(Denied):  # a member stuck in a throttled write would never end
            throttle.limit(**dict.fromkeys(rates))
        for pid in throttle.members():
            with contextlib.suppress(Denied):
                _write(root / "cgroup.procs", str(pid))
        with contextlib.suppress(OSError):
            group.rmdir()


def _controllers() -> list[str]:
    """Controllers of the unified hierarchy; none where it is not mounted."""
    try:
        return (_V2 / "cgroup.controllers").read_text().split()
    except OSError:
        return []


def _write(path: Path, text: str) -> None:
    """Write to a kernel file. Raises Denied."""
    try:
        path.write_text(text)
    except OSError as error:
        raise Denied(f"{path} refuses {text!r}: {error.strerror}") from error


@contextlib.contextmanager
def small_filesystem(folder: Path, size_bytes: int = 32 * MIB) -> Iterator[Path]:
    """A tmpfs of `size_bytes` mounted on a new folder inside `folder`: it fills. Raises Denied."""
    place = folder / f"small-{token_hex(4)}"
    place.mkdir()
    with _mounted(place, "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "headrace-test"):
        yield place


class FailingDisk:
    """An ext4 file system whose disk stops taking writes, and gives no more data, when told to."""

    def __init__(self, place: Path, image: Path, filler: Path) -> None:
        self.place = place
        self._image = image
        self._filler = filler

    def fail_writes(self) -> None:
        """From now on what is written for the first time is an I/O error at fsync: the disk has no room behind it."""
        with self._filler.open("ab", 0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65_536))

    def mend_writes(self) -> None:
        """Take writes again."""
        self._filler.unlink(missing_ok=True)

    def fail_reads(self) -> None:
        """From now on what is not in the page cache is an I/O error; there is no way back."""
        with contextlib.suppress(OSError):
            os.sync()
        os.truncate(self._image, 0)

    def forget(self) -> None:
        """Drop the machine's page cache, so that reads reach the disk. Raises Denied."""
        os.sync()
        _write(Path("/proc/sys/vm/drop_caches"), "1")


@contextlib.contextmanager
def failing_filesystem(folder: Path, size_bytes: int = 64 * MIB) -> Iterator[FailingDisk]:
    """ext4 on a loop device over a sparse file in a tmpfs, which can be starved. Raises Denied.

    The tmpfs is as large as the disk says it is; filling the rest of it makes the disk thin.
    """
    with small_filesystem(folder, size_bytes + 8 * MIB) as behind:
        image = behind / "image"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard", "-O", "^has_journal", str(image))
        place = folder / f"failing-{token_hex(4)}"
        place.mkdir()
        with _mounted(place, "-t", "ext4", "-o", "loop,errors=continue", str(image)):
            yield FailingDisk(place, image, behind / "filler")


@contextlib.contextmanager
def _mounted(place: Path, *arguments: str) -> Iterator[None]:
    """Something mounted on `place`, unmounted at the end even when files are still open there."""
    if os.geteuid() != 0:
        raise Denied("mounting needs root")
    _run("mount", *arguments, str(place))
    try:
        yield
    finally:
        if subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False)
        with contextlib.suppress(OSError):
            place.rmdir()


def _run(command: str, *arguments: str) -> None:
    """Run a program of the system. Raises Denied with what it said."""
    path = shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise Denied(f"{command} is not installed")
    try:
        done = subprocess.run([path, *arguments], capture_output=True, timeout=_COMMAND_SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired as error:
        raise Denied(f"{command} did not end in {_COMMAND_SECONDS_MAX} s") from error
    if done.returncode:
        raise Denied(f"{command} is not permitted here: {done.stderr.decode(errors='replace').strip()[:200]}")
