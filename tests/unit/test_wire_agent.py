"""Messages between worker and agent survive the way, whole or in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.base import errors
from headrace.model.objects import Attributes, ObjectInfo, PartInfo, Version
from headrace.wire import agent as wire

INFO = ObjectInfo(
    key="dir//ключ",
    version=Version("etag", 1, 2, "token"),
    attributes=Attributes(headers={"content-type": "x"}, metadata={"a": "b"}, checksums={"crc32": "AAAA"}),
    parts=(PartInfo(1, 5, "e"),),
)
QUESTIONS = [
    wire.Fill(1, 2, "k", None, 0),
    wire.Fill(1, 2, "k", INFO.version, 3, demand=False, strict=False),
    wire.Cancel(5),
    wire.Prefetch(1, "k", INFO, 4, 2),
    wire.Stage(1, 2, "k"),
    wire.Ingest(1, 2, "k", INFO, "/spool/x", 1.5),
    wire.Forget(1, 2, "k"),
    wire.Damage(1, 2, "k", INFO.version, 3, 1 << 60, True),
    wire.Note(1, "k", INFO, 2.5),
    wire.Ping(9),
    wire.Touch([(b"0123456789abcdef", 1 << 50)]),
]
ANSWERS = [
    wire.Located(1, "/tier/x.seg", 1 << 60, 4096, 100, 0, INFO),
    wire.Located(1, "/tier/x.seg", 1 << 60, 4096, 100, 100),
    wire.Located(1, "/tier/x.seg", 1 << 60, 4160, 5, 0, INFO, b"bytes"),
    wire.Progress(1, 50),
    wire.Done(1),
    wire.Failed(1, "NotFound", "NoSuchKey", "gone"),
    wire.Bypass(1, "tier-full"),
    wire.InFlight(1),
]


@given(st.integers(1, 200))
def test_messages_come_out_as_they_went_in_however_they_are_cut(step: int) -> None:
    stream = b"".join(wire.encode(message) for message in (*QUESTIONS, *ANSWERS))
    splitter = wire.Splitter()
    bodies = [body for at in range(0, len(stream), step) for body in splitter.feed(stream[at : at + step])]
    assert [wire.question(body) for body in bodies[: len(QUESTIONS)]] == QUESTIONS
    assert [wire.answer(body) for body in bodies[len(QUESTIONS) :]] == ANSWERS


@given(st.binary(max_size=60))
def test_nonsense_is_refused_not_met_with_a_traceback(data: bytes) -> None:
    for decode in (wire.question, wire.answer):
        try:
            decode(data)
        except errors.Invalid:
            continue


def test_an_absurd_length_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(errors.Invalid):
        wire.Splitter().feed(b"\xff\xff\xff\x7f")
    with pytest.raises(errors.Invalid):
        wire.encode(wire.Failed(1, "a", "b", "x" * (5 << 20)))
    with pytest.raises(errors.Invalid):
        wire.encode(wire.Stage(1, 2, "\udcff"))


def test_errors_keep_their_class_and_kind() -> None:
    for error in (errors.NotFound("a", kind="NoSuchBucket"), errors.Busy("b"), errors.Conflict("c")):
        back = wire.failure(*wire.describe(error))
        assert (type(back), back.kind, back.message) == (type(error), error.kind, error.message)

    class SpecialError(errors.Denied):
        """A subclass that the other side does not know."""

    assert wire.describe(SpecialError("x"))[0] == "Denied"
    assert wire.describe(OSError(5, "io"))[:2] == ("Unavailable", "ServiceUnavailable")
    assert isinstance(wire.failure("Nonsense", "K", "m"), errors.Unavailable)
