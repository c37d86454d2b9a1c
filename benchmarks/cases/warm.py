"""Warm signed GETs: every byte is in the page cache."""

from __future__ import annotations

from functools import partial
from typing import Any

from cases import common
from harness import data
from harness.bench import Bench, Outcome
from harness.rounds import alternate, ratio
from harness.servers import Headrace, Nginx, Server, self_signed

RATE, SPEED = "requests_per_second", "gigabytes_per_second"
COST = "server_seconds_per_gigabyte"


def warm(bench: Bench) -> Outcome:
    """Signed GETs of warm objects of five sizes, and 4 KiB ranges, against all three neighbours."""
    outcome = Outcome("Warm signed GET, one worker on one core")
    servers = {
        "headrace": common.headrace(bench),
        "nginx": common.nginx(bench),
        "seaweedfs": common.seaweedfs(bench),
        "juicefs": common.juicefs(bench),
    }
    for group in bench.groups:
        for server in servers.values():
            bench.verify(server, group)
        outcome.figures[group.name] = measure(bench, servers, group)
    largest = bench.groups[-1]
    outcome.figures["4KiB range"] = alternate(
        {name: partial(_ranges, bench, server, largest) for name, server in servers.items()}, bench.rounds
    )
    for group in bench.groups:
        if group.size >= common.SIZES_WITH_BYTES:
            uncopied = {name: servers[name] for name in ("headrace", "nginx")}
            outcome.figures[f"{group.name} uncopied"] = measure(bench, uncopied, group, discard=True)
    _targets(outcome, bench.groups)
    outcome.configuration["uncopied"] = "the client drops bytes in the kernel, so the server's core is the limit"
    return outcome


def measure(
    bench: Bench,
    servers: dict[str, Server],
    group: data.Group,
    *,
    buckets: dict[str, str] | None = None,
    secure: bool = False,
    discard: bool = False,
) -> dict[str, Any]:
    """Alternate whole GETs of one group over the servers."""
    buckets = buckets or {}

    def once(name: str) -> Any:
        server = servers[name]
        file = bench.gets(server, group, buckets.get(name, data.BUCKET), secure=secure)
        return bench.fire(server, file, connections=group.connections, tls=secure, discard=discard)

    return alternate({name: partial(once, name) for name in servers}, bench.rounds)


def _ranges(bench: Bench, server: Server, group: data.Group) -> Any:
    file, _ = bench.plan(
        server.port,
        "ranges",
        build=lambda: data.range_gets(server.port, group, 4 * data.KIB, 256 if bench.quick else 1024),
    )
    return bench.fire(server, file, connections=16)


def _targets(outcome: Outcome, groups: tuple[data.Group, ...]) -> None:
    for group in groups:
        figures = outcome.figures[group.name]
        if group.size >= common.SIZES_WITH_BYTES:
            outcome.target(f"{group.name}: bytes/s over nginx", ratio(figures, "headrace", "nginx", SPEED), least=0.9)
            outcome.target(f"{group.name}: CPU s/GB over nginx", ratio(figures, "headrace", "nginx", COST), most=1.8)
            for name in ("seaweedfs", "juicefs"):
                outcome.target(f"{group.name}: bytes/s over {name}", ratio(figures, "headrace", name, SPEED), least=4)
        else:
            outcome.target(f"{group.name}: requests/s over nginx", ratio(figures, "headrace", "nginx", RATE), least=0.5)
    smallest = outcome.figures[groups[0].name]
    for name in ("seaweedfs", "juicefs"):
        figure = ratio(smallest, "headrace", name, RATE)
        outcome.target(f"{groups[0].name}: requests/s over {name}", figure, least=8)


def warm_tls(bench: Bench) -> Outcome:
    """The same over TLS, against nginx with the same certificate."""
    outcome = Outcome("Warm signed GET over TLS")
    if not bench.load.tls:
        outcome.configuration["skipped"] = "the load generator was built without OpenSSL's headers"
        return outcome
    certificate, key = self_signed(bench.folder)
    groups = tuple(group for group in bench.groups if group.size <= 16 * data.MIB)
    arguments = ("--tls-cert", str(certificate), "--tls-key", str(key))

    def make_headrace(folder: Any) -> Server:
        return SecureHeadrace(folder, realtime=bench.realtime, arguments=arguments)

    def make_nginx(folder: Any) -> Server:
        return Nginx(folder, realtime=bench.realtime, certificate=(certificate, key))

    servers = {
        "headrace": bench.serve("headrace-tls", make_headrace, groups),
        "nginx": bench.serve("nginx-tls", make_nginx, groups),
    }
    for group in groups:
        for server in servers.values():
            bench.verify(server, group, secure=True)
        outcome.figures[group.name] = measure(bench, servers, group, secure=True)
    for name in ("headrace-tls", "nginx-tls"):
        bench.retire(name)
    return outcome


class SecureHeadrace(Headrace):
    """A node that speaks TLS only."""

    def ready(self) -> bool:
        """Does it answer a signed request over TLS?"""
        data.client(self.port, secure=True).list_buckets()
        return True

    def fill(self, groups: tuple[data.Group, ...]) -> None:
        """Store the objects over TLS."""
        data.upload(self.port, groups, secure=True)
