"""The programs of the demo: headrace nodes and the slow line between them, started and stopped here."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 40.0
BIN = Path(sys.executable).parent
_SOURCE = re.compile(r'^headrace_read_bytes_total\{[^}]*source="(\w+)"[^}]*\} ([0-9.e+]+)$', re.MULTILINE)


class Program:
    """A program that says on its first line of output where it listens."""

    def __init__(self, name: str, command: list[str], log: Path, **environment: str) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C comes to the trainer, which stops them in order
            )
        self.endpoint = self._wait_for_endpoint()

    def _wait_for_endpoint(self) -> str:
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self.process.poll() is None:
            found = re.search(r"https?://[\w.]+:\d+", self.log.read_text(errors="replace"))
            if found:
                return found.group()
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)


class Node(Program):
    """`headrace up` on a free port, with a data directory of its own."""

    def __init__(self, name: str, folder: Path, key: tuple[str, str], *arguments: str, **environment: str) -> None:
        self.data = folder / name
        self._arguments = (*("--access-key", key[0], "--secret-key", key[1], "--open-metrics"), *arguments)
        self._environment = environment
        self._start(name, folder / f"{name}.log", "0")

    def _start(self, name: str, log: Path, port: str) -> None:
        command = [str(BIN / "headrace"), "up", "--data", str(self.data), "--port", port, "--workers", "1"]
        super().__init__(name, [*command, *self._arguments], log, **self._environment)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.endpoint}/_headrace/health", timeout=5):
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} is not ready:\n{self.log.read_text(errors='replace')[-2000:]}")

    def bytes_by_source(self) -> dict[str, float]:
        """Bytes read so far by where they came from, as the node counts them (folded once a second)."""
        with urllib.request.urlopen(f"{self.endpoint}/_headrace/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found: dict[str, float] = {}
        for source, value in _SOURCE.findall(text):
            found[source] = found.get(source, 0) + float(value)
        return found

    def forget_memory(self) -> None:
        """Make the next reads come from the device: stop the node, drop its files' pages, start it again.

        The restart matters for small objects, whose bodies a worker keeps beside their location.
        """
        self.stop()
        os.sync()
        for path in self.data.rglob("*"):
            if path.is_file() and path.stat().st_size:
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)
        self._start(self.name, self.log, self.endpoint.rpartition(":")[2])
