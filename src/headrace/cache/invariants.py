"""What must hold of the fills after every event; checked by tests at each step."""

from __future__ import annotations

from headrace.base import errors
from headrace.cache.machine import Fills

_STAGES = ("queued", "opening", "running", "landed")


def validate(fills: Fills) -> None:
    """Raise Bug, with the story of the fill concerned, if an invariant of `fills` is broken."""
    live = {True: 0, False: 0}
    size = {True: 0, False: 0}
    waiting: dict[int, int] = {}
    for number, fill in fills.fills.items():
        told = f"fill {number} ({fill.stage}): {'; '.join(fill.story)}"
        _demand(fill.number == number and fill.stage in _STAGES, f"fill is filed wrongly; {told}")
        _demand((number in fills.queues[fill.demand]) == (fill.stage == "queued"), f"queue and stage differ; {told}")
        _demand(number not in fills.queues[not fill.demand], f"fill is in the other class's queue; {told}")
        _demand(0 <= fill.ready <= max(fill.length, 0), f"more is ready than there is; {told}")
        _demand(
            fill.stage != "landed" or (fill.lonely and fill.ready == fill.length), f"landed, yet waited for; {told}"
        )
        _demand(fill.lonely <= (fill.detached or fill.stage == "landed"), f"nobody waits and nobody will; {told}")
        _demand(not fill.parked or fill.version is None, f"the version is known, yet questions are parked; {told}")
        if fill.live:
            live[fill.demand] += 1
            size[fill.demand] += fill.length
        for waiter in (*fill.waiters, *fill.parked):
            _demand(waiter not in waiting, f"waiter {waiter} waits twice; {told}")
            waiting[waiter] = number
    _demand(waiting == fills.waiting, f"waiters {fills.waiting} are not those of the fills {waiting}")
    _demand((live, size) == (fills.live_fills, fills.live_bytes), "the budget's books are wrong")
    _demand(sum(live.values()) <= fills.budget.fills, "more fills than the budget allows")
    _demand(sum(live.values()) <= 1 or sum(size.values()) <= fills.budget.size_bytes, "more bytes than allowed")
    for (name, version, block), number in fills.blocks.items():
        found = fills.fills[number]
        _demand((found.name, found.version, found.block) == (name, version, block), f"block {name} leads elsewhere")
    for name, number in fills.openings.items():
        found = fills.fills[number]
        _demand((found.name, found.block) == (name, 0), f"opening of {name} leads elsewhere")
    _demand(len(fills.queues[True]) <= fills.budget.queue, "the demand queue is over its bound")
    _demand(len(fills.queues[False]) <= fills.budget.prefetch_queue, "the prefetch queue is over its bound")


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise errors.Bug(message)
