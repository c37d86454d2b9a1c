"""Patterns of `*` (any characters) and `?` (one character), for key rules and bucket policies. Pure.

Anyone with a key may write patterns, so none may be slow: between two stars only the first place of a
literal counts, and nothing is tried again. The time is at most the product of both lengths, for
patterns without `?` their sum.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from headrace.base.errors import Invalid
from headrace.base.limits import GLOB_CHARS_MAX, GLOB_WILDCARDS_MAX

Matcher = Callable[[str], bool]

Find = Callable[[str, int, int], int]
"""(text, start, stop) -> the first place in text[start:stop] that a piece of a pattern fits, or -1."""

_STARS = re.compile(r"\*\*+")


def check_glob(pattern: str) -> None:
    """Raise Invalid (InvalidArgument) for a pattern that is too long or has too many wildcards."""
    shortened = _STARS.sub("*", pattern)
    if len(shortened) > GLOB_CHARS_MAX or shortened.count("*") + shortened.count("?") > GLOB_WILDCARDS_MAX:
        raise Invalid(
            f"a pattern has at most {GLOB_CHARS_MAX} characters and {GLOB_WILDCARDS_MAX} wildcards",
            kind="InvalidArgument",
        )


def glob(patterns: Sequence[str]) -> Matcher:
    """A matcher of whole texts that holds when any of the patterns fits; no other sign is special."""
    if "*" in patterns:
        return lambda _text: True
    exact = frozenset(pattern for pattern in patterns if "*" not in pattern and "?" not in pattern)
    others = tuple(_compile(pattern) for pattern in dict.fromkeys(patterns) if pattern not in exact)
    if not others:
        return exact.__contains__
    return lambda text: text in exact or any(match(text) for match in others)


def _compile(pattern: str) -> Matcher:
    """A matcher of one pattern: its head and tail are fixed, each piece between takes its first place."""
    pieces = _STARS.sub("*", pattern).split("*")
    head, *middle = [(len(piece), _finder(piece)) for piece in pieces]
    if not middle:
        return lambda text: len(text) == head[0] and head[1](text, 0, len(text)) == 0
    tail = middle.pop()
    inner = tuple(middle)

    def match(text: str) -> bool:
        start, stop = head[0], len(text) - tail[0]
        if start > stop or head[1](text, 0, start) != 0 or tail[1](text, stop, len(text)) != stop:
            return False
        for length, find in inner:
            found = find(text, start, stop)
            if found < 0:
                return False
            start = found + length
        return True

    return match


def _finder(piece: str) -> Find:
    if "?" not in piece:
        return lambda text, start, stop: text.find(piece, start, stop)
    expression = re.compile(re.escape(piece).replace(r"\?", "."), re.DOTALL)

    def find(text: str, start: int, stop: int) -> int:
        found = expression.search(text, start, stop)
        return -1 if found is None else found.start()

    return find
