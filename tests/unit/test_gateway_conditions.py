"""Conditional headers: parsing, precedence on reads, copies and writes."""

import pytest

from headrace.base.errors import Conflict
from headrace.gateway.conditions import (
    Verdict,
    judge_read,
    parse_date,
    parse_etags,
    request_conditions,
    require_source,
    source_conditions,
    write_conditions,
)
from headrace.gateway.messages import Request
from headrace.model.objects import Conditions, ObjectInfo, Version

MODIFIED = 1_700_000_000
INFO = ObjectInfo(key="k", version=Version("abc", MODIFIED * 1000 + 400, 3))
PROCEED, NOT_MODIFIED, FAILED = Verdict.PROCEED, Verdict.NOT_MODIFIED, None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, ()),
        ("  ", ()),
        ("*", ("*",)),
        ('"abc"', ("abc",)),
        ("abc", ("abc",)),
        ('""', ("",)),
        ('W/"abc"', ("W/abc",)),
        ('"a", "b" ,W/"c", d', ("a", "b", "W/c", "d")),
        ('"a,b","c"', ("a,b", "c")),
        ('"unended', ('"unended',)),
    ],
)
def test_parse_etags(header: str | None, expected: tuple[str, ...]) -> None:
    assert parse_etags(header) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("Sat, 29 Oct 1994 19:43:31 GMT", 783459811),
        ("1994-10-29T19:43:31Z", 783459811),
        ("not a date", None),
        ("9" * 500, None),
    ],
)
def test_parse_date(header: str | None, expected: int | None) -> None:
    assert parse_date(header) == expected


@pytest.mark.parametrize(
    ("conditions", "verdict"),
    [
        (Conditions(), PROCEED),
        (Conditions(if_match=("abc",)), PROCEED),
        (Conditions(if_match=("x", "abc")), PROCEED),
        (Conditions(if_match=("*",)), PROCEED),
        (Conditions(if_match=("x",)), FAILED),
        (Conditions(if_match=("",)), FAILED),
        (Conditions(if_none_match=("abc",)), NOT_MODIFIED),
        (Conditions(if_none_match=("W/abc",)), NOT_MODIFIED),
        (Conditions(if_none_match=("*",)), NOT_MODIFIED),
        (Conditions(if_none_match=("x",)), PROCEED),
        (Conditions(if_modified_since=MODIFIED), NOT_MODIFIED),
        (Conditions(if_modified_since=MODIFIED - 1), PROCEED),
        (Conditions(if_unmodified_since=MODIFIED), PROCEED),
        (Conditions(if_unmodified_since=MODIFIED - 1), FAILED),
        # If-Match holds: If-Unmodified-Since is not looked at.
        (Conditions(if_match=("abc",), if_unmodified_since=MODIFIED - 1), PROCEED),
        # If-None-Match decides: If-Modified-Since is not looked at, whatever it says.
        (Conditions(if_none_match=("x",), if_modified_since=MODIFIED), PROCEED),
        (Conditions(if_none_match=("abc",), if_modified_since=MODIFIED - 1), NOT_MODIFIED),
        (Conditions(if_match=("x",), if_none_match=("abc",)), FAILED),
    ],
)
def test_reads_follow_the_precedence_of_http(conditions: Conditions, verdict: Verdict | None) -> None:
    if verdict is not None:
        assert judge_read(conditions, INFO) is verdict
        return
    with pytest.raises(Conflict) as caught:
        judge_read(conditions, INFO)
    assert caught.value.kind == "PreconditionFailed"


@pytest.mark.parametrize(
    ("conditions", "name"),
    [
        (Conditions(if_match=("x",)), "x-amz-copy-source-If-Match"),
        (Conditions(if_unmodified_since=1), "x-amz-copy-source-If-Unmodified-Since"),
        (Conditions(if_none_match=("abc",)), "x-amz-copy-source-If-None-Match"),
        (Conditions(if_modified_since=MODIFIED), "x-amz-copy-source-If-Modified-Since"),
    ],
)
def test_a_copy_answers_412_and_names_the_condition(conditions: Conditions, name: str) -> None:
    with pytest.raises(Conflict) as caught:
        require_source(conditions, INFO)
    assert caught.value.kind == "PreconditionFailed"
    assert caught.value.details["Condition"] == name


def test_a_copy_proceeds() -> None:
    require_source(Conditions(if_match=("abc",), if_none_match=("x",)), INFO)


def test_headers_become_conditions() -> None:
    request = Request(
        method="PUT",
        path=b"/b/k",
        query=b"",
        headers=[
            (b"if-match", b'"a"'),
            (b"if-match", b'"b"'),
            (b"if-modified-since", b"Sat, 29 Oct 1994 19:43:31 GMT"),
            (b"x-amz-copy-source-if-none-match", b"*"),
        ],
    )
    assert request_conditions(request) == Conditions(if_match=("a", "b"), if_modified_since=783459811)
    assert write_conditions(request) == Conditions(if_match=("a", "b"))
    assert source_conditions(request) == Conditions(if_none_match=("*",))
