"""Decides what stays: which blocks are kept, and which segment goes next. Pure.

Time is counted in accesses ("ticks"), so an idle node forgets nothing. Two things are remembered of
every block, cached or not, in a fixed table: an aging access count (TinyLFU, Einziger et al. 2017)
and the tick of the last access (the inter-reference recency of LIRS, Jiang and Zhang 2002).

While there is room everything is kept. In a full tier a block goes to the *main* log only if it
earned a place against the main segment that is worth least:

- nothing in that segment was touched for twice as long as the block itself was away (the segment
  belongs to a working set that is gone), or
- the block was asked for clearly more often than that segment's blocks were.

Neither holds in a cyclic or shuffled epoch over more than fits: there every block comes back once
an epoch, so a fixed subset stays and the rest passes through the *transient* log, which is unlinked
first. A plain count needs a margin to hold still under a scan and many passes to let go of an old
set; the recency test lets a new set in on its third pass, and at segment grain a shuffled epoch
rarely fools it, because some block of every live segment was touched lately.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

MAIN = "main"
TRANSIENT = "transient"
_ROWS = 3
_COUNT_MAX = 15
_IDLE_FACTOR = 2
_FREQUENCY_FACTOR = 2
_FREQUENCY_MARGIN = 2
WANTED_SHARE_MAX = 1 / 3
"""Re-appending a share w to free 1 - w costs w / (1 - w): at a third, write amplification is 1.5."""
AMPLIFICATION_MAX = 1.5


class Sketch:
    """Access count and last access of any number of blocks in fixed memory (9 bytes x rows x width).

    Two blocks that share a cell make both look younger and more frequent, so each row uses another
    part of the digest and the least of the rows is believed. Counts are halved every `width` accesses.
    """

    def __init__(self, width: int) -> None:
        self.width = 1 << max(10, (width - 1).bit_length())
        self.tick = 0
        self._counts = [bytearray(self.width) for _ in range(_ROWS)]
        self._ticks = [array("Q", bytes(8 * self.width)) for _ in range(_ROWS)]
        self._halve_at = self.width
        self.halvings = 0

    def touch(self, digest: bytes) -> None:
        """Note one access."""
        self.tick += 1
        for row, cell in enumerate(self._cells(digest)):
            counts = self._counts[row]
            if counts[cell] < _COUNT_MAX:
                counts[cell] += 1
            self._ticks[row][cell] = self.tick
        if self.tick >= self._halve_at:
            self._halve_at = self.tick + self.width
            self.halvings += 1
            halves = bytes(count >> 1 for count in range(256))
            self._counts = [counts.translate(halves) for counts in self._counts]

    def count(self, digest: bytes) -> int:
        """How often the block was asked for lately, 0 to 15."""
        return min(self._counts[row][cell] for row, cell in enumerate(self._cells(digest)))

    def last(self, digest: bytes) -> int:
        """The tick of the last access; 0 when there was none."""
        return min(self._ticks[row][cell] for row, cell in enumerate(self._cells(digest)))

    def _cells(self, digest: bytes) -> tuple[int, int, int]:
        mask = self.width - 1
        number = int.from_bytes(digest, "little")
        return number & mask, (number >> 40) & mask, (number >> 80) & mask


@dataclass(slots=True)
class Segment:
    """What eviction knows of one segment; `touched` is the tick at which one of its blocks was last read."""

    number: int
    kind: str
    size_bytes: int
    born: int
    touched: int
    sealed: bool = False
    blocks: int = 0
    hits: float = 0.0
    """Accesses to its blocks, halved whenever the sketch halves its counts; true as of `halvings`."""
    halvings: int = 0
    dense_until: int = 0
    """Until this tick it is known to be mostly wanted, and passed over."""


class Verdict(NamedTuple):
    """What to do about one victim: unlink it after re-appending the blocks in `keep` (digests)."""

    keep: frozenset[bytes]
    spared: bool
    """True: it is worth too much; choose another."""


class Eviction:
    """The eviction state of one tier."""

    def __init__(self, width: int = 1 << 16) -> None:
        self.sketch = Sketch(width)
        self.segments: dict[int, Segment] = {}
        self.filled_bytes = 0
        self.reappended_bytes = 0
        self.transient_bytes = 0
        """Bytes in transient segments."""
        self._blocks = 0
        self._worst: tuple[Segment, int] | None = None

    # -- facts

    def opened(self, number: int, kind: str, *, sealed: bool = False, size_bytes: int = 0, blocks: int = 0) -> None:
        """A segment exists from now on (new, or adopted at the start)."""
        tick = self.sketch.tick
        self.segments[number] = segment = Segment(number, kind, 0, tick, tick, sealed, blocks)
        self._blocks += blocks
        self._resize(segment, size_bytes)
        self._worst = None

    def sealed(self, number: int, size_bytes: int) -> None:
        """The segment takes no more blocks, so it may be chosen as a victim."""
        segment = self.segments.get(number)
        if segment is not None:
            segment.sealed = True
            self._resize(segment, size_bytes)
            self._worst = None

    def unlinked(self, number: int) -> None:
        """The segment is gone."""
        segment = self.segments.pop(number, None)
        if segment is not None:
            self._blocks -= segment.blocks
            self._resize(segment, 0)
            self._worst = None

    def stored(self, number: int, length: int, *, again: bool = False) -> None:
        """A block of `length` bytes was appended; `again` when it moved from a victim."""
        if again:
            self.reappended_bytes += length
        else:
            self.filled_bytes += length
        segment = self.segments.get(number)
        if segment is not None:
            segment.blocks += 1
            self._blocks += 1
            self._resize(segment, segment.size_bytes + length)
            segment.touched = self.sketch.tick

    def touch(self, digest: bytes, number: int) -> None:
        """A cached block was read."""
        self.sketch.touch(digest)
        segment = self.segments.get(number)
        if segment is not None:
            segment.touched = self.sketch.tick
            segment.hits = self._hits(segment) + 1.0
            segment.halvings = self.sketch.halvings

    # -- decisions

    @property
    def amplification(self) -> float:
        """Bytes written for each byte filled."""
        return (self.filled_bytes + self.reappended_bytes) / self.filled_bytes if self.filled_bytes else 1.0

    def admit(self, digest: bytes, *, full: bool) -> str:
        """Which log a missing block goes to, MAIN or TRANSIENT; counts as an access."""
        sketch = self.sketch
        before, count = sketch.last(digest), sketch.count(digest)
        sketch.touch(digest)
        if not full:
            return MAIN
        worst = self._least()
        if worst is None:
            return TRANSIENT
        idle, distance = sketch.tick - worst.touched, sketch.tick - before
        if before and idle >= _IDLE_FACTOR * distance:
            return MAIN
        rate = self._hits(worst) / max(1, worst.blocks)
        return MAIN if count > _FREQUENCY_FACTOR * rate + _FREQUENCY_MARGIN else TRANSIENT

    def victims(self, kind: str) -> list[int]:
        """Sealed segments in the order in which they should make room for a log of `kind`.

        A main segment makes room for the main log and a transient one, oldest first, for the
        transient log, so that neither eats the other's share; the other kind comes last.
        """
        tick = self.sketch.tick
        sealed = [segment for segment in self.segments.values() if segment.sealed]
        transient = sorted((s for s in sealed if s.kind == TRANSIENT), key=lambda s: (s.born, s.number))
        main = sorted((s for s in sealed if s.kind == MAIN), key=lambda s: (s.dense_until > tick, *self._worth(s)))
        return [s.number for s in (main + transient if kind == MAIN else transient + main)]

    def judge(self, number: int, blocks: Iterable[tuple[bytes, int]], *, last_resort: bool = False) -> Verdict:
        """What of a victim's blocks (digest, length) is still wanted.

        Wanted is what was read at least twice lately and, after the segment's birth, at least once.
        A segment of which more than a third is wanted is spared, unless it is the `last_resort`:
        then it is dropped whole, because moving it would write more than it frees.
        """
        segment = self.segments.get(number)
        if segment is None or segment.kind == TRANSIENT or self._gone(segment):
            return Verdict(frozenset(), False)
        blocks = list(blocks)
        total = sum(length for _, length in blocks)
        wanted = [(d, n) for d, n in blocks if self.sketch.count(d) >= 2 and self.sketch.last(d) > segment.born]
        size = sum(length for _, length in wanted)
        if size > WANTED_SHARE_MAX * total:
            segment.dense_until = self.sketch.tick + max(64, self._population() // 4)
            return Verdict(frozenset(), not last_resort)
        allowance = (AMPLIFICATION_MAX - 1.0) * self.filled_bytes - self.reappended_bytes
        if size > max(0.0, allowance):
            return Verdict(frozenset(), False)
        return Verdict(frozenset(digest for digest, _ in wanted), False)

    def _worth(self, segment: Segment) -> tuple[float, int]:
        """Last touch first: an untouched segment is worth least, whatever it once was."""
        return segment.touched, segment.number

    def _gone(self, segment: Segment) -> bool:
        """True when as many accesses as there are blocks went by without one to this segment."""
        return self.sketch.tick - segment.touched > 2 * self._population()

    def _population(self) -> int:
        return self._blocks

    def _resize(self, segment: Segment, size_bytes: int) -> None:
        if segment.kind == TRANSIENT:
            self.transient_bytes += size_bytes - segment.size_bytes
        segment.size_bytes = size_bytes

    def _least(self) -> Segment | None:
        """The sealed main segment worth least. It stays that until it is touched, as others only gain."""
        if self._worst is None or self._worst[0].touched != self._worst[1]:
            sealed = (segment for segment in self.segments.values() if segment.kind == MAIN and segment.sealed)
            least = min(sealed, key=self._worth, default=None)
            if least is None:
                return None
            self._worst = least, least.touched
        return self._worst[0]

    def _hits(self, segment: Segment) -> float:
        return segment.hits * 0.5 ** (self.sketch.halvings - segment.halvings)
