"""pyarrow.fs: the AWS C++ SDK, which sends chunked bodies with a crc64nvme trailer over plain HTTP."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pytest
from client_steps import Client, ClientSteps


class Arrow:
    """The adapter."""

    def __init__(self, fs: pafs.S3FileSystem, bucket: str) -> None:
        self.fs = fs
        self.bucket = bucket

    def put(self, key: str, data: bytes) -> None:
        with self.fs.open_output_stream(f"{self.bucket}/{key}") as stream:
            stream.write(data)

    put_large = put

    def get(self, key: str) -> bytes:
        with self.fs.open_input_stream(f"{self.bucket}/{key}") as stream:
            return stream.read()

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        with self.fs.open_input_file(f"{self.bucket}/{key}") as file:
            return file.read_at(stop - start, start)

    def list(self, prefix: str) -> list[str]:
        selector = pafs.FileSelector(f"{self.bucket}/{prefix}", recursive=True, allow_not_found=True)
        files = [entry for entry in self.fs.get_file_info(selector) if entry.type == pafs.FileType.File]
        return [entry.path.partition("/")[2] for entry in files if not entry.path.endswith("/")]

    def delete(self, key: str) -> None:
        self.fs.delete_file(f"{self.bucket}/{key}")


@pytest.mark.parametrize("place", ["path", "virtual", "remote"], indirect=True)
class TestPyarrow(ClientSteps):
    @pytest.fixture
    def client(self, place: Any) -> Client:
        return Arrow(
            pafs.S3FileSystem(
                access_key=place.access_key,
                secret_key=place.secret_key,
                endpoint_override=place.host,
                scheme="http",
                region="us-east-1",
                force_virtual_addressing=place.virtual,
                background_writes=False,
            ),
            place.bucket,
        )

    def test_dataset(self, client: Arrow, place: Any) -> None:
        table = pa.table({"n": list(range(50_000)), "half": [number % 2 for number in range(50_000)]})
        root = f"{place.bucket}/{place.prefix}set"
        ds.write_dataset(
            table, root, filesystem=client.fs, format="parquet", partitioning=["half"], max_rows_per_group=5_000,
            max_rows_per_file=5_000,
        )  # fmt: skip
        found = ds.dataset(root, filesystem=client.fs, format="parquet", partitioning=["half"])
        assert found.count_rows() == 50_000
        some = found.to_table(columns=["n"], filter=(ds.field("half") == 1) & (ds.field("n") < 10))
        assert sorted(some["n"].to_pylist()) == [1, 3, 5, 7, 9]

    def test_delete_folder(self, client: Arrow, place: Any) -> None:
        for number in range(5):
            client.put(f"{place.prefix}dir/{number}", b"x")
        client.fs.delete_dir(f"{place.bucket}/{place.prefix}dir")
        assert client.list(place.prefix) == []
