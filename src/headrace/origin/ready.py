"""Empty body files made ahead of need, many under one fsync of their folder.

A small write would spend half its time on making a name durable; a file from here already has one.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from headrace.base.limits import STORE_READY_FILES_MAX, STORE_READY_FILES_MIN


class ReadyFile(NamedTuple):
    """An empty body file whose name is durable, open for writing."""

    name: str
    descriptor: int


class ReadyFiles:
    """A stock of ready files, refilled by one thread that starts at the first need.

    `create(count)` makes that many, durably named, and may raise OSError; `remove(name)` unlinks one.
    """

    def __init__(self, create: Callable[[int], Sequence[ReadyFile]], remove: Callable[[str], None]) -> None:
        self._create = create
        self._remove = remove
        self._stock: deque[ReadyFile] = deque()
        self._wanted = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def take(self) -> ReadyFile | None:
        """A file to write to, or None when the stock is empty."""
        try:
            found = self._stock.popleft()
        except IndexError:
            found = None
        if len(self._stock) < STORE_READY_FILES_MIN and not self._wanted.is_set():
            self._wanted.set()
            if self._thread is None:
                self._start()
        return found

    def close(self) -> None:
        """Stop refilling and remove what was not used."""
        with self._lock:
            self._closed = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
        while self._stock:
            name, descriptor = self._stock.popleft()
            os.close(descriptor)
            with contextlib.suppress(OSError):
                self._remove(name)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._refill, name="store-ready", daemon=True)
                self._thread.start()

    def _refill(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._closed:
                return
            with contextlib.suppress(OSError):  # whoever needs a file next makes it himself and meets the error
                self._stock.extend(self._create(STORE_READY_FILES_MAX - len(self._stock)))
