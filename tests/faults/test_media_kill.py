"""kill -9 of a process that appends: the index never names a block whose frame is not whole.

Method: a child appends blocks whose bytes follow from their number and indexes them in batches; it
is killed at a chosen step of one append, or at random instants. Then every index entry is read as a
worker reads it at first, and recovery must find every block the child had committed. Control: a
child that indexes before it writes ("index-first") must fail the very same check.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace.base.errors import Damaged
from headrace.base.limits import GIB, KIB
from headrace.base.rng import seeded
from headrace.media.frames import BlockName, block_digest
from headrace.media.index import IndexWriter
from headrace.media.rebuild import recover
from headrace.media.residency import warm
from headrace.media.scan import has_footer
from headrace.media.segments import read_frame_header
from headrace.media.tiers import Tier, read_boot_id
from headrace.model.objects import Version

CHILD = """
import os, signal, sys
from pathlib import Path
from headrace.base.limits import GIB, KIB
from headrace.base.rng import seeded
from headrace.media.frames import BlockName, block_digest, checksums_of
from headrace.media.index import IndexWriter, PutBlock
from headrace.media.tiers import Tier
from headrace.model.objects import Version

folder, order, step, fatal = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
tier = Tier(folder / "tier", GIB, segment_bytes=700 * KIB)
index = IndexWriter(folder / "index", boot_id=tier.boot_id)
log = tier.open_log("b")
start = int(sys.argv[5])
waiting = []

def reach(name, number):
    if number == fatal and step == name:
        os.kill(os.getpid(), signal.SIGKILL)

number = start
while True:
    chance = seeded(number)
    data = chance.randbytes(chance.choice([300, 4096, 30_000, 80_000, 300_000]))
    reservation = log.reserve(len(data), BlockName("b", "k", Version("e", 1, 1), number))
    if order == "index-first":
        index.apply([PutBlock(block_digest(*reservation.name), reservation.location)])
    reach("reserved", number)
    reservation.writer.write(reservation, 0, data[: len(data) // 2])
    reach("half", number)
    reservation.writer.write(reservation, len(data) // 2, data[len(data) // 2 :])
    reach("bytes", number)
    entry = reservation.writer.commit(reservation, checksums_of(data))
    os.write(1, b"%d\\n" % number)
    reach("header", number)
    waiting.append(PutBlock(entry.digest, entry.location))
    if len(waiting) == 4:
        index.apply(waiting)
        waiting.clear()
    reach("index", number)
    tier.maintain()
    reach("sealed", number)
    number += 1
"""


def name_of(number: int) -> BlockName:
    return BlockName("b", "k", Version("e", 1, 1), number)


def bytes_of(number: int) -> bytes:
    chance = seeded(number)
    return chance.randbytes(chance.choice([300, 4096, 30_000, 80_000, 300_000]))


def killed_child(folder: Path, order: str, step: str, fatal: int, start: int, seconds: float | None = None) -> int:
    """Run a child until it kills itself or is killed; the number of the last block it committed."""
    command = [sys.executable, "-c", CHILD, str(folder), order, step, str(fatal), str(start)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        if seconds is not None:
            process.stdout.read(1)
            time.sleep(seconds)
            process.kill()
        output = process.stdout.read()
        assert process.wait() == -signal.SIGKILL
    whole = output[: output.rfind(b"\n") + 1].split()
    return int(whole[-1]) if len(whole) > 1 else start - 1


def bad_entries(index: IndexWriter, tier: Tier, last: int) -> list[int]:
    """Numbers of indexed blocks that a worker's first read would refuse or get wrong."""
    bad = []
    for number in range(last + 2):
        location = index.block(block_digest(*name_of(number)))
        if location is None:
            continue
        try:
            descriptor = os.open(tier.path_of(location.segment_id), os.O_RDONLY)
        except FileNotFoundError:
            bad.append(number)
            continue
        try:
            header = read_frame_header(descriptor, location.frame_offset)
            warm(descriptor, location.data_offset, location.length, header.checksums)
            right = os.pread(descriptor, location.length, location.data_offset) == bytes_of(number)
            if header.name != name_of(number) or not right:
                bad.append(number)
        except Damaged:
            bad.append(number)
        finally:
            os.close(descriptor)
    return bad


def open_after(folder: Path) -> tuple[Tier, IndexWriter]:
    tier = Tier(folder / "tier", GIB, segment_bytes=700 * KIB)
    return tier, IndexWriter(folder / "index", boot_id=read_boot_id())


@pytest.mark.parametrize("step", ["reserved", "half", "bytes", "header", "index", "sealed"])
def test_a_kill_at_any_step_leaves_only_whole_blocks(tmp_path: Path, step: str) -> None:
    last = killed_child(tmp_path, "bytes-first", step, 18, 0)
    assert last == (17 if step in ("reserved", "half", "bytes") else 18)
    tier, index = open_after(tmp_path)
    assert index.state == "killed"
    assert bad_entries(index, tier, last) == []
    recover(index, [tier])
    assert bad_entries(index, tier, last) == []
    missing = [number for number in range(last + 1) if index.block(block_digest(*name_of(number))) is None]
    assert missing == []
    assert index.block(block_digest(*name_of(last + 1))) is None
    assert all(has_footer(tier.path_of(key)) for key in tier.segment_ids())
    tier.close()
    index.close()


def test_kills_at_random_instants_lose_nothing_committed(tmp_path: Path) -> None:
    chance = seeded("kill")
    last = -1
    for _ in range(5):
        last = killed_child(tmp_path, "bytes-first", "never", -1, last + 1, chance.uniform(0, 0.08))
        tier, index = open_after(tmp_path)
        assert index.state == "killed"
        assert bad_entries(index, tier, last) == []
        recover(index, [tier])
        missing = [number for number in range(last + 1) if index.block(block_digest(*name_of(number))) is None]
        assert missing == []
        while index.block(block_digest(*name_of(last + 1))) is not None:
            last += 1  # committed, and killed before it could say so
        assert bad_entries(index, tier, last) == []
        tier.close()
        index.close()


@pytest.mark.parametrize("step", ["reserved", "half", "bytes"])
def test_control_the_check_sees_an_index_that_runs_ahead(tmp_path: Path, step: str) -> None:
    last = killed_child(tmp_path, "index-first", step, 18, 0)
    tier, index = open_after(tmp_path)
    assert bad_entries(index, tier, last) == [18]
    tier.close()
    index.close()
