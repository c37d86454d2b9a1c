"""The line to an origin that is not on this machine: a fault proxy that delays and limits."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from harness import machine
from harness.servers import wait_until


@contextlib.contextmanager
def slow_line(
    port: int, log: Path, *, delay_seconds: float = 0.0, rate_bytes: float = 0.0, realtime: bool = False
) -> Iterator[int]:
    """A proxy before the server on `port`, on the client's core; yields the port it listens on."""
    command = [
        *machine.pinned(machine.CLIENT_CORE, realtime),
        *(sys.executable, "-m", "headrace.testing.faults", "--origin", f"http://127.0.0.1:{port}"),
        *("--delay-ms", str(delay_seconds * 1e3), "--rate-mb", str(rate_bytes / 1e6)),
    ]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_until(lambda: _port(log) > 0, "start of the fault proxy")
        yield _port(log)
    finally:
        process.terminate()
        process.wait(10)


def _port(log: Path) -> int:
    found = re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text(errors="replace"))
    return int(found.group(1)) if found else 0
