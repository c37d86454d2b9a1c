"""Carries out one fill: from the origin's answer into reserved space, checksummed on the way.

Bytes are written by worker threads in batches: the first batch goes at once, for a quick first byte,
later ones have at least 256 KiB while the origin is faster than the disk. One write is under way
while the next batch gathers; beyond a bound the origin is no longer read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field

from headrace.base import errors, limits
from headrace.base.clock import Clock
from headrace.cache.events import Begin, Broke, Event, Landed, Opened, Progressed, Published, Refused
from headrace.cache.publisher import Publisher
from headrace.cache.shelf import NoRoomError, Shelf
from headrace.cache.small import SmallWrites
from headrace.media.frames import BlockName, Checksummer, block_digest
from headrace.media.index import PutBlock
from headrace.media.layout import Entry
from headrace.media.segments import Reservation
from headrace.model.objects import NO_CONDITIONS, Conditions, ObjectInfo
from headrace.origin.base import Body, Origin
from headrace.origin.base import Opened as OriginOpened
from headrace.wire.agent import describe

_GATHERED_BYTES_MAX = limits.MIB


def block_length(size: int, block: int) -> int:
    """Length of one block of an object of `size` bytes; 0 when there is no such block."""
    return max(0, min(limits.BLOCK_BYTES, size - block * limits.BLOCK_BYTES))


@dataclass(slots=True, eq=False)
class Place:
    """Where a fill's bytes go. `reservation` is None for an empty object.

    `data` holds all the bytes of a small block, which can be read from disk when `stored` ends.
    """

    info: ObjectInfo
    reservation: Reservation | None
    data: bytes | None = None
    stored: asyncio.Future[Entry] | None = None


@dataclass(slots=True)
class Tools:
    """What a fill works with."""

    shelf: Shelf
    publisher: Publisher
    executor: Executor
    small: SmallWrites
    clock: Clock
    resolve: Callable[[int], Origin]
    deliver: Callable[[Event], None]
    places: dict[int, Place] = field(default_factory=dict)
    """Of every fill that was opened and not yet published."""


async def fill(begin: Begin, tools: Tools) -> None:
    """Carry out `begin` and report each step; ends with Published, Broke or Refused. Never raises but on cancel."""
    number = begin.fill
    try:
        await _fill(begin, tools)
    except NoRoomError as refusal:
        tools.deliver(Refused(number, refusal.reason))
    except asyncio.CancelledError:
        raise
    except Exception as error:  # whatever an origin raises must reach those who wait
        tools.deliver(Broke(number, *describe(error)))
    finally:
        tools.places.pop(number, None)


async def _fill(begin: Begin, tools: Tools) -> None:
    binding, key = begin.name
    asked = tools.clock.steady()
    opened = await _open(begin, tools.resolve(binding))
    try:
        info = opened.info
        length = block_length(info.size, begin.block)
        if opened.length != length or (length and opened.start != begin.block * limits.BLOCK_BYTES):
            raise errors.Unavailable(
                f"the origin sends {opened.length} bytes from {opened.start} for block {begin.block} of {key!r}"
            )
        if not length:
            tools.places[begin.fill] = Place(info, None)
            tools.deliver(Opened(begin.fill, info.version, 0))
            tools.deliver(Landed(begin.fill))
            await tools.publisher.publish(tools.publisher.metadata(begin.name, info, asked))
            tools.deliver(Published(begin.fill))
            return
        name = BlockName(str(binding), key, info.version, begin.block)
        digest = block_digest(*name)
        reservation = await tools.shelf.reserve(name, digest, length)
        take = _take_whole if tools.small.takes(length) else _take_piecemeal
        try:
            entry = await take(begin, tools, opened, reservation)
        except errors.Unavailable as error:
            if error.kind in ("TierFull", "TierFailed"):
                raise NoRoomError(tools.shelf.failed(reservation.segment_id, error)) from error
            raise
    finally:
        await _close(opened)
    tools.shelf.stored(entry)
    await tools.publisher.publish(
        [PutBlock(digest, entry.location), *tools.publisher.metadata(begin.name, info, asked)]
    )
    tools.deliver(Published(begin.fill))


async def _take_piecemeal(begin: Begin, tools: Tools, opened: OriginOpened, reservation: Reservation) -> Entry:
    """Write the bytes as they come, and report how far they are."""
    pump = Pump(reservation, tools.executor, lambda ready: tools.deliver(Progressed(begin.fill, ready)))
    try:
        tools.places[begin.fill] = Place(opened.info, reservation)
        tools.deliver(Opened(begin.fill, opened.info.version, opened.length))
        entry = await pump.run(opened.body)
    finally:
        await pump.close()
    tools.deliver(Landed(begin.fill))
    return entry


async def _take_whole(begin: Begin, tools: Tools, opened: OriginOpened, reservation: Reservation) -> Entry:
    """Hand a small block's bytes to whoever waits as soon as all are there; the disk gets them behind."""
    try:
        data = await _read_whole(opened.body, opened.length)
    except BaseException:
        reservation.writer.abandon(reservation)
        raise
    stored = tools.small.put(reservation, data)
    tools.places[begin.fill] = Place(opened.info, reservation, data, stored)
    tools.deliver(Opened(begin.fill, opened.info.version, opened.length))
    tools.deliver(Landed(begin.fill))
    return await asyncio.shield(stored)


