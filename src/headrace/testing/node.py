"""A whole node as its own processes, for tests: started on a free loopback port, stopped by its pid."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from headrace.base.clock import steady
from headrace.base.errors import Unavailable

if TYPE_CHECKING:
    import psutil

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 40.0
KEY = "headracetest"
"""Access key and secret of nodes started here unless told otherwise; they listen on loopback and live for a test."""
DOMAIN = "localhost"
"""The host under which BUCKET.localhost is a bucket; 127.0.0.1 always means path style."""
_PAUSE_SECONDS = 0.05
_LOG_BYTES_SHOWN = 4000


def headrace_command() -> str:
    """Path of the `headrace` command, beside this Python or on the PATH. Raises Unavailable."""
    beside = Path(sys.executable).parent / "headrace"
    found = str(beside) if beside.exists() else shutil.which("headrace")
    if found is None:
        raise Unavailable("the headrace command is neither beside this Python nor on the PATH")
    return found


def _with_parent() -> list[str]:
    """What asks a node to stop when the thread that started it is gone, however it went; nothing where absent."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


class Node:
    """`headrace up` with a data directory under `folder`; a context manager that starts and stops it.

    `origins` are bindings (bucket name to origin URL) and `arguments` more flags of `headrace up`. The first start
    picks a free port, later ones keep it, so that clients outlive a restart. All starts append to `folder/log`.
    Start it from a thread that outlives it: it also stops when that thread ends.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        origins: Mapping[str, str] | None = None,
        workers: int = 1,
        access_key: str = KEY,
        secret_key: str = KEY,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.access_key = access_key
        self.secret_key = secret_key
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = environment
        self._flags = (
            *("--data", str(self.data), "--workers", str(workers), "--domain", DOMAIN),
            *("--access-key", access_key, "--secret-key", secret_key),
            *(flag for name, url in (origins or {}).items() for flag in ("--origin", f"{name}={url}")),
            *arguments,
        )
        self._scheme = "https" if "--tls-cert" in arguments else "http"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    # -- where it is

    @property
    def endpoint(self) -> str:
        """The URL for path-style clients."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def domain_endpoint(self) -> str:
        """The URL under whose host every bucket has a host of its own, for virtual-hosted clients."""
        return f"{self._scheme}://{DOMAIN}:{self.port}"

    def log(self) -> str:
        """What the node has written to its standard output and error so far."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def client(self, *, addressing: str = "path", verify: str | bool = True, **config: Any) -> Any:
        """A boto3 S3 client of this node: Signature V4, `addressing` path or virtual, few retries."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint if addressing == "path" else self.domain_endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            verify=verify,
            config=Config(
                **{
                    "signature_version": "s3v4",
                    "s3": {"addressing_style": addressing},
                    "retries": {"total_max_attempts": 2, "mode": "standard"},
                    **config,
                }
            ),
        )

    # -- life

    def start(self) -> None:
        """Start it and wait until it serves. Raises Unavailable with the end of its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        begin = len(self.log())
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*_with_parent(), headrace_command(), "up", "--port", str(self.port), *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        try:
            self._await_ready(begin)
        except BaseException:
            self.stop()
            raise

    def _await_ready(self, begin: int) -> None:
        """Read the endpoint from the log, then ask for its health until it is good."""
        process = self._running()
        ends = steady() + START_SECONDS_MAX
        while steady() < ends:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(_PAUSE_SECONDS)
                raise Unavailable(f"the node ended with {status}: {self.log()[-_LOG_BYTES_SHOWN:]}")
            found = re.search(r"serves S3 at https?://[^\s]+:(\d+)", self.log()[begin:])
            if found:
                self.port = int(found.group(1))
                if self._scheme == "https" or self._healthy():
                    return
        raise Unavailable(f"the node was not ready in {START_SECONDS_MAX:g} s: {self.log()[-_LOG_BYTES_SHOWN:]}")

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/_headrace/health", timeout=5) as answer:  # noqa: S310 - ours
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> int:
        """Ask it to finish (SIGTERM) and wait; its exit status, negative when it had to be killed."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def restart(self) -> None:
        """Stop it in order and start it on the same data and port."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL the supervisor; the kernel ends its children with it. `start` brings the node back."""
        children, process = self._children(), self._running()
        self.process = None
        process.kill()
        process.wait()
        import psutil

        psutil.wait_procs(children, STOP_SECONDS_MAX)

    def kill_worker(self) -> int:
        """SIGKILL one gateway worker; its pid. The supervisor starts another."""
        return self._kill_child("headrace.serve.worker")

    def kill_agent(self) -> int:
        """SIGKILL the agent; its pid. The supervisor starts another."""
        return self._kill_child("headrace.serve.agent")

    def pids(self, module: str) -> list[int]:
        """The children that run `module` (headrace.serve.worker, headrace.serve.agent)."""
        return [child.pid for child in self._children() if module in _command_line(child)]

    def _kill_child(self, module: str) -> int:
        import psutil

        for child in self._children():
            if module in _command_line(child):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
                    return int(child.pid)
        raise Unavailable(f"no {module} runs under pid {self._running().pid}")

    def _children(self) -> Iterable[psutil.Process]:
        import psutil

        return list(psutil.Process(self._running().pid).children())

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise Unavailable("the node was not started")
        return self.process


def _command_line(process: psutil.Process) -> list[str]:
    """Its arguments; none when it ended meanwhile."""
    import psutil

    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []
