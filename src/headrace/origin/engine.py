"""The machinery under the embedded store: bodies, catalogue and thread pools, opened and closed as one."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from headrace.base.errors import HeadraceError, Unavailable
from headrace.base.limits import STORE_READ_THREADS_MAX, STORE_THREADS_MAX
from headrace.origin.base import Upload
from headrace.origin.bodies import Bodies, BodyWriter
from headrace.origin.catalogue import Catalogue, Transaction, translate
from headrace.origin.ingest import Ingest, Received
from headrace.origin.local import waited
from headrace.origin.sweep import sweep
from headrace.wire.words import Words

T = TypeVar("T")
Answer = Callable[[Any, BaseException | None], None]
BodyOperation = Callable[[Transaction, BodyWriter | None], T]
"""What to do in the catalogue with a durable body; None stands for an empty one."""


class Engine:
    """One process's opening of a store's folder. Raises Invalid (a newer format), Unavailable."""

    def __init__(self, path: Path, words: Words | None) -> None:
        self.path = path
        self.words = words
        try:
            self.bodies = Bodies(path)
        except OSError as error:
            raise Unavailable(f"the store at {path} cannot be opened: {error}") from error
        try:
            self.catalogue = Catalogue(path, self.bodies, words)
        except (OSError, sqlite3.Error, HeadraceError) as error:
            self.bodies.close()
            raise translate(error) from error
        self._write_pool = ThreadPoolExecutor(STORE_THREADS_MAX, "store-write")
        self.read_pool = ThreadPoolExecutor(STORE_READ_THREADS_MAX, "store-read")
        self._ingest: Ingest[BodyWriter] = Ingest(self._write_pool)
        self._stopping = threading.Event()
        self._sweeper = threading.Thread(
            target=sweep, args=(path, self.bodies, self.catalogue, self._stopping), name="store-sweep", daemon=True
        )
        self._sweeper.start()

    def close(self) -> None:
        """Finish running writes and release everything. Blocks; a second call does nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._write_pool.shutdown()
        self.read_pool.shutdown()
        self._sweeper.join()
        self.catalogue.close()
        self.bodies.close()

    async def apply(self, operation: Callable[[Transaction], T]) -> T:
        """Run an operation in a transaction; returns when it is durable. Raises what it raises."""
        return await self.catalogue.apply(self._write_pool.submit, operation)

    async def store(self, upload: Upload, prepare: Callable[[], BodyOperation[T]], algorithms: Sequence[str] = ()) -> T:
        """Write the body durably, then run the operation that `prepare` returns in a transaction.

        `prepare` is called when the body is exhausted, so the upload's attributes are final. On any
        error but an unknown outcome the body is removed. Raises what body and operation raise.
        """

        def create() -> BodyWriter:
            return BodyWriter(self.bodies, algorithms, upload.md5 or upload.etag)

        received = await self._ingest.receive(upload, create)
        try:
            operation = prepare()
        except BaseException:
            self._ingest.abandon(received)
            raise
        result: T = await waited(
            lambda answer: self._write_pool.submit(self._finish, received, create, operation, answer)
        )
        return result

    def _finish(
        self,
        received: Received[BodyWriter],
        create: Callable[[], BodyWriter],
        operation: BodyOperation[Any],
        answer: Answer,
    ) -> None:
        """The last batch, the fsyncs and the commit, on one pool thread. Never raises."""
        pieces, writer = received
        try:
            if writer is None and any(pieces):
                writer = create()
            if writer is not None:
                writer.write(pieces)
                writer.finish()
        except BaseException as error:
            if writer is not None:
                writer.abandon()
            answer(None, error)
            return

        def answered(result: Any, error: BaseException | None) -> None:
            if writer is not None and error is not None and not isinstance(error, Unavailable):
                writer.abandon()
            answer(result, error)

        self.catalogue.submit(lambda transaction: operation(transaction, writer), answered)

    async def in_write_pool(self, function: Callable[[], T]) -> T:
        """Run blocking work that writes; it ends even when the waiter is cancelled."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._write_pool, function))

    async def in_read_pool(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a longer read on a pool thread with that thread's connection."""

        def run() -> T:
            try:
                return function(self.catalogue.reader())
            except sqlite3.Error as error:
                raise translate(error) from error

        return await asyncio.get_running_loop().run_in_executor(self.read_pool, run)

    def read_now(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a short read with the calling thread's connection."""
        try:
            return function(self.catalogue.reader())
        except sqlite3.Error as error:
            raise translate(error) from error
