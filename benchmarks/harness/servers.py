"""The contestants, each started from its public package in a folder of its own on free ports."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from harness import data, machine
from harness.signing import ACCESS_KEY, REGION, SECRET_KEY, client

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
BIN = Path(sys.executable).parent


def free_ports(count: int = 1) -> list[int]:
    """Ports nobody listens on now, low enough that port + 10000 exists (SeaweedFS wants that)."""
    found: list[int] = []
    for port in range(21000 + os.getpid() % 5000, 45000):
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


def wait_until(ready: Callable[[], bool], what: str, seconds: float = START_SECONDS_MAX) -> None:
    """Poll until `ready`; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            if ready():
                return
        time.sleep(0.1)
    raise TimeoutError(f"{what} did not happen within {seconds:.0f} seconds")


class Server:
    """One contestant. Subclasses say how it is started and how it holds the data."""

    name = "server"
    core = machine.SERVER_CORE

    def __init__(self, folder: Path, *, realtime: bool) -> None:
        self.folder = folder
        self.realtime = realtime
        self.port = free_ports()[0]
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        """The command line without pinning."""
        raise NotImplementedError(self.name)

    def environment(self) -> dict[str, str]:
        """Variables on top of this process's own."""
        return {}

    def ready(self) -> bool:
        """Does it answer a signed request?"""
        client(self.port).list_buckets()
        return True

    def start(self) -> None:
        """Start it on its core and wait until it answers."""
        with self._log() as log:
            self.process = subprocess.Popen(
                [*machine.pinned(self.core, self.realtime), *self.command()],
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(self._alive_and_ready, f"start of {self.name}")
        except TimeoutError:
            self.stop()
            tail = (self.folder / "log.txt").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.name} did not start: {tail}") from None

    def _alive_and_ready(self) -> bool:
        return self.process is not None and (self.process.poll() is not None or self.ready()) and not self._ended()

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def _log(self) -> IO[bytes]:
        return (self.folder / "log.txt").open("ab")

    def process_ids(self) -> list[int]:
        """The server and its children."""
        return machine.tree(self.process.pid) if self.process else []

    def stop(self) -> None:
        """End it, politely first."""
        if self.process is None:
            return
        members = machine.tree(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            for process_id in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process_id, signal.SIGKILL)
            self.process.wait(5)
        self.process = None

    def fill(self, groups: tuple[data.Group, ...]) -> None:
        """Store the objects; the server runs."""
        data.upload(self.port, groups)


class Nginx(Server):
    """Static files by sendfile, one worker; it gets the same signed bytes and checks nothing."""

    name = "nginx"

    def __init__(self, folder: Path, *, realtime: bool, certificate: tuple[Path, Path] | None = None) -> None:
        super().__init__(folder, realtime=realtime)
        self.certificate = certificate
        (folder / "files").mkdir(exist_ok=True)

    def command(self) -> list[str]:
        """nginx in the foreground with the configuration below."""
        listen = f"listen 127.0.0.1:{self.port}"
        if self.certificate:
            listen += (
                f" ssl;\n    ssl_certificate {self.certificate[0]};\n    ssl_certificate_key {self.certificate[1]}"
            )
        user = "user root;\n" if os.getuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(
            f"""{user}worker_processes 1;
daemon off;
pid {self.folder}/nginx.pid;
error_log {self.folder}/error.txt;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush off;
  tcp_nodelay on;
  aio off;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  open_file_cache max=20000 inactive=600s;
  open_file_cache_valid 600s;
  client_body_temp_path {self.folder}/body;
  proxy_temp_path {self.folder}/proxy;
  fastcgi_temp_path {self.folder}/fastcgi;
  uwsgi_temp_path {self.folder}/uwsgi;
  scgi_temp_path {self.folder}/scgi;
  server {{
    {listen};
    root {self.folder}/files;
  }}
}}
"""
        )
        return [shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(self.folder), "-c", f"{self.folder}/nginx.conf"]

    def ready(self) -> bool:
        """Does it listen?"""
        with socket.create_connection(("127.0.0.1", self.port), 1):
            return True

    def fill(self, groups: tuple[data.Group, ...]) -> None:
        """Write plain files."""
        data.write_files(self.folder / "files", groups)


class SeaweedFS(Server):
    """`weed server -s3` with one identity: master, volume, filer and gateway in one process."""

    name = "seaweedfs"

    def command(self) -> list[str]:
        """The all-in-one server."""
        master, volume, filer, self.port = free_ports(4)
        (self.folder / "identities.json").write_text(
            '{"identities": [{"name": "bench", "credentials": '
            f'[{{"accessKey": "{ACCESS_KEY}", "secretKey": "{SECRET_KEY}"}}], '
            '"actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}'
        )
        return [
            str(BIN / "weed"),
            *("-logtostderr=false", f"-logdir={self.folder}"),
            "server",
            *("-s3", "-ip=127.0.0.1", f"-dir={self.folder}", f"-master.port={master}", f"-volume.port={volume}"),
            *(f"-filer.port={filer}", f"-s3.port={self.port}", f"-s3.config={self.folder}/identities.json"),
            *(
                "-master.volumeSizeLimitMB=1024",
                "-volume.max=100",
                "-master.telemetry=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
            ),
        ]

    def ready(self) -> bool:
        """Can it store? Its gateway answers before its volumes do."""
        s3 = client(self.port)
        data.make_bucket(s3, "ready")
        s3.put_object(Bucket="ready", Key="yes", Body=b"yes")
        return True


class JuiceFS(Server):
    """The JuiceFS gateway over SQLite and a folder."""

    name = "juicefs"

    def environment(self) -> dict[str, str]:
        """The gateway takes its key from here."""
        return {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY, "MINIO_REGION_NAME": REGION}

    def command(self) -> list[str]:
        """Format once, then the gateway."""
        meta = f"sqlite3://{self.folder}/meta.db"
        program = str(BIN / "juicefs")
        formatting = [program, "format", "--storage", "file", "--bucket", f"{self.folder}/blocks", meta, "bench"]
        with self._log() as log:
            subprocess.run(formatting, check=True, stdout=log, stderr=log)
        return [
            *(program, "gateway", "--no-banner", "--multi-buckets", "--no-usage-report", "--cache-dir"),
            *(f"{self.folder}/cache", "--log", f"{self.folder}/gateway.txt", meta, f"127.0.0.1:{self.port}"),
        ]


class Headrace(Server):
    """A headrace node over its embedded store."""

    name = "headrace"

    def __init__(self, folder: Path, *, realtime: bool, workers: int = 1, arguments: tuple[str, ...] = ()) -> None:
        super().__init__(folder, realtime=realtime)
        self.workers = workers
        self.arguments = arguments

    def command(self) -> list[str]:
        """`headrace up` as a user types it."""
        return [
            *(str(BIN / "headrace"), "up", "--data", f"{self.folder}/data", "--port", str(self.port)),
            *("--workers", str(self.workers), "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY),
            *self.arguments,
        ]


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate and key for 127.0.0.1, for the TLS figures."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    if not certificate.exists():
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-days", "30", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", str(key), "-out", str(certificate)),
            ],
            check=True,
            capture_output=True,
        )
    return certificate, key
