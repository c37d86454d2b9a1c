"""The index and its recovery: what is applied is found, in this process and others, and after each kind of stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.base.errors import Invalid, Unavailable
from headrace.base.limits import GIB, KIB, MIB
from headrace.media.frames import BlockName, block_digest, checksums_of, object_digest
from headrace.media.index import DropBlock, DropMeta, IndexReader, IndexWriter, MetaRecord, PutBlock, PutMeta
from headrace.media.layout import Entry, Location, unpack_location
from headrace.media.rebuild import adopt_unsealed, rebuild, recover
from headrace.media.scan import has_footer
from headrace.media.tiers import Log, Tier
from headrace.model.objects import Attributes, ObjectInfo, PartInfo, Version

BOOT = "boot-one"
PLACE = Location(2**63, 2**40, 4 * MIB, 2**40 - 4096)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[IndexWriter]:
    writer = IndexWriter(tmp_path / "index", boot_id=BOOT)
    yield writer
    writer.close()


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[Tier]:
    opened = Tier(tmp_path / "tier", GIB, segment_bytes=256 * KIB)
    yield opened
    opened.close()


def digest(number: int) -> bytes:
    return block_digest("b", "k", Version("e", 1, 1), number)


def store(log: Log, number: int, length: int = 50 * KIB) -> Entry:
    data = os.urandom(length)
    reservation = log.reserve(length, BlockName("b", "k", Version("e", 1, 1), number))
    reservation.writer.write(reservation, 0, data)
    return reservation.writer.commit(reservation, checksums_of(data))


def test_blocks_are_found_until_dropped(index: IndexWriter) -> None:
    index.apply([PutBlock(digest(1), PLACE), PutBlock(digest(2), PLACE._replace(length=7))])
    assert index.block(digest(1)) == PLACE
    assert index.blocks([digest(2), digest(3)]) == [PLACE._replace(length=7), None]
    index.apply([DropBlock(digest(1)), DropBlock(digest(3)), DropBlock(digest(2), segment_id=5)])
    assert index.blocks([digest(1), digest(2)]) == [None, PLACE._replace(length=7)]
    assert index.block_count() == 1


def test_locations_pack_and_unpack() -> None:
    assert unpack_location(PLACE.pack()) == PLACE


def test_metadata_returns_whole_and_only_under_its_own_name(
    index: IndexWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = ObjectInfo(
        key="a/\N{GREEK SMALL LETTER ALPHA}",
        version=Version("etag", 1_700_000_000_123, 10, "v1"),
        attributes=Attributes(headers={"content-type": "x/y"}, metadata={"a": "b"}, checksums={"crc32": "AAAA"}),
        parts=(PartInfo(1, 10, "pe", 5, {"crc32": "AAAA"}),),
    )
    record = MetaRecord("b", info.key, info, 12.5)
    index.apply([PutMeta(record)])
    assert index.meta("b", info.key) == record
    assert index.meta("b", "other") is None
    same = object_digest("b", info.key)
    monkeypatch.setattr("headrace.media.index.object_digest", lambda *_: same)
    assert index.meta("b", "other") is None, "an equal digest is not an equal name"
    monkeypatch.undo()
    index.apply([DropMeta("b", info.key)])
    assert index.meta("b", info.key) is None


def test_a_batch_is_all_or_nothing(index: IndexWriter) -> None:
    info = ObjectInfo(key="\ud800", version=Version("e", 1, 1))
    with pytest.raises(Invalid):
        index.apply([PutBlock(digest(1), PLACE), PutMeta(MetaRecord("b", "\ud800", info, 0.0))])
    assert index.block(digest(1)) is None


def test_a_full_map_is_unavailable_and_readable(tmp_path: Path) -> None:
    index = IndexWriter(tmp_path, boot_id=BOOT, map_bytes=MIB)
    index.apply([PutBlock(digest(0), PLACE)])
    with pytest.raises(Unavailable) as caught:
        index.apply([PutBlock(digest(number), PLACE) for number in range(100_000)])
    assert caught.value.kind == "IndexFull"
    assert index.block(digest(0)) == PLACE
    assert index.block_count() == 1
    index.close()


def test_a_reader_needs_an_index(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        IndexReader(tmp_path / "none")
    assert caught.value.kind == "IndexMissing"


READER = """
import sys
from headrace.media.index import IndexReader
from pathlib import Path
reader = IndexReader(Path(sys.argv[1]))
for line in sys.stdin:
    found = reader.block(bytes.fromhex(line.strip()))
    print(found.length if found else None, reader.stale(), flush=True)
