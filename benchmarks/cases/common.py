"""The contestants as cases ask for them, and the nodes with an origin behind them."""

from __future__ import annotations

from pathlib import Path

from harness.bench import Bench
from harness.data import BUCKET, Group
from harness.servers import Headrace, JuiceFS, Nginx, SeaweedFS, Server
from harness.signing import ACCESS_KEY, REGION, SECRET_KEY

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


def origin_url(port: int, bucket: str = BUCKET) -> str:
    """The URL of a bucket on an S3 server of this machine."""
    return f"s3://{bucket}?endpoint=http://127.0.0.1:{port}&region={REGION}&addressing=path"


class CachingHeadrace(Headrace):
    """A node whose buckets lie in an S3 origin: `bindings` maps bucket name to (URL, freshness rule)."""

    def __init__(self, folder: Path, *, realtime: bool, bindings: dict[str, tuple[str, str]]) -> None:
        arguments: list[str] = []
        for bucket, (url, rule) in bindings.items():
            arguments += ["--origin", f"{bucket}={url}", "--freshness", f"{bucket}/={rule}"]
        super().__init__(folder, realtime=realtime, arguments=tuple(arguments))

    def environment(self) -> dict[str, str]:
        """The key of the origin, where the AWS credential chain finds it."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}

    def fill(self, groups: tuple[Group, ...]) -> None:
        """Nothing: what it serves lies in its origin."""
