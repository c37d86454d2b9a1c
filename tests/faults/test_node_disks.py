"""A node whose tier's disk fills up or breaks: reads and writes go on around it, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import boto3
import pytest
from botocore.config import Config

from headrace.base.clock import pause, steady
from headrace.base.errors import Denied
from headrace.base.limits import MIB
from headrace.base.rng import seeded
from headrace.testing.node import Node
from headrace.testing.servers import S3Server
from headrace.testing.slowdisk import failing_filesystem, small_filesystem

BUCKET = "cached"
TROUBLES = ("takes no more blocks", "passed on without a copy")


@contextlib.contextmanager
def or_skip() -> Iterator[None]:
    """Skip where the kernel or our rights forbid mounting."""
    try:
        yield
    except Denied as reason:
        pytest.skip(reason.message)


class Pair:
    """A node with its tier in `place`, a server behind it, and what was acknowledged."""

    def __init__(self, folder: Path, place: Path, server: S3Server, name: str) -> None:
        self.server = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )
        self.server.create_bucket(Bucket=name)
        self.name = name
        flags = ("--tier", f"{place / 'tier'}:256MiB", "--open-metrics", "--log-format", "json")
        self.node = Node(folder / "node", *flags, origins={BUCKET: server.url(name)})
        self.acknowledged: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        self.node.start()
        self.client = self.node.client(retries={"total_max_attempts": 1})
        return self

    def __exit__(self, *_: object) -> None:
        self.node.stop()

    def put(self, key: str, size: int) -> None:
        body = seeded(f"{key} {size} {len(self.acknowledged)}").randbytes(size)
        self.client.put_object(Bucket=BUCKET, Key=key, Body=body)
        self.acknowledged[key] = body

    def get(self, key: str) -> str:
        """Read and check one object; where it came from."""
        answer = self.client.get_object(Bucket=BUCKET, Key=key)
        assert answer["Body"].read() == self.acknowledged[key]
        return answer["ResponseMetadata"]["HTTPHeaders"]["x-cache"]

    def check(self) -> None:
        """Every object through the node, parts of it too, and at the server itself."""
        for key, body in self.acknowledged.items():
            self.get(key)
            if body:
                middle = len(body) // 2
                answer = self.client.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={middle}-{middle + 99}")
                assert answer["Body"].read() == body[middle : middle + 100]
            assert self.server.get_object(Bucket=self.name, Key=key)["Body"].read() == body

    def await_cached(self, key: str) -> None:
        """Read until the cache answers."""
        deadline = steady() + 60
        while self.get(key) not in {"HIT", "REVALIDATED"}:
            assert steady() < deadline, self.node.log()[-3000:]
            pause(0.1)

    def bypassed(self) -> dict[str, float]:
        """Reason -> count, of reads and writes that went around the cache."""
        with urllib.request.urlopen(f"{self.node.endpoint}/_headrace/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = [line.split(" ") for line in lines if line.startswith("headrace_bypass_total{")]
        return {name.split('reason="')[1].split('"')[0]: float(value) for name, value in found}

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.node.log().splitlines() if line.startswith("{")]

    def complaints(self, text: str) -> int:
        return sum(text in str(event.get("event")) for event in self.events())


def test_a_full_disk_is_passed_by_and_used_again(tmp_path: Path, s3_server: S3Server) -> None:
    with (
        or_skip(),
        small_filesystem(tmp_path, 48 * MIB) as place,
        Pair(tmp_path, place, s3_server, "disk-full") as pair,
    ):
        pair.put("before", 2 * MIB)
        pair.await_cached("before")
        filler = place / "filler"
        with filler.open("wb", 0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65_536))
        for number, size in enumerate((0, 1, 100_000, 5 * MIB + 1, 9 * MIB, 20 * MIB)):
            pair.put(f"during-{number}", size)
            pair.put("before", size + 1)
            pair.check()
        pair.server.put_object(Bucket=pair.name, Key="foreign", Body=b"f" * 6 * MIB)
        pair.acknowledged["foreign"] = b"f" * 6 * MIB
        pair.check()
        deadline = steady() + 30
        while not pair.bypassed().get("spool-failed"):
            assert steady() < deadline
            pause(0.1)
        for text in TROUBLES:
            assert pair.complaints(text) <= 1 + pair.complaints("again"), pair.node.log()
        assert pair.complaints(TROUBLES[1]) == 1
        assert not list((place / "tier" / "spool").iterdir())
        filler.unlink()
        pair.await_cached("during-3")
        pair.put("after", 5 * MIB)
        pair.await_cached("after")
        pair.check()
        assert "Traceback" not in pair.node.log()


def test_a_tier_larger_than_its_disk_loses_nothing(tmp_path: Path, s3_server: S3Server) -> None:
    """Nobody else fills the disk: the cache itself meets the end of it, in the middle of fills and writes."""
    with (
        or_skip(),
        small_filesystem(tmp_path, 48 * MIB) as place,
        Pair(tmp_path, place, s3_server, "disk-small") as pair,
    ):
        for number in range(10):
            pair.put(f"k{number % 7}", 9 * MIB + number)
        pair.check()
        pair.node.restart()
        pair.client = pair.node.client(retries={"total_max_attempts": 1})
        pair.check()
        assert "Traceback" not in pair.node.log()


def test_a_failing_disk_is_passed_by(tmp_path: Path, s3_server: S3Server) -> None:
    with (
        or_skip(),
        failing_filesystem(tmp_path, 64 * MIB) as disk,
        Pair(tmp_path, disk.place, s3_server, "disk-failing") as pair,
    ):
        for number in range(3):
            pair.put(f"old-{number}", 3 * MIB)
            pair.await_cached(f"old-{number}")
        disk.fail_writes()
        for number in range(3):
            pair.put(f"during-{number}", 5 * MIB)
            pair.check()
        disk.mend_writes()
        pair.put("mended", 2 * MIB)
        pair.check()
        disk.fail_reads()
        disk.forget()
        pair.put("new", MIB)
        for _ in range(2):
            pair.check()
        assert "Traceback" not in pair.node.log()
