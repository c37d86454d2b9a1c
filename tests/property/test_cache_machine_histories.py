"""The fill machine under any order of events: invariants hold, and nobody waits for ever."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.cache import events
from headrace.cache.invariants import validate
from headrace.cache.machine import Budget, Fills
from headrace.model.objects import Version

KEYS = st.sampled_from(["a", "b"])
VERSIONS = st.sampled_from([Version("one", 1, 3000), Version("two", 2, 2500)])
BLOCKS = st.integers(0, 2)


class World(RuleBasedStateMachine):
    """A runner that does what it is told, in any order, beside a model of what waiters heard."""

    def __init__(self) -> None:
        super().__init__()
        self.fills = Fills(Budget(fills=3, size_bytes=3000, prefetch_fills=1, prefetch_bytes=1000, queue=3,
                                  prefetch_queue=2, queue_seconds=5, fill_seconds=20))  # fmt: skip
        self.now = 0.0
        self.next = 1
        self.running: dict[int, str] = {}
        self.wanted: dict[int, Version | None] = {}
        self.waiting: set[int] = set()
        self.started: dict[int, int] = {}
        self.ready: dict[int, int] = {}

    def drive(self, event: events.Event) -> None:
        for instruction in self.fills.handle(event, self.now):
            match instruction:
                case events.Begin():
                    assert instruction.fill not in self.running
                    self.running[instruction.fill] = "opening"
                    self.wanted[instruction.fill] = instruction.version
                case events.Stop():
                    assert self.running.pop(instruction.fill) in ("opening", "running")
                case events.TellStarted():
                    assert instruction.waiter in self.waiting
                    assert instruction.waiter not in self.started
                    assert self.running[instruction.fill] in ("running", "landed")
                    self.started[instruction.waiter] = instruction.ready
                case events.TellProgress():
                    assert instruction.ready >= self.started[instruction.waiter]
                    self.started[instruction.waiter] = instruction.ready
                case events.TellWhole():
                    assert instruction.waiter in self.started
                    self.waiting.remove(instruction.waiter)
                case _:
                    self.waiting.remove(instruction.waiter)

    def pick(self, data: st.DataObject, *stages: str) -> int:
        return data.draw(st.sampled_from(sorted(fill for fill, stage in self.running.items() if stage in stages)))

    @rule(key=KEYS, version=st.none() | VERSIONS, block=BLOCKS, demand=st.booleans(), strict=st.booleans(),
          alone=st.booleans())  # fmt: skip
    def ask(self, key: str, version: Version | None, block: int, demand: bool, strict: bool, alone: bool) -> None:
        waiter = None if alone and not demand else self.next
        self.next += 1
        if waiter is not None:
            self.waiting.add(waiter)
        self.drive(events.Asked(waiter, (1, key), version, block if version else 0, 1000, demand, strict))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.remove(waiter)
        self.drive(events.Left(waiter))

    @precondition(lambda self: "opening" in self.running.values())
    @rule(data=st.data(), version=VERSIONS)
    def open(self, data: st.DataObject, version: Version) -> None:
        fill = self.pick(data, "opening")
        self.running[fill] = "running"
        self.drive(events.Opened(fill, self.wanted[fill] or version, 1000))

    @precondition(lambda self: "running" in self.running.values())
    @rule(data=st.data(), ready=st.integers(0, 1000))
    def progress(self, data: st.DataObject, ready: int) -> None:
        self.drive(events.Progressed(self.pick(data, "running"), ready))

    @precondition(lambda self: "running" in self.running.values())
    @rule(data=st.data())
    def land(self, data: st.DataObject) -> None:
        fill = self.pick(data, "running")
        self.running[fill] = "landed"
        self.drive(events.Landed(fill))

    @precondition(lambda self: "landed" in self.running.values())
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        fill = self.pick(data, "landed")
        self.drive(events.Published(fill))
        del self.running[fill]

    @precondition(lambda self: {"opening", "running"} & set(self.running.values()))
    @rule(data=st.data(), error=st.sampled_from(["NotFound", "Conflict", "Unavailable", None]))
    def fail(self, data: st.DataObject, error: str | None) -> None:
        fill = self.pick(data, "opening", "running")
        del self.running[fill]
        self.drive(events.Refused(fill, "full") if error is None else events.Broke(fill, error, "Kind", "why"))

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.drive(events.Forgot((1, key)))

    @rule(seconds=st.floats(0.1, 30))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.drive(events.Tick())

    @invariant()
    def holds(self) -> None:
        validate(self.fills)
        assert set(self.running) == {number for number, fill in self.fills.fills.items() if fill.stage != "queued"}
        assert set(self.fills.waiting) == self.waiting

    def teardown(self) -> None:
        for _ in range(200):  # whatever the state, letting everything run its course leaves nobody waiting
            for fill in [fill for fill, stage in self.running.items() if stage == "opening"]:
                if fill in self.running:
                    self.running[fill] = "running"
                    self.drive(events.Opened(fill, self.wanted[fill] or Version("one", 1, 3000), 1000))
            for fill in [fill for fill, stage in self.running.items() if stage == "running"]:
                self.running[fill] = "landed"
                self.drive(events.Landed(fill))
            for fill in [fill for fill, stage in self.running.items() if stage == "landed"]:
                self.drive(events.Published(fill))
                del self.running[fill]
        assert not self.waiting
        assert not self.fills.fills


World.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestFills = World.TestCase
