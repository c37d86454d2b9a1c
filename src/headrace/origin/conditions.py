"""Conditional headers, key rules and ranges: what every origin judges alike (RFC 9110, section 13)."""

from __future__ import annotations

from email.utils import formatdate

from headrace.base.errors import Conflict, Invalid, NotFound
from headrace.base.limits import KEY_BYTES_MAX
from headrace.model.objects import Conditions, ObjectInfo


def key_bytes(key: str) -> bytes:
    """The key as UTF-8. Raises Invalid (KeyTooLongError, InvalidURI, InvalidArgument)."""
    try:
        encoded = key.encode()
    except UnicodeEncodeError as error:
        raise Invalid("the key is not valid UTF-8", kind="InvalidURI") from error
    if not encoded:
        raise Invalid("the key is empty", kind="InvalidArgument")
    if len(encoded) > KEY_BYTES_MAX:
        raise Invalid(f"the key has {len(encoded)} bytes, at most {KEY_BYTES_MAX} are allowed", kind="KeyTooLongError")
    return encoded


def prefix_bytes(text: str) -> bytes:
    """A prefix or marker as UTF-8; raises Invalid (InvalidArgument)."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Invalid("the prefix or marker is not valid UTF-8", kind="InvalidArgument") from error


def no_such_key(key: str) -> NotFound:
    """The error for a key that holds no object."""
    return NotFound(f"the key {key!r} does not exist", kind="NoSuchKey", details={"Key": key})


def no_such_bucket(bucket: str) -> NotFound:
    """The error for a bucket that does not exist."""
    return NotFound(f"the bucket {bucket!r} does not exist", kind="NoSuchBucket", details={"BucketName": bucket})


def _matches(etag: str, wanted: tuple[str, ...]) -> bool:
    """Whether one of the alternatives names `etag`; `*` names any, a weak prefix is ignored."""
    return any(other == "*" or other.removeprefix("W/").strip('"') == etag for other in wanted)


def _failed(condition: str) -> Conflict:
    return Conflict(
        "at least one of the preconditions did not hold", kind="PreconditionFailed", details={"Condition": condition}
    )


def _not_modified(info: ObjectInfo) -> Conflict:
    """Its details are the headers that an answer repeats."""
    modified = formatdate(info.version.modified_ms // 1000, usegmt=True)
    details = {"ETag": f'"{info.etag}"', "Last-Modified": modified}
    return Conflict("the object has not changed", kind="NotModified", details=details)


def check_read(info: ObjectInfo, conditions: Conditions) -> None:
    """Raise Conflict (PreconditionFailed or NotModified) unless the object may be sent."""
    if conditions.none:
        return
    seconds = info.version.modified_ms // 1000
    if conditions.if_match:
        if not _matches(info.etag, conditions.if_match):
            raise _failed("If-Match")
    elif conditions.if_unmodified_since is not None and seconds > conditions.if_unmodified_since:
        raise _failed("If-Unmodified-Since")
    if conditions.if_none_match:
        if _matches(info.etag, conditions.if_none_match):
            raise _not_modified(info)
    elif conditions.if_modified_since is not None and seconds <= conditions.if_modified_since:
        raise _not_modified(info)


def check_write(key: str, etag: str | None, modified_ms: int, conditions: Conditions) -> None:
    """Raise unless a write may replace the present object (`etag` None: there is none).

    If-Match on a missing object is NotFound (NoSuchKey), as S3 answers; the rest is Conflict.
    """
    if conditions.none:
        return
    if conditions.if_match:
        if etag is None:
            raise no_such_key(key)
        if not _matches(etag, conditions.if_match):
            raise _failed("If-Match")
    if etag is None:
        return
    if conditions.if_none_match and _matches(etag, conditions.if_none_match):
        raise _failed("If-None-Match")
    if conditions.if_unmodified_since is not None and modified_ms // 1000 > conditions.if_unmodified_since:
        raise _failed("If-Unmodified-Since")


def resolve_range(size: int, start: int, stop: int | None) -> tuple[int, int]:
    """First and past-the-end byte of a read. Raises Invalid (InvalidRange) when nothing is selected."""
    if start < 0:
        first, last = max(0, size + start), size
    else:
        first, last = start, size if stop is None else min(stop, size)
    if first < last or (size == 0 and start == 0):
        return first, max(first, last)
    raise Invalid(
        f"the range [{start}, {stop}) selects nothing of {size} bytes",
        kind="InvalidRange",
        details={"ActualObjectSize": str(size)},
    )
