"""The command tree, and the one place where an error becomes a message and an exit status."""

from __future__ import annotations

import os
import sys

import typer

from headrace.base.errors import HeadraceError
from headrace.cli import bucket, config, doctor, key, node, version

_HELP = """A data layer that keeps GPUs fed: a cache on your own disks and memory behind an S3 API.

\b
Start a node, make a key, use it with any S3 tool:
    headrace up
    headrace key create --name alice
    headrace bucket add photos s3://my-photos
    headrace doctor
Every command explains itself: headrace COMMAND --help
"""


def build() -> typer.Typer:
    """The whole command tree."""
    app = typer.Typer(
        name="headrace",
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.command("up")(node.up)
    app.add_typer(bucket.app, name="bucket")
    app.add_typer(key.app, name="key")
    app.add_typer(config.app, name="config")
    app.command("doctor")(doctor.doctor)
    app.command("version")(version.version)
    return app


def main() -> None:
    """Run the command; known errors end with one message and the status of their class."""
    try:
        build()()
    except HeadraceError as problem:
        print(f"error: {problem.message}", file=sys.stderr)
        sys.exit(problem.exit_status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing to say to it
        sys.exit(0)
    except OSError as problem:
        named = f" {problem.filename}" if problem.filename else ""
        print(f"error: {problem.strerror or problem}{named}. Check that it exists and may be used.", file=sys.stderr)
        sys.exit(8)
