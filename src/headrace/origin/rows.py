"""Rows of the embedded store's catalogue: how objects are packed, read, listed and replaced.

Keys are BLOBs, so SQLite's memcmp is the UTF-8 byte order that S3 lists in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from headrace.base import clock
from headrace.model.objects import NO_ATTRIBUTES, Attributes, Conditions, ObjectInfo, PartInfo, Version
from headrace.origin.base import Page
from headrace.origin.bodies import Piece
from headrace.origin.catalogue import Transaction
from headrace.origin.conditions import check_write, no_such_bucket, prefix_bytes

_LIST_BATCH = 256


class PackedAttributes(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True):
    """`Attributes` as stored; the owner has a column of its own, for listings."""

    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}
    tags: dict[str, str] = {}
    acl: str = "private"
    checksums: dict[str, str] = {}
    checksum_type: str = ""


_pack = msgspec.msgpack.encode
_unpack_attributes = msgspec.msgpack.Decoder(PackedAttributes).decode
_unpack_pieces = msgspec.msgpack.Decoder(list[tuple[str, int, int]]).decode
_unpack_parts = msgspec.msgpack.Decoder(list[tuple[int, int, str, int, dict[str, str]]]).decode
_unpack_texts = msgspec.msgpack.Decoder(dict[str, str]).decode
_owned: dict[str, Attributes] = {"": NO_ATTRIBUTES}
_OWNERS_MAX = 1024


def pack_attributes(attributes: Attributes) -> bytes | None:
    """Attributes as a BLOB; None for plain ones."""
    packed = PackedAttributes(
        dict(attributes.headers),
        dict(attributes.metadata),
        dict(attributes.tags),
        attributes.acl,
        dict(attributes.checksums),
        attributes.checksum_type,
    )
    return None if packed == _PLAIN else _pack(packed)


_PLAIN = PackedAttributes()


def unpack_attributes(blob: bytes | None, owner: str) -> Attributes:
    """The inverse of `pack_attributes`."""
    if blob is None:
        plain = _owned.get(owner)
        if plain is None:
            if len(_owned) >= _OWNERS_MAX:
                _owned.clear()
            plain = _owned[owner] = Attributes(owner=owner)
        return plain
    packed = _unpack_attributes(blob)
    return Attributes(
        headers=packed.headers,
        metadata=packed.metadata,
        tags=packed.tags,
        acl=packed.acl,
        owner=owner,
        checksums=packed.checksums,
        checksum_type=packed.checksum_type,
    )


def pack_pieces(pieces: Sequence[Piece]) -> bytes | None:
    """Extents as a BLOB; None for an empty object."""
    return _pack(pieces) if pieces else None


def unpack_pieces(blob: bytes | None) -> list[Piece]:
    """The inverse of `pack_pieces`."""
    return [] if blob is None else [Piece(*item) for item in _unpack_pieces(blob)]


def pack_parts(parts: Sequence[PartInfo]) -> bytes | None:
    """Parts of a multipart object as a BLOB; None for an object stored whole."""
    return _pack([(*part[:4], dict(part.checksums)) for part in parts]) if parts else None


def unpack_parts(blob: bytes | None) -> tuple[PartInfo, ...]:
    """The inverse of `pack_parts`."""
    return () if blob is None else tuple(PartInfo(*item) for item in _unpack_parts(blob))


def pack_texts(texts: Mapping[str, str]) -> bytes | None:
    """A text-to-text mapping as a BLOB; None when empty."""
    return _pack(dict(texts)) if texts else None


def unpack_texts(blob: bytes | None) -> dict[str, str]:
    """The inverse of `pack_texts`."""
    return {} if blob is None else _unpack_texts(blob)


class Found(NamedTuple):
    """One object's row, decoded."""

    info: ObjectInfo
    pieces: list[Piece]


_SELECT = (
    "SELECT etag, modified_ms, size, token, owner, attributes, extents, parts FROM objects "
    "WHERE bucket=(SELECT id FROM buckets WHERE name=?) AND key=?"
)
_SELECT_BY_ID = (
    "SELECT etag, modified_ms, size, token, owner, attributes, extents, parts FROM objects WHERE bucket=? AND key=?"
)


def _found(key: str, row: tuple[Any, ...]) -> Found:
    etag, modified_ms, size, token, owner, attributes, extents, parts = row
    info = ObjectInfo(
        key=key,
        version=Version(etag, modified_ms, size, token),
        attributes=unpack_attributes(attributes, owner),
        parts=() if parts is None else unpack_parts(parts),
    )
    return Found(info, unpack_pieces(extents))


def find_object(db: sqlite3.Connection, bucket: str, key: str, encoded: bytes) -> Found | None:
    """The object's row by bucket name, or None (bucket or key missing)."""
    row = db.execute(_SELECT, (bucket, encoded)).fetchone()
    return None if row is None else _found(key, row)


