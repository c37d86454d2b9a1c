"""All tiers of the node: which takes a block, what is evicted, which one is sick.

A tier that fails is passed over ("sick") with one log line, probed every few seconds by writing,
syncing and reading back a small file, and taken back, with another line, when the probe succeeds.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from headrace.base import errors, limits
from headrace.base.clock import Clock
from headrace.base.rng import token
from headrace.cache.eviction import MAIN, TRANSIENT, Eviction
from headrace.cache.publisher import Publisher
from headrace.media.frames import BlockName, checksums_of
from headrace.media.index import IndexWriter, PutBlock
from headrace.media.layout import Entry, Location, read_segment_header
from headrace.media.segments import Reservation, read_frame_header
from headrace.media.tiers import Tier
from headrace.wire.words import INDEX, Words

_T = TypeVar("_T")
_log = logging.getLogger("headrace.cache")
_TIER_SHIFT = 48
"""The upper bits of a segment's id are its tier's number (see media.tiers)."""
_RESERVE_SEGMENTS = 3
_RESERVE_SHARE = 4
_FRAME_SLACK_BYTES = 64 * limits.KIB
_WIDTH_MAX = 1 << 20
_TYPICAL_BLOCK_BYTES = 256 * limits.KIB


class NoRoomError(Exception):
    """No tier takes the block; `reason` is counted and told to those who wait."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True, eq=False)
