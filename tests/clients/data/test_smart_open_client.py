"""smart_open: streams over boto3, used by gensim and many scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import smart_open
from client_steps import PART_BYTES, Client, ClientSteps

pytestmark = pytest.mark.clients


class SmartOpen:
    """The adapter; listing and deleting is boto3's part."""

    def __init__(self, s3: Any, bucket: str) -> None:
        self.s3 = s3
        self.bucket = bucket
        self.parameters = {"client": s3, "min_part_size": PART_BYTES}

    def put(self, key: str, data: bytes) -> None:
        parameters = {"client": self.s3, "multipart_upload": False}
        with smart_open.open(f"s3://{self.bucket}/{key}", "wb", transport_params=parameters) as file:
            file.write(data)

    def put_large(self, key: str, data: bytes) -> None:
        with smart_open.open(f"s3://{self.bucket}/{key}", "wb", transport_params=self.parameters) as file:
            file.write(data)

    def get(self, key: str) -> bytes:
        with smart_open.open(f"s3://{self.bucket}/{key}", "rb", transport_params={"client": self.s3}) as file:
            return file.read()

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        with smart_open.open(f"s3://{self.bucket}/{key}", "rb", transport_params={"client": self.s3}) as file:
            file.seek(start)
            return file.read(stop - start)

    def list(self, prefix: str) -> list[str]:
        found = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for entry in found.get("Contents", [])]

    def delete(self, key: str) -> None:
        self.s3.delete_object(Bucket=self.bucket, Key=key)


class TestSmartOpen(ClientSteps):
    native = False

    @pytest.fixture
    def client(self, place: Any) -> Iterator[Client]:
        s3 = place.node.client(addressing="virtual" if place.virtual else "path")
        yield SmartOpen(s3, place.bucket)
        s3.close()