def bucket_id(db: sqlite3.Connection, bucket: str) -> int:
    """The bucket's number. Raises NotFound (NoSuchBucket)."""
    row = db.execute("SELECT id FROM buckets WHERE name=?", (bucket,)).fetchone()
    if row is None:
        raise no_such_bucket(bucket)
    number: int = row[0]
    return number


def find_by_id(db: sqlite3.Connection, bucket: int, key: str, encoded: bytes) -> Found | None:
    """The object's row by bucket number, or None."""
    row = db.execute(_SELECT_BY_ID, (bucket, encoded)).fetchone()
    return None if row is None else _found(key, row)


def store_object(
    transaction: Transaction,
    bucket: int,
    info: ObjectInfo,
    pieces: Sequence[Piece],
    conditions: Conditions,
) -> ObjectInfo:
    """Put the object in place of whatever the key held, if the conditions hold.

    The new version is never dated before the one it replaces. Raises Conflict, NotFound.
    """
    encoded = info.key.encode()
    row = transaction.db.execute(
        "SELECT etag, modified_ms, extents FROM objects WHERE bucket=? AND key=?", (bucket, encoded)
    ).fetchone()
    etag, before_ms, old = (None, 0, None) if row is None else row
    check_write(info.key, etag, before_ms, conditions)
    version = info.version._replace(modified_ms=max(int(clock.wall() * 1000), before_ms))
    stored = ObjectInfo(key=info.key, version=version, attributes=info.attributes, parts=info.parts)
    if old is not None:
        transaction.discard(unpack_pieces(old))
    transaction.db.execute(
        "INSERT OR REPLACE INTO objects VALUES(?,?,?,?,?,?,?,?,?,?)",
        (
            bucket,
            encoded,
            version.etag,
            version.modified_ms,
            version.size,
            version.token,
            info.attributes.owner,
            pack_attributes(info.attributes),
            pack_pieces(pieces),
            pack_parts(info.parts),
        ),
    )
    transaction.adopt(pieces)
    return stored


def above(prefix: bytes) -> bytes | None:
    """The least byte string above everything that starts with `prefix`; None when there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def first_after(prefix: bytes, after: bytes, delimiter: bytes) -> bytes:
    """The least name a listing may go on with: above `after`, and above the common prefix it lies in."""
    if after < prefix or not after:
        return prefix
    cut = after.find(delimiter, len(prefix)) if delimiter and after.startswith(prefix) else -1
    beyond = above(after[: cut + len(delimiter)]) if cut >= 0 else None
    return after + b"\x00" if beyond is None else beyond


Fetch = Callable[[bytes, bytes | None, int], list[tuple[Any, ...]]]
"""(least key, end or None, count) -> rows in order, each starting with its key."""


def walk(fetch: Fetch, prefix: bytes, after: bytes, delimiter: bytes) -> Iterator[tuple[bytes, tuple[Any, ...] | None]]:
    """Keys and common prefixes above `after`, in order: (key, row) or (common prefix, None).

    Skips over a common prefix by seeking to its end, so what lies below it is never read.
    """
    end = above(prefix)
    low = first_after(prefix, after, delimiter)
    count = 16 if delimiter else _LIST_BATCH
    while True:
        rows = fetch(low, end, count)
        for row in rows:
            key: bytes = row[0]
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                common = key[: cut + len(delimiter)]
                yield common, None
                beyond = above(common)
                if beyond is None:
                    return
                low = beyond
                count = 2
                break
            yield key, row
            low = key + b"\x00"
        else:
            if len(rows) < count:
                return
            count = min(count * 2, _LIST_BATCH)


def list_objects(db: sqlite3.Connection, bucket: int, prefix: str, after: str, delimiter: str, limit: int) -> Page:
    """One page of a listing, straight from the key order of the table."""
    if limit <= 0:
        return Page((), (), None)

    def fetch(low: bytes, end: bytes | None, count: int) -> list[tuple[Any, ...]]:
        bound = "" if end is None else " AND key<?"
        return db.execute(
            "SELECT key, etag, modified_ms, size, token, owner, attributes FROM objects "  # noqa: S608 - no input in it
            f"WHERE bucket=? AND key>=?{bound} ORDER BY key LIMIT ?",
            (bucket, low, count) if end is None else (bucket, low, end, count),
        ).fetchall()

    objects: list[ObjectInfo] = []
    prefixes: list[str] = []
    last = ""
    for name, row in walk(fetch, prefix_bytes(prefix), prefix_bytes(after), prefix_bytes(delimiter)):
        if len(objects) + len(prefixes) == limit:
            return Page(tuple(objects), tuple(prefixes), last)
        last = name.decode()
        if row is None:
            prefixes.append(last)
        else:
            version = Version(row[1], row[2], row[3], row[4])
            objects.append(ObjectInfo(key=last, version=version, attributes=unpack_attributes(row[6], row[5])))
    return Page(tuple(objects), tuple(prefixes), None)
