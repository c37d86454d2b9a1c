"""HTTP/1.1 heads and bodies: llhttp parses, this module refuses what could be read in two ways.

Request smuggling lives on ambiguity, so beyond llhttp's own strictness a message is refused when it
has both Content-Length and Transfer-Encoding, repeats either, uses any transfer coding but `chunked`,
repeats Host, or names a target that is not a path. Source: RFC 9112, sections 6.1 to 6.3 and 11.2.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import httptools

from headrace.base.errors import HeadraceError, Invalid
from headrace.base.limits import (
    BODY_BUFFER_BYTES_MAX,
    BODY_STALL_SECONDS_MAX,
    HEAD_BYTES_MAX,
    HEADER_COUNT_MAX,
    TARGET_BYTES_MAX,
)

_SINGLE = frozenset({b"host", b"content-length", b"transfer-encoding", b"content-type", b"range", b"x-amz-date"})
_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"})


class BodyQueue:
    """A request body on its way from the socket to its reader, bounded by pausing the socket."""

    __slots__ = (
        "_discarding",
        "_ended",
        "_error",
        "_on_first_read",
        "_pause",
        "_paused",
        "_pieces",
        "_size",
        "_waiter",
        "received",
    )

    def __init__(self, pause: Callable[[bool], None], on_first_read: Callable[[], None]) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._error: HeadraceError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._pause = pause
        self._paused = False
        self._discarding = False
        self._on_first_read: Callable[[], None] | None = on_first_read
        self.received = 0

    @property
    def ended(self) -> bool:
        """True when the whole body has arrived (it may still wait to be read)."""
        return self._ended

    def feed(self, piece: bytes) -> None:
        """Take bytes from the socket."""
        self.received += len(piece)
        if self._discarding:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > BODY_BUFFER_BYTES_MAX and not self._paused:
            self._paused = True
            self._pause(True)
        self._wake()

    def discard(self) -> None:
        """Nobody will read this body: drop what is here and what comes."""
        self._pieces.clear()
        self._size = 0
        self._discarding = True
        if self._paused:
            self._paused = False
            self._pause(False)

    def end(self, error: HeadraceError | None = None) -> None:
        """No more bytes will come; `error` says why when the body is not whole."""
        self._ended = True
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> BodyQueue:
        """The queue is its own iterator: a body is read once."""
        return self

    async def __anext__(self) -> bytes:
        """The next piece. Raises Invalid (IncompleteBody, RequestTimeout) when the body is cut off."""
        if self._on_first_read is not None:
            self._on_first_read()
            self._on_first_read = None
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(BODY_STALL_SECONDS_MAX):
                    await self._waiter
            except TimeoutError:
                raise Invalid(
                    "Your socket connection to the server was not read from or written to within the timeout period.",
                    kind="RequestTimeout",
                ) from None
            finally:
                self._waiter = None
        piece = self._pieces.popleft()
        self._size -= len(piece)
        if self._paused and self._size <= BODY_BUFFER_BYTES_MAX // 2:
            self._paused = False
            self._pause(False)
        return piece


class Message:
    """One request as parsed: `error` is set when it must be refused without being served."""

    __slots__ = ("body", "chunked", "content_length", "error", "expects_continue", "headers", "host", "keep_alive",
                 "method", "path", "query", "raw_head", "version")  # fmt: skip

    def __init__(self) -> None:
        self.method = ""
        self.path = b""
        self.query = b""
        self.version = "1.1"
        self.host = ""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: BodyQueue | None = None
        self.content_length: int | None = None
        self.chunked = False
        self.keep_alive = True
        self.expects_continue = False
        self.error: HeadraceError | None = None
        self.raw_head = b""


class HttpParser:
    """Feeds bytes to llhttp and hands out whole heads; bodies follow through their BodyQueue."""

    __slots__ = (
        "_head_bytes",
        "_make_body",
        "_message",
        "_on_message",
        "_parser",
        "_quiet_bytes",
        "_target",
        "busy",
        "head_open",
    )

    def __init__(self, on_message: Callable[[Message], None], make_body: Callable[[Message], BodyQueue]) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._on_message = on_message
        self._make_body = make_body
        self._message = Message()
        self._target = b""
        self._head_bytes = 0
        self._quiet_bytes = 0
        self.busy = False
        """True between the first byte of a message and its last."""
        self.head_open = False
        """True between the first byte of a head and its last."""

    def feed(self, data: bytes) -> None:
        """Parse. Raises Invalid when the bytes are not acceptable HTTP; the connection must then close.

        httptools hands out a header only when its line has ended, and copies what it holds for every
        piece, so what it may hold is bounded here, trailers and chunk extensions included.
        """
        self._quiet_bytes += len(data)
        try:
            self._parser.feed_data(data)
            if self._quiet_bytes > HEAD_BYTES_MAX + TARGET_BYTES_MAX:
                raise Invalid(
                    "Your request header section exceeds the maximum size.", kind="RequestHeaderSectionTooLarge"
                )
        except httptools.HttpParserUpgrade:
            raise Invalid("Protocol upgrades are not supported.", kind="BadRequest") from None
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, HeadraceError):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            raise Invalid(f"An error occurred when parsing the HTTP request: {error}", kind="BadRequest") from None

    def abandon(self, error: HeadraceError) -> None:
        """No more can be parsed: whoever reads the body that was arriving learns that it is cut off."""
        if self.in_body and self._message.body is not None:
            self._message.body.end(error)

    @property
    def in_body(self) -> bool:
        """True while a message's body is arriving."""
        return self._message.body is not None and not self._message.body.ended

    # -- llhttp callbacks
    def on_message_begin(self) -> None:
        """A request starts."""
        self._message = Message()
        self._target = b""
        self._head_bytes = 0
        self.busy = self.head_open = True

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self._target += url
        if len(self._target) > TARGET_BYTES_MAX:
            raise Invalid("The request URI is too long.", kind="RequestURITooLong")

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """One header line; `name` is None for a trailer continuation, which llhttp never sends here."""
        value = value or b""
        self._head_bytes += len(name) + len(value) + 4
        headers = self._message.headers
        if self._message.body is not None:
            return  # An HTTP trailer after a chunked body: not a header of the request, so it is dropped.
        if self._head_bytes > HEAD_BYTES_MAX or len(headers) >= HEADER_COUNT_MAX:
            raise Invalid("Your request header section exceeds the maximum size.", kind="RequestHeaderSectionTooLarge")
        headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole: judge it and pass it on."""
        self.head_open = False
        self._quiet_bytes = 0
        message = self._message
        message.method = self._parser.get_method().decode("latin-1")
        message.version = self._parser.get_http_version()
        message.keep_alive = self._parser.should_keep_alive()
        message.path, _, message.query = self._target.partition(b"?")
        self._judge(message)
        message.body = self._make_body(message)
        self._on_message(message)

    def on_body(self, piece: bytes) -> None:
        """A piece of the body, free of its transfer coding."""
        self._quiet_bytes = 0
        if self._message.body is not None:
            self._message.body.feed(piece)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._quiet_bytes = 0
        self.busy = False
        if self._message.body is not None:
            self._message.body.end()

    @staticmethod
    def _judge(message: Message) -> None:
        found: dict[bytes, bytes] = {}
        for name, value in message.headers:
            if name in _SINGLE and name in found:
                raise Invalid(f"The header {name.decode('latin-1')!r} is repeated.", kind="BadRequest")
            found[name] = value
        if b"content-length" in found:
            if b"transfer-encoding" in found:
                raise Invalid("Content-Length and Transfer-Encoding exclude each other.", kind="BadRequest")
            message.content_length = int(found[b"content-length"])
        if b"transfer-encoding" in found:
            if found[b"transfer-encoding"].strip().lower() != b"chunked" or message.version != "1.1":
                raise Invalid("The only transfer coding understood is 'chunked'.", kind="NotImplemented")
            message.chunked = True
        if message.method not in _METHODS:
            message.error = Invalid(
                "The specified method is not allowed against this resource.", kind="MethodNotAllowed"
            )
        if not message.path.startswith(b"/"):
            message.error = Invalid("Couldn't parse the specified URI.", kind="InvalidURI")
        if b"host" not in found and message.version == "1.1":
            message.error = Invalid("The Host header is missing.", kind="BadRequest")
        message.host = found.get(b"host", b"").decode("latin-1")
        message.expects_continue = found.get(b"expect", b"").lower() == b"100-continue" and message.version == "1.1"
