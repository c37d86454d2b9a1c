"""A gateway without sockets: boto3 signs and serializes, our side verifies, answers, boto3 parses.

boto3's `before-send` hook hands each prepared request to the operations, in an event loop of its own
thread, so a test reads like any S3 script.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.awsrequest import AWSResponse, HeadersDict
from botocore.config import Config

from headrace.base import clock
from headrace.gateway import operations
from headrace.gateway.addressing import bucket_of_host, parse_query, split_path
from headrace.gateway.context import Context
from headrace.gateway.errors import error_response
from headrace.gateway.files import OpenFiles
from headrace.gateway.keyring import ADMIN_POLICY, DEFAULT_POLICY, Keyring, Rule
from headrace.gateway.messages import ANONYMOUS, FileSlice, Request, Response
from headrace.gateway.payload import open_payload
from headrace.gateway.sigv4 import Verifier
from headrace.origin.store import Store
from headrace.telemetry.records import Ring
from headrace.wire.words import Words

DOMAIN = "s3.test"
PIECE_BYTES = 70_000


class _Raw:
    """What botocore reads an answer's body from."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def read(self, amount: int | None = None) -> bytes:
        """The next bytes."""
        size = len(self._body) if amount is None else amount
        taken, self._body = self._body[:size], self._body[size:]
        return taken

    def stream(self, **_arguments: Any) -> Any:
        """All bytes in pieces."""
        while self._body:
            yield self.read(65_536)


class InProcessGateway:
    """One store, one keyring, any number of boto3 clients."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._count = 0
        self.peer = "127.0.0.1"
        self.context = self.run(self._open(folder))
        self._verifier = Verifier(self.context.keyring.secret)

    async def _open(self, folder: Path) -> Context:
        words = Words(folder / "words")
        return Context(
            store=Store.open(folder / "store", words),
            keyring=Keyring(folder / "node.db", words),
            words=words,
            files=OpenFiles(),
            ring=Ring(16),
            domains=(DOMAIN,),
        )

    def run(self, coroutine: Any) -> Any:
        """Run on the gateway's loop, from the test's thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _close(self) -> None:
        self.context.files.close()
        self.context.store.close()
        self.context.keyring.close()
        self.context.words.close()

    def close(self) -> None:
        """Stop the loop and its thread."""
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # -- clients

    def client(
        self, name: str = "", *, policy: tuple[Rule, ...] = DEFAULT_POLICY, admin: bool = False, **config: Any
    ) -> Any:
        """A boto3 client of a new key of the user `name`; anonymous when no name is given."""
        from botocore import UNSIGNED

        settings = {"s3": {"addressing_style": "path"}, "retries": {"max_attempts": 0}} | config
        arguments: dict[str, Any] = {}
        if name:
            key = self.call(lambda: self.context.keyring.create(name, ADMIN_POLICY if admin else policy))
            arguments = {"aws_access_key_id": key.access_key, "aws_secret_access_key": key.secret_key}
            settings["signature_version"] = "s3v4"
        else:
            settings["signature_version"] = UNSIGNED
        client = boto3.session.Session().client(
            "s3", endpoint_url=f"http://{DOMAIN}", region_name="us-east-1", config=Config(**settings), **arguments
        )
        client.meta.events.register("before-send.s3", self._send)
        return client

    def call(self, function: Any) -> Any:
        """Run a plain function in the gateway's thread (SQLite connections belong to it)."""

        async def run() -> Any:
            return function()

        return self.run(run())

    def _send(self, request: Any, **_arguments: Any) -> AWSResponse:
        body = request.body
        if hasattr(body, "read"):
            body = body.read()
        body = body.encode() if isinstance(body, str) else bytes(body or b"")
        headers = [(name.lower().encode("latin-1"), _bytes(value)) for name, value in request.headers.items()]
        response, content = self.run(self.answer(request.method, request.url, headers, body))
        answered = HeadersDict([*response.headers, ("x-amz-request-id", "TEST")])
        if not any(name.lower() == "content-length" for name, _ in response.headers):
            answered["Content-Length"] = str(len(content))
        return AWSResponse(request.url, response.status, answered, _Raw(content))

    async def answer(
        self, method: str, url: str, headers: list[tuple[bytes, bytes]], body: bytes = b""
    ) -> tuple[Response, bytes]:
        """One request through authentication, payload and operation, as the protocol would do it."""
        parts = urlsplit(url)
        self._count += 1
        if not any(name == b"host" for name, _ in headers):
            headers = [(b"host", parts.netloc.encode()), *headers]
        request = Request(
            method, parts.path.encode(), parts.query.encode(), headers, request_id=f"{self._count:016X}",
            host=parts.netloc, peer=self.peer,
        )  # fmt: skip
        try:
            request.params = parse_query(request.query)
            host_bucket = bucket_of_host(parts.netloc, (DOMAIN,))
            request.bucket, request.key = split_path(request.path, host_bucket)
            # A preflight request asks before anything is signed.
            signature = None
            if method != "OPTIONS":
                signature = self._verifier.verify(
                    method, request.path, request.query, headers, request.params, clock.wall()
                )
            keyring = self.context.keyring
            request.identity = (keyring.identity(signature.access_key) if signature else None) or ANONYMOUS
            length = dict(headers).get(b"content-length")
            chunked = b"transfer-encoding" in dict(headers)
            request.content_length = int(length) if length is not None else None
            open_payload(request, _pieces(body), signature, chunked=chunked)
        except Exception as error:
            response = error_response(request, error)
        else:
            response = await operations.handle(self.context, request)
        return response, b"" if method == "HEAD" else await _content(response)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("latin-1")


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]


async def _content(response: Response) -> bytes:
    """The bytes of an answer, wherever they lie."""
    if isinstance(response.body, bytes):
        return response.body
    found = bytearray()
    async for piece in response.body:
        if isinstance(piece, FileSlice):
            found += os.pread(piece.descriptor, piece.length, piece.offset)
        else:
            found += piece
    return bytes(found)
