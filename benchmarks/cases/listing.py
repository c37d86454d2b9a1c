"""Walking a bucket of many keys."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from cases import common
from harness import data
from harness.bench import Bench, Outcome
from harness.servers import Server
from harness.signing import Signer, Wanted, client

BUCKET = "many"


def listing(bench: Bench) -> Outcome:
    """ListObjectsV2 of 100,000 keys: the whole walk in pages of 1,000, and one page by delimiter."""
    outcome = Outcome("LIST of many keys")
    count = 3_000 if bench.quick else 100_000
    servers = {"headrace": common.headrace(bench), "seaweedfs": common.seaweedfs(bench)}
    servers["juicefs"] = common.juicefs(bench)
    for name, server in servers.items():
        _store_keys(bench, server, count)
        s3 = client(server.port)
        walks = [_walk(s3, count) for _ in range(3)]
        folders = [_folders(s3, count) for _ in range(3)]
        outcome.figures[name] = {
            "walk_seconds": round(median(walks), 4),
            "keys_per_second": round(count / median(walks)),
            "delimiter_page_seconds": round(median(folders), 5),
        }
    for name in ("seaweedfs", "juicefs"):
        figure = outcome.figures["headrace"]["keys_per_second"] / outcome.figures[name]["keys_per_second"]
        outcome.target(f"LIST of {count:,} keys: keys/s over {name}", figure, least=1)
    outcome.configuration |= {"keys": count, "client": "boto3, one connection"}
    return outcome


def _store_keys(bench: Bench, server: Server, count: int) -> None:
    """Store `count` objects of 16 bytes in folders of 1,000, a batch of signed requests at a time."""
    data.make_bucket(client(server.port), BUCKET)
    signer = Signer(server.port)
    for first in range(0, count, 10_000):
        numbers = range(first, min(count, first + 10_000))
        wanted = [Wanted(signer.put(BUCKET, f"{n // 1000:04d}/{n:08d}", b"sixteen bytes ok"), 0) for n in numbers]
        file = bench.load.write(wanted)
        bench.fire(server, file, connections=16, count=len(wanted), seconds=600)
        file.unlink()


def _walk(s3: Any, count: int) -> float:
    start = time.monotonic()
    seen, last = 0, ""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for entry in page.get("Contents", []):
            if entry["Key"] <= last:
                raise RuntimeError(f"{entry['Key']} was listed after {last}")
            last = entry["Key"]
            seen += 1
    if seen != count:
        raise RuntimeError(f"{seen} keys were listed, {count} are there")
    return time.monotonic() - start


def _folders(s3: Any, count: int) -> float:
    start = time.monotonic()
    page = s3.list_objects_v2(Bucket=BUCKET, Delimiter="/")
    if len(page.get("CommonPrefixes", [])) != (count + 999) // 1000:
        raise RuntimeError("the delimiter did not find every folder")
    return time.monotonic() - start
