"""One client connection: bytes in, answers out, in order.

A whole GET head goes to the hot path first; whatever it leaves goes through llhttp, one request at a
time, to a task that authenticates, runs the operation and sends the answer. Pipelined requests wait
in a bounded queue. Every state has a deadline, kept by the gateway's sweep.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, cast

from headrace.base.clock import monotonic_ns
from headrace.base.errors import HeadraceError, Invalid
from headrace.base.limits import HEAD_BYTES_MAX, LINGER_BYTES_MAX, PIPELINE_REQUESTS_MAX
from headrace.gateway.files import HeldFile
from headrace.gateway.messages import Response
from headrace.gateway.object_headers import clean
from headrace.gateway.outlet import Outlet
from headrace.gateway.parser import BodyQueue, HttpParser, Message
from headrace.gateway.shapes import Shape
from headrace.model.objects import FileSlice

if TYPE_CHECKING:
    from headrace.gateway.devices import Devices
    from headrace.gateway.files import OpenFiles
    from headrace.gateway.hot import Hot
    from headrace.gateway.messages import Request

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_NO_BODY = frozenset({204, 304})
_PIPELINE, _BODY = 1, 2
"""Why a connection is not read from: too many requests wait, or a body waits for its reader."""


class Host(Protocol):
    """The gateway as its connections see it."""

    loop: asyncio.AbstractEventLoop
    hot: Hot
    files: OpenFiles
    devices: Devices
    draining: bool
    raw_head: bytes
    """The bytes being parsed, when they arrived as one piece: what a shape can be made from."""

    def admit(self, connection: Connection) -> bool:
        """Count a new connection; False when there are too many."""

    def forget(self, connection: Connection) -> None:
        """A connection ended."""

    async def answer(self, connection: Connection, message: Message) -> tuple[Request, Response]:
        """Authenticate and run one request."""

    def record(self, request: Request, response: Response, connection: Connection, first_ns: int, sent: int) -> None:
        """Note a request whose answer has gone out."""

    def tail(self, message: Message) -> bytes:
        """The headers every answer ends with."""

    def log_cut(self, error: BaseException) -> None:
        """An answer was cut off after its head had gone out."""


class Connection(asyncio.Protocol):
    """Protocol of one accepted socket."""

    __slots__ = ("_closing", "_current", "_gateway", "_head_since_ns", "_hot_note", "_lingering", "_messages",
                 "_parser", "_pauses", "_task", "_transport", "active", "last_ns", "outlet", "peer",
                 "shape")  # fmt: skip

    outlet: Outlet
    peer: str

    def __init__(self, gateway: Host) -> None:
        self._gateway = gateway
        self._parser: HttpParser | None = None
        self._messages: deque[Message] = deque()
        self._current: Message | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._lingering = 0
        self._head_since_ns = 0
        self._pauses = 0
        self._hot_note: tuple[bytes | None, str, int, int, int, int] | None = None
        self.shape: Shape | None = None
        self.active = False
        self.last_ns = monotonic_ns()
        """When the connection last did something; 0 = just now, the sweep fills it in."""

    # -- the transport's calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        address = transport.get_extra_info("peername")
        self.peer = str(address[0]) if isinstance(address, tuple) else ""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class does not inherit it
        gateway = self._gateway
        self.outlet = Outlet(
            self._transport, gateway.loop, gateway.devices, transport.get_extra_info("sslcontext") is not None
        )
        if not gateway.admit(self):
            self._closing = True
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client is gone; whoever works for it is told."""
        self._gateway.forget(self)
        self.outlet.connection_lost()
        if self._parser is not None:
            self._parser.abandon(Invalid("The request body terminated unexpectedly.", kind="IncompleteBody"))
        self._messages.clear()
        # An answer nobody reads is cut short; a write whose body is whole goes on to its end.
        if self._task is not None and self._current is not None and self._current.method in ("GET", "HEAD"):
            self._task.cancel()

    def eof_received(self) -> bool:
        """The client will send no more; it may still read (half-close), so a running answer goes on."""
        if self._parser is not None:
            self._parser.abandon(Invalid("The request body terminated unexpectedly.", kind="IncompleteBody"))
        self._closing = True
        return (self.active or bool(self._messages) or not self.outlet.clear) and not self.outlet.secure

    def pause_writing(self) -> None:
        """The transport's buffer is above its mark."""
        self.outlet.pause(True)

    def resume_writing(self) -> None:
        """The transport's buffer is below its mark."""
        self.outlet.pause(False)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._lingering:
            self._lingering -= len(data)
            if self._lingering <= 0:
                self._transport.abort()
            return
        parser = self._parser
        if not self.active and (parser is None or not parser.busy):
            hot = self._gateway.hot
            hot.matched = False
            if (
                data[:4] == b"GET "
                and data[-4:] == b"\r\n\r\n"
                and len(data) <= HEAD_BYTES_MAX
                and self.outlet.clear
                and not self._closing
                and hot.serve(self, data)
            ):
                return
            if not hot.matched:  # else its layout is known already
                self._gateway.raw_head = data
        if parser is None:
            parser = self._parser = HttpParser(self._on_message, self._make_body)
        self.last_ns = 0
        try:
            parser.feed(data)
        except HeadraceError as error:
            self._refuse(error)
        finally:
            self._gateway.raw_head = b""
        if not parser.head_open:
            self._head_since_ns = 0
        elif not self._head_since_ns:
            self._head_since_ns = monotonic_ns()

    # -- the hot path's calls
    def note(
        self, trace: bytes | None, access_key: str, bucket_number: int, status: int, size: int, start_ns: int
    ) -> None:
        """Record a warm read: now when it is sent, else when its transfer ends."""
        noted = (trace, access_key, bucket_number, status, size, start_ns)
        if self.active:
            self._hot_note = noted
        else:
            self._gateway.hot.record(*noted, monotonic_ns())

    def send_file(self, head: bytes, held: HeldFile, offset: int, length: int) -> None:
        """Send a warm answer whose body is a file range."""
        self.active = True

        def done(error: Exception | None) -> None:
            self._gateway.files.release(held)
            self.active = False
            self.last_ns = 0
            noted, self._hot_note = self._hot_note, None
            if noted is not None:
                self._gateway.hot.record(*noted, monotonic_ns())
            if error is not None:
                self._transport.abort()
            elif self._messages or self._closing:
                self._next()

        self.outlet.start(head, held.descriptor, offset, length, done)

    # -- the parser's calls
    def _make_body(self, message: Message) -> BodyQueue:
        def first_read() -> None:
            if message.expects_continue:
                message.expects_continue = False
                if message.body is not None and not message.body.received:
                    self.outlet.write(b"HTTP/1.1 100 Continue\r\n\r\n")

        return BodyQueue(lambda paused: self._pause_reading(_BODY, paused), first_read)

    def _on_message(self, message: Message) -> None:
        message.raw_head = self._gateway.raw_head
        self._messages.append(message)
        if len(self._messages) >= PIPELINE_REQUESTS_MAX:
            self._pause_reading(_PIPELINE, True)
        if not self.active:
            self._next()

    def _pause_reading(self, reason: int, paused: bool) -> None:
        """Stop reading for a reason, or drop the reason: reading goes on when none is left."""
        before = self._pauses
        self._pauses = before | reason if paused else before & ~reason
        if bool(before) == bool(self._pauses) or self._transport.is_closing():
            return
        if self._pauses:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # -- one request after the other
    def _next(self) -> None:
        if not self._messages:
            if self._closing:
                self._close()
            return
        message = self._messages.popleft()
        self.active = True
        self._current = message
        self._task = self._gateway.loop.create_task(self._serve(message))

    async def _serve(self, message: Message) -> None:
        try:
            request, response = await self._gateway.answer(self, message)
            first_ns = monotonic_ns()
            already, self.outlet.cold_slices, self.outlet.device_ns = self.outlet.sent, 0, 0
            closing = response.closing or not message.keep_alive or self._closing or self._gateway.draining
            unread = message.body is not None and not message.body.ended
            head_bytes = await self._send(message, response, closing or unread)
            self._gateway.record(request, response, self, first_ns, self.outlet.sent - already - head_bytes)
        except Exception as error:
            self._gateway.log_cut(error)
            self._transport.abort()
            return
        finally:
            self._task = None
            self._current = None
            self.last_ns = 0
            self.active = False
        if unread and not self.outlet.lost:
            self._linger(message)
        elif closing or self._closing:
            self._close()
        else:
            if message.body is not None:
                message.body.discard()
            if len(self._messages) < PIPELINE_REQUESTS_MAX:
                self._pause_reading(_PIPELINE, False)
            self._next()

    async def _send(self, message: Message, response: Response, closing: bool) -> int:
        """Send an answer; returns the length of its head in bytes."""
        body = response.body
        chunked = False
        lines = [b"HTTP/1.1 %d %s\r\n" % (response.status, _REASONS.get(response.status, b""))]
        names = set()
        for name, value in response.headers:
            names.add(name.lower())
            lines.append(f"{name}: {clean(value)}\r\n".encode())
        if response.status not in _NO_BODY and "content-length" not in names:
            length = len(body) if isinstance(body, bytes) else response.length
            if length is not None:
                lines.append(b"Content-Length: %d\r\n" % length)
            elif message.version == "1.1":
                chunked = True
                lines.append(b"Transfer-Encoding: chunked\r\n")
            else:
                closing = True
        if closing:
            self._closing = True
            lines.append(b"Connection: close\r\n")
        elif message.version != "1.1":
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(self._gateway.tail(message))
        lines.append(b"\r\n\r\n")
        head = b"".join(lines)
        if message.method == "HEAD" or response.status in _NO_BODY:
            self.outlet.write(head)
            await _close_body(body)
        elif isinstance(body, bytes):
            self.outlet.write(head + body)
        else:
            await self._send_pieces(head, body, chunked, response)
        await self.outlet.drain()
        return len(head)

    async def _send_pieces(
        self, head: bytes, body: AsyncIterator[bytes | FileSlice], chunked: bool, response: Response
    ) -> None:
        outlet = self.outlet
        left = response.length
        try:
            outlet.write(head)
            async for piece in body:
                size = piece.length if isinstance(piece, FileSlice) else len(piece)
                if not size:
                    continue
                if left is not None:
                    left -= size
                    if left < 0:
                        raise Invalid("An answer is longer than it said.", kind="InternalError")
                if chunked:
                    outlet.write(b"%x\r\n" % size)
                if isinstance(piece, FileSlice):
                    await outlet.send(piece)
                else:
                    outlet.write(piece)
                    await outlet.drain()
                if chunked:
                    outlet.write(b"\r\n")
            if left:
                raise Invalid(f"An answer ended {left} bytes early.", kind="InternalError")
            if chunked:
                outlet.write(b"0\r\n\r\n")
        finally:
            await _close_body(body)

    # -- ends
    def _refuse(self, error: HeadraceError) -> None:
        """Answer bytes that are no acceptable request, after what came before them, and close."""
        message = Message()
        message.error = error
        message.keep_alive = False
        if self._parser is not None:
            self._parser.busy = self._parser.head_open = False
            if self._parser.in_body:  # its handler tells the client
                self._parser.abandon(error)
                self._closing = True
                return
        self._on_message(message)

    def _linger(self, message: Message) -> None:
        """An answer went out before its request was read: let the client read it before the reset."""
        if message.expects_continue or message.body is None:
            self._close()
            return
        message.body.discard()
        self._lingering = LINGER_BYTES_MAX
        self._closing = True
        self._pause_reading(_PIPELINE | _BODY, False)
        if not self.outlet.secure and self._transport.can_write_eof():
            self._transport.write_eof()

    def _close(self) -> None:
        self._closing = True
        self._transport.close()

    def abort(self) -> None:
        """Cut the connection at once."""
        self._transport.abort()

    def drain(self) -> None:
        """Finish what is in flight, then close."""
        self._closing = True
        if not self.active and not self._messages and self.outlet.clear:
            self._close()  # else when the answer under way has gone out, at the latest with the next sweep

    def deadline(self, now_ns: int, idle_ns: int, head_ns: int, stall_ns: int) -> None:
        """Close the connection if it broke a deadline."""
        if self.last_ns == 0:
            self.last_ns = now_ns
        stalled = self.outlet.progress_ns and now_ns - self.outlet.progress_ns > stall_ns
        late = self._head_since_ns and now_ns - self._head_since_ns > head_ns
        if stalled or late:
            self.abort()
        elif not self.active and self.outlet.clear:
            quiet = now_ns - self.last_ns
            if self._lingering and quiet > head_ns:
                self.abort()
            elif not self._lingering and (self._closing or quiet > idle_ns):
                self._close()


async def _close_body(body: object) -> None:
    close = getattr(body, "aclose", None)
    if close is not None:
        await close()
