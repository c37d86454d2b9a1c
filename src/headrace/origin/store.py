"""The embedded durable store, `store:///dir`: many buckets, a catalogue in SQLite, bodies in files.

    DIR/catalogue.db          what exists (see catalogue.py)
    DIR/bodies/<2 hex>/<name> the bytes, one file per body, written once (see bodies.py)
    DIR/sessions/<id>         who has the store open; a lock that nobody holds marks a crash

A write is acknowledged when its body, the folder that names it and the catalogue's commit are fsynced.
Several processes may have one store open. An object stored by a process that is forked, not started
anew, must not be used by the child.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from headrace.base import clock
from headrace.base.errors import Conflict, Invalid
from headrace.base.limits import STORE_BUCKETS_MAX, STORE_DOCUMENT_BYTES_MAX
from headrace.origin.catalogue import Transaction
from headrace.origin.conditions import no_such_bucket
from headrace.origin.engine import Engine
from headrace.origin.rows import bucket_id, pack_texts, unpack_pieces, unpack_texts
from headrace.origin.store_bucket import StoreBucket
from headrace.wire.words import BINDINGS, Words


class BucketInfo(NamedTuple):
    """What the store knows of a bucket itself."""

    name: str
    created_ms: int
    owner: str
    attributes: Mapping[str, str]


class Store:
    """One process's opening of an embedded store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, path: Path, words: Words | None = None) -> Store:
        """Open or create the store at `path`, and sweep in the background what a crash left behind.

        Raises Invalid (a newer format), Unavailable (the disk refuses).
        """
        return cls(Engine(path, words))

    def close(self) -> None:
        """Finish running writes and release everything. Blocks."""
        self._engine.close()

    def bucket(self, name: str) -> StoreBucket:
        """The bucket as an origin; it need not exist yet (its methods raise NoSuchBucket)."""
        return StoreBucket(self._engine, name)

    async def create_bucket(
        self, name: str, owner: str = "", attributes: Mapping[str, str] | None = None
    ) -> BucketInfo:
        """Make an empty bucket. Raises Conflict (BucketAlreadyOwnedByYou, BucketAlreadyExists)."""
        info = BucketInfo(name, int(clock.wall() * 1000), owner, dict(attributes or {}))

        def operation(transaction: Transaction) -> BucketInfo:
            row = transaction.db.execute("SELECT owner FROM buckets WHERE name=?", (name,)).fetchone()
            if row is not None:
                kind = "BucketAlreadyOwnedByYou" if row[0] == owner else "BucketAlreadyExists"
                raise Conflict(f"the bucket {name!r} exists already", kind=kind, details={"BucketName": name})
            if transaction.db.execute("SELECT count(*) FROM buckets").fetchone()[0] >= STORE_BUCKETS_MAX:
                raise Invalid(f"a store holds at most {STORE_BUCKETS_MAX} buckets", kind="TooManyBuckets")
            transaction.db.execute(
                "INSERT INTO buckets(name, created_ms, owner, attributes) VALUES(?,?,?,?)",
                (info.name, info.created_ms, info.owner, pack_texts(info.attributes) or b"\x80"),
            )
            transaction.words.append(BINDINGS)
            return info

        return await self._engine.apply(operation)

    async def delete_bucket(self, name: str) -> None:
        """Remove an empty bucket with its documents and unfinished uploads.

        Raises NotFound (NoSuchBucket), Conflict (BucketNotEmpty).
        """

        def operation(transaction: Transaction) -> None:
            db = transaction.db
            number = bucket_id(db, name)
            if db.execute("SELECT 1 FROM objects WHERE bucket=? LIMIT 1", (number,)).fetchone():
                raise Conflict(f"the bucket {name!r} is not empty", kind="BucketNotEmpty", details={"BucketName": name})
            for (upload,) in db.execute("SELECT id FROM uploads WHERE bucket=?", (number,)).fetchall():
                for (extents,) in db.execute("SELECT extents FROM parts WHERE upload=?", (upload,)).fetchall():
                    transaction.discard(unpack_pieces(extents))
                db.execute("DELETE FROM parts WHERE upload=?", (upload,))
            for table in ("uploads", "completed", "documents"):
                db.execute(f"DELETE FROM {table} WHERE bucket=?", (number,))  # noqa: S608 - fixed names
            db.execute("DELETE FROM buckets WHERE id=?", (number,))
            transaction.words.append(BINDINGS)

        await self._engine.apply(operation)

    def bucket_now(self, name: str) -> BucketInfo | None:
        """The bucket, or None; quick enough (10 us) to be called on the loop."""
        row = self._read("SELECT name, created_ms, owner, attributes FROM buckets WHERE name=?", name)
        return BucketInfo(*row[0][:3], unpack_texts(row[0][3])) if row else None

    async def bucket_info(self, name: str) -> BucketInfo:
        """The bucket. Raises NotFound (NoSuchBucket)."""
        info = self.bucket_now(name)
        if info is None:
            raise no_such_bucket(name)
        return info

    async def buckets(self) -> list[BucketInfo]:
        """All buckets by name."""
        rows = self._read("SELECT name, created_ms, owner, attributes FROM buckets ORDER BY name")
        return [BucketInfo(*row[:3], unpack_texts(row[3])) for row in rows]

    def document_now(self, bucket: str, kind: str) -> str | None:
        """A bucket-level document (policy, tagging, acl, cors, ...), or None; quick enough for the loop."""
        rows = self._read(
            "SELECT body FROM documents WHERE bucket=(SELECT id FROM buckets WHERE name=?) AND kind=?", bucket, kind
        )
        return str(rows[0][0]) if rows else None

    async def get_document(self, bucket: str, kind: str) -> str | None:
        """A bucket-level document, or None. Raises NotFound (NoSuchBucket)."""
        await self.bucket_info(bucket)
        return self.document_now(bucket, kind)

    async def put_document(self, bucket: str, kind: str, body: str) -> None:
        """Store a bucket-level document. Raises NotFound, Invalid (too large)."""
        if len(body.encode()) > STORE_DOCUMENT_BYTES_MAX:
            raise Invalid(f"the {kind} document is larger than {STORE_DOCUMENT_BYTES_MAX} bytes")

        def operation(transaction: Transaction) -> None:
            number = bucket_id(transaction.db, bucket)
            transaction.db.execute("INSERT OR REPLACE INTO documents VALUES(?,?,?)", (number, kind, body))
            transaction.words.append(BINDINGS)

        await self._engine.apply(operation)

    async def delete_document(self, bucket: str, kind: str) -> None:
        """Remove a bucket-level document; no error when there is none. Raises NotFound (NoSuchBucket)."""

        def operation(transaction: Transaction) -> None:
            number = bucket_id(transaction.db, bucket)
            transaction.db.execute("DELETE FROM documents WHERE bucket=? AND kind=?", (number, kind))
            transaction.words.append(BINDINGS)

        await self._engine.apply(operation)

    def _read(self, statement: str, *values: str) -> list[tuple[str, int, str, bytes]]:
        return self._engine.read_now(lambda db: db.execute(statement, values).fetchall())
