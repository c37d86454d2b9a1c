"""What a gateway worker and the node's agent say to each other over a unix stream socket.

Each message is a 4-byte little-endian length and that many bytes of msgpack (one tagged array).
`number` is chosen by the worker, unique on its connection, and names a question until its last
answer: `Done`, `Failed`, `Bypass`, `InFlight`, or `Located` with data. `Located` without data and
`Progress` come before it. Messages without a `number` get no answer. Both sides are of one release:
there is no version negotiation.
"""

from __future__ import annotations

import msgspec

from headrace.base import errors
from headrace.base.limits import AGENT_MESSAGE_BYTES_MAX
from headrace.model.objects import ObjectInfo, Version

_HEAD_BYTES = 4


class Fill(msgspec.Struct, frozen=True, array_like=True, tag="fill"):
    """Bring block `block` of an object into the cache and tell how it goes.

    `version` None: nothing is known of the object, so open it at the origin and say what it is.
    `strict`: such an opening must not be joined to one that began earlier (answered `InFlight`).
    `demand` False: a read-ahead, refused first when budgets are short.
    """

    number: int
    binding: int
    key: str
    version: Version | None
    block: int
    demand: bool = True
    strict: bool = True


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """The worker no longer waits for question `number`; no answer follows."""

    number: int


class Prefetch(msgspec.Struct, frozen=True, array_like=True, tag="prefetch"):
    """Fill `count` blocks from `block` on behind a read that is served otherwise; may be refused silently."""

    binding: int
    key: str
    info: ObjectInfo
    block: int
    count: int = 1


class Stage(msgspec.Struct, frozen=True, array_like=True, tag="stage"):
    """Fill every block of the object in the background; `Done` says it was noted."""

    number: int
    binding: int
    key: str


class Ingest(msgspec.Struct, frozen=True, array_like=True, tag="ingest"):
    """Take over the spool file at `path`: the whole body of `info`, acknowledged by the origin.

    `asked` is the steady time at which the write was sent to the origin. `Progress` says that nobody
    finds older metadata any more, `Done` that the body is cached. The agent removes the file.
    """

    number: int
    binding: int
    key: str
    info: ObjectInfo
    path: str
    asked: float


class Forget(msgspec.Struct, frozen=True, array_like=True, tag="forget"):
    """What is known of the object is no longer true: drop its metadata, and running opens of it."""

    number: int
    binding: int
    key: str


class Damage(msgspec.Struct, frozen=True, array_like=True, tag="damage"):
    """A cached block did not match its checksum, or its segment cannot be read: drop it."""

    number: int
    binding: int
    key: str
    version: Version
    block: int
    segment: int
    corrupt: bool


class Note(msgspec.Struct, frozen=True, array_like=True, tag="note"):
    """The origin said at steady time `asked` (when the question was sent) that the object is `info`."""

    binding: int
    key: str
    info: ObjectInfo
    asked: float


class Ping(msgspec.Struct, frozen=True, array_like=True, tag="ping"):
    """Are you there? `Done` says so."""

    number: int


class Touch(msgspec.Struct, frozen=True, array_like=True, tag="touch"):
    """Blocks served from the cache lately, as digests, with the segments they lie in."""

    hits: list[tuple[bytes, int]]


class Located(msgspec.Struct, frozen=True, array_like=True, tag="located"):
    """Where the block's bytes lie or will lie: `length` bytes at `offset` of the segment.

    `ready` of the bytes can be read already. `info` is the object as the origin described it, None
    when the block was in the index all along. An empty object has no path. `data`: all the
    bytes of a small block, which will lie in the segment soon; no other answer follows.
    """

    number: int
    path: str
    segment: int
    offset: int
    length: int
    ready: int
    info: ObjectInfo | None = None
    data: bytes | None = None


class Progress(msgspec.Struct, frozen=True, array_like=True, tag="progress"):
    """The first `ready` bytes of the block can be read."""

    number: int
    ready: int


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """The question is answered whole; a filled block is complete."""

    number: int


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The question failed with an error of class `name` and S3 code `kind`."""

    number: int
    name: str
    kind: str
    message: str


class Bypass(msgspec.Struct, frozen=True, array_like=True, tag="bypass"):
    """The cache will not take this; read from the origin. `reason` is counted."""

    number: int
    reason: str


class InFlight(msgspec.Struct, frozen=True, array_like=True, tag="in-flight"):
    """An opening of this object began before the question; ask the origin for its version first."""

    number: int


Question = Fill | Cancel | Prefetch | Stage | Ingest | Forget | Damage | Note | Ping | Touch
Answer = Located | Progress | Done | Failed | Bypass | InFlight

_encoder = msgspec.msgpack.Encoder()
_questions: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(message: Question | Answer) -> bytes:
    """The message with its length in front. Raises Invalid when it is too long or not encodable."""
    try:
        body = _encoder.encode(message)
    except (UnicodeEncodeError, TypeError, OverflowError) as error:
        raise errors.Invalid(f"a message to the agent cannot be encoded: {error}") from error
    if len(body) > AGENT_MESSAGE_BYTES_MAX:
        raise errors.Invalid(f"a message to the agent has {len(body)} bytes, over {AGENT_MESSAGE_BYTES_MAX}")
    return len(body).to_bytes(_HEAD_BYTES, "little") + body


class Splitter:
    """Cuts a byte stream into message bodies; bounded by one message."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes; returns the bodies that are now whole. Raises Invalid on an absurd length."""
        buffer = self._buffer
        buffer += data
        bodies: list[bytes] = []
        at = 0
        while len(buffer) - at >= _HEAD_BYTES:
            length = int.from_bytes(buffer[at : at + _HEAD_BYTES], "little")
            if length > AGENT_MESSAGE_BYTES_MAX:
                raise errors.Invalid(f"an agent message claims {length} bytes, over {AGENT_MESSAGE_BYTES_MAX}")
            if len(buffer) - at - _HEAD_BYTES < length:
                break
            bodies.append(bytes(buffer[at + _HEAD_BYTES : at + _HEAD_BYTES + length]))
            at += _HEAD_BYTES + length
        del buffer[:at]
        return bodies


def question(body: bytes) -> Question:
    """Decode what a worker sent. Raises Invalid."""
    try:
        return _questions.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise errors.Invalid(f"a worker sent a message that is not understood: {error}") from error


def answer(body: bytes) -> Answer:
    """Decode what the agent sent. Raises Invalid."""
    try:
        return _answers.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise errors.Invalid(f"the agent sent a message that is not understood: {error}") from error


_CLASSES: dict[str, type[errors.HeadraceError]] = {
    kind.__name__: kind
    for kind in (
        errors.NotFound,
        errors.Conflict,
        errors.Denied,
        errors.Invalid,
        errors.Busy,
        errors.Unavailable,
        errors.Damaged,
    )
}


def failure(name: str, kind: str, message: str) -> errors.HeadraceError:
    """The error that a `Failed` answer stands for, of the class the agent met."""
    return _CLASSES.get(name, errors.Unavailable)(message, kind=kind)


def describe(error: BaseException) -> tuple[str, str, str]:
    """(class name, kind, message) of an error for a `Failed` answer; foreign errors become Unavailable."""
    if isinstance(error, errors.HeadraceError):
        for parent in type(error).__mro__:
            if parent.__name__ in _CLASSES:
                return parent.__name__, error.kind, error.message
        return "Unavailable", error.kind, error.message
    return "Unavailable", errors.Unavailable.kind, f"{type(error).__name__}: {error}"
