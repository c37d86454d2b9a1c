"""Decides about fills: which begin, who joins which, who is told what. Pure.

`Fills.handle(event, now)` changes the state and returns instructions; it never awaits, reads a
clock, opens a socket or throws dice, so any run can be replayed from its events.

A fill is `queued` (no budget yet), `opening` (the origin is asked), `running` (bytes arrive),
`landed` (all bytes readable, not yet in the index), then gone. Demand and prefetch have separate
queues; prefetch may hold at most half of the budget, and a prefetch nobody waits for is broken off
when a demand fill has no room. A demand fill that everybody left goes on as a prefetch if the
prefetch budget has room for it, else it is stopped.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from headrace.base import errors, limits
from headrace.cache.events import (
    Asked,
    Begin,
    Broke,
    Event,
    Forgot,
    Instruction,
    Landed,
    Left,
    Name,
    Opened,
    Progressed,
    Published,
    Refused,
    Stop,
    TellBroken,
    TellBypass,
    TellInFlight,
    TellProgress,
    TellStarted,
    TellWhole,
    Tick,
)
from headrace.model.objects import Version

Block = tuple[Name, Version, int]
Report = Opened | Progressed | Landed | Published | Broke | Refused
_RETRYABLE_BY_PARKED = ("NotFound", "Conflict")
_ENDED_STORIES_MAX = 128


@dataclass(slots=True)
class Budget:
    """How much may be in flight at once; prefetch counts against both rows."""

    fills: int = limits.FILLS_MAX
    size_bytes: int = limits.FILL_BYTES_MAX
    prefetch_fills: int = limits.PREFETCH_FILLS_MAX
    prefetch_bytes: int = limits.FILL_BYTES_MAX // 2
    queue: int = limits.FILL_QUEUE_MAX
    prefetch_queue: int = limits.PREFETCH_QUEUE_MAX
    queue_seconds: float = limits.FILL_QUEUE_SECONDS_MAX
    fill_seconds: float = limits.FILL_SECONDS_MAX


@dataclass(slots=True)
class Fill:
    """One block on its way in. `version` None: not known before the origin answers."""

    number: int
    name: Name
    version: Version | None
    block: int
    length: int
    demand: bool
    asked: float
    stage: str = "queued"
    began: float = 0.0
    ready: int = 0
    detached: bool = False
    waiters: dict[int, None] = field(default_factory=dict)
    parked: dict[int, tuple[Version, int, bool]] = field(default_factory=dict)
    """Waiters who know the version, held until this opening knows it too: (version, length, demand)."""
    story: deque[str] = field(default_factory=lambda: deque(maxlen=limits.STORY_EVENTS_MAX))

    @property
    def live(self) -> bool:
        """True while the fill holds a part of the budget."""
        return self.stage in ("opening", "running")

    @property
    def lonely(self) -> bool:
        """True when nobody waits for the fill."""
        return not self.waiters and not self.parked


class Fills:
    """The state of all fills of one node."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget or Budget()
        self.fills: dict[int, Fill] = {}
        self.blocks: dict[Block, int] = {}
        self.openings: dict[Name, int] = {}
        """The latest fill of an object's first block: what a question without a version meets."""
        self.waiting: dict[int, int] = {}
        self.queues: dict[bool, dict[int, None]] = {True: {}, False: {}}
        """Queued fills in order of arrival, by `demand`."""
        self.counts: Counter[str] = Counter()
        """Bypasses by reason, and joins, stops and failures: all since the start."""
        self._next = 1
        self.live_fills = {True: 0, False: 0}
        self.live_bytes = {True: 0, False: 0}
        """What holds budget now, by `demand`."""
        self._ended: deque[tuple[Name, int, tuple[str, ...]]] = deque(maxlen=_ENDED_STORIES_MAX)

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event; returns what is to be done, in order. Raises Bug on an impossible event."""
        out: list[Instruction] = []
        match event:
            case Asked():
                self._asked(event, now, out)
            case Left():
                self._left(event.waiter, now, out)
            case Forgot():
                self.openings.pop(event.name, None)
            case Tick():
                self._tick(now, out)
            case _:
                fill = self.fills.get(event.fill)
                if fill is not None:  # a stopped fill's last words arrive late and mean nothing
                    fill.story.append(f"{now:.3f} {type(event).__name__}")
                    self._advance(fill, event, now, out)
        self._schedule(now, out)
        return out

    def story(self, name: Name, block: int) -> list[str]:
        """All that is remembered of one block's fills, oldest first."""
        told = [line for ended, number, lines in self._ended if (ended, number) == (name, block) for line in lines]
        for fill in self.fills.values():
            if (fill.name, fill.block) == (name, block):
                told.extend(fill.story)
        return told

    # -- questions

    def _asked(self, event: Asked, now: float, out: list[Instruction]) -> None:
        if event.version is None:
            opening = self.fills.get(self.openings.get(event.name, 0))
            if opening is not None:
                if event.strict and opening.stage != "queued":
                    self.counts["in-flight"] += 1
                    if event.waiter is not None:
                        out.append(TellInFlight(event.waiter))
                else:
                    self._join(opening, event, now, out)
                return
        else:
            running = self.fills.get(self.blocks.get((event.name, event.version, event.block), 0))
            if running is not None:
                self._join(running, event, now, out)
                return
            opening = self.fills.get(self.openings.get(event.name, 0))
            if event.block == 0 and opening is not None and opening.version is None:
                if event.waiter is not None and self._promote(opening, event.waiter, event.demand, out):
                    opening.parked[event.waiter] = (event.version, event.length, event.demand)
                    self.waiting[event.waiter] = opening.number
                return
        self._new(event, now, out)

    def _new(self, event: Asked, now: float, out: list[Instruction]) -> None:
        room = self.budget.queue if event.demand else self.budget.prefetch_queue
        if len(self.queues[event.demand]) >= room:
            self._bypass(event.waiter, "queue-full" if event.demand else "prefetch-budget", out)
            return
        fill = Fill(
            self._next, event.name, event.version, event.block, event.length, event.demand, now,
            detached=event.waiter is None,
        )  # fmt: skip
        self._next += 1
        fill.story.append(f"{now:.3f} Asked demand={event.demand} version={event.version}")
        self.fills[fill.number] = fill
        self.queues[fill.demand][fill.number] = None
        if event.version is not None:
            self.blocks[event.name, event.version, event.block] = fill.number
        if event.block == 0:
            self.openings[event.name] = fill.number
        if event.waiter is not None:
            fill.waiters[event.waiter] = None
            self.waiting[event.waiter] = fill.number

    def _join(self, fill: Fill, event: Asked, now: float, out: list[Instruction]) -> None:
        if event.waiter is None:
            fill.detached = True
            return
        self.counts["joined"] += 1
        fill.story.append(f"{now:.3f} Joined by {event.waiter}")
        self._add(fill, event.waiter, event.demand, out)

    def _add(self, fill: Fill, waiter: int, demand: bool, out: list[Instruction]) -> None:
        if not self._promote(fill, waiter, demand, out):
            return
        if fill.stage in ("running", "landed"):
            out.append(TellStarted(waiter, fill.number, fill.ready))
        if fill.stage == "landed":
            out.append(TellWhole(waiter))
            return
        fill.waiters[waiter] = None
        self.waiting[waiter] = fill.number

    def _promote(self, fill: Fill, waiter: int, demand: bool, out: list[Instruction]) -> bool:
        """Turn a prefetch that somebody needs now into a demand fill; False when the queue is full (bypass)."""
        if not demand or fill.demand:
            return True
        if fill.stage == "queued":
            if len(self.queues[True]) >= self.budget.queue:
                self._bypass(waiter, "queue-full", out)
                return False
            del self.queues[False][fill.number]
            self.queues[True][fill.number] = None
        self._count(fill, -1)
        fill.demand = True
        self._count(fill, 1)
        return True

    def _left(self, waiter: int, now: float, out: list[Instruction]) -> None:
        fill = self.fills.get(self.waiting.pop(waiter, 0))
        if fill is None:
            return
        fill.waiters.pop(waiter, None)
        fill.parked.pop(waiter, None)
        fill.story.append(f"{now:.3f} Left by {waiter}")
        self._settle(fill, out)

    def _settle(self, fill: Fill, out: list[Instruction]) -> None:
        """When nobody waits any more: go on as a prefetch if there is room for one, else stop."""
        if not fill.lonely or fill.detached or fill.stage == "landed":
            return
        if fill.live and (not fill.demand or self._prefetch_room(fill)):
            self._count(fill, -1)
            fill.demand, fill.detached = False, True
            self._count(fill, 1)
        else:
            self._stop(fill, out)

    # -- what the runner reports

    def _advance(self, fill: Fill, event: Report, now: float, out: list[Instruction]) -> None:
        match event:
            case Opened():
                self._expect(fill, "opening")
                self._opened(fill, event, now, out)
            case Progressed():
                self._expect(fill, "running")
                if event.ready > fill.ready:
                    fill.ready = min(event.ready, fill.length)
                    out.extend(TellProgress(waiter, fill.ready) for waiter in fill.waiters)
            case Landed():
                self._expect(fill, "running")
                self._count(fill, -1)
                fill.stage, fill.ready = "landed", fill.length
                out.extend(TellWhole(waiter) for waiter in fill.waiters)
                self._dismiss(fill)
            case Published():
                self._expect(fill, "landed")
                self._drop(fill)
            case Broke():
                self._broke(fill, event, now, out)
            case Refused():
                waiters = [*fill.waiters, *fill.parked]
                self._drop(fill)
                for waiter in waiters:
                    self._bypass(waiter, event.reason, out)

    def _opened(self, fill: Fill, event: Opened, now: float, out: list[Instruction]) -> None:
        self._count(fill, -1)
        fill.stage, fill.length = "running", event.length
        self._count(fill, 1)
        if fill.version is None:
            fill.version = event.version
            self.blocks.setdefault((fill.name, event.version, fill.block), fill.number)
        elif fill.version != event.version:
            raise errors.Bug(f"fill {fill.number} asked for {fill.version} and got {event.version}")
        out.extend(TellStarted(waiter, fill.number, 0) for waiter in fill.waiters)
        self._unpark(fill, now, out)
        self._settle(fill, out)  # those who were parked may have gone to another version's fill

    def _unpark(self, fill: Fill, now: float, out: list[Instruction]) -> None:
        """Ask again for those who waited for the version to be known: same version joins."""
        parked, fill.parked = fill.parked, {}
        for waiter, (version, length, demand) in parked.items():
            del self.waiting[waiter]
            self._asked(Asked(waiter, fill.name, version, fill.block, length, demand), now, out)

    def _broke(self, fill: Fill, event: Broke, now: float, out: list[Instruction]) -> None:
        self.counts["failed"] += 1
        parked, fill.parked = fill.parked, {}
        for waiter in parked:
            del self.waiting[waiter]
        waiters = list(fill.waiters)
        self._drop(fill)
        out.extend(TellBroken(waiter, event.error, event.kind, event.message) for waiter in waiters)
        for waiter, (version, length, demand) in parked.items():
            if event.error in _RETRYABLE_BY_PARKED:  # the object came to be, or changed, after the opening was sent
                self._asked(Asked(waiter, fill.name, version, fill.block, length, demand), now, out)
            else:
                out.append(TellBroken(waiter, event.error, event.kind, event.message))

    def _tick(self, now: float, out: list[Instruction]) -> None:
        late = [
            fill
            for fill in map(self.fills.__getitem__, self.queues[True])
            if now - fill.asked > self.budget.queue_seconds
        ]
        for fill in late:
            waiters = [*fill.waiters, *fill.parked]
            self._drop(fill)
            for waiter in waiters:
                self._bypass(waiter, "queue-seconds", out)
        for fill in [fill for fill in self.fills.values() if fill.live and now - fill.began > self.budget.fill_seconds]:
            message = f"the origin did not deliver block {fill.block} in {self.budget.fill_seconds:g} s"
            out.append(Stop(fill.number))
            self._broke(fill, Broke(fill.number, "Unavailable", errors.Unavailable.kind, message), now, out)

    # -- budgets and ends

    def _schedule(self, now: float, out: list[Instruction]) -> None:
        demand, prefetch = self.queues[True], self.queues[False]
        while demand:
            fill = self.fills[next(iter(demand))]
            if self._room(fill):
                self._begin(fill, now, out)
            elif not self._preempt(out):
                break
        while prefetch:
            fill = self.fills[next(iter(prefetch))]
            if not self._room(fill) or not self._prefetch_room(fill):
                break
            self._begin(fill, now, out)

    def _begin(self, fill: Fill, now: float, out: list[Instruction]) -> None:
        del self.queues[fill.demand][fill.number]
        fill.stage, fill.began = "opening", now
        fill.story.append(f"{now:.3f} Begin")
        self._count(fill, 1)
        out.append(Begin(fill.number, fill.name, fill.version, fill.block, fill.demand))

    def _room(self, fill: Fill) -> bool:
        live, size = sum(self.live_fills.values()), sum(self.live_bytes.values())
        return live < self.budget.fills and (live == 0 or size + fill.length <= self.budget.size_bytes)

    def _prefetch_room(self, fill: Fill) -> bool:
        live, size = self.live_fills[False], self.live_bytes[False]
        return live < self.budget.prefetch_fills and (live == 0 or size + fill.length <= self.budget.prefetch_bytes)

    def _preempt(self, out: list[Instruction]) -> bool:
        """Break off the youngest prefetch nobody waits for; False when there is none."""
        for fill in reversed(self.fills.values()):
            if fill.live and not fill.demand and fill.lonely:
                self.counts["preempted"] += 1
                self._stop(fill, out)
                return True
        return False

    def _stop(self, fill: Fill, out: list[Instruction]) -> None:
        if fill.live:
            self.counts["stopped"] += 1
            out.append(Stop(fill.number))
        self._drop(fill)

    def _bypass(self, waiter: int | None, reason: str, out: list[Instruction]) -> None:
        self.counts[f"bypass {reason}"] += 1
        if waiter is not None:
            self.waiting.pop(waiter, None)
            out.append(TellBypass(waiter, reason))

    def _count(self, fill: Fill, sign: int) -> None:
        if fill.live:
            self.live_fills[fill.demand] += sign
            self.live_bytes[fill.demand] += sign * fill.length

    def _dismiss(self, fill: Fill) -> None:
        for waiter in (*fill.waiters, *fill.parked):
            self.waiting.pop(waiter, None)
        fill.waiters, fill.parked = {}, {}

    def _drop(self, fill: Fill) -> None:
        self._count(fill, -1)
        self.queues[fill.demand].pop(fill.number, None)
        self._dismiss(fill)
        del self.fills[fill.number]
        if fill.version is not None and self.blocks.get((fill.name, fill.version, fill.block)) == fill.number:
            del self.blocks[fill.name, fill.version, fill.block]
        if self.openings.get(fill.name) == fill.number:
            del self.openings[fill.name]
        self._ended.append((fill.name, fill.block, tuple(fill.story)))

    def _expect(self, fill: Fill, stage: str) -> None:
        if fill.stage != stage:
            raise errors.Bug(f"fill {fill.number} is {fill.stage}, not {stage}: {'; '.join(fill.story)}")
