"""DeleteObjects at an S3 origin: every key is judged here, and the origin gets a document of headrace's own.

XML has many spellings of one key (CDATA, references, prefixes, encodings). What was judged, what is
deleted and what is forgotten are the same only when the client's document is never passed on.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from botocore.model import StructureShape

from headrace.base.errors import Bug, HeadraceError, Invalid, Unavailable
from headrace.base.limits import DELETE_KEYS_MAX
from headrace.gateway.codec import render
from headrace.gateway.errors import known_error, message_of
from headrace.gateway.messages import Request, Response
from headrace.gateway.model import operations
from headrace.gateway.object_bodies import payload_of
from headrace.gateway.proxy import OwnDocument, ProxyContext, ProxyTarget, forward, s3_origin
from headrace.gateway.write_attributes import check_key
from headrace.gateway.xml_writer import DECLARATION, NAMESPACE, Writer, members_writer
from headrace.origin.s3wire import document

_TOLD = frozenset({"Key", "VersionId", "DeleteMarker", "DeleteMarkerVersionId", "Code", "Message"})


class DeleteContext(ProxyContext, Protocol):
    """What deleting asks of the gateway."""

    def authorize(self, request: Request, action: str, *, bucket: str | None = None, key: str | None = None) -> None:
        """Check that the caller may do `action`. Raises Denied, NotFound."""


async def forward_deletes(
    context: DeleteContext, request: Request, target: ProxyTarget, params: Mapping[str, Any]
) -> Response:
    """Delete the objects of a parsed DeleteObjects document that the caller may delete; `params` as of `parse`.

    Raises Invalid (MalformedXML, InvalidRequest), and what `proxy.forward` raises.
    """
    prefix = s3_origin(request, target).prefix
    wanted = params["Delete"]["Objects"] if params.get("Delete") else []
    if not 1 <= len(wanted) <= DELETE_KEYS_MAX:
        raise Invalid(
            f"The XML you provided was not well-formed or did not validate against our published schema: "
            f"1 to {DELETE_KEYS_MAX} objects",
            kind="MalformedXML",
        )
    if not payload_of(request).protected:
        raise Invalid(
            "Missing required header for this request: Content-MD5 OR x-amz-checksum-*", kind="InvalidRequest"
        )
    allowed: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    for entry in wanted:
        error = _refusal(context, request, entry["Key"])
        if error is None:
            allowed.append(entry)
        else:
            refused.append(_named(entry) | {"Code": error.kind, "Message": message_of(error)})
    if not allowed:
        return render("DeleteObjects", {"Errors": refused})
    sent = _document(prefix, allowed, quiet=bool(params["Delete"].get("Quiet")))
    md5 = base64.b64encode(hashlib.md5(sent, usedforsecurity=False).digest()).decode()
    headers = {"content-md5": md5, "content-type": "application/xml"}
    keys = list(dict.fromkeys(entry["Key"] for entry in allowed))
    answer = await forward(context, request, target, OwnDocument(sent, headers, keys))
    return _answered(answer, prefix, refused) if answer.status < 300 else answer


def _refusal(context: DeleteContext, request: Request, key: str) -> HeadraceError | None:
    """Why the caller may not delete a key; None when it may."""
    try:
        check_key(key)
        context.authorize(request, "DeleteObject", key=key)
    except HeadraceError as error:
        return known_error(error, request.request_id)
    return None


def _named(entry: Mapping[str, Any]) -> dict[str, str]:
    """Key and version of an entry, as answers repeat them."""
    return {name: str(entry[name]) for name in ("Key", "VersionId") if entry.get(name) is not None}


@lru_cache(maxsize=1)
def _writer() -> Writer:
    """Writes the members of a Delete element."""
    shape = operations()["DeleteObjects"].input_shape
    delete = None if shape is None else shape.members["Delete"]
    if not isinstance(delete, StructureShape):
        raise Bug("the service model has no Delete element")
    return members_writer(delete, {})


def _document(prefix: str, entries: Sequence[Mapping[str, Any]], *, quiet: bool) -> bytes:
    """A Delete document with keys as they are at the origin."""
    pieces = [DECLARATION, f'<Delete xmlns="{NAMESPACE}">']
    objects = [{**entry, "Key": prefix + entry["Key"]} for entry in entries]
    _writer()(pieces, {"Objects": objects, "Quiet": True if quiet else None})
    pieces.append("</Delete>")
    return "".join(pieces).encode()


def _answered(answer: Response, prefix: str, refused: Sequence[Mapping[str, str]]) -> Response:
    """The origin's answer in our names, with what was refused here. Raises Unavailable when it is no DeleteResult."""
    root = document(answer.body if isinstance(answer.body, bytes) else b"")
    if root.tag != "DeleteResult":
        raise Unavailable(f"the origin answered DeleteObjects with a {root.tag[:64]} document", kind="InternalError")
    members: dict[str, list[Mapping[str, str]]] = {"Deleted": [], "Error": list(refused)}
    for element in root:
        if element.tag in members:
            found = {child.tag: child.text or "" for child in element if child.tag in _TOLD}
            if "Key" in found:
                found["Key"] = found["Key"].removeprefix(prefix)
            members[element.tag].append(found)
    output: dict[str, Any] = {"Deleted": members["Deleted"], "Errors": members["Error"]}
    rendered = render("DeleteObjects", output)
    told = {name.lower() for name, _ in rendered.headers} | {"content-length", "content-type"}
    rendered.headers = [
        *rendered.headers,
        *((name, value) for name, value in answer.headers if name.lower() not in told),
    ]
    rendered.source = answer.source
    return rendered
