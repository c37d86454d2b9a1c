"""Generation words in shared memory: how one process tells all others that something changed.

The file is mapped by every worker, the agent and the CLI. A word is never incremented (two
processes would lose an update) but *stamped* with a value no other stamp ever had, so "unchanged"
is exact. A reader notes the word *before* it looks something up, and may keep what it found for as
long as the word is the same; a writer stamps after its change is durable and before it acknowledges.
Aligned 8-byte stores are atomic on the machines headrace runs on.
"""

from __future__ import annotations

import itertools
import mmap
import os
import zlib
from pathlib import Path

EPOCH = 0
"""Stamped when a worker died or anything global is in doubt: forget everything."""
KEYS = 1
"""Access keys or policies changed."""
BINDINGS = 2
"""Bucket bindings, freshness rules or bucket-level documents changed."""
INDEX = 3
"""A segment was unlinked: locations may be gone."""
DOUBT = 4
"""Milliseconds since 1970: what was learnt of remote objects before then may be outdated, ask again. See `doubt`."""
STRIPES_START = 64
STRIPES = 65_536
WORDS = STRIPES_START + STRIPES
_DOUBT_SECONDS = 1.0


class Words:
    """The mapped table. `view[i]` reads word i in one load."""

    __slots__ = ("_count", "_map", "_salt", "path", "view")

    def __init__(self, path: Path) -> None:
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < WORDS * 8:
                os.ftruncate(descriptor, WORDS * 8)
            self._map = mmap.mmap(descriptor, WORDS * 8)
        finally:
            os.close(descriptor)
        self.view = memoryview(self._map).cast("Q")
        self._salt = int.from_bytes(os.urandom(4), "little") << 32
        self._count = itertools.count(1)  # next() is atomic: threads of one process may stamp at once

    def stamp(self, word: int) -> None:
        """Give `word` a value it never had before."""
        self.view[word] = self._salt | (next(self._count) & 0xFFFFFFFF)

    def doubt(self, wall_seconds: float) -> None:
        """Something changed until `wall_seconds` that the agent could not be told of.

        It outlives the process that knows what changed. Two that write at once could lose the later
        time, hence the second on top.
        """
        self.view[DOUBT] = max(self.view[DOUBT], int((wall_seconds + _DOUBT_SECONDS) * 1000))

    def close(self) -> None:
        """Unmap the table."""
        self.view.release()
        self._map.close()


def stripe(bucket: str, key: str) -> int:
    """Index of the word that stands for one object."""
    return STRIPES_START + (zlib.crc32(key.encode("utf-8", "surrogatepass"), zlib.crc32(bucket.encode())) % STRIPES)
