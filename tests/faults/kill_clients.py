"""Clients that write and read while a node is being killed, and know what they may see.

Every key has one writer, which gives each body a generation. A reader may see any generation between
the last that was acknowledged before it asked and the last that was begun when its answer came, and
only whole: bodies follow from key and generation. After a write with an unknown outcome its key is
never written again, so that what such a write still does later can be told from what came after it.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, IncompleteReadError  # noqa: A004 - its name

from headrace.base.clock import pause
from headrace.base.limits import BLOCK_BYTES, PART_BYTES_MIN
from headrace.base.rng import Random, seeded
from headrace.testing.node import Node

SIZES = (0, 10, 3000, 16_385, 70_000, 70_000, 600_000, BLOCK_BYTES + 1)
CODES = {"ServiceUnavailable", "SlowDown", "InternalError", "RequestTimeout", "503", "500"}
"""What a node that is being killed may answer; 5xx only, and never that there is no such key."""
KEYS = 4


@lru_cache(maxsize=128)
def body_of(key: str, generation: int, parts: bool) -> bytes:
    chance = seeded(f"{key} {generation}")
    size = PART_BYTES_MIN + chance.randrange(100_000) if parts else chance.choice(SIZES)
    return chance.randbytes(size)


@dataclass
class Fate:
    """What is known of one key: generations, 0 for none. `unknown`: the last one may or may not be there."""

    acknowledged: int = 0
    begun: int = 0
    unknown: bool = False


class Clients:
    """Writers and readers of some buckets, as threads."""

    def __init__(self, node: Node, buckets: tuple[str, ...], seed: int) -> None:
        self.node = node
        self.fates: dict[tuple[str, str], Fate] = {}
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work, bucket, f"{name}-{bucket}", seed), daemon=True)
            for bucket in buckets
            for name, work in (("w0", self._write), ("w1", self._write), ("r0", self._read))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive(), "a client hangs"

    def client(self) -> Any:
        return self.node.client(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=60)

    def _guarded(self, work: Any, bucket: str, name: str, seed: int) -> None:
        try:
            work(bucket, name, seeded(f"{seed} {name}"))
        except BaseException as error:
            self.wrong.append(f"{name}: {error!r}")
            raise

    def _write(self, bucket: str, name: str, chance: Random) -> None:
        client, keys, made = self.client(), list[str](), 0
        while not self._over.is_set():
            if len(keys) < KEYS:
                made += 1
                keys.append(f"{chance.choice(['fixed/', ''])}{name}-{made}")
            key = chance.choice(keys)
            with self._lock:
                fate = self.fates.setdefault((bucket, key), Fate())
                fate.begun += 1
            try:
                self._put(client, bucket, key, fate.begun, parts=chance.random() < 0.1)
            except (ClientError, BotoCoreError) as error:
                self.judge(error)
                fate.unknown = True
                keys.remove(key)
                pause(0.05)
            else:
                fate.acknowledged = fate.begun
                self.counts["written"] += 1

    def _put(self, client: Any, bucket: str, key: str, generation: int, *, parts: bool) -> None:
        body = body_of(key, generation, parts)
        said = {"Bucket": bucket, "Key": key}
        metadata = {"generation": str(generation), "parts": str(int(parts))}
        if not parts:
            client.put_object(**said, Body=body, Metadata=metadata)
            return
        said["UploadId"] = client.create_multipart_upload(**said, Metadata=metadata)["UploadId"]
        pieces = (body[:PART_BYTES_MIN], body[PART_BYTES_MIN:] or b"")
        etags = [
            client.upload_part(**said, PartNumber=number, Body=piece)["ETag"] for number, piece in enumerate(pieces, 1)
        ]
        named = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        client.complete_multipart_upload(**said, MultipartUpload={"Parts": named})
        self.counts["written in parts"] += 1

    def _read(self, bucket: str, name: str, chance: Random) -> None:
        client = self.client()
        while not self._over.is_set():
            with self._lock:
                known = [place for place, fate in self.fates.items() if place[0] == bucket and fate.acknowledged]
            if not known:
                pause(0.02)
                continue
            try:
                self.check(client, *chance.choice(known), chance=chance)
            except (ClientError, BotoCoreError) as error:
                self.judge(error)
                pause(0.05)
            else:
                self.counts["read"] += 1

    def check(self, client: Any, bucket: str, key: str, chance: Random | None = None) -> int:
        """Read a key whole, or with `chance` sometimes a range of it; the generation that it has."""
        fate = self.fates[bucket, key]
        least = fate.acknowledged
        arguments = {}
        if chance is not None and chance.random() < 0.3:
            arguments["Range"] = "bytes=0-" + str(chance.choice([0, 5000, 2 * BLOCK_BYTES]))
        try:
            answer = client.get_object(Bucket=bucket, Key=key, **arguments)
        except ClientError as error:
            if error.response["Error"]["Code"] == "InvalidRange":
                return least  # nothing has no first byte
            raise
        data = answer["Body"].read()
        generation, parts = int(answer["Metadata"]["generation"]), answer["Metadata"]["parts"] == "1"
        body = body_of(key, generation, parts)
        assert data == (body[: len(data)] if arguments else body), f"{key} is torn at generation {generation}"
        assert not arguments or len(data) == min(len(body), int(arguments["Range"].split("-")[1]) + 1)
        assert least <= generation <= fate.begun, f"{key} has generation {generation}, {least} was acknowledged"
        return generation

    def judge(self, error: ClientError | BotoCoreError) -> None:
        """Raise unless it is an error that a kill explains."""
        if isinstance(error, ClientError):
            code = error.response["Error"]["Code"]
            assert code in CODES, error
        elif not isinstance(error, (ConnectionError, HTTPClientError, IncompleteReadError)):
            raise error
        self.counts["refused"] += 1
