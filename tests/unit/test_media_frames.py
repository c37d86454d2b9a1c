"""Frame headers and names: what is encoded is decoded, what was touched is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.base.errors import Damaged, Invalid
from headrace.base.limits import BLOCK_BYTES, FRAME_HEADER_BYTES_MAX, KIB, MIB
from headrace.media.frames import (
    BlockName,
    Checksummer,
    SegmentKey,
    block_digest,
    checksums_of,
    decode_header,
    decode_name,
    encode_header,
    encode_name,
    header_length,
    object_digest,
    place,
    unit_count,
)
from headrace.model.objects import Version

KEY = SegmentKey(b"k" * 16)
NAME = BlockName("binding", "a/key", Version("etag", 1_700_000_000_000, 10 * MIB, "version"), 2)

versions = st.builds(
    Version, st.text(max_size=60), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1), st.text(max_size=200)
)
names = st.builds(BlockName, st.text(max_size=40), st.text(max_size=300), versions, st.integers(0, 2**32 - 1))


def encoded(data_length: int = 200 * KIB, offset: int = 4096) -> bytes:
    checksums = list(range(unit_count(data_length)))
    frame, data = place(offset, header_length(encode_name(NAME), data_length), data_length)
    return encode_header(KEY, encode_name(NAME), frame, data, data_length, checksums)


@given(names)
def test_any_name_returns_as_it_was(name: BlockName) -> None:
    packed = encode_name(name)
    assert decode_name(b"xx" + packed + b"yy", 2) == (name, 2 + len(packed))


@given(names, st.integers(0, BLOCK_BYTES), st.integers(0, 2**40))
def test_any_header_returns_as_it_was_and_stands_before_its_data(name: BlockName, length: int, cursor: int) -> None:
    checksums = tuple(range(unit_count(length)))
    packed = encode_name(name)
    frame, data = place(cursor, header_length(packed, length), length)
    header = encode_header(KEY, packed, frame, data, length, checksums)
    assert len(header) == header_length(packed, length) <= FRAME_HEADER_BYTES_MAX
    assert cursor <= frame
    assert frame + len(header) <= data
    assert frame % 512 == 0
    if length >= MIB:
        assert data % (2 * MIB) == 0
    decoded = decode_header(KEY, header.ljust(FRAME_HEADER_BYTES_MAX, b"\xee"), frame)
    assert decoded[:5] == (name, frame, data, length, checksums)


def test_a_key_of_1024_bytes_and_a_long_version_id_fit() -> None:
    name = BlockName("b" * 36, "\N{GRINNING FACE}" * 256, Version("e" * 64, 0, 0, "t" * 1024), 0)
    assert decode_name(encode_name(name))[0] == name


@pytest.mark.parametrize(
    "name",
    [
        NAME._replace(key="k" * 4096),
        NAME._replace(key="k" * 70_000),
        NAME._replace(number=-1),
        NAME._replace(version=NAME.version._replace(size=2**64)),
    ],
)
def test_a_name_that_cannot_stand_in_a_header_is_invalid(name: BlockName) -> None:
    with pytest.raises(Invalid):
        encode_name(name)


def test_every_flipped_byte_of_a_header_is_noticed() -> None:
    header = encoded()
    frame = decode_header(KEY, header, _frame_offset(header)).frame_offset
    for position in range(len(header)):
        damaged = bytearray(header)
        damaged[position] ^= 0x40
        with pytest.raises(Damaged):
            decode_header(KEY, bytes(damaged), frame)


def test_every_cut_of_a_header_is_noticed() -> None:
    header = encoded()
    for length in range(len(header)):
        with pytest.raises(Damaged):
            decode_header(KEY, header[:length], _frame_offset(header))


def test_a_header_is_refused_elsewhere_and_under_another_key() -> None:
    header = encoded()
    assert decode_header(KEY, header, _frame_offset(header)).name == NAME
    for shift in (-512, 512):
        with pytest.raises(Damaged, match="place"):
            decode_header(KEY, header, _frame_offset(header) + shift)
    with pytest.raises(Damaged, match="no frame"):
        decode_header(SegmentKey(b"K" * 16), header, _frame_offset(header))


@pytest.mark.parametrize("count", [0, 3, 5])
def test_checksums_must_match_the_length(count: int) -> None:
    with pytest.raises(Invalid, match="checksums"):
        encode_header(KEY, encode_name(NAME), 4096, 8192, 200 * KIB, [0] * count)


@given(st.binary(max_size=3000), st.lists(st.integers(1, 70_000), min_size=1, max_size=8), st.integers(0, 80))
def test_pieces_of_any_size_give_the_same_checksums(seed: bytes, cuts: list[int], repeat: int) -> None:
    data = seed * repeat
    checksummer = Checksummer()
    position = index = 0
    while position < len(data):
        step = cuts[index % len(cuts)]
        checksummer.update(data[position : position + step])
        position += step
        index += 1
    assert checksummer.finish() == checksums_of(data)
    assert len(checksums_of(data)) == unit_count(len(data))


def test_digests_tell_near_names_apart() -> None:
    version = Version("e", 1, 2, "t")
    digests = {
        block_digest("b", "k", version, 0),
        block_digest("b", "k", version, 1),
        block_digest("bk", "", version, 0),
        block_digest("", "bk", version, 0),
        block_digest("b", "ke", version._replace(etag=""), 0),
        block_digest("b", "k", version._replace(etag="et", token=""), 0),
        block_digest("b", "k", version._replace(modified_ms=12, size=0), 0),
        block_digest("b", "k", version._replace(modified_ms=1, size=20), 0),
    }
    assert len(digests) == 8
    assert object_digest("a", "bc") != object_digest("ab", "c")


def _frame_offset(header: bytes) -> int:
    return int.from_bytes(header[32:40], "little")
