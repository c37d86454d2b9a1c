"""How a gateway worker reads an object of a remote origin through the cache.

The freshness rule of the key says whether what the index knows may be believed; bytes are looked for
under the exact version, so they are never stale. Whatever the agent cannot or will not do, the
worker reads from the origin itself ("bypass"), counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from headrace.base import errors, limits
from headrace.base.clock import SYSTEM, Clock
from headrace.cache.body import AGENT_KINDS, Body, BypassError, ChangedError, Source, close_body, ended_reason
from headrace.cache.client import AgentClient, Question
from headrace.cache.files import SegmentFile
from headrace.cache.freshness import Decision, Mode, Rule, Rules, decide
from headrace.cache.hits import Hits, IndexHandle
from headrace.media.frames import BlockName
from headrace.media.index import MetaRecord
from headrace.media.tiers import SegmentPaths
from headrace.model.bindings import Binding
from headrace.model.objects import NO_CONDITIONS, Conditions, ObjectInfo
from headrace.origin.base import Opened, Origin
from headrace.origin.conditions import check_read, resolve_range
from headrace.wire import agent as wire
from headrace.wire.words import DOUBT, Words, stripe

_TRIES = 2


class Answer(NamedTuple):
    """Bytes [start, start + length) of `info`; `pieces` must be closed (`aclose`) or exhausted.

    `cache` is HIT (all of it cached and known good), REVALIDATED (the same, after asking the origin),
    MISS or BYPASS. `age_seconds`: how long ago the origin confirmed the metadata. `source` is where
    the first bytes lay: "memory", "device" or "origin".
    """

    info: ObjectInfo
    start: int
    length: int
    age_seconds: float
    cache: str
    pieces: Body | StraightBody
    source: str


class Known(NamedTuple):
    """What is believed of an object.

    `confirmed`: it was known, and the origin said just now that it still holds; `fresh`: it is news.
    """

    info: ObjectInfo
    age_seconds: float
    confirmed: bool = False
    fresh: bool = False


class Hit(NamedTuple):
    """An object wholly in the cache: (descriptor, offset, length) of each block, in order.

    The descriptors are good for as long as `files` is referenced; each file's `path` is where it
    lies. `expires_wall`: until when, by the wall clock, the metadata may be believed.
    """

    info: ObjectInfo
    pieces: tuple[tuple[int, int, int], ...]
    age_seconds: float
    expires_wall: float
    files: tuple[SegmentFile, ...]


class StraightBody:
    """An origin's answer as pieces; raises Unavailable when it ends early."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._left = opened.length

    def __aiter__(self) -> StraightBody:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._opened.body)
        except StopAsyncIteration:
            if self._left:
                raise errors.Unavailable(f"the origin's answer ended {self._left} bytes early") from None
            raise
        self._left -= len(piece)
        return piece

    async def aclose(self) -> None:
        """Stop reading."""
        await close_body(self._opened)


