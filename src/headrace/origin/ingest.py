"""Bodies on their way in: from an async iterator to a durable file, hashed in the pool meanwhile.

While a pool thread hashes and writes one batch the loop receives the next; nothing else is held, so
an upload's memory is two batches, and batches shrink when many uploads run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

from headrace.base.errors import Invalid, Unavailable
from headrace.base.limits import (
    PUT_BYTES_MAX,
    STORE_BATCH_BYTES_MAX,
    STORE_BATCH_BYTES_MIN,
    STORE_BATCHES_BYTES_MAX,
    STORE_SMALL_BYTES_MAX,
)
from headrace.origin.base import Upload
from headrace.origin.bodies import Bodies, BodyWriter
from headrace.origin.catalogue import Catalogue, Transaction, waited

T = TypeVar("T")
Operation = Callable[[Transaction, BodyWriter | None], T]
"""What to do with a durable body in the catalogue; None stands for an empty one."""


class Ingest:
    """Receives bodies for one process's store."""

    def __init__(self, bodies: Bodies, catalogue: Catalogue, pool: Executor) -> None:
        self._bodies = bodies
        self._catalogue = catalogue
        self._pool = pool
        self._active = 0

    async def store(self, upload: Upload, prepare: Callable[[], Operation[T]], algorithms: Sequence[str] = ()) -> T:
        """Write the body durably, then run the operation that `prepare` returns in a transaction.

        `prepare` is called when the body is exhausted, so the upload's attributes are final. On any
        error but an unknown outcome the body is removed. Raises what body and operation raise.
        """
        self._active += 1
        try:
            pieces, writer = await self._receive(upload, algorithms)
        finally:
            self._active -= 1
        try:
            operation = prepare()
        except BaseException:
            if writer is not None:
                self._pool.submit(writer.abandon)
            raise
        result: T = await waited(
            lambda answer: self._pool.submit(self._finish, pieces, writer, algorithms, operation, answer)
        )
        return result

    async def _receive(self, upload: Upload, algorithms: Sequence[str]) -> tuple[list[bytes], BodyWriter | None]:
        """All but the last batch written; returns that batch and the writer (None: nothing written yet)."""
        pieces: list[bytes] = []
        held = size = 0
        writer: BodyWriter | None = None
        running: asyncio.Future[Any] | None = None
        loop = asyncio.get_running_loop()
        threshold = STORE_SMALL_BYTES_MAX
        try:
            async for piece in upload.body:
                held += len(piece)
                size += len(piece)
                pieces.append(piece)
                if held <= threshold:
                    continue
                if size > PUT_BYTES_MAX:
                    raise Invalid("the body is larger than 5 GiB: upload it in parts", kind="EntityTooLarge")
                if running is not None:
                    writer = await asyncio.shield(running)
                running = loop.run_in_executor(self._pool, self._write, writer, pieces, algorithms)
                pieces, held = [], 0
                threshold = self._batch_bytes()
            if upload.size is not None and upload.size != size:
                raise Invalid(f"the body has {size} bytes, {upload.size} were announced", kind="IncompleteBody")
            if running is not None:
                writer = await asyncio.shield(running)
        except BaseException:
            self._give_up(running)
            raise
        return pieces, writer

    def _batch_bytes(self) -> int:
        """How much an upload may hold now, so that all of them together stay bounded."""
        share = STORE_BATCHES_BYTES_MAX // max(1, 2 * self._active)
        return max(STORE_BATCH_BYTES_MIN, min(STORE_BATCH_BYTES_MAX, share))

    def _write(self, writer: BodyWriter | None, pieces: list[bytes], algorithms: Sequence[str]) -> BodyWriter:
        if writer is None:
            writer = BodyWriter(self._bodies, algorithms)
        try:
            writer.write(pieces)
        except BaseException:
            writer.abandon()
            raise
        return writer

    def _give_up(self, running: asyncio.Future[Any] | None) -> None:
        """Remove the body of a broken upload once its last batch is off the pool."""

        def after(done: asyncio.Future[Any]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._pool.submit(done.result().abandon)

        if running is not None:
            running.add_done_callback(after)

    def _finish(
        self,
        pieces: list[bytes],
        writer: BodyWriter | None,
        algorithms: Sequence[str],
        operation: Operation[Any],
        answer: Callable[[Any, BaseException | None], None],
    ) -> None:
        """The last batch, the fsyncs and the commit, on one pool thread. Never raises."""
        try:
            if writer is None and any(pieces):
                writer = BodyWriter(self._bodies, algorithms)
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

        self._catalogue.submit(lambda transaction: operation(transaction, writer), answered)
