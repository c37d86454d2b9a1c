"""s3cmd: list v1, access lists, MD5 on deletes, its own signer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from client_command import Command
from client_steps import SMALL, Client, ClientSteps

pytestmark = pytest.mark.clients

CONFIG = """[default]
access_key = {access_key}
secret_key = {secret_key}
host_base = {host}
host_bucket = {host_bucket}
use_https = False
bucket_location = us-east-1
multipart_chunk_size_mb = 5
max_retries = 1
"""


class S3cmd:
    """The adapter."""

    def __init__(self, run: Command, bucket: str) -> None:
        self.run = run
        self.bucket = bucket

    def put(self, key: str, data: bytes) -> None:
        self.run("put", self.run.file(data), f"s3://{self.bucket}/{key}")

    put_large = put

    def get(self, key: str) -> bytes:
        path = self.run.home / "download"
        self.run("get", "--force", f"s3://{self.bucket}/{key}", str(path))
        return path.read_bytes()

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        path = self.run.home / "partial"
        path.write_bytes(bytes(start))
        self.run("get", "--continue", f"s3://{self.bucket}/{key}", str(path))  # all it has: the rest of a file
        return path.read_bytes()[start:stop]

    def list(self, prefix: str) -> list[str]:
        found = self.run("ls", "--recursive", f"s3://{self.bucket}/{prefix}").decode()
        return [line.partition(f"s3://{self.bucket}/")[2] for line in found.splitlines()]

    def delete(self, key: str) -> None:
        self.run("del", f"s3://{self.bucket}/{key}")


class TestS3cmd(ClientSteps):
    @pytest.fixture
    def client(self, place: Any, tmp_path: Path) -> Client:
        style = f"%(bucket)s.{place.host}" if place.virtual else place.host
        config = tmp_path / "s3cfg"
        config.write_text(
            CONFIG.format(access_key=place.access_key, secret_key=place.secret_key, host=place.host, host_bucket=style)
        )
        return S3cmd(Command(tmp_path, "s3cmd", "--config", str(config), "--no-progress"), place.bucket)

    def test_information_copy_and_sync(self, client: S3cmd, place: Any, tmp_path: Path) -> None:
        url = f"s3://{place.bucket}/{place.prefix}"
        client.put(f"{place.prefix}one", SMALL)
        assert b"File size: 34" in client.run("info", f"{url}one")
        assert place.bucket.encode() in client.run("ls")
        assert b"Location" in client.run("info", f"s3://{place.bucket}")
        client.run("cp", f"{url}one", f"{url}two")
        client.run("mv", f"{url}two", f"{url}three")
        source = tmp_path / "source"
        source.mkdir()
        (source / "four").write_bytes(SMALL)
        client.run("sync", f"{source}/", url)
        assert sorted(client.list(place.prefix)) == sorted(f"{place.prefix}{name}" for name in ("one", "three", "four"))
        client.run("del", "--recursive", "--force", url)
        assert client.list(place.prefix) == []
