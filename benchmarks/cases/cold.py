"""Reads from the device: nothing of the objects is in the page cache."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from cases import common
from harness import data, machine
from harness.bench import Bench, Outcome
from harness.load import Sample
from harness.rounds import calm

DEPTH = 8


def cold_device(bench: Bench) -> Outcome:
    """Cold 4 MiB objects, 8 at a time, against fio reading files at the same size and depth."""
    outcome = Outcome("Cold GET from the device")
    group = data.Group(4 * data.MIB, 16 if bench.quick else 96, DEPTH)
    server = common.headrace(bench)
    data.upload(server.port, (group,))
    files = common.fresh(bench, "fio")
    speeds: dict[str, list[float]] = {"headrace": [], "fio direct": [], "fio cached": []}
    taken: list[Sample] = []
    for _ in range(bench.rounds):
        taken.append(calm(partial(_read_all_cold, bench, server, group)))
        speeds["headrace"].append(taken[-1].bytes_per_second)
        speeds["fio direct"].append(fio(files, group, direct=True))
        speeds["fio cached"].append(fio(files, group, direct=False))
    outcome.figures = {
        name: {
            "gigabytes_per_second": round(median(figures) / 1e9, 4),
            "gigabytes_per_second_spread": [round(min(figures) / 1e9, 4), round(max(figures) / 1e9, 4)],
        }
        for name, figures in speeds.items()
    }
    outcome.figures["headrace"]["whole_seconds_p99"] = median(one.load["whole_seconds"]["p99"] for one in taken)
    best = max(median(speeds["fio direct"]), median(speeds["fio cached"]))
    outcome.target("cold from device: bytes/s over fio's better mode", median(speeds["headrace"]) / best, least=0.8)
    outcome.configuration |= {"object": group.name, "objects": group.count, "depth": DEPTH}
    return outcome


def _read_all_cold(bench: Bench, server: Any, group: data.Group) -> Sample:
    """Every object once, after the server's files were dropped from the page cache."""
    machine.forget(server.folder)
    file = bench.gets(server, group)
    return bench.fire(server, file, connections=DEPTH, count=group.count, seconds=120)


def fio(folder: Path, group: data.Group, *, direct: bool) -> float:
    """Bytes per second of random reads over one file as large as the whole group."""
    size = group.size * group.count
    name = folder / "fio.bin"
    if not name.exists():
        data.write_files(folder, (group,), "objects")
        with name.open("wb") as target:
            for path in sorted((folder / "objects").rglob("*.bin")):
                target.write(path.read_bytes())
                path.unlink()
    machine.forget(folder)
    engine = ["--ioengine=libaio", "--direct=1", f"--iodepth={DEPTH}"]
    if not direct:
        engine = ["--ioengine=psync", "--direct=0", f"--numjobs={DEPTH}", f"--io_size={size // DEPTH}"]
    done = subprocess.run(
        [
            *("fio", "--name=cold", f"--filename={name}", f"--size={size}", "--rw=randread", f"--bs={group.size}"),
            *("--output-format=json", "--group_reporting", "--randseed=5", "--invalidate=1", *engine),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(json.loads(done.stdout)["jobs"][0]["read"]["bw_bytes"])


def beside_cold(bench: Bench) -> Outcome:
    """Waiting times of warm 64 KiB readers while other connections read cold objects."""
    outcome = Outcome("Warm readers beside cold ones")
    server = common.headrace(bench)
    warm = common.group_of(bench, 64 * data.KIB)
    cold = data.Group(4 * data.MIB, 64 if bench.quick else 256, DEPTH)
    seconds = 0.3 if bench.quick else 0.8  # shorter than the cold objects last: each is read once
    data.upload(server.port, (cold,))
    bench.verify(server, warm)
    highest = bench.fire(server, bench.gets(server, warm), connections=warm.connections).requests_per_second
    rate = 0.3 * highest
    tails: dict[str, list[float]] = {"alone": [], "beside cold": []}
    moved = []
    for _ in range(bench.rounds):
        file = bench.gets(server, warm)
        run = partial(bench.fire, server, file, connections=warm.connections, rate=rate, seconds=seconds)
        tails["alone"].append(calm(run).load["whole_seconds"]["p99"])
        machine.forget(server.folder)
        bench.verify(server, warm)
        other = bench.load.start(server.port, bench.gets(server, cold), connections=DEPTH, count=cold.count, seconds=60)
        try:
            tails["beside cold"].append(run().load["whole_seconds"]["p99"])
        finally:
            output, _ = other.communicate(timeout=60)
        moved.append(json.loads(output)["seconds"])
    outcome.figures = {name: {"p99_seconds": median(figures), "all": figures} for name, figures in tails.items()}
    outcome.figures["beside cold"]["cold_seconds"] = median(moved)
    figure = median(tails["beside cold"]) / median(tails["alone"])
    outcome.target("warm p99 beside cold readers over alone", figure, most=1.5)
    outcome.configuration |= {"warm_requests_per_second": round(rate), "warm": warm.name, "cold": cold.name}
    return outcome
