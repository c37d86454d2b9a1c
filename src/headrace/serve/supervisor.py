"""`headrace up` in the foreground: one agent and N workers, started, watched, restarted, stopped.

It holds the directory's lock and the listening sockets, and serves nothing itself.
"""

from __future__ import annotations

import os
import resource
import selectors
import signal
import socket
import subprocess
from collections.abc import Callable
from types import FrameType

import msgspec

from headrace.base import clock
from headrace.base.files import replace_file
from headrace.base.limits import CONNECTIONS_MAX, OPEN_FILES_MAX
from headrace.config.load import data_directory, dump
from headrace.config.settings import Settings
from headrace.gateway.keyring import AccessKey
from headrace.serve import endpoints, machine, ports, preparation, process
from headrace.serve.layout import Layout
from headrace.telemetry import log, metrics
from headrace.wire.words import EPOCH, Words

WORKERS_DEFAULT_MAX = 8
_FILES_WANTED = 1 << 20


class Supervisor:
    """One node's processes. `announce(endpoint, new_key)` is called once, when all of them serve."""

    def __init__(self, settings: Settings, announce: Callable[[str, AccessKey | None], None]) -> None:
        self.settings = settings
        self.layout = Layout(data_directory(settings))
        self._announce = announce
        self._log = log.get_logger("headrace.supervisor")
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._ready: dict[str, int] = {}
        self._listeners: dict[str, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._stops = 0
        self._status: int | None = None
        self._new_key: AccessKey | None = None
        self._lock = -1

    # -- life

    def run(self) -> int:
        """Serve until asked to stop; the exit status. Raises Conflict, Invalid, Unavailable."""
        self.layout.prepare()
        self._lock = self.layout.take_lock()
        names = tuple(f"worker-{number}" for number in range(worker_count(self.settings)))
        self._listeners = dict(
            zip(names, ports.open_listeners(self.settings.host, self.settings.port, len(names)), strict=True)
        )
        endpoints.refuse_loop(self.settings.origin, self.endpoint, os.environ)
        raise_file_limit()
        preparation.clear_spools(self.settings, self.layout)
        metrics.clear(self.layout.metrics)
        self._words = Words(self.layout.words)
        self._words.stamp(EPOCH)
        self._new_key = preparation.make_first_key(self.layout, self.settings, self._words)
        preparation.bind_flags(self.layout, self.settings, self._words)
        replace_file(self.layout.settings, dump(_without_secrets(self.settings)))
        wakeup = self._catch_signals()
        try:
            self._state, instructions = machine.begin(
                (machine.AGENT, *names), self.settings.drain_seconds, clock.steady()
            )
            self._perform(instructions)
            while self._status is None:
                self._turn(wakeup)
            return self._status
        finally:
            self._clean_up(wakeup)

    def _turn(self, wakeup: socket.socket) -> None:
        """Wait for one thing to happen and act on it."""
        for key, _ in self._selector.select(machine.next_wake(self._state, clock.steady())):
            if key.fileobj is wakeup:
                wakeup.recv(4096)
            else:
                self._read_ready(key.data)
        while self._stops > 0:
            self._stops -= 1
            self._decide(machine.Stop())
        for name, child in list(self._children.items()):
            status = child.poll()
            if status is not None:
                del self._children[name]
                self._forget_ready(name)
                if not self._state.stopping:
                    self._log.warning("child ended", child=name, pid=child.pid, status=status)
                metrics.process_died(self.layout.metrics, name)
                self._decide(machine.Exited(name, status))
        self._decide(machine.Tick())

    def _decide(self, event: machine.Event) -> None:
        self._perform(machine.decide(self._state, event, clock.steady()))

    def _perform(self, instructions: list[machine.Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case machine.Start(name):
                    self._start(name)
                case machine.Terminate(name):
                    self._signal(name, signal.SIGTERM)
                case machine.Kill(name):
                    self._log.warning("child killed", child=name, reason="it took too long, or a second signal came")
                    self._signal(name, signal.SIGKILL)
                case machine.Stamp():
                    self._words.stamp(EPOCH)
                case machine.Announce():
                    self._announce(self.endpoint, self._new_key)
                case machine.Finish(status):
                    self._status = status

    # -- children

    def _start(self, name: str) -> None:
        reader, writer = os.pipe()
        worker = name != machine.AGENT
        role = process.Role(
            name=name,
            number=int(name.partition("-")[2]) if worker else 0,
            listener=self._listeners[name].fileno() if worker else -1,
            ready=writer,
        )
        module = "headrace.serve.worker" if worker else "headrace.serve.agent"
        try:
            self._children[name] = process.spawn(module, role, self.layout, (self._lock,))
        finally:
            os.close(writer)
        self._ready[name] = reader
        self._selector.register(reader, selectors.EVENT_READ, name)
        self._log.debug("child started", child=name, pid=self._children[name].pid)

    def _read_ready(self, name: str) -> None:
        """The child wrote its byte, or closed the pipe by ending."""
        told = os.read(self._ready[name], 1)
        self._forget_ready(name)
        if told:
            self._decide(machine.Ready(name))

    def _forget_ready(self, name: str) -> None:
        reader = self._ready.pop(name, None)
        if reader is not None:
            self._selector.unregister(reader)
            os.close(reader)

    def _signal(self, name: str, number: signal.Signals) -> None:
        child = self._children.get(name)
        if child is not None:
            child.send_signal(number)
        if number == signal.SIGTERM and (listener := self._listeners.pop(name, None)) is not None:
            listener.close()  # the worker holds the last reference now, so its close ends accepting

    # -- the rest

    @property
    def endpoint(self) -> str:
        """The URL to give clients."""
        host, port = next(iter(self._listeners.values())).getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound
        return f"http{'s' if self.settings.tls_cert else ''}://{f'[{host}]' if ':' in host else host}:{port}"

    def _catch_signals(self) -> socket.socket:
        """SIGTERM, SIGINT and SIGHUP ask to stop; they and SIGCHLD wake the selector."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._writer = writer
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

        def stop(_number: int, _frame: FrameType | None) -> None:
            self._stops += 1

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._selector.register(reader, selectors.EVENT_READ, None)
        return reader

    def _clean_up(self, wakeup: socket.socket) -> None:
        for child in self._children.values():  # only after a failure of the supervisor itself
            child.kill()
            child.wait()
        if self._new_key is not None and not self._state.announced:
            preparation.forget_key(self.layout, self._new_key)  # it was never shown, so nobody could ever use it
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        wakeup.close()
        self._writer.close()
        self._selector.close()
        for listener in self._listeners.values():
            listener.close()
        self._words.close()
        os.close(self._lock)


def worker_count(settings: Settings) -> int:
    """Gateway processes to run."""
    return settings.workers or min(WORKERS_DEFAULT_MAX, len(os.sched_getaffinity(0)))


def raise_file_limit() -> int:
    """Raise the soft limit on open files as far as allowed; warn when it is below what a worker may need."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, _FILES_WANTED)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < CONNECTIONS_MAX + OPEN_FILES_MAX:
        log.get_logger("headrace.supervisor").warning(
            "few open files allowed", limit=wanted, wanted=CONNECTIONS_MAX + OPEN_FILES_MAX, hint="raise `ulimit -n`"
        )
    return wanted


def _without_secrets(settings: Settings) -> Settings:
    """The settings as children get them: the secret lies in the database alone."""
    return msgspec.structs.replace(settings, access_key="", secret_key="")
