"""Waiting times and fairness of warm reads under load that the server can carry."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

from cases import common
from harness import data
from harness.bench import Bench, Outcome
from harness.load import Sample
from harness.rounds import alternate, calm


def tail(bench: Bench) -> Outcome:
    """Percentiles of warm 1 MiB GETs at 70 % of the highest rate (open loop)."""
    outcome = Outcome("Latency of warm 1 MiB GETs at 70 % load")
    group = common.group_of(bench, data.MIB)
    servers = {"headrace": common.headrace(bench), "nginx": common.nginx(bench)}
    for name, server in servers.items():
        bench.verify(server, group)
        file = bench.gets(server, group)
        highest = median(
            calm(partial(bench.fire, server, file, connections=group.connections)).requests_per_second
            for _ in range(bench.rounds)
        )
        run = partial(_open_loop, bench, server, group, 0.7 * highest)
        figures = alternate({name: run}, bench.rounds)[name]
        outcome.figures[name] = {"highest_requests_per_second": round(highest, 1), **figures}
    whole = outcome.figures["headrace"]["whole_seconds"]
    outcome.target("warm 1 MiB at 70 % load: p99 over p50", whole["p99"] / whole["p50"], most=4)
    outcome.configuration["arrivals"] = "Poisson; latency counts from the moment a request was due"
    return outcome


def _open_loop(bench: Bench, server: Any, group: data.Group, rate: float) -> Sample:
    file = bench.gets(server, group)
    return bench.fire(server, file, connections=32, rate=rate, seconds=max(1.0, bench.seconds))


def fairness(bench: Bench) -> Outcome:
    """How evenly 8 connections share one worker."""
    outcome = Outcome("Fairness: bytes of the slowest of 8 connections over the mean")
    servers = {"headrace": common.headrace(bench), "nginx": common.nginx(bench)}
    for group in bench.groups:
        outcome.figures[group.name] = {}
        for name, server in servers.items():
            bench.verify(server, group)
            shares = []
            for _ in range(bench.rounds):
                file = bench.gets(server, group)
                run = partial(bench.fire, server, file, connections=8, seconds=max(1.0, bench.seconds))
                moved = calm(run).load["connection_bytes"]
                shares.append(min(moved) / (sum(moved) / len(moved)))
            outcome.figures[group.name][name] = {
                "slowest_over_mean": round(median(shares), 4),
                "spread": [round(min(shares), 4), round(max(shares), 4)],
            }
        ours = outcome.figures[group.name]["headrace"]["slowest_over_mean"]
        outcome.target(f"{group.name}: slowest of 8 connections over the mean", ours, least=0.7)
    return outcome
