"""The embedded store's catalogue: SQLite in WAL mode, one writer at a time, with group commit.

Writes are operations `op(transaction) -> result`. Whichever thread brings one while no commit is
running becomes the leader: it runs all operations that wait in one transaction, commits (one fsync
for all), stamps the words of the keys that changed, and only then lets anyone be answered. Workers
in other processes take turns by SQLite's own write lock.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from headrace.base import clock
from headrace.base.errors import Busy, HeadraceError, Invalid, Unavailable
from headrace.base.limits import (
    STORE_COMMIT_SECONDS_MAX,
    STORE_GROUP_WRITES_MAX,
    STORE_LOCK_SECONDS_MAX,
    STORE_LOG_BYTES,
    STORE_TRASH_NAMES_MAX,
)
from headrace.origin.bodies import Bodies, Piece, sync_folder
from headrace.origin.local import waited
from headrace.wire.words import Words

T = TypeVar("T")
FORMAT = 1
_CHECKPOINT_PAGES = 1000
_CHECKPOINT_COMMITS = 200
_LOW_WATER_STEP = 512
_SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets(
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, created_ms INTEGER NOT NULL,
  owner TEXT NOT NULL, attributes BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS documents(
  bucket INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY(bucket, kind)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects(
  bucket INTEGER NOT NULL, key BLOB NOT NULL, etag TEXT NOT NULL, modified_ms INTEGER NOT NULL,
  size INTEGER NOT NULL, token TEXT NOT NULL, owner TEXT NOT NULL, attributes BLOB, extents BLOB, parts BLOB,
  PRIMARY KEY(bucket, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uploads(
  bucket INTEGER NOT NULL, key BLOB NOT NULL, id TEXT NOT NULL UNIQUE, created_ms INTEGER NOT NULL,
  owner TEXT NOT NULL, attributes BLOB, algorithm TEXT NOT NULL, checksum_type TEXT NOT NULL,
  PRIMARY KEY(bucket, key, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts(
  upload TEXT NOT NULL, number INTEGER NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
  modified_ms INTEGER NOT NULL, checksums BLOB, extents BLOB, PRIMARY KEY(upload, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS completed(
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, bucket INTEGER NOT NULL, key BLOB NOT NULL,
  etag TEXT NOT NULL, modified_ms INTEGER NOT NULL, size INTEGER NOT NULL, token TEXT NOT NULL,
  owner TEXT NOT NULL, attributes BLOB, parts BLOB);
CREATE TABLE IF NOT EXISTS trash(body TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions(session TEXT PRIMARY KEY, low_water INTEGER NOT NULL) WITHOUT ROWID;
"""


class Transaction:
    """What an operation may use: the connection, and what shall happen after the commit."""

    __slots__ = ("bodies", "db", "discarded", "settled", "words")

    def __init__(self, db: sqlite3.Connection, bodies: Bodies) -> None:
        self.db = db
        self.bodies = bodies
        self.words: list[int] = []
        self.discarded: list[str] = []
        self.settled: list[str] = []

    def discard(self, pieces: Iterable[Piece]) -> None:
        """Unlink these bodies after the commit; a crash in between is mended at the next start."""
        for piece in pieces:
            self.db.execute("INSERT OR IGNORE INTO trash VALUES(?)", (piece.name,))
            self.discarded.append(piece.name)

    def adopt(self, pieces: Iterable[Piece]) -> None:
        """These bodies belong to the catalogue once this commits."""
        self.settled.extend(piece.name for piece in pieces)

    def mark(self) -> tuple[int, int, int]:
        """How much was noted so far, for `reset`."""
        return len(self.words), len(self.discarded), len(self.settled)

    def reset(self, mark: tuple[int, int, int]) -> None:
        """Forget what was noted since `mark`."""
        del self.words[mark[0] :], self.discarded[mark[1] :], self.settled[mark[2] :]


class _Ticket:
    """One waiting write and the way to answer it."""

    __slots__ = ("answer", "error", "operation", "result")

    def __init__(self, operation: Callable[[Transaction], Any], answer: Callable[[Any, BaseException | None], None]):
        self.operation = operation
        self.answer = answer
        self.result: Any = None
        self.error: BaseException | None = None


def translate(error: Exception) -> Exception:
    """SQLite's and the system's errors as headrace's; others as they are."""
    if not isinstance(error, (sqlite3.Error, OSError)):
        return error
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return Unavailable("no space left for the catalogue: free some space or grow the file system")
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return Busy("the catalogue is busy: another process has been writing for too long")
    return Unavailable(f"the catalogue failed: {error}")


