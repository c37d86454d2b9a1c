"""s5cmd: list v2, parallel parts; path style is all it does with an endpoint of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from client_command import Command, aws_environment
from client_steps import SMALL, Client, ClientSteps

pytestmark = pytest.mark.clients


class S5cmd:
    """The adapter. Its reads are whole objects; it has no ranges."""

    def __init__(self, run: Command, bucket: str) -> None:
        self.run = run
        self.bucket = bucket

    def put(self, key: str, data: bytes) -> None:
        self.run("cp", "--raw", "--part-size", "5", self.run.file(data), f"s3://{self.bucket}/{key}")

    put_large = put

    def get(self, key: str) -> bytes:
        path = self.run.home / "download"
        self.run("cp", "--raw", "--part-size", "5", f"s3://{self.bucket}/{key}", str(path))
        return path.read_bytes()

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        return self.run("cat", "--raw", f"s3://{self.bucket}/{key}")[start:stop]

    def list(self, prefix: str) -> list[str]:
        lines = self.run("--json", "ls", f"s3://{self.bucket}/*").decode().splitlines()
        keys = [json.loads(line)["key"].removeprefix(f"s3://{self.bucket}/") for line in lines]
        return [key for key in keys if key.startswith(prefix)]

    def delete(self, key: str) -> None:
        self.run("rm", "--raw", f"s3://{self.bucket}/{key}")


@pytest.mark.parametrize("place", ["path", "remote"], indirect=True)
class TestS5cmd(ClientSteps):
    @pytest.fixture
    def client(self, place: Any, tmp_path: Path) -> Client:
        run = Command(tmp_path, "s5cmd", "--endpoint-url", place.endpoint, "-r", "1", **aws_environment(place))
        s5cmd = S5cmd(run, place.bucket)
        s5cmd.put(f"{place.prefix}never-empty", SMALL)  # `ls` of nothing is an error
        return s5cmd

    def test_list_and_delete(self, client: Client, place: Any) -> None:
        names = [f"{place.prefix}in/{name}" for name in self.names]
        for name in names:
            client.put(name, name.encode())
        assert sorted(key for key in client.list(f"{place.prefix}in/") if not key.endswith("/")) == sorted(names)
        for name in names:
            assert client.get(name) == name.encode()
            client.delete(name)
        assert [key for key in client.list(place.prefix) if key in names] == []

    def test_sync_and_remove_many(self, client: S5cmd, place: Any, tmp_path: Path) -> None:
        source, copy = tmp_path / "source", tmp_path / "copy"
        source.mkdir()
        for number in range(50):
            (source / f"{number:02}").write_bytes(SMALL * number)
        url = f"s3://{place.bucket}/{place.prefix}many/"
        client.run("sync", f"{source}/", url)
        client.run("sync", f"{url}*", f"{copy}/")
        assert (copy / "49").read_bytes() == SMALL * 49
        client.run("rm", f"{url}*")
        assert [key for key in client.list(f"{place.prefix}many/") if not key.endswith("/")] == []
