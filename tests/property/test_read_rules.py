"""Ranges, extents and ETag lists against models that are simple enough to be right."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.base.errors import Invalid
from headrace.gateway.conditions import parse_etags
from headrace.gateway.copy_source import parse_copy_source
from headrace.gateway.ranges import parse_range, resolve_range


@given(st.integers(0, 40), st.one_of(st.none(), st.integers(0, 50)), st.one_of(st.none(), st.integers(0, 50)))
def test_a_range_is_a_slice(size: int, first: int | None, last: int | None) -> None:
    body = bytes(range(size))
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    wanted = parse_range(header)
    if (first is None and last is None) or (first is not None and last is not None and last < first):
        assert wanted is None
        return
    assert wanted is not None
    if first is None:
        assert last is not None
        expected = body[-last:] if last else b""
    else:
        expected = body[first : None if last is None else last + 1]
    try:
        span = resolve_range(wanted, size)
    except Invalid:
        assert expected == b""
        return
    assert body[span.start : span.start + span.length] == expected
    assert expected


@given(st.text(max_size=60))
def test_any_range_header_is_judged(header: str) -> None:
    wanted = parse_range(header)
    if wanted is not None:
        assert wanted.first is not None or wanted.last is not None


_ETAG = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='",*'), max_size=8)


@given(st.lists(st.tuples(_ETAG, st.booleans()), min_size=1, max_size=5))
def test_etag_lists_are_read_back(etags: list[tuple[str, bool]]) -> None:
    header = " , ".join(f'{"W/" if weak else ""}"{etag}"' for etag, weak in etags)
    assert parse_etags(header) == tuple(f"W/{etag}" if weak else etag for etag, weak in etags)


@given(st.text(max_size=60))
def test_any_etag_list_ends(header: str) -> None:
    assert len(parse_etags(header)) <= len(header)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30))
def test_copy_source_is_decoded_once(key: str) -> None:
    from urllib.parse import quote

    assert parse_copy_source(f"bucket/{quote(key, safe='')}").key == key
