"""headrace's own paths, `/_headrace/...`: health, metrics and what an administrator asks.

Health is open to all, metrics to any key (or to all where the node was told so), the rest to admins.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from headrace import __version__
from headrace.base.errors import Denied, Invalid, NotFound
from headrace.gateway.messages import Request, Response
from headrace.telemetry.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from headrace.gateway.context import Context

PREFIX = b"/_headrace/"


async def handle_admin(context: Context, request: Request) -> Response:
    """Answer one request under `/_headrace/`. Raises Denied, Invalid (MethodNotAllowed), NotFound."""
    name = request.path.removeprefix(PREFIX).decode("ascii", "replace")
    if request.method not in {"GET", "HEAD"}:
        raise Invalid("This path is read only; use GET.", kind="MethodNotAllowed")
    if name == "health":
        return _json({"status": "ready", "version": __version__})
    signed = bool(request.identity.access_key)
    if name == "metrics":
        if not signed and not context.open_metrics:
            raise Denied("Sign the request with any key of this node, or start the node with --open-metrics.")
        return await _metrics(context)
    if not request.identity.admin:
        raise Denied("This path needs the key of an administrator.")
    if name == "status":
        return _json(_status(context))
    raise NotFound(f"There is no /_headrace/{name}; there are health, metrics and status.", kind="NoSuchConfiguration")


async def _metrics(context: Context) -> Response:
    """What Prometheus scrapes, summed over the node's processes."""
    if context.metrics is None:
        raise NotFound("This gateway keeps no metrics.", kind="NoSuchConfiguration")
    body = await asyncio.to_thread(context.metrics.render)
    return Response(200, [("Content-Type", CONTENT_TYPE)], body, len(body))


def _status(context: Context) -> dict[str, object]:
    """What runs here, as this worker sees it."""
    return {
        "version": __version__,
        "region": context.region,
        "domains": list(context.domains),
        "bindings": [
            {"bucket": target.bucket, "origin": target.origin.url, "kind": target.kind}
            for target in context.bindings.listed()
        ],
        "agent": context.reader is not None and context.reader.client.connected,
    }


def _json(value: object) -> Response:
    body = msgspec.json.encode(value) + b"\n"
    return Response(200, [("Content-Type", "application/json")], body, len(body))
