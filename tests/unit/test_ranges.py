"""Range headers: which are understood, which are ignored, and what they cover."""

import pytest

from headrace.base.errors import Invalid
from headrace.gateway.ranges import (
    ByteRange,
    Span,
    content_range,
    parse_copy_range,
    parse_range,
    resolve_copy_range,
    resolve_range,
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("bytes=0-0", ByteRange(0, 0)),
        ("bytes=5-", ByteRange(5, None)),
        ("bytes=-7", ByteRange(None, 7)),
        ("BYTES = 1 - 2 ", ByteRange(1, 2)),
        ("bytes=000-0009", ByteRange(0, 9)),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("bytes=a-b", None),
        ("items=0-1", None),
        ("bytes=--5", None),
        ("bytes=+1-2", None),
        ("bytes=\u0661-2", None),
        ("bytes=0-" + "9" * 5000, ByteRange(0, 10**19)),
        ("bytes=-" + "9" * 5000, ByteRange(None, 10**19)),
    ],
)
def test_parse_range(header: str | None, expected: ByteRange | None) -> None:
    assert parse_range(header) == expected


@pytest.mark.parametrize(
    ("wanted", "size", "expected"),
    [
        (ByteRange(0, 0), 1, Span(0, 1)),
        (ByteRange(4, 7), 11, Span(4, 4)),
        (ByteRange(4, None), 11, Span(4, 7)),
        (ByteRange(None, 7), 11, Span(4, 7)),
        (ByteRange(None, 70), 11, Span(0, 11)),
        (ByteRange(0, 10**19), 11, Span(0, 11)),
    ],
)
def test_resolve_range(wanted: ByteRange, size: int, expected: Span) -> None:
    assert resolve_range(wanted, size) == expected


@pytest.mark.parametrize(
    ("wanted", "size"),
    [
        (ByteRange(11, 12), 11),
        (ByteRange(0, 0), 0),
        (ByteRange(None, 0), 11),
        (ByteRange(None, 3), 0),
        (ByteRange(5, None), 5),
    ],
)
def test_range_of_nothing_is_refused(wanted: ByteRange, size: int) -> None:
    with pytest.raises(Invalid) as caught:
        resolve_range(wanted, size)
    assert caught.value.kind == "InvalidRange"
    assert caught.value.details["ActualObjectSize"] == str(size)


def test_content_range() -> None:
    assert content_range(Span(4, 4), 11) == "bytes 4-7/11"


@pytest.mark.parametrize(
    "header",
    [
        "0-2",
        "bytes=0",
        "bytes=hello-world",
        "bytes=0-bar",
        "bytes=hello-",
        "bytes=0-2,3-5",
        "bytes=3-2",
        "bytes=-2",
        "",
    ],
)
def test_copy_range_must_be_exact(header: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_copy_range(header)
    assert caught.value.kind == "InvalidArgument"


def test_copy_range_covers() -> None:
    assert parse_copy_range(None) is None
    assert resolve_copy_range(None, 10) == Span(0, 10)
    assert resolve_copy_range(parse_copy_range("bytes=2-4"), 5) == Span(2, 3)
    with pytest.raises(Invalid) as caught:
        resolve_copy_range(ByteRange(0, 21), 5)
    assert caught.value.kind == "InvalidRange"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (ByteRange(3, 5), (3, 6)),
        (ByteRange(3, None), (3, None)),
        (ByteRange(None, 4), (-4, None)),
    ],
)
def test_ranges_in_the_terms_of_an_origin(wanted: ByteRange, expected: tuple[int, int | None]) -> None:
    assert wanted.start_stop() == expected
