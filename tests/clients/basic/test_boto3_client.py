"""boto3 and s3transfer: plain, TLS, virtual-hosted, remote origin, presigned URLs, crc64nvme."""

from __future__ import annotations

import io
import ssl
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from client_steps import LARGE, PART_BYTES, SMALL, Client, ClientSteps

TRANSFER = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)


class Boto3:
    """The adapter."""

    def __init__(self, s3: Any, bucket: str) -> None:
        self.s3 = s3
        self.bucket = bucket

    def put(self, key: str, data: bytes) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=data)

    def put_large(self, key: str, data: bytes) -> None:
        self.s3.upload_fileobj(io.BytesIO(data), self.bucket, key, Config=TRANSFER)

    def get(self, key: str) -> bytes:
        buffer = io.BytesIO()
        self.s3.download_fileobj(self.bucket, key, buffer, Config=TRANSFER)
        return buffer.getvalue()

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        answer = self.s3.get_object(Bucket=self.bucket, Key=key, Range=f"bytes={start}-{stop - 1}")
        return answer["Body"].read()

    def list(self, prefix: str) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def delete(self, key: str) -> None:
        self.s3.delete_objects(Bucket=self.bucket, Delete={"Objects": [{"Key": key}]})


@pytest.mark.parametrize("place", ["path", "virtual", "remote", "tls", "tls-virtual"], indirect=True)
class TestBoto3(ClientSteps):
    native = False

    @pytest.fixture
    def client(self, place: Any) -> Iterator[Client]:
        s3 = place.node.client(
            addressing="virtual" if place.virtual else "path",
            verify=str(place.certificate) if place.certificate else True,
        )
        yield Boto3(s3, place.bucket)
        s3.close()

    @pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
    def test_checksums(self, client: Boto3, place: Any, algorithm: str) -> None:
        key = f"{place.prefix}{algorithm}"
        field = f"Checksum{algorithm}"
        stored = client.s3.put_object(Bucket=place.bucket, Key=key, Body=SMALL, ChecksumAlgorithm=algorithm)
        assert stored[field]
        found = client.s3.get_object(Bucket=place.bucket, Key=key, ChecksumMode="ENABLED")
        assert found["Body"].read() == SMALL  # botocore compares the checksum itself
        if not place.remote:  # the origin decides which checksums it gives back
            assert found[field] == stored[field]

    def test_multipart_crc64nvme(self, client: Boto3, place: Any) -> None:
        key = f"{place.prefix}large"
        extra = {"ChecksumAlgorithm": "CRC64NVME"}
        client.s3.upload_fileobj(io.BytesIO(LARGE), place.bucket, key, ExtraArgs=extra, Config=TRANSFER)
        assert client.get(key) == LARGE

    def test_presigned(self, client: Boto3, place: Any) -> None:
        context = ssl.create_default_context(cafile=str(place.certificate)) if place.certificate else None
        named = {"Bucket": place.bucket, "Key": f"{place.prefix}signed by URL"}
        put = client.s3.generate_presigned_url("put_object", Params=named, ExpiresIn=60)
        with urllib.request.urlopen(urllib.request.Request(put, data=SMALL, method="PUT"), context=context) as answer:
            assert answer.status == 200
        get = client.s3.generate_presigned_url("get_object", Params=named, ExpiresIn=60)
        with urllib.request.urlopen(get, context=context) as answer:
            assert answer.read() == SMALL

    def test_errors_have_their_names(self, client: Boto3, place: Any) -> None:
        with pytest.raises(client.s3.exceptions.NoSuchKey):
            client.s3.get_object(Bucket=place.bucket, Key=f"{place.prefix}nothing")
        with pytest.raises(client.s3.exceptions.ClientError) as caught:
            client.s3.head_object(Bucket=place.bucket, Key=f"{place.prefix}nothing")
        assert caught.value.response["Error"]["Code"] == "404"
        client.put(place.prefix, SMALL)
        with pytest.raises(client.s3.exceptions.ClientError) as caught:
            client.s3.put_object(Bucket=place.bucket, Key=place.prefix, Body=SMALL, IfNoneMatch="*")
        assert caught.value.response["Error"]["Code"] == "PreconditionFailed"
