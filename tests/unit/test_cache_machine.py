"""The fill machine, case by case."""

from __future__ import annotations

import pytest

from headrace.base import errors
from headrace.cache.events import (
    Asked,
    Begin,
    Broke,
    Event,
    Forgot,
    Instruction,
    Landed,
    Left,
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
from headrace.cache.invariants import validate
from headrace.cache.machine import Budget, Fills
from headrace.model.objects import Version

NAME = (1, "key")
V1 = Version("one", 1, 1000)
V2 = Version("two", 2, 1000)


class Driver:
    """A machine whose invariants are checked after every event."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.fills = Fills(budget)
        self.now = 100.0

    def __call__(self, event: Event) -> list[Instruction]:
        out = self.fills.handle(event, self.now)
        validate(self.fills)
        return out


def ask(waiter: int | None, version: Version | None = V1, block: int = 0, **more: bool) -> Asked:
    return Asked(waiter, NAME, version, block, 1000, **more)


def test_a_fill_from_question_to_publication() -> None:
    drive = Driver()
    assert drive(ask(1)) == [Begin(1, NAME, V1, 0, True)]
    assert drive(Opened(1, V1, 1000)) == [TellStarted(1, 1, 0)]
    assert drive(Progressed(1, 400)) == [TellProgress(1, 400)]
    assert drive(Progressed(1, 300)) == []
    assert drive(Landed(1)) == [TellWhole(1)]
    assert drive(ask(2)) == [TellStarted(2, 1, 1000), TellWhole(2)]
    assert drive(Published(1)) == []
    assert not drive.fills.fills
    assert not drive.fills.blocks


def test_one_fill_for_all_who_ask_for_a_block_and_late_ones_hear_how_far_it_is() -> None:
    drive = Driver()
    drive(ask(1))
    assert drive(ask(2)) == []
    assert drive(Opened(1, V1, 1000)) == [TellStarted(1, 1, 0), TellStarted(2, 1, 0)]
    drive(Progressed(1, 500))
    assert drive(ask(3)) == [TellStarted(3, 1, 500)]
    assert drive(Progressed(1, 600)) == [TellProgress(1, 600), TellProgress(2, 600), TellProgress(3, 600)]


def test_an_opening_that_began_earlier_is_not_joined_by_a_strict_question() -> None:
    drive = Driver()
    drive(ask(1, None))
    assert drive(ask(2, None)) == [TellInFlight(2)]
    assert drive(ask(3, None, strict=False)) == []
    assert drive(Opened(1, V1, 1000)) == [TellStarted(1, 1, 0), TellStarted(3, 1, 0)]
    assert drive(ask(4, None)) == [TellInFlight(4)]
    drive(Landed(1))
    assert drive(ask(5, None)) == [TellInFlight(5)]


def test_who_knows_the_version_waits_for_an_opening_to_know_it_too() -> None:
    drive = Driver()
    drive(ask(1, None))
    assert drive(ask(2, V1)) == []
    assert drive(ask(3, V2)) == []
    assert drive(Opened(1, V1, 1000)) == [TellStarted(1, 1, 0), TellStarted(2, 1, 0), Begin(2, NAME, V2, 0, True)]


def test_a_parked_question_is_asked_again_when_the_opening_finds_nothing() -> None:
    drive = Driver()
    drive(ask(1, None))
    drive(ask(2, V1))
    assert drive(Broke(1, "NotFound", "NoSuchKey", "no")) == [
        TellBroken(1, "NotFound", "NoSuchKey", "no"),
        Begin(2, NAME, V1, 0, True),
    ]


def test_an_opening_whose_only_waiter_wanted_another_version_is_not_left_behind() -> None:
    drive = Driver(Budget(fills=4, prefetch_fills=0))
    drive(ask(1, None))
    drive(ask(2, V2))
    drive(Left(1))
    assert drive(Opened(1, V1, 1000)) == [Stop(1), Begin(2, NAME, V2, 0, True)]


def test_an_opening_that_was_forgotten_is_not_joined() -> None:
    drive = Driver()
    drive(ask(1, None))
    assert drive(Forgot(NAME)) == []
    assert drive(ask(2, None, strict=False)) == [Begin(2, NAME, None, 0, True)]
    drive(Opened(1, V1, 1000))
    assert drive(Opened(2, V1, 1000)) == [TellStarted(2, 2, 0)]
    for fill in (1, 2):
        drive(Landed(fill))
        drive(Published(fill))
    assert not drive.fills.blocks


def test_a_failure_reaches_all_joiners_with_its_kind() -> None:
    drive = Driver()
    for waiter in (1, 2, 3):
        drive(ask(waiter))
    told = drive(Broke(1, "Denied", "AccessDenied", "no"))
    assert told == [TellBroken(waiter, "Denied", "AccessDenied", "no") for waiter in (1, 2, 3)]
    assert drive(ask(4)) == [Begin(2, NAME, V1, 0, True)]


def test_a_refusal_sends_everybody_around_the_cache_and_is_counted_by_reason() -> None:
    drive = Driver()
    drive(ask(1))
    drive(ask(2))
    assert drive(Refused(1, "tier-full")) == [TellBypass(1, "tier-full"), TellBypass(2, "tier-full")]
    assert drive.fills.counts["bypass tier-full"] == 2


def test_demand_is_never_starved_by_prefetch() -> None:
    drive = Driver(Budget(fills=4, prefetch_fills=2))
    begun = [instruction for block in range(6) for instruction in drive(ask(None, block=block, demand=False))]
    assert begun == [Begin(1, NAME, V1, 0, False), Begin(2, NAME, V1, 1, False)]
    out = [instruction for block in range(10, 14) for instruction in drive(ask(block, block=block))]
    assert out[:2] == [Begin(7, NAME, V1, 10, True), Begin(8, NAME, V1, 11, True)]
    assert out[2:] == [Stop(2), Begin(9, NAME, V1, 12, True), Stop(1), Begin(10, NAME, V1, 13, True)]
    assert drive(ask(20, block=20)) == []
    assert drive(Refused(7, "x")) == [TellBypass(10, "x"), Begin(11, NAME, V1, 20, True)]


def test_a_prefetch_somebody_needs_becomes_demand_and_overtakes() -> None:
    drive = Driver(Budget(fills=4, prefetch_fills=1))
    drive(ask(None, block=1, demand=False))
    drive(ask(None, block=2, demand=False))
    assert drive(ask(5, block=2)) == [Begin(2, NAME, V1, 2, True)]


def test_a_demand_fill_that_all_left_goes_on_if_prefetch_has_room_else_it_stops() -> None:
    drive = Driver(Budget(fills=4, prefetch_fills=1))
    drive(ask(1, block=1))
    drive(ask(2, block=2))
    assert drive(Left(1)) == []
    assert drive(Left(2)) == [Stop(2)]
    assert drive.fills.fills[1].detached


def test_a_question_in_the_queue_is_sent_around_the_cache_when_it_waits_too_long() -> None:
    drive = Driver(Budget(fills=1, queue_seconds=0.5))
    drive(ask(1, block=1))
    assert drive(ask(2, block=2)) == []
    drive.now += 0.4
    assert drive(Tick()) == []
    drive.now += 0.2
    assert drive(Tick()) == [TellBypass(2, "queue-seconds")]


def test_queues_are_bounded() -> None:
    drive = Driver(Budget(fills=1, queue=1, prefetch_queue=1))
    drive(ask(1, block=1))
    drive(ask(2, block=2))
    assert drive(ask(3, block=3)) == [TellBypass(3, "queue-full")]
    drive(ask(4, block=4, demand=False))
    assert drive(ask(5, block=5, demand=False)) == [TellBypass(5, "prefetch-budget")]


def test_a_prefetch_is_not_promoted_into_a_full_queue() -> None:
    drive = Driver(Budget(fills=1, queue=1))
    drive(ask(1, block=1))
    drive(ask(2, block=2))
    drive(ask(3, block=3, demand=False))
    assert drive(ask(4, block=3)) == [TellBypass(4, "queue-full")]


def test_a_fill_past_its_deadline_is_stopped_and_its_waiters_told() -> None:
    drive = Driver(Budget(fill_seconds=10))
    drive(ask(1))
    drive(Opened(1, V1, 1000))
    drive.now += 11
    stopped, told = drive(Tick())
    assert stopped == Stop(1)
    assert isinstance(told, TellBroken)
    assert (told.error, told.kind) == ("Unavailable", "ServiceUnavailable")
    assert drive(Landed(1)) == []


def test_bytes_in_flight_are_bounded_but_one_fill_always_goes() -> None:
    drive = Driver(Budget(size_bytes=1500))
    assert drive(Asked(1, NAME, V1, 0, 9000)) == [Begin(1, NAME, V1, 0, True)]
    assert drive(ask(2, block=1)) == []
    assert drive(Refused(1, "x"))[-1] == Begin(2, NAME, V1, 1, True)


def test_an_impossible_report_is_a_bug_that_tells_the_story() -> None:
    drive = Driver()
    drive(ask(1))
    with pytest.raises(errors.Bug, match="Asked demand=True"):
        drive(Progressed(1, 5))
    assert drive.fills.story(NAME, 0)[0].endswith(f"version={V1}")


def test_stories_and_state_are_bounded() -> None:
    drive = Driver()
    for waiter in range(1000):
        drive(ask(waiter))
        drive(Left(waiter))
        drive(ask(waiter))
    assert len(drive.fills.story(NAME, 0)) <= 64
