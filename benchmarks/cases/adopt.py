"""How fast a node takes up its cache again: the index adopted after a clean stop, and rebuilt from footers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from cases import common
from harness import machine
from harness.bench import Bench, Outcome

BLOCKS = 1_000_000
BLOCK_BYTES = 4096
TIER_BYTES = 64 * 2**30


def adopt(bench: Bench) -> Outcome:
    """An index of 1,000,000 blocks: adopted after a clean stop, and rebuilt from sealed segments' footers."""
    outcome = Outcome("Taking up a cache of many blocks")
    blocks = BLOCKS // 50 if bench.quick else BLOCKS
    folder = common.fresh(bench, "adopt")
    made = _step("fill", folder, blocks)
    found: dict[str, list[float]] = {"adopted": [], "adopted, page cache dropped": [], "rebuilt": []}
    for _ in range(3):
        found["rebuilt"].append(_step("rebuild", folder, blocks))
        found["adopted"].append(_step("adopt", folder, blocks))
        machine.forget(folder)
        found["adopted, page cache dropped"].append(_step("adopt", folder, blocks))
    outcome.figures = {name: {"seconds": round(median(taken), 4), "all": taken} for name, taken in found.items()}
    outcome.figures["filled"] = {"seconds": made}
    per_million = BLOCKS / blocks
    outcome.target(f"{blocks:,} blocks adopted: seconds", max(found["adopted, page cache dropped"]), most=5)
    rebuilt = median(found["rebuilt"]) * per_million
    outcome.target("rebuilt from footers: seconds per 1,000,000 blocks", rebuilt, most=60)
    outcome.configuration |= {"blocks": blocks, "block_bytes": BLOCK_BYTES}
    return outcome


def _step(name: str, folder: Path, blocks: int) -> float:
    """Run one of the functions below in a process of its own; returns the seconds it took."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(
        [sys.executable, __file__, name, str(folder), str(blocks)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    return float(json.loads(done.stdout))


def fill(folder: Path, blocks: int) -> float:
    """Append the blocks to a tier and seal its segments, as the agent does; no index yet."""
    from headrace.media.frames import BlockName, checksums_of
    from headrace.media.tiers import Tier
    from headrace.model.objects import Version

    tier = Tier(folder / "tier", TIER_BYTES)
    log = tier.open_log("1")
    body = bytes(BLOCK_BYTES)
    checksums = checksums_of(body)
    version = Version("0123456789abcdef0123456789abcdef", 1, BLOCK_BYTES)
    start = time.monotonic()
    for number in range(blocks):
        reservation = log.reserve(BLOCK_BYTES, BlockName("1", f"folder/{number:09d}.bin", version, 0))
        reservation.writer.write(reservation, 0, body)
        reservation.writer.commit(reservation, checksums)
    tier.close()
    return time.monotonic() - start


def take_up(folder: Path, blocks: int, state: str) -> float:
    """Open tier and index and make them agree, as the agent does at start; `state` is what the index must be in."""
    from headrace.media.index import IndexWriter
    from headrace.media.rebuild import recover
    from headrace.media.tiers import Tier

    start = time.monotonic()
    tier = Tier(folder / "tier", TIER_BYTES)
    index = IndexWriter(folder / "index", boot_id=tier.boot_id)
    if index.state != state:
        raise RuntimeError(f"the index is {index.state}, {state} was wanted")
    recover(index, [tier])
    count = index.block_count()
    seconds = time.monotonic() - start
    if count != blocks:
        raise RuntimeError(f"{count} blocks were found, {blocks} are there")
    tier.close()
    index.close(clean=True)
    return seconds


def main() -> None:
    """Carry out the step that the command line names."""
    name, folder, blocks = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if name == "rebuild":
        (folder / "index" / "state.json").unlink(missing_ok=True)
    steps = {
        "fill": lambda: fill(folder, blocks),
        "rebuild": lambda: take_up(folder, blocks, "doubtful"),
        "adopt": lambda: take_up(folder, blocks, "clean"),
    }
    print(steps[name]())


if __name__ == "__main__":
    main()
