"""The agent's side of the unix socket: connections of workers, nothing of what they ask about."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import cast

from headrace.base import errors, limits
from headrace.wire.agent import Answer, Question, Splitter, encode, question

_log = logging.getLogger("headrace.cache")


class Connection(asyncio.Protocol):
    """One worker. `numbers` maps its question numbers to waiters, for as long as they wait."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._splitter = Splitter()
        self._transport: asyncio.Transport | None = None
        self.numbers: dict[int, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the worker, unless there are too many."""
        if len(self._service.connections) >= limits.AGENT_CONNECTIONS_MAX:
            cast(asyncio.Transport, transport).abort()
            return
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._service.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Hand on every whole question; a worker that speaks nonsense is cut off."""
        try:
            for body in self._splitter.feed(data):
                self._service.ask(self, question(body))
        except errors.Invalid as error:
            _log.error("a worker is cut off: %s", error)
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Everything the worker waited for is abandoned."""
        self._transport = None
        if self in self._service.connections:
            self._service.connections.discard(self)
            self._service.lost(self)

    def send(self, answer: Answer) -> None:
        """Answer; a worker that does not read is cut off, which frees what is queued for it."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(encode(answer))
        if transport.get_write_buffer_size() > limits.AGENT_SEND_BYTES_MAX:
            _log.error("a worker is cut off: it does not read the agent's answers")
            transport.abort()

    @property
    def keeps_up(self) -> bool:
        """True while the worker reads its answers, so that bytes of blocks may be among them."""
        return (
            self._transport is not None and self._transport.get_write_buffer_size() < limits.AGENT_SEND_BYTES_MAX // 4
        )

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()


class Service:
    """Listens on a unix socket and hands questions to `ask(connection, question)`."""

    def __init__(
        self, path: Path, ask: Callable[[Connection, Question], None], lost: Callable[[Connection], None]
    ) -> None:
        self.path = path
        self.ask = ask
        self.lost = lost
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, in place of a dead agent's socket; only this user may connect. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(f".{self.path.name}.new")
        fresh.unlink(missing_ok=True)
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: Connection(self), path=str(fresh))
        fresh.chmod(0o600)
        fresh.replace(self.path)

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self.path.unlink(missing_ok=True)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)
