"""`headrace up`: run a node in the foreground."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.options import ConfigFile, Data

if TYPE_CHECKING:
    from headrace.gateway.keyring import AccessKey


def up(
    data: Data = None,
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port of the S3 endpoint; 0 picks a free one.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Gateway processes; 0 = one per core.")] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option("--origin", metavar="NAME=URL", help="A bucket to serve, or s3:// for all; repeat for more."),
    ] = None,
    freshness: Annotated[
        list[str] | None,
        typer.Option("--freshness", metavar="BUCKET/PREFIX=RULE", help="validate, lease(30s) or immutable; repeat."),
    ] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option("--tier", metavar="DIR:SIZE", help="A cache directory and its limit; repeat for more."),
    ] = None,
    access_key: Annotated[str | None, typer.Option("--access-key", help="Admin key to make sure of.")] = None,
    secret_key: Annotated[str | None, typer.Option("--secret-key", help="Its secret.")] = None,
    domain: Annotated[
        list[str] | None, typer.Option("--domain", help="Host under which BUCKET.HOST is a bucket; repeat for more.")
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="Region that clients are told.")] = None,
    tls_cert: Annotated[str | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[str | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM.")] = None,
    open_metrics: Annotated[
        bool | None, typer.Option("--open-metrics/--no-open-metrics", help="Serve metrics without a key.")
    ] = None,
    drain_seconds: Annotated[
        float | None, typer.Option("--drain-seconds", help="How long a stop lets requests finish.")
    ] = None,
    log_level: Annotated[str | None, typer.Option("--log-level", help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option("--log-format", help="auto, console or json.")] = None,
) -> None:
    """Run a node in the foreground until it is asked to stop (Ctrl-C or SIGTERM).

    \b
    The first start makes an admin key and shows it once.
        headrace up
        headrace up --port 9001 --origin photos=s3://my-photos --tier /mnt/nvme0/headrace:800GiB
        headrace up --origin s3://          every bucket that this host's AWS credentials reach
        headrace up --data ./trial --port 0 a second node, on a free port
    """  # noqa: D301 - \b keeps the lines as they are
    flags = {name: value for name, value in locals().items() if name != "config" and value not in (None, [])}
    from headrace.config.load import load
    from headrace.serve.supervisor import Supervisor
    from headrace.telemetry import log

    settings = load({name: tuple(v) if isinstance(v, list) else v for name, v in flags.items()}, config=config).settings
    log.configure(settings.log_level, settings.log_format, process="supervisor")
    raise SystemExit(Supervisor(settings, announce).run())


def announce(endpoint: str, new_key: AccessKey | None) -> None:
    """Tell a person where the node is and what to paste; a node goes on when nobody listens."""
    lines = [f"headrace serves S3 at {endpoint}", f"export AWS_ENDPOINT_URL={endpoint}"]
    if new_key is not None:
        lines.append(f"export AWS_ACCESS_KEY_ID={new_key.access_key}")
        lines.append(f"export AWS_SECRET_ACCESS_KEY={new_key.secret_key}")
        lines.append("This admin key was made now; its secret is not shown again.")
    lines.append("Stop with Ctrl-C. `headrace key create` makes more keys, `headrace doctor` checks this machine.")
    with contextlib.suppress(OSError):
        print("\n".join(lines), flush=True)
