"""The aws command line (version 1): s3 and s3api commands, sync."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from client_command import Command, aws_environment
from client_steps import SMALL, Client, ClientSteps

pytestmark = pytest.mark.clients

CONFIG = """[default]
s3 =
  addressing_style = {style}
  multipart_threshold = 5MB
  multipart_chunksize = 5MB
"""


class AwsCli:
    """The adapter."""

    def __init__(self, run: Command, bucket: str) -> None:
        self.run = run
        self.bucket = bucket

    def put(self, key: str, data: bytes) -> None:
        self.run("s3", "cp", "--quiet", self.run.file(data), f"s3://{self.bucket}/{key}")

    put_large = put

    def get(self, key: str) -> bytes:
        return self.run("s3", "cp", f"s3://{self.bucket}/{key}", "-")

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        path = self.run.home / "download"
        span = f"bytes={start}-{stop - 1}"
        self.run("s3api", "get-object", "--bucket", self.bucket, "--key", key, "--range", span, str(path))
        return path.read_bytes()

    def list(self, prefix: str) -> list[str]:
        found = self.run("s3api", "list-objects-v2", "--bucket", self.bucket, "--prefix", prefix, "--output", "json")
        return [entry["Key"] for entry in (json.loads(found) if found.strip() else {}).get("Contents", [])]

    def delete(self, key: str) -> None:
        self.run("s3", "rm", "--quiet", f"s3://{self.bucket}/{key}")


class TestAwsCli(ClientSteps):
    names = ("plain", "deep/er/name", "with space", "ünï-çødé")  # each costs this client a second

    @pytest.fixture
    def client(self, place: Any, tmp_path: Path) -> Client:
        config = tmp_path / "config"
        config.write_text(CONFIG.format(style="virtual" if place.virtual else "path"))
        run = Command(
            tmp_path, "aws", "--endpoint-url", place.endpoint, AWS_CONFIG_FILE=str(config), **aws_environment(place)
        )
        return AwsCli(run, place.bucket)

    def test_sync(self, client: AwsCli, place: Any, tmp_path: Path) -> None:
        source, copy = tmp_path / "source", tmp_path / "copy"
        (source / "deep").mkdir(parents=True)
        for name in ("a", "b", "deep/c"):
            (source / name).write_bytes(SMALL)
        url = f"s3://{place.bucket}/{place.prefix}"
        client.run("s3", "sync", str(source), url)
        (source / "b").unlink()
        client.run("s3", "sync", "--delete", str(source), url)
        assert client.list(place.prefix) == [f"{place.prefix}a", f"{place.prefix}deep/c"]
        client.run("s3", "sync", url, str(copy))
        assert (copy / "deep" / "c").read_bytes() == SMALL
        client.run("s3", "rm", "--recursive", url)
        assert client.list(place.prefix) == []
