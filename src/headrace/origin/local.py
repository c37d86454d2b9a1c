"""Reading extents of files on this machine as a body, and waiting for work of other threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

from headrace.base.errors import Damaged, Unavailable
from headrace.base.limits import STORE_COMMIT_SECONDS_MAX, STORE_READ_BYTES_MAX
from headrace.model.objects import Extent

T = TypeVar("T")


def cut(extents: Sequence[Extent], start: int, stop: int) -> list[Extent]:
    """The extents of bytes [start, stop) of an object that consists of `extents`."""
    found: list[Extent] = []
    position = 0
    for extent in extents:
        first, last = max(start, position), min(stop, position + extent.length)
        if first < last:
            found.append(Extent(extent.path, extent.offset + first - position, last - first))
        position += extent.length
    return found


def open_all(extents: Sequence[Extent]) -> list[int]:
    """One descriptor for each extent. Raises FileNotFoundError, having closed those opened."""
    descriptors: list[int] = []
    try:
        for extent in extents:
            descriptors.append(os.open(extent.path, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401 - closed on failure
    except OSError:
        close_all(descriptors)
        raise
    return descriptors


def close_all(descriptors: list[int]) -> None:
    """Close the descriptors, once."""
    while descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptors.pop())


async def read_extents(
    pool: Executor | None, extents: Sequence[Extent], descriptors: list[int]
) -> AsyncIterator[bytes]:
    """The bytes of the extents, read on the pool; closes the descriptors at the end.

    Raises Damaged when a file is shorter than its extent says.
    """
    loop = asyncio.get_running_loop()
    try:
        for extent, descriptor in zip(extents, descriptors, strict=True):
            done = 0
            while done < extent.length:
                count = min(STORE_READ_BYTES_MAX, extent.length - done)
                piece = await loop.run_in_executor(pool, os.pread, descriptor, count, extent.offset + done)
                if not piece:
                    raise Damaged(f"{extent.path} is shorter than recorded")
                done += len(piece)
                yield piece
    finally:
        close_all(descriptors)


async def run_in_pool(pool: Executor, function: Callable[[], T]) -> T:
    """Run blocking work on a pool; it ends even when the waiter is cancelled.

    Raises what the function raises, and Unavailable when the disk does not answer in time.
    """
    future = asyncio.get_running_loop().run_in_executor(pool, function)
    try:
        async with asyncio.timeout(STORE_COMMIT_SECONDS_MAX):
            return await asyncio.shield(future)
    except TimeoutError as error:
        raise Unavailable("the disk did not answer in time; the outcome of a write is unknown") from error


async def waited(start: Callable[[Callable[[Any, BaseException | None], None]], object]) -> Any:
    """Call `start(answer)` and wait until some thread calls `answer(result, error)`.

    Raises Unavailable when that takes longer than `STORE_COMMIT_SECONDS_MAX`. A cancelled waiter does
    not stop the work: what was begun ends as it would have.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def answer(result: Any, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
            loop.call_soon_threadsafe(settle, result, error)

    start(answer)
    try:
        async with asyncio.timeout(STORE_COMMIT_SECONDS_MAX):
            return await future
    except TimeoutError as error:
        raise Unavailable("the disk did not answer in time; the outcome of the write is unknown") from error
