"""Rows of multipart uploads in the embedded store's catalogue."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from headrace.base import clock
from headrace.base.errors import Invalid, NotFound
from headrace.base.limits import PART_NUMBER_MAX, STORE_COMPLETED_UPLOADS_MAX
from headrace.model.objects import Attributes, ObjectInfo, PartInfo, Version
from headrace.origin.bodies import Piece
from headrace.origin.catalogue import Transaction
from headrace.origin.complete import StoredPart
from headrace.origin.conditions import key_bytes, prefix_bytes
from headrace.origin.rows import (
    above,
    pack_attributes,
    pack_parts,
    pack_pieces,
    pack_texts,
    unpack_attributes,
    unpack_parts,
    unpack_pieces,
    unpack_texts,
)

_UPLOADS = "SELECT key, id, created_ms, owner, attributes, algorithm, checksum_type FROM uploads"
DELIVERED = ""
"""Token of what an upload became once that was stored elsewhere: no object of a store has it."""
_LAST_ID = "\U0010ffff"


class UploadInfo(NamedTuple):
    """An unfinished upload. `algorithm` and `checksum_type` are "" when none was asked for."""

    key: str
    upload_id: str
    created_ms: int
    attributes: Attributes
    algorithm: str
    checksum_type: str


class UploadPage(NamedTuple):
    """One page of unfinished uploads; `next_key` is None on the last page, else the marker to go on from."""

    uploads: tuple[UploadInfo, ...]
    prefixes: tuple[str, ...]
    next_key: str | None = None
    next_upload_id: str = ""


class PartPage(NamedTuple):
    """One page of parts; `next_after` is None on the last page."""

    upload: UploadInfo
    parts: tuple[PartInfo, ...]
    next_after: int | None = None


def no_such_upload(upload_id: str) -> NotFound:
    """The error for an upload that is unknown, aborted or completed."""
    return NotFound(
        "the upload does not exist: it may have been aborted or completed",
        kind="NoSuchUpload",
        details={"UploadId": upload_id},
    )


def _upload(row: tuple[Any, ...]) -> UploadInfo:
    return UploadInfo(row[0].decode(), row[1], row[2], unpack_attributes(row[4], row[3]), row[5], row[6])


def find_upload(db: sqlite3.Connection, bucket: int, upload_id: str, key: str | None = None) -> UploadInfo:
    """The upload's row; `key`, where given, must be the upload's. Raises NotFound (NoSuchUpload)."""
    row = db.execute(f"{_UPLOADS} WHERE id=? AND bucket=?", (upload_id, bucket)).fetchone()
    if row is None or (key is not None and row[0] != key_bytes(key)):
        raise no_such_upload(upload_id)
    return _upload(row)


def add_upload(db: sqlite3.Connection, bucket: int, upload: UploadInfo) -> None:
    """Insert the upload's row."""
    said = upload.attributes
    db.execute(
        "INSERT INTO uploads VALUES(?,?,?,?,?,?,?,?)",
        (
            bucket,
            upload.key.encode(),
            upload.upload_id,
            upload.created_ms,
            said.owner,
            pack_attributes(said),
            upload.algorithm,
            upload.checksum_type,
        ),
    )


def check_part_number(number: int) -> None:
    """Raise Invalid (InvalidArgument) unless S3 allows the part number."""
    if not 1 <= number <= PART_NUMBER_MAX:
        raise Invalid(f"part numbers go from 1 to {PART_NUMBER_MAX}, not {number}", kind="InvalidArgument")


def store_part(transaction: Transaction, upload_id: str, part: PartInfo, pieces: list[Piece]) -> PartInfo:
    """Put the part in place of an earlier one of its number; the bodies of that one are discarded."""
    db = transaction.db
    row = db.execute("SELECT extents FROM parts WHERE upload=? AND number=?", (upload_id, part.number)).fetchone()
    if row is not None:
        transaction.discard(unpack_pieces(row[0]))
    stored = part._replace(modified_ms=int(clock.wall() * 1000))
    db.execute(
        "INSERT OR REPLACE INTO parts VALUES(?,?,?,?,?,?,?)",
        (upload_id, *stored[:4], pack_texts(stored.checksums), pack_pieces(pieces)),
    )
    transaction.adopt(pieces)
    return stored


def stored_parts(db: sqlite3.Connection, upload_id: str) -> dict[int, StoredPart]:
    """All parts of an upload by number."""
    rows = db.execute(
        "SELECT number, size, etag, modified_ms, checksums, extents FROM parts WHERE upload=? ORDER BY number",
        (upload_id,),
    ).fetchall()
    return {row[0]: StoredPart(_part(row), unpack_pieces(row[5])) for row in rows}


def _part(row: tuple[Any, ...]) -> PartInfo:
    return PartInfo(row[0], row[1], row[2], row[3], unpack_texts(row[4]))


