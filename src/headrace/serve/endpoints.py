"""Endpoint URLs compared: is an origin's endpoint this very node's?"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from headrace.base.errors import Invalid
from headrace.origin.urls import named, parse

_LOCAL = {"localhost": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "127.0.0.1", "::1": "127.0.0.1"}  # noqa: S104 - names
_PORTS = {"http": 80, "https": 443}
_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def same_endpoint(one: str, other: str) -> bool:
    """Whether two endpoint URLs name the same host and port; all names of this machine are one."""
    return _place(one) == _place(other)


def _place(url: str) -> tuple[str, int | None]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return _LOCAL.get(host, host), parts.port or _PORTS.get(parts.scheme)


def refuse_loop(origins: tuple[str, ...], own: str, environment: Mapping[str, str]) -> None:
    """Raise Invalid when an S3 origin leads back to the node itself, as `AWS_ENDPOINT_URL` easily does."""
    inherited = next((environment[name] for name in _VARIABLES if environment.get(name)), "")
    for text in origins:
        _, url = named(text)
        parsed = parse(url)
        endpoint = parsed.options.get("endpoint") or (inherited if parsed.scheme == "s3" else "")
        if endpoint and same_endpoint(endpoint, own):
            raise Invalid(
                f"The origin {text} leads back to this node ({own}). Unset AWS_ENDPOINT_URL in this shell, "
                "or name the endpoint in the URL: s3://?endpoint=https://..."
            )
