"""Conditional requests: parsing the headers and judging them against an object's state.

The order is RFC 9110 section 13.2.2, which S3 keeps: If-Match before If-Unmodified-Since, which only
counts without it; then If-None-Match before If-Modified-Since, likewise. Pure functions.
"""

from __future__ import annotations

import re
from enum import Enum

from headrace.base.errors import Conflict
from headrace.gateway.messages import Request
from headrace.gateway.times import parse_time
from headrace.model.objects import Conditions, ObjectInfo
from headrace.origin.conditions import check_read

_ETAG = re.compile(r'\s*((?:W/)?"[^"]*"|[^,\s]+)\s*(?:,|$)')


class Verdict(Enum):
    """What conditions say about an answer, when they do not fail."""

    PROCEED = 200
    NOT_MODIFIED = 304


def parse_etags(header: str | None) -> tuple[str, ...]:
    """The alternatives of an If-Match or If-None-Match header: no quotes, `W/` kept, "*" for any.

    Unquoted values are taken as they are, since many clients send them. An empty pair of quotes is
    an ETag that no object has; an empty header is no condition.
    """
    if header is None or not header.strip():
        return ()
    alternatives = []
    position = 0
    while position < len(header):
        found = _ETAG.match(header, position)
        if found is None:
            position += 1
            continue
        position = found.end()
        text = found.group(1)
        weak = text.startswith("W/")
        bare = text[2:] if weak else text
        if len(bare) >= 2 and bare.startswith('"') and bare.endswith('"'):
            bare = bare[1:-1]
        alternatives.append(f"W/{bare}" if weak else bare)
    return tuple(alternatives)


def parse_date(header: str | None) -> int | None:
    """Whole seconds since 1970 of a date header; None when it is none, which is no condition."""
    seconds = parse_time(header.strip()) if header else None
    return None if seconds is None else int(seconds)


def request_conditions(request: Request) -> Conditions:
    """The conditions of a read or a write."""
    return _conditions(request, "")


def source_conditions(request: Request) -> Conditions:
    """The conditions a copy puts on its source."""
    return _conditions(request, "x-amz-copy-source-")


def _conditions(request: Request, prefix: str) -> Conditions:
    return Conditions(
        if_match=parse_etags(request.header(f"{prefix}if-match")),
        if_none_match=parse_etags(request.header(f"{prefix}if-none-match")),
        if_modified_since=parse_date(request.header(f"{prefix}if-modified-since")),
        if_unmodified_since=parse_date(request.header(f"{prefix}if-unmodified-since")),
    )


def write_conditions(request: Request) -> Conditions:
    """The conditions of a write: S3 knows only If-Match and If-None-Match there."""
    asked = request_conditions(request)
    return Conditions(if_match=asked.if_match, if_none_match=asked.if_none_match)


def judge_read(conditions: Conditions, info: ObjectInfo) -> Verdict:
    """What to answer to a read of `info`; times compare in whole seconds. Raises Conflict (PreconditionFailed)."""
    try:
        check_read(info, conditions)
    except Conflict as problem:
        if problem.kind != "NotModified":
            raise
        return Verdict.NOT_MODIFIED
    return Verdict.PROCEED


def require_source(conditions: Conditions, info: ObjectInfo) -> None:
    """Judge a copy's source: anything but a plain yes is 412. Raises Conflict (PreconditionFailed)."""
    try:
        check_read(info, conditions)
    except Conflict as problem:
        not_modified = problem.kind == "NotModified"
        by_etag = conditions.if_none_match if not_modified else conditions.if_match
        names = ("If-None-Match", "If-Modified-Since") if not_modified else ("If-Match", "If-Unmodified-Since")
        raise Conflict(
            "At least one of the pre-conditions you specified did not hold",
            kind="PreconditionFailed",
            details={"Condition": f"x-amz-copy-source-{names[0] if by_etag else names[1]}"},
        ) from problem
