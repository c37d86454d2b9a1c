"""The only reader of time. Everything else takes `now`, or a Clock, from its caller."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time that a simulation can replace."""

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC; may jump."""

    def steady(self) -> float:
        """Seconds that never run backwards and count suspended time (CLOCK_BOOTTIME)."""


class SystemClock:
    """The machine's own clocks."""

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time()

    def steady(self) -> float:
        """Seconds since boot, counting suspend."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


SYSTEM = SystemClock()
wall = time.time
monotonic_ns = time.monotonic_ns
cpu_seconds = time.process_time


def pause(seconds: float) -> None:
    """Block this thread; for processes without an event loop."""
    time.sleep(seconds)


def steady() -> float:
    """Seconds since boot, counting suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
