"""Space and sickness: eviction with real segments, an index that cannot be written, a corrupting disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from cache_world import Node, eventually, name, noise

from headrace.base import errors, limits
from headrace.cache import hits
from headrace.cache.eviction import AMPLIFICATION_MAX, MAIN
from headrace.cache.runner import AgentSettings
from headrace.wire.words import INDEX


def small(folder: Path, rule: str = "immutable") -> Node:
    return Node(folder, rule, tier_bytes=16 * limits.MIB, segment_bytes=limits.MIB)


async def test_what_is_still_wanted_is_kept_when_its_segment_goes(tmp_path: Path) -> None:
    async with small(tmp_path) as node:
        assert node.agent is not None
        shelf = node.agent._shelf
        shelved = shelf.shelved[0]
        data = {f"k{number}": noise(60_000, number) for number in range(60)}
        for key, value in data.items():
            node.origin.set(key, value)
            await node.get(key)
        await node.settled()
        hot = node.reader.hits.find([name(node, "k3")])[0]
        assert hot is not None
        for _ in range(3):
            await node.get("k3")
        node.reader.hits._send_touches()
        await eventually(lambda: shelved.eviction.segments[hot.segment_id].hits > 0, "the agent hears of no hits")
        await shelf.maintain()
        word = node.words.view[INDEX]
        segment = shelved.eviction.segments[hot.segment_id]
        assert segment.sealed
        for other in shelved.eviction.segments.values():  # the hot block's segment is the next to go
            other.touched = max(other.touched, segment.touched + (other is not segment))
        assert await shelf._evict(shelved, MAIN)
        assert hot.segment_id not in shelved.eviction.segments
        assert node.words.view[INDEX] != word
        moved = node.reader.hits.find([name(node, "k3")])[0]
        assert moved is not None
        assert moved.segment_id != hot.segment_id
        assert not any(f"{hot.segment_id:016x}" in path.name for path in node.segments())
        reads = node.origin.reads
        got, answer = await node.get("k3")
        assert (got, answer.cache, node.origin.reads) == (data["k3"], "HIT", reads)
        statistics = node.agent.statistics()
        assert statistics.counts["reappended bytes"] == 60_000
        assert 1.0 < statistics.amplification <= AMPLIFICATION_MAX


async def test_an_epoch_over_more_than_fits_keeps_hitting(tmp_path: Path) -> None:
    async with small(tmp_path) as node:
        assert node.agent is not None
        keys = [f"k{number}" for number in range(480)]  # 1.5 times the tier
        for number, key in enumerate(keys):
            node.origin.set(key, noise(50_000, number))
        shares = []
        for _ in range(4):
            before = node.reader.counts["HIT"]
            for number, key in enumerate(keys):
                got, _ = await node.get(key)
                assert got == noise(50_000, number)
                if number % 40 == 0:
                    node.reader.hits._send_touches()
                    await node.settled()
                    await node.agent._shelf.maintain()
            shares.append((node.reader.counts["HIT"] - before) / len(keys))
        assert min(shares[1:]) >= 0.5, shares
        assert node.agent.statistics().amplification <= AMPLIFICATION_MAX
        assert node.agent.statistics().tiers[0].used_bytes <= 16 * limits.MIB


async def test_an_index_that_cannot_be_written_is_passed_by_and_used_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Node(tmp_path) as node:
        assert node.agent is not None
        publisher = node.agent._publisher
        index = node.agent._index
        working = index.apply

        def broken(changes: object) -> None:
            raise errors.Unavailable("no room", kind="IndexFull")

        index.apply = broken  # type: ignore[method-assign]
        data = noise(100_000)
        for key in ("a", "b", "c"):
            node.origin.set(key, data)
            assert (await node.get(key))[0] == data
        await eventually(lambda: publisher.sick, "a failed commit goes unnoticed")
        got, answer = await node.get("c")
        assert (got, answer.cache) == (data, "BYPASS")
        assert node.reader.counts["bypass index-failed"] >= 1
        assert len([record for record in caplog.records if "index cannot be written" in record.message]) == 1
        index.apply = working  # type: ignore[method-assign]
        publisher._sick_until = 0.0
        await node.get("c")
        await node.settled()
        assert (await node.get("c"))[1].cache == "REVALIDATED"


async def test_a_disk_that_corrupts_is_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CORRUPT_BLOCKS_MAX", 2)
    async with Node(tmp_path, "immutable") as node:
        for number in range(3):
            key, data = f"k{number}", noise(50_000, number)
            node.origin.set(key, data)
            await node.get(key)
            await node.settled()
            location = node.reader.hits.find([name(node, key)])[0]
            if location is None:
                continue
            path = next(path for path in node.segments() if f"{location.segment_id:016x}" in path.name)
            with path.open("r+b") as file:
                file.seek(location.data_offset)
                file.write(bytes(1000))
            assert (await node.get(key))[0] == data
        assert node.agent is not None
        assert node.agent.statistics().sick == ("corrupting",)
        node.origin.set("last", b"x")
        assert (await node.get("last"))[1].cache == "BYPASS"


async def test_without_tiers_everything_passes_by(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.settings = AgentSettings(
        socket_path=node.settings.socket_path,
        index_path=node.settings.index_path,
        tiers=(),
        index_map_bytes=node.settings.index_map_bytes,
    )
    async with node:
        node.origin.set("a", noise(9_000_000))
        got, answer = await node.get("a")
        assert (got, answer.cache) == (noise(9_000_000), "BYPASS")
        assert node.reader.counts["bypass no-tier"] == 1


async def test_bytes_checked_in_memory_are_checked_again_when_they_come_from_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk can lose what it took: the page cache knew better until it let go."""
    async with Node(tmp_path, "immutable") as node:
        data = noise(700_000)
        for key in ("whole", "range"):
            node.origin.set(key, data)
            await node.get(key)
            await node.settled()
            assert (await node.get(key))[1].cache == "HIT"
            assert node.reader.hit_now(node.binding, key) is not None
            location = node.reader.hits.find([name(node, key)])[0]
            assert location is not None
            path = next(path for path in node.segments() if f"{location.segment_id:016x}" in path.name)
            with path.open("r+b") as file:
                file.seek(location.data_offset + 300_000)
                file.write(bytes(1000))
            monkeypatch.setattr(hits, "resident", lambda *_: False)
            assert node.reader.hit_now(node.binding, key) is None
            start, stop = (0, None) if key == "whole" else (290_000, 310_000)
            assert (await node.get(key, start, stop))[0] == data[start:stop]
            assert node.reader.hits.counts["corrupt"] == 1 + (key == "range")
            monkeypatch.undo()
            await node.get(key)
            await node.settled()
