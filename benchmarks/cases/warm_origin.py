"""Warm signed GETs of objects whose store of record is another S3 server."""

from __future__ import annotations

from typing import Any

from cases import common
from cases.warm import COST, RATE, SPEED, measure
from harness.bench import Bench, Outcome
from harness.rounds import ratio


def warm_origin(bench: Bench) -> Outcome:
    """Warm GETs with an s3:// origin behind, under `immutable` and under `validate` (a HEAD each)."""
    outcome = Outcome("Warm signed GET in front of an S3 origin (SeaweedFS on this machine)")
    origin = common.seaweedfs(bench)
    url = common.origin_url(origin.port)
    bindings = {"fixed": (url, "immutable"), "checked": (url, "validate")}

    def make(folder: Any) -> common.CachingHeadrace:
        return common.CachingHeadrace(folder, realtime=bench.realtime, bindings=bindings)

    node = bench.serve("headrace-s3", make, ())
    servers = {"immutable": node, "validate": node, "nginx": common.nginx(bench), "origin alone": origin}
    buckets = {"immutable": "fixed", "validate": "checked"}
    for group in bench.groups:
        bench.verify(node, group, "fixed")
        bench.verify(node, group, "checked")
        figures = outcome.figures[group.name] = measure(bench, servers, group, buckets=buckets)
        name, least = (SPEED, 0.9) if group.size >= common.SIZES_WITH_BYTES else (RATE, 0.5)
        unit = "bytes/s" if name == SPEED else "requests/s"
        outcome.target(
            f"{group.name} immutable: {unit} over nginx", ratio(figures, "immutable", "nginx", name), least=least
        )
        if name == SPEED:
            cost = ratio(figures, "immutable", "nginx", COST)
            outcome.target(f"{group.name} immutable: CPU s/GB over nginx", cost, most=1.8)
    bench.retire("headrace-s3")
    return outcome
