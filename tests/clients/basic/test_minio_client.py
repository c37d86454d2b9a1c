"""minio-py: region look-up, MD5 on delete, its own multipart."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3
from client_steps import PART_BYTES, Client, ClientSteps
from minio import Minio


class MinioClient:
    """The adapter."""

    def __init__(self, minio: Minio, bucket: str) -> None:
        self.minio = minio
        self.bucket = bucket

    def put(self, key: str, data: bytes) -> None:
        self.minio.put_object(self.bucket, key, io.BytesIO(data), len(data))

    def put_large(self, key: str, data: bytes) -> None:
        self.minio.put_object(self.bucket, key, io.BytesIO(data), len(data), part_size=PART_BYTES)

    def get(self, key: str) -> bytes:
        return self._read(self.minio.get_object(self.bucket, key))

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        return self._read(self.minio.get_object(self.bucket, key, offset=start, length=stop - start))

    def list(self, prefix: str) -> list[str]:
        return [entry.object_name for entry in self.minio.list_objects(self.bucket, prefix, recursive=True)]

    def delete(self, key: str) -> None:
        self.minio.remove_object(self.bucket, key)

    @staticmethod
    def _read(answer: Any) -> bytes:
        try:
            return answer.read()
        finally:
            answer.close()
            answer.release_conn()


class TestMinio(ClientSteps):
    native = False

    @pytest.fixture
    def client(self, place: Any) -> Iterator[Client]:
        pool = urllib3.PoolManager(timeout=30, retries=False)
        minio = Minio(
            place.host, access_key=place.access_key, secret_key=place.secret_key, secure=False, http_client=pool
        )
        if place.virtual:
            minio.enable_virtual_style_endpoint()
        yield MinioClient(minio, place.bucket)
        pool.clear()

    def test_buckets_and_statistics(self, client: MinioClient, place: Any) -> None:
        assert client.minio.bucket_exists(place.bucket)
        assert not client.minio.bucket_exists("nobody-has-this-one") or place.virtual
        assert place.bucket in {bucket.name for bucket in client.minio.list_buckets()}
        client.put(f"{place.prefix}one", b"1234")
        assert client.minio.stat_object(place.bucket, f"{place.prefix}one").size == 4

    def test_remove_many(self, client: MinioClient, place: Any) -> None:
        from minio.deleteobjects import DeleteObject

        keys = [f"{place.prefix}{number}" for number in range(20)]
        for key in keys:
            client.put(key, b"x")
        assert list(client.minio.remove_objects(place.bucket, [DeleteObject(key) for key in keys])) == []
        assert client.list(place.prefix) == []
