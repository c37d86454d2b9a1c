"""Measures segments and index: append rate, look-up and probe times, adoption and rebuild of N blocks.

Prints one JSON document. Nothing here is asserted; run it on an idle machine.

    python benchmarks/media_index.py --blocks 1000000 [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import xxhash

from headrace.base.limits import GIB, KIB, MIB
from headrace.base.rng import seeded
from headrace.media.frames import BlockName, block_digest, checksums_of
from headrace.media.index import IndexWriter, MetaRecord, PutBlock, PutMeta
from headrace.media.rebuild import rebuild, recover
from headrace.media.residency import METHOD, Probe, own_probe, warm
from headrace.media.segments import read_frame_header
from headrace.media.tiers import Log, Tier
from headrace.model.objects import Attributes, ObjectInfo, Version

LOOK_UPS = 100_000
COMMIT_BLOCKS = 64
STORED_BYTES = 64
ROUNDS = 7
ROUND_BYTES = {4 * KIB: 32 * MIB, 64 * KIB: 128 * MIB, 4 * MIB: 256 * MIB}


def name_of(number: int) -> BlockName:
    """A name of realistic length, its own for every number."""
    version = Version("9e107d9d372bb6826bd81d3542a419d6", 1_700_000_000_000, 4 * MIB)
    return BlockName("bucket-binding", f"train/shard-{number // 1000:05d}/sample-{number:09d}.tar", version, 0)


def append(log: Log, number: int, data: bytes) -> PutBlock:
    """Reserve, checksum, write and commit one block."""
    reservation = log.reserve(len(data), name_of(number))
    checksums = checksums_of(data)
    reservation.writer.write(reservation, 0, data)
    entry = reservation.writer.commit(reservation, checksums)
    return PutBlock(entry.digest, entry.location)


def append_round(folder: Path, size: int, indexed: bool) -> float:
    """Seconds a block of `size` bytes takes in a fresh tier, which is removed afterwards."""
    data = os.urandom(size)
    count = ROUND_BYTES[size] // size
    tier = Tier(folder / "append", 16 * GIB)
    index = IndexWriter(folder / "append-index", boot_id=tier.boot_id)
    log = tier.open_log("bucket-binding")
    batch = []
    start = time.perf_counter()
    for number in range(count):
        batch.append(append(log, number, data))
        if indexed and len(batch) == COMMIT_BLOCKS:
            index.apply(batch)
            batch.clear()
    seconds = (time.perf_counter() - start) / count
    log.reserve(0, name_of(0))  # left open, so that closing does not wait for the disk
    tier.close()
    index.close()
    shutil.rmtree(folder / "append")
    shutil.rmtree(folder / "append-index")
    return seconds


def append_rates(folder: Path) -> dict[str, Any]:
    """Appending without fsync, without and with index commits in turns, by block size."""
    found = {}
    for size in ROUND_BYTES:
        rounds = [[append_round(folder, size, indexed) for indexed in (False, True)] for _ in range(ROUNDS)]
        for label, seconds in zip(("", " indexed"), zip(*rounds, strict=True), strict=True):
            median = statistics.median(seconds)
            found[f"{size // KIB} KiB{label}"] = {
                "gb_per_s": round(size / median / 1e9, 3),
                "gb_per_s_best": round(size / min(seconds) / 1e9, 3),
                "us_per_block": round(median * 1e6, 2),
            }
    return found


def timed(call: Callable[..., object], arguments: list[tuple[Any, ...]]) -> dict[str, float]:
    """Mean and p99 microseconds of a call over many arguments; p99 includes reading the clock."""
    start = time.perf_counter()
    for argument in arguments:
        call(*argument)
    mean = (time.perf_counter() - start) / len(arguments)
    times = []
    for argument in arguments:
        before = time.perf_counter_ns()
        call(*argument)
        times.append(time.perf_counter_ns() - before)
    times.sort()
    return {"mean_us": round(mean * 1e6, 2), "p99_us": round(times[len(times) * 99 // 100] / 1e3, 2)}


def look_ups(index: IndexWriter, tier: Tier, blocks: int) -> dict[str, Any]:
    """Times of the calls that a worker makes for a block."""
    chance = seeded("look-ups")
    names = [name_of(chance.randrange(blocks)) for _ in range(min(LOOK_UPS, blocks))]
    digests = [(block_digest(*name),) for name in names]
    records = []
    for name in names[:10_000]:
        attributes = Attributes(headers={"content-type": "application/x-tar"}, metadata={"shard": "1"})
        info = ObjectInfo(key=name.key, version=name.version, attributes=attributes)
        records.append(PutMeta(MetaRecord(name.binding, name.key, info, time.time())))
    index.apply(records)
    location = index.block(digests[0][0])
    assert location is not None
    descriptor = os.open(tier.path_of(location.segment_id), os.O_RDONLY)
    try:
        return {
            "digest": timed(block_digest, list(names)),
            "block": timed(index.block, digests),
            "meta": timed(index.meta, [name[:2] for name in names[:10_000]]),
            "frame_header": timed(read_frame_header, [(descriptor, location.frame_offset)] * 20_000),
        }
    finally:
        os.close(descriptor)


def probes(folder: Path) -> dict[str, Any]:
    """Times of the residency probe on a warm file, by range."""
    path = folder / "probe"
    path.write_bytes(os.urandom(16 * MIB))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        warm(descriptor, 0, 16 * MIB)
        found: dict[str, Any] = {"method": METHOD}
        for size in (4 * KIB, 64 * KIB, MIB):
            for label, probe in (("", own_probe()), (" mincore", Probe().resident_by_mincore)):
                found[f"{size // KIB} KiB{label}"] = timed(probe, [(descriptor, 2 * MIB, size)] * 20_000)
        return found
    finally:
        os.close(descriptor)


def adoption(folder: Path, blocks: int) -> dict[str, Any]:
    """Store `blocks` blocks, then start again: after a clean stop, a kill, and a rebuild."""
    tier = Tier(folder / "tier", 64 * GIB)
    index = IndexWriter(folder / "index", boot_id=tier.boot_id)
    log = tier.open_log("bucket-binding")
    data = os.urandom(STORED_BYTES)
    found: dict[str, Any] = {"blocks": blocks}
    start = time.perf_counter()
    for first in range(0, blocks, COMMIT_BLOCKS):
        index.apply([append(log, number, data) for number in range(first, min(first + COMMIT_BLOCKS, blocks))])
        if first % 65_536 == 0:
            tier.maintain()
    found["store_seconds"] = round(time.perf_counter() - start, 2)
    start = time.perf_counter()
    tier.close()
    index.close(clean=True)
    found["clean_stop_seconds"] = round(time.perf_counter() - start, 3)
    for label in ("adopt_clean", "adopt_killed", "rebuild"):
        start = time.perf_counter()
        tier = Tier(folder / "tier", 64 * GIB)
        index = IndexWriter(folder / "index", boot_id=tier.boot_id)
        result = rebuild(index, [tier]) if label == "rebuild" else recover(index, [tier])
        assert index.block(block_digest(*name_of(blocks - 1))) is not None
        found[f"{label}_seconds"] = round(time.perf_counter() - start, 3)
        found[f"{label}_blocks_read"] = result.blocks
        if label != "rebuild":
            tier.close()
            index.close()
    found["segments"] = len(tier.segment_ids())
    found["index_bytes"] = (folder / "index" / "data.mdb").stat().st_blocks * 512
    found["look_ups"] = look_ups(index, tier, blocks)
    start = time.perf_counter()
    victim = tier.segment_ids()[0]
    entries = tier.entries(victim)
    found["drop_segment_blocks"] = index.drop_segment(victim, entries)
    found["drop_segment_seconds"] = round(time.perf_counter() - start, 3)
    tier.close()
    index.close()
    return found


def main() -> None:
    """Run all measurements and print them."""
    parser = argparse.ArgumentParser(description="Measure segments and index.")
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where to write (about 2 GiB); default: a new one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        report = {
            "versions": {
                "python": platform.python_version(),
                "lmdb": ".".join(map(str, lmdb.version())),
                "py-lmdb": lmdb.__version__,
                "xxhash": xxhash.VERSION,
                "kernel": platform.release(),
                "machine": platform.machine(),
                "cpus": os.cpu_count(),
            },
            "load_before": os.getloadavg()[0],
            "append": append_rates(folder),
            "probe": probes(folder),
            "index": adoption(folder, arguments.blocks),
        }
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
