"""When the supervisor starts, restarts, stops and kills its children. Decides only; `supervisor` acts.

A child that dies is started again after a pause that doubles with each death in a row and starts anew
once a child lived STEADY_SECONDS. A child that dies before the node was ever ready ends the start:
what is wrong then will not mend itself. Workers are stopped first and drain; the agent follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from headrace.base.limits import RESTART_SECONDS_MAX, RESTART_SECONDS_MIN, START_SECONDS_MAX, STEADY_SECONDS

AGENT = "agent"
_KILL_MARGIN_SECONDS = 5.0


class Ready(NamedTuple):
    """A child said that it serves."""

    name: str


class Exited(NamedTuple):
    """A child ended; `status` as in subprocess (negative = signal)."""

    name: str
    status: int


class Stop(NamedTuple):
    """The node was asked to stop; a second time means at once."""


class Tick(NamedTuple):
    """Time passed."""


Event = Ready | Exited | Stop | Tick


class Start(NamedTuple):
    """Start the child."""

    name: str


class Terminate(NamedTuple):
    """Ask the child to finish."""

    name: str


class Kill(NamedTuple):
    """End the child now."""

    name: str


class Stamp(NamedTuple):
    """A child died at an unknown point: every process must forget what it holds in memory."""

    name: str


class Announce(NamedTuple):
    """All children serve for the first time."""


class Finish(NamedTuple):
    """Nothing runs any more; end with `status`."""

    status: int


Instruction = Start | Terminate | Kill | Stamp | Announce | Finish


@dataclass(slots=True)
class Child:
    """What is known of one child. Times are steady seconds."""

    running: bool = False
    ready: bool = False
    started: float = 0.0
    deaths: int = 0
    start_at: float | None = None
    kill_at: float | None = None


@dataclass(slots=True)
class State:
    """All children by name; `names` in order of starting."""

    names: tuple[str, ...]
    drain_seconds: float
    children: dict[str, Child] = field(default_factory=dict)
    announced: bool = False
    stopping: bool = False
    hurried: bool = False
    status: int = 0
    finished: bool = False


def begin(names: tuple[str, ...], drain_seconds: float, now: float) -> tuple[State, list[Instruction]]:
    """A state in which all children are being started, and the instructions that do so."""
    state = State(names, drain_seconds)
    instructions: list[Instruction] = []
    for name in names:
        state.children[name] = Child(running=True, started=now)
        instructions.append(Start(name))
    return state, instructions


def decide(state: State, event: Event, now: float) -> list[Instruction]:
    """Take one event in and say what to do."""
    match event:
        case Ready(name):
            state.children[name].ready = True
            if not state.announced and not state.stopping and all(child.ready for child in state.children.values()):
                state.announced = True
                return [Announce()]
            return []
        case Exited(name, status):
            return _exited(state, name, status, now)
        case Stop():
            return _stop(state, now)
        case Tick():
            return _tick(state, now)


def _exited(state: State, name: str, status: int, now: float) -> list[Instruction]:
    child = state.children[name]
    lived = now - child.started
    child.running, child.ready, child.kill_at = False, False, None
    instructions: list[Instruction] = [Stamp(name)]
    if state.stopping:
        return instructions + _next_stop(state, now)
    if not state.announced:
        state.status = status if status > 0 else 1
        return instructions + _stop(state, now)
    child.deaths = 1 if lived >= STEADY_SECONDS else child.deaths + 1
    child.start_at = now + pause_seconds(child.deaths)
    return instructions


def pause_seconds(deaths: int) -> float:
    """Pause before the start after `deaths` deaths in a row; none after the first."""
    return 0.0 if deaths <= 1 else min(RESTART_SECONDS_MAX, RESTART_SECONDS_MIN * 2.0 ** min(deaths - 2, 16))


def _stop(state: State, now: float) -> list[Instruction]:
    if state.stopping:
        state.hurried = True
        return [Kill(name) for name, child in state.children.items() if child.running]
    state.stopping = True
    for child in state.children.values():
        child.start_at = None
    return _next_stop(state, now)


def _next_stop(state: State, now: float) -> list[Instruction]:
    """Workers first, then the agent, then the end."""
    workers = [name for name in state.names if name != AGENT and state.children[name].running]
    due = workers or [name for name in state.names if state.children[name].running]
    if not due:
        if state.finished:
            return []
        state.finished = True
        return [Finish(state.status)]
    instructions: list[Instruction] = []
    for name in due:
        child = state.children[name]
        if child.kill_at is None:
            child.kill_at = now + state.drain_seconds + _KILL_MARGIN_SECONDS
            instructions.append(Kill(name) if state.hurried else Terminate(name))
    return instructions


def _tick(state: State, now: float) -> list[Instruction]:
    instructions: list[Instruction] = []
    for name, child in state.children.items():
        if child.start_at is not None and now >= child.start_at:
            child.start_at, child.running, child.started = None, True, now
            instructions.append(Start(name))
        elif child.running and (
            (child.kill_at is not None and now >= child.kill_at)
            or (not child.ready and not state.stopping and now - child.started > START_SECONDS_MAX)
        ):
            child.kill_at = now + _KILL_MARGIN_SECONDS
            child.started = now
            instructions.append(Kill(name))
    return instructions


def next_wake(state: State, now: float) -> float | None:
    """Seconds until a Tick may have something to do; None when only events matter."""
    times = [time for child in state.children.values() for time in (child.start_at, child.kill_at) if time is not None]
    if not state.stopping:
        unready = [child for child in state.children.values() if child.running and not child.ready]
        times += [child.started + START_SECONDS_MAX for child in unready]
    return max(0.0, min(times) - now) + 0.001 if times else None
