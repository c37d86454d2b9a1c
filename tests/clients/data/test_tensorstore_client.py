"""TensorStore: zarr chunks written and read in parallel by a C++ client; path style is all it does with endpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorstore

pytestmark = pytest.mark.clients


@pytest.fixture
def kvstore(place: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", place.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", place.secret_key)
    return {
        "driver": "s3",
        "bucket": place.bucket,
        "path": place.prefix,
        "endpoint": place.endpoint,
        "aws_region": "us-east-1",
        "aws_credentials": {"type": "environment"},
    }


@pytest.mark.parametrize("place", ["path", "remote"], indirect=True)
class TestTensorstore:
    def test_keys_and_values(self, kvstore: dict[str, Any]) -> None:
        store = tensorstore.KvStore.open(kvstore).result()
        for number in range(10):
            store.write(f"k/{number}", b"v%d" % number).result()
        assert store.read("k/3").result().value == b"v3"
        assert sorted(store.list().result()) == [b"k/%d" % number for number in range(10)]
        first = store.read("k/0").result().stamp
        assert store.write("k/0", b"new", if_equal=first.generation).result().generation
        store.delete_range(tensorstore.KvStore.KeyRange("k/1", "k/9")).result()
        assert sorted(store.list().result()) == [b"k/0", b"k/9"]
        assert store.read("k/1").result().state == "missing"

    @pytest.mark.parametrize("driver", ["zarr", "zarr3"])
    def test_array(self, kvstore: dict[str, Any], driver: str) -> None:
        kvstore = kvstore | {"path": f"{kvstore['path']}{driver}/"}
        spec = {"driver": driver, "kvstore": kvstore}
        shape, chunk = [256, 256], [64, 64]
        if driver == "zarr":
            metadata: dict[str, Any] = {"shape": shape, "chunks": chunk, "dtype": "<i4"}
        else:
            metadata = {
                "shape": shape,
                "data_type": "int32",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [128, 128]}},
                "codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": chunk}}],
            }
        data = np.arange(256 * 256, dtype=np.int32).reshape(256, 256)
        array = tensorstore.open(spec | {"metadata": metadata}, create=True, delete_existing=True).result()
        array.write(data).result()
        again = tensorstore.open(spec | {"recheck_cached_data": "open"}).result()
        assert np.array_equal(again.read().result(), data)
        assert np.array_equal(again[100:140, 60:70].read().result(), data[100:140, 60:70])
