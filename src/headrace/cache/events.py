"""What happens to fills, and what is to be done about it: the vocabulary of `cache.machine`.

Fills and waiters are numbers that the runner can translate to tasks and connections. Times come
with the call that delivers an event, never from a clock.
"""

from __future__ import annotations

from typing import NamedTuple

from headrace.model.objects import Version

Name = tuple[int, str]
"""Binding id and key: one object, whatever its version."""


class Asked(NamedTuple):
    """Somebody wants a block. `waiter` None: nobody waits for it (a background fill).

    `version` None opens the object at the origin to learn what it is (then `block` is 0); `strict`
    forbids joining an opening that the origin was asked before this event.
    """

    waiter: int | None
    name: Name
    version: Version | None
    block: int
    length: int
    demand: bool = True
    strict: bool = True


class Left(NamedTuple):
    """A waiter no longer waits."""

    waiter: int


class Opened(NamedTuple):
    """The origin answers and space is reserved: `length` bytes of `version` will follow."""

    fill: int
    version: Version
    length: int


class Progressed(NamedTuple):
    """The first `ready` bytes of the block can be read."""

    fill: int
    ready: int


class Landed(NamedTuple):
    """All bytes of the block can be read; the index does not know it yet."""

    fill: int


class Published(NamedTuple):
    """The index knows the block (or will not): the fill's task is over."""

    fill: int


class Broke(NamedTuple):
    """The origin, or the way to it, failed: class name, S3 kind and message of the error."""

    fill: int
    error: str
    kind: str
    message: str


class Refused(NamedTuple):
    """No tier takes the block; those who wait must read around the cache."""

    fill: int
    reason: str


class Forgot(NamedTuple):
    """The object changed: openings that began before must not be joined any more."""

    name: Name


class Tick(NamedTuple):
    """Time passed."""


Event = Asked | Left | Opened | Progressed | Landed | Published | Broke | Refused | Forgot | Tick


class Begin(NamedTuple):
    """Read the block from the origin (If-Match `version` where known) into reserved space."""

    fill: int
    name: Name
    version: Version | None
    block: int
    demand: bool


class Stop(NamedTuple):
    """Break off the fill and give its space back."""

    fill: int


class TellStarted(NamedTuple):
    """Tell the waiter where fill's bytes will lie, and how many are there."""

    waiter: int
    fill: int
    ready: int


class TellProgress(NamedTuple):
    """Tell the waiter that `ready` bytes can be read."""

    waiter: int
    ready: int


class TellWhole(NamedTuple):
    """Tell the waiter that the block is complete."""

    waiter: int


class TellBroken(NamedTuple):
    """Tell the waiter that the fill failed."""

    waiter: int
    error: str
    kind: str
    message: str


class TellBypass(NamedTuple):
    """Tell the waiter to read around the cache."""

    waiter: int
    reason: str


class TellInFlight(NamedTuple):
    """Tell the waiter to ask the origin for the version, because an earlier opening is under way."""

    waiter: int


Instruction = Begin | Stop | TellStarted | TellProgress | TellWhole | TellBroken | TellBypass | TellInFlight
