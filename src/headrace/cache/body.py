"""The bytes of one answer: from cached blocks, from fills under way, or straight from the origin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from headrace.base import errors, limits
from headrace.cache.client import AgentClient, Question
from headrace.cache.files import SegmentFile
from headrace.cache.hits import Hits, Ready
from headrace.media.frames import BlockName
from headrace.model.objects import NO_CONDITIONS, Conditions, FileSlice, ObjectInfo
from headrace.origin.base import Opened, Origin
from headrace.wire import agent as wire

Piece = bytes | FileSlice
AGENT_KINDS = ("AgentGone", "AgentSlow")
"""Kinds of Unavailable that mean the agent, not the origin."""
_BATCH = limits.HOT_BLOCKS_MAX


class ChangedError(errors.Conflict):
    """The object is no longer the version that is being read."""


class BypassError(Exception):
    """The agent cannot or will not; read from the origin. `reason` is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True, eq=False)
class Filling:
    """A block on its way: bytes appear in `file` at `offset` as the question's `ready` grows."""

    question: Question
    file: SegmentFile
    offset: int


class Held(NamedTuple):
    """A small block whose bytes came with the agent's answer."""

    data: bytes


@dataclass(slots=True)
class Source:
    """What a body reads from."""

    hits: Hits
    client: AgentClient
    origin: Origin
    binding: int
    note_bypass: Callable[[str], None]


async def open_version(origin: Origin, info: ObjectInfo, start: int, stop: int) -> Opened:
    """Read [start, stop) of exactly this version from the origin. Raises ChangedError."""
    conditions = Conditions(if_match=(info.etag,)) if info.etag else NO_CONDITIONS
    try:
        opened = await origin.open(info.key, start, stop, conditions)
    except errors.Conflict as error:
        raise ChangedError(error.message, kind=error.kind) from error
    if opened.info.version != info.version or (opened.start, opened.length) != (start, stop - start):
        await close_body(opened)
        raise ChangedError(f"{info.key!r} changed at the origin while it was read")
    return opened


def ended_reason(question: Question) -> str:
    """Why a question ended without bytes; raises ChangedError, or what the fill failed with."""
    ended = question.ended
    if isinstance(ended, wire.Failed):
        error = wire.failure(ended.name, ended.kind, ended.message)
        raise ChangedError(error.message, kind=error.kind) if isinstance(error, errors.Conflict) else error
    if isinstance(ended, wire.Bypass):
        return ended.reason
    return "AgentGone" if question.error is not None else "in-flight"


async def close_body(opened: Opened) -> None:
    """Stop reading an origin's answer."""
    close = getattr(opened.body, "aclose", None)
    if close is not None:
        with suppress(Exception):
            await close()


