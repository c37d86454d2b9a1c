"""What one connection may hold and how long it may take, decided without a socket."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest

from headrace.base.clock import monotonic_ns
from headrace.base.errors import Invalid
from headrace.base.limits import BODY_BUFFER_BYTES_MAX
from headrace.gateway.messages import Response
from headrace.gateway.parser import BodyQueue, HttpParser, Message
from headrace.gateway.protocol import Connection

SECOND = 1_000_000_000


def parser() -> tuple[HttpParser, list[Message]]:
    """A parser and the messages it hands out."""
    seen: list[Message] = []
    return HttpParser(seen.append, lambda _: BodyQueue(lambda _paused: None, lambda: None)), seen


TRAILER = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nX: ", b"GET /", TRAILER])
def test_what_never_ends_is_refused_early(start: bytes) -> None:
    made, _ = parser()
    made.feed(start)

    def feed_more() -> None:
        for _ in range(100):
            made.feed(b"a" * 1000)

    with pytest.raises(Invalid):
        feed_more()


def test_a_long_body_in_small_chunks_is_fine() -> None:
    made, seen = parser()
    made.feed(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(200):
        made.feed(b"3e8\r\n" + b"a" * 1000 + b"\r\n")
    made.feed(b"0\r\n\r\n")
    assert seen[0].body is not None
    assert seen[0].body.received == 200_000


def connection() -> tuple[Connection, MagicMock, MagicMock]:
    """A connection on a transport and a gateway that only remember what they were told."""
    gateway, transport = MagicMock(), MagicMock()
    transport.is_closing.return_value = False
    transport.get_extra_info.side_effect = lambda name: MagicMock() if name == "socket" else None
    gateway.hot.serve.return_value = False
    gateway.admit.return_value = True
    made = Connection(gateway)
    made.connection_made(transport)
    return made, gateway, transport


def test_a_dripping_head_breaks_its_deadline() -> None:
    made, _, transport = connection()
    made.data_received(b"GET / HTTP/1.1\r\n")
    start = monotonic_ns()
    for second in range(0, 40, 10):
        made.data_received(b"X")
        made.deadline(start + second * SECOND, 120 * SECOND, 30 * SECOND, 60 * SECOND)
    transport.abort.assert_called_once()


def test_reading_stays_paused_for_a_queued_body_when_the_answer_before_it_ends() -> None:
    made, gateway, transport = connection()
    made.data_received(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
    head = b"PUT /b HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n"
    made.data_received(head + bytes(BODY_BUFFER_BYTES_MAX + 1))
    transport.pause_reading.assert_called_once()
    answer = gateway.loop.create_task.call_args.args[0]

    async def answered(*_: object) -> tuple[object, Response]:
        return MagicMock(), Response()

    gateway.answer, gateway.draining, gateway.tail.return_value = answered, False, b"A: b"
    with pytest.raises(StopIteration):
        answer.send(None)
    transport.resume_reading.assert_not_called()
    gateway.loop.create_task.call_args.args[0].close()
