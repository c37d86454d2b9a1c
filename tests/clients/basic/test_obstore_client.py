"""obstore: Rust's object_store, as Delta, Zarr and many others use it."""

from __future__ import annotations

from typing import Any

import obstore
import pytest
from client_steps import LARGE, PART_BYTES, SMALL, Client, ClientSteps
from obstore.store import S3Store


class Obstore:
    """The adapter."""

    def __init__(self, store: S3Store) -> None:
        self.store = store

    def put(self, key: str, data: bytes) -> None:
        obstore.put(self.store, key, data, use_multipart=False)

    def put_large(self, key: str, data: bytes) -> None:
        obstore.put(self.store, key, data, use_multipart=True, chunk_size=PART_BYTES)

    def get(self, key: str) -> bytes:
        return bytes(obstore.get(self.store, key).bytes())

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        return bytes(obstore.get_range(self.store, key, start=start, end=stop))

    def list(self, prefix: str) -> list[str]:
        return [entry["path"] for chunk in obstore.list(self.store, prefix) for entry in chunk]

    def delete(self, key: str) -> None:
        obstore.delete(self.store, [key])


@pytest.mark.parametrize("place", ["path", "virtual", "remote"], indirect=True)
class TestObstore(ClientSteps):
    @pytest.fixture
    def client(self, place: Any) -> Client:
        return Obstore(
            S3Store(
                place.bucket,
                endpoint=place.bucket_endpoint if place.virtual else place.endpoint,
                virtual_hosted_style_request=place.virtual,
                access_key_id=place.access_key,
                secret_access_key=place.secret_key,
                region="us-east-1",
                client_options={"allow_http": True},
            )
        )

    def test_create_only_once(self, client: Obstore, place: Any) -> None:
        key = f"{place.prefix}commit"
        obstore.put(client.store, key, SMALL, mode="create")
        with pytest.raises(obstore.exceptions.AlreadyExistsError):
            obstore.put(client.store, key, b"second", mode="create")
        assert client.get(key) == SMALL

    def test_update_only_what_was_read(self, client: Obstore, place: Any) -> None:
        key = f"{place.prefix}pointer"
        first = obstore.put(client.store, key, b"1")
        obstore.put(client.store, key, b"2", mode={"e_tag": first["e_tag"]})
        with pytest.raises(obstore.exceptions.PreconditionError):
            obstore.put(client.store, key, b"3", mode={"e_tag": first["e_tag"]})
        assert client.get(key) == b"2"

    def test_many_ranges_and_a_suffix(self, client: Obstore, place: Any) -> None:
        key = f"{place.prefix}table"
        data = LARGE[:2_000_000]
        client.put(key, data)
        starts = [0, 10, 1_000_000, 1_999_990]
        found = obstore.get_ranges(client.store, key, starts=starts, lengths=[10] * 4)
        assert [bytes(piece) for piece in found] == [data[start : start + 10] for start in starts]
        assert bytes(obstore.get(client.store, key, options={"range": {"suffix": 8}}).bytes()) == data[-8:]

    def test_copy_and_rename(self, client: Obstore, place: Any) -> None:
        first, second, third = (f"{place.prefix}{name}" for name in ("a b", "copy", "renamed"))
        client.put(first, SMALL)
        obstore.copy(client.store, first, second)
        obstore.rename(client.store, second, third)
        assert client.get(third) == SMALL
        assert sorted(client.list(place.prefix)) == [first, third]

    def test_delimiter(self, client: Obstore, place: Any) -> None:
        for name in ("top", "a/1", "a/2", "b/1"):
            client.put(f"{place.prefix}{name}", SMALL)
        found = obstore.list_with_delimiter(client.store, place.prefix)
        assert sorted(found["common_prefixes"]) == [f"{place.prefix}a", f"{place.prefix}b"]
        assert [entry["path"] for entry in found["objects"]] == [f"{place.prefix}top"]
