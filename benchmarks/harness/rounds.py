"""Alternate short runs of all contestants, so that a machine's good and bad minutes fall on each alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from harness.load import Sample

STOLEN_MAX = 0.15
REPEATS_MAX = 3


def calm(measure: Callable[[], Sample]) -> Sample:
    """Measure; again when the hypervisor took more than STOLEN_MAX, and keep the calmest of the tries."""
    best = measure()
    for _ in range(REPEATS_MAX):
        if best.stolen <= STOLEN_MAX:
            break
        best = min(best, measure(), key=lambda sample: sample.stolen)
    return best


def alternate(contestants: Mapping[str, Callable[[], Sample]], rounds: int) -> dict[str, dict[str, Any]]:
    """Run every contestant once a round, each round starting with the next one; summarize each."""
    samples: dict[str, list[Sample]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            samples[name].append(calm(contestants[name]))
    return {name: summarize(taken) for name, taken in samples.items()}


def summarize(samples: list[Sample]) -> dict[str, Any]:
    """Medians over the rounds, with the lowest and highest rate."""
    rates = [sample.requests_per_second for sample in samples]
    speeds = [sample.bytes_per_second for sample in samples]
    moved = sum(sample.load["bytes"] for sample in samples)
    answered = sum(sample.load["requests"] for sample in samples)
    server_seconds = sum(sample.server_seconds for sample in samples)
    return {
        "rounds": len(samples),
        "requests_per_second": round(median(rates), 1),
        "requests_per_second_spread": [round(min(rates), 1), round(max(rates), 1)],
        "gigabytes_per_second": round(median(speeds) / 1e9, 4),
        "gigabytes_per_second_spread": [round(min(speeds) / 1e9, 4), round(max(speeds) / 1e9, 4)],
        "server_microseconds_per_request": round(server_seconds / answered * 1e6, 2) if answered else None,
        "server_seconds_per_gigabyte": round(server_seconds / moved * 1e9, 4) if moved else None,
        "whole_seconds": _percentiles(samples, "whole_seconds"),
        "first_byte_seconds": _percentiles(samples, "first_byte_seconds"),
        "stolen": round(median(sample.stolen for sample in samples), 4),
    }


def _percentiles(samples: list[Sample], kind: str) -> dict[str, float]:
    return {
        name: round(median(sample.load[kind][name] for sample in samples), 9)
        for name in ("mean", "p50", "p90", "p99", "p99.9", "max")
    }


def ratio(figures: Mapping[str, Mapping[str, Any]], ours: str, theirs: str, name: str) -> float | None:
    """Ours over theirs for one figure; None when either is missing or nothing."""
    above = figures.get(ours, {}).get(name)
    below = figures.get(theirs, {}).get(name)
    return round(above / below, 3) if above is not None and below else None
