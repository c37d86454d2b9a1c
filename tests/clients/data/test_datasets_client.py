"""Hugging Face datasets: load, stream, save and load again from a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

pytestmark = pytest.mark.clients


@pytest.fixture
def options(place: Any) -> dict[str, Any]:
    return {
        "key": place.access_key,
        "secret": place.secret_key,
        "endpoint_url": place.endpoint,
        "client_kwargs": {"region_name": "us-east-1"},
        "config_kwargs": {"s3": {"addressing_style": "virtual" if place.virtual else "path"}},
    }


@pytest.mark.parametrize("place", ["path", "virtual", "remote"], indirect=True)
class TestDatasets:
    native = False

    @pytest.fixture(autouse=True)
    def quiet(self) -> None:
        datasets.disable_progress_bars()

    def test_save_and_load_from_disk(self, place: Any, options: dict[str, Any]) -> None:
        url = f"s3://{place.bucket}/{place.prefix}saved"
        made = datasets.Dataset.from_dict({"n": list(range(1000)), "text": [str(n) for n in range(1000)]})
        made.save_to_disk(url, storage_options=options, num_shards=3)
        found = datasets.load_from_disk(url, storage_options=options)
        assert found[123] == {"n": 123, "text": "123"}

    def test_load_and_stream_parquet(self, place: Any, options: dict[str, Any], tmp_path: Path) -> None:
        made = datasets.Dataset.from_dict({"n": list(range(20_000))})
        url = f"s3://{place.bucket}/{place.prefix}train.parquet"
        made.to_parquet(url, storage_options=options)
        given = {"data_files": {"train": url}, "storage_options": options, "split": "train"}
        streamed = datasets.load_dataset("parquet", streaming=True, **given)
        assert [row["n"] for row in streamed.take(5)] == [0, 1, 2, 3, 4]
        assert sum(1 for _ in streamed) == 20_000
        loaded = datasets.load_dataset("parquet", cache_dir=str(tmp_path), **given)
        assert loaded[19_999]["n"] == 19_999
