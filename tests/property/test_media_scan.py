"""Segments under damage: whatever is cut, flipped or planted, no wrong block ever comes out.

Method: write segments of random blocks, sealed or as a killed writer leaves them, damage the file,
read its table, then read every block it names as a worker does at first (name and checksums) and
compare with what was stored. Controls show that the same reading accepts a forged frame which is
made with the segment's own key, so a reader that checks nothing would fail here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.base.errors import Damaged
from headrace.base.limits import KIB, MIB
from headrace.base.rng import seeded
from headrace.media.frames import BlockName, checksums_of, encode_header, encode_name
from headrace.media.residency import warm
from headrace.media.scan import SegmentTable, has_footer, read_table, seal_scanned
from headrace.media.segments import SegmentWriter, new_header, read_frame_header
from headrace.model.objects import Version

lengths = st.one_of(st.integers(0, 3000), st.integers(3000, 70_000), st.sampled_from([0, 1, 32 * KIB, 64 * KIB, MIB]))
shapes = st.lists(st.tuples(lengths, st.sampled_from(["commit", "commit", "commit", "torn", "abandon"])), max_size=8)


@contextmanager
def written(
    shape: list[tuple[int, str]], sealed: bool, seed: int
) -> Iterator[tuple[Path, dict[BlockName, bytes], int]]:
    """A segment file, its committed blocks by name, and the end of its last frame."""
    chance = seeded(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.seg"
        writer = SegmentWriter(path, new_header(7, "b", 1, "main", "boot"), 64 * MIB)
        blocks: dict[BlockName, bytes] = {}
        end = 4096
        for number, (length, fate) in enumerate(shape):
            name = BlockName("b", f"key-{number}", Version("etag", 5, length), number)
            data = chance.randbytes(length)
            reservation = writer.reserve(length, name)
            assert reservation is not None
            if fate != "commit":
                writer.write(reservation, 0, data[: length // 2])
                writer.abandon(reservation)
                continue
            writer.write(reservation, 0, data)
            writer.commit(reservation, checksums_of(data))
            blocks[name] = data
            end = max(end, reservation.data_offset + length)
        if sealed:
            writer.seal()
        else:
            os.close(writer.descriptor)
        yield path, blocks, end


def readable(path: Path, table: SegmentTable) -> dict[BlockName, bytes]:
    """Every block of the table that passes a worker's first read; the rest raise Damaged."""
    found = {}
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for entry in table.entries:
            location = entry.location
            try:
                header = read_frame_header(descriptor, location.frame_offset)
                if header.name != entry.name or header.data_offset != location.data_offset:
                    continue
                warm(descriptor, location.data_offset, location.length, header.checksums)
            except Damaged:
                continue
            found[entry.name] = os.pread(descriptor, location.length, location.data_offset)
    finally:
        os.close(descriptor)
    return found


def table_or_none(path: Path) -> SegmentTable | None:
    try:
        return read_table(path)
    except Damaged:
        return None


@given(shapes, st.booleans(), st.integers(0, 2**32))
def test_all_committed_blocks_are_found_sealed_or_not(shape: list[tuple[int, str]], sealed: bool, seed: int) -> None:
    with written(shape, sealed, seed) as (path, blocks, _):
        table = read_table(path)
        assert table.sealed is sealed is has_footer(path)
        assert readable(path, table) == blocks


@given(shapes, st.integers(0, 2**32))
def test_a_scanned_segment_can_be_sealed_afterwards(shape: list[tuple[int, str]], seed: int) -> None:
    with written(shape, False, seed) as (path, blocks, _):
        before = read_table(path)
        seal_scanned(path, before)
        after = read_table(path)
        assert after.sealed
        assert after.entries == before.entries
        assert readable(path, after) == blocks


@given(shapes, st.booleans(), st.integers(0, 2**32), st.floats(0, 1))
def test_a_cut_anywhere_never_yields_a_wrong_block(
    shape: list[tuple[int, str]], sealed: bool, seed: int, where: float
) -> None:
    with written(shape, sealed, seed) as (path, blocks, _):
        whole = read_table(path)
        cut = int(where * path.stat().st_size)
        os.truncate(path, cut)
        table = table_or_none(path)
        if table is None:
            assert cut < 4096
            return
        found = readable(path, table)
        assert found.items() <= blocks.items()
        intact = [e.name for e in whole.entries if e.location.data_offset + e.location.length <= cut]
        assert set(intact) <= set(found)


@given(
    shapes, st.booleans(), st.integers(0, 2**32), st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1)
)
def test_flipped_bytes_are_noticed(
    shape: list[tuple[int, str]], sealed: bool, seed: int, flips: list[tuple[float, int]]
) -> None:
    with written(shape, sealed, seed) as (path, blocks, _):
        size = path.stat().st_size
        with path.open("r+b") as file:
            for where, mask in flips:
                position = min(int(where * size), size - 1)
                file.seek(position)
                byte = file.read(1)[0]
                file.seek(position)
                file.write(bytes([byte ^ mask]))
        table = table_or_none(path)
        if table is not None:
            assert readable(path, table).items() <= blocks.items()


