"""The index: digest of a block's name -> where it lies; digest of an object -> its metadata.

An LMDB file that the agent alone writes, in batched commits, and every worker reads without a lock.
It is a derived thing: it is not synced to disk, which a killed process cannot harm but a crash of
the machine can. `state.json` beside it says by whom and in which boot it was last in use; when that
leaves a doubt the block part is rebuilt from the segments. Rules kept here: no read transaction
outlives a call, so none spans an await; one environment per process, opened after fork; the map is
a sparse 64 GiB that never grows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import lmdb
import msgspec

from headrace.base.errors import Invalid, Unavailable
from headrace.base.limits import INDEX_MAP_BYTES, INDEX_READERS_MAX
from headrace.media.frames import object_digest
from headrace.media.layout import Entry, Location, unpack_location
from headrace.media.segments import sync_folder
from headrace.model.objects import ObjectInfo

_FORMAT = 1
_MAPPING_FILE = "data.mdb"


class MetaRecord(msgspec.Struct, frozen=True, array_like=True):
    """What is known of an object: its state at the origin when it was asked at `fetched_wall`."""

    binding: str
    key: str
    info: ObjectInfo
    fetched_wall: float


class PutBlock(NamedTuple):
    """Say where a block lies. The frame must be committed already."""

    digest: bytes
    location: Location


class DropBlock(NamedTuple):
    """Forget a block; with `segment_id` only if it still lies there."""

    digest: bytes
    segment_id: int | None = None


class PutMeta(NamedTuple):
    """Set an object's metadata."""

    record: MetaRecord


class DropMeta(NamedTuple):
    """Forget an object's metadata."""

    binding: str
    key: str


Change = PutBlock | DropBlock | PutMeta | DropMeta

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MetaRecord).decode


class IndexReader:
    """The index as a worker sees it. Open it after fork, once per process.

    Raises Unavailable (kind IndexMissing) until the agent made the index.
    """

    def __init__(self, path: Path, *, map_bytes: int = INDEX_MAP_BYTES) -> None:
        self.path = path
        try:
            self._environment = _open(path, map_bytes, readonly=True)
            self._file = _identity(path)
            self._blocks = self._environment.open_db(b"blocks", create=False)
            self._meta = self._environment.open_db(b"meta", create=False)
        except (lmdb.Error, OSError) as error:
            raise Unavailable(f"no index to read at {path}: {error}", kind="IndexMissing") from error
        self._begin: Callable[..., lmdb.Transaction[memoryview]] = self._environment.begin

    def block(self, digest: bytes) -> Location | None:
        """Where the block with this digest lies. Compare the frame's full name once before use."""
        transaction = self._begin(db=self._blocks, buffers=True)
        try:
            value = transaction.get(digest)
            return None if value is None else unpack_location(value)
        finally:
            transaction.abort()

    def blocks(self, digests: Sequence[bytes]) -> list[Location | None]:
        """As `block`, for several at once."""
        transaction = self._begin(db=self._blocks, buffers=True)
        try:
            values = map(transaction.get, digests)
            return [None if value is None else unpack_location(value) for value in values]
        finally:
            transaction.abort()

    def meta(self, binding: str, key: str) -> MetaRecord | None:
        """The metadata of an object; its full name is compared."""
        transaction = self._begin(db=self._meta, buffers=True)
        try:
            value = transaction.get(object_digest(binding, key))
            if value is None:
                return None
            record = _decode(value)
        finally:
            transaction.abort()
        return record if record.key == key and record.binding == binding else None

    def block_count(self) -> int:
        """How many blocks are indexed."""
        with self._environment.begin() as transaction:
            return int(transaction.stat(self._blocks)["entries"])

    def stale(self) -> bool:
        """True when the agent replaced the index file: close this reader and open another."""
        return _identity(self.path) != self._file

    def close(self) -> None:
        """Unmap the index."""
        self._environment.close()


