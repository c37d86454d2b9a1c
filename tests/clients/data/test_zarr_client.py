"""zarr over obstore and over fsspec, with sharding: chunks are found by a suffix range and read by ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from obstore.store import S3Store
from zarr.storage import FsspecStore, ObjectStore

pytestmark = pytest.mark.clients

DATA = np.arange(200 * 300, dtype=np.int64).reshape(200, 300)


def check(store: Any) -> None:
    """Write a sharded array and read parts of it."""
    array = zarr.create_array(store, name="a", shape=DATA.shape, shards=(100, 100), chunks=(20, 20), dtype=DATA.dtype)
    array[:] = DATA
    again = zarr.open_array(store, path="a", mode="r")
    assert np.array_equal(again[:], DATA)
    assert np.array_equal(again[33:77, 101:199], DATA[33:77, 101:199])
    array[0, :] = -1
    assert (zarr.open_array(store, path="a", mode="r")[0] == -1).all()


@pytest.mark.parametrize("place", ["path", "virtual", "remote"], indirect=True)
class TestZarr:
    def test_obstore(self, place: Any) -> None:
        store = S3Store(
            place.bucket,
            prefix=f"{place.prefix}obstore",
            endpoint=place.bucket_endpoint if place.virtual else place.endpoint,
            virtual_hosted_style_request=place.virtual,
            access_key_id=place.access_key,
            secret_access_key=place.secret_key,
            region="us-east-1",
            client_options={"allow_http": True},
        )
        check(ObjectStore(store))

    def test_fsspec(self, place: Any) -> None:
        style = "virtual" if place.virtual else "path"
        options = {
            "key": place.access_key,
            "secret": place.secret_key,
            "endpoint_url": place.endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
            "config_kwargs": {"s3": {"addressing_style": style}},
        }
        check(FsspecStore.from_url(f"s3://{place.bucket}/{place.prefix}fsspec", storage_options=options))
