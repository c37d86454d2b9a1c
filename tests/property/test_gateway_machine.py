"""A real node against dictionaries, through any history of calls, restarts, kills, evictions and foreign changes.

One node serves three buckets: one of the embedded store, a folder, and one of an S3 server under
`validate`. What was acknowledged must show in the very next answer, and so must what somebody else
changed at the folder or the server. HEADRACE_HYPOTHESIS=nightly tries more, and other, histories.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from gateway_calls import FOLDER, REMOTE, REMOTE_NAMES, STORE, GatewayCalls, bodies, data, metadata
from gateway_model import Object, body_of, etag_of, in_order
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from headrace.base.clock import pause, steady
from headrace.base.limits import MIB
from headrace.testing.node import Node
from headrace.testing.servers import S3Server

ORIGIN_BUCKET = "gateway-machine"
FILLERS = 5
FILLER_BYTES = 16 * MIB
TROUBLES_MAX = 2
TRIES = (Phase.explicit, Phase.reuse, Phase.generate)
PROFILES = {
    "ci": settings(max_examples=6, stateful_step_count=50, derandomize=True, database=None, phases=TRIES),
    "nightly": settings(max_examples=200, stateful_step_count=100, print_blob=True, phases=(*TRIES, Phase.shrink)),
}


class World:
    """The node, the server behind it, and clients of both."""

    def __init__(self, folder: Path, server: S3Server) -> None:
        self.plain = folder / "plain"
        self.plain.mkdir()
        self.foreign = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )
        self.foreign.create_bucket(Bucket=ORIGIN_BUCKET)
        origins = {FOLDER: f"file://{self.plain}", REMOTE: server.url(ORIGIN_BUCKET)}
        self.node = Node(folder / "node", "--tier", f"{folder / 'tier'}:64MiB", origins=origins)
        self.runs = itertools.count()
        self.filled = False

    def start(self) -> None:
        self.node.start()
        self.connect()
        self.client.create_bucket(Bucket=STORE)

    def connect(self) -> None:
        """A client with no connection from before, and no second try that could hide an error."""
        self.client = self.node.client(retries={"total_max_attempts": 1})

    def new_prefix(self) -> str:
        return f"run-{next(self.runs)}/"

    # -- troubles

    def restart(self) -> None:
        assert self.node.stop() == 0
        self.node.start()
        self.connect()

    def kill_node(self) -> None:
        self.node.kill()
        self.node.start()
        self.connect()

    def kill_worker(self) -> None:
        """The next call waits in the socket's queue until there is a worker again."""
        self.await_child("headrace.serve.worker")
        self.node.kill_worker()
        self.connect()

    def kill_agent(self) -> None:
        """Whatever comes next finds no agent, or a new one that has not learnt a thing yet."""
        self.await_child("headrace.serve.agent")
        self.node.kill_agent()

    def evict(self) -> None:
        """Read more than the tier holds."""
        for number in range(FILLERS):
            key, body = f"filler/{number}", body_of(FILLER_BYTES, number)
            if not self.filled:
                self.foreign.put_object(Bucket=ORIGIN_BUCKET, Key=key, Body=body)
            assert self.client.get_object(Bucket=REMOTE, Key=key)["Body"].read() == body
        self.filled = True

    def await_child(self, module: str) -> None:
        deadline = steady() + 60
        while not self.node.pids(module):
            assert steady() < deadline, f"no {module} came back: {self.node.log()[-2000:]}"
            pause(0.02)


