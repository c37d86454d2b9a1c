"""The objects that all servers hold: made from their names, so any byte can be checked."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.load import Wanted
from harness.signing import Signer, client

KIB, MIB = 1024, 1024 * 1024
BUCKET = "bench"
NAMES = {4 * KIB: "4KiB", 64 * KIB: "64KiB", MIB: "1MiB", 4 * MIB: "4MiB", 16 * MIB: "16MiB", 64 * MIB: "64MiB"}
NAMES[256 * MIB] = "256MiB"


@dataclass(frozen=True)
class Group:
    """`count` objects of one size, and how many connections read them."""

    size: int
    count: int
    connections: int

    @property
    def name(self) -> str:
        """Size as people say it."""
        return NAMES[self.size]

    @property
    def keys(self) -> list[str]:
        """The keys of the group."""
        return [f"{self.name}/{number:05d}.bin" for number in range(self.count)]


WARM = (
    Group(4 * KIB, 1024, 16),
    Group(64 * KIB, 512, 16),
    Group(MIB, 128, 8),
    Group(16 * MIB, 16, 4),
    Group(256 * MIB, 2, 2),
)
QUICK = (Group(4 * KIB, 256, 16), Group(64 * KIB, 128, 16), Group(MIB, 32, 8), Group(16 * MIB, 4, 4))

_NOISE = random.Random(7).randbytes(MIB + 64)


def pieces(key: str, size: int) -> Iterator[bytes]:
    """The object's bytes in pieces of at most 1 MiB; no two keys share a piece."""
    for start in range(0, size, MIB):
        length = min(MIB, size - start)
        stamp = f"{key}@{start:012d}".encode().ljust(64, b".")[:64]
        yield (stamp + _NOISE)[:length]


def content(key: str, size: int) -> bytes:
    """The whole object."""
    return b"".join(pieces(key, size))


def checksum(key: str, size: int) -> int:
    """CRC-32 of the whole object."""
    crc = 0
    for piece in pieces(key, size):
        crc = zlib.crc32(piece, crc)
    return crc


def write_files(folder: Path, groups: tuple[Group, ...], bucket: str = BUCKET) -> None:
    """The objects as plain files under folder/bucket."""
    for group in groups:
        for key in group.keys:
            path = folder / bucket / key
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.writelines(pieces(key, group.size))


def upload(port: int, groups: tuple[Group, ...], bucket: str = BUCKET, *, secure: bool = False) -> None:
    """Store the objects through S3."""
    s3 = client(port, secure=secure)
    make_bucket(s3, bucket)
    jobs = [(key, group.size) for group in groups for key in group.keys]
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda job: s3.put_object(Bucket=bucket, Key=job[0], Body=content(*job)), jobs):
            pass


def make_bucket(s3: Any, bucket: str) -> None:
    """Create the bucket unless it is there."""
    if bucket not in {entry["Name"] for entry in s3.list_buckets().get("Buckets", [])}:
        s3.create_bucket(Bucket=bucket)


def gets_of(
    port: int, keys: list[str], size: int, bucket: str = BUCKET, *, secure: bool = False, verified: bool = False
) -> list[Wanted]:
    """Signed GETs of these objects, in this order."""
    signer = Signer(port, secure=secure)
    return [Wanted(signer.get(bucket, key), size, 200, checksum(key, size) if verified else 0) for key in keys]


def whole_gets(
    port: int, group: Group, bucket: str = BUCKET, *, secure: bool = False, verified: bool = False
) -> list[Wanted]:
    """Signed GETs of every object of the group, in an order that is random but always the same."""
    keys = group.keys
    random.Random(11).shuffle(keys)
    return gets_of(port, keys, group.size, bucket, secure=secure, verified=verified)


def range_gets(port: int, group: Group, length: int, count: int, bucket: str = BUCKET) -> list[Wanted]:
    """Signed GETs of `count` random ranges of `length` bytes from the first object of the group."""
    signer = Signer(port)
    chance = random.Random(13)
    key = group.keys[0]
    wanted = []
    for _ in range(count):
        start = chance.randrange(0, (group.size - length) // length) * length
        wanted.append(Wanted(signer.get(bucket, key, (start, start + length)), length, 206))
    return wanted