async def _read_whole(body: Body, length: int) -> bytes:
    """All bytes of a small block. Raises Unavailable when they are more or fewer than announced."""
    pieces: list[bytes] = []
    left = length
    async for piece in body:
        pieces.append(piece)
        left -= len(piece)
        if left <= 0:
            break
    if left:
        raise errors.Unavailable(f"the origin sent {length - left} bytes, not the {length} it announced")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _open(begin: Begin, origin: Origin) -> OriginOpened:
    """Ask the origin for the block; raises Conflict when it is not of the version that is wanted."""
    start = begin.block * limits.BLOCK_BYTES
    conditions = NO_CONDITIONS
    if begin.version is not None and begin.version.etag:
        conditions = Conditions(if_match=(begin.version.etag,))
    opened = await origin.open(begin.name[1], start, start + limits.BLOCK_BYTES, conditions)
    if begin.version is not None and opened.info.version != begin.version:
        await _close(opened)
        raise errors.Conflict(f"{begin.name[1]!r} changed at the origin since it was looked up")
    return opened


async def _close(opened: OriginOpened) -> None:
    close = getattr(opened.body, "aclose", None)
    if close is not None:
        with suppress(Exception):
            await close()


class Pump:
    """Moves one block's bytes from an iterator into its reservation."""

    def __init__(self, reservation: Reservation, executor: Executor, report: Callable[[int], None]) -> None:
        self._reservation = reservation
        self._executor = executor
        self._report = report
        self._checksummer = Checksummer()
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._ready = 0
        self._reported = 0
        self._write: asyncio.Future[Entry | None] | None = None
        self._size = reservation.data_length

    async def run(self, body: Body) -> Entry:
        """Write all bytes and commit the frame. Raises what the body raises, Unavailable when it is short."""
        received = 0
        async for piece in body:
            if not piece:
                continue
            received += len(piece)
            if received > self._size:
                raise errors.Unavailable(f"the origin sent more than the {self._size} bytes it announced")
            self._gathered.append(piece)
            self._gathered_bytes += len(piece)
            if received == self._size:
                break
            if self._write is not None and (self._write.done() or self._gathered_bytes >= _GATHERED_BYTES_MAX):
                await self._settle()
            if self._write is None and (not self._ready or self._gathered_bytes >= limits.PROGRESS_BYTES_MIN):
                self._start(last=False)
        if received != self._size:
            raise errors.Unavailable(f"the origin sent {received} of {self._size} bytes")
        await self._settle()
        self._start(last=True)
        entry = await self._settle()
        if entry is None:
            raise errors.Bug("the last write of a block committed nothing")
        return entry

    async def close(self) -> None:
        """Wait for a write under way, and give the space back unless the frame was committed."""
        if self._write is not None:
            with suppress(errors.HeadraceError, OSError):
                await asyncio.shield(self._write)
            self._write = None
        if self._reservation.open:
            self._reservation.writer.abandon(self._reservation)

    def _start(self, *, last: bool) -> None:
        pieces, offset = self._gathered, self._ready
        self._gathered, self._gathered_bytes = [], 0
        loop = asyncio.get_running_loop()
        self._write = loop.run_in_executor(self._executor, self._put, pieces, offset, last)
        self._ready = ready = offset + sum(map(len, pieces))
        if not last:  # told at once, even while the origin is silent
            self._write.add_done_callback(lambda write: self._written(write, ready))

    def _written(self, write: asyncio.Future[Entry | None], ready: int) -> None:
        if write.cancelled() or write.exception() is not None:
            return  # whoever waits for the write learns of it
        if not self._reported or ready - self._reported >= limits.PROGRESS_BYTES_MIN:
            self._reported = ready
            self._report(ready)

    async def _settle(self) -> Entry | None:
        """Wait for the write under way; what it committed, if it was the last."""
        if self._write is None:
            return None
        entry = await asyncio.shield(self._write)
        self._write = None
        return entry

    def _put(self, pieces: Sequence[bytes], offset: int, last: bool) -> Entry | None:
        """In a worker thread: write, checksum, and commit behind the last byte."""
        reservation = self._reservation
        for piece in pieces:
            reservation.writer.write(reservation, offset, piece)
            self._checksummer.update(piece)
            offset += len(piece)
        return reservation.writer.commit(reservation, self._checksummer.finish()) if last else None
