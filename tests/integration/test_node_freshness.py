"""When a change that somebody else made at the origin must show, and when it may not: rule by rule, way by way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from botocore.config import Config

from headrace.base.clock import pause, steady
from headrace.base.limits import BLOCK_BYTES, KIB
from headrace.base.rng import seeded
from headrace.testing.node import Node
from headrace.testing.servers import S3Server

BUCKET, ORIGIN_BUCKET = "fresh", "node-freshness"
LEASE_SECONDS = 1.0
SIZES = (5 * KIB, 300 * KIB, BLOCK_BYTES + 5 * KIB)
"""One that the hot path sends from memory, one that it sends from its file, one of two blocks that it leaves alone."""


class Seen(NamedTuple):
    """One answer."""

    body: bytes
    mark: str
    cache: str
    age: int | None
    source: str
    asked: float
    """Steady time before the request."""


class World:
    """A node whose bucket has a prefix under each rule, and the server behind it."""

    def __init__(self, folder: Path, server: S3Server) -> None:
        self.origin = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )
        self.origin.create_bucket(Bucket=ORIGIN_BUCKET)
        rules = (f"{BUCKET}/lease/=lease({LEASE_SECONDS:g}s)", f"{BUCKET}/immutable/=immutable")
        flags = [flag for rule in rules for flag in ("--freshness", rule)]
        self.node = Node(folder / "node", *flags, origins={BUCKET: server.url(ORIGIN_BUCKET)})
        self.count = 0

    def start(self) -> None:
        self.node.start()
        self.client = self.node.client(retries={"total_max_attempts": 1})

    def overwrite(self, key: str, size: int) -> bytes:
        """Somebody else writes other bytes of the same length."""
        self.count += 1
        body = seeded(self.count).randbytes(size)
        self.origin.put_object(Bucket=ORIGIN_BUCKET, Key=key, Body=body, Metadata={"mark": str(self.count)})
        return body

    def change_metadata(self, key: str) -> str:
        """Somebody else copies the object onto itself: the ETag stays."""
        self.count += 1
        place = {"Bucket": ORIGIN_BUCKET, "Key": key}
        before = self.origin.head_object(**place)["ETag"]
        self.origin.copy_object(
            **place, CopySource=place, Metadata={"mark": str(self.count)}, MetadataDirective="REPLACE"
        )
        assert self.origin.head_object(**place)["ETag"] == before
        return str(self.count)

    def read(self, key: str, way: str) -> Seen:
        """By one of WAYS."""
        arguments: dict[str, Any] = {"Bucket": BUCKET, "Key": key}
        if way == "general":
            arguments["IfNoneMatch"] = '"other"'
        elif way == "range":
            arguments["Range"] = "bytes=1000-2999"
        asked = steady()
        answer = self.client.get_object(**arguments)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        age = headers.get("x-headrace-age")
        return Seen(
            answer["Body"].read(),
            answer["Metadata"]["mark"],
            headers["x-cache"],
            None if age is None else int(age),
            headers["x-headrace-source"],
            asked,
        )

    def read_warm(self, key: str, way: str) -> Seen:
        """Read until the cache answers all of it."""
        deadline = steady() + 60
        self.read(key, "general")
        while (seen := self.read(key, way)).cache not in {"HIT", "REVALIDATED"} or seen.source == "origin":
            assert steady() < deadline, seen[1:]
            pause(0.02)
        return seen


WAYS = ("plain", "general", "range")
"""`plain` is what the hot path serves when it may; a condition that it does not know makes it `general`."""


def part(body: bytes, way: str) -> bytes:
    return body[1000:3000] if way == "range" else body


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("freshness"), s3_server)
    try:
        world.start()
        yield world
        assert "Traceback" not in world.node.log()
    finally:
        world.node.stop()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
def test_validate_shows_every_change_in_the_next_answer(world: World, size: int, way: str) -> None:
    key = f"validate/{way}-{size}"
    body = world.overwrite(key, size)
    warm = world.read_warm(key, way)
    assert (warm.body, warm.cache, warm.age) == (part(body, way), "REVALIDATED", 0)
    body = world.overwrite(key, size)
    seen = world.read(key, way)
    assert (seen.body, seen.mark) == (part(body, way), str(world.count))
    assert (seen.cache, seen.age) == ("MISS", 0)
    world.read_warm(key, way)
    mark = world.change_metadata(key)
    seen = world.read(key, way)
    assert (seen.body, seen.mark) == (part(body, way), mark)
    world.origin.delete_object(Bucket=ORIGIN_BUCKET, Key=key)
    with pytest.raises(world.client.exceptions.NoSuchKey):
        world.read(key, way)


@pytest.mark.parametrize("size", SIZES)
def test_a_lease_shows_changes_when_it_is_over(world: World, size: int) -> None:
    """Whoever reads before the lease is over may see the old state, and the age tells; nobody does after it."""
    keys = {way: f"lease/{way}-{size}" for way in WAYS}
    old = {way: world.overwrite(key, size) for way, key in keys.items()}
    for way, key in keys.items():
        world.read_warm(key, way)
    new = {way: world.overwrite(key, size) for way, key in keys.items()}
    ends = steady() + LEASE_SECONDS
    waiting = set(WAYS)
    while waiting:
        for way in sorted(waiting):
            seen = world.read(keys[way], way)
            if seen.body == part(new[way], way):
                waiting.discard(way)
                continue
            assert seen.asked <= ends, "the old state was told after the lease was over"
            assert (seen.body, seen.cache) == (part(old[way], way), "HIT")
            assert seen.age is not None
            assert seen.age <= LEASE_SECONDS
        pause(0.02)
    for way, key in keys.items():
        world.read_warm(key, way)
    marks = {way: world.change_metadata(key) for way, key in keys.items()}
    pause(LEASE_SECONDS + 0.01)
    for way, key in keys.items():
        seen = world.read(key, way)
        assert (seen.body, seen.mark) == (part(new[way], way), marks[way])


@pytest.mark.parametrize("size", SIZES)
def test_immutable_keeps_to_what_was_read_first_until_this_node_writes(world: World, size: int) -> None:
    keys = {way: f"immutable/{way}-{size}" for way in WAYS}
    first = {way: world.overwrite(key, size) for way, key in keys.items()}
    marks = {way: world.read_warm(key, way).mark for way, key in keys.items()}
    for key in keys.values():
        world.overwrite(key, size)
        world.change_metadata(key)
    pause(1.05)
    for way, key in keys.items():
        for way_now in WAYS:
            seen = world.read(key, way_now)
            assert (seen.body, seen.mark, seen.cache) == (part(first[way], way_now), marks[way], "HIT")
            assert seen.age is not None
            assert seen.age >= 1
    for way, key in keys.items():
        for number in range(2):
            mine = seeded(f"mine {key} {number}").randbytes(size)
            world.client.put_object(Bucket=BUCKET, Key=key, Body=mine, Metadata={"mark": "mine"})
            seen = world.read(key, way)
            assert (seen.body, seen.mark) == (part(mine, way), "mine")
        world.client.delete_object(Bucket=BUCKET, Key=key)
        with pytest.raises(world.client.exceptions.NoSuchKey):
            world.read(key, way)
