"""What every S3 client must be able to do with a node, as tests that a client family inherits.

A family overrides the fixture `client` with an adapter of a few lines; a boto3 client beside it looks at
what the client under test has really done.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Protocol

import pytest

SMALL = b"a small object, 34 bytes of ASCII\n"
LARGE = random.Random(7).randbytes((12 << 20) + 5)
"""Enough for three parts of 5 MiB, the last of them odd."""
PART_BYTES = 5 << 20
NAMES = ("plain", "deep/er/name", "with space", "plus+sign", "per%41cent", "ünï-çødé", "comma,semi;colon", "at@&=$")
"""Names that S3 keeps byte-exact and careless parsers do not."""


class Client(Protocol):
    """The least that a client does. Keys are whole keys; a bucket is the client's own matter."""

    def put(self, key: str, data: bytes) -> None:
        """Store a small object."""

    def put_large(self, key: str, data: bytes) -> None:
        """Store it as a multipart upload with parts of PART_BYTES."""

    def get(self, key: str) -> bytes:
        """The whole object. Raises any error when there is none."""

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """The bytes of [start, stop)."""

    def list(self, prefix: str) -> list[str]:
        """All keys under the prefix, at any depth, in any order."""

    def delete(self, key: str) -> None:
        """Remove one object."""


class ClientSteps:
    """Inherit this, override `client`, and set the class attributes that differ."""

    native = True
    """Whether the client resolves host names without Python's socket module."""
    names = NAMES
    """Names that the client itself can send unharmed."""
    multipart = True
    """Whether put_large can make several parts."""

    @pytest.fixture
    def client(self, place: Any) -> Client:
        raise AssertionError("a client family overrides this fixture")

    def test_put_get_overwrite(self, client: Client, place: Any) -> None:
        key = f"{place.prefix}one"
        client.put(key, SMALL)
        assert client.get(key) == SMALL
        client.put(key, SMALL * 3000)
        assert client.get(key) == SMALL * 3000
        assert self.stored(place, key) == SMALL * 3000

    def test_ranges(self, client: Client, place: Any) -> None:
        key = f"{place.prefix}ranged"
        data = LARGE[:300_001]
        client.put(key, data)
        for start, stop in ((0, 1), (0, 4096), (100_000, 200_000), (300_000, 300_001)):
            assert client.get_range(key, start, stop) == data[start:stop]

    def test_list_and_delete(self, client: Client, place: Any) -> None:
        keys = sorted(f"{place.prefix}{name}" for name in self.names)
        for key in keys:
            client.put(key, key.encode())
        assert sorted(client.list(place.prefix)) == keys
        for key in keys:
            assert client.get(key) == key.encode()
        for key in keys[1:]:
            client.delete(key)
        assert [key for key in client.list(place.prefix) if key in keys or not place.remote] == keys[:1]
        with pytest.raises(Exception):  # noqa: B017 - each client has an error of its own
            client.get(keys[-1])
        client.delete(keys[0])
        if not place.remote:  # SeaweedFS keeps directories whose last object is gone; headrace invents none
            assert client.list(place.prefix) == []

    def test_multipart(self, client: Client, place: Any) -> None:
        key = f"{place.prefix}large"
        client.put_large(key, LARGE)
        s3 = place.boto3()
        found = s3.head_object(Bucket=place.bucket, Key=key)
        s3.close()
        assert found["ContentLength"] == len(LARGE)
        assert ("-" in found["ETag"]) == self.multipart
        assert client.get(key) == LARGE
        assert client.get_range(key, PART_BYTES - 10, PART_BYTES + 10) == LARGE[PART_BYTES - 10 : PART_BYTES + 10]

    @staticmethod
    def stored(place: Any, key: str) -> bytes:
        """The object as boto3 sees it."""
        s3 = place.boto3()
        data: bytes = s3.get_object(Bucket=place.bucket, Key=key)["Body"].read()
        s3.close()
        return data


def written(folder: Path, data: bytes) -> Path:
    """A file with the data, for clients that only take files."""
    path = folder / "upload"
    path.write_bytes(data)
    return path
