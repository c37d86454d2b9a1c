"""The agent process: cache fills, segments, index and the accounts' lists of buckets."""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from headrace.base.limits import ACCOUNT_FIRST_SECONDS_MAX, ACCOUNT_REFRESH_SECONDS
from headrace.cache.runner import Agent
from headrace.config.settings import Settings
from headrace.origin.factory import Origins
from headrace.serve.bindings import keep_accounts
from headrace.serve.build import build_agent, build_bindings
from headrace.serve.layout import Layout
from headrace.serve.process import Role, child_main
from headrace.serve.report import AgentReport
from headrace.telemetry import log
from headrace.telemetry.metrics import Metrics
from headrace.wire.words import Words

_REPORT_SECONDS = 1.0


async def work(role: Role, settings: Settings, layout: Layout) -> None:
    """Start the agent, say that it is ready, run until SIGTERM, stop it clean."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    words = Words(layout.words)
    counters = AgentReport(Metrics(layout.metrics, role.name))
    origins = Origins(words)
    bindings = build_bindings(settings, layout, words, origins)
    agent = build_agent(settings, layout, words, bindings)
    await agent.start()
    logger = log.get_logger("headrace.agent")
    recovered = agent.recovered
    logger.info("cache adopted", **{name: getattr(recovered, name) for name in recovered.__dataclass_fields__})
    tasks = [loop.create_task(report(agent, counters))]
    if bindings.accounts:
        tasks.append(loop.create_task(keep_accounts(bindings, ACCOUNT_REFRESH_SECONDS)))
        await first_list(bindings.listed_once, ACCOUNT_FIRST_SECONDS_MAX)
    role.tell_ready()
    await stop.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await agent.stop()
    await bindings.close()
    bindings.table.close()
    origins.close()


async def first_list(listed: asyncio.Event, seconds: float) -> None:
    """Give the accounts a moment, so that a node that says it is ready shows their buckets."""
    try:
        async with asyncio.timeout(seconds):
            await listed.wait()
    except TimeoutError:
        log.get_logger("headrace.agent").warning("accounts are slow", hint="their buckets appear when they answer")


async def report(agent: Agent, counters: AgentReport) -> None:
    """Publish the agent's counters once a second, until cancelled."""
    while True:
        counters.take(agent.statistics())
        await asyncio.sleep(_REPORT_SECONDS)


def run(role: Role, settings: Settings, layout: Layout) -> int:
    """Run until SIGTERM; the exit status."""
    uvloop.run(work(role, settings, layout))
    return 0


if __name__ == "__main__":
    sys.exit(child_main(run))
