"""The fault proxy's two sides of a connection: bytes pass at once unless a fault, a delay or a rate holds them."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

from headrace.base.limits import HEAD_BYTES_MAX, MIB

KINDS = ("cut", "corrupt", "stall", "status", "etag", "lose", "delay")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_ETAG = re.compile(rb'(\r\netag:[ \t]*)"[^"\r\n]*"', re.IGNORECASE)
_CODES = {500: "InternalError", 503: "SlowDown", 403: "AccessDenied", 404: "NoSuchKey"}
_IDLE, _BODY, _UNKNOWN, _DEAF = range(4)
_CREDIT_SECONDS = 0.02
"""What a link that stood still may catch up: timers come late, and by up to a millisecond each."""
_REFUSAL_SECONDS = 0.5
"""How long a refused client may go on sending: closing at once could destroy the answer on its way."""


class Seen(NamedTuple):
    """One request that came through: the method, the target as on the wire, and what was done to it."""

    method: str
    target: str
    fault: str


@dataclass(slots=True)
class Fault:
    """One misbehaviour of the origin, and the requests it strikes.

    `cut`: the connection ends after `after` body bytes. `corrupt`: the body byte at `after` is changed.
    `stall`: nothing comes any more after `after` body bytes. `status`: the origin is not asked, the
    answer is `status` with S3's code for it. `etag`: the answer's ETag is another. `lose`: the origin
    is asked, its answer is dropped with the connection. `delay`: the request is held for `seconds`.

    It strikes requests whose `METHOD target` matches `pattern`, `times` of them (None: all), each with
    the chance given.
    """

    kind: str
    pattern: str = ""
    times: int | None = 1
    after: int = 0
    status: int = 503
    seconds: float = 0.0
    chance: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind} is none of {', '.join(KINDS)}")


class Orders(Protocol):
    """What a connection asks of the proxy."""

    upstream: tuple[str, int]
    delay_seconds: float
    up: Shaper
    down: Shaper
    fronts: set[Front]

    def strike(self, method: str, target: str) -> Fault | None:
        """The fault for a request that comes in now; None for most."""


class Shaper:
    """One direction of a shared link: how long bytes must wait so that the rate holds."""

    def __init__(self, rate_bytes: float | None) -> None:
        self.rate_bytes = rate_bytes
        self._free_at = 0.0

    def wait(self, size: int) -> float:
        """Seconds until `size` bytes have passed the link, those before them first; 0 without a rate."""
        if not self.rate_bytes:
            return 0.0
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - _CREDIT_SECONDS) + size / self.rate_bytes
        return max(0.0, self._free_at - now)


class Gate:
    """Writes to one transport in order, some of it later; the source is paused meanwhile."""

    def __init__(self, shaper: Shaper) -> None:
        self._shaper = shaper
        self._waiting: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self.target: asyncio.Transport | None = None
        self.source: asyncio.Transport | None = None
        self._full = False
        self._ending = False

    def write(self, data: bytes, hold: float = 0.0) -> None:
        """Pass `data` on, after `hold` seconds and when the link's rate allows."""
        delay = hold + self._shaper.wait(len(data))
        if delay <= 0.0 and self.target is not None and not self._waiting:
            self.target.write(data)
            return
        self._waiting.append(data)
        self._pause()
        if self._timer is None and delay > 0.0:
            self._timer = asyncio.get_running_loop().call_later(delay, self._flush)

    def begin(self, target: asyncio.Transport, source: asyncio.Transport) -> None:
        """Both ends are there: what was kept may go, unless it is held for longer."""
        self.target, self.source = target, source
        if self._timer is None:
            self._flush()

    def _flush(self) -> None:
        self._timer = None
        if self.target is None:  # `begin` comes back to it
            return
        if not self.target.is_closing():
            for data in self._waiting:
                self.target.write(data)
        self._waiting.clear()
        if self._ending:
            self.end()
        if self.source is not None and not self._full and not self.source.is_closing():
            self.source.resume_reading()

    def end(self) -> None:
        """Close the target once all that waits is written."""
        self._ending = True
        if self._timer is None and not self._waiting and self.target is not None:
            self.target.close()

    def full(self, full: bool) -> None:
        """The target's buffer is full, or has room again."""
        self._full = full
        if full:
            self._pause()
        elif self._timer is None and self.source is not None and not self.source.is_closing():
            self.source.resume_reading()

    def _pause(self) -> None:
        if self.source is not None and not self.source.is_closing():
            self.source.pause_reading()

    def drop(self) -> None:
        """Forget what waits."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._waiting.clear()
        self.target = self.source = None


class Front(asyncio.Protocol):
    """The client's side: finds where requests begin, and asks the proxy what shall happen to each."""

    def __init__(self, proxy: Orders) -> None:
        self._proxy = proxy
        self._head = b""
        self._state = _IDLE
        self._left = 0
        self._back: Back | None = None
        self.up = Gate(proxy.up)
        self.down = Gate(proxy.down)
        self.fault: Fault | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the origin as well."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses
        self.transport.set_write_buffer_limits(MIB)
        self._proxy.fronts.add(self)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            transport, _ = await asyncio.get_running_loop().create_connection(self._new_back, *self._proxy.upstream)
        except OSError:
            self.abort()
            return
        transport.set_write_buffer_limits(MIB)
        self.up.begin(transport, self.transport)
        self.down.begin(self.transport, transport)

    def _new_back(self) -> Back:
        self._back = Back(self)
        return self._back

    def answered(self) -> None:
        """The origin's final answer has begun: a chunked request has ended, and the next may come."""
        if self._state == _UNKNOWN:
            self._state = _IDLE

    def data_received(self, data: bytes) -> None:
        """Bytes of the client; a fast path inside bodies."""
        while data:
            if self._state == _DEAF:
                return
            if self._state == _UNKNOWN or (self._state == _BODY and len(data) < self._left):
                self._left -= len(data)
                self.up.write(data)
                return
            if self._state == _BODY:
                self.up.write(data[: self._left])
                data = data[self._left :]
                self._state = _IDLE
                continue
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head) > HEAD_BYTES_MAX * 4:
                    self.abort()
                return
            head, data, self._head = self._head[: end + 4], self._head[end + 4 :], b""
            if not self._begin(head):
                return

    def _begin(self, head: bytes) -> bool:
        """A request begins: strike it or let it pass. False when the connection is done with."""
        length = _LENGTH.search(head)
        self._left = int(length[1]) if length else 0
        self._state = _UNKNOWN if _CHUNKED.search(head) else _BODY if self._left else _IDLE
        words = head.split(b" ", 2)
        fault = self._proxy.strike(words[0].decode("latin-1"), words[1].decode("latin-1") if len(words) > 2 else "")
        hold = self._proxy.delay_seconds
        if fault is not None and fault.kind == "delay":
            hold += fault.seconds
        elif fault is not None and fault.kind == "status":
            self._refuse(fault.status)
            return False
        self.fault = fault
        if self._back is not None:
            self._back.expect(fault)
        self.up.write(head, hold)
        return True

    def _refuse(self, status: int) -> None:
        """Answer in the origin's place, and close: the request's body is not read."""
        code = _CODES.get(status, "InternalError")
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>to order</Message></Error>".encode()
        head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        seconds = _REFUSAL_SECONDS if self._state != _IDLE else 0.0
        self._state = _DEAF
        asyncio.get_running_loop().call_later(seconds, self.transport.close)

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self.down.full(True)

    def resume_writing(self) -> None:
        """The client does."""
        self.down.full(False)

    def connection_lost(self, _error: Exception | None) -> None:
        """The client is gone: so is the origin's side."""
        self._proxy.fronts.discard(self)
        self.up.drop()
        self.down.drop()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._back is not None:
            self._back.transport.abort()

    def abort(self) -> None:
        """Drop the connection without a word."""
        self.transport.abort()


