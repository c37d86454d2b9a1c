"""What a bucket must hold, as dictionaries, and bodies and names to try it with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import md5

from headrace.base.limits import BLOCK_BYTES, KIB, MIB, PART_BYTES_MIN
from headrace.base.rng import seeded

SMALL = (0, 1, 4 * KIB, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 64 * KIB)
LARGE = (MIB, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 9 * MIB)
PARTS = (1, 70_000, PART_BYTES_MIN, PART_BYTES_MIN + 3)
BORDERS = sorted({edge + step for edge in (0, *SMALL, *LARGE, MIB, 2 * BLOCK_BYTES) for step in (-1, 0, 1)} - {-1})


@lru_cache(maxsize=64)
def body_of(size: int, seed: int) -> bytes:
    """Bytes that no other (size, seed) shares."""
    return seeded(f"{size} {seed}").randbytes(size)


def etag_of(body: bytes) -> str:
    return f'"{md5(body, usedforsecurity=False).hexdigest()}"'


@dataclass
class Object:
    """One object as it must be read; what is None is not known, since somebody else wrote it."""

    body: bytes
    metadata: dict[str, str] | None = None
    tags: dict[str, str] | None = None
    content_type: str | None = None
    etag: str | None = None


@dataclass
class UploadModel:
    """A multipart upload under way."""

    key: str
    metadata: dict[str, str]
    parts: dict[int, tuple[str, bytes]] = field(default_factory=dict)


@dataclass
class Bucket:
    """One bucket's objects and uploads."""

    objects: dict[str, Object] = field(default_factory=dict)
    uploads: dict[str, UploadModel] = field(default_factory=dict)

    def listed(self, prefix: str, delimiter: str, after: str = "") -> Iterator[tuple[str, bool]]:
        """(name, whether it is a common prefix) in S3's order, of names greater than `after`."""
        rolled = set()
        for key in in_order(key for key in self.objects if key.startswith(prefix)):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                if key.encode() > after.encode():
                    yield key, False
                continue
            name = key[: cut + len(delimiter)]
            if name not in rolled and key.encode() > after.encode() and not (after and after.startswith(name)):
                rolled.add(name)
                yield name, True


def in_order(keys: Iterable[str]) -> list[str]:
    """Keys by their bytes."""
    return sorted(keys, key=str.encode)
