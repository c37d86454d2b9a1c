"""Reading cold bytes: a bounded pool of threads per device, so that a slow disk never blocks the loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from headrace.base.errors import Busy
from headrace.base.limits import DEVICE_QUEUE_MAX, DEVICE_READS_MAX
from headrace.media.residency import warm

T = TypeVar("T")


class Devices:
    """Reads file ranges from devices, at most DEVICE_READS_MAX at once on each device."""

    def __init__(self) -> None:
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self._queued: dict[int, int] = {}
        self.reads = 0

    def read(self, descriptor: int, offset: int, length: int) -> asyncio.Future[None]:
        """Bring a range into the page cache; the future ends when it is there, or fails with OSError.

        Raises Busy when the device has too many reads waiting.
        """
        return self._run(descriptor, warm, descriptor, offset, length)

    def send(self, target: int, descriptor: int, offset: int, length: int) -> asyncio.Future[int]:
        """Send a cold range to a non-blocking socket; the bytes taken, or BlockingIOError when it is full.

        Both descriptors must stay open until the future ends. Raises Busy as `read` does.
        """
        return self._run(descriptor, os.sendfile, target, descriptor, offset, length)

    def _run(self, descriptor: int, work: Callable[..., T], *arguments: int) -> asyncio.Future[T]:
        device = os.fstat(descriptor).st_dev
        queued = self._queued.get(device, 0)
        if queued >= DEVICE_QUEUE_MAX:
            raise Busy("The storage device is overloaded; please reduce your request rate.")
        pool = self._pools.get(device)
        if pool is None:
            pool = self._pools[device] = ThreadPoolExecutor(DEVICE_READS_MAX, f"device-{device}")
        self._queued[device] = queued + 1
        self.reads += 1
        future = asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
        future.add_done_callback(lambda _: self._finished(device))
        return future

    def _finished(self, device: int) -> None:
        self._queued[device] -= 1

    def queued(self) -> int:
        """Reads waiting or running, over all devices."""
        return sum(self._queued.values())

    def close(self) -> None:
        """Stop the threads; reads under way end first."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self._pools.clear()