class Shelved:
    """One tier with its eviction state. `sick`: why it is passed over, "" when it is well."""

    tier: Tier
    eviction: Eviction
    sick: str = ""
    probe_at: float = 0.0
    corrupt: int = 0
    evicting: asyncio.Task[None] | None = None

    @property
    def reserve_bytes(self) -> int:
        """Space the main log leaves to the transient one."""
        return min(_RESERVE_SEGMENTS * self.tier.segment_bytes(), self.tier.limit_bytes // _RESERVE_SHARE)

    def excess(self, kind: str, length: int) -> int:
        """Bytes to evict before a log of `kind` may take `length` more.

        The main log leaves the transient one its reserve. What was unlinked a moment ago is not
        evicted for a second time: until it is really free, the reserve is what new blocks go to.
        """
        statistics = self.tier.statistics()
        used = statistics.used_bytes - statistics.unlinked_bytes
        if kind == MAIN:
            return used - self.eviction.transient_bytes + length - (self.tier.limit_bytes - self.reserve_bytes)
        return used + length - (self.tier.limit_bytes - self.tier.segment_bytes() // 2)


class Shelf:
    """The tiers as the agent uses them. Call everything from the agent's loop."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        index: IndexWriter,
        publisher: Publisher,
        words: Words,
        executor: Executor,
        clock: Clock,
    ) -> None:
        self._index = index
        self._publisher = publisher
        self._words = words
        self._executor = executor
        self._clock = clock
        self.counts: Counter[str] = Counter()
        self.shelved = [Shelved(tier, Eviction(_width(tier))) for tier in tiers]
        self._by_number = {shelved.tier.number: shelved for shelved in self.shelved}

    # -- adoption

    def adopt(self) -> None:
        """Take every segment that the tiers hold into account. Blocking: call it in a thread at the start."""
        for shelved in self.shelved:
            tier = shelved.tier
            for number in tier.segment_ids():
                size = tier.segment_size_bytes(number)
                kind = _kind_of(tier, number)
                shelved.eviction.opened(
                    number, kind, sealed=True, size_bytes=size, blocks=max(1, size // _TYPICAL_BLOCK_BYTES)
                )

    # -- space

    def find(self, digest: bytes) -> tuple[Location, str] | None:
        """Where the index says the block lies, and its segment's path."""
        location = self._index.block(digest)
        shelved = None if location is None else self._of(location.segment_id)
        if location is None or shelved is None:
            return None
        return location, str(shelved.tier.path_of(location.segment_id))

    async def reserve(self, name: BlockName, digest: bytes, length: int) -> Reservation:
        """Room for one block. Raises NoRoomError when it must be read around the cache."""
        if self._publisher.sick:
            raise NoRoomError("index-failed")
        well = [shelved for shelved in self.shelved if not shelved.sick]
        if not well:
            raise NoRoomError(self.shelved[0].sick if self.shelved else "no-tier")
        well.sort(key=lambda shelved: shelved.tier.used_bytes() / shelved.tier.limit_bytes)
        for shelved in well:
            kind = shelved.eviction.admit(digest, full=shelved.excess(MAIN, length) > 0)
            self.counts[f"admitted {kind}"] += 1
            if shelved.excess(kind, length) > 0:
                await self._make_room(shelved, kind, length)
            reservation = await self._reserve(shelved, kind, name, length)
            if reservation is not None:
                return reservation
        raise NoRoomError("tier-full")

    async def _reserve(self, shelved: Shelved, kind: str, name: BlockName, length: int) -> Reservation | None:
        try:
            log = shelved.tier.open_log(name.binding, kind)
            before = log.writer
            if before is not None and before.open:
                reservation = log.reserve(length, name)
            else:
                reservation = await self._thread(log.reserve, length, name)
        except errors.Busy:
            raise NoRoomError("too-many-logs") from None
        except errors.Invalid:
            raise NoRoomError("name-too-long") from None
        except errors.Unavailable as error:
            if (
                error.kind == "TierFull"
                and shelved.tier.used_bytes() + length + _FRAME_SLACK_BYTES > shelved.tier.limit_bytes
            ):
                self.counts["tier-full"] += 1
                return None
            self.failed(shelved.tier.number, error)
            return None
        if reservation.segment_id not in shelved.eviction.segments:
            shelved.eviction.opened(reservation.segment_id, kind)
        return reservation

    def stored(self, entry: Entry) -> None:
        """A fill committed its frame."""
        shelved = self._of(entry.location.segment_id)
        if shelved is not None:
            shelved.eviction.stored(entry.location.segment_id, entry.location.length)

    def touched(self, hits: Sequence[tuple[bytes, int]]) -> None:
        """Blocks were read from the cache."""
        for digest, segment in hits:
            shelved = self._of(segment)
            if shelved is not None:
                shelved.eviction.touch(digest, segment)

    # -- sickness

    def failed(self, segment_or_tier: int, error: Exception) -> str:
        """A write to a tier failed: pass it over until a probe succeeds. Returns the reason."""
        shelved = self._of(segment_or_tier) or self._by_number.get(segment_or_tier)
        reason = "disk-full" if getattr(error, "kind", "") == "TierFull" else "disk-failed"
        self.counts[reason] += 1
        if shelved is not None and not shelved.sick:
            shelved.sick = reason
            shelved.probe_at = self._clock.steady() + limits.TIER_PROBE_SECONDS
            _log.error("tier %s takes no more blocks (%s): reads go around it; %s", shelved.tier.path, reason, error)
        return reason

    async def corrupt(self, segment: int) -> None:
        """A block of this segment did not match its checksum; too many of them quarantine the tier."""
        shelved = self._of(segment)
        self.counts["corrupt"] += 1
        if shelved is None:
            return
        shelved.corrupt += 1
        if shelved.corrupt >= limits.CORRUPT_BLOCKS_MAX and not shelved.sick:
            shelved.sick, shelved.probe_at = "corrupting", float("inf")
            _log.error(
                "tier %s returned %d corrupt blocks: quarantined until restart", shelved.tier.path, shelved.corrupt
            )

    async def lost(self, segment: int) -> None:
        """A segment's file cannot be opened: forget its blocks when the file is gone."""
        shelved = self._of(segment)
        if shelved is None or shelved.tier.is_open(segment) or shelved.tier.path_of(segment).exists():
            return
        await self._thread(self._index.drop_segment, segment)
        await self._thread(shelved.tier.unlink, segment)
        shelved.eviction.unlinked(segment)
        self._words.stamp(INDEX)

    # -- upkeep

    async def maintain(self) -> None:
        """Seal what is full or idle, evict ahead of need, probe what is sick. Call it every second or so."""
        for shelved in self.shelved:
            try:
                await self._thread(shelved.tier.maintain)
            except errors.Unavailable as error:
                self.failed(shelved.tier.number, error)
            self._note_sealed(shelved)
            if shelved.sick:
                await self._probe(shelved)
            for kind in (MAIN, TRANSIENT):
                if shelved.excess(kind, 0) > 0:
                    await self._make_room(shelved, kind, 0)

    def _note_sealed(self, shelved: Shelved) -> None:
        tier = shelved.tier
        for segment in list(shelved.eviction.segments.values()):
            if not segment.sealed and not tier.is_open(segment.number):
                size = tier.segment_size_bytes(segment.number)
                if size:
                    shelved.eviction.sealed(segment.number, size)
                else:  # it never held a frame and was removed
                    shelved.eviction.unlinked(segment.number)

    async def _probe(self, shelved: Shelved) -> None:
        now = self._clock.steady()
        if now < shelved.probe_at:
            return
        shelved.probe_at = now + limits.TIER_PROBE_SECONDS
        try:
            if shelved.sick == "disk-full":
                await self._evict(shelved, MAIN, last_resort=True)
            await self._thread(_probe_disk, str(shelved.tier.path))
        except (OSError, errors.HeadraceError):
            self.counts["probe failed"] += 1
            return
        _log.warning("tier %s works again and takes blocks (was: %s)", shelved.tier.path, shelved.sick)
        shelved.sick = ""
        self.counts["tier back"] += 1

    async def _make_room(self, shelved: Shelved, kind: str, length: int) -> None:
        """Evict until there is room, or nothing can go; whoever comes meanwhile waits a moment for it."""
        if shelved.evicting is None or shelved.evicting.done():
            shelved.evicting = asyncio.create_task(self._evict_until(shelved, kind, length))
        await asyncio.wait({shelved.evicting}, timeout=limits.EVICTION_WAIT_SECONDS_MAX)

    async def _evict_until(self, shelved: Shelved, kind: str, length: int) -> None:
        try:
            while shelved.excess(kind, length) > 0:
                if await self._evict(shelved, kind) or await self._evict(shelved, kind, last_resort=True):
                    continue
                await self._thread(shelved.tier.maintain)  # a full segment may only wait to be sealed
                self._note_sealed(shelved)
                if not await self._evict(shelved, kind, last_resort=True):
                    return
        except errors.HeadraceError as error:
            self.failed(shelved.tier.number, error)

    async def _evict(self, shelved: Shelved, kind: str, *, last_resort: bool = False) -> bool:
        """Let the first segment go that is not spared; False when there is none."""
        eviction = shelved.eviction
        for number in eviction.victims(kind):
            if kind == TRANSIENT and eviction.segments[number].kind == MAIN:
                return False
            try:
                entries: list[Entry] | None = await self._thread(shelved.tier.entries, number)
            except (errors.HeadraceError, OSError):
                entries = None
            current = [] if entries is None else await self._thread(self._current, entries)
            blocks = [(entry.digest, entry.location.length) for entry in current]
            verdict = eviction.judge(number, blocks, last_resort=last_resort)
            if verdict.spared:
                continue
            for entry in current:
                if entry.digest in verdict.keep:
                    await self._reappend(shelved, entry)
            await self._thread(self._index.drop_segment, number, entries)
            await self._thread(shelved.tier.unlink, number)
            eviction.unlinked(number)
            self._words.stamp(INDEX)
            self.counts["evicted segments"] += 1
            self.counts["evicted blocks"] += len(current) - len(verdict.keep)
            return True
        return False

    def _current(self, entries: list[Entry]) -> list[Entry]:
        """Those entries that the index still leads to."""
        found = self._index.blocks([entry.digest for entry in entries])
        return [entry for entry, location in zip(entries, found, strict=True) if location == entry.location]

    async def _reappend(self, shelved: Shelved, entry: Entry) -> None:
        """Copy a block that is still wanted into the main log; it is dropped when that fails."""
        try:
            log = shelved.tier.open_log(entry.name.binding, MAIN)
            moved = await self._thread(_copy, str(shelved.tier.path_of(entry.location.segment_id)), entry, log.reserve)
        except (errors.HeadraceError, OSError) as error:
            self.counts["reappend failed"] += 1
            _log.debug("a block could not be kept: %s", error)
            return
        number = moved.location.segment_id
        if number not in shelved.eviction.segments:
            shelved.eviction.opened(number, MAIN)
        shelved.eviction.stored(number, moved.location.length, again=True)
        self.counts["reappended bytes"] += moved.location.length
        await self._publisher.publish([PutBlock(moved.digest, moved.location)])

    def _of(self, segment: int) -> Shelved | None:
        return self._by_number.get(segment >> _TIER_SHIFT)

    async def _thread(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *arguments)


def _width(tier: Tier) -> int:
    return min(_WIDTH_MAX, 4 * max(1, tier.limit_bytes // _TYPICAL_BLOCK_BYTES))


def _kind_of(tier: Tier, number: int) -> str:
    try:
        descriptor = os.open(tier.path_of(number), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return TRANSIENT
    try:
        return read_segment_header(descriptor).kind
    except (errors.Damaged, OSError):
        return TRANSIENT
    finally:
        os.close(descriptor)


def _copy(path: str, entry: Entry, reserve: Callable[[int, BlockName], Reservation]) -> Entry:
    """Verify a frame's bytes and append them elsewhere. Raises Damaged, Unavailable, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = read_frame_header(descriptor, entry.location.frame_offset)
        data = os.pread(descriptor, entry.location.length, entry.location.data_offset)
    finally:
        os.close(descriptor)
    if len(data) != entry.location.length or checksums_of(data) != header.checksums or header.name != entry.name:
        raise errors.Damaged(f"a block to be kept does not match its checksum in {path}")
    reservation = reserve(len(data), entry.name)
    try:
        reservation.writer.write(reservation, 0, data)
    except BaseException:
        reservation.writer.abandon(reservation)
        raise
    return reservation.writer.commit(reservation, header.checksums)


def _probe_disk(path: str) -> None:
    """Write, sync and read back a small file. Raises OSError."""
    name = f"{path}/probe"
    content = token(4096)
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, content, 0)
        os.fsync(descriptor)
        if os.pread(descriptor, len(content), 0) != content:
            raise OSError(f"{name} does not read back what was written")
    finally:
        os.close(descriptor)
        Path(name).unlink()
