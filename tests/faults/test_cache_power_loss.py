"""Power loss under the cache: of what was not fsynced any page may be missing, and no wrong byte comes of it.

Segments keep, page by page, what they had at their last fsync or what was written since; the index
keeps either the old or the new of every page. After that "reboot" everything that is read must be right.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from faults.power_loss import PowerLoss
from headrace.base import limits
from headrace.base.rng import Random, seeded
from headrace.cache import runner
from headrace.media import tiers
from integration.cache_world import Node, noise

PAGE = 4096
SIZES = (1, 700, 5000, 70_000, 300_000, limits.BLOCK_BYTES + 9)


def half_written(old: bytes, new: bytes, chance: Random) -> bytes:
    """Each page as it was or as it is; the file may end early."""
    share = chance.choice([0.0, 0.1, 0.9, 1.0])
    pages = []
    for at in range(0, len(new), PAGE):
        before = old[at : at + PAGE]
        kept = new[at : at + PAGE]
        pages.append(kept if chance.random() < share else before.ljust(len(kept), b"\0")[: len(kept)])
    whole = b"".join(pages)
    end = chance.choice([len(whole), max(len(old), chance.randint(0, len(whole)))])
    return whole[:end]


def cut_power(folder: Path, after: Path, power: PowerLoss, chance: Random) -> None:
    """Copy the node's folder as the disk has it after the loss."""
    durable = power.snapshot().files
    shutil.copytree(folder, after, ignore=shutil.ignore_patterns("*.sock"))
    for path in (*folder.glob("tier/segments/*"), *folder.glob("index/*")):
        status = path.stat()
        old = durable[status.st_ino].data if status.st_ino in durable else b""
        target = after / path.relative_to(folder)
        if path.suffix == ".seg" and not old and chance.random() < 0.1:
            target.unlink()  # not even its name
        elif path.name != "lock.mdb" and status.st_size < 64 * limits.MIB:
            target.write_bytes(half_written(old, path.read_bytes(), chance))


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_left_is_right_or_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = seeded(f"cache power {seed}")
    before, after = tmp_path / "before", tmp_path / "after"
    data: dict[str, bytes] = {}
    before.mkdir()
    power = PowerLoss(before, monkeypatch)
    async with Node(before, "immutable", segment_bytes=limits.MIB) as node:
        for number in range(40):
            key = f"k{number}"
            data[key] = noise(chance.choice(SIZES), number)
            version = node.origin.set(key, data[key])
            assert version.size == len(data[key])
            assert (await node.get(key))[0] == data[key]
        await node.settled()
        assert node.agent is not None
        await node.agent._shelf.maintain()
        blocks = node.agent.statistics().blocks
        cut_power(before, after, power, chance)
        objects = node.origin.objects
    for module in (runner, tiers):
        monkeypatch.setattr(module, "read_boot_id", lambda: "another boot")
    async with Node(after, "immutable", segment_bytes=limits.MIB) as node:
        node.origin.objects = objects
        assert node.agent is not None
        recovered = node.agent.recovered
        assert 0 < recovered.blocks <= blocks
        for _ in range(2):
            for key, body in data.items():
                got, _ = await node.get(key)
                assert got == body, key
                start = chance.randrange(len(body))
                assert (await node.get(key, start, start + 10_000))[0] == body[start : start + 10_000]
            await node.settled()
        assert node.reader.hits.counts["corrupt"] == 0, "recovery adopted what is not whole"
        assert node.reader.counts["HIT"] > 0
