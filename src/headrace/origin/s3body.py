"""Bodies on their way to an origin: watched for stalls, held back until they are proved, framed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from headrace.base import limits
from headrace.base.errors import Invalid
from headrace.origin.base import Body
from headrace.origin.checksums import Checksum

FRAME_BYTES = 256 * limits.KIB
"""Payload bytes in one aws-chunked frame (S3 asks for at least 8 KiB)."""


async def held_back(body: Body) -> AsyncIterator[bytes]:
    """The same bytes, the last piece only after `body` has ended without an error.

    A body that fails its digest raises at its end; were its last piece sent by then, an origin that
    counts Content-Length would have committed the bad bytes.
    """
    held = b""
    async for piece in body:
        if piece:
            if held:
                yield held
            held = piece
    if held:
        yield held


async def slices(body: bytes) -> AsyncIterator[bytes]:
    """A body in memory, in pieces small enough for the loop to breathe between them."""
    for start in range(0, len(body), limits.SLICE_BYTES_MAX):
        yield body[start : start + limits.SLICE_BYTES_MAX]


class Watched:
    """A body with a stall deadline on the receiver, a length that must come true, and a memory of errors.

    While the source is asked for bytes no deadline runs (the source has its own); once a piece is
    handed over the receiver must take it within `stall` seconds, and answer within `answer` seconds
    after the last one. aiohttp wraps a source's error in its own: `error` keeps the original.
    """

    def __init__(self, source: Body, length: int, deadline: asyncio.Timeout, stall: float, answer: float) -> None:
        self._source = source
        self._left = length
        self._deadline = deadline
        self._stall = stall
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self.error: BaseException | None = None
        self.released = False

    def __aiter__(self) -> Watched:
        return self

    async def __anext__(self) -> bytes:
        self._set(None)
        try:
            piece = await anext(self._source)
            self._left -= len(piece)
            if self._left < 0:
                raise Invalid("the body is longer than it was announced", kind="IncompleteBody")
        except StopAsyncIteration:
            if self._left:
                self.error = Invalid(f"the body ended {self._left} bytes too early", kind="IncompleteBody")
                raise self.error from None
            self._set(self._answer)
            raise
        except BaseException as error:
            self.error = error
            raise
        self._set(self._stall)
        return piece

    def _set(self, seconds: float | None) -> None:
        """Move the deadline, unless the request is over already."""
        if not self.released:
            self._deadline.reschedule(None if seconds is None else self._loop.time() + seconds)


def framed_length(length: int, trailer: str, checksum: Checksum) -> int:
    """Bytes on the wire of `framed` for a payload of `length` bytes."""
    whole, rest = divmod(length, FRAME_BYTES)
    frame = len(f"{FRAME_BYTES:x}") + 4 + FRAME_BYTES
    last = len(f"{rest:x}") + 4 + rest if rest else 0
    return whole * frame + last + 3 + len(trailer) + 1 + len(checksum.value()) + 4


async def framed(body: Body, trailer: str, checksum: Checksum) -> AsyncIterator[bytes]:
    """`body` as aws-chunked frames of FRAME_BYTES, ended by `trailer`, its checksum, computed on the way.

    Source: the S3 user guide, "Transferring payload with trailing checksums in multiple chunks
    (SigV4)", unsigned form.
    """
    waiting = bytearray()
    async for piece in body:
        checksum.update(piece)
        waiting += piece
        while len(waiting) >= FRAME_BYTES:
            yield b"%x\r\n%b\r\n" % (FRAME_BYTES, bytes(memoryview(waiting)[:FRAME_BYTES]))
            del waiting[:FRAME_BYTES]
    if waiting:
        yield b"%x\r\n%b\r\n" % (len(waiting), bytes(waiting))
    yield b"0\r\n%b:%b\r\n\r\n" % (trailer.encode(), checksum.value().encode())