class Back(asyncio.Protocol):
    """The origin's side: passes answers on, or does to one of them what its fault asks."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._head = b""
        self.expect(front.fault)  # of a request that came before the origin was connected

    def expect(self, fault: Fault | None) -> None:
        """The next answer is to be struck by `fault`."""
        self._fault = fault
        self._body = -1  # body bytes of a struck answer seen so far; -1 while in its head

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of the origin."""
        if not data.startswith(b"HTTP/1.1 100"):
            self._front.answered()
        if self._fault is None:
            self._front.down.write(data)
        else:
            self._struck(self._fault, data)

    def _struck(self, fault: Fault, data: bytes) -> None:
        """Bytes of an answer that a fault strikes."""
        if fault.kind == "lose":
            self._front.abort()
            return
        if self._body < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data, self._head = self._head[: end + 4], self._head[end + 4 :], b""
            if head.startswith(b"HTTP/1.1 100"):
                self._front.down.write(head)
                if data:
                    self._struck(fault, data)
                return
            if fault.kind == "etag":
                head = _ETAG.sub(rb'\g<1>"00000000000000000000000000000000"', head)
            self._front.down.write(head)
            self._body = 0
        start, self._body = self._body, self._body + len(data)
        if fault.kind == "corrupt" and start <= fault.after < self._body:
            at = fault.after - start
            data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
        elif fault.kind in {"cut", "stall"} and self._body > fault.after:
            data = data[: max(fault.after - start, 0)]
            if data:
                self._front.down.write(data)
            if fault.kind == "cut":
                self._front.down.end()
            else:
                self.transport.pause_reading()
            return
        if data:
            self._front.down.write(data)

    def pause_writing(self) -> None:
        """The origin does not keep up."""
        self._front.up.full(True)

    def resume_writing(self) -> None:
        """The origin does."""
        self._front.up.full(False)

    def connection_lost(self, _error: Exception | None) -> None:
        """The origin closed: so does the client's side, when all is written."""
        self._front.down.end()