def drop_upload(transaction: Transaction, upload_id: str, keep: frozenset[str] = frozenset()) -> None:
    """Forget the upload and its parts, and discard all their bodies but those in `keep`."""
    rows = transaction.db.execute("SELECT extents FROM parts WHERE upload=?", (upload_id,)).fetchall()
    for (extents,) in rows:
        transaction.discard(piece for piece in unpack_pieces(extents) if piece.name not in keep)
    transaction.db.execute("DELETE FROM parts WHERE upload=?", (upload_id,))
    transaction.db.execute("DELETE FROM uploads WHERE id=?", (upload_id,))


def note_completed(transaction: Transaction, bucket: int, upload_id: str, info: ObjectInfo) -> None:
    """Remember what the upload became, so that completing it again gives the same answer."""
    cursor = transaction.db.execute(
        "INSERT INTO completed(id, bucket, key, etag, modified_ms, size, token, owner, attributes, parts) "
        "VALUES(?,?,?,?,?,?,?,?,?,?)",
        (
            upload_id,
            bucket,
            info.key.encode(),
            *info.version,
            info.attributes.owner,
            pack_attributes(info.attributes),
            pack_parts(info.parts),
        ),
    )
    oldest = (cursor.lastrowid or 0) - STORE_COMPLETED_UPLOADS_MAX
    transaction.db.execute("DELETE FROM completed WHERE sequence<=?", (oldest,))


def find_completed(db: sqlite3.Connection, bucket: int, upload_id: str, key: str) -> ObjectInfo | None:
    """What the upload became, if it was completed not too long ago."""
    row = db.execute(
        "SELECT etag, modified_ms, size, token, owner, attributes, parts FROM completed "
        "WHERE id=? AND bucket=? AND key=?",
        (upload_id, bucket, key_bytes(key)),
    ).fetchone()
    if row is None:
        return None
    return ObjectInfo(
        key=key,
        version=Version(*row[:4]),
        attributes=unpack_attributes(row[5], row[4]),
        parts=unpack_parts(row[6]),
    )


def mark_delivered(db: sqlite3.Connection, bucket: int, upload_id: str) -> None:
    """Note that what the upload became was stored elsewhere."""
    db.execute("UPDATE completed SET token=? WHERE id=? AND bucket=?", (DELIVERED, upload_id, bucket))


def drop_completed(db: sqlite3.Connection, bucket: int, upload_id: str) -> None:
    """Forget what the upload became; completing it again finds no upload."""
    db.execute("DELETE FROM completed WHERE id=? AND bucket=?", (upload_id, bucket))


def list_part_rows(db: sqlite3.Connection, upload: UploadInfo, after: int, limit: int) -> PartPage:
    """Parts with numbers above `after`."""
    rows = db.execute(
        "SELECT number, size, etag, modified_ms, checksums FROM parts WHERE upload=? AND number>? "
        "ORDER BY number LIMIT ?",
        (upload.upload_id, after, max(limit, 0) + 1),
    ).fetchall()
    parts = tuple(_part(row) for row in rows[: max(limit, 0)])
    return PartPage(upload, parts, parts[-1].number if parts and len(rows) > limit else None)


def list_upload_rows(
    db: sqlite3.Connection, bucket: int, prefix: str, marker: tuple[str, str], delimiter: str, limit: int
) -> UploadPage:
    """Unfinished uploads above `marker` = (key, upload id; "" = all of that key), by key and then by age."""
    start, cut_at = prefix_bytes(prefix), prefix_bytes(delimiter)
    low = (prefix_bytes(marker[0]), marker[1] or _LAST_ID)
    if low[0] < start or not marker[0]:
        low = (start, "")
    elif cut_at and low[0].startswith(start) and (cut := low[0].find(cut_at, len(start))) >= 0:
        low = (above(low[0][: cut + len(cut_at)]) or low[0], "")
    uploads: list[UploadInfo] = []
    prefixes: list[str] = []
    last = ("", "")
    while True:
        row = db.execute(
            f"{_UPLOADS} WHERE bucket=? AND (key, id)>(?, ?) ORDER BY key, id LIMIT 1", (bucket, *low)
        ).fetchone()
        if row is None or not row[0].startswith(start) or limit <= 0:
            return UploadPage(tuple(uploads), tuple(prefixes))
        if len(uploads) + len(prefixes) == limit:
            return UploadPage(tuple(uploads), tuple(prefixes), *last)
        cut = row[0].find(cut_at, len(start)) if cut_at else -1
        if cut < 0:
            uploads.append(_upload(row))
            low = (row[0], row[1])
            last = (uploads[-1].key, row[1])
        else:
            common = row[0][: cut + len(cut_at)]
            prefixes.append(common.decode())
            low = (above(common) or row[0], "")
            last = (prefixes[-1], "")
