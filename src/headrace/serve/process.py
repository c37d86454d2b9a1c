"""What every child of the supervisor does first and last, and how the supervisor starts one."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

from headrace.base.errors import HeadraceError
from headrace.config.load import restore
from headrace.config.settings import Settings
from headrace.serve.layout import Layout
from headrace.telemetry import log

_PR_SET_PDEATHSIG = 1


class Role(NamedTuple):
    """What a child was told on its command line.

    `listener` is the inherited listening socket (-1 for the agent), `ready` the pipe to write to
    once it serves.
    """

    name: str
    number: int
    listener: int
    ready: int

    def tell_ready(self) -> None:
        """Tell the supervisor that this child serves."""
        os.write(self.ready, b"1")
        os.close(self.ready)


def spawn(module: str, role: Role, layout: Layout, inherited: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """Start `python -m module` as a child that dies with this process; its stdin is empty."""
    command = [sys.executable, "-P", "-m", module, "--data", str(layout.data), "--name", role.name]
    command += ["--number", str(role.number), "--listener", str(role.listener), "--ready", str(role.ready)]
    command += ["--parent", str(os.getpid())]
    kept = (role.ready, *((role.listener,) if role.listener >= 0 else ()), *inherited)
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=kept, process_group=0)


def child_main(run: Callable[[Role, Settings, Layout], int]) -> int:
    """Set a child process up, run it, and turn a known error into one line and an exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--name", required=True)
    for name in ("number", "listener", "ready", "parent"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    _die_with(given.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from pathlib import Path

    layout = Layout(Path(given.data))
    settings = restore(layout.settings.read_bytes())
    log.configure(settings.log_level, settings.log_format, process=given.name)
    os.set_inheritable(given.ready, False)
    try:
        return run(Role(given.name, given.number, given.listener, given.ready), settings, layout)
    except HeadraceError as problem:
        log.get_logger("headrace.serve").error(
            "cannot go on", what=given.name, reason=problem.message, kind=problem.kind
        )
        return problem.exit_status
    except OSError as problem:
        log.get_logger("headrace.serve").error("cannot go on", what=given.name, reason=str(problem))
        return 8


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; leave if that happened already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)