class Body:
    """Bytes [start, stop) of one version, in order: an async iterator of bytes and file slices.

    `prepare` finds out whether the first block can be had, so that an error comes before any byte.
    Whoever got a slice may use its descriptor until `aclose`. Raises ChangedError, or the origin's
    error, when the rest can't be had; the bytes already yielded are right.
    """

    def __init__(
        self, source: Source, info: ObjectInfo, start: int, stop: int, question: Question | None = None
    ) -> None:
        self._source = source
        self._info = info
        self._start, self._stop = start, stop
        self._ahead: dict[int, Question] = {}
        if question is not None:
            self._ahead[0] = question
        self._window = 1
        self._first: Ready | Filling | Held | Opened | None = None
        self._run: AsyncIterator[Piece] | None = None
        self._held: set[SegmentFile] = set()
        self._cached: dict[int, bool] = {}
        self.missed = False
        self.bypassed = False
        self.source = "memory"

    async def prepare(self) -> None:
        """Get hold of the first block. Raises ChangedError, NotFound, Unavailable, ..."""
        if self._start < self._stop:
            try:
                block = self._start // limits.BLOCK_BYTES
                if block not in self._ahead or self._block_end(self._start) < self._stop:
                    self._look_up(block)
                self._first = await self._obtain(self._start)
            except BaseException:
                self._cancel()
                raise
            self.source = self._first.source if isinstance(self._first, Ready) else "origin"
        self._run = self._pieces()

    def take_whole(self) -> bytes | None:
        """All bytes at once when they are at hand after `prepare`; there is nothing left to read then."""
        part = self._first
        if not isinstance(part, Held) or self._block_end(self._start) < self._stop:
            return None
        self._first = self._run = None
        base = self._start // limits.BLOCK_BYTES * limits.BLOCK_BYTES
        return part.data[self._start - base : self._stop - base]

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> Piece:
        if self._run is None:
            raise StopAsyncIteration
        return await anext(self._run)

    async def aclose(self) -> None:
        """The answer ended: release files, and tell the agent that nobody waits."""
        run, self._run = self._run, None
        if run is not None:
            await run.aclose()  # type: ignore[attr-defined]
        if isinstance(self._first, Opened):
            await close_body(self._first)
        self._cancel()

    def __del__(self) -> None:
        self._cancel()

    def _cancel(self) -> None:
        if isinstance(self._first, Filling):
            self._first.question.close()
        self._first = None
        for question in self._ahead.values():
            question.close()
        self._ahead.clear()
        self._held.clear()

    async def _pieces(self) -> AsyncIterator[Piece]:
        position = self._start
        while position < self._stop:
            part = self._first if self._first is not None else await self._obtain(position)
            self._first = None
            end = self._block_end(position)
            if isinstance(part, Ready):
                self._held.add(part.file)
                base = position // limits.BLOCK_BYTES * limits.BLOCK_BYTES
                self._look_ahead(position // limits.BLOCK_BYTES)
                yield part.slice(position - base, end - base)
                position = end
            elif isinstance(part, Held):
                base = position // limits.BLOCK_BYTES * limits.BLOCK_BYTES
                self._look_ahead(position // limits.BLOCK_BYTES)
                yield part.data[position - base : end - base]
                position = end
            elif isinstance(part, Filling):
                self._look_ahead(position // limits.BLOCK_BYTES)
                try:
                    async for piece in self._follow(part, position, end):
                        yield piece
                finally:
                    part.question.close()
                position = end
            else:
                end = part.start + part.length
                async for piece in self._straight(part):
                    yield piece
                position = end

    async def _follow(self, part: Filling, position: int, end: int) -> AsyncIterator[Piece]:
        """Yield a filling block's bytes as they become readable; go to the origin when the agent gives up."""
        base = position // limits.BLOCK_BYTES * limits.BLOCK_BYTES
        question = part.question
        self._held.add(part.file)
        while position < end:
            ready = min(base + question.ready, end)
            if ready > position:
                yield FileSlice(part.file.descriptor, part.offset + position - base, ready - position, "origin")
                position = ready
                continue
            reason = ""
            if question.over:
                reason = ended_reason(question)
            else:
                try:
                    await question.more(position - base, limits.FILL_STALL_SECONDS_MAX)
                except errors.Unavailable as error:
                    reason = error.kind
            if reason:
                self._bypass(reason)
                async for piece in self._straight(await open_version(self._source.origin, self._info, position, end)):
                    yield piece
                return

    async def _straight(self, opened: Opened) -> AsyncIterator[Piece]:
        left = opened.length
        try:
            async for piece in opened.body:
                left -= len(piece)
                if left < 0:
                    raise errors.Unavailable(f"the origin sends more of {self._info.key!r} than it announced")
                yield piece
        finally:
            await close_body(opened)
        if left:
            raise errors.Unavailable(f"the origin's answer for {self._info.key!r} ended {left} bytes early")

    async def _obtain(self, position: int) -> Ready | Filling | Held | Opened:
        """The block at `position`: cached, filling, or an origin's answer that may reach further."""
        source, block = self._source, position // limits.BLOCK_BYTES
        base, end = block * limits.BLOCK_BYTES, self._block_end(position)
        if block not in self._ahead:
            self._look_up(block)
            if self._cached.get(block):
                ready = await source.hits.ready(self._name(block), position - base, end - base)
                if ready is not None:
                    return ready
                self._cached[block] = False
            self.missed = True
            length = min(limits.BLOCK_BYTES, self._info.size - base)
            if end - position < min(length, limits.RANGE_DIRECT_BYTES_MAX) and self._stop - self._start < length:
                source.client.tell(wire.Prefetch(source.binding, self._info.key, self._info, block))
                return await open_version(source.origin, self._info, position, end)
        self.missed = True
        try:
            return await self._filling(block)
        except BypassError as bypass:
            self._bypass(bypass.reason)
            return await open_version(source.origin, self._info, position, self._run_end(block))

    async def _filling(self, block: int) -> Filling | Held:
        """Join or start the block's fill. Raises BypassError, ChangedError, or what the fill failed with."""
        client, early = self._source.client, self._ahead.pop(block, None)
        question = early
        try:
            if question is None or question.located is None:
                version = self._info.version
                question = client.fill(self._source.binding, self._info.key, version, block)
                if early is not None:
                    early.close()  # only now, so that the fill is never without anybody who waits
            asked = question
            await asked.changed(lambda: asked.located is not None, limits.FILL_STALL_SECONDS_MAX)
            located = asked.located
            if located is None:
                raise BypassError(ended_reason(asked))
            if located.data is not None:
                return Held(located.data)
            return Filling(asked, self._source.hits.files.get(located.segment, located.path), located.offset)
        except BaseException as error:
            if question is not None:
                question.close()
            if isinstance(error, errors.NotFound) and error.kind == "SegmentGone":
                raise BypassError("segment-gone") from error
            if isinstance(error, errors.Unavailable) and error.kind in (*AGENT_KINDS, "TierFailed"):
                raise BypassError(error.kind) from error
            raise

    def _look_up(self, block: int) -> None:
        """Know of a batch of blocks, from `block` on, whether the index has them."""
        if block in self._cached:
            return
        last = (self._stop - 1) // limits.BLOCK_BYTES
        batch = range(block, min(last, block + _BATCH - 1) + 1)
        found = self._source.hits.find([self._name(number) for number in batch])
        self._cached = {number: location is not None for number, location in zip(batch, found, strict=True)}
        self.missed = self.missed or not all(self._cached.values())

    def _look_ahead(self, block: int) -> None:
        """Ask for the missing blocks of the window behind `block`; it doubles with every block that was missing."""
        if not self.missed or not self._source.client.connected:
            return
        last = (self._stop - 1) // limits.BLOCK_BYTES
        self._window = min(2 * self._window, limits.READ_AHEAD_BLOCKS_MAX)
        for number in range(block + 1, min(last, block + self._window) + 1):
            if number not in self._ahead and self._cached.get(number) is False:
                with suppress(errors.Unavailable):
                    self._ahead[number] = self._source.client.fill(
                        self._source.binding, self._info.key, self._info.version, number, demand=False
                    )

    def _run_end(self, block: int) -> int:
        """Where a direct read from `block` on should stop: at what is cached or filling already."""
        number = block + 1
        while number * limits.BLOCK_BYTES < self._stop:
            if self._cached.get(number) or number in self._ahead:
                break
            number += 1
        return min(number * limits.BLOCK_BYTES, self._stop)

    def _block_end(self, position: int) -> int:
        return min((position // limits.BLOCK_BYTES + 1) * limits.BLOCK_BYTES, self._stop)

    def _name(self, block: int) -> BlockName:
        return BlockName(str(self._source.binding), self._info.key, self._info.version, block)

    def _bypass(self, reason: str) -> None:
        self.bypassed = True
        self._source.note_bypass(reason)
