"""A body that imitates the cache's own frames, and an index that is lost: only real frames are ever adopted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from headrace.base.clock import pause, steady
from headrace.base.limits import BLOCK_BYTES, FRAME_GRAIN_BYTES, MIB
from headrace.base.rng import seeded
from headrace.media.layout import SEGMENT_SUFFIX
from headrace.media.scan import read_table
from headrace.testing.node import Node
from headrace.testing.servers import S3Server

BUCKET, ORIGIN_BUCKET = "framed", "node-segments"


class World:
    """A node whose bucket lies at another server, everything in it immutable: the cache may be believed blindly."""

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
        self.tier = folder / "tier"
        flags = ("--tier", f"{self.tier}:256MiB", "--freshness", f"{BUCKET}/=immutable", "--log-format", "json")
        self.node = Node(folder / "node", *flags, origins={BUCKET: server.url(ORIGIN_BUCKET)})
        self.bodies: dict[str, bytes] = {}

    def start(self) -> None:
        self.node.start()
        self.client = self.node.client(retries={"total_max_attempts": 1})

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=body)
        self.bodies[key] = body

    def check(self, *states: str) -> None:
        """Every object is right; with `states`, sooner or later each answer has one of these x-cache states."""
        for key, body in self.bodies.items():
            deadline = steady() + 60
            while True:
                answer = self.client.get_object(Bucket=BUCKET, Key=key)
                assert answer["Body"].read() == body, key
                if not states or answer["ResponseMetadata"]["HTTPHeaders"]["x-cache"] in states:
                    break
                assert steady() < deadline, key
                pause(0.05)

    def segments(self) -> list[Path]:
        return sorted((self.tier / "segments").glob(f"*{SEGMENT_SUFFIX}"))

    def adopted(self) -> dict[str, Any]:
        """What the last agent said that it found."""
        events = [json.loads(line) for line in self.node.log().splitlines() if line.startswith("{")]
        return [event for event in events if event["event"] == "cache adopted"][-1]

    def frames(self) -> int:
        return sum(len(read_table(path).entries) for path in self.segments())


@pytest.fixture
def world(tmp_path: Path, s3_server: S3Server) -> Iterator[World]:
    world = World(tmp_path, s3_server)
    try:
        world.start()
        yield world
        assert "Traceback" not in world.node.log()
    finally:
        world.node.stop()
        for item in world.origin.list_objects_v2(Bucket=ORIGIN_BUCKET).get("Contents", ()):
            world.origin.delete_object(Bucket=ORIGIN_BUCKET, Key=item["Key"])
        world.origin.delete_bucket(Bucket=ORIGIN_BUCKET)


def imitations(segments: list[Path]) -> Iterator[bytes]:
    """Bodies made of real frames: a whole segment with head and footer, its frames alone, and at every grain."""
    for path in segments:
        raw = path.read_bytes()
        entries = read_table(path).entries
        first = entries[0].location.frame_offset
        yield raw
        yield raw[first:]
        yield bytes(512) + raw[first : first + MIB]
        header = raw[first : entries[0].location.data_offset]
        padded = header + bytes(-len(header) % FRAME_GRAIN_BYTES)
        yield padded * (2 * MIB // len(padded))


def test_frames_inside_bodies_are_not_adopted(world: World) -> None:
    """Real segments are found by their footers, the imitations lie in ones that a kill left without."""
    for number, size in enumerate((100, 70_000, MIB, BLOCK_BYTES + 1)):
        world.put(f"real-{number}", seeded(number).randbytes(size))
    world.check("HIT")
    assert world.node.stop() == 0  # seals the segments: now they have footers too
    originals = world.segments()
    real = world.frames()
    world.start()
    count = 0
    for number, body in enumerate(imitations(originals)):
        world.put(f"imitation-{number}", body)
        count += -(-len(body) // BLOCK_BYTES)
    world.check("HIT")
    world.node.kill()
    shutil.rmtree(world.node.data / "index")
    world.start()
    assert world.adopted()["blocks"] == real + count
    assert world.adopted()["damaged"] == 0
    world.check()
    world.check("HIT")


def test_what_was_written_is_read_from_the_cache_at_once_and_stored_once(world: World) -> None:
    for number, size in enumerate((100, 70_000, BLOCK_BYTES + 1)):
        world.put(f"real-{number}", seeded(number).randbytes(size))
        answer = world.client.get_object(Bucket=BUCKET, Key=f"real-{number}")
        assert answer["ResponseMetadata"]["HTTPHeaders"]["x-cache"] == "HIT"
        assert answer["Body"].read() == world.bodies[f"real-{number}"]
    assert world.node.stop() == 0
    assert world.frames() == 4


def test_an_index_lost_under_a_running_node_is_built_again(world: World) -> None:
    """The agent is killed and finds no index; workers that still map the old file must find the new one."""
    for number, size in enumerate((100, 70_000, BLOCK_BYTES + 1)):
        world.put(f"real-{number}", seeded(number).randbytes(size))
    world.check("HIT")
    pid = world.node.kill_agent()
    shutil.rmtree(world.node.data / "index")
    world.check()
    deadline = steady() + 60
    while world.node.pids("headrace.serve.agent") in ([], [pid]) or world.adopted()["blocks"] < 4:
        assert steady() < deadline, world.node.log()[-2000:]
        pause(0.05)
    world.check("HIT")
    world.put("late", b"late" * 9999)
    world.check("HIT")
