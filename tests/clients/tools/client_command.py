"""Run a client that is a program, the way a shell would, with nothing of the caller's own configuration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

SECONDS_MAX = 120
KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR")


class Command:
    """A program with its global options, environment and a home directory of its own."""

    def __init__(self, home: Path, *command: str, **environment: str) -> None:
        self.home = home
        self._command = command
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        self._environment = {**kept, "LC_ALL": "C.UTF-8", "HOME": str(home), **environment}

    def __call__(self, *arguments: str, data: bytes | None = None) -> bytes:
        """Run it to its end; its output. Raises AssertionError with its error output when it fails."""
        done = subprocess.run(
            [*self._command, *arguments],
            input=b"" if data is None else data,
            capture_output=True,
            timeout=SECONDS_MAX,
            cwd=self.home,
            env=self._environment,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.returncode} {done.stderr.decode(errors='replace')[-2000:]}"
        return done.stdout

    def file(self, data: bytes) -> str:
        """A file with the data, for programs that take no standard input."""
        path = self.home / "upload"
        path.write_bytes(data)
        return str(path)


def aws_environment(place: Any) -> dict[str, str]:
    """The variables that AWS's SDKs read."""
    return {
        "AWS_ACCESS_KEY_ID": place.access_key,
        "AWS_SECRET_ACCESS_KEY": place.secret_key,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
