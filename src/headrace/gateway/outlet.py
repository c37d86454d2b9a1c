"""The way out of one connection: bytes and file ranges, in order, without blocking the loop.

File ranges go from page cache to socket by `os.sendfile`, in slices of at most SLICE_BYTES_MAX. Each
slice is checked whole for residency first; a cold one is sent by the device's pool. Between slices the
loop turns, so connections share it. "Waiting for a device" and "waiting for the socket" are two
states: taken as one, a cold page would make the loop spin.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from headrace.base.clock import monotonic_ns
from headrace.base.errors import HeadraceError, Unavailable
from headrace.base.limits import SLICE_BYTES_MAX
from headrace.gateway.devices import Devices
from headrace.media.residency import resident
from headrace.model.objects import FileSlice

IDLE, READY, WAITING_SOCKET, WAITING_DEVICE = range(4)
Done = Callable[[Exception | None], None]


class Outlet:
    """What a connection writes through. One transfer at a time; `done` tells its end."""

    __slots__ = ("_checked", "_descriptor", "_devices", "_done", "_drained", "_fileno", "_head", "_loop", "_offset",
                 "_paused", "_remaining", "_socket", "_transport", "_writer", "cold_slices", "device_ns", "lost",
                 "progress_ns", "secure", "sent", "state")  # fmt: skip

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, devices: Devices, secure: bool
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._devices = devices
        self.secure = secure
        self._socket: socket.socket | None = None
        self._head = b""
        self._descriptor = self._offset = self._remaining = self._checked = 0
        self._done: Done | None = None
        self._writer = False
        self._paused = False
        self._drained: asyncio.Future[None] | None = None
        self._fileno = transport.get_extra_info("socket").fileno()
        self.state = IDLE
        self.lost = False
        self.sent = 0
        self.cold_slices = 0
        self.device_ns = 0
        self.progress_ns = 0

    # -- plain bytes
    @property
    def clear(self) -> bool:
        """True when nothing waits to be sent: a new answer may start at once."""
        return self.state == IDLE and not self._paused

    def write(self, data: bytes) -> None:
        """Send bytes; what the socket does not take waits here, bounded because callers `drain`.

        Without TLS they go to the socket directly: the transport writes only at the end of a loop
        turn, and a sendfile after it would overtake them.
        """
        self.sent += len(data)
        if self.secure:
            self._transport.write(data)
            return
        if self.lost:
            return
        if self.state == IDLE:
            try:
                taken = os.write(self._fileno, data)
            except BlockingIOError:
                taken = 0
            except OSError:
                self._transport.abort()
                return
            if taken == len(data):
                return
            data = data[taken:]
        self.sent -= len(data)
        self._head += data
        if self.state == IDLE and self._open_socket():
            self._remaining = 0
            self._wait_socket()

    def pause(self, paused: bool) -> None:
        """The TLS transport's buffer rose above, or fell below, its mark."""
        self._paused = paused
        if not paused:
            self._wake()

    def _wake(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def drain(self) -> None:
        """Wait until all bytes are with the socket. Raises Unavailable when the client is gone."""
        while not self.clear and not self.lost:
            self.progress_ns = self.progress_ns or monotonic_ns()
            self._drained = self._loop.create_future()
            await self._drained
            self._drained = None
        self.progress_ns = 0
        if self.lost:
            raise Unavailable("The client closed the connection.", kind="ClientGone")

    # -- file ranges
    async def send(self, piece: FileSlice) -> None:
        """Send one file range. Raises Unavailable (client gone, device failed)."""
        if self.secure:
            await self._send_copied(piece)
            return
        await self.drain()  # sendfile must not overtake buffered bytes
        finished: asyncio.Future[None] = self._loop.create_future()

        def done(error: Exception | None) -> None:
            if not finished.done():
                if error is None:
                    finished.set_result(None)
                else:
                    finished.set_exception(error)

        self.start(b"", piece.descriptor, piece.offset, piece.length, done)
        await finished

    async def _send_copied(self, piece: FileSlice) -> None:
        """Through user space, for TLS: the transport encrypts."""
        offset, end = piece.offset, piece.offset + piece.length
        while offset < end:
            length = min(end - offset, SLICE_BYTES_MAX // 4)
            if not resident(piece.descriptor, offset, length):
                await self._devices.read(piece.descriptor, offset, min(end - offset, SLICE_BYTES_MAX))
                self.cold_slices += 1
            data = os.pread(piece.descriptor, length, offset)
            if len(data) != length:
                raise Unavailable("A cached file is shorter than its index says.", kind="InternalError")
            self.write(data)
            await self.drain()
            offset += length

    def start(self, head: bytes, descriptor: int, offset: int, length: int, done: Done) -> None:
        """Send `head`, then a file range; `done` is called once, perhaps before this returns."""
        if not self._open_socket():
            done(Unavailable("The client closed the connection.", kind="ClientGone"))
            return
        self._head = head
        self._descriptor, self._offset, self._remaining, self._checked = descriptor, offset, length, offset
        self._done = done
        self.state = READY
        self._pump()

    def _open_socket(self) -> bool:
        """Duplicate the descriptor: uvloop refuses to watch a transport's own. False when it is gone."""
        if self.lost:
            return False
        if self._socket is None:
            self._socket = socket.socket(fileno=os.dup(self._fileno))
        return True

    def _pump(self) -> None:
        """Send until the socket is full, a slice is cold, one slice went out, or all is sent."""
        assert self._socket is not None
        try:
            if self._head:
                self._send_head()
            if self._remaining and not self._head and self._check_slice():
                self._send_slice()
        except BlockingIOError:
            self._wait_socket()
        except OSError as error:
            self._finish(Unavailable(f"The client closed the connection: {error}", kind="ClientGone"))
        except HeadraceError as error:
            self._finish(error)
        else:
            if self.state != WAITING_DEVICE:
                if self._remaining or self._head:
                    self._wait_socket()
                else:
                    self._finish(None)

    def _send_head(self) -> None:
        assert self._socket is not None
        taken = self._socket.send(self._head, socket.MSG_MORE if self._remaining else 0)
        self.sent += taken
        self._head = self._head[taken:]

    def _check_slice(self) -> bool:
        if self._offset < self._checked:
            return True
        length = min(self._remaining, SLICE_BYTES_MAX)
        if resident(self._descriptor, self._offset, length):
            self._checked = self._offset + length
            return True
        assert self._socket is not None
        self._stop_watching()
        self.state = WAITING_DEVICE
        self.cold_slices += 1
        started = monotonic_ns()
        # A thread sends it: sendfile waits for the device there, and the kernel reads ahead meanwhile.
        future = self._devices.send(self._socket.fileno(), self._descriptor, self._offset, length)
        future.add_done_callback(lambda ended: self._device_ready(ended, started))
        return False

    def _device_ready(self, future: asyncio.Future[int], started_ns: int) -> None:
        self.device_ns += monotonic_ns() - started_ns
        error = future.exception() if not future.cancelled() else None
        if self.lost or future.cancelled():
            self._finish(Unavailable("The client closed the connection.", kind="ClientGone"))
        elif isinstance(error, BlockingIOError):
            self._wait_socket()
        elif isinstance(error, Exception):
            self._finish(Unavailable(f"Sending from a device failed: {error}"))
        elif not future.result():
            self._finish(Unavailable("A cached file is shorter than its index says.", kind="InternalError"))
        else:
            self._advance(future.result())
            if self._remaining:
                self._wait_socket()
            else:
                self._finish(None)

    def _send_slice(self) -> None:
        assert self._socket is not None
        wanted = min(self._remaining, self._checked - self._offset)
        taken = os.sendfile(self._socket.fileno(), self._descriptor, self._offset, wanted)
        if taken == 0:
            raise Unavailable("A cached file is shorter than its index says.", kind="InternalError")
        self._advance(taken)

    def _advance(self, taken: int) -> None:
        self._offset += taken
        self._remaining -= taken
        self.sent += taken
        self.progress_ns = 0

    def _wait_socket(self) -> None:
        self.state = WAITING_SOCKET
        if not self.progress_ns:
            self.progress_ns = monotonic_ns()
        if not self._writer:
            assert self._socket is not None
            self._writer = True
            self._loop.add_writer(self._socket.fileno(), self._pump)

    def _stop_watching(self) -> None:
        if self._writer and self._socket is not None:
            self._writer = False
            self._loop.remove_writer(self._socket.fileno())

    def _finish(self, error: Exception | None) -> None:
        if error is not None and not self.lost and self._done is None:
            self._transport.abort()
        self._stop_watching()
        self.state = IDLE
        self.progress_ns = 0
        self._head = b""
        self._remaining = 0
        done, self._done = self._done, None
        if done is not None:
            done(error)
        self._wake()
        if self.lost:
            self._close_socket()

    def connection_lost(self) -> None:
        """The client is gone: end the transfer (a device read under way ends it when it returns)."""
        self.lost = True
        self.pause(False)
        if self.state == WAITING_SOCKET:
            self._finish(Unavailable("The client closed the connection.", kind="ClientGone"))
        if self.state == IDLE:
            self._close_socket()

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
