"""Bar charts of the warm figures, drawn where matplotlib is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

COLOURS = {
    "headrace": "#0b6e99",
    "immutable": "#0b6e99",
    "validate": "#7db8cf",
    "nginx": "#7a7a7a",
    "seaweedfs": "#5a9e4b",
    "juicefs": "#c98b2b",
    "origin alone": "#5a9e4b",
}


def draw(folder: Path, records: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Draw what the records allow; returns (file name, title) of each plot."""
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    mpl.use("Agg")
    drawn = []
    for case, title in (("warm", "Warm signed GET"), ("warm_origin", "Warm GET before an S3 origin")):
        if case not in records:
            continue
        figures = {size: runs for size, runs in records[case]["figures"].items() if "uncopied" not in size}
        for name, label, value in _plots():
            path = folder / f"{case}-{name}.png"
            _bars(path, figures, value, f"{title}: {label}", label)
            drawn.append((path.name, f"{title}: {label}"))
    return drawn


def _plots() -> list[tuple[str, str, Callable[[dict[str, Any]], float | None]]]:
    return [
        ("rate", "requests per second", lambda figures: figures["requests_per_second"]),
        ("speed", "GB per second", lambda figures: figures["gigabytes_per_second"]),
        ("cost", "server CPU seconds per GB", lambda figures: figures["server_seconds_per_gigabyte"]),
        ("wait", "p99 in milliseconds", lambda figures: figures["whole_seconds"]["p99"] * 1e3),
    ]


def _bars(
    path: Path,
    figures: dict[str, dict[str, dict[str, Any]]],
    value: Callable[[dict[str, Any]], float | None],
    title: str,
    label: str,
) -> None:
    """Groups of bars on a logarithmic scale: one group a size, one bar a server."""
    from matplotlib import pyplot as plt

    sizes = list(figures)
    names = list(dict.fromkeys(name for runs in figures.values() for name in runs))
    chart, axes = plt.subplots(figsize=(9, 4), dpi=110)
    width = 0.8 / max(1, len(names))
    for number, name in enumerate(names):
        heights = [value(figures[size][name]) or 0 if name in figures[size] else 0 for size in sizes]
        places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(sizes))]
        bars = axes.bar(places, heights, width, label=name, color=COLOURS.get(name))
        axes.bar_label(bars, [f"{height:.3g}" if height else "" for height in heights], fontsize=6, padding=1)
    axes.set_yscale("log")
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set_ylabel(label)
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    chart.tight_layout()
    chart.savefig(path)
    plt.close(chart)