"""


def test_other_processes_see_each_commit_and_their_death_is_cleared(index: IndexWriter) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(index.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout

        def ask() -> str:
            print(digest(1).hex(), file=process.stdin, flush=True)
            return process.stdout.readline().strip()

        assert ask() == "None False"
        index.apply([PutBlock(digest(1), PLACE._replace(length=1))])
        assert ask() == "1 False"
        index.apply([PutBlock(digest(1), PLACE._replace(length=2))])
        assert ask() == "2 False"
        assert index.reader_check() == 0
        process.kill()
        process.wait()
        assert index.reader_check() >= 1


def test_a_clean_stop_is_trusted_in_any_boot(tmp_path: Path) -> None:
    index = IndexWriter(tmp_path, boot_id=BOOT)
    assert index.state == "doubtful"
    index.apply([PutBlock(digest(1), PLACE)])
    index.close(clean=True)
    index = IndexWriter(tmp_path, boot_id="boot-two")
    assert index.state == "clean"
    assert index.block(digest(1)) == PLACE
    index.close()


def test_an_unclean_stop_is_trusted_in_the_same_boot_only(tmp_path: Path) -> None:
    index = IndexWriter(tmp_path, boot_id=BOOT)
    index.apply([PutBlock(digest(1), PLACE)])
    index.close()
    index = IndexWriter(tmp_path, boot_id=BOOT)
    assert index.state == "killed"
    assert index.block(digest(1)) == PLACE
    index.close()
    index = IndexWriter(tmp_path, boot_id="boot-two")
    assert index.state == "doubtful"
    assert index.block(digest(1)) is None
    index.close()


@pytest.mark.parametrize("harm", ["state", "format", "mapping", "missing"])
def test_a_harmed_index_is_emptied(tmp_path: Path, harm: str) -> None:
    index = IndexWriter(tmp_path, boot_id=BOOT)
    index.apply([PutBlock(digest(1), PLACE)])
    index.close(clean=True)
    if harm == "state":
        (tmp_path / "state.json").write_text('{"clean": tr')
    elif harm == "format":
        (tmp_path / "state.json").write_text(json.dumps({"format": 99, "clean": True, "boot_id": BOOT}))
    elif harm == "mapping":
        (tmp_path / "data.mdb").write_bytes(b"\xff" * 8192)
    else:
        (tmp_path / "data.mdb").unlink()
    index = IndexWriter(tmp_path, boot_id=BOOT)
    assert index.state == "doubtful"
    assert index.block_count() == 0
    index.apply([PutBlock(digest(1), PLACE)])
    assert index.block(digest(1)) == PLACE
    index.close()


@pytest.mark.parametrize("known", [True, False])
def test_dropping_a_segment_spares_what_moved(index: IndexWriter, tier: Tier, known: bool) -> None:
    log = tier.open_log("b")
    entries = [store(log, number) for number in range(12)]
    index.apply([PutBlock(entry.digest, entry.location) for entry in entries])
    victim = entries[0].location.segment_id
    inside = [entry for entry in entries if entry.location.segment_id == victim]
    index.apply([PutBlock(inside[0].digest, PLACE)])
    dropped = index.drop_segment(victim, tier.entries(victim) if known else None)
    assert dropped == len(inside) - 1 > 0
    assert index.block(inside[0].digest) == PLACE
    assert index.block(inside[1].digest) is None
    assert index.block_count() == len(entries) - dropped


def test_a_rebuild_finds_sealed_and_unsealed_blocks_and_seals(index: IndexWriter, tier: Tier) -> None:
    log = tier.open_log("b")
    entries = [store(log, number) for number in range(12)]
    tier.maintain()
    unsealed = [key for key in tier.segment_ids() if not has_footer(tier.path_of(key))]
    assert unsealed
    index.apply([PutBlock(digest(99), PLACE)])
    seen: list[tuple[int, int]] = []
    found = rebuild(index, [tier], lambda done, total: seen.append((done, total)))
    assert (found.blocks, found.scanned, found.damaged) == (12, len(unsealed), 0)
    assert [index.block(entry.digest) for entry in entries] == [entry.location for entry in entries]
    assert index.block(digest(99)) is None
    assert seen[-1] == (len(tier.segment_ids()), len(tier.segment_ids()))
    assert all(has_footer(tier.path_of(key)) for key in tier.segment_ids())


@pytest.mark.parametrize("harm", ["page", "empty", "renamed"])
def test_a_damaged_segment_is_deleted_and_its_blocks_forgotten(index: IndexWriter, tier: Tier, harm: str) -> None:
    log = tier.open_log("b")
    entries = [store(log, number) for number in range(8)]
    index.apply([PutBlock(entry.digest, entry.location) for entry in entries])
    tier.maintain(idle_seconds=0)
    victim, other = tier.segment_ids()[:2]
    path = tier.path_of(victim)
    if harm == "page":
        path.write_bytes(b"\0" * 8192)
    elif harm == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(tier.path_of(other).read_bytes())
    found = adopt_unsealed(index, [tier]) if harm != "renamed" else rebuild(index, [tier])
    assert found.damaged == 1
    assert not path.exists()
    for entry in entries:
        assert (index.block(entry.digest) is None) is (entry.location.segment_id == victim)


def test_recovery_does_what_the_state_asks(tmp_path: Path) -> None:
    def start(boot: str) -> tuple[IndexWriter, Tier, int]:
        tier = Tier(tmp_path / "tier", GIB)
        index = IndexWriter(tmp_path / "index", boot_id=boot)
        return index, tier, recover(index, [tier]).blocks

    index, tier, blocks = start(BOOT)
    assert blocks == 0
    entry = store(tier.open_log("b"), 1)
    os.close(tier._lock_descriptor)  # as a killed agent leaves it
    index.close()
    index, tier, blocks = start(BOOT)
    assert blocks == 1, "killed: the frame that was not indexed is adopted"
    assert index.block(entry.digest) == entry.location
    assert tier.close()
    index.close(clean=True)
    index, tier, blocks = start(BOOT)
    assert blocks == 0, "clean: nothing to do"
    assert index.block(entry.digest) == entry.location
    tier.close()
    index.close()
    index, tier, blocks = start("boot-two")
    assert blocks == 1, "another boot: rebuilt"
    assert index.block(entry.digest) == entry.location
    tier.close()
    index.close()


def test_a_segment_that_cannot_be_sealed_is_adopted_all_the_same(
    index: IndexWriter, tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = store(tier.open_log("b"), 1)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("headrace.media.rebuild.seal_scanned", fail)
    assert rebuild(index, [tier]).blocks == 1
    assert index.block(entry.digest) == entry.location
