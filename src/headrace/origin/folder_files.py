"""Files and folders as objects: which keys can be files, and what is kept beside a file's bytes.

headrace keeps an object's ETag and attributes in the extended attribute `user.headrace`. It counts
only while size and mtime are those it was written for, so a file that somebody else changed gets an
ETag made of inode, mtime and size; that ends in `-f`, so that nobody takes it for an MD5.

A folder is an object (key with a trailing slash, no bytes) only when it was put as one: then it
carries the attribute too. Other folders are never listed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat

import msgspec

from headrace.base.errors import Invalid
from headrace.base.limits import FILE_NAME_BYTES_MAX
from headrace.model.objects import Attributes, ObjectInfo, Version
from headrace.origin.bodies import EMPTY_MD5
from headrace.origin.conditions import key_bytes

ATTRIBUTE = "user.headrace"
PRIVATE = b".headrace"
"""The folder in the root where headrace keeps unfinished bodies and its lock; never an object."""
_ETAG = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_TOO_LARGE = (errno.E2BIG, errno.ENOSPC, errno.ERANGE, errno.EDQUOT)
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENODATA, errno.EPERM, errno.EACCES)


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `user.headrace` holds, as JSON. A folder's has size 0 and mtime 0."""

    size: int
    mtime_ns: int
    etag: str
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}
    tags: dict[str, str] = {}
    acl: str = "private"
    owner: str = ""
    checksums: dict[str, str] = {}
    checksum_type: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Kept).decode


def path_of(key: str) -> bytes:
    """The key as a path below the root, a trailing slash kept.

    Raises Invalid for keys that no file can have: empty, `.` or `..` components, NUL, names of more
    than 255 bytes, and headrace's own folder.
    """
    path = key_bytes(key)
    for name in path.removesuffix(b"/").split(b"/"):
        if name in (b"", b".", b".."):
            raise Invalid(f"the key {key!r} has the component {name.decode()!r}, which no file can be called")
        if b"\0" in name:
            raise Invalid(f"the key {key!r} contains NUL, which no file name can")
        if len(name) > FILE_NAME_BYTES_MAX:
            raise Invalid(
                f"the key has a component of {len(name)} bytes; file names have at most {FILE_NAME_BYTES_MAX}",
                kind="KeyTooLongError",
            )
    if path.split(b"/", 1)[0] == PRIVATE:
        raise Invalid(f"the key {key!r} lies in headrace's own folder")
    return path


def keep(path: int | str, kept: Kept) -> bool:
    """Write the attribute; False when the file system has none.

    Raises Invalid (MetadataTooLarge), OSError.
    """
    try:
        os.setxattr(path, ATTRIBUTE, _encode(kept))
    except OSError as error:
        if error.errno in _TOO_LARGE:
            raise Invalid(
                "metadata, tags and headers are larger than this file system keeps beside a file",
                kind="MetadataTooLarge",
            ) from error
        if error.errno != errno.EOPNOTSUPP:
            raise
        if kept.metadata or kept.tags:
            raise Invalid("this file system keeps neither metadata nor tags beside a file") from error
        return False
    return True


def kept_beside(path: int | str) -> Kept | None:
    """The attribute, or None when there is none that makes sense."""
    try:
        kept = _decode(os.getxattr(path, ATTRIBUTE))
    except msgspec.DecodeError:
        return None
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return kept if _ETAG.fullmatch(kept.etag) else None


def pack(attributes: Attributes, etag: str, size: int, mtime_ns: int) -> Kept:
    """What to keep for an object."""
    return Kept(
        size=size,
        mtime_ns=mtime_ns,
        etag=etag,
        headers=dict(attributes.headers),
        metadata=dict(attributes.metadata),
        tags=dict(attributes.tags),
        acl=attributes.acl,
        owner=attributes.owner,
        checksums=dict(attributes.checksums),
        checksum_type=attributes.checksum_type,
    )


def derived_etag(status: os.stat_result) -> str:
    """An ETag for a file whose MD5 is not known: the same as long as inode, mtime and size are."""
    text = f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + "-f"


def token_of(status: os.stat_result) -> str:
    """The part of the version that every change of a file changes, metadata too."""
    return f"{status.st_ino}:{status.st_ctime_ns}"


def describe(key: str, status: os.stat_result, kept: Kept | None) -> ObjectInfo | None:
    """The object that a file or folder is; None when it is none (a device, or a folder nobody put)."""
    folder = stat.S_ISDIR(status.st_mode)
    if folder != key.endswith("/"):
        return None
    if folder and kept is not None and not kept.size:
        size, etag = 0, kept.etag
    elif folder or not stat.S_ISREG(status.st_mode):
        return None
    elif kept is not None and (kept.size, kept.mtime_ns) == (status.st_size, status.st_mtime_ns):
        size, etag = kept.size, kept.etag
    else:
        size, etag, kept = status.st_size, derived_etag(status), None
    version = Version(etag or EMPTY_MD5, status.st_mtime_ns // 1_000_000, size, token_of(status))
    if kept is None:
        return ObjectInfo(key=key, version=version)
    attributes = Attributes(
        headers=kept.headers,
        metadata=kept.metadata,
        tags=kept.tags,
        acl=kept.acl,
        owner=kept.owner,
        checksums=kept.checksums,
        checksum_type=kept.checksum_type,
    )
    return ObjectInfo(key=key, version=version, attributes=attributes)