class Reader:
    """The cache as one worker sees it.

    `origins(binding)` gives the origin that a binding names. Call `close` at the end.
    """

    def __init__(
        self,
        index: IndexHandle,
        client: AgentClient,
        words: Words,
        origins: Callable[[Binding], Origin],
        paths: SegmentPaths,
        *,
        clock: Clock = SYSTEM,
    ) -> None:
        self.client = client
        self.hits = Hits(index, paths, client, words)
        self.counts: Counter[str] = Counter()
        """Answers by cache state, and bypasses by reason ("bypass REASON")."""
        self._words = words
        self._origins = origins
        self._clock = clock
        self._rules = Rules()

    def close(self) -> None:
        """Close files and index, stop threads. The client belongs to the caller."""
        self.hits.close()

    # -- reading

    async def open(
        self,
        binding: Binding,
        key: str,
        byte_range: tuple[int, int | None] = (0, None),
        conditions: Conditions = NO_CONDITIONS,
        rule: Rule | None = None,
    ) -> Answer:
        """Start reading; `byte_range` is (start, stop) as in `Origin.open`, `rule` overrides the binding's.

        Raises what the origin raises (NotFound, Denied, Busy, Unavailable), Conflict
        (PreconditionFailed, NotModified), Invalid (InvalidRange).
        """
        rule = rule or self._rules.rule(binding, key)
        origin = self._origins(binding)
        if not self.client.connected:
            return await self._pass_by("agent-absent", origin, key, byte_range, conditions)
        for attempt in range(_TRIES):
            try:
                return await self._open(binding, origin, key, byte_range, conditions, rule, again=attempt > 0)
            except ChangedError:
                self.counts["changed"] += 1
                await self.client.forget(binding, key)
        return await self._pass_by("changing", origin, key, byte_range, conditions)

    async def _open(
        self,
        binding: Binding,
        origin: Origin,
        key: str,
        byte_range: tuple[int, int | None],
        conditions: Conditions,
        rule: Rule,
        *,
        again: bool,
    ) -> Answer:
        known, question = await self._know(binding, origin, key, rule, again=again), None
        if known is None:
            if _is_small(*byte_range):
                return await self._first_range(binding, origin, key, byte_range, conditions)
            try:
                if byte_range[0] == 0:
                    known, question = await self._learn(binding, origin, key, rule)
                else:
                    known = await self._ask(binding, origin, key, rule, None)
            except BypassError as bypass:
                return await self._pass_by(bypass.reason, origin, key, byte_range, conditions)
        try:
            check_read(known.info, conditions)
            start, stop = resolve_range(known.info.size, *byte_range)
        except BaseException:
            if question is not None:
                question.close()
            raise
        source = Source(self.hits, self.client, origin, binding.id, self.note_bypass)
        body = Body(source, known.info, start, stop, question)
        await body.prepare()
        missed = body.missed or known.fresh
        cache = "BYPASS" if body.bypassed else "MISS" if missed else "REVALIDATED" if known.confirmed else "HIT"
        self.counts[cache] += 1
        return Answer(known.info, start, stop - start, known.age_seconds, cache, body, body.source)

    async def _know(self, binding: Binding, origin: Origin, key: str, rule: Rule, *, again: bool) -> Known | None:
        """What is believed of the object, after asking the origin where the rule wants it; None: nothing."""
        record = self._record(binding, key)
        if record is None and not again:
            return None
        age = None if record is None else self._clock.wall() - record.fetched_wall  # below 0: the clock was set back
        if record is not None and not again and self._believed(record) and decide(rule, age) is Decision.TRUST:
            return Known(record.info, max(0.0, age or 0.0))
        return await self._ask(binding, origin, key, rule, record)

    async def _ask(self, binding: Binding, origin: Origin, key: str, rule: Rule, record: MetaRecord | None) -> Known:
        """Ask the origin what the object is now, and pass on what is new."""
        asked = self._clock.steady()
        try:
            info = await origin.head(key)
        except errors.NotFound:
            if record is not None:
                await self.client.forget(binding, key)
            raise
        same = record is not None and record.info.version == info.version
        if not same or rule.mode is not Mode.VALIDATE:
            self.client.tell(wire.Note(binding.id, key, info, asked))
        if record is not None and not same:
            self._words.stamp(stripe(binding.bucket, key))
        return Known(info, 0.0, confirmed=same, fresh=not same)

    async def _learn(self, binding: Binding, origin: Origin, key: str, rule: Rule) -> tuple[Known, Question | None]:
        """Nothing is known: have the agent open the object, which brings its first block too.

        Raises BypassError when the agent will not, or is gone.
        """
        try:
            question = self.client.fill(binding.id, key, None, 0, strict=rule.mode is Mode.VALIDATE)
        except errors.Unavailable as error:
            raise BypassError(error.kind) from error
        try:
            await question.changed(lambda: question.located is not None, limits.FILL_STALL_SECONDS_MAX)
            located = question.located
            if located is not None and located.info is not None:
                return Known(located.info, 0.0, fresh=True), question if located.path else None
            if isinstance(question.ended, wire.InFlight):
                return await self._ask(binding, origin, key, rule, None), None
            raise BypassError(ended_reason(question))
        except errors.Unavailable as error:
            question.close()
            if error.kind in AGENT_KINDS:
                raise BypassError(error.kind) from error
            raise
        except BaseException:
            question.close()
            raise

    async def _first_range(
        self,
        binding: Binding,
        origin: Origin,
        key: str,
        byte_range: tuple[int, int | None],
        conditions: Conditions,
    ) -> Answer:
        """A range of an object nothing is known of: one request to the origin, and a fill behind it."""
        opened = await origin.open(key, *byte_range, conditions)
        if opened.length:
            first = opened.start // limits.BLOCK_BYTES
            last = (opened.start + opened.length - 1) // limits.BLOCK_BYTES
            self.client.tell(wire.Prefetch(binding.id, key, opened.info, first, last - first + 1))
        self.counts["MISS"] += 1
        return Answer(opened.info, opened.start, opened.length, 0.0, "MISS", StraightBody(opened), "origin")

    async def _pass_by(
        self, reason: str, origin: Origin, key: str, byte_range: tuple[int, int | None], conditions: Conditions
    ) -> Answer:
        """Read from the origin as if there were no cache."""
        self.note_bypass(reason)
        opened = await origin.open(key, *byte_range, conditions)
        self.counts["BYPASS"] += 1
        return Answer(opened.info, opened.start, opened.length, 0.0, "BYPASS", StraightBody(opened), "origin")

    # -- metadata

    async def head(self, binding: Binding, key: str, rule: Rule | None = None) -> Known:
        """What the object is, without its bytes. Raises what the origin raises."""
        rule = rule or self._rules.rule(binding, key)
        origin = self._origins(binding)
        known = await self._know(binding, origin, key, rule, again=False)
        return known or await self._ask(binding, origin, key, rule, None)

    def hit_now(self, binding: Binding, key: str, rule: Rule | None = None) -> Hit | None:
        """The whole object, if all of it is cached, checked by this worker before, and known good now.

        Never waits. None under `validate`, for objects of more than HOT_BLOCKS_MAX blocks, and
        whenever anything is missing: then `open` is the way.
        """
        rule = rule or self._rules.rule(binding, key)
        if rule.mode is Mode.VALIDATE or not self.client.trusted:
            return None
        record = self._record(binding, key)
        if record is None or not self._believed(record):
            return None
        age = self._clock.wall() - record.fetched_wall
        count = -(-record.info.size // limits.BLOCK_BYTES)
        if decide(rule, age) is not Decision.TRUST or count > limits.HOT_BLOCKS_MAX:
            return None
        names = [BlockName(str(binding.id), key, record.info.version, number) for number in range(count)]
        pieces, files = [], []
        for name, location in zip(names, self.hits.find(names), strict=True):
            ready = None if location is None else self.hits.now(name, location)
            if ready is None:
                return None
            pieces.append((ready.file.descriptor, ready.location.data_offset, ready.location.length))
            files.append(ready.file)
        expires = record.fetched_wall + rule.seconds if rule.mode is Mode.LEASE else float("inf")
        return Hit(record.info, tuple(pieces), max(0.0, age), expires, tuple(files))

    async def forget(self, binding: Binding, key: str) -> None:
        """The object is about to change, or has changed, at the origin: see `AgentClient.forget`."""
        await self.client.forget(binding, key)

    def _record(self, binding: Binding, key: str) -> MetaRecord | None:
        index = self.hits.index.current()
        return None if index is None else index.meta(str(binding.id), key)

    def _believed(self, record: MetaRecord) -> bool:
        """Whether the agent has been told of all that this node changed since the record was made."""
        return self.client.trusted and record.fetched_wall * 1000 > self._words.view[DOUBT]

    def note_bypass(self, reason: str) -> None:
        """Count that something went around the cache."""
        self.counts[f"bypass {reason}"] += 1


def _is_small(start: int, stop: int | None) -> bool:
    """True for a range that the origin answers sooner than a fill would."""
    length = -start if start < 0 else None if stop is None else stop - start
    return length is not None and length <= limits.RANGE_DIRECT_BYTES_MAX
