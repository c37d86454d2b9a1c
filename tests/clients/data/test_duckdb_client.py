"""DuckDB's httpfs: SQL over files in a bucket, by ranges; its own multipart upload on COPY TO."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

pytestmark = pytest.mark.clients


def extension() -> Path:
    """The httpfs extension that a package brings (DuckDB itself would download it)."""
    import duckdb_extension_httpfs

    return next(Path(duckdb_extension_httpfs.__file__).parent.rglob("httpfs.duckdb_extension*"))


@pytest.fixture
def database(place: Any) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"allow_unsigned_extensions": "true"}) as connection:
        connection.execute(f"LOAD '{extension()}'")
        connection.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID '{place.access_key}', SECRET '{place.secret_key}', REGION 'us-east-1', "
            f"ENDPOINT '{place.host}', USE_SSL false, URL_STYLE '{'vhost' if place.virtual else 'path'}')"
        )
        yield connection


@pytest.mark.parametrize("place", ["path", "virtual", "remote"], indirect=True)
class TestDuckdb:
    def test_copy_and_query_parquet(self, place: Any, database: duckdb.DuckDBPyConnection) -> None:
        url = f"s3://{place.bucket}/{place.prefix}table.parquet"
        database.execute(f"COPY (SELECT range AS n, hash(range) AS h FROM range(1000000)) TO '{url}' (FORMAT parquet)")
        assert database.execute(f"SELECT count(*), sum(n) FROM '{url}'").fetchone() == (1_000_000, 499_999_500_000)
        found = database.execute(f"SELECT h = hash(n) FROM '{url}' WHERE n = 777777").fetchone()
        assert found == (True,)

    def test_csv_and_glob(self, place: Any, database: duckdb.DuckDBPyConnection) -> None:
        root = f"s3://{place.bucket}/{place.prefix}"
        database.execute("CREATE TABLE t AS SELECT range AS n, range % 3 AS third FROM range(3000)")
        database.execute(f"COPY t TO '{root}parts' (FORMAT parquet, PARTITION_BY third)")
        database.execute(f"COPY t TO '{root}table.csv'")
        assert database.execute(f"SELECT count(*) FROM glob('{root}parts/**')").fetchone() == (3,)
        query = (
            f"SELECT count(*) FROM read_parquet('{root}parts/*/*.parquet', hive_partitioning = true) WHERE third = 1"
        )
        assert database.execute(query).fetchone() == (1000,)
        assert database.execute(f"SELECT sum(n) FROM '{root}table.csv'").fetchone() == (4_498_500,)

    def test_overwritten_file_is_read_anew(self, place: Any, database: duckdb.DuckDBPyConnection) -> None:
        url = f"s3://{place.bucket}/{place.prefix}table.parquet"
        for count in (10, 20):
            database.execute(f"COPY (SELECT * FROM range({count})) TO '{url}' (FORMAT parquet)")
            assert database.execute(f"SELECT count(*) FROM '{url}'").fetchone() == (count,)
