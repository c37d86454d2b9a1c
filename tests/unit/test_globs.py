"""Patterns of `*` and `?`: what they match, and that no pattern makes matching slow."""

from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.base.errors import Invalid
from headrace.base.limits import GLOB_CHARS_MAX, GLOB_WILDCARDS_MAX, HEAD_BYTES_MAX
from headrace.gateway.globs import check_glob, glob
from headrace.gateway.keyring import parse_rule
from headrace.gateway.policy import compile_policy
from headrace.gateway.policy_conditions import compile_conditions


@given(st.text("ab*?", max_size=10), st.text("ab\n", max_size=12))
def test_it_matches_what_shells_match(pattern: str, text: str) -> None:
    assert glob([pattern])(text) == fnmatch.fnmatchcase(text, pattern)


def test_brackets_and_new_lines_are_letters_and_one_of_many_is_enough() -> None:
    assert glob(["x", "[a]*\n?"])("[a]bc\nd")
    assert not glob(["[a]"])("a")
    assert not glob([])("")
    assert not glob(["a*a"])("a")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("*a" * 32 + "b", "a" * HEAD_BYTES_MAX),
        ("*a?" * 20 + "b", "a" * HEAD_BYTES_MAX),
        ("*?" + "a" * 1000 + "b*", "a" * HEAD_BYTES_MAX),
        ("*" + "a" * 500 + "?" + "a" * 500 + "b*", "a" * HEAD_BYTES_MAX),
        ("*" * 5000 + "b", "a" * HEAD_BYTES_MAX),
    ],
)
def test_no_pattern_is_slow(pattern: str, text: str) -> None:
    match = glob([pattern])
    began = time.process_time()
    assert not match(text)
    assert time.process_time() - began < 2.0  # a chain of `.*` takes years


def test_patterns_in_rules_policies_and_conditions_are_linear_and_bounded() -> None:
    deny = '{"Statement": {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::%s"}}'
    policy = compile_policy(deny % ("*a" * 30 + "b"))
    assert policy.verdict((), "s3:GetObject", "b/" + "a" * 400, lambda _: None) is None
    (condition,) = compile_conditions({"StringLike": {"aws:Referer": "*a" * 30 + "b"}})
    assert not condition(lambda _: ("a" * 400,))
    for pattern in ("*a" * (GLOB_WILDCARDS_MAX + 1), "a" * (GLOB_CHARS_MAX + 1)):
        with pytest.raises(Invalid):
            check_glob(pattern)
        with pytest.raises(Invalid):
            parse_rule(f"{pattern}:read")
        with pytest.raises(Invalid, match="malformed"):
            compile_policy(deny % pattern)
        with pytest.raises(Invalid, match="malformed"):
            compile_conditions({"StringLike": {"aws:Referer": pattern}})
    check_glob("*" * 500)
