"""rclone: list v1, `x-id=` queries, unsigned payloads in parts, sync and check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from client_command import Command
from client_steps import SMALL, Client, ClientSteps

pytestmark = pytest.mark.clients


class Rclone:
    """The adapter."""

    def __init__(self, run: Command, bucket: str) -> None:
        self.run = run
        self.bucket = bucket

    def put(self, key: str, data: bytes) -> None:
        self.run("copyto", "--ignore-times", self.run.file(data), f"hr:{self.bucket}/{key}")

    put_large = put

    def get(self, key: str) -> bytes:
        # `cat` of a missing object is an empty success when it takes the name for a folder's
        self.run("copyto", f"hr:{self.bucket}/{key}", str(self.run.home / "download"))
        return (self.run.home / "download").read_bytes()

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        return self.run("cat", "--offset", str(start), "--count", str(stop - start), f"hr:{self.bucket}/{key}")

    def list(self, prefix: str) -> list[str]:
        found = self.run("lsf", "-R", "--files-only", f"hr:{self.bucket}/{prefix}").decode()
        return [prefix + line for line in found.splitlines()]

    def delete(self, key: str) -> None:
        self.run("deletefile", f"hr:{self.bucket}/{key}")


class TestRclone(ClientSteps):
    @pytest.fixture
    def client(self, place: Any, tmp_path: Path) -> Client:
        run = Command(
            tmp_path,
            "rclone",
            "--retries=1",
            RCLONE_CONFIG="/dev/null",
            RCLONE_CONFIG_HR_TYPE="s3",
            RCLONE_CONFIG_HR_PROVIDER="Other",
            RCLONE_CONFIG_HR_ENDPOINT=place.endpoint,
            RCLONE_CONFIG_HR_REGION="us-east-1",
            RCLONE_CONFIG_HR_ACCESS_KEY_ID=place.access_key,
            RCLONE_CONFIG_HR_SECRET_ACCESS_KEY=place.secret_key,
            RCLONE_CONFIG_HR_FORCE_PATH_STYLE=str(not place.virtual).lower(),
            RCLONE_CONFIG_HR_UPLOAD_CUTOFF="5Mi",
            RCLONE_CONFIG_HR_CHUNK_SIZE="5Mi",
        )
        return Rclone(run, place.bucket)

    def test_sync_check_and_purge(self, client: Rclone, place: Any, tmp_path: Path) -> None:
        source = tmp_path / "source"
        (source / "deep").mkdir(parents=True)
        for name in ("a", "b", "deep/c"):
            (source / name).write_bytes(SMALL)
        url = f"hr:{place.bucket}/{place.prefix}".rstrip("/")
        client.run("sync", str(source), url)
        (source / "b").unlink()
        client.run("sync", str(source), url)
        client.run("check", str(source), url)
        client.run("moveto", f"{url}/a", f"{url}/moved")
        assert sorted(client.list(place.prefix)) == [f"{place.prefix}deep/c", f"{place.prefix}moved"]
        client.run("purge", url)
        assert client.list("") == [] or all(not key.startswith(place.prefix) for key in client.list(""))
