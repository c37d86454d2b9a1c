"""The contestants as cases ask for them, and the nodes with an origin behind them."""

from __future__ import annotations

from pathlib import Path

from harness.bench import Bench
from harness.data import Group
from harness.servers import Headrace, JuiceFS, Nginx, SeaweedFS, Server

SIZES_WITH_BYTES = 2**20
"""From this size on a figure is about bytes, below it about requests."""


def nginx(bench: Bench) -> Server:
    """nginx over plain files."""
    return bench.serve("nginx", lambda folder: Nginx(folder, realtime=bench.realtime))


def headrace(bench: Bench) -> Server:
    """One worker over the embedded store."""
    return bench.serve("headrace", lambda folder: Headrace(folder, realtime=bench.realtime))


def seaweedfs(bench: Bench) -> Server:
    """SeaweedFS, all in one process."""
    return bench.serve("seaweedfs", lambda folder: SeaweedFS(folder, realtime=bench.realtime))


def juicefs(bench: Bench) -> Server:
    """The JuiceFS gateway."""
    return bench.serve("juicefs", lambda folder: JuiceFS(folder, realtime=bench.realtime))


def group_of(bench: Bench, size: int) -> Group:
    """The group of objects of that size, or the largest there is in a quick run."""
    return next((group for group in bench.groups if group.size == size), bench.groups[-1])


def fresh(bench: Bench, name: str) -> Path:
    """An empty folder under the bench's own."""
    folder = bench.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
