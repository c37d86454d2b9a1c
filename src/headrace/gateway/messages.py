"""One request and one response as the operations see them; no socket here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from headrace.model.objects import FileSlice as FileSlice  # noqa: PLC0414 - re-exported for mypy: a piece of a body

BodyPiece = bytes | FileSlice


@dataclass(slots=True)
class Identity:
    """Who signed the request. `access_key` is "" for anonymous."""

    access_key: str = ""
    name: str = "anonymous"
    admin: bool = False


ANONYMOUS = Identity()


@dataclass(slots=True)
class Request:
    """A verified request. Header names are lower-case bytes; `path` and `query` as on the wire.

    `bucket` and `key` are decoded ("" when absent), whatever the addressing style was.
    `body` yields the *decoded, verified* payload (see gateway.payload); it must be exhausted or the
    connection is closed after the response.
    """

    method: str
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    bucket: str = ""
    key: str = ""
    params: dict[str, str] = field(default_factory=dict)
    """Query parameters, decoded; a bare name has the value ""."""
    identity: Identity = field(default_factory=Identity)
    body: AsyncIterator[bytes] | None = None
    content_length: int | None = None
    """Length of the decoded payload where announced (x-amz-decoded-content-length, else Content-Length)."""
    request_id: str = ""
    received_ns: int = 0
    host: str = ""
    peer: str = ""
    """The client's address."""
    secure: bool = False

    def header(self, name: str) -> str | None:
        """The header's value, several joined by a comma; None when absent."""
        wanted = name.encode("latin-1")
        found = [value for key, value in self.headers if key == wanted]
        return b",".join(found).decode("utf-8", "replace") if found else None


@dataclass(slots=True)
class Response:
    """An answer. `length` is needed when `body` is an iterator of known size; None means chunked.

    The protocol adds Date, Server, x-amz-request-id, Connection and the framing headers.
    """

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | AsyncIterator[BodyPiece] = b""
    length: int | None = None
    source: str = ""
    """What x-headrace-source and the read record say: memory, device, origin, ""."""
    closing: bool = False
    """Close the connection after this response."""
