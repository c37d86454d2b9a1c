"""LanceDB: its commits are PUTs with If-None-Match, so a wrong answer would lose rows."""

from __future__ import annotations

import threading
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pytest

pytestmark = pytest.mark.clients

WRITERS = 4
ROUNDS = 5


def connect(place: Any) -> lancedb.DBConnection:
    return lancedb.connect(
        f"s3://{place.bucket}/{place.prefix}db",
        storage_options={
            "aws_endpoint": place.bucket_endpoint if place.virtual else place.endpoint,
            "aws_access_key_id": place.access_key,
            "aws_secret_access_key": place.secret_key,
            "aws_region": "us-east-1",
            "allow_http": "true",
            "aws_virtual_hosted_style_request": str(place.virtual).lower(),
        },
    )


def rows(first: int, count: int) -> pa.Table:
    vectors = np.random.default_rng(first).random((count, 8), dtype=np.float32)
    return pa.table({"id": list(range(first, first + count)), "vector": [list(vector) for vector in vectors]}).cast(
        pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), 8))])
    )


@pytest.mark.parametrize("place", ["path", "virtual", "remote"], indirect=True)
class TestLancedb:
    def test_write_search_and_time_travel(self, place: Any) -> None:
        table = connect(place).create_table("vectors", rows(0, 500), mode="overwrite")
        before = table.version
        table.add(rows(500, 100))
        table.delete("id < 10")
        assert table.count_rows() == 590
        wanted = rows(500, 100)["vector"][7].as_py()
        assert table.search(wanted).limit(1).to_list()[0]["id"] == 507
        table.checkout(before)
        assert table.count_rows() == 500

    def test_no_commit_is_lost(self, place: Any) -> None:
        connect(place).create_table("shared", rows(0, 1), mode="overwrite")
        problems: list[Exception] = []

        def write(number: int) -> None:
            try:
                table = connect(place).open_table("shared")
                for turn in range(ROUNDS):
                    table.add(rows(1 + number * ROUNDS + turn, 1))
            except Exception as problem:
                problems.append(problem)

        writers = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(100)
        assert problems == []
        found = connect(place).open_table("shared").to_arrow()["id"].to_pylist()
        assert sorted(found) == list(range(1 + WRITERS * ROUNDS))
