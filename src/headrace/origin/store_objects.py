"""What objects and multipart uploads of one store bucket have in common: finding, linking, committing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from headrace.base.errors import Unavailable
from headrace.model.objects import Conditions, Extent, ObjectInfo
from headrace.origin.base import Located
from headrace.origin.bodies import SHARD, Bodies, Piece, unavailable
from headrace.origin.catalogue import Transaction
from headrace.origin.conditions import key_bytes, no_such_bucket, no_such_key
from headrace.origin.engine import Engine
from headrace.origin.rows import Found, bucket_id, find_object, store_object
from headrace.wire.words import stripe

LOCATE_TRIES = 8
"""How often a read looks again when the body it found was replaced before it could be opened."""


def find_now(engine: Engine, bucket: str, key: str) -> Found:
    """The object's row. Raises NotFound (NoSuchKey, NoSuchBucket)."""
    encoded = key_bytes(key)
    found = engine.read_now(lambda db: find_object(db, bucket, key, encoded))
    if found is not None:
        return found
    if not engine.read_now(lambda db: db.execute("SELECT 1 FROM buckets WHERE name=?", (bucket,)).fetchall()):
        raise no_such_bucket(bucket)
    raise no_such_key(key)


def locate_now(engine: Engine, bucket: str, key: str) -> Located:
    """Where an object's bytes lie, by one indexed SELECT (about 20 us). Raises NotFound."""
    info, pieces = find_now(engine, bucket, key)
    path = engine.bodies.path
    return Located(info, tuple([Extent(path(name), offset, length) for name, offset, length in pieces]))


def body_lost(key: str) -> Unavailable:
    """The error for a body that stays missing however often the catalogue is asked."""
    return Unavailable(f"the body of {key!r} cannot be found: the store's files were changed by somebody else")


def link_all(bodies: Bodies, pieces: Sequence[Piece]) -> list[Piece]:
    """Second names for all bodies, durable. Raises FileNotFoundError (one is gone), Unavailable."""
    linked: list[Piece] = []
    try:
        for piece in pieces:
            linked.append(bodies.link(piece))  # noqa: PERF401 - what was linked is removed on failure
        for shard in {piece.name[SHARD]: piece.name for piece in linked}.values():
            bodies.sync_shard(shard)
    except OSError as error:
        remove_all(bodies, linked)
        if isinstance(error, FileNotFoundError):
            raise
        raise unavailable(error, "while linking a body") from error
    return linked


def remove_all(bodies: Bodies, pieces: Sequence[Piece]) -> None:
    """Remove bodies that no object needs."""
    for piece in pieces:
        with contextlib.suppress(OSError):
            bodies.remove(piece.name)


class StoreObjects:
    """One bucket's objects, below the Origin promise."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self._engine = engine

    def put_into(
        self,
        transaction: Transaction,
        info: ObjectInfo,
        pieces: Sequence[Piece],
        conditions: Conditions,
    ) -> ObjectInfo:
        """Within a transaction: make `pieces` the object's body. Raises NotFound, Conflict."""
        stored = store_object(transaction, bucket_id(transaction.db, self.name), info, pieces, conditions)
        transaction.words.append(stripe(self.name, info.key))
        return stored

    async def adopt_linked(self, info: ObjectInfo, pieces: Sequence[Piece], conditions: Conditions) -> ObjectInfo:
        """Make bodies that were linked for it the object `info`; remove them when that fails."""
        try:
            return await self._engine.apply(lambda transaction: self.put_into(transaction, info, pieces, conditions))
        except Unavailable:
            raise  # the outcome may be unknown: the bodies stay for the sweeper to judge
        except Exception:
            await self._engine.in_write_pool(lambda: remove_all(self._engine.bodies, pieces))
            raise
