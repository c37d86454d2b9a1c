"""kill -9 of workers, agent and supervisor at random instants under load: no acknowledged object is lost or stale.

HEADRACE_SOAK_SECONDS makes it go on for longer, from another seed each time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from kill_clients import Clients

from headrace.base.clock import pause, steady
from headrace.base.limits import MIB
from headrace.base.rng import Random, fresh, seeded
from headrace.gateway.bindings import BindingTable
from headrace.media.frames import block_digest
from headrace.media.index import IndexReader
from headrace.media.scan import read_table, verify_frame
from headrace.media.segments import read_frame_header
from headrace.testing.node import Node
from headrace.testing.servers import S3Server

STORE, REMOTE, ORIGIN_BUCKET = "kill-store", "kill-remote", "kill-node"
SOAK_SECONDS = float(os.environ.get("HEADRACE_SOAK_SECONDS", "0"))
LOAD_SECONDS = SOAK_SECONDS or 12.0
WORKER, AGENT = "headrace.serve.worker", "headrace.serve.agent"


@pytest.fixture
def node(tmp_path: Path, s3_server: S3Server) -> Iterator[Node]:
    """A node with two workers, a small tier, and a rule of each kind."""
    origin = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        config=Config(s3={"addressing_style": "path"}),
    )
    origin.create_bucket(Bucket=ORIGIN_BUCKET)
    flags = ("--tier", f"{tmp_path / 'tier'}:128MiB", "--freshness", f"{REMOTE}/fixed/=immutable")
    node = Node(tmp_path / "node", *flags, origins={REMOTE: s3_server.url(ORIGIN_BUCKET)}, workers=2)
    try:
        node.start()
        node.client().create_bucket(Bucket=STORE)
        yield node
    finally:
        node.stop()


def kill_something(node: Node, chance: Random) -> str:
    """One of them, if it is there at this instant."""
    what = chance.choice([WORKER] * 4 + [AGENT] * 4 + ["supervisor"])
    if what == "supervisor":
        node.kill()
        pause(chance.uniform(0, 0.3))
        node.start()
    elif what == AGENT and node.pids(AGENT):
        node.kill_agent()
    elif what == WORKER and node.pids(WORKER):
        node.kill_worker()
    return what


def await_whole(node: Node) -> None:
    """Until all children run and one call of each worker or so succeeded."""
    deadline = steady() + 90
    client = node.client(retries={"total_max_attempts": 1}, max_pool_connections=1)
    done = 0
    while done < 8 or len(node.pids(WORKER)) < 2 or not node.pids(AGENT):
        assert steady() < deadline, node.log()[-4000:]
        try:
            client.list_buckets()
            done += 1
        except Exception:  # whatever it is, it may not last
            done = 0
            pause(0.1)


def check_all(node: Node, clients: Clients) -> None:
    """Every acknowledged object, twice: as it comes, and warm; and the listing has each of them."""
    client = node.client(retries={"total_max_attempts": 1})
    for (bucket, key), fate in clients.fates.items():
        for _ in range(2):
            try:
                generation = clients.check(client, bucket, key)
            except ClientError as error:
                if error.response["Error"]["Code"] != "NoSuchKey" or fate.acknowledged:
                    raise
            else:
                assert fate.unknown or generation == fate.acknowledged
    for bucket in (STORE, REMOTE):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        listed = {item["Key"] for page in pages for item in page.get("Contents", ())}
        acknowledged = {key for (place, key), fate in clients.fates.items() if place == bucket and fate.acknowledged}
        assert acknowledged <= listed <= {key for place, key in clients.fates if place == bucket}


def check_index(node: Node, clients: Clients) -> int:
    """Of a stopped node: whatever the index says leads to a whole frame of that name; the number of blocks."""
    table = BindingTable(node.data / "node.db")
    binding = str(table.find(REMOTE).id)
    table.close()
    index = IndexReader(node.data / "index")
    try:
        found = 0
        for path in (node.folder.parent / "tier" / "segments").glob("*.seg"):
            with path.open("rb") as file:
                for entry in read_table(path).entries:
                    if index.block(entry.digest) == entry.location:
                        found += 1
                        header = read_frame_header(file.fileno(), entry.location.frame_offset)
                        assert header.name == entry.name
                        assert block_digest(*header.name) == entry.digest
                        assert verify_frame(file.fileno(), header)
        assert found == index.block_count(), "the index leads to blocks that no segment has"
        for (bucket, key), fate in clients.fates.items():
            record = index.meta(binding, key) if bucket == REMOTE else None
            if record is not None and not fate.unknown:
                said = int(record.info.attributes.metadata["generation"])
                assert said == fate.acknowledged or not key.startswith("fixed/"), f"{key} is known as it was"
        return found
    finally:
        index.close()


@pytest.mark.timeout(LOAD_SECONDS * 2 + 400)
def test_acknowledged_objects_survive_any_kill(node: Node) -> None:
    chance = fresh() if SOAK_SECONDS else seeded("kill node")
    clients = Clients(node, (STORE, REMOTE), chance.randrange(1 << 30))
    clients.start()
    killed = []
    ends = steady() + LOAD_SECONDS
    try:
        while steady() < ends and not clients.wrong:
            pause(chance.uniform(0.1, 1.5))
            killed.append(kill_something(node, chance))
    finally:
        clients.stop()
    assert not clients.wrong
    await_whole(node)
    check_all(node, clients)
    assert node.stop() == 0
    assert check_index(node, clients) > 0
    node.start()
    check_all(node, clients)
    assert node.stop() == 0
    for trouble in ("Traceback", "is corrupt"):
        at = node.log().find(trouble)
        assert at < 0, node.log()[max(0, at - 2000) : at + 6000]
    assert clients.counts["written"]
    assert clients.counts["read"]
    assert killed
    assert MIB < sum(path.stat().st_blocks * 512 for path in (node.folder.parent / "tier").rglob("*.seg")) <= 128 * MIB