class Gateway(GatewayCalls):
    """Calls, and what else happens to a node."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.troubles = 0

    @precondition(lambda self: self.troubles < TROUBLES_MAX and self.any_object())
    @rule(
        trouble=st.sampled_from([World.restart, World.kill_node, World.kill_worker, World.kill_agent, World.evict]),
    )
    def trouble(self, trouble: Callable[[World], None]) -> None:
        self.troubles += 1
        trouble(self.world)

    # -- what others do at the origin

    def draw_foreign(self, choice: st.DataObject) -> tuple[str, str]:
        bucket = choice.draw(st.sampled_from([FOLDER, REMOTE]))
        names = in_order(self.buckets[bucket].objects) or REMOTE_NAMES
        return bucket, choice.draw(st.sampled_from(names))

    @rule(choice=data, body=bodies, in_place=st.booleans(), look=st.booleans())
    def others_write(self, choice: st.DataObject, body: bytes, in_place: bool, look: bool) -> None:
        """A foreign write, with or without the node having looked just before."""
        bucket, name = self.draw_foreign(choice)
        known = self.buckets[bucket].objects.get(name)
        if look and known is not None:
            assert self.call("get_object", bucket, name)["Body"].read() == known.body
        if bucket == REMOTE:
            self.world.foreign.put_object(Bucket=ORIGIN_BUCKET, Key=self.prefix + name, Body=body)
            self.buckets[bucket].objects[name] = Object(body, {}, {}, None, etag_of(body))
        else:
            path = self.world.plain / (self.prefix + name)
            path.parent.mkdir(parents=True, exist_ok=True)
            target = path if in_place else path.with_name(".incoming")
            target.write_bytes(body)
            target.replace(path)
            self.buckets[bucket].objects[name] = Object(body, {}, {}, None)
        assert self.call("get_object", bucket, name)["Body"].read() == body

    @rule(choice=data, kept=metadata, look=st.booleans())
    def others_change_metadata(self, choice: st.DataObject, kept: dict[str, str], look: bool) -> None:
        """The bytes, and so the ETag, stay what they were."""
        found = self.buckets[REMOTE].objects
        if not found:
            return
        name = choice.draw(st.sampled_from(in_order(found)))
        if look:
            self.matches(self.call("get_object", REMOTE, name), found[name])
        place = {"Bucket": ORIGIN_BUCKET, "Key": self.prefix + name}
        self.world.foreign.copy_object(**place, CopySource=place, Metadata=kept, MetadataDirective="REPLACE")
        found[name] = Object(found[name].body, kept, None, None)
        answer = self.call("get_object", REMOTE, name)
        assert answer["Body"].read() == found[name].body
        self.matches(answer, found[name])

    @rule(choice=data)
    def others_touch(self, choice: st.DataObject) -> None:
        """A file's date changes: its ETag is news, its bytes are not."""
        found = self.buckets[FOLDER].objects
        if not found:
            return
        name = choice.draw(st.sampled_from(in_order(found)))
        seconds = choice.draw(st.integers(1_000_000_000, 1_700_000_000))
        os.utime(self.world.plain / (self.prefix + name), (seconds, seconds))
        found[name] = Object(found[name].body, {}, {}, None)
        answer = self.call("get_object", FOLDER, name)
        assert answer["Body"].read() == found[name].body
        assert answer["LastModified"].timestamp() == seconds
        self.matches(answer, found[name])

    @rule(choice=data)
    def others_delete(self, choice: st.DataObject) -> None:
        bucket, name = self.draw_foreign(choice)
        if self.buckets[bucket].objects.pop(name, None) is None:
            return
        if bucket == REMOTE:
            self.world.foreign.delete_object(Bucket=ORIGIN_BUCKET, Key=self.prefix + name)
        else:
            (self.world.plain / (self.prefix + name)).unlink()
        self.refused({"NoSuchKey"}, "get_object", bucket, name)

    def teardown(self) -> None:
        """At the end all is there; then it goes."""
        for bucket, model in self.buckets.items():
            for name, found in model.objects.items():
                assert self.call("get_object", bucket, name)["Body"].read() == found.body
                self.call("delete_object", bucket, name)
            for upload, pending in model.uploads.items():
                self.call("abort_multipart_upload", bucket, pending.key, UploadId=upload)
            listed = self.client.list_objects_v2(Bucket=bucket, Prefix=self.prefix)
            assert listed["KeyCount"] == 0


@pytest.fixture
def world(tmp_path: Path, s3_server: S3Server) -> Iterator[World]:
    world = World(tmp_path, s3_server)
    try:
        world.start()
        yield world
        assert "Traceback" not in world.node.log()
    finally:
        world.node.stop()


@pytest.mark.timeout(24 * 3600 if os.environ.get("HEADRACE_HYPOTHESIS") == "nightly" else 300)
def test_gateway_against_dictionaries(world: World) -> None:
    Gateway.world = world
    profile = PROFILES[os.environ.get("HEADRACE_HYPOTHESIS", "ci")]
    every = settings(profile, deadline=None, suppress_health_check=list(HealthCheck), report_multiple_bugs=False)
    run_state_machine_as_test(Gateway, settings=every)