class Catalogue:
    """One process's access to `catalogue.db`."""

    def __init__(self, root: Path, bodies: Bodies, words: Words | None) -> None:
        self._path = root / "catalogue.db"
        self._bodies = bodies
        self._words = words
        self._tickets: deque[_Ticket] = deque()
        self._leading = threading.Lock()
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._cleared: deque[str] = deque(maxlen=STORE_TRASH_NAMES_MAX)
        self._trash: queue.Queue[str | None] = queue.Queue(STORE_TRASH_NAMES_MAX)
        self._pause = threading.Event()
        self._commits = 0
        self._low_water = 0
        self._closed = False
        self._overflowed = True  # an earlier process may have left some
        self._writer = self._connect()
        self._prepare(root)
        self._reaper = threading.Thread(target=self._reap, name="store-reaper", daemon=True)
        self._reaper.start()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, cached_statements=64)
        db.execute("PRAGMA busy_timeout=5000")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA cache_size=-2000")
        return db

    def _prepare(self, root: Path) -> None:
        db = self._writer
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            db.execute("PRAGMA cache_size=-8000")
            self._begin(db)
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, FORMAT):
                db.execute("ROLLBACK")
                raise Invalid(f"{self._path} has format {version}; this headrace reads {FORMAT}: use a newer headrace")
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={FORMAT}")
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise translate(error) from error
        db.execute("PRAGMA busy_timeout=0")
        sync_folder(root)

    def lengthen_log(self) -> None:
        """Fill SQLite's log with zeros up to its usual length, so that commits need not grow the file.

        Growing it costs each fsync a journal commit of the file system. Done under the write lock, when
        nobody appends; what lies beyond the last frame has no meaning to SQLite until it is written.
        """

        def operation(_: Transaction) -> None:
            path = self._path.with_name("catalogue.db-wal")
            with path.open("r+b", buffering=0) as log:
                size = log.seek(0, 2)
                if size < STORE_LOG_BYTES:
                    log.write(bytes(STORE_LOG_BYTES - size))
                    os.fsync(log.fileno())

        self.write(operation)

    def reader(self) -> sqlite3.Connection:
        """This thread's own connection for reads; each statement sees the latest commit."""
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            if self._closed:
                raise Unavailable("the store is closed")
            db = self._connect()
            db.execute("PRAGMA query_only=1")
            self._local.db = db
            self._readers.append(db)
        return db

    def submit(
        self, operation: Callable[[Transaction], T], answer: Callable[[Any, BaseException | None], None]
    ) -> None:
        """Run the operation in a coming transaction; `answer(result, error)` is called when it is durable.

        Blocks as the leader for as long as operations wait. Never raises.
        """
        self._tickets.append(_Ticket(operation, answer))
        while self._tickets and self._leading.acquire(blocking=False):
            try:
                while self._tickets:
                    self._commit_group(self._take())
            finally:
                self._leading.release()

    def write(self, operation: Callable[[Transaction], T]) -> T:
        """`submit` and wait, for threads that have no loop. Raises what the operation raised."""
        done = threading.Event()
        outcome: list[Any] = [None, None]

        def answer(result: Any, error: BaseException | None) -> None:
            outcome[:] = [result, error]
            done.set()

        self.submit(operation, answer)
        if not done.wait(STORE_COMMIT_SECONDS_MAX):
            raise Unavailable("the catalogue did not answer in time; the outcome of the write is unknown")
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    async def apply(self, run: Callable[[Callable[[], None]], object], operation: Callable[[Transaction], T]) -> T:
        """`submit` from a loop; `run` starts a callable on a pool thread."""
        result: T = await waited(lambda answer: run(lambda: self.submit(operation, answer)))
        return result

    def close(self) -> None:
        """Finish the reaper and close every connection; the last process to close folds the log in."""
        self._closed = True
        self._trash.put(None)
        self._reaper.join(STORE_COMMIT_SECONDS_MAX)
        with contextlib.suppress(sqlite3.Error, HeadraceError), self._leading:
            self._begin(self._writer)
            while self._cleared:
                self._note_cleared()
            self._writer.execute("DELETE FROM sessions WHERE session=?", (self._bodies.session,))
            self._writer.execute("COMMIT")
        for db in (*self._readers, self._writer):
            db.close()

    # -- the leader's part

    def _take(self) -> list[_Ticket]:
        group: list[_Ticket] = []
        while self._tickets and len(group) < STORE_GROUP_WRITES_MAX:
            group.append(self._tickets.popleft())
        return group

    def _begin(self, db: sqlite3.Connection) -> None:
        """Take SQLite's write lock; raises Busy after `STORE_LOCK_SECONDS_MAX`."""
        deadline = 0.0
        pause = 0.0001
        while True:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) and "busy" not in str(error):
                    raise
                now = clock.steady()
                deadline = deadline or now + STORE_LOCK_SECONDS_MAX
                if now > deadline:
                    raise translate(error) from error
                self._pause.wait(pause)
                pause = min(pause * 1.5, 0.002)
            else:
                return

    def _commit_group(self, group: list[_Ticket]) -> None:
        transaction = Transaction(self._writer, self._bodies)
        try:
            self._begin(self._writer)
            for ticket in group:
                self._run_one(transaction, ticket, alone=len(group) == 1)
            self._note_cleared()
            self._note_low_water()
            self._writer.execute("COMMIT")
        except Exception as error:
            with contextlib.suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            for ticket in group:
                ticket.answer(None, ticket.error or translate(error))
            return
        if self._words is not None:
            for word in transaction.words:
                self._words.stamp(word)
        for name in transaction.settled:
            self._bodies.settle(name)
        self._commits += 1
        for ticket in group:
            ticket.answer(ticket.result, ticket.error)
        for name in transaction.discarded:
            try:
                self._trash.put_nowait(name)
            except queue.Full:  # the reaper reads the rest from the table when it comes to it
                self._overflowed = True

    def _run_one(self, transaction: Transaction, ticket: _Ticket, alone: bool) -> None:
        """One operation; its failure undoes only itself, unless SQLite gave up the transaction."""
        db = self._writer
        mark = transaction.mark()
        if not alone:
            db.execute("SAVEPOINT one")
        try:
            ticket.result = ticket.operation(transaction)
        except Exception as error:
            ticket.error = translate(error)
            transaction.reset(mark)
            if alone or not db.in_transaction:
                raise ticket.error from error
            db.execute("ROLLBACK TO one")
        if not alone:
            db.execute("RELEASE one")

    def _note_cleared(self) -> None:
        """Forget trash that is unlinked by now, in the same transaction as other work."""
        names = [(self._cleared.popleft(),) for _ in range(min(len(self._cleared), STORE_GROUP_WRITES_MAX))]
        if names:
            self._writer.executemany("DELETE FROM trash WHERE body=?", names)

    def _note_low_water(self) -> None:
        """Note now and then below which number all bodies of this session are settled."""
        low = self._bodies.low_water()
        if low >= self._low_water + _LOW_WATER_STEP:
            self._low_water = low
            self._writer.execute("INSERT OR REPLACE INTO sessions VALUES(?,?)", (self._bodies.session, low))

    # -- the reaper's part

    def _reap(self) -> None:
        """Unlink discarded bodies and fold the log into the database, away from whoever waits."""
        db = self._connect()
        folded = 0
        while (name := self._trash_next()) is not None or not self._closed:
            if name:
                with contextlib.suppress(OSError):
                    self._bodies.remove(name)
                    self._cleared.append(name)
            elif self._overflowed and not self._closed:
                self._overflowed = False
                try:
                    self._empty_table(db)
                except (OSError, sqlite3.Error, HeadraceError):
                    self._overflowed = True  # tried again when a second passed
            if self._commits - folded >= _CHECKPOINT_COMMITS:
                folded = self._commits
                with contextlib.suppress(sqlite3.Error):
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        db.close()

    def _empty_table(self, db: sqlite3.Connection) -> None:
        """Unlink what the trash table names, which no queue may hold any more. Raises OSError and others."""
        last = ""
        while not self._closed:
            page = "SELECT body FROM trash WHERE body>? ORDER BY body LIMIT ?"
            rows = db.execute(page, (last, STORE_GROUP_WRITES_MAX)).fetchall()
            if not rows:
                return
            for (last,) in rows:
                self._bodies.remove(last)
            self.write(lambda transaction: transaction.db.executemany("DELETE FROM trash WHERE body=?", rows))  # noqa: B023 - waited for

    def _trash_next(self) -> str | None:
        """The next name to unlink; "" when there was none for a second."""
        try:
            return self._trash.get(timeout=1.0)
        except queue.Empty:
            return ""
