"""What a miss costs: cold reads through a node against the same reads of its origin alone."""

from __future__ import annotations

import re
import time
import urllib.request
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from cases import common
from harness import data, machine
from harness.bench import Bench, Outcome
from harness.line import slow_line
from harness.load import Sample
from harness.rounds import calm
from harness.servers import Headrace, Server

FAR_SECONDS = 0.010
LIMITED_BYTES = 100e6
OBJECTS = {4 * data.KIB: 40, 4 * data.MIB: 10, 64 * data.MIB: 2}
"""How many fresh objects of each size one round reads, one after another."""


class FarNode(Headrace):
    """A node with the embedded store that plays the origin, on the client's core."""

    core = machine.CLIENT_CORE

    def read_bytes(self) -> float:
        """Object bytes it has sent so far (folded once a second)."""
        time.sleep(1.5)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_headrace/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return sum(
            float(value) for value in re.findall(r"^headrace_read_bytes_total\{[^}]*\} (\S+)$", text, re.MULTILINE)
        )


def far_node(bench: Bench) -> FarNode:
    """The origin, filled with fresh objects for every size and round."""

    def make(folder: Path) -> Server:
        return FarNode(folder, realtime=bench.realtime, arguments=("--open-metrics",))

    groups = tuple(data.Group(size, count * bench.rounds, 1) for size, count in OBJECTS.items())
    server = bench.serve("far", make, groups)
    assert isinstance(server, FarNode)
    return server


def miss(bench: Bench) -> Outcome:
    """Cold GETs from an origin 10 ms away, and from one limited to 100 MB/s, against the origin alone."""
    outcome = Outcome("What a miss costs: cold reads through a node over the origin alone")
    far = far_node(bench)
    lines = {
        "10 ms": {"delay_seconds": FAR_SECONDS},
        "10 ms, 100 MB/s": {"delay_seconds": FAR_SECONDS, "rate_bytes": LIMITED_BYTES},
    }
    for name, faults in lines.items():
        log = common.fresh(bench, "lines") / f"{name.replace(' ', '-').replace('/', '')}.txt"
        with slow_line(far.port, log, realtime=bench.realtime, **faults) as line:
            node = _node(bench, line)
            try:
                _measure(bench, outcome, name, node, line)
                if name == "10 ms":
                    outcome.figures["4KiB, 10 ms, 32 at a time"] = _many(bench, far, node, line)
            finally:
                bench.retire("near")
    outcome.configuration |= {"origin": "a headrace node with the embedded store behind the fault proxy", "depth": 1}
    return outcome


def _node(bench: Bench, line: int) -> Server:
    bindings = {"far": (common.origin_url(line), "validate"), "many": (common.origin_url(line, "many"), "validate")}

    def make(folder: Path) -> Server:
        return common.CachingHeadrace(folder, realtime=bench.realtime, bindings=bindings)

    return bench.serve("near", make, ())


def _measure(bench: Bench, outcome: Outcome, name: str, node: Server, line: int) -> None:
    """Each round reads fresh objects twice: from the origin through the line, then through the node."""
    for size, count in OBJECTS.items():
        if name != "10 ms" and size < data.MIB:
            continue
        group = data.Group(size, count * bench.rounds, 1)
        samples: dict[str, list[Sample]] = {"origin alone": [], "headrace": []}
        for number in range(bench.rounds):
            keys = group.keys[number * count : (number + 1) * count]
            samples["origin alone"].append(calm(partial(_read, bench, node, line, keys, size, data.BUCKET)))
            samples["headrace"].append(_read(bench, node, node.port, keys, size, "far"))
        figures = {
            contestant: {
                kind: round(median(sample.load[f"{kind}_seconds"]["mean"] for sample in taken), 6)
                for kind in ("first_byte", "whole")
            }
            for contestant, taken in samples.items()
        }
        outcome.figures[f"{data.NAMES[size]}, {name}"] = figures
        most = 1.3 if size < data.MIB else 1.05
        for kind in ("first_byte", "whole"):
            figure = figures["headrace"][kind] / figures["origin alone"][kind]
            what = f"cold {data.NAMES[size]}, {name}: {kind.replace('_', ' ')} over the origin alone"
            outcome.target(what, figure, most=most)


def _many(bench: Bench, far: Server, node: Server, line: int) -> dict[str, Any]:
    """Many small cold objects over 32 connections: what an epoch over small files begins with."""
    count = 500 if bench.quick else 3000
    group = data.Group(4 * data.KIB, count, 32)
    data.upload(far.port, (group,), "many")
    figures = {}
    for name, port, bucket in (("origin alone", line, "many"), ("headrace", node.port, "many")):
        file = bench.load.write(data.whole_gets(port, group, bucket))
        sample = bench.load.run(port, file, node.process_ids(), connections=32, count=count, seconds=120)
        figures[name] = {
            "cold_requests_per_second": round(sample.requests_per_second),
            "node_cpu_seconds_per_request": round(sample.server_seconds / count, 6),
        }
    return figures


def _read(bench: Bench, node: Server, port: int, keys: list[str], size: int, bucket: str) -> Sample:
    """Read the keys one after another over one connection."""
    file = bench.load.write(data.gets_of(port, keys, size, bucket))
    try:
        return bench.load.run(port, file, node.process_ids(), connections=1, count=len(keys), seconds=120)
    finally:
        file.unlink()


def join(bench: Bench) -> Outcome:
    """64 clients ask for one cold object at once: how often its bytes were read from the origin."""
    outcome = Outcome("64 clients on one cold object")
    far = far_node(bench)
    log = common.fresh(bench, "lines") / "join.txt"
    with slow_line(far.port, log, delay_seconds=FAR_SECONDS, realtime=bench.realtime) as line:
        node = _node(bench, line)
        try:
            for size in (4 * data.MIB, 64 * data.MIB):
                key = data.Group(size, 1, 1).keys[0]
                file = bench.load.write(data.gets_of(node.port, [key], size, "far", verified=True) * 64)
                before = far.read_bytes()
                sample = bench.fire(node, file, connections=64, count=64, seconds=120, verify=True)
                read = (far.read_bytes() - before) / size
                whole: dict[str, Any] = sample.load["whole_seconds"]
                outcome.figures[data.NAMES[size]] = {"origin_reads": round(read, 3), "whole_seconds_max": whole["max"]}
                outcome.target(f"{data.NAMES[size]}: times the origin was read for 64 clients", round(read, 2), most=1)
        finally:
            bench.retire("near")
    return outcome
