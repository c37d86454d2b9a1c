"""Metrics: records folded whole, processes summed, restarts go on counting, few series."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from headrace.base.limits import METRIC_SERIES_MAX
from headrace.telemetry import metrics as module
from headrace.telemetry.metrics import DURATION_BUCKETS, Metrics, result_of, series_count
from headrace.telemetry.records import SOURCES, Ring


def sample(rendered, name, **labels):
    for family in text_string_to_metric_families(rendered.decode()):
        for found in family.samples:
            if found.name == name and labels.items() <= found.labels.items():
                return found.value
    return None


def note(ring, source=0, status=200, size=10, milliseconds=1.0):
    ring.append(bytes(16), 1, 1, source, status, size, 0, 0, 0, 0, int(milliseconds * 1e6))


def test_reads_are_counted_by_source_and_result():
    metrics, ring = Metrics(), Ring()
    for source in range(len(SOURCES)):
        note(ring, source=source, size=100)
    note(ring, status=404, size=0)
    note(ring, status=503, size=0)
    assert metrics.fold(ring) is False
    text = metrics.render()
    assert sample(text, "headrace_read_requests_total", source="device", result="ok") == 1
    assert sample(text, "headrace_read_requests_total", source="memory", result="client_error") == 1
    assert sample(text, "headrace_read_requests_total", source="memory", result="server_error") == 1
    assert sample(text, "headrace_read_bytes_total", source="memory") == 100


def test_durations_fall_into_the_right_buckets():
    metrics, ring = Metrics(), Ring()
    for milliseconds in (0.1, 0.5, 0.6, 3000, 4000):
        note(ring, milliseconds=milliseconds)
    metrics.fold(ring)
    text = metrics.render()
    count = lambda bound: sample(text, "headrace_read_duration_seconds_bucket", le=bound)  # noqa: E731
    assert count("0.0005") == 2
    assert count("0.001") == 3
    assert count("2.5") == 3
    assert count("10.0") == count("+Inf") == 5
    assert sample(text, "headrace_read_duration_seconds_sum") == pytest.approx(7.0012)
    assert sample(text, "headrace_read_duration_seconds_count") == 5


def test_many_observations_at_once_equal_one_by_one():
    one, many = Metrics(), Metrics()
    times = [0.0001 * 1.7**step for step in range(24)]
    for seconds in times:
        one.read_duration.labels("memory", "ok").observe(seconds)
    counts = [0] * (len(DURATION_BUCKETS) + 1)
    for seconds in times:
        counts[module._bucket(seconds)] += 1
    many.read_duration.labels("memory", "ok").observe_many(counts, sum(times))
    lines = [
        [line for line in metrics.render().splitlines() if line.startswith(b"headrace_read_duration_seconds_bucket")]
        for metrics in (one, many)
    ]
    assert lines[0] == lines[1]


def test_a_fold_is_bounded_and_says_when_more_is_left():
    metrics, ring = Metrics(), Ring()
    for _ in range(25):
        note(ring)
    assert metrics.fold(ring, limit=10) is True
    assert sample(metrics.render(), "headrace_read_requests_total") == 10
    assert metrics.fold(ring, limit=10) is True
    assert metrics.fold(ring, limit=10) is False
    assert sample(metrics.render(), "headrace_read_requests_total") == 25


def test_dropped_records_are_reported_once():
    metrics, ring = Metrics(), Ring(entries=4)
    for _ in range(7):
        note(ring)
    metrics.fold(ring)
    metrics.fold(ring)
    assert sample(metrics.render(), "headrace_telemetry_dropped_total", kind="read") == 3


def test_a_tier_is_in_one_state():
    metrics = Metrics()
    metrics.set_tier("0", 5, 10, "normal")
    metrics.set_tier("0", 6, 10, "quarantined")
    text = metrics.render()
    assert sample(text, "headrace_tier_state", state="quarantined") == 1
    assert sample(text, "headrace_tier_state", state="normal") == 0
    assert sample(text, "headrace_cache_used_bytes", tier="0") == 6


def test_results():
    assert [result_of(status) for status in (200, 206, 304, 404, 503)] == [
        "ok", "ok", "ok", "client_error", "server_error"
    ]  # fmt: skip


COUNT = """
import sys
from pathlib import Path
from headrace.telemetry.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]), sys.argv[2])
metrics.count_request("PutObject", 200)
metrics.connections.set(3)
sys.stdout.buffer.write(metrics.render())
"""


def count(directory, process):
    return subprocess.run([sys.executable, "-c", COUNT, directory, process], check=True, capture_output=True).stdout


def test_processes_are_summed_restarts_go_on_and_the_dead_hold_nothing(tmp_path):
    count(tmp_path, "worker-0")
    files = len(list(tmp_path.glob("*.db")))
    text = count(tmp_path, "worker-1")
    assert sample(text, "headrace_requests_total", operation="PutObject") == 2
    assert sample(text, "headrace_connections_open") == 6
    module.process_died(tmp_path, "worker-0")
    text = count(tmp_path, "worker-1")
    assert sample(text, "headrace_requests_total", operation="PutObject") == 3
    assert sample(text, "headrace_connections_open") == 3
    count(tmp_path, "worker-0")
    assert len(list(tmp_path.glob("*.db"))) == 2 * files
    module.clear(tmp_path)
    assert list(tmp_path.glob("*.db")) == []


def test_a_full_house_stays_below_the_bound():
    metrics, ring = Metrics(), Ring()
    for source in range(len(SOURCES)):
        for status in (200, 404, 503):
            note(ring, source=source, status=status)
    metrics.fold(ring)
    for number in range(80):
        for status in (200, 404, 503):
            metrics.count_request(f"Operation{number}", status)
    for tier in range(16):
        metrics.set_tier(str(tier), 0, 0, "normal")
    for number in range(50):
        metrics.bypass.labels(f"reason-{number}").inc()
        metrics.agent_events.labels(f"event-{number}").inc()
    assert series_count(metrics.render()) <= METRIC_SERIES_MAX
