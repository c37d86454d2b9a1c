"""A real node, started by its command and stopped by its pid, for tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from headrace.base.clock import pause, steady

START_SECONDS = 90.0
ACCESS_KEY, SECRET_KEY = "root-key", "root-secret"
COMMAND = [sys.executable, "-c", "from headrace.cli import main; main()"]


def environment(**extra):
    """A child's environment without the caller's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "AWS_"))}
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true", **extra}


def command(*arguments, data=None, check=True, **extra):
    """Run `headrace ARGUMENTS` to its end."""
    whole = [*COMMAND, *arguments, *(("--data", str(data)) if data else ())]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=60, env=environment(**extra), check=False)
    if check:
        assert done.returncode == 0, done.stderr
    return done


class Node:
    """`headrace up` on a directory; use as a context manager."""

    def __init__(self, data: Path, *flags: str, keys: bool = True, **extra: str) -> None:
        self.data = data
        given = ("--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY) if keys else ()
        self._command = [*COMMAND, "up", "--data", str(data), "--port", "0", "--workers", "1", *given, *flags]
        self._extra = extra
        self.endpoint = ""
        self.printed = ""

    def __enter__(self) -> Self:
        self.log = self.data.with_name(self.data.name + ".log")
        self._log = self.log.open("ab")
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment(**self._extra)
        )
        deadline = steady() + START_SECONDS
        while not self.printed.endswith("checks this machine.\n"):
            line = self.process.stdout.readline()
            assert line, self.log.read_text()
            assert steady() < deadline
            self.printed += line
        self.endpoint = re.search(r"AWS_ENDPOINT_URL=(\S+)", self.printed)[1]
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        self.process.stdout.close()
        self._log.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask the node to stop; its exit status."""
        self.process.send_signal(number)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def children(self) -> dict[str, int]:
        """Child name -> pid."""
        found = {}
        for directory in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (directory / "cmdline").read_bytes().split(b"\0")
                if str(self.process.pid).encode() in words and b"--name" in words:
                    found[words[words.index(b"--name") + 1].decode()] = int(directory.name)
        return found

    def client(self, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY):
        """A boto3 client that does not retry."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(
                signature_version="s3v4", retries={"total_max_attempts": 1}, connect_timeout=20, read_timeout=30
            ),
        )

    def get(self, path: str, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY) -> tuple[int, bytes]:
        """Status and body of a GET, signed unless `access_key` is empty."""
        headers = {}
        if access_key:
            request = AWSRequest("GET", self.endpoint + path)
            S3SigV4Auth(Credentials(access_key, secret_key), "s3", "us-east-1").add_auth(request)
            headers = dict(request.headers)
        try:
            asked = urllib.request.Request(self.endpoint + path, headers=headers)
            with urllib.request.urlopen(asked, timeout=30) as got:
                return got.status, got.read()
        except urllib.error.HTTPError as problem:
            with problem:
                return problem.code, problem.read()

    def events(self) -> list[dict[str, object]]:
        """What the node logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


def wait_until(holds, seconds=30.0):
    """Wait until `holds()`; fails after a generous while."""
    deadline = steady() + seconds
    while not (found := holds()):
        assert steady() < deadline
        pause(0.05)
    return found
