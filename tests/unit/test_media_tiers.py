"""Tiers and their logs: limits hold, ids never return, failures close segments and lose nothing."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from headrace.base.errors import Bug, Busy, Conflict, Invalid, NotFound, Unavailable
from headrace.base.limits import BLOCK_BYTES, GIB, KIB, MIB, TIER_BYTES_MIN, UNLINK_GRACE_SECONDS
from headrace.media.frames import BlockName, checksums_of
from headrace.media.layout import Entry
from headrace.media.scan import has_footer, read_table
from headrace.media.tiers import Log, SegmentPaths, Tier
from headrace.model.objects import Version


class HandClock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def wall(self) -> float:
        return self.now

    def steady(self) -> float:
        return self.now


def block_name(key: str, length: int) -> BlockName:
    return BlockName("b", key, Version("etag", 1, length), 0)


def store(log: Log, key: str, data: bytes) -> Entry:
    reservation = log.reserve(len(data), block_name(key, len(data)))
    reservation.writer.write(reservation, 0, data)
    return reservation.writer.commit(reservation, checksums_of(data))


def test_blocks_come_back_after_a_restart(tmp_path: Path) -> None:
    tier = Tier(tmp_path, GIB)
    log = tier.open_log("b")
    blocks = {f"k{n}": os.urandom(size) for n, size in enumerate((1, 300, 40 * KIB, MIB, BLOCK_BYTES))}
    entries = {key: store(log, key, data) for key, data in blocks.items()}
    assert tier.close()
    tier = Tier(tmp_path, GIB)
    paths = SegmentPaths([tmp_path])
    found = {entry.name.key: entry for key in tier.segment_ids() for entry in tier.entries(key)}
    assert found == entries
    for key, entry in found.items():
        with Path(paths.path_of(entry.location.segment_id)).open("rb") as file:
            file.seek(entry.location.data_offset)
            assert file.read(entry.location.length) == blocks[key]
    assert tier.close()


def test_segments_are_private_and_end_in_a_footer_once_full(tmp_path: Path) -> None:
    tier = Tier(tmp_path, GIB, segment_bytes=MIB)
    log = tier.open_log("b")
    for number in range(9):
        store(log, f"k{number}", bytes(300 * KIB))
    first, *_, last = tier.segment_ids()
    assert tier.maintain() == [key for key in tier.segment_ids() if key != last]
    assert has_footer(tier.path_of(first))
    assert not has_footer(tier.path_of(last))
    assert tier.path_of(first).stat().st_mode & 0o777 == 0o600
    assert tier.maintain(idle_seconds=0) == [last]
    tier.close()


def test_several_threads_fill_one_segment(tmp_path: Path) -> None:
    tier = Tier(tmp_path, GIB)
    log = tier.open_log("b")
    blocks = {f"k{n}": os.urandom(150 * KIB + n) for n in range(24)}
    threads = [
        threading.Thread(target=lambda items: [store(log, *item) for item in items], args=(list(blocks.items())[n::4],))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tier.close()
    (path,) = (tmp_path / "segments").iterdir()
    content = path.read_bytes()
    entries = read_table(path).entries
    assert {
        entry.name.key: content[entry.location.data_offset :][: entry.location.length] for entry in entries
    } == blocks


def test_a_tier_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="too small"):
        Tier(tmp_path, TIER_BYTES_MIN - 1)


@pytest.mark.parametrize(
    ("limit", "logs", "expected"),
    [(TIER_BYTES_MIN, 1, 16 * MIB), (64 * GIB, 1, GIB), (64 * GIB, 4, 256 * MIB), (1024 * GIB, 2, GIB)],
)
def test_segment_size_follows_limit_and_logs(tmp_path: Path, limit: int, logs: int, expected: int) -> None:
    tier = Tier(tmp_path, limit)
    for number in range(logs):
        tier.open_log(f"b{number}")
    assert tier.segment_bytes() == expected
    tier.close()


def test_open_logs_are_bounded_by_the_limit(tmp_path: Path) -> None:
    tier = Tier(tmp_path, TIER_BYTES_MIN)
    assert tier.open_log("b0") is tier.open_log("b0")
    assert tier.open_log("b0", "transient") is not tier.open_log("b0")
    with pytest.raises(Busy, match="open logs"):
        tier.open_log("b1")
    tier.maintain(idle_seconds=0)
    tier.open_log("b1")
    tier.close()


def test_two_agents_never_share_a_tier(tmp_path: Path) -> None:
    tier = Tier(tmp_path, GIB)
    with pytest.raises(Conflict, match="another agent") as caught:
        Tier(tmp_path, GIB)
    assert caught.value.kind == "TierLocked"
    tier.close()
    Tier(tmp_path, GIB).close()


def test_the_limit_holds_and_unlinked_bytes_count_for_a_while(tmp_path: Path) -> None:
    clock = HandClock()
    tier = Tier(tmp_path, 4 * MIB, segment_bytes=MIB, clock=clock)
    log = tier.open_log("b")
    for number in range(7):
        store(log, f"k{number}", bytes(500 * KIB))
    with pytest.raises(Unavailable) as caught:
        [store(log, f"k{number}", bytes(500 * KIB)) for number in range(7, 9)]
    assert caught.value.kind == "TierFull"
    full = tier.used_bytes()
    assert 3 * MIB < full <= 4 * MIB
    tier.maintain()
    victim = tier.segment_ids()[0]
    tier.unlink(victim)
    assert not tier.path_of(victim).exists()
    assert abs(tier.used_bytes() - full) < 200 * KIB
    assert tier.statistics().unlinked_bytes > 900 * KIB
    with pytest.raises(Unavailable):
        store(log, "again", bytes(600 * KIB))
    clock.now += UNLINK_GRACE_SECONDS + 1
    assert tier.used_bytes() < full - 900 * KIB
    store(log, "again", bytes(600 * KIB))
    tier.close()


def test_used_bytes_are_what_the_disk_says(tmp_path: Path) -> None:
    tier = Tier(tmp_path, GIB)
    log = tier.open_log("b")
    for number, size in enumerate((100, 5000, 70_000, 3 * MIB, 4 * MIB, 4 * MIB, 100)):
        store(log, f"k{number}", os.urandom(size))
    estimate = tier.used_bytes()
    tier.maintain(idle_seconds=0)
    exact = sum(path.stat().st_blocks * 512 for path in (tmp_path / "segments").iterdir())
    assert tier.used_bytes() == exact
    assert abs(estimate - exact) < 256 * KIB
    tier.close()


def test_segment_ids_never_return(tmp_path: Path) -> None:
    seen: set[int] = set()
    for round_number in range(4):
        tier = Tier(tmp_path, GIB, segment_bytes=100)
        for number in range(40):
            store(tier.open_log("b"), f"{round_number}-{number}", b"x" * 200)
        tier.maintain(idle_seconds=0)
        ids = set(tier.segment_ids())
        assert len(ids) == 40
        assert not ids & seen
        seen |= ids
        for key in ids:
            tier.unlink(key)
        tier.close()


def test_a_lost_state_file_neither_changes_the_number_nor_repeats_ids(tmp_path: Path) -> None:
    tier = Tier(tmp_path, GIB)
    entry = store(tier.open_log("b"), "k", b"x")
    number = tier.number
    tier.close()
    (tmp_path / "tier.json").write_text("{")
    tier = Tier(tmp_path, GIB)
    assert tier.number == number
    assert store(tier.open_log("b"), "k", b"x").location.segment_id > entry.location.segment_id
    tier.close()


def test_a_copied_tier_is_refused(tmp_path: Path) -> None:
    tier = Tier(tmp_path / "a", GIB)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "tier.json").write_bytes((tmp_path / "a" / "tier.json").read_bytes())
    with pytest.raises(Conflict, match="copy"):
        Tier(tmp_path / "b", GIB, taken_numbers=[tier.number])
    tier.close()


def test_readers_learn_of_tiers_by_their_number(tmp_path: Path) -> None:
    one = Tier(tmp_path / "one", GIB)
    two = Tier(tmp_path / "two", GIB, taken_numbers=[one.number])
    entry = store(two.open_log("b"), "k", b"x")
    paths = SegmentPaths([tmp_path / "one", tmp_path / "two"])
    assert paths.path_of(entry.location.segment_id) == str(two.path_of(entry.location.segment_id))
    with pytest.raises(NotFound):
        paths.path_of(0)
    one.close()
    two.close()


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, "TierFull"), (errno.EIO, "TierFailed")])
def test_a_failing_append_closes_the_segment_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: str
) -> None:
    tier = Tier(tmp_path, GIB)
    log = tier.open_log("b")
    kept = store(log, "kept", b"kept")
    reservation = log.reserve(5, block_name("lost", 5))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", _fail(code))
        with pytest.raises(Unavailable) as caught:
            reservation.writer.write(reservation, 0, b"12345")
        assert caught.value.kind == kind
        reservation.writer.abandon(reservation)
        with pytest.raises(Unavailable):
            log.reserve(5, block_name("later", 5))
    assert tier.failures == 1
    later = store(log, "later", b"later")
    assert later.location.segment_id != kept.location.segment_id
    tier.maintain(idle_seconds=0)
    assert [entry.name.key for key in tier.segment_ids() for entry in tier.entries(key)] == ["kept", "later"]
    assert tier.close()


def test_a_failing_commit_spends_the_reservation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = Tier(tmp_path, GIB)
    reservation = tier.open_log("b").reserve(5, block_name("k", 5))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", _fail(errno.EIO))
        with pytest.raises(Unavailable):
            reservation.writer.commit(reservation, checksums_of(b"12345"))
    with pytest.raises(Bug, match="twice"):
        reservation.writer.abandon(reservation)
    assert tier.close()
    assert Tier(tmp_path, GIB).segment_ids() == []


def test_a_segment_that_cannot_be_sealed_stays_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = Tier(tmp_path, GIB)
    entry = store(tier.open_log("b"), "k", b"bytes")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _fail(errno.EIO))
        with pytest.raises(Unavailable):
            tier.maintain(idle_seconds=0)
    assert tier.entries(entry.location.segment_id) == [entry]
    assert tier.failures == 1
    tier.close()
    assert not has_footer(tier.path_of(entry.location.segment_id))


def test_an_open_segment_is_neither_sealed_nor_unlinked(tmp_path: Path) -> None:
    tier = Tier(tmp_path, GIB)
    reservation = tier.open_log("b").reserve(5, block_name("k", 5))
    assert tier.maintain(idle_seconds=0) == []
    assert not reservation.writer.seal()
    assert not has_footer(tier.path_of(reservation.segment_id))
    with pytest.raises(Busy):
        tier.unlink(reservation.segment_id)
    reservation.writer.write(reservation, 0, b"12345")
    reservation.writer.commit(reservation, checksums_of(b"12345"))
    assert tier.maintain() == [reservation.segment_id]
    tier.close()


def test_misuse_is_told(tmp_path: Path) -> None:
    tier = Tier(tmp_path, GIB)
    log = tier.open_log("b")
    with pytest.raises(Invalid):
        log.reserve(BLOCK_BYTES + 1, block_name("k", 1))
    with pytest.raises(Bug, match="binding"):
        log.reserve(1, block_name("k", 1)._replace(binding="other"))
    reservation = log.reserve(5, block_name("k", 5))
    with pytest.raises(Bug, match="overrun"):
        reservation.writer.write(reservation, 3, b"123")
    reservation.writer.abandon(reservation)
    tier.close()


def test_a_tier_on_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        Tier(tmp_path / "file", GIB)


def test_foreign_files_and_a_foreign_state_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / "notes.seg").write_text("hello")
    (tmp_path / "tier.json").write_text(json.dumps([1, 2]))
    tier = Tier(tmp_path, GIB)
    store(tier.open_log("b"), "k", b"x")
    assert len(tier.segment_ids()) == 1
    tier.close()
    assert (tmp_path / "segments" / "notes.seg").read_text() == "hello"


def _fail(code: int):
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    return fail
