"""The headers that describe an object in GET and HEAD answers: one pure function, used by every path.

The hot path calls it once for each object it remembers, the general path once for each request, so
both answer with the same bytes. Framing (Content-Length), Date and request ids are the protocol's.
"""

from __future__ import annotations

from headrace.gateway.times import http_date
from headrace.model.objects import ObjectInfo, PartInfo

Header = tuple[str, str]

DEFAULT_CONTENT_TYPE = "binary/octet-stream"
TAG_COUNT = "x-amz-tagging-count"
"""Kept among the headers of an object at an origin that tells its tags' number with it, but not the tags."""
STANDARD_HEADERS = {
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "content-type": "Content-Type",
    "expires": "Expires",
}
"""Stored names and how they are spelled in an answer."""


def clean(value: str) -> str:
    """A header value without line breaks, so that stored metadata can't end the head early."""
    return value.replace("\r", " ").replace("\n", " ") if "\n" in value or "\r" in value else value


def object_headers(
    info: ObjectInfo,
    *,
    checksum_mode: bool = False,
    part: PartInfo | None = None,
    parts_count: int = 0,
    overrides: dict[str, str] | None = None,
) -> list[Header]:
    """Headers of an answer about `info`, in a fixed order.

    `checksum_mode`: show checksums; callers leave it off for ranges, whose bytes they would not match.
    `part`: the part asked for by number, whose own checksums are shown; `parts_count` > 0 adds
    x-amz-mp-parts-count. `overrides`: lower-case standard names that a signed request's response-*
    parameters replace. Content-Range comes after them, from whoever knows the range.
    """
    headers = [
        ("Last-Modified", http_date(info.version.modified_ms // 1000)),
        ("ETag", f'"{info.etag}"'),
        ("Accept-Ranges", "bytes"),
    ]
    attributes = info.attributes
    standard = dict(attributes.headers)
    if overrides:
        standard.update(overrides)
    standard.setdefault("content-type", DEFAULT_CONTENT_TYPE)
    headers += [(spelled, standard[name]) for name, spelled in STANDARD_HEADERS.items() if name in standard]
    for name in ("x-amz-website-redirect-location", "x-amz-storage-class"):
        if standard.get(name, "STANDARD") != "STANDARD":
            headers.append((name, standard[name]))
    headers += [(f"x-amz-meta-{name}", value) for name, value in attributes.metadata.items()]
    if attributes.tags or TAG_COUNT in standard:
        headers.append((TAG_COUNT, str(len(attributes.tags)) if attributes.tags else standard[TAG_COUNT]))
    if parts_count:
        headers.append(("x-amz-mp-parts-count", str(parts_count)))
    if checksum_mode:
        headers += checksum_headers(info, part)
    return headers


def checksum_headers(info: ObjectInfo, part: PartInfo | None = None) -> list[Header]:
    """The object's checksums, or the part's, and their type; nothing when none are known."""
    checksums = info.attributes.checksums if part is None else part.checksums
    headers = [(f"x-amz-checksum-{algorithm}", value) for algorithm, value in checksums.items()]
    if headers and info.attributes.checksum_type:
        headers.append(("x-amz-checksum-type", info.attributes.checksum_type))
    return headers


def not_modified_headers(info: ObjectInfo) -> list[Header]:
    """Headers of a 304 answer: what RFC 9110 section 15.4.5 asks to repeat."""
    headers = [("Last-Modified", http_date(info.version.modified_ms // 1000)), ("ETag", f'"{info.etag}"')]
    stored = info.attributes.headers
    headers += [(STANDARD_HEADERS[name], stored[name]) for name in ("cache-control", "expires") if name in stored]
    return headers
