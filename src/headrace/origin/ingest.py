"""Bodies on their way in: from an async iterator to a file, hashed and written in a pool meanwhile.

While a pool thread hashes and writes one batch the loop receives the next; nothing else is held, so
an upload's memory is two batches, and batches shrink when many uploads run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, NamedTuple, Protocol, TypeVar

from headrace.base.errors import Invalid
from headrace.base.limits import (
    PUT_BYTES_MAX,
    STORE_BATCH_BYTES_MAX,
    STORE_BATCH_BYTES_MIN,
    STORE_BATCHES_BYTES_MAX,
    STORE_SMALL_BYTES_MAX,
)
from headrace.origin.base import Upload


class Writer(Protocol):
    """A file that takes a body; used by one thread at a time."""

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append the pieces."""

    def abandon(self) -> None:
        """Remove the file. Never raises."""


W = TypeVar("W", bound=Writer)


class Received(NamedTuple, Generic[W]):
    """A body that has arrived: what is not written yet, and the writer of the rest (None: all is in `pieces`)."""

    pieces: list[bytes]
    writer: W | None


class Ingest(Generic[W]):
    """Receives bodies. `pool` does the writing, `create` (called there) makes the writer of a new body."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._active = 0

    async def receive(self, upload: Upload, create: Callable[[], W]) -> Received[W]:
        """Exhaust the body, all but its last batch written.

        A body that fails leaves no file behind. Raises what the body raises, and Invalid
        (EntityTooLarge, IncompleteBody), and what writing raises.
        """
        self._active += 1
        try:
            return await self._receive(upload, create)
        finally:
            self._active -= 1

    async def _receive(self, upload: Upload, create: Callable[[], W]) -> Received[W]:
        pieces: list[bytes] = []
        held = size = 0
        writer: W | None = None
        running: asyncio.Future[W] | None = None
        loop = asyncio.get_running_loop()
        threshold = self._batch_bytes()
        if upload.size is None or upload.size > threshold:
            threshold = min(threshold, STORE_SMALL_BYTES_MAX)  # a long body: begin early
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
                running = loop.run_in_executor(self._pool, _write, writer, create, pieces)
                pieces, held = [], 0
                threshold = self._batch_bytes()
            if upload.size is not None and upload.size != size:
                raise Invalid(f"the body has {size} bytes, {upload.size} were announced", kind="IncompleteBody")
            if running is not None:
                writer = await asyncio.shield(running)
        except BaseException:
            self._give_up(running)
            raise
        return Received(pieces, writer)

    def abandon(self, received: Received[W]) -> None:
        """Remove what was written of a body that is not wanted after all."""
        if received.writer is not None:
            self._pool.submit(received.writer.abandon)

    def _batch_bytes(self) -> int:
        """How much an upload may hold now, so that all of them together stay bounded."""
        share = STORE_BATCHES_BYTES_MAX // max(1, 2 * self._active)
        return max(STORE_BATCH_BYTES_MIN, min(STORE_BATCH_BYTES_MAX, share))

    def _give_up(self, running: asyncio.Future[W] | None) -> None:
        """Remove the file of a broken upload once its last batch is off the pool."""

        def after(done: asyncio.Future[W]) -> None:
            if done.cancelled() or done.exception() is not None:
                return
            try:
                self._pool.submit(done.result().abandon)
            except RuntimeError:  # the pool is closing: nobody else will remove it
                done.result().abandon()

        if running is None:
            return
        if running.done():
            after(running)  # now, since the store may be closed before the loop turns
        else:
            running.add_done_callback(after)


def _write(writer: W | None, create: Callable[[], W], pieces: list[bytes]) -> W:
    """One batch, on a pool thread; the file is gone when this fails."""
    if writer is None:
        writer = create()
    try:
        writer.write(pieces)
    except BaseException:
        writer.abandon()
        raise
    return writer
