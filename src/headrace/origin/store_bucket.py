"""One bucket of the embedded store, as an origin."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Mapping

from headrace.base.errors import Conflict
from headrace.model.objects import NO_CONDITIONS, Attributes, Conditions, ObjectInfo, Version
from headrace.origin.base import Located, Opened, Origin, Page, Upload
from headrace.origin.bodies import EMPTY_MD5, BodyWriter
from headrace.origin.catalogue import Transaction
from headrace.origin.conditions import check_read, check_write, key_bytes, no_such_key, resolve_range
from headrace.origin.engine import Engine
from headrace.origin.local import cut, open_all, read_extents
from headrace.origin.rows import bucket_id, find_by_id, list_objects, pack_attributes, unpack_pieces
from headrace.origin.store_objects import LOCATE_TRIES, body_lost, find_now, link_all, locate_now
from headrace.origin.uploads import StoreUploads
from headrace.wire.words import stripe


class StoreBucket(StoreUploads, Origin):
    """Objects of one bucket; its multipart uploads are in `StoreUploads`."""

    local = True

    def __init__(self, engine: Engine, name: str) -> None:
        super().__init__(engine, name)
        self.url = f"store://{engine.path}#{name}"

    # -- reading

    def locate_now(self, key: str) -> Located:
        """`locate`, callable on the loop: one indexed SELECT. Raises NotFound."""
        return locate_now(self._engine, self.name, key)

    async def locate(self, key: str) -> Located:
        """Where the bytes lie: one extent, or one per part. Raises NotFound."""
        return locate_now(self._engine, self.name, key)

    async def head(self, key: str) -> ObjectInfo:
        """The object's current state. Raises NotFound (NoSuchKey, NoSuchBucket)."""
        return find_now(self._engine, self.name, key).info

    async def open(
        self, key: str, start: int = 0, stop: int | None = None, conditions: Conditions = NO_CONDITIONS
    ) -> Opened:
        """Start reading; the bytes stay those of the version found, whatever happens to the key."""
        for _ in range(LOCATE_TRIES):
            info, extents = locate_now(self._engine, self.name, key)
            check_read(info, conditions)
            first, last = resolve_range(info.size, start, stop)
            wanted = cut(extents, first, last)
            try:
                descriptors = open_all(wanted)
            except FileNotFoundError:
                continue  # replaced between the look-up and the open: look again
            return Opened(info, first, last - first, read_extents(self._engine.read_pool, wanted, descriptors))
        raise body_lost(key)

    async def list(self, prefix: str = "", *, after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        """One page in byte order. Raises NotFound (NoSuchBucket)."""

        def read(db: sqlite3.Connection) -> Page:
            return list_objects(db, bucket_id(db, self.name), prefix, after, delimiter, limit)

        return await self._engine.in_read_pool(read)

    # -- writing

    async def put(self, key: str, upload: Upload, conditions: Conditions = NO_CONDITIONS) -> ObjectInfo:
        """Store the body; durable on return. The ETag is its MD5 unless the upload brings one."""
        key_bytes(key)

        def prepare() -> Callable[[Transaction, BodyWriter | None], ObjectInfo]:
            attributes, etag = upload.attributes, upload.etag

            def operation(transaction: Transaction, writer: BodyWriter | None) -> ObjectInfo:
                digest = etag or (EMPTY_MD5 if writer is None else writer.md5)
                size = 0 if writer is None else writer.size
                version = Version(digest, 0, size, self._engine.bodies.token())
                info = ObjectInfo(key=key, version=version, attributes=attributes)
                return self.put_into(transaction, info, [] if writer is None else [writer.piece], conditions)

            return operation

        return await self._engine.store(upload, prepare)

    async def delete(
        self,
        key: str,
        conditions: Conditions = NO_CONDITIONS,
        *,
        size: int | None = None,
        modified_seconds: int | None = None,
    ) -> None:
        """Remove the object; no error when there is none, whatever the conditions.

        `size` and `modified_seconds` are further conditions (S3's x-amz-if-match-size and
        x-amz-if-match-last-modified-time). Raises Conflict, NotFound (NoSuchBucket).
        """
        encoded = key_bytes(key)

        def operation(transaction: Transaction) -> None:
            number = bucket_id(transaction.db, self.name)
            row = transaction.db.execute(
                "SELECT etag, modified_ms, size, extents FROM objects WHERE bucket=? AND key=?", (number, encoded)
            ).fetchone()
            if row is None:
                return
            check_write(key, row[0], row[1], conditions)
            if size not in (None, row[2]) or modified_seconds not in (None, row[1] // 1000):
                raise Conflict("at least one of the preconditions did not hold", kind="PreconditionFailed")
            transaction.discard(unpack_pieces(row[3]))
            transaction.db.execute("DELETE FROM objects WHERE bucket=? AND key=?", (number, encoded))
            transaction.words.append(stripe(self.name, key))

        await self._engine.apply(operation)

    async def set_tags(self, key: str, tags: Mapping[str, str]) -> ObjectInfo:
        """Replace the object's tags. Raises NotFound."""
        return await self._change(key, lambda present: dataclasses.replace(present, tags=dict(tags)))

    async def set_acl(self, key: str, acl: str) -> ObjectInfo:
        """Replace the object's canned ACL. Raises NotFound."""
        return await self._change(key, lambda present: dataclasses.replace(present, acl=acl))

    async def _change(self, key: str, change: Callable[[Attributes], Attributes]) -> ObjectInfo:
        """Replace the attributes in a transaction; the version gets a new token, but no new date."""
        encoded = key_bytes(key)

        def operation(transaction: Transaction) -> ObjectInfo:
            number = bucket_id(transaction.db, self.name)
            found = find_by_id(transaction.db, number, key, encoded)
            if found is None:
                raise no_such_key(key)
            attributes = change(found.info.attributes)
            version = found.info.version._replace(token=self._engine.bodies.token())
            transaction.db.execute(
                "UPDATE objects SET token=?, owner=?, attributes=? WHERE bucket=? AND key=?",
                (version.token, attributes.owner, pack_attributes(attributes), number, encoded),
            )
            transaction.words.append(stripe(self.name, key))
            return dataclasses.replace(found.info, version=version, attributes=attributes)

        return await self._engine.apply(operation)

    async def copy_from(
        self,
        source: StoreBucket,
        source_key: str,
        key: str,
        attributes: Attributes | None = None,
        conditions: Conditions = NO_CONDITIONS,
        source_conditions: Conditions = NO_CONDITIONS,
    ) -> ObjectInfo:
        """Copy an object of the same store by hard links; no byte is read.

        The ETag stays (also that of an object uploaded in parts, which the copy no longer is) and so
        do checksums, unless `attributes` brings its own; attributes None keeps all of the source's.
        Raises NotFound, Conflict.
        """
        key_bytes(key)
        for _ in range(LOCATE_TRIES):
            present, pieces = find_now(self._engine, source.name, source_key)
            check_read(present, source_conditions)
            try:
                linked = await self._engine.in_write_pool(lambda: link_all(self._engine.bodies, pieces))  # noqa: B023 - awaited here
            except FileNotFoundError:
                continue  # the source was replaced meanwhile: copy what it is now
            said = present.attributes if attributes is None else attributes
            if not said.checksums:
                said = dataclasses.replace(
                    said, checksums=present.attributes.checksums, checksum_type=present.attributes.checksum_type
                )
            version = present.version._replace(modified_ms=0, token=self._engine.bodies.token())
            return await self.adopt_linked(ObjectInfo(key=key, version=version, attributes=said), linked, conditions)
        raise body_lost(source_key)
