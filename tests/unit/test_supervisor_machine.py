"""The supervisor's decisions: restart with growing pauses, stop in order, never wait for ever."""

from __future__ import annotations

from headrace.base.limits import RESTART_SECONDS_MAX, START_SECONDS_MAX, STEADY_SECONDS
from headrace.serve.machine import (
    AGENT,
    Announce,
    Exited,
    Finish,
    Kill,
    Ready,
    Stamp,
    Start,
    Stop,
    Terminate,
    Tick,
    begin,
    decide,
    next_wake,
    pause_seconds,
)

NAMES = (AGENT, "worker-0", "worker-1")


def started(now=0.0):
    state, instructions = begin(NAMES, 30.0, now)
    assert instructions == [Start(name) for name in NAMES]
    return state


def serving(now=0.0):
    state = started(now)
    for name in NAMES:
        last = decide(state, Ready(name), now)
    assert last == [Announce()]
    return state


def test_it_announces_once_when_all_are_ready():
    state = serving()
    decide(state, Exited("worker-0", -9), 1.0)
    assert decide(state, Tick(), 1.0) == [Start("worker-0")]
    assert decide(state, Ready("worker-0"), 2.0) == []


def test_a_death_during_the_start_ends_it_with_that_status():
    state = started()
    assert decide(state, Exited("worker-1", 2), 1.0) == [Stamp("worker-1"), Terminate("worker-0")]
    assert decide(state, Exited("worker-0", 0), 1.1) == [Stamp("worker-0"), Terminate(AGENT)]
    assert decide(state, Exited(AGENT, 0), 1.2) == [Stamp(AGENT), Finish(2)]


def test_a_signal_during_the_start_is_a_failure_too():
    state = started()
    for name in NAMES:
        last = decide(state, Exited(name, -9), 1.0)
    assert last[-1] == Finish(1)


def test_every_death_is_stamped_and_pauses_grow_until_a_child_is_steady():
    state, now, pauses = serving(), 0.0, []
    for _ in range(20):
        assert decide(state, Exited("worker-0", -9), now) == [Stamp("worker-0")]
        before = now
        while decide(state, Tick(), now) != [Start("worker-0")]:
            now += next_wake(state, now)
        pauses.append(now - before)
    assert pauses[0] < 0.01
    assert pauses == sorted(pauses)
    assert RESTART_SECONDS_MAX <= pauses[-1] < RESTART_SECONDS_MAX + 0.01
    decide(state, Ready("worker-0"), now)
    now += STEADY_SECONDS
    decide(state, Exited("worker-0", 1), now)
    assert decide(state, Tick(), now) == [Start("worker-0")]


def test_pauses_are_bounded():
    assert pause_seconds(1) == 0.0
    assert max(pause_seconds(deaths) for deaths in range(2000)) == RESTART_SECONDS_MAX


def test_workers_stop_before_the_agent():
    state = serving()
    assert decide(state, Stop(), 10.0) == [Terminate("worker-0"), Terminate("worker-1")]
    assert decide(state, Exited("worker-0", 0), 11.0) == [Stamp("worker-0")]
    assert decide(state, Exited("worker-1", 0), 12.0) == [Stamp("worker-1"), Terminate(AGENT)]
    assert decide(state, Exited(AGENT, 0), 13.0) == [Stamp(AGENT), Finish(0)]


def test_what_does_not_finish_in_time_is_killed():
    state = serving()
    decide(state, Stop(), 0.0)
    wait = next_wake(state, 0.0)
    assert 30.0 < wait < 40.0
    assert decide(state, Tick(), wait - 1.0) == []
    assert decide(state, Tick(), wait) == [Kill("worker-0"), Kill("worker-1")]


def test_a_second_signal_kills_at_once():
    state = serving()
    decide(state, Stop(), 0.0)
    assert decide(state, Stop(), 1.0) == [Kill(name) for name in NAMES]
    for name in NAMES:
        last = decide(state, Exited(name, -9), 1.1)
    assert last == [Stamp(NAMES[-1]), Finish(0)]


def test_a_child_waiting_for_its_restart_is_not_started_while_stopping():
    state = serving()
    decide(state, Exited("worker-0", -9), 0.0)
    decide(state, Stop(), 0.0)
    assert decide(state, Tick(), 1.0) == []


def test_a_child_that_never_gets_ready_is_killed_again_and_again():
    state = started()
    assert next_wake(state, 0.0) > START_SECONDS_MAX
    assert decide(state, Tick(), START_SECONDS_MAX + 1) == [Kill(name) for name in NAMES]


def test_a_stopped_state_needs_no_wake():
    state = serving()
    assert next_wake(state, 100.0) is None
    decide(state, Stop(), 100.0)
    for name in NAMES:
        decide(state, Exited(name, 0), 100.0)
    assert next_wake(state, 100.0) is None


def test_unready_children_do_not_spin_the_loop_while_stopping():
    state = started()
    decide(state, Stop(), START_SECONDS_MAX)
    assert next_wake(state, START_SECONDS_MAX + 10) > 1.0
