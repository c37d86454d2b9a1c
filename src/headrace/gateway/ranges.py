"""Byte ranges of reads and of part copies, as RFC 9110 section 14 and S3 understand them.

Pure: text in, numbers out. A read's header that is malformed, of another unit, or that names several
ranges is ignored (the whole object is sent), which is what S3 does; a part copy's range must be exact.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from headrace.base.errors import Invalid

_ONE_RANGE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.ASCII | re.IGNORECASE)
_COPY_RANGE = re.compile(r"bytes=(\d+)-(\d+)", re.ASCII)
_DIGITS_MAX = 19
"""No object has a size of more digits; longer numbers are not worth converting."""


class ByteRange(NamedTuple):
    """One range as asked for, before the size is known.

    `first` None means the last `last` bytes; `last` None means to the end; `last` is inclusive.
    """

    first: int | None
    last: int | None

    def start_stop(self) -> tuple[int, int | None]:
        """The range in the terms of Origin.open: (start, stop), a negative start for a suffix."""
        if self.first is None:
            return -(self.last or 0), None
        return self.first, None if self.last is None else self.last + 1


class Span(NamedTuple):
    """`length` bytes from `start` of an object."""

    start: int
    length: int


def parse_range(header: str | None) -> ByteRange | None:
    """The single range of a Range header, or None when the header is absent or must be ignored."""
    if header is None:
        return None
    found = _ONE_RANGE.fullmatch(header)
    if found is None:
        return None
    first_text, last_text = found.groups()
    first, last = _number(first_text), _number(last_text)
    if first is None and last is None:
        return None
    if first is not None and last is not None and last < first:
        return None
    return ByteRange(first, last)


def _number(text: str) -> int | None:
    """A position; numbers beyond any object's size all mean the same."""
    if not text:
        return None
    digits = text.lstrip("0") or "0"
    return int(digits) if len(digits) <= _DIGITS_MAX else 10**_DIGITS_MAX


def resolve_range(wanted: ByteRange, size: int) -> Span:
    """What `wanted` covers of an object of `size` bytes. Raises Invalid (InvalidRange) when nothing."""
    if wanted.first is None:
        length = min(wanted.last or 0, size)
        start = size - length
    else:
        start = wanted.first
        stop = size if wanted.last is None else min(wanted.last + 1, size)
        length = stop - start
    if length <= 0:
        raise unsatisfiable(size, wanted)
    return Span(start, length)


def unsatisfiable(size: int, wanted: ByteRange | None = None) -> Invalid:
    """The error of a range that covers nothing; its details feed the document and Content-Range."""
    details = {"ActualObjectSize": str(size)}
    if wanted is not None:
        first = "" if wanted.first is None else wanted.first
        details["RangeRequested"] = f"bytes={first}-{'' if wanted.last is None else wanted.last}"
    return Invalid("The requested range is not satisfiable", kind="InvalidRange", details=details)


def content_range(span: Span, size: int) -> str:
    """Value of Content-Range for a 206 answer."""
    return f"bytes {span.start}-{span.start + span.length - 1}/{size}"


def parse_copy_range(header: str | None) -> ByteRange | None:
    """The range of x-amz-copy-source-range, None when absent.

    Only `bytes=N-M` is allowed. Raises Invalid (InvalidArgument) for any other form.
    """
    if header is None:
        return None
    found = _COPY_RANGE.fullmatch(header.strip())
    if found is not None:
        first, last = (_number(text) for text in found.groups())
        if first is not None and last is not None and first <= last:
            return ByteRange(first, last)
    raise Invalid(
        "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the "
        "zero-based offsets of the first and last bytes to copy",
        kind="InvalidArgument",
        details={"ArgumentName": "x-amz-copy-source-range", "ArgumentValue": header},
    )


def resolve_copy_range(wanted: ByteRange | None, size: int) -> Span:
    """What a part copy reads of a source of `size` bytes. Raises Invalid (InvalidRange) past its end."""
    if wanted is None:
        return Span(0, size)
    first, last = wanted.first or 0, wanted.last or 0
    if last >= size:
        raise Invalid(
            f"Range specified is not valid for source object of size: {size}",
            kind="InvalidRange",
            details={"ArgumentName": "x-amz-copy-source-range", "ArgumentValue": f"bytes={first}-{last}"},
        )
    return Span(first, last - first + 1)
