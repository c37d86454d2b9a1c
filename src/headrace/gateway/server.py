"""The gateway of one worker: its connections, its deadlines, and how a request becomes an answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import zlib
from email.utils import formatdate
from typing import TYPE_CHECKING

import structlog

from headrace.base.clock import monotonic_ns, wall
from headrace.base.errors import Busy, HeadraceError
from headrace.base.limits import (
    CONNECTIONS_MAX,
    DRAIN_SECONDS_MAX,
    HEAD_SECONDS_MAX,
    IDLE_SECONDS_MAX,
    REQUESTS_IN_FLIGHT_MAX,
    SEND_STALL_SECONDS_MAX,
)
from headrace.gateway import operations, shapes
from headrace.gateway.addressing import bucket_of_host, parse_query, split_path
from headrace.gateway.admin import handle_admin
from headrace.gateway.devices import Devices
from headrace.gateway.errors import error_response, known_error
from headrace.gateway.hot import Hot, trace_id
from headrace.gateway.messages import ANONYMOUS, Request, Response
from headrace.gateway.payload import open_payload
from headrace.gateway.protocol import Connection
from headrace.gateway.sigv4 import Signature, Verifier
from headrace.telemetry.records import NONE, SOURCES

if TYPE_CHECKING:
    from headrace.gateway.context import Context
    from headrace.gateway.parser import Message

log = structlog.get_logger("headrace.gateway")
_SECOND_NS = 1_000_000_000
_SWEEP_BATCH = 500
_INTERNAL = b"/_headrace/"
_SOURCE_NUMBERS = {name: number for number, name in enumerate(SOURCES)}


class Gateway:
    """Everything one worker serves with."""

    def __init__(self, context: Context, hot: Hot, drain_seconds: float = DRAIN_SECONDS_MAX) -> None:
        self._drain_seconds = drain_seconds
        self.context = context
        self.hot = hot
        self.files = context.files
        self.devices = Devices()
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.raw_head = b""
        self._verifier = Verifier(context.keyring.secret)
        self._keys_generation = context.keyring.generation
        self._connections: dict[Connection, None] = {}
        self._empty = asyncio.Event()
        self._in_flight = 0
        self._request_count = int.from_bytes(os.urandom(6), "little") << 16
        self._tick()

    # -- connections
    def admit(self, connection: Connection) -> bool:
        """Count a new connection; False when there are too many."""
        if len(self._connections) >= CONNECTIONS_MAX or self.draining:
            return False
        self._connections[connection] = None
        return True

    def forget(self, connection: Connection) -> None:
        """A connection ended."""
        self._connections.pop(connection, None)
        if self.draining and not self._connections:
            self._empty.set()

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    @property
    def in_flight(self) -> int:
        """Requests the general path works on now."""
        return self._in_flight

    def log_cut(self, error: BaseException) -> None:
        """An answer was cut off after its head had gone out."""
        if getattr(error, "kind", "") != "ClientGone":
            log.warning("answer cut off", error=str(error), kind=type(error).__name__)

    # -- one request
    async def answer(self, connection: Connection, message: Message) -> tuple[Request, Response]:
        """Authenticate and run one request; every failure becomes an S3 error."""
        request = Request(
            message.method, message.path, message.query, message.headers, request_id=self._new_id(),
            received_ns=monotonic_ns(), host=message.host, secure=connection.outlet.secure, peer=connection.peer,
        )  # fmt: skip
        if self._in_flight >= REQUESTS_IN_FLIGHT_MAX:
            return request, error_response(request, Busy("Please reduce your request rate.", retry_after=1.0))
        self._in_flight += 1
        try:
            if message.error is not None:
                raise message.error
            response = await self._run(connection, message, request)
        except Exception as error:
            response = error_response(request, known_error(error, request.request_id))
        finally:
            self._in_flight -= 1
        response.headers.append(("x-amz-request-id", request.request_id))
        return request, response

    async def _run(self, connection: Connection, message: Message, request: Request) -> Response:
        request.params = parse_query(message.query)
        host_bucket = bucket_of_host(message.host, self.context.domains)
        internal = not host_bucket and message.path.startswith(_INTERNAL)
        if internal and message.path == b"/_headrace/health":
            return await handle_admin(self.context, request)
        if not internal:
            request.bucket, request.key = split_path(message.path, host_bucket)
        # A preflight asks before anything is signed.
        signature = self._authenticate(message, request) if message.method != "OPTIONS" else None
        if signature is not None and message.method == "GET" and message.raw_head:
            self._learn(connection, message, signature, host_bucket)
        assert message.body is not None
        request.content_length = message.content_length
        open_payload(request, message.body, signature, chunked=message.chunked)
        if internal:
            return await handle_admin(self.context, request)
        return await operations.handle(self.context, request)

    def _authenticate(self, message: Message, request: Request) -> Signature | None:
        if message.method == "OPTIONS":
            return None  # a browser's preflight carries no credentials, whatever its URL was signed for
        keyring = self.context.keyring
        if keyring.generation != self._keys_generation:
            self._keys_generation = keyring.generation
            self._verifier.keys.clear()
        signature = self._verifier.verify(
            message.method, message.path, message.query, message.headers, request.params, wall()
        )
        identity = keyring.identity(signature.access_key) if signature is not None else None
        request.identity = identity or ANONYMOUS
        return signature

    def _learn(self, connection: Connection, message: Message, signature: Signature, host_bucket: str) -> None:
        """Make a shape of a layout that the general verifier has just accepted."""
        shape = shapes.build(message.raw_head, signature, host_bucket.encode())
        if shape is not None:
            connection.shape = shape
            self.hot.add_shape(shape)

    def record(self, request: Request, response: Response, connection: Connection, first_ns: int, sent: int) -> None:
        """Note one read of the general path when its answer has gone out."""
        if request.method != "GET" or not request.key:
            return
        trace = request.header("traceparent")
        source = "device" if connection.outlet.cold_slices and response.source == "memory" else response.source
        self.context.ring.append(
            trace_id(trace.encode("latin-1", "replace") if trace else None),
            zlib.crc32(request.identity.access_key.encode()),
            zlib.crc32(request.bucket.encode()),
            _SOURCE_NUMBERS.get(source, NONE),
            response.status,
            sent,
            request.received_ns,
            0,
            connection.outlet.device_ns,
            first_ns - request.received_ns,
            monotonic_ns() - request.received_ns,
        )

    def tail(self, message: Message) -> bytes:  # noqa: ARG002 - the same for every message today
        """The headers every answer ends with, without the last line break."""
        return self._common

    def _new_id(self) -> str:
        self._request_count += 1
        return f"{self._request_count:016X}"

    # -- time
    def _tick(self) -> None:
        """Renew what changes once a second."""
        now = wall()
        date = formatdate(now, usegmt=True).encode()
        self._common = b"Date: " + date + b"\r\nServer: headrace"
        self.hot.now = now
        self.hot.tail = self._common + b"\r\nx-amz-request-id: "

    async def keep_time(self) -> None:
        """Tick, and hold every connection to its deadlines, until cancelled."""
        limits = [int(seconds * _SECOND_NS) for seconds in (IDLE_SECONDS_MAX, HEAD_SECONDS_MAX, SEND_STALL_SECONDS_MAX)]
        while True:
            await asyncio.sleep(1.0)
            self._tick()
            now_ns = monotonic_ns()
            for number, connection in enumerate(list(self._connections)):
                connection.deadline(now_ns, *limits)
                if number % _SWEEP_BATCH == _SWEEP_BATCH - 1:
                    await asyncio.sleep(0)  # ten thousand idle connections must not delay a warm hit
            self.files.forget_unlinked()

    async def drain(self) -> None:
        """Finish what is in flight, for at most `drain_seconds`, then cut what is left."""
        self.draining = True
        for connection in list(self._connections):
            connection.drain()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), self._drain_seconds)
        for connection in list(self._connections):
            connection.abort()
        self.devices.close()


async def run(
    gateway: Gateway, listener: socket.socket, stop: asyncio.Event, *, tls: ssl.SSLContext | None = None
) -> None:
    """Accept and serve on `listener` until `stop` is set, then drain."""
    server = await gateway.loop.create_server(
        lambda: Connection(gateway),
        sock=listener,
        backlog=4096,
        ssl=tls,
        ssl_handshake_timeout=HEAD_SECONDS_MAX if tls else None,
    )
    keeper = gateway.loop.create_task(gateway.keep_time())
    try:
        await stop.wait()
    finally:
        server.close()
        await gateway.drain()
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError, HeadraceError):
            await keeper
