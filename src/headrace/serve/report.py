"""Counters that the cache keeps for itself, carried over into metrics.

The cache counts since its process started; a metric must never go back, so only growth is added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from headrace.cache.runner import AgentStatistics
from headrace.telemetry.metrics import Metrics

_BYPASS = "bypass "
_STATES = ("HIT", "REVALIDATED", "MISS", "BYPASS")


class _Growth:
    """What counters grew by since they were last looked at."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def of(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Name -> growth, of those that grew."""
        grown = {name: count - self._seen[name] for name, count in counts.items() if count > self._seen[name]}
        self._seen.update(grown)
        return grown


class ReaderReport:
    """Answers and bypasses of one worker's reader."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._growth = _Growth()

    def take(self, counts: Mapping[str, int]) -> None:
        """Add what grew."""
        for name, count in self._growth.of(counts).items():
            if name.startswith(_BYPASS):
                self._metrics.bypass.labels(name.removeprefix(_BYPASS)).inc(count)
            elif name in _STATES:
                self._metrics.cache_answers.labels(name.lower()).inc(count)


class AgentReport:
    """Tiers, fills and events of the agent."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._growth = _Growth()

    def take(self, statistics: AgentStatistics) -> None:
        """Set the gauges and add what grew."""
        metrics = self._metrics
        for number, (tier, sick) in enumerate(zip(statistics.tiers, statistics.sick, strict=True)):
            state = "quarantined" if sick else "normal"
            metrics.set_tier(str(number), tier.used_bytes, tier.limit_bytes, state)
        metrics.singleflight_waiters.set(statistics.waiting)
        metrics.fills_open.set(statistics.fills)
        metrics.cache_blocks.set(statistics.blocks)
        metrics.cache_amplification.set(statistics.amplification)
        for name, count in self._growth.of(statistics.counts).items():
            if name == "evicted segments":
                metrics.cache_evictions.labels("all", "space").inc(count)
            elif name == "reappended bytes":
                metrics.cache_rewritten.inc(count)
            elif name == "corrupt":
                metrics.damaged.inc(count)
            else:
                metrics.agent_events.labels(name.replace(" ", "_").replace("-", "_")).inc(count)
