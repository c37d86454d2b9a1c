"""Objects, their versions, and byte ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

_NOTHING: Mapping[str, str] = {}


class Version(NamedTuple):
    """What tells one state of an object from every other state of it.

    A metadata-only copy keeps the ETag, so Last-Modified and size belong to the identity, as does
    the origin's own version id (for folders: inode and ctime).
    """

    etag: str
    modified_ms: int
    size: int
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What the writer of an object says about it; stored and returned as given.

    `headers`: lower-case standard names (content-type, cache-control, content-disposition,
    content-encoding, content-language, expires, x-amz-storage-class, x-amz-website-redirect-location).
    `metadata`: user metadata without the `x-amz-meta-` prefix, lower-case names.
    `tags`: object tags. `acl`: canned ACL name ("private", "public-read", ...).
    `checksums`: algorithm ("crc32", "crc32c", "crc64nvme", "sha1", "sha256") -> base64 value,
    `checksum_type`: "FULL_OBJECT" or "COMPOSITE" ("" when there are no checksums).
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    acl: str = "private"
    owner: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict)
    checksum_type: str = ""


NO_ATTRIBUTES = Attributes()


class PartInfo(NamedTuple):
    """One part of a multipart object or upload."""

    number: int
    size: int
    etag: str
    modified_ms: int = 0
    checksums: Mapping[str, str] = _NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """Everything headrace knows of one object version, without its bytes.

    `etag` carries no quotes. `parts` is empty unless the object was uploaded in parts.
    """

    key: str
    version: Version
    attributes: Attributes = NO_ATTRIBUTES
    parts: tuple[PartInfo, ...] = ()

    @property
    def size(self) -> int:
        """Length of the object in bytes."""
        return self.version.size

    @property
    def etag(self) -> str:
        """ETag without quotes."""
        return self.version.etag


class Extent(NamedTuple):
    """`length` bytes at `offset` of the file `path`: a piece of an object that lies on this machine."""

    path: str
    offset: int
    length: int


class FileSlice(NamedTuple):
    """Bytes of an open file, to be sent from kernel to socket.

    `descriptor` stays open until the response ended: whoever yields the slice keeps it so.
    `source` is "memory", "device" or "origin": where the bytes lay when the request came.
    """

    descriptor: int
    offset: int
    length: int
    source: str = "memory"


class Conditions(NamedTuple):
    """Conditional headers; ETags without quotes ("*" = any); times in whole seconds UTC.

    An ETag tuple holds the alternatives of one header, as written (weak prefix `W/` kept).
    """

    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()
    if_modified_since: int | None = None
    if_unmodified_since: int | None = None

    @property
    def none(self) -> bool:
        """True when no condition was given."""
        return self == NO_CONDITIONS


NO_CONDITIONS = Conditions()
