"""Memory under many connections, and what a second worker costs or brings."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from cases import common
from harness import data, machine
from harness.bench import Bench, Outcome
from harness.rounds import alternate, ratio
from harness.servers import Headrace, Server


def memory(bench: Bench) -> Outcome:
    """Private memory per process with 1,000 connections that read the largest objects."""
    outcome = Outcome("Private memory with 1,000 connections")
    group = bench.groups[-1]
    connections = 200 if bench.quick else 1000
    for name, server in (("headrace", common.headrace(bench)), ("nginx", common.nginx(bench))):
        bench.verify(server, group)
        before = _private(server)
        other = bench.load.start(server.port, bench.gets(server, group), connections=connections, seconds=6)
        highest: dict[int, int] = {}
        while other.poll() is None:
            for process_id, size in _private(server).items():
                highest[process_id] = max(size, highest.get(process_id, 0))
            time.sleep(0.25)
        load = json.loads(other.communicate()[0])
        if load["errors"]:
            raise RuntimeError(f"{name}: {load['errors']} wrong answers, first: {load['error']}")
        served = sum(1 for moved in load["connection_bytes"] if moved)
        outcome.figures[name] = {
            "idle_megabytes": [round(size / 1e6, 1) for size in before.values()],
            "highest_megabytes": [round(size / 1e6, 1) for size in highest.values()],
            "connections_served": served,
            "gigabytes_per_second": round(load["bytes"] / load["seconds"] / 1e9, 3),
        }
    largest = max(outcome.figures["headrace"]["highest_megabytes"])
    outcome.target(f"private MB of the largest process, {connections} connections", largest, most=150)
    outcome.configuration |= {"connections": connections, "object": group.name}
    return outcome


def _private(server: Server) -> dict[int, int]:
    found = {}
    for process_id in server.process_ids():
        try:
            found[process_id] = machine.private_bytes(process_id)
        except OSError:
            continue
    return found


class Unpinned(Headrace):
    """A node that may use every core."""

    def command(self) -> list[str]:
        """Undo the pinning of the prefix."""
        return ["taskset", "-c", f"0-{(os.cpu_count() or 1) - 1}", *super().command()]


def two_workers(bench: Bench) -> Outcome:
    """Two workers pinned to one core against one; on 4 cores and more, what each further worker brings."""
    outcome = Outcome("Two workers on one core, and scaling")
    groups = tuple(group for group in bench.groups if group.size in {4 * data.KIB, data.MIB})

    def make(count: int, kind: type[Headrace], folder: Path) -> Server:
        return kind(folder, realtime=bench.realtime, workers=count)

    servers: dict[str, Server] = {"one": common.headrace(bench)}
    servers["two"] = bench.serve("headrace-two", partial(make, 2, Headrace), groups)
    cores = os.cpu_count() or 1
    if cores >= 4:
        for count in (1, 2, cores - 2):
            servers[f"{count} unpinned"] = bench.serve(
                f"headrace-unpinned-{count}", partial(make, count, Unpinned), groups
            )
    for group in groups:
        for server in servers.values():
            bench.verify(server, group)

        def once(server: Server, group: data.Group) -> Any:
            return bench.fire(server, bench.gets(server, group), connections=max(16, group.connections))

        runs = {name: partial(once, server, group) for name, server in servers.items()}
        figures = outcome.figures[group.name] = alternate(runs, bench.rounds)
        figure = ratio(figures, "two", "one", "requests_per_second")
        outcome.target(f"{group.name}: two workers on one core over one", figure, least=0.9)
    for name in [name for name in servers if name != "one"]:
        bench.retire("headrace-two" if name == "two" else f"headrace-unpinned-{name.split()[0]}")
    outcome.configuration["cores"] = cores
    return outcome
