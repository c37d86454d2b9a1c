"""The two forms of time that S3 speaks, cached to the second."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import parsedate
from functools import lru_cache

Moment = float | datetime
"""Seconds since 1970-01-01 UTC, or an aware datetime."""


def seconds_of(moment: Moment) -> float:
    """Seconds since 1970-01-01 UTC."""
    return moment.timestamp() if isinstance(moment, datetime) else moment


@lru_cache(maxsize=4096)
def http_date(seconds: int) -> str:
    """`Wed, 12 Oct 2009 17:50:00 GMT`, for headers."""
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(seconds)
    return f"{days[weekday]}, {day:02d} {months[month - 1]} {year:04d} {hour:02d}:{minute:02d}:{second:02d} GMT"


@lru_cache(maxsize=4096)
def iso_date(seconds: int) -> str:
    """`2009-10-12T17:50:00.000Z`, for documents; S3 shows whole seconds."""
    year, month, day, hour, minute, second, _, _, _ = time.gmtime(seconds)
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}.000Z"


def parse_time(text: str) -> float | None:
    """Seconds since 1970-01-01 UTC of an HTTP date, an ISO 8601 time or a plain number; None when it's none."""
    if not text or len(text) > 64 or not text.isascii():
        return None
    try:
        if text[0].isdigit() and "-" in text:
            moment = datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        if text[0].isdigit() and ":" not in text:
            seconds = float(text)
            return seconds if seconds < 1e11 else None
        fields = parsedate(text)
        return None if fields is None else datetime(*fields[:6], tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None
