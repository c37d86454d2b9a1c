"""Every setting with its type, its default and one sentence. Defaults run on one machine."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

import msgspec
from msgspec import Meta

from headrace.base.limits import DRAIN_SECONDS_MAX

WORKERS_MAX = 64
DATA_DEFAULT = "~/.local/share/headrace"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node is told. Made by `config.load.load`; never changed afterwards."""

    data: Annotated[
        str, Meta(min_length=1, description="Directory that holds keys, bindings, embedded buckets and the cache.")
    ] = DATA_DEFAULT
    host: Annotated[
        str, Meta(min_length=1, description="Address to listen on; 0.0.0.0 lets other machines connect.")
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of the S3 endpoint; 0 picks a free one.")] = 9000
    workers: Annotated[
        int, Meta(ge=0, le=WORKERS_MAX, description="Gateway processes; 0 means one per usable core, at most 8.")
    ] = 0
    origin: Annotated[
        tuple[str, ...],
        Meta(description="Buckets to serve: NAME=URL binds one, s3:// shows all that this host's AWS credentials see."),
    ] = ()
    freshness: Annotated[
        tuple[str, ...],
        Meta(description="BUCKET/PREFIX=RULE with RULE validate, lease(30s) or immutable; BUCKET may be *."),
    ] = ()
    tier: Annotated[
        tuple[str, ...],
        Meta(description="Cache directories as DIR:SIZE; without any, DATA/tiers/0 takes at most half the free space."),
    ] = ()
    access_key: Annotated[str, Meta(description="Access key of an admin to make sure of at start.")] = ""
    secret_key: Annotated[str, Meta(description="Secret of that access key.")] = ""
    domain: Annotated[tuple[str, ...], Meta(description="Host names under which BUCKET.HOST addresses a bucket.")] = (
        "localhost",
    )
    region: Annotated[str, Meta(min_length=1, description="Region that clients are told.")] = "us-east-1"
    tls_cert: Annotated[str, Meta(description="PEM file with the certificate chain; turns the endpoint to HTTPS.")] = ""
    tls_key: Annotated[str, Meta(description="PEM file with the certificate's private key.")] = ""
    open_metrics: Annotated[bool, Meta(description="Answer /_headrace/metrics without a key.")] = False
    drain_seconds: Annotated[
        float,
        Meta(ge=0, le=DRAIN_SECONDS_MAX, description="How long a stopping worker lets requests in flight finish."),
    ] = DRAIN_SECONDS_MAX
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severe events that are logged.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description="How events are written to standard error; auto is console on a terminal, else JSON lines."),
    ] = "auto"


SECRETS = frozenset({"secret_key"})
"""Settings whose value is never printed."""


class Description(NamedTuple):
    """One setting as the reference page and `--help` show it."""

    name: str
    kind: str
    default: Any
    sentence: str

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return f"HEADRACE_{self.name.upper()}"

    @property
    def flag(self) -> str:
        """Name of the command line flag."""
        return "--" + self.name.replace("_", "-")


def _kind(annotation: Any) -> str:
    """A setting's type in words."""
    base = get_args(annotation)[0]
    if base in (str, int, float, bool):
        return {str: "text", int: "whole number", float: "number", bool: "true or false"}[base]
    if getattr(base, "__origin__", None) is Literal:
        return "one of " + ", ".join(get_args(base))
    return "list of texts"


def describe() -> list[Description]:
    """All settings in the order of `Settings`."""
    hints = get_type_hints(Settings, include_extras=True)
    defaults = Settings()
    described = []
    for name in Settings.__struct_fields__:
        meta = next(extra for extra in get_args(hints[name])[1:] if isinstance(extra, Meta))
        described.append(Description(name, _kind(hints[name]), getattr(defaults, name), meta.description or ""))
    return described
