"""The agent: carries out what the fill machine decides, and keeps tiers and index in order.

One agent a node. It alone reads origins for the cache, appends to segments and writes the index.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from headrace.base import errors, limits
from headrace.base.clock import SYSTEM, Clock
from headrace.cache import events
from headrace.cache.fills import Place, Tools, block_length, fill
from headrace.cache.ingest import ingest, supersede
from headrace.cache.machine import Budget, Fills
from headrace.cache.publisher import Publisher
from headrace.cache.service import Connection, Service
from headrace.cache.shelf import Shelf
from headrace.cache.small import SmallWrites
from headrace.media.frames import block_digest
from headrace.media.index import DropBlock, IndexWriter
from headrace.media.rebuild import Rebuilt, recover
from headrace.media.tiers import Tier, TierStatistics, read_boot_id
from headrace.model.objects import Version
from headrace.origin.base import Origin
from headrace.wire import agent as wire
from headrace.wire.words import EPOCH, INDEX, Words

_log = logging.getLogger("headrace.cache")
_TICK_SECONDS = 0.1
_MAINTAIN_SECONDS = 1.0
_THREADS = 8


@dataclass(slots=True, kw_only=True)
class TierSettings:
    """A directory for segments and how many bytes it may hold; `segment_bytes` only for tests."""

    path: Path
    limit_bytes: int
    segment_bytes: int | None = None


@dataclass(slots=True, kw_only=True)
class AgentSettings:
    """What an agent needs to know. No tiers: everything passes by the cache."""

    socket_path: Path
    index_path: Path
    tiers: tuple[TierSettings, ...]
    budget: Budget = field(default_factory=Budget)
    index_map_bytes: int = limits.INDEX_MAP_BYTES


class AgentStatistics(NamedTuple):
    """Counters since the start, and what is in flight now."""

    fills: int
    fill_bytes: int
    waiting: int
    connections: int
    blocks: int
    amplification: float
    counts: dict[str, int]
    tiers: tuple[TierStatistics, ...]
    sick: tuple[str, ...]
    """Why each tier is passed over; "" for those that are well."""


class Agent:
    """The node's agent. `resolve(binding id)` gives the origin of a binding, or raises NotFound."""

    def __init__(
        self, settings: AgentSettings, resolve: Callable[[int], Origin], words: Words, *, clock: Clock = SYSTEM
    ) -> None:
        self.settings = settings
        self.recovered = Rebuilt()
        self._resolve = resolve
        self._words = words
        self._clock = clock
        self._machine = Fills(settings.budget)
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="headrace-agent")
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="headrace-index")
        self._service = Service(settings.socket_path, self._ask, self._lost)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._waiters: dict[int, tuple[Connection, int]] = {}
        self._next_waiter = 1
        self._ingests = asyncio.Semaphore(limits.INGESTS_MAX)
        self._tiers: list[Tier] = []
        self._counts: Counter[str] = Counter()
        self._stopping = False

    # -- life

    async def start(self) -> None:
        """Open tiers and index, recover what a dead agent left, listen. Raises Unavailable, Conflict."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, self._open)
        self._publisher = Publisher(self._index, self._committer, self._clock)
        self._shelf = Shelf(self._tiers, self._index, self._publisher, self._words, self._executor, self._clock)
        await loop.run_in_executor(self._executor, self._shelf.adopt)
        self._small = SmallWrites(self._executor)
        self._tools = Tools(
            self._shelf, self._publisher, self._executor, self._small, self._clock, self._resolve, self._deliver
        )
        self._words.stamp(EPOCH if self._index.state == "doubtful" else INDEX)
        self._publisher.start()
        for upkeep in (self._tick(), self._maintain()):
            self._spawn(upkeep)
        await self._service.start()

    def _open(self) -> None:
        for settings in self.settings.tiers:
            try:
                self._tiers.append(
                    Tier(
                        settings.path,
                        settings.limit_bytes,
                        segment_bytes=settings.segment_bytes,
                        taken_numbers=[tier.number for tier in self._tiers],
                        clock=self._clock,
                    )
                )
            except errors.Unavailable as error:
                self._counts["tier unusable"] += 1
                _log.error("tier %s cannot be used and is left out: %s", settings.path, error)
        self._index = IndexWriter(
            self.settings.index_path, boot_id=read_boot_id(), map_bytes=self.settings.index_map_bytes
        )
        self.recovered = recover(self._index, self._tiers)

    async def stop(self) -> None:
        """Break off fills, seal every segment, and mark the stop clean if all of it went well."""
        self._stopping = True
        await self._service.stop()
        tasks = [*self._tasks.values(), *self._background]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._small.close()
        await self._publisher.stop()
        loop = asyncio.get_running_loop()
        closed = [await loop.run_in_executor(self._executor, tier.close) for tier in self._tiers]
        clean = all(closed) and len(closed) == len(self.settings.tiers) and not self._publisher.failures
        await loop.run_in_executor(self._committer, lambda: self._index.close(clean=clean))
        self._executor.shutdown()
        self._committer.shutdown()

    def statistics(self) -> AgentStatistics:
        """Counters for metrics and for people."""
        counts = self._counts + self._machine.counts + self._shelf.counts
        counts["commits"] = self._publisher.commits
        filled = sum(shelved.eviction.filled_bytes for shelved in self._shelf.shelved)
        again = sum(shelved.eviction.reappended_bytes for shelved in self._shelf.shelved)
        return AgentStatistics(
            fills=sum(self._machine.live_fills.values()),
            fill_bytes=sum(self._machine.live_bytes.values()),
            waiting=len(self._waiters),
            connections=len(self._service.connections),
            blocks=self._index.block_count(),
            amplification=(filled + again) / filled if filled else 1.0,
            counts=dict(counts),
            tiers=tuple(tier.statistics() for tier in self._tiers),
            sick=tuple(shelved.sick for shelved in self._shelf.shelved),
        )

    def story(self, binding: int, key: str, block: int) -> list[str]:
        """What is remembered of one block's fills."""
        return self._machine.story((binding, key), block)

    # -- questions

    def _ask(self, connection: Connection, question: wire.Question) -> None:
        if self._stopping:
            return
        self._counts[f"asked {type(question).__name__.lower()}"] += 1
        match question:
            case wire.Fill():
                self._fill(connection, question)
            case wire.Cancel():
                waiter = connection.numbers.pop(question.number, None)
                if waiter is not None:
                    del self._waiters[waiter]
                    self._deliver(events.Left(waiter))
            case wire.Touch():
                self._shelf.touched(question.hits)
            case wire.Prefetch():
                blocks = range(question.block, question.block + min(question.count, limits.READ_AHEAD_BLOCKS_MAX))
                self._background_fills((question.binding, question.key), question.info.version, blocks)
            case wire.Note():
                name = (question.binding, question.key)
                with suppress(errors.Busy):
                    self._publisher.publish(self._publisher.metadata(name, question.info, question.asked))
            case wire.Ping():
                connection.send(wire.Done(question.number))
            case _:
                self._spawn(self._answer(connection, question))

    def _fill(self, connection: Connection, question: wire.Fill) -> None:
        name, version, block = (question.binding, question.key), question.version, question.block
        length = limits.BLOCK_BYTES if version is None else block_length(version.size, block)
        if block < 0 or length == 0 or (version is None and block) or question.number in connection.numbers:
            connection.send(wire.Failed(question.number, "Invalid", "InvalidRequest", f"no such block: {block}"))
            return
        waiter, self._next_waiter = self._next_waiter, self._next_waiter + 1
        connection.numbers[question.number] = waiter
        self._waiters[waiter] = (connection, question.number)
        if version is not None and self._known(waiter, name, version, block):
            return
        self._deliver(events.Asked(waiter, name, version, block, length, question.demand, question.strict))

    def _known(self, waiter: int, name: events.Name, version: Version, block: int) -> bool:
        """Answer from the index when the block was published after the worker looked."""
        found = self._shelf.find(block_digest(str(name[0]), name[1], version, block))
        if found is None:
            return False
        location, path = found
        connection, number = self._end(waiter)
        connection.send(
            wire.Located(number, path, location.segment_id, location.data_offset, location.length, location.length)
        )
        connection.send(wire.Done(number))
        return True

    async def _answer(self, connection: Connection, question: wire.Question) -> None:
        """Questions that end in Done or Failed."""
        number: int = getattr(question, "number", 0)
        try:
            match question:
                case wire.Forget():
                    self._deliver(events.Forgot((question.binding, question.key)))
                    await self._publisher.forget((question.binding, question.key))
                case wire.Damage():
                    await self._damage(question)
                case wire.Ingest():
                    name = question.binding, question.key
                    self._deliver(events.Forgot(name))
                    since = await supersede(name, question.asked, self._publisher)
                    connection.send(wire.Progress(number, 1))
                    async with self._ingests:
                        await ingest(question, self._tools, since)
                case wire.Stage():
                    await self._stage(question)
            connection.send(wire.Done(number))
        except Exception as error:  # whatever went wrong, the worker must hear of it
            connection.send(wire.Failed(number, *wire.describe(error)))

    async def _damage(self, question: wire.Damage) -> None:
        digest = block_digest(str(question.binding), question.key, question.version, question.block)
        if question.corrupt:
            _log.error("a cached block of %r is corrupt and is dropped", question.key)
            await self._shelf.corrupt(question.segment)
        await self._publisher.publish([DropBlock(digest, question.segment)])
        self._words.stamp(INDEX)
        if not question.corrupt:
            await self._shelf.lost(question.segment)

    async def _stage(self, question: wire.Stage) -> None:
        """Ask the origin what the object is, and fill all of its blocks behind."""
        name, asked = (question.binding, question.key), self._clock.steady()
        info = await self._resolve(question.binding).head(question.key)
        await self._publisher.publish(self._publisher.metadata(name, info, asked))
        count = -(-info.size // limits.BLOCK_BYTES)
        if count > limits.PREFETCH_QUEUE_MAX:
            raise errors.Busy(f"{question.key!r} has {count} blocks, more than can be staged at once")
        self._background_fills(name, info.version, range(count))

    def _background_fills(self, name: events.Name, version: Version, blocks: Iterable[int]) -> None:
        for block in blocks:
            length = block_length(version.size, block)
            if length and self._shelf.find(block_digest(str(name[0]), name[1], version, block)) is None:
                self._deliver(events.Asked(None, name, version, block, length, demand=False))

    # -- the machine

    def _deliver(self, event: events.Event) -> None:
        for instruction in self._machine.handle(event, self._clock.steady()):
            match instruction:
                case events.Begin():
                    self._tasks[instruction.fill] = asyncio.create_task(self._carry_out(instruction))
                case events.Stop():
                    running = self._tasks.get(instruction.fill)
                    if running is not None:
                        running.cancel()
                case _:
                    self._tell(instruction)

    async def _carry_out(self, begin: events.Begin) -> None:
        try:
            await fill(begin, self._tools)
        finally:
            self._tasks.pop(begin.fill, None)

    def _tell(self, instruction: events.Instruction) -> None:
        waiter: int = getattr(instruction, "waiter", 0)
        if waiter not in self._waiters:
            return
        connection, number = self._waiters[waiter]
        match instruction:
            case events.TellStarted():
                place = self._tools.places.get(instruction.fill)
                if place is None:
                    raise errors.Bug(f"fill {instruction.fill} has started nowhere")
                self._tell_started(waiter, place, instruction.ready)
                return
            case events.TellProgress():
                connection.send(wire.Progress(number, instruction.ready))
                return
            case events.TellWhole():
                answer: wire.Answer = wire.Done(number)
            case events.TellBroken():
                answer = wire.Failed(number, instruction.error, instruction.kind, instruction.message)
            case events.TellBypass():
                answer = wire.Bypass(number, instruction.reason)
            case _:
                answer = wire.InFlight(number)
        self._end(waiter)
        connection.send(answer)

    def _tell_started(self, waiter: int, place: Place, ready: int) -> None:
        """Say where the bytes will lie. A small block's go along; a worker that lags behind reads them when stored."""
        connection, number = self._waiters[waiter]
        at = place.reservation
        if at is None:
            connection.send(wire.Located(number, "", 0, 0, 0, 0, place.info))
            return
        data = place.data if connection.keeps_up else None
        connection.send(
            wire.Located(
                number,
                at.path,
                at.segment_id,
                at.data_offset,
                at.data_length,
                0 if place.stored is not None else ready,
                place.info,
                data,
            )
        )
        if place.stored is not None:
            self._end(waiter)  # what the machine tells of it further on is known or told below
            if data is None:
                place.stored.add_done_callback(
                    lambda stored: connection.send(
                        wire.Bypass(number, "disk-failed")
                        if stored.cancelled() or stored.exception()
                        else wire.Done(number)
                    )
                )

    def _end(self, waiter: int) -> tuple[Connection, int]:
        connection, number = self._waiters.pop(waiter)
        connection.numbers.pop(number, None)
        return connection, number

    def _lost(self, connection: Connection) -> None:
        for waiter in list(connection.numbers.values()):
            self._waiters.pop(waiter, None)
            self._deliver(events.Left(waiter))
        connection.numbers.clear()

    # -- upkeep

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._deliver(events.Tick())

    async def _maintain(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_MAINTAIN_SECONDS)
            try:
                await self._shelf.maintain()
                await loop.run_in_executor(self._committer, self._index.reader_check)
            except errors.HeadraceError as error:
                self._counts["upkeep failed"] += 1
                _log.error("upkeep of the cache failed: %s", error)
