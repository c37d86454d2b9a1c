"""Listening sockets: one per worker on one port, bound before any worker starts."""

from __future__ import annotations

import errno
import socket

from headrace.base.errors import Conflict, Invalid

_FREE_PORT_TRIES = 16


def open_listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` sockets bound to the same host and port (a free one for 0), not listening yet.

    They belong to the supervisor and are inherited, so a connection that arrives while a worker is
    being restarted waits instead of being refused. Raises Conflict (port taken), Invalid (bad host).
    """
    family, address = _resolve(host, port)
    for _ in range(_FREE_PORT_TRIES):
        first = _bind(family, address, shared=False)
        bound = (address[0], first.getsockname()[1])
        first.close()
        opened: list[socket.socket] = []
        try:
            while len(opened) < count:
                opened.append(_bind(family, bound, shared=True))
        except Conflict:
            for listener in opened:
                listener.close()
            if port:
                raise
        else:
            return opened
    raise Conflict("No free port was found; name one with --port.", kind="PortTaken")


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        family, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as problem:
        raise Invalid(f"The host {host!r} does not resolve: {problem}. Check --host.") from problem
    return family, (str(found[0]), int(found[1]))


def _bind(family: socket.AddressFamily, address: tuple[str, int], *, shared: bool) -> socket.socket:
    """One bound socket. Without `shared` it fails where anybody listens, another node included."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        if not shared:
            listener.listen(1)  # bind alone succeeds beside a listener that also allows reuse
    except OSError as problem:
        listener.close()
        if problem.errno == errno.EADDRINUSE:
            raise Conflict(
                f"Port {address[1]} on {address[0]} is taken by another program; choose another with --port.",
                kind="PortTaken",
            ) from problem
        raise Invalid(f"Cannot listen on {address[0]} port {address[1]}: {problem.strerror}.") from problem
    return listener
