"""Bodies on their way to a remote origin, kept in files of a tier's disk for as long as it takes them.

A disk that is full or broken costs only the copy: what it took of a body and what is still to come go
to the origin as one stream, and further bodies are not offered to it for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, NamedTuple

import structlog

from headrace.base.clock import SYSTEM, Clock
from headrace.base.errors import Invalid, Unavailable
from headrace.base.limits import MIB, PUT_BYTES_MAX, TIER_PROBE_SECONDS
from headrace.base.rng import token_hex
from headrace.origin.base import Upload

log = structlog.get_logger("headrace.gateway")
_STEP_BYTES = MIB
_SUFFIX = ".put"


class Kept(NamedTuple):
    """A body to send: `whole` when all of it lies in the file, else the upload reads the client to its end."""

    upload: Upload
    whole: bool


class Spool:
    """One folder of such files. `sick` while its disk is not to be used."""

    def __init__(self, folder: Path, clock: Clock = SYSTEM) -> None:
        self.folder = folder
        self._clock = clock
        self._sick_until = 0.0
        self._failing = False

    @property
    def sick(self) -> bool:
        """True for some seconds after the disk refused a body; then the next body tries it again."""
        return self._clock.steady() < self._sick_until

    def new_path(self) -> Path:
        """A name that no other body has; it tells whose it is."""
        return self.folder / f"{os.getpid()}-{token_hex(16)}{_SUFFIX}"

    def clear_dead(self) -> None:
        """Remove what killed workers left: it was never acknowledged."""
        for path in self.folder.glob(f"*{_SUFFIX}"):
            owner = path.name.partition("-")[0]
            if not Path(f"/proc/{owner}").exists():
                with contextlib.suppress(OSError):
                    path.unlink()

    async def remove(self, path: Path) -> None:
        """Remove a body; a disk that refuses even that must not fail the request."""
        with contextlib.suppress(OSError):
            await asyncio.shield(asyncio.to_thread(path.unlink, missing_ok=True))

    async def keep(self, path: Path, upload: Upload) -> Kept:
        """Write the body to `path` as far as the disk takes it.

        Raises what the body raises, and Invalid when it has not the announced length.
        """
        done = size = 0
        pieces = aiter(upload.body)
        try:
            file: IO[bytes] = await asyncio.to_thread(path.open, "xb", 0)
        except OSError as problem:
            self._failed(problem)
            return Kept(upload, whole=False)
        with file:
            more = True
            while more:
                pending: list[bytes] = []
                more = await _fetch(pieces, pending)
                size += sum(map(len, pending))
                if upload.size is None and size > PUT_BYTES_MAX:
                    raise Invalid("Your proposed upload exceeds the maximum allowed size", kind="EntityTooLarge")
                try:
                    await asyncio.to_thread(_write, file, pending)
                except OSError as problem:
                    self._failed(problem)
                    upload.body = _chained(path, done, pending, pieces)
                    return Kept(upload, whole=False)
                done = size
        if upload.size is not None and upload.size != size:
            raise Invalid(f"the body has {size} bytes, {upload.size} were announced", kind="IncompleteBody")
        if self._failing:
            self._failing = False
            log.warning("bodies on their way to an origin are kept again", directory=str(self.folder))
        spooled = Upload(body=_read(path, size), size=size, attributes=upload.attributes, etag=upload.etag)
        return Kept(spooled, whole=True)

    def _failed(self, problem: OSError) -> None:
        self._sick_until = self._clock.steady() + TIER_PROBE_SECONDS
        if not self._failing:
            self._failing = True
            log.error(
                "bodies on their way to an origin are passed on without a copy: the disk does not take them",
                directory=str(self.folder),
                reason=problem.strerror or str(problem),
            )


async def _fetch(pieces: AsyncIterator[bytes], pending: list[bytes]) -> bool:
    """Append pieces of about a step in all; False when the body has ended."""
    held = 0
    while held < _STEP_BYTES:
        try:
            piece = await anext(pieces)
        except StopAsyncIteration:
            return False
        pending.append(piece)
        held += len(piece)
    return True


def _write(file: IO[bytes], pieces: list[bytes]) -> None:
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[file.write(view) :]


async def _chained(path: Path, done: int, pending: list[bytes], pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What the file took, what waited in memory, and the rest as it comes."""
    async for piece in _read(path, done):
        yield piece
    while pending:
        yield pending.pop(0)
    async for piece in pieces:
        yield piece


async def _read(path: Path, size: int) -> AsyncIterator[bytes]:
    """The first `size` bytes of a spooled body. Raises Unavailable when the disk does not give them back."""
    if not size:
        return
    try:
        file = await asyncio.to_thread(path.open, "rb", 0)
        with file:
            while size > 0:
                piece = await asyncio.to_thread(file.read, min(size, _STEP_BYTES))
                if not piece:
                    raise Unavailable("a spool file is shorter than what was written to it")
                size -= len(piece)
                yield piece
    except OSError as problem:
        raise Unavailable(f"a spool file cannot be read: {problem.strerror}") from problem
