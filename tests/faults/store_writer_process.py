"""A process that writes to a store until it is killed, saying before and after each write what it does.

    python store_writer_process.py STORE NAME SEED

Lines on stdout are JSON: ["try", key, generation] before a write, ["done", key, generation] after its
acknowledgement; generation 0 is a delete. Bodies follow from key and generation.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from headrace.base import rng
from headrace.model.objects import Attributes
from headrace.origin.base import Upload
from headrace.origin.complete import CompletePart
from headrace.origin.store import Store
from headrace.origin.store_bucket import StoreBucket
from headrace.testing.origin_calls import pieces

KEYS = 12


def body_of(key: str, generation: int) -> bytes:
    """The bytes of one generation of a key: from nothing to some MiB."""
    chance = rng.seeded(f"{key} {generation}")
    size = chance.choice([0, 1, 5000, 70_000, 300_000, 2_000_000])
    return chance.randbytes(size)


def parts_of(key: str, generation: int) -> list[bytes]:
    """The parts of one generation when it is uploaded in parts."""
    return [rng.seeded(key).randbytes(5 * 1024 * 1024), body_of(key, generation)]


def say(*words: object) -> None:
    """One line to whoever started us, at once."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


async def write(bucket: StoreBucket, key: str, generation: int, in_parts: bool) -> None:
    """One put or multipart upload; the metadata says which generation it is."""
    said = Attributes(metadata={"generation": str(generation), "parts": str(int(in_parts))})
    if not in_parts:
        await bucket.put(key, Upload(pieces(body_of(key, generation)), attributes=said))
        return
    upload_id = await bucket.create_upload(key, said)
    parts = []
    for number, body in enumerate(parts_of(key, generation), 1):
        part = await bucket.put_part(upload_id, number, Upload(pieces(body, 1 << 20)))
        parts.append(CompletePart(number, part.etag))
    await bucket.complete_upload(key, upload_id, parts)


async def worker(bucket: StoreBucket, name: str, seed: str) -> None:
    """Write this worker's own keys, for ever."""
    chance = rng.seeded(seed)
    generation = 0
    while True:
        generation += 1
        key = f"{name}/{chance.randrange(KEYS)}"
        if chance.random() < 0.2:
            say("try", key, 0)
            await bucket.delete(key)
            say("done", key, 0)
            continue
        number = int(seed.rpartition(" ")[2]) * 1_000_000 + generation
        say("try", key, number)
        await write(bucket, key, number, chance.random() < 0.15)
        say("done", key, number)


async def main(path: str, name: str, seed: str) -> None:
    """Three workers side by side, so that commits are shared."""
    bucket = Store.open(Path(path)).bucket("bucket")
    say("ready", "", 0)
    await asyncio.gather(*(worker(bucket, f"{name}{number}", f"{number} {seed}") for number in range(3)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
