"""The load generator: compiled here once, told what to send, and watched while it runs."""

from __future__ import annotations

import json
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness import machine
from harness.signing import Wanted

SOURCE = Path(__file__).resolve().parents[1] / "load"
_RECORD = struct.Struct("<QQII")
ANY_LENGTH = 2**64 - 1


class Sample(NamedTuple):
    """One run of the load generator against one server."""

    load: dict[str, Any]
    server_seconds: float
    stolen: float

    @property
    def requests_per_second(self) -> float:
        """Whole answers per second."""
        return float(self.load["requests"] / self.load["seconds"])

    @property
    def bytes_per_second(self) -> float:
        """Body bytes per second, of unfinished answers too."""
        return float(self.load["bytes"] / self.load["seconds"])


class BadAnswers(RuntimeError):
    """A server answered wrongly; a figure made of wrong answers is worth nothing."""


class LoadGenerator:
    """Compiles loadgen.c into `folder` and runs it."""

    def __init__(self, folder: Path, *, realtime: bool) -> None:
        self.folder = folder
        self.realtime = realtime
        self.tls = False
        self.program = folder / "loadgen"
        self._compile()

    def _compile(self) -> None:
        """Build with TLS where OpenSSL's headers are, without it elsewhere."""
        base = ["cc", "-O2", "-std=gnu11", "-o", str(self.program), str(SOURCE / "loadgen.c"), "-lm"]
        secure = subprocess.run([*base, "-DWITH_TLS", "-lssl", "-lcrypto"], check=False, capture_output=True)
        self.tls = secure.returncode == 0
        if not self.tls:
            subprocess.run(base, check=True)

    def write(self, wanted: Sequence[Wanted]) -> Path:
        """The request file for these requests, in this order."""
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix="requests-", delete=False) as file:
            file.write(struct.pack("<Q", len(wanted)))
            for one in wanted:
                file.write(_RECORD.pack(len(one.bytes), one.length, one.status, one.crc))
                file.write(one.bytes)
        return Path(file.name)

    def command(self, port: int, file: Path, **options: float | bool) -> list[str]:
        """The command line of one run; options as loadgen.c names them."""
        arguments = ["--port", str(port), "--requests", str(file)]
        for name, value in options.items():
            if value is True:
                arguments.append(f"--{name}")
            elif value is not False:
                arguments += [f"--{name}", str(value)]
        return [*machine.pinned(machine.CLIENT_CORE, self.realtime), str(self.program), *arguments]

    def start(self, port: int, file: Path, **options: float | bool) -> subprocess.Popen[bytes]:
        """Start a run in the background, to load a server while another run measures; it gives way to that one."""
        command = self.command(port, file, **options)
        if self.realtime:
            command = command[command.index(str(self.program)) :]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    def run(self, port: int, file: Path, process_ids: Sequence[int], **options: float | bool) -> Sample:
        """One run. Raises BadAnswers when any answer was wrong."""
        stolen_before, all_before = machine.processor_times()
        before = machine.processor_seconds(process_ids)
        limit = float(options.get("seconds", 1)) + 60
        done = subprocess.run(
            self.command(port, file, **options), check=False, capture_output=True, text=True, timeout=limit
        )
        after = machine.processor_seconds(process_ids)
        stolen_after, all_after = machine.processor_times()
        if done.returncode == 2 or not done.stdout:
            raise BadAnswers(done.stderr.strip() or f"the load generator ended with {done.returncode}")
        load = json.loads(done.stdout)
        if load["errors"]:
            raise BadAnswers(f"port {port}: {load['errors']} wrong answers, first: {load['error']}")
        stolen = (stolen_after - stolen_before) / max(1, all_after - all_before)
        return Sample(load, after - before, stolen)
