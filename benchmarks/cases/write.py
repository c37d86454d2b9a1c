"""PUT, against plain Python that makes the same bytes durable."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

from cases import common
from harness import data, machine
from harness.bench import Bench, Outcome
from harness.load import Sample
from harness.rounds import calm
from harness.servers import Server
from harness.signing import Signer, Wanted

SIZES = {4 * data.KIB: 200, data.MIB: 100, 16 * data.MIB: 12}


def put(bench: Bench) -> Outcome:
    """PUT over one connection against plain Python: MD5, write, fsync of file and folder, SQLite commit."""
    outcome = Outcome("PUT over one connection")
    server = common.headrace(bench)
    for size, full in SIZES.items():
        count = max(4, full // 5) if bench.quick else full
        ours, plain = [], []
        for number in range(bench.rounds):
            ours.append(calm(partial(_puts, bench, server, size, count, number)).requests_per_second)
            plain.append(_plain_python(bench, size, count, number))
        figure = median(ours) / median(plain)
        outcome.figures[data.NAMES[size]] = {
            "headrace": {"requests_per_second": round(median(ours), 1), "spread": [min(ours), max(ours)]},
            "plain python": {"requests_per_second": round(median(plain), 1), "spread": [min(plain), max(plain)]},
        }
        outcome.target(f"PUT {data.NAMES[size]}: requests/s over plain Python", figure, least=0.8)
    return outcome


def _puts(bench: Bench, server: Server, size: int, count: int, number: int) -> Sample:
    signer = Signer(server.port)
    wanted = []
    for index in range(count):
        key = f"put/{size}/{number}/{index:05d}"
        wanted.append(Wanted(signer.put(data.BUCKET, key, data.content(key, size)), 0))
    file = bench.load.write(wanted)
    try:
        return bench.fire(server, file, connections=1, count=count, seconds=120)
    finally:
        file.unlink()


def _plain_python(bench: Bench, size: int, count: int, number: int) -> float:
    """Objects per second of the program below, on the server's core."""
    folder = common.fresh(bench, f"plain/{size}-{number}")
    command = [sys.executable, __file__, str(folder), str(size), str(count)]
    prefix = machine.pinned(machine.SERVER_CORE, bench.realtime)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run([*prefix, *command], check=True, capture_output=True, text=True, env=environment)
    return float(json.loads(done.stdout))


def store_plainly(folder: Path, bodies: list[bytes]) -> float:
    """Store the bodies as carefully as an object store must; returns objects per second."""
    catalogue = sqlite3.connect(folder / "catalogue.db", isolation_level=None)
    catalogue.execute("PRAGMA journal_mode = WAL")
    catalogue.execute("PRAGMA synchronous = FULL")
    catalogue.execute("CREATE TABLE objects (key TEXT PRIMARY KEY, etag TEXT, size INTEGER, path TEXT)")
    directory = os.open(folder, os.O_RDONLY)
    start = time.monotonic()
    for number, body in enumerate(bodies):
        path = folder / f"{number:05d}.body"
        with path.open("wb") as file:
            etag = hashlib.md5(body).hexdigest()
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.fsync(directory)
        catalogue.execute("INSERT INTO objects VALUES (?, ?, ?, ?)", (path.name, etag, len(body), str(path)))
    seconds = time.monotonic() - start
    os.close(directory)
    catalogue.close()
    return len(bodies) / seconds


if __name__ == "__main__":
    made = [data.content(f"plain/{number}", int(sys.argv[2])) for number in range(int(sys.argv[3]))]
    print(store_plainly(Path(sys.argv[1]), made))
