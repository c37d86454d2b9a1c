"""`headrace bucket`: which bucket is bound to which origin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.options import Data, Json, find_layout, open_words, print_json, print_table

if TYPE_CHECKING:
    from headrace.gateway.bindings import BindingTable
    from headrace.serve.layout import Layout

app = typer.Typer(
    no_args_is_help=True,
    help="""Bind buckets to origins. Works while the node runs, and takes effect at once.

\b
    headrace bucket add photos s3://my-photos
    headrace bucket add scratch file:///data/scratch
    headrace bucket add models 's3://models?endpoint=http://10.0.0.5:9000&region=us-east-1'
    headrace bucket list
    headrace bucket remove scratch
""",
)


@contextlib.contextmanager
def _open(layout: Layout) -> Iterator[BindingTable]:
    from headrace.gateway.bindings import BindingTable

    with open_words(layout) as words:
        table = BindingTable(layout.database, words)
        try:
            yield table
        finally:
            table.close()


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="The bucket's name at this node.")],
    url: Annotated[str, typer.Argument(help="The origin: store:// file:// s3:// gs:// az:// https:// memory://")],
    data: Data = None,
    freshness: Annotated[
        list[str] | None,
        typer.Option("--freshness", metavar="PREFIX=RULE", help="validate, lease(30s) or immutable; repeat."),
    ] = None,
) -> None:
    """Bind a bucket to an origin; kept across restarts.

    \b
    Freshness says how long cached metadata is believed; without a rule the origin is asked per request.
        headrace bucket add photos s3://my-photos --freshness '=immutable'
        headrace bucket add logs s3://logs --freshness 'old/=immutable' --freshness '=lease(30s)'
    """  # noqa: D301 - \b keeps the lines as they are
    from headrace.base.errors import Invalid
    from headrace.gateway.bindings import check
    from headrace.serve.preparation import prepare_binding

    rules = []
    for text in freshness or []:
        prefix, equals, rule = text.rpartition("=")
        if not equals:
            raise Invalid(f"Bad freshness {text!r}; write PREFIX=RULE such as 'raw/=immutable' or '=lease(30s)'.")
        rules.append((prefix, rule))
    check(name, url, tuple(rules))
    layout = find_layout(data, create=True)
    prepare_binding(name, url)
    with _open(layout) as table:
        table.add(name, url, tuple(rules))
    typer.echo(f"Bound {name}.", err=True)


@app.command("list")
def list_buckets(data: Data = None, json: Json = False) -> None:
    """List the bound buckets; those of the embedded store are listed by any S3 client."""
    from headrace.origin.urls import redacted

    with _open(find_layout(data, create=False)) as table:
        rows = [(item.bucket, redacted(item.url), dict(item.rules), table.source(item.bucket)) for item in table.list()]
    if json:
        print_json([dict(zip(("bucket", "url", "freshness", "source"), row, strict=True)) for row in rows])
        return
    print_table(
        ("BUCKET", "ORIGIN", "FRESHNESS", "FROM"),
        [
            (bucket, url, " ".join(f"{prefix}={rule}" for prefix, rule in rules.items()) or "validate", source)
            for bucket, url, rules, source in rows
        ],
    )


@app.command("remove")
def remove(name: Annotated[str, typer.Argument(help="The bucket's name at this node.")], data: Data = None) -> None:
    """Unbind a bucket. Nothing is deleted at the origin; its cached blocks are evicted in time."""
    with _open(find_layout(data, create=False)) as table:
        table.remove(name)
    typer.echo(f"Unbound {name}.", err=True)
