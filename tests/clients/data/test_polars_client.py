"""polars: lazy scans that read footers by suffix range and columns by many ranges."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

pytestmark = pytest.mark.clients


@pytest.fixture
def options(place: Any) -> dict[str, Any]:
    return {
        "aws_endpoint_url": place.bucket_endpoint if place.virtual else place.endpoint,
        "aws_access_key_id": place.access_key,
        "aws_secret_access_key": place.secret_key,
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
        "aws_virtual_hosted_style_request": str(place.virtual).lower(),
    }


@pytest.mark.parametrize("place", ["path", "virtual", "remote"], indirect=True)
class TestPolars:
    def test_sink_and_scan_parquet(self, place: Any, options: dict[str, Any]) -> None:
        n = pl.col("n")
        frame = pl.DataFrame({"n": range(200_000)}).with_columns(square=n**2, text=n.cast(pl.String))
        url = f"s3://{place.bucket}/{place.prefix}frame.parquet"
        frame.lazy().sink_parquet(url, storage_options=options, row_group_size=20_000)
        lazy = pl.scan_parquet(url, storage_options=options)
        assert lazy.select(pl.col("square").sum()).collect().item() == frame["square"].sum()
        found = lazy.filter(pl.col("n").is_between(99_990, 99_999)).select("text").collect()
        assert found["text"].to_list() == [str(number) for number in range(99_990, 100_000)]
        assert pl.read_parquet(url, storage_options=options).equals(frame)

    def test_many_files(self, place: Any, options: dict[str, Any]) -> None:
        for number in range(5):
            url = f"s3://{place.bucket}/{place.prefix}part={number}/data.parquet"
            pl.DataFrame({"n": range(100)}).write_parquet(url, storage_options=options)
        lazy = pl.scan_parquet(
            f"s3://{place.bucket}/{place.prefix}**/*.parquet", storage_options=options, hive_partitioning=True
        )
        assert lazy.select(pl.len()).collect().item() == 500
        assert lazy.filter(pl.col("part") == 3).select(pl.len()).collect().item() == 100

    def test_csv(self, place: Any, options: dict[str, Any]) -> None:
        url = f"s3://{place.bucket}/{place.prefix}frame.csv"
        pl.DataFrame({"n": range(1000)}).lazy().sink_csv(url, storage_options=options)
        assert pl.scan_csv(url, storage_options=options).select(pl.col("n").sum()).collect().item() == 499_500
