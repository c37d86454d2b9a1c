"""Writes results/README.md: every target with its figure, then the figures of each case."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.bench import RESULTS
from report.plots import draw

Record = dict[str, Any]


def write_report(*, quick: bool) -> Path:
    """Make the page and the plots from the result files; returns the page's path."""
    folder = RESULTS / "quick" if quick else RESULTS
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    page = folder / "README.md"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw(folder, {record["case"]: record for record in records})
    page.write_text("\n".join(_page(records, drawn)) + "\n", encoding="utf-8")
    return page


def _page(records: list[Record], drawn: list[tuple[str, str]]) -> Iterator[str]:
    yield "# Results\n"
    yield "Made by `make bench` from the JSON files beside this page; do not edit."
    yield "Method and reading advice: [docs/guides/benchmarks.md](../../docs/guides/benchmarks.md).\n"
    if not records:
        yield "No case has been run yet."
        return
    targets = [(record, target) for record in records for target in record["targets"]]
    met = sum(1 for _, target in targets if target["met"])
    yield f"{met} of {len(targets)} targets met.\n"
    yield "## Targets\n"
    yield "| case | what | wanted | figure | |"
    yield "|---|---|---|---|---|"
    for record, target in targets:
        figure = "not measured" if target["figure"] is None else f"{target['figure']:g}"
        verdict = "met" if target["met"] else "**short**"
        yield f"| {record['case']} | {target['what']} | {target['wanted']} | {figure} | {verdict} |"
    yield "\n## Plots\n"
    for name, title in drawn:
        yield f"![{title}]({name})\n"
    yield "## Figures\n"
    for record in records:
        yield from _case(record)


def _case(record: Record) -> Iterator[str]:
    machine, configuration = record["machine"], record["configuration"]
    yield f"### {record['case']}: {record['title']}\n"
    yield (
        f"{record['date']}; {machine['processor']}, {machine['cores']} cores, {machine['memory']}, "
        f"{machine['system']}, Linux {machine['kernel']}; "
        f"{configuration['rounds']} rounds of {configuration['seconds_per_run']:g} s, "
        f"SCHED_FIFO {'on' if configuration['realtime'] else 'off'}."
    )
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()) + ".\n"
    runs = [
        (group, name, figures)
        for group, contestants in record["figures"].items()
        for name, figures in _named(contestants)
        if "requests_per_second" in figures and "whole_seconds" in figures
    ]
    if runs:
        yield "| | server | requests/s (spread) | GB/s | CPU us/request | CPU s/GB | p50 / p99 / p99.9 ms | stolen |"
        yield "|---|---|---|---|---|---|---|---|"
        for group, name, figures in runs:
            yield _run_row(group, name, figures)
        yield ""
    others = {key: value for key, value in record["figures"].items() if not any(key == run[0] for run in runs)}
    if others:
        yield "| | figure |"
        yield "|---|---|"
        for key, value in _flat(others):
            yield f"| {key} | {value} |"
        yield ""


def _named(contestants: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The runs in one entry of `figures`: contestants by name, or the entry itself."""
    if isinstance(contestants, dict) and "whole_seconds" in contestants:
        yield "", contestants
    elif isinstance(contestants, dict):
        for name, figures in contestants.items():
            if isinstance(figures, dict):
                yield name, figures


def _run_row(group: str, name: str, figures: dict[str, Any]) -> str:
    low, high = figures["requests_per_second_spread"]
    waits = " / ".join(f"{figures['whole_seconds'][share] * 1e3:.3g}" for share in ("p50", "p99", "p99.9"))
    per_request, per_gigabyte = figures["server_microseconds_per_request"], figures["server_seconds_per_gigabyte"]
    return (
        f"| {group} | {name} | {_number(figures['requests_per_second'])} ({_number(low)} to {_number(high)}) "
        f"| {figures['gigabytes_per_second']:.3g} | {_number(per_request)} | {_number(per_gigabyte)} "
        f"| {waits} | {figures['stolen']:.0%} |"
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested figures with their path in words."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}, {key}" if path else key)
    elif isinstance(value, list):
        yield path, " to ".join(_leaf(one) for one in value) if len(value) == 2 else ", ".join(map(_leaf, value[:12]))
    else:
        yield path, _leaf(value)


def _leaf(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, int | float) else str(value)
