"""The x-amz-copy-source header: which object a copy reads."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from headrace.base.errors import Invalid, NotFound

_VERSION = "?versionId="


class CopySource(NamedTuple):
    """The object a copy reads."""

    bucket: str
    key: str


def parse_copy_source(header: str | None) -> CopySource:
    """Parse `[/]bucket/key[?versionId=null]`, URL-encoded once.

    The version is cut off before decoding, so a key that itself holds "?versionId" survives when the
    client encoded it. Raises Invalid (InvalidArgument) for other forms, NotFound (NoSuchVersion) for
    a version other than null, since objects here have only that one.
    """
    raw = header or ""
    path, mark, version = raw.partition(_VERSION)
    if mark and version not in ("", "null"):
        raise NotFound("The specified version does not exist.", kind="NoSuchVersion", details={"VersionId": version})
    if path.startswith("arn:"):
        raise _malformed(raw, "access points are not supported; name the bucket and key")
    try:
        text = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise _malformed(raw, "it is not UTF-8") from None
    bucket, slash, key = text.removeprefix("/").partition("/")
    if not bucket or not slash or not key:
        raise _malformed(raw, "it must be of the form /bucket/key")
    if "\0" in key:
        raise _malformed(raw, "a key holds no NUL")
    return CopySource(bucket, key)


def _malformed(raw: str, why: str) -> Invalid:
    return Invalid(
        f"Copy Source must mention the source bucket and key: sourcebucket/sourcekey ({why})",
        kind="InvalidArgument",
        details={"ArgumentName": "x-amz-copy-source", "ArgumentValue": raw[:200]},
    )