class IndexWriter(IndexReader):
    """The index as its only writer sees it; also reads.

    `state` says what was found: "clean" (use it), "killed" (this boot, a writer that did not close:
    every entry is good, frames committed last may be missing) or "doubtful" (replaced by an empty one:
    rebuild it). It may serve as the reader too: LMDB opens a file only once per process.
    Raises Unavailable when the directory cannot be used.
    """

    def __init__(self, path: Path, *, boot_id: str, map_bytes: int = INDEX_MAP_BYTES) -> None:
        self.path = path
        self.boot_id = boot_id
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.state = _judge(path, boot_id)
            if self.state == "doubtful":
                _remove(path)  # never walked: pages that a crash tore can lead LMDB anywhere
            try:
                self._attach(map_bytes)
            except lmdb.Error:
                self.state = "doubtful"
                _remove(path)
                self._attach(map_bytes)
            _write_state(path, boot_id, clean=False)
        except (lmdb.Error, OSError) as error:
            raise Unavailable(f"cannot use the index at {path}: {error}", kind="IndexFailed") from error
        self._begin = self._environment.begin

    def _attach(self, map_bytes: int) -> None:
        self._environment = _open(self.path, map_bytes, readonly=False)
        self._file = _identity(self.path)
        self._blocks = self._environment.open_db(b"blocks")
        self._meta = self._environment.open_db(b"meta")
        self._environment.reader_check()

    def apply(self, changes: Iterable[Change]) -> None:
        """Carry out all changes in one commit, all or none.

        Raises Unavailable (kind IndexFull, IndexFailed), Invalid (a record that cannot be stored).
        """
        try:
            with self._environment.begin(write=True) as transaction:
                for change in changes:
                    self._change(transaction, change)
        except lmdb.MapFullError as error:
            raise Unavailable(f"the index at {self.path} is full: {error}", kind="IndexFull") from error
        except lmdb.Error as error:
            raise Unavailable(f"the index at {self.path} failed: {error}", kind="IndexFailed") from error

    def put_blocks(self, blocks: Iterable[tuple[bytes, bytes]]) -> None:
        """Put many (digest, packed location) pairs in one commit; sorted ones go in fastest.

        Raises Unavailable (kind IndexFull, IndexFailed).
        """
        try:
            with self._environment.begin(self._blocks, write=True) as transaction, transaction.cursor() as cursor:
                cursor.putmulti(blocks)
        except lmdb.MapFullError as error:
            raise Unavailable(f"the index at {self.path} is full: {error}", kind="IndexFull") from error
        except lmdb.Error as error:
            raise Unavailable(f"the index at {self.path} failed: {error}", kind="IndexFailed") from error

    def drop_segment(self, segment_id: int, entries: Iterable[Entry] | None = None) -> int:
        """Forget the blocks that lie in a segment; call it before the file is unlinked.

        `entries` are the segment's frames (`Tier.entries`); a block that was re-appended elsewhere is
        kept. None, when they cannot be read, walks the whole index (a quarter second per million).
        Returns how many were dropped. Raises Unavailable.
        """
        digests = self._digests_in(segment_id) if entries is None else [entry.digest for entry in entries]
        before = self.block_count()
        self.apply([DropBlock(digest, segment_id) for digest in digests])
        return before - self.block_count()

    def clear(self) -> None:
        """Forget everything, in one commit. Raises Unavailable."""
        try:
            with self._environment.begin(write=True) as transaction:
                transaction.drop(self._blocks, delete=False)
                transaction.drop(self._meta, delete=False)
        except lmdb.Error as error:
            raise Unavailable(f"the index at {self.path} failed: {error}", kind="IndexFailed") from error

    def reader_check(self) -> int:
        """Clear the slots of readers that died; returns how many. Call it every second or so."""
        return self._environment.reader_check()

    def close(self, *, clean: bool = False) -> None:
        """Unmap; `clean` (all segments sealed) also syncs, so that the next start trusts the index."""
        if clean:
            self._environment.sync(True)
            sync_folder(self.path)
        self._environment.close()
        if clean:
            _write_state(self.path, self.boot_id, clean=True)

    def _change(self, transaction: lmdb.Transaction, change: Change) -> None:
        if isinstance(change, PutBlock):
            transaction.put(change.digest, change.location.pack(), db=self._blocks)
        elif isinstance(change, PutMeta):
            record = change.record
            try:
                value = _encode(record)
            except (UnicodeEncodeError, OverflowError) as error:
                raise Invalid(f"the metadata of {record.key!r} cannot be stored: {error}") from error
            transaction.put(object_digest(record.binding, record.key), value, db=self._meta)
        elif isinstance(change, DropBlock):
            if change.segment_id is not None:
                found = transaction.get(change.digest, db=self._blocks)
                if found is None or unpack_location(found).segment_id != change.segment_id:
                    return
            transaction.delete(change.digest, db=self._blocks)
        else:
            transaction.delete(object_digest(change.binding, change.key), db=self._meta)

    def _digests_in(self, segment_id: int) -> list[bytes]:
        with self._environment.begin(self._blocks) as transaction, transaction.cursor() as cursor:
            return [bytes(key) for key, value in cursor if unpack_location(value).segment_id == segment_id]


def _open(path: Path, map_bytes: int, *, readonly: bool) -> lmdb.Environment:
    return lmdb.open(
        str(path),
        map_size=map_bytes,
        max_dbs=4,
        max_readers=INDEX_READERS_MAX,
        max_spare_txns=4,
        readonly=readonly,
        create=not readonly,
        lock=True,
        sync=False,
        metasync=False,
        writemap=False,
        readahead=False,
        mode=0o600,
    )


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = (path / _MAPPING_FILE).stat()
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def _remove(path: Path) -> None:
    for name in (_MAPPING_FILE, "lock.mdb"):
        (path / name).unlink(missing_ok=True)


def _judge(path: Path, boot_id: str) -> str:
    try:
        state = json.loads((path / "state.json").read_bytes())
        if state["format"] != _FORMAT or not (path / _MAPPING_FILE).exists():
            return "doubtful"
        if state["clean"] is True:
            return "clean"
        return "killed" if state["boot_id"] == boot_id else "doubtful"
    except (OSError, ValueError, KeyError, TypeError):
        return "doubtful"


def _write_state(path: Path, boot_id: str, *, clean: bool) -> None:
    temporary = path / "state.json.new"
    with temporary.open("w") as file:
        json.dump({"format": _FORMAT, "boot_id": boot_id, "clean": clean}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path / "state.json")
    sync_folder(path)
