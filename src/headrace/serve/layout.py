"""Where everything lies under a node's data directory, and the lock that makes it one node's."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from headrace.base import clock
from headrace.base.errors import Conflict, Invalid, Unavailable

_SOCKET_PATH_BYTES_MAX = 107
_LOCK_WAIT_SECONDS = 3.0
_LOCK_PAUSE_SECONDS = 0.05


class Layout:
    """The paths under one data directory."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.lock = data / "lock"
        self.database = data / "node.db"
        self.store = data / "store"
        self.tiers = data / "tiers"
        self.index = data / "index"
        self.run = data / "run"
        self.words = self.run / "words"
        self.agent_socket = self.run / "agent.sock"
        self.settings = self.run / "settings.json"
        self.metrics = self.run / "metrics"

    def prepare(self) -> None:
        """Make the directories, readable by the owner only. Raises Invalid, Unavailable."""
        if len(os.fsencode(self.agent_socket)) > _SOCKET_PATH_BYTES_MAX:
            raise Invalid(
                f"The data directory's path {self.data} is too long for a unix socket in it; "
                f"choose one that is {len(os.fsencode(self.agent_socket)) - _SOCKET_PATH_BYTES_MAX} bytes shorter."
            )
        try:
            self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in (self.store, self.run, self.metrics):
                path.mkdir(exist_ok=True, mode=0o700)
        except OSError as problem:
            raise Unavailable(
                f"Cannot make the data directory {self.data}: {problem.strerror}. Choose another with --data."
            ) from problem

    def take_lock(self) -> int:
        """Hold the directory for this process and the children that inherit the descriptor.

        A supervisor that was killed leaves children which die at once; their hold is waited out.
        Raises Conflict when a node runs on the directory.
        """
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = clock.steady() + _LOCK_WAIT_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = _holder(descriptor)
                if _alive(holder) or clock.steady() > deadline:
                    os.close(descriptor)
                    raise Conflict(
                        f"A node runs on {self.data} already (process {holder or 'unknown'}). "
                        "Stop it first, or choose another directory with --data.",
                        kind="NodeRunning",
                    ) from None
                clock.pause(_LOCK_PAUSE_SECONDS)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return descriptor

    def running(self) -> int | None:
        """Process id of the supervisor that holds the directory; None when no node runs."""
        try:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(descriptor)
        else:
            return None
        finally:
            os.close(descriptor)


def _holder(descriptor: int) -> int:
    """The process id written in the lock file; 0 when there is none."""
    text = os.pread(descriptor, 32, 0)
    return int(text) if text.isdigit() else 0


def _alive(process: int) -> bool:
    """Whether the process exists."""
    if process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