@given(shapes, st.booleans(), st.integers(0, 2**32), st.data())
@settings(max_examples=60)
def test_planted_pieces_of_the_file_itself_are_never_adopted(
    shape: list[tuple[int, str]], sealed: bool, seed: int, data: st.DataObject
) -> None:
    """Fuzz: copy pages and headers of the segment over other places of it, cut and append noise."""
    with written(shape, sealed, seed) as (path, blocks, _):
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            grain = data.draw(st.sampled_from([512, 4096, 64]))
            source = data.draw(st.integers(0, len(content) // grain)) * grain
            target = data.draw(st.integers(8, len(content) // grain + 8)) * grain
            piece = content[source : source + data.draw(st.sampled_from([64, 512, 4096, 100_000]))]
            content[target : target + len(piece)] = piece
        content += data.draw(st.binary(max_size=600))
        path.write_bytes(content)
        table = table_or_none(path)
        if table is not None:
            assert readable(path, table).items() <= blocks.items()


@pytest.mark.parametrize("forger", ["stranger", "copy", "insider"])
def test_a_body_that_imitates_a_frame_is_not_adopted(tmp_path: Path, forger: str) -> None:
    """`insider` is the control: with the key and the true offset the forged frame *is* taken."""
    header = new_header(9, "b", 1, "main", "boot")
    writer = SegmentWriter(tmp_path / "s.seg", header, 64 * MIB)
    key = header.key if forger == "insider" else new_header(9, "b", 1, "main", "boot").key
    name = BlockName("b", "victim", Version("etag", 1, 512), 0)
    payload = b"!" * 512
    honest = writer.reserve(512, BlockName("b", "honest", Version("etag", 1, 512), 0))
    assert honest is not None
    writer.write(honest, 0, payload)
    writer.commit(honest, checksums_of(payload))
    body = writer.reserve(100 * KIB, BlockName("b", "attacker", Version("etag", 1, 100 * KIB), 0))
    assert body is not None
    for offset in range(0, 96 * KIB, 4096):
        frame = body.data_offset + offset
        if forger == "copy":
            forged = os.pread(writer.descriptor, 512, honest.frame_offset)
        else:
            forged = encode_header(key, encode_name(name), frame, frame + 512, 512, checksums_of(payload))
        writer.write(body, offset, forged.ljust(512, b"\0") + payload)
    os.close(writer.descriptor)
    adopted = {entry.name.key for entry in read_table(tmp_path / "s.seg").entries}
    assert adopted == ({"honest", "victim"} if forger == "insider" else {"honest"})


def test_a_committed_body_that_imitates_a_footer_is_not_taken_for_one(tmp_path: Path) -> None:
    donor = SegmentWriter(tmp_path / "donor.seg", new_header(9, "b", 1, "main", "boot"), 64 * MIB)
    donor.seal()
    footer = (tmp_path / "donor.seg").read_bytes()[4096:]
    writer = SegmentWriter(tmp_path / "s.seg", new_header(9, "b", 1, "main", "boot"), 64 * MIB)
    name = BlockName("b", "k", Version("etag", 1, len(footer)), 0)
    reservation = writer.reserve(len(footer), name)
    assert reservation is not None
    writer.write(reservation, 0, footer)
    writer.commit(reservation, checksums_of(footer))
    os.close(writer.descriptor)
    table = read_table(tmp_path / "s.seg")
    assert not table.sealed
    assert [entry.name for entry in table.entries] == [name]


def test_a_footer_with_any_wrong_byte_is_not_believed(tmp_path: Path) -> None:
    """The segment is then scanned, and everything in it is found all the same."""
    with written([(300, "commit"), (5000, "torn"), (40_000, "commit")], True, 1) as (path, blocks, end):
        whole = path.read_bytes()
        start = -(-end // 4096) * 4096
        assert start < len(whole) < start + 400
        for position in range(start, len(whole)):
            damaged = bytearray(whole)
            damaged[position] ^= 1
            path.write_bytes(damaged)
            table = read_table(path)
            assert not table.sealed, position
            assert {entry.name for entry in table.entries} == set(blocks)


def test_bytes_lost_under_a_header_make_a_torn_frame(tmp_path: Path) -> None:
    """Power loss can keep a header and lose its bytes: the frame is dropped, the next is found."""
    writer = SegmentWriter(tmp_path / "s.seg", new_header(9, "b", 1, "main", "boot"), 64 * MIB)
    for key in ("lost", "kept"):
        data = key.encode() * 20_000
        reservation = writer.reserve(len(data), BlockName("b", key, Version("etag", 1, len(data)), 0))
        assert reservation is not None
        if key == "kept":
            writer.write(reservation, 0, data)
        writer.commit(reservation, checksums_of(data))
    os.close(writer.descriptor)
    table = read_table(tmp_path / "s.seg")
    assert table.torn == 1
    assert [entry.name.key for entry in table.entries] == ["kept"]
