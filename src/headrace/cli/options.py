"""Options that several commands share, and the directory they mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from headrace.gateway.keyring import Keyring
    from headrace.serve.layout import Layout
    from headrace.wire.words import Words

Data = Annotated[str | None, typer.Option("--data", metavar="DIR", help="The node's data directory.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file; default DATA/headrace.toml if it exists."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def find_layout(data: str | None, *, create: bool) -> Layout:
    """The layout of the data directory that flags, environment or file name.

    Raises NotFound when it does not exist and `create` is not asked for.
    """
    from headrace.base.errors import NotFound
    from headrace.config.load import data_directory, load
    from headrace.serve.layout import Layout

    layout = Layout(data_directory(load({"data": data}).settings))
    if create:
        layout.prepare()
    elif not layout.database.exists():
        raise NotFound(
            f"There is no node in {layout.data}; name its directory with --data, or start one with `headrace up`.",
            kind="NoSuchNode",
        )
    return layout


@contextlib.contextmanager
def open_words(layout: Layout) -> Iterator[Words]:
    """The shared words of the node, so that a running one sees changes at once."""
    from headrace.wire.words import Words

    words = Words(layout.words)
    try:
        yield words
    finally:
        words.close()


@contextlib.contextmanager
def open_keyring(layout: Layout) -> Iterator[Keyring]:
    """The node's keys, whether it runs or not."""
    from headrace.gateway.keyring import Keyring

    with open_words(layout) as words:
        keyring = Keyring(layout.database, words)
        try:
            yield keyring
        finally:
            keyring.close()


def print_json(value: Any) -> None:
    """Print `value` as JSON to standard output."""
    import json

    print(json.dumps(value, indent=2))


def print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print aligned columns; plain text, so that it can be piped."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
