"""One gateway worker: a uvloop loop that serves requests on an inherited socket until told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys

import uvloop

from headrace.config.settings import Settings
from headrace.gateway.hot import Hot
from headrace.gateway.lookup import make_lookup
from headrace.gateway.server import Gateway
from headrace.gateway.server import run as serve
from headrace.serve.build import WorkerParts, tls_context
from headrace.serve.layout import Layout
from headrace.serve.process import Role, child_main
from headrace.serve.report import ReaderReport
from headrace.telemetry import log

_FOLD_SECONDS = 0.25
_FOLDS_IN_A_ROW_MAX = 64


async def work(role: Role, settings: Settings, layout: Layout) -> None:
    """Build the gateway, say that it is ready, serve, drain."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    tls = tls_context(settings)
    parts = WorkerParts(settings, layout, role.name)
    await parts.start()
    context = parts.context
    hot = Hot(parts.words, context.files, parts.ring, make_lookup(context), context.may_read)
    gateway = Gateway(context, hot, settings.drain_seconds)
    folder = loop.create_task(fold_records(parts, gateway))
    listener = socket.socket(fileno=role.listener)
    serving = loop.create_task(serve(gateway, listener, stop, tls=tls))
    await asyncio.sleep(0)
    role.tell_ready()
    try:
        await serving
    finally:
        folder.cancel()
        await asyncio.gather(folder, return_exceptions=True)
        while parts.metrics.fold(parts.ring):
            pass
        await parts.stop()


async def fold_records(parts: WorkerParts, gateway: Gateway) -> None:
    """Move read records into metrics, a few at a time so that no request waits, until cancelled.

    The ring is emptied four times a second, and several steps in a row while it is full; reports read
    the result at most once a second.
    """
    counters = ReaderReport(parts.metrics)
    while True:
        for _ in range(_FOLDS_IN_A_ROW_MAX):
            if not parts.metrics.fold(parts.ring):
                break
            await asyncio.sleep(0)
        parts.metrics.connections.set(gateway.connections)
        counters.take(parts.reader.counts)
        await asyncio.sleep(_FOLD_SECONDS)


def run(role: Role, settings: Settings, layout: Layout) -> int:
    """Serve until SIGTERM; the exit status."""
    gc.freeze()  # what imports made lives for ever and need not be walked
    uvloop.run(work(role, settings, layout))
    log.get_logger("headrace.worker").debug("stopped", worker=role.name)
    return 0


if __name__ == "__main__":
    sys.exit(child_main(run))
