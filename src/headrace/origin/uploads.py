"""Multipart uploads of the embedded store. Completing one copies nothing: the parts' files become extents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from headrace.base import clock
from headrace.base.errors import Busy, Invalid, Unavailable
from headrace.base.rng import token_hex
from headrace.model.objects import NO_ATTRIBUTES, NO_CONDITIONS, Attributes, Conditions, ObjectInfo, PartInfo, Version
from headrace.origin.base import Located, Upload
from headrace.origin.bodies import EMPTY_MD5, BodyWriter, Piece
from headrace.origin.catalogue import Transaction
from headrace.origin.checksums import ALGORITHMS, Checksum, default_type
from headrace.origin.complete import CompletePart, check_expected, choose, object_checksums, version_of
from headrace.origin.conditions import key_bytes, resolve_range
from headrace.origin.local import cut
from headrace.origin.part_copy import copy_extents
from headrace.origin.rows import bucket_id, unpack_pieces
from headrace.origin.store_objects import StoreObjects, remove_all
from headrace.origin.upload_rows import (
    DELIVERED,
    PartPage,
    UploadInfo,
    UploadPage,
    add_upload,
    check_part_number,
    drop_completed,
    drop_upload,
    find_completed,
    find_upload,
    list_part_rows,
    list_upload_rows,
    mark_delivered,
    no_such_upload,
    note_completed,
    store_part,
    stored_parts,
)
from headrace.wire.words import stripe

_NONE: Mapping[str, str] = {}
_IMPOSSIBLE = {("sha1", "FULL_OBJECT"), ("sha256", "FULL_OBJECT"), ("crc64nvme", "COMPOSITE")}


class StoreUploads(StoreObjects):
    """Multipart uploads of one bucket.

    A `key` that may be None is checked against the upload's own when given.
    """

    async def create_upload(
        self, key: str, attributes: Attributes = NO_ATTRIBUTES, algorithm: str = "", checksum_type: str = ""
    ) -> str:
        """Begin an upload; returns its id.

        `algorithm` as in `Attributes.checksums`, "" for none; `checksum_type` "" takes S3's default.
        Raises NotFound (NoSuchBucket), Invalid (algorithm and type do not go together).
        """
        key_bytes(key)
        if algorithm:
            if algorithm not in ALGORITHMS:
                raise Invalid(f"no such checksum algorithm: {algorithm}")
            checksum_type = checksum_type or default_type(algorithm)
            if (algorithm, checksum_type) in _IMPOSSIBLE:
                raise Invalid(f"the checksum type {checksum_type} cannot be used with {algorithm}")
        now = int(clock.wall() * 1000)
        upload_id = f"{now:012x}{token_hex(16)}"  # ordered by time, so that uploads of one key list in order
        upload = UploadInfo(key, upload_id, now, attributes, algorithm, checksum_type)

        def operation(transaction: Transaction) -> str:
            add_upload(transaction.db, bucket_id(transaction.db, self.name), upload)
            return upload_id

        return await self._engine.apply(operation)

    def upload_now(self, upload_id: str, key: str | None = None) -> UploadInfo:
        """The upload; quick enough for the loop. Raises NotFound (NoSuchUpload, NoSuchBucket)."""
        return self._engine.read_now(lambda db: find_upload(db, bucket_id(db, self.name), upload_id, key))

    async def put_part(self, upload_id: str, number: int, upload: Upload, key: str | None = None) -> PartInfo:
        """Store a part, in place of an earlier one of that number; durable on return.

        Its ETag is its MD5. Its checksum is computed when the upload asked for one and the part
        brings none. Raises NotFound (NoSuchUpload), Invalid.
        """
        check_part_number(number)
        present = self.upload_now(upload_id, key)
        wanted = present.algorithm
        algorithms = [wanted] if wanted and wanted not in upload.attributes.checksums else []

        def prepare() -> Callable[[Transaction, BodyWriter | None], PartInfo]:
            said = dict(upload.attributes.checksums)
            if said and wanted and wanted not in said:
                raise Invalid(f"the upload was begun with {wanted} checksums, this part brings {', '.join(said)}")

            def operation(transaction: Transaction, writer: BodyWriter | None) -> PartInfo:
                if writer is None:
                    nothing = {algorithm: Checksum(algorithm).value() for algorithm in algorithms}
                    return self._place(transaction, upload_id, PartInfo(number, 0, EMPTY_MD5, 0, nothing | said), [])
                part = PartInfo(number, writer.size, writer.md5, 0, writer.checksums | said)
                return self._place(transaction, upload_id, part, [writer.piece])

            return operation

        return await self._engine.store(upload, prepare, algorithms)

    async def copy_part(
        self,
        upload_id: str,
        number: int,
        source: Located,
        start: int = 0,
        stop: int | None = None,
        key: str | None = None,
    ) -> PartInfo:
        """Make bytes [start, stop) of an object on this machine a part; durable on return.

        Raises NotFound (NoSuchUpload), Invalid (InvalidRange), Busy (the source was replaced
        meanwhile: look it up again).
        """
        check_part_number(number)
        present = self.upload_now(upload_id, key)
        first, last = resolve_range(source.info.size, start, stop)
        extents = cut(source.extents, first, last)
        algorithms = [present.algorithm] if present.algorithm else []
        try:
            copied = await self._engine.in_write_pool(lambda: copy_extents(self._engine.bodies, extents, algorithms))
        except FileNotFoundError as error:
            raise Busy("the source of the copy was replaced meanwhile: try again") from error
        part = PartInfo(number, copied.size, copied.md5, 0, copied.checksums)
        try:
            return await self._engine.apply(
                lambda transaction: self._place(transaction, upload_id, part, copied.pieces)
            )
        except Unavailable:
            raise  # the outcome may be unknown: the bodies stay for the sweeper to judge
        except Exception:
            await self._engine.in_write_pool(lambda: remove_all(self._engine.bodies, copied.pieces))
            raise

    def _place(self, transaction: Transaction, upload_id: str, part: PartInfo, pieces: list[Piece]) -> PartInfo:
        """Within a transaction: store the part of an upload that still exists."""
        find_upload(transaction.db, bucket_id(transaction.db, self.name), upload_id)
        return store_part(transaction, upload_id, part, pieces)

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[CompletePart],
        conditions: Conditions = NO_CONDITIONS,
        expected: Mapping[str, str] = _NONE,
        expected_type: str = "",
        expected_size: int | None = None,
    ) -> ObjectInfo:
        """Make the named parts the object, in one transaction; repeating it gives the same answer.

        `expected` are the checksums of the whole that the client names. Raises NotFound
        (NoSuchUpload; NoSuchKey for a failed If-Match), Conflict, Invalid (see `choose` and `check_expected`).
        """

        def operation(transaction: Transaction) -> ObjectInfo:
            db = transaction.db
            number = bucket_id(db, self.name)
            before = find_completed(db, number, upload_id, key)
            if before is not None:
                return before
            upload = find_upload(db, number, upload_id, key)
            chosen = choose(parts, stored_parts(db, upload_id))
            infos = tuple(part.info for part in chosen)
            attributes = dataclasses.replace(
                upload.attributes,
                checksums=object_checksums(upload.algorithm, upload.checksum_type, infos),
                checksum_type=upload.checksum_type,
            )
            version = version_of(infos, self._engine.bodies.token())
            info = ObjectInfo(key=key, version=version, attributes=attributes, parts=infos)
            check_expected(info, expected, expected_type, expected_size)
            pieces = [piece for part in chosen for piece in part.pieces]
            stored = self.put_into(transaction, info, pieces, conditions)
            drop_upload(transaction, upload_id, keep=frozenset(piece.name for piece in pieces))
            note_completed(transaction, number, upload_id, stored)
            return stored

        return await self._engine.apply(operation)

    async def abort_upload(self, upload_id: str, key: str | None = None) -> None:
        """Forget the upload and its parts. Raises NotFound (NoSuchUpload)."""

        def operation(transaction: Transaction) -> None:
            upload = find_upload(transaction.db, bucket_id(transaction.db, self.name), upload_id, key)
            drop_upload(transaction, upload.upload_id)

        await self._engine.apply(operation)

    async def note_delivered(self, key: str, upload_id: str, version: Version) -> None:
        """What the upload became is stored elsewhere: remember that, and remove it here, in one transaction."""

        def operation(transaction: Transaction) -> None:
            number = bucket_id(transaction.db, self.name)
            mark_delivered(transaction.db, number, upload_id)
            self._remove_version(transaction, number, key, version)

        await self._engine.apply(operation)

    async def forget_completed(self, key: str, upload_id: str) -> None:
        """Forget a completed upload and what it became, in one transaction.

        Raises NotFound (NoSuchUpload), also when what it became was delivered elsewhere.
        """

        def operation(transaction: Transaction) -> None:
            number = bucket_id(transaction.db, self.name)
            whole = find_completed(transaction.db, number, upload_id, key)
            if whole is None or whole.version.token == DELIVERED:
                raise no_such_upload(upload_id)
            drop_completed(transaction.db, number, upload_id)
            self._remove_version(transaction, number, key, whole.version)

        await self._engine.apply(operation)

    def _remove_version(self, transaction: Transaction, number: int, key: str, version: Version) -> None:
        """Within a transaction: remove the object, if it still is the one of that version."""
        db, encoded = transaction.db, key_bytes(key)
        row = db.execute("SELECT token, extents FROM objects WHERE bucket=? AND key=?", (number, encoded)).fetchone()
        if row is None or row[0] != version.token:
            return
        transaction.discard(unpack_pieces(row[1]))
        db.execute("DELETE FROM objects WHERE bucket=? AND key=?", (number, encoded))
        transaction.words.append(stripe(self.name, key))

    async def list_parts(self, upload_id: str, after: int = 0, limit: int = 1000, key: str | None = None) -> PartPage:
        """Parts with numbers above `after`. Raises NotFound (NoSuchUpload)."""
        return await self._engine.in_read_pool(
            lambda db: list_part_rows(db, find_upload(db, bucket_id(db, self.name), upload_id, key), after, limit)
        )

    async def list_uploads(
        self,
        prefix: str = "",
        key_marker: str = "",
        upload_id_marker: str = "",
        delimiter: str = "",
        limit: int = 1000,
    ) -> UploadPage:
        """Unfinished uploads by key and age. Raises NotFound (NoSuchBucket)."""
        marker = (key_marker, upload_id_marker)
        return await self._engine.in_read_pool(
            lambda db: list_upload_rows(db, bucket_id(db, self.name), prefix, marker, delimiter, limit)
        )
