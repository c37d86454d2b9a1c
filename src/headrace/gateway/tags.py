"""Tag sets: S3's limits, the header form and the document form. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from headrace.base.errors import Invalid
from headrace.base.limits import TAG_KEY_CHARS_MAX, TAG_VALUE_CHARS_MAX, TAGS_MAX

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HEADER_FIELDS_MAX = 4 * TAGS_MAX


def _invalid(message: str, **details: str) -> Invalid:
    return Invalid(message, kind="InvalidTag", details=details)


def checked_tags(pairs: Iterable[tuple[str, str]], count_max: int = TAGS_MAX) -> dict[str, str]:
    """The pairs as a mapping sorted by key. Raises Invalid (InvalidTag) outside S3's limits."""
    tags: dict[str, str] = {}
    for key, value in pairs:
        if not 1 <= len(key) <= TAG_KEY_CHARS_MAX:
            raise _invalid(f"A TagKey has 1 to {TAG_KEY_CHARS_MAX} characters", TagKey=key[:200])
        if len(value) > TAG_VALUE_CHARS_MAX:
            raise _invalid(f"A TagValue has at most {TAG_VALUE_CHARS_MAX} characters", TagKey=key)
        if _CONTROL.search(key) or _CONTROL.search(value):
            raise _invalid("A tag holds no control characters", TagKey=key)
        if key in tags:
            raise _invalid("Cannot provide multiple Tags with the same key", TagKey=key)
        tags[key] = value
    if len(tags) > count_max:
        raise _invalid(f"Object tags cannot be greater than {count_max}")
    return dict(sorted(tags.items()))


def parse_tag_header(header: str | None) -> dict[str, str]:
    """Tags of an x-amz-tagging header, written like a query. Raises Invalid (InvalidTag, InvalidArgument)."""
    if not header:
        return {}
    try:
        pairs = parse_qsl(
            header, keep_blank_values=True, strict_parsing=False, errors="strict", max_num_fields=_HEADER_FIELDS_MAX
        )
    except ValueError:
        raise Invalid(
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag "
            "name duplicates.",
            kind="InvalidArgument",
            details={"ArgumentName": "x-amz-tagging"},
        ) from None
    return checked_tags(pairs)


def parse_tag_document(tagging: Mapping[str, Any] | None, count_max: int = TAGS_MAX) -> dict[str, str]:
    """Tags of a parsed Tagging document ({"TagSet": [{"Key":, "Value":}]}). Raises Invalid."""
    entries = (tagging or {}).get("TagSet") or []
    pairs = []
    for entry in entries:
        if "Key" not in entry:
            raise Invalid("Each Tag has a Key and a Value", kind="MalformedXML")
        pairs.append((str(entry["Key"] or ""), str(entry.get("Value") or "")))
    return checked_tags(pairs, count_max)


def tag_document(tags: Mapping[str, str]) -> dict[str, Any]:
    """The output of GetObjectTagging for `tags`, sorted by key."""
    return {"TagSet": [{"Key": key, "Value": value} for key, value in sorted(tags.items())]}
