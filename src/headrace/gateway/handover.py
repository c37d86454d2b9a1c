"""Bodies that an origin has acknowledged, on their way from their spool files into the cache.

A write waits for its own but a moment, and the worker's end for all. Their number and size are
bounded; what does not fit is not cached, and read back when it is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from headrace.base import limits
from headrace.base.errors import HeadraceError

log = structlog.get_logger("headrace.gateway")


class Handovers:
    """Those of one worker."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0

    def fits(self, size: int) -> bool:
        """Whether a body of `size` bytes may join; one alone always may."""
        return not self._tasks or (
            len(self._tasks) < limits.HANDOVERS_MAX and self._bytes + size <= limits.HANDOVER_BYTES_MAX
        )

    def add(
        self, size: int, taken: Awaitable[None], remove: Callable[[], Awaitable[None]], refused: Callable[[], None]
    ) -> asyncio.Task[None]:
        """Wait for `taken` behind, tell `refused` if it fails, and `remove` the spool file at last; in a task."""
        self._bytes += size
        task = asyncio.create_task(self._settle(size, taken, remove, refused), name="headrace handover")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _settle(
        self, size: int, taken: Awaitable[None], remove: Callable[[], Awaitable[None]], refused: Callable[[], None]
    ) -> None:
        try:
            await taken
        except HeadraceError as problem:
            refused()
            log.debug("a written object was not cached", reason=problem.message)
        finally:
            self._bytes -= size
            await remove()

    async def drain(self, seconds: float = limits.HANDOVER_DRAIN_SECONDS) -> None:
        """Let those under way end; what takes longer is left to whoever clears spools."""
        tasks = set(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
