"""S3's words on the wire, to and from headrace's values: headers, listings, error documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import quote, unquote_plus, urlencode
from xml.etree import ElementTree as ET  # expat >= 2.4.1 refuses entity bombs; answers are bounded in size

from headrace.base.errors import Busy, Conflict, Denied, HeadraceError, Invalid, NotFound, Unavailable
from headrace.model.objects import Attributes, Conditions, ObjectInfo, Version

HEADERS = frozenset({
    "content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires",
    "x-amz-storage-class", "x-amz-website-redirect-location",
})  # fmt: skip
"""Standard object headers that `Attributes.headers` holds."""
CHECKSUMS = ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")
"""Algorithms of `x-amz-checksum-*` that headrace keeps."""
_MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
META = "x-amz-meta-"
TAG_COUNT = "x-amz-tagging-count"
"""How many tags an object has is told with it; the tags themselves are not."""
CREDENTIAL_CODES = frozenset({
    "SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken", "InvalidToken", "TokenRefreshRequired",
    "RequestTimeTooSkewed", "AuthorizationHeaderMalformed",
})  # fmt: skip
"""Refusals of the caller's own credentials: the origin means headrace, never headrace's client."""


def text_of(value: str) -> str:
    """A header value as text: UTF-8 where it is, else Latin-1 (aiohttp leaves odd bytes as surrogates)."""
    if value.isascii():
        return value
    raw = value.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def codings_of(value: str) -> str:
    """A Content-Encoding without `aws-chunked`, the framing of one request, which some servers store."""
    return ", ".join(word for part in value.split(",") if (word := part.strip()) and word.lower() != "aws-chunked")


def milliseconds(value: str | None) -> int:
    """An HTTP date or an ISO 8601 time as milliseconds since 1970; 0 when absent or unreadable."""
    if not value:
        return 0
    try:
        if len(value) == 29 and value.endswith(" GMT") and value[8:11] in _MONTHS:  # the one form servers send
            day, month, year = int(value[5:7]), _MONTHS[value[8:11]], int(value[12:16])
            hour, minute, second = map(int, value[17:25].split(":"))
            moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
            return round(moment.timestamp()) * 1000
        if value[:1].isdigit():
            return round(datetime.fromisoformat(value).timestamp() * 1000)
        return round(parsedate_to_datetime(value).timestamp() * 1000)
    except (TypeError, ValueError):
        return 0


def http_date(seconds: int) -> str:
    """Seconds since 1970 as an HTTP date."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")


def info_of(key: str, headers: Mapping[str, str], size: int) -> ObjectInfo:
    """What the headers of a GET or HEAD answer say of the object; `headers` is case-insensitive."""
    kept: dict[str, str] = {}
    metadata: dict[str, str] = {}
    checksums: dict[str, str] = {}
    for raw_name, value in headers.items():
        name = raw_name.lower()
        if name == "content-encoding":
            kept |= {name: codings} if (codings := codings_of(value)) else {}
        elif name in HEADERS or name == TAG_COUNT:
            kept[name] = text_of(value)
        elif name.startswith(META):
            metadata[name[len(META) :]] = text_of(value)
        elif name.startswith("x-amz-checksum-") and name[15:] in CHECKSUMS:
            checksums[name[15:]] = value
    kind = headers.get("x-amz-checksum-type", "") if checksums else ""
    if checksums and not kind:
        kind = "COMPOSITE" if "-" in next(iter(checksums.values())) else "FULL_OBJECT"
    version = Version(
        etag=headers.get("ETag", "").strip('"'),
        modified_ms=milliseconds(headers.get("Last-Modified")),
        size=size,
        token=headers.get("x-amz-version-id", ""),
    )
    return ObjectInfo(
        key=key,
        version=version,
        attributes=Attributes(headers=kept, metadata=metadata, checksums=checksums, checksum_type=kind),
    )


def put_headers(attributes: Attributes) -> dict[str, str]:
    """The headers that make an origin store `attributes`; checksums apart (see `checksum_headers`)."""
    headers = {name: value for name, value in attributes.headers.items() if name in HEADERS}
    headers.update({META + name: value for name, value in attributes.metadata.items()})
    if attributes.tags:
        headers["x-amz-tagging"] = urlencode(attributes.tags, quote_via=quote)
    if attributes.acl not in {"", "private"}:
        headers["x-amz-acl"] = attributes.acl
    return headers


def checksum_headers(attributes: Attributes) -> dict[str, str]:
    """`x-amz-checksum-*` of a whole body; composite ones belong to parts and are left out."""
    if attributes.checksum_type == "COMPOSITE":
        return {}
    return {f"x-amz-checksum-{name}": value for name, value in attributes.checksums.items() if value}


def condition_headers(conditions: Conditions) -> dict[str, str]:
    """Conditional headers as S3 reads them."""
    headers: dict[str, str] = {}
    if conditions.if_match:
        headers["if-match"] = ", ".join(map(quoted, conditions.if_match))
    if conditions.if_none_match:
        headers["if-none-match"] = ", ".join(map(quoted, conditions.if_none_match))
    if conditions.if_modified_since is not None:
        headers["if-modified-since"] = http_date(conditions.if_modified_since)
    if conditions.if_unmodified_since is not None:
        headers["if-unmodified-since"] = http_date(conditions.if_unmodified_since)
    return headers


