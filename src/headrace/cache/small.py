"""Small blocks on their way to disk: those that wait are written together, behind their answers.

A small block's bytes go to whoever waits inside the agent's answer, so its place in a segment is
nobody's delay, and one thread hand-over serves all blocks that gathered during the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple

from headrace.base import limits
from headrace.media.frames import checksums_of
from headrace.media.layout import Entry
from headrace.media.segments import Reservation


class _Write(NamedTuple):
    reservation: Reservation
    data: bytes
    stored: asyncio.Future[Entry]


class SmallWrites:
    """Writes and commits whole blocks in batches; holds at most SMALL_FILLS_PENDING_BYTES_MAX of them."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._waiting: list[_Write] = []
        self._held_bytes = 0
        self._task: asyncio.Task[None] | None = None

    def takes(self, length: int) -> bool:
        """Whether a block of that length is small, and there is room to hold it."""
        return (
            0 < length <= limits.SMALL_FILL_BYTES_MAX
            and self._held_bytes + length <= limits.SMALL_FILLS_PENDING_BYTES_MAX
        )

    def put(self, reservation: Reservation, data: bytes) -> asyncio.Future[Entry]:
        """Take over a reservation and all its bytes; the future ends when the frame is committed.

        It fails with Unavailable (TierFull, TierFailed), the space given back.
        """
        stored: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Write(reservation, data, stored))
        self._held_bytes += len(data)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="headrace small writes")
        return stored

    async def close(self) -> None:
        """Wait until everything that was taken over is written."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            results = await loop.run_in_executor(self._executor, _write_all, batch)
            for write, result in zip(batch, results, strict=True):
                self._held_bytes -= len(write.data)
                if write.stored.done():
                    continue
                if isinstance(result, Entry):
                    write.stored.set_result(result)
                else:
                    write.stored.set_exception(result)
                    write.stored.exception()  # whoever no longer waits for it must not be warned about
        self._task = None


def _write_all(batch: Sequence[_Write]) -> list[Entry | Exception]:
    """In a worker thread: what became of each block."""
    results: list[Entry | Exception] = []
    for reservation, data, _ in batch:
        try:
            reservation.writer.write(reservation, 0, data)
            results.append(reservation.writer.commit(reservation, checksums_of(data)))
        except Exception as error:  # one block's failure is not the others'
            if reservation.open:
                reservation.writer.abandon(reservation)
            results.append(error)
    return results
