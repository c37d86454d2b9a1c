"""Prometheus metrics of a node, summed over its processes, and the folding of read records into them.

Each process writes its numbers into mapped files under `DIR/run/metrics` (the multiprocess mode of
prometheus_client); any process can render the sum. Files are named by role, not by process id, so a
restarted worker goes on counting where the dead one stopped and the number of files is bounded.
Names and labels follow one closed list: object keys never become labels.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from headrace import __version__
from headrace.base.limits import RECORDS_PER_FOLD_MAX
from headrace.telemetry.records import SOURCES, Ring

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DURATION_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0)
RESULTS = ("ok", "client_error", "server_error")
TIER_STATES = ("normal", "suspect", "quarantined", "probing")
_NANOSECONDS = 1e-9


class _Durations(Histogram):
    """A histogram that takes many observations at once: one write per bucket instead of one per read."""

    def observe_many(self, counts: Sequence[int], total_seconds: float) -> None:
        """Add `counts[i]` observations to bucket i (the last is +Inf) that sum to `total_seconds`."""
        self._sum.inc(total_seconds)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class _ReadSeries:
    """The children of one (source, result), and what was folded but not yet written."""

    __slots__ = ("count", "counts", "duration", "requests", "seconds")

    def __init__(self, duration: _Durations, requests: Counter) -> None:
        self.duration = duration
        self.requests = requests
        self.counts = [0] * (len(DURATION_BUCKETS) + 1)
        self.seconds = 0.0
        self.count = 0

    def flush(self) -> None:
        """Write what was folded."""
        self.duration.observe_many(self.counts, self.seconds)
        self.requests.inc(self.count)
        self.counts = [0] * (len(DURATION_BUCKETS) + 1)
        self.seconds = 0.0
        self.count = 0


def result_of(status: int) -> str:
    """The `result` label for an HTTP status."""
    return "ok" if status < 400 else "client_error" if status < 500 else "server_error"


class Metrics:
    """All metrics of one process. Attributes are prometheus_client objects, to be used directly.

    `directory` None keeps the numbers in this process (a test, a command). `process` names the role
    ("worker-0", "agent"); two living processes must not share it.
    """

    def __init__(self, directory: Path | None = None, process: str = "main") -> None:
        self._directory = directory
        self._registry = CollectorRegistry()
        self._series: dict[tuple[int, str], _ReadSeries] = {}
        self._dropped_seen = 0
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            values.ValueClass = _mapped_values(directory, process)
        else:
            values.ValueClass = values.MutexValue
        self._make_gateway_metrics()
        self._make_cache_metrics()
        self.build_info.labels(__version__, platform.python_version()).set(1)

    def _make_gateway_metrics(self) -> None:
        """Reads, other requests, connections and the health of telemetry itself."""
        registry = self._registry
        self.read_duration = _Durations(
            "headrace_read_duration_seconds",
            "Time from a read's request head to its last byte.",
            ("source", "result"),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.read_bytes = Counter(
            "headrace_read_bytes_total", "Object bytes sent to readers.", ("source",), registry=registry
        )
        self.read_requests = Counter(
            "headrace_read_requests_total", "Reads answered.", ("source", "result"), registry=registry
        )
        self.requests = Counter(
            "headrace_requests_total", "S3 requests answered, reads apart.", ("operation", "result"), registry=registry
        )
        self.connections = Gauge(
            "headrace_connections_open", "Client connections open.", registry=registry, multiprocess_mode="livesum"
        )
        self.telemetry_dropped = Counter(
            "headrace_telemetry_dropped_total", "Records lost for want of space.", ("kind",), registry=registry
        )
        self.build_info = Gauge(
            "headrace_build_info",
            "Always 1; the labels name what runs.",
            ("version", "python"),
            registry=registry,
            multiprocess_mode="livemax",
        )

    def _make_cache_metrics(self) -> None:
        """Tiers, fills and bypasses."""
        registry = self._registry
        self.cache_used = Gauge(
            "headrace_cache_used_bytes",
            "Bytes in segments, unlinked ones that readers still hold included.",
            ("tier",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.cache_capacity = Gauge(
            "headrace_cache_capacity_bytes",
            "Limit of the tier.",
            ("tier",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.cache_evictions = Counter(
            "headrace_cache_evictions_total", "Segments unlinked.", ("tier", "reason"), registry=registry
        )
        self.cache_rewritten = Counter(
            "headrace_cache_rewritten_bytes_total", "Bytes appended again to free a segment.", registry=registry
        )
        self.cache_blocks = Gauge(
            "headrace_cache_blocks", "Blocks in the index.", registry=registry, multiprocess_mode="livesum"
        )
        self.cache_amplification = Gauge(
            "headrace_cache_write_amplification_ratio",
            "Bytes written to tiers for each byte filled, since the agent started.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.cache_answers = Counter(
            "headrace_cache_answers_total",
            "Reads of remote origins by cache state.",
            ("state",),
            registry=registry,
        )
        self.tier_state = Gauge(
            "headrace_tier_state",
            "1 for the state a tier is in.",
            ("tier", "state"),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.fills_open = Gauge(
            "headrace_fills_open", "Blocks being fetched now.", registry=registry, multiprocess_mode="livesum"
        )
        self.agent_events = Counter(
            "headrace_agent_events_total", "What the agent did, by kind.", ("event",), registry=registry
        )
        self.singleflight_waiters = Gauge(
            "headrace_singleflight_waiters",
            "Readers waiting for a fill that another began.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.bypass = Counter(
            "headrace_bypass_total", "Misses served from the origin past the cache.", ("reason",), registry=registry
        )
        self.damaged = Counter(
            "headrace_damaged_segments_total", "Segments dropped since a block failed its checksum.", registry=registry
        )

    # -- reads

    def fold(self, ring: Ring, limit: int = RECORDS_PER_FOLD_MAX) -> bool:
        """Move at most `limit` records from the ring into the metrics; True when it may hold more.

        Called from the event loop, so one call must stay well below a millisecond.
        """
        folded = 0
        sizes = [0] * len(SOURCES)
        touched = set()
        for record in islice(ring.drain(), limit):
            folded += 1
            source = record.source
            result = result_of(record.status)
            series = self._series.get((source, result)) or self._open_series(source, result)
            seconds = record.last_ns * _NANOSECONDS
            series.counts[_bucket(seconds)] += 1
            series.seconds += seconds
            series.count += 1
            sizes[source] += record.size
            touched.add(series)
        for series in touched:
            series.flush()
        for source, size in enumerate(sizes):
            if size:
                self.read_bytes.labels(SOURCES[source]).inc(size)
        if ring.dropped > self._dropped_seen:
            self.telemetry_dropped.labels("read").inc(ring.dropped - self._dropped_seen)
            self._dropped_seen = ring.dropped
        return folded == limit

    def _open_series(self, source: int, result: str) -> _ReadSeries:
        """The children for (source, result), made once."""
        labels = (SOURCES[source], result)
        series = _ReadSeries(self.read_duration.labels(*labels), self.read_requests.labels(*labels))
        self._series[source, result] = series
        return series

    # -- everything else

    def count_request(self, operation: str, status: int) -> None:
        """Note one answered request that is no read."""
        self.requests.labels(operation, result_of(status)).inc()

    def set_tier(self, tier: str, used_bytes: int, capacity_bytes: int, state: str) -> None:
        """Publish a tier's fill and state (one of TIER_STATES)."""
        self.cache_used.labels(tier).set(used_bytes)
        self.cache_capacity.labels(tier).set(capacity_bytes)
        for name in TIER_STATES:
            self.tier_state.labels(tier, name).set(1 if name == state else 0)

    def render(self) -> bytes:
        """The text that Prometheus scrapes: this process's numbers, or the sum over all of the node."""
        if self._directory is None:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._directory))  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _bucket(seconds: float) -> int:
    """Index of the histogram bucket that `seconds` falls in."""
    for index, bound in enumerate(DURATION_BUCKETS):
        if seconds <= bound:
            return index
    return len(DURATION_BUCKETS)


def _mapped_values(directory: Path, process: str) -> type:
    """The value class that writes to `directory` under the name `process`."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    made: type = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]
    return made


def clear(directory: Path) -> None:
    """Forget the numbers of an earlier run; called before any process of this run opened its files."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.db"):
        path.unlink()


def process_died(directory: Path, process: str) -> None:
    """Take the dead process's gauges out of the sums."""
    mark_process_dead(process, path=str(directory))  # type: ignore[no-untyped-call]


def series_count(rendered: bytes) -> int:
    """Number of series in rendered text; `base.limits.METRIC_SERIES_MAX` bounds it."""
    return sum(1 for line in rendered.splitlines() if line and not line.startswith(b"#"))