def quoted(etag: str) -> str:
    """An ETag as it stands in a header: `*` bare, a weak prefix before the quotes."""
    if etag == "*":
        return etag
    if etag.startswith("W/"):
        return f'W/"{etag[2:]}"'
    return f'"{etag}"'


def document(body: bytes) -> ET.Element:
    """The XML answer's root, names without their namespace. Raises Unavailable when it is none."""
    try:
        root = ET.fromstring(body)  # noqa: S314 - see the import
    except ET.ParseError as error:
        raise Unavailable(f"the origin's answer is no XML: {error}", kind="InternalError") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


class ListAnswer(NamedTuple):
    """One ListObjectsV2 answer; keys and prefixes decoded."""

    objects: tuple[ObjectInfo, ...]
    prefixes: tuple[str, ...]
    token: str
    """The continuation token, "" on the last page."""


def list_answer(body: bytes) -> ListAnswer:
    """Read a ListObjectsV2 answer. Raises Unavailable when it is no such answer."""
    root = document(body)
    decode = unquote_plus if root.findtext("EncodingType") == "url" else str
    objects: list[ObjectInfo] = []
    for item in root.iterfind("Contents"):
        objects.append(  # noqa: PERF401 - a comprehension of this length reads worse
            ObjectInfo(
                key=decode(item.findtext("Key") or ""),
                version=Version(
                    etag=(item.findtext("ETag") or "").strip('"'),
                    modified_ms=milliseconds(item.findtext("LastModified")),
                    size=int(item.findtext("Size") or 0),
                ),
                attributes=_listed(item.findtext("StorageClass") or ""),
            )
        )
    prefixes = tuple(decode(item.findtext("Prefix") or "") for item in root.iterfind("CommonPrefixes"))
    truncated = root.findtext("IsTruncated") == "true"
    return ListAnswer(tuple(objects), prefixes, (root.findtext("NextContinuationToken") or "") if truncated else "")


def _listed(storage_class: str) -> Attributes:
    """Attributes a listing tells."""
    return Attributes(headers={"x-amz-storage-class": storage_class} if storage_class else {})


def error_of(status: int, headers: Mapping[str, str], body: bytes, what: str) -> HeadraceError:
    """The error that an answer of the origin stands for; `what` names bucket and key for the message."""
    code, message = "", ""
    if body.lstrip().startswith(b"<"):
        try:
            root = document(body)
            code, message = root.findtext("Code") or "", root.findtext("Message") or ""
        except Unavailable:
            code = ""
    said = f"the origin answered {status} {code or 'without a code'} for {what}" + (f": {message}" if message else "")
    if code in CREDENTIAL_CODES:
        return Denied(f"{said} (these are headrace's own credentials for the origin)", kind="AccessDenied")
    if status in {301, 307, 308}:
        region = headers.get("x-amz-bucket-region", "")
        hint = f"; its region is {region}: put region={region} into the URL" if region else ""
        return Unavailable(f"{said}{hint}", kind="ServiceUnavailable")
    if status == 304:
        repeated = {name: headers[name] for name in ("ETag", "Last-Modified") if name in headers}
        return Conflict(said, kind="NotModified", details=repeated)
    if status == 404:
        return NotFound(said, kind=code or "NoSuchKey")
    if status in {409, 412}:
        return Conflict(said, kind=code or "PreconditionFailed")
    if status in {401, 403, 405}:
        return Denied(said, kind=code or ("MethodNotAllowed" if status == 405 else "AccessDenied"))
    if status in {429, 503} and code in {"", "SlowDown", "ServiceUnavailable", "RequestLimitExceeded"}:
        return Busy(said, retry_after=_retry_after(headers), kind="SlowDown")
    if status == 501:
        return Invalid(said, kind="NotImplemented")
    if status == 416:
        return Invalid(said, kind="InvalidRange")
    if status >= 500:
        return Unavailable(said, kind="InternalError" if status == 500 else "ServiceUnavailable")
    return Invalid(said, kind=code or "InvalidRequest")


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds the origin asks to wait, at most 60; 1 when it does not say."""
    value = headers.get("Retry-After", "")
    return float(min(int(value), 60)) if value.isascii() and value.isdigit() else 1.0


def complete_document(parts: Iterable[tuple[int, str, Mapping[str, str]]]) -> bytes:
    """The body of CompleteMultipartUpload for (number, ETag, checksums) in order."""
    root = ET.Element("CompleteMultipartUpload", xmlns="http://s3.amazonaws.com/doc/2006-03-01/")
    for number, etag, checksums in parts:
        part = ET.SubElement(root, "Part")
        ET.SubElement(part, "PartNumber").text = str(number)
        ET.SubElement(part, "ETag").text = quoted(etag)
        for name, value in checksums.items():
            ET.SubElement(part, f"Checksum{name.upper()}").text = value
    return ET.tostring(root)
