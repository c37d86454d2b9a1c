"""s3fs: what fsspec users (pandas, dask, datasets) speak S3 with."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import s3fs
from client_steps import PART_BYTES, Client, ClientSteps

pytestmark = pytest.mark.clients


def filesystem(place: Any) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(**options(place))


def options(place: Any) -> dict[str, Any]:
    """As storage_options of anything built on fsspec."""
    return {
        "key": place.access_key,
        "secret": place.secret_key,
        "endpoint_url": place.endpoint,
        "client_kwargs": {"region_name": "us-east-1"},
        "config_kwargs": {"s3": {"addressing_style": "virtual" if place.virtual else "path"}},
        "use_listings_cache": False,
        "skip_instance_cache": True,
    }


class S3fs:
    """The adapter."""

    def __init__(self, fs: s3fs.S3FileSystem, bucket: str) -> None:
        self.fs = fs
        self.bucket = bucket

    def put(self, key: str, data: bytes) -> None:
        self.fs.pipe_file(f"{self.bucket}/{key}", data)

    def put_large(self, key: str, data: bytes) -> None:
        with self.fs.open(f"{self.bucket}/{key}", "wb", block_size=PART_BYTES) as file:
            file.write(data)

    def get(self, key: str) -> bytes:
        return self.fs.cat_file(f"{self.bucket}/{key}")

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        with self.fs.open(f"{self.bucket}/{key}", "rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def list(self, prefix: str) -> list[str]:
        return [path.partition("/")[2] for path in self.fs.find(f"{self.bucket}/{prefix}")]

    def delete(self, key: str) -> None:
        self.fs.rm_file(f"{self.bucket}/{key}")


@pytest.mark.parametrize("place", ["path", "virtual", "remote"], indirect=True)
class TestS3fs(ClientSteps):
    native = False

    @pytest.fixture
    def client(self, place: Any) -> Client:
        return S3fs(filesystem(place), place.bucket)

    def test_copy_move_and_remove_tree(self, client: S3fs, place: Any) -> None:
        root = f"{place.bucket}/{place.prefix}"
        for number in range(5):
            client.put(f"{place.prefix}from/{number}", b"x")
        client.fs.copy(f"{root}from/0", f"{root}to/0")
        client.fs.copy(f"{root}from/", f"{root}copied/", recursive=True)
        client.fs.mv(f"{root}to/0", f"{root}moved/0")
        assert len(client.list(f"{place.prefix}copied/")) == 5
        assert client.get(f"{place.prefix}moved/0") == b"x"
        client.fs.rm(root, recursive=True)
        if not place.remote:
            assert client.list(place.prefix) == []

    def test_pandas(self, place: Any, client: S3fs) -> None:
        frame = pd.DataFrame({"n": range(1000)})
        url = f"s3://{place.bucket}/{place.prefix}frame.parquet"
        frame.to_parquet(url, storage_options=options(place))
        assert pd.read_parquet(url, storage_options=options(place)).equals(frame)
