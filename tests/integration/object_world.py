"""A gateway without sockets: requests go to the operations, answers come back whole."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree as ET

from headrace.base.errors import HeadraceError
from headrace.gateway import operations
from headrace.gateway.addressing import parse_query, split_path
from headrace.gateway.context import FILE, REMOTE, BucketTarget, Context
from headrace.gateway.errors import error_response
from headrace.gateway.files import OpenFiles
from headrace.gateway.keyring import Keyring, parse_rule
from headrace.gateway.messages import ANONYMOUS, Request
from headrace.gateway.payload import open_payload
from headrace.model.bindings import Binding
from headrace.model.objects import NO_CONDITIONS, Conditions, FileSlice, ObjectInfo
from headrace.origin.base import Opened, Origin, Page, Upload
from headrace.origin.store import Store
from headrace.telemetry.records import Ring
from headrace.wire.words import Words

_NAMESPACE = b' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
Headers = dict[str, str]


@dataclass(frozen=True)
class Answer:
    """A response with its body read."""

    status: int
    headers: Headers
    body: bytes

    @property
    def xml(self) -> ET.Element:
        """The document, namespace removed."""
        return ET.fromstring(self.body.replace(_NAMESPACE, b""))

    def text(self, path: str) -> str:
        """Text of the document's element at `path`, "" when missing."""
        return self.xml.findtext(path) or ""

    def texts(self, path: str) -> list[str]:
        """Texts of all elements at `path`."""
        return [element.text or "" for element in self.xml.findall(path)]

    @property
    def code(self) -> str:
        """The error's code, "" for answers that are no error."""
        return self.text("Code") if self.status >= 400 and self.body else ""


class Distant(Origin):
    """A bucket of another store, seen as if it lay on another machine; counts what it is asked."""

    def __init__(self, store: Store, name: str) -> None:
        self._bucket = store.bucket(name)
        self.url = f"distant://{name}"
        self.asked: list[str] = []
        self.failure: Exception | None = None

    def _note(self, what: str) -> None:
        self.asked.append(what)
        if self.failure is not None:
            raise self.failure

    async def head(self, key: str) -> ObjectInfo:
        """Pass on."""
        self._note("head")
        return await self._bucket.head(key)

    async def open(
        self, key: str, start: int = 0, stop: int | None = None, conditions: Conditions = NO_CONDITIONS
    ) -> Opened:
        """Pass on."""
        self._note("open")
        return await self._bucket.open(key, start, stop, conditions)

    async def put(self, key: str, upload: Upload, conditions: Conditions = NO_CONDITIONS) -> ObjectInfo:
        """Pass on."""
        self._note("put")
        return await self._bucket.put(key, upload, conditions)

    async def delete(self, key: str, conditions: Conditions = NO_CONDITIONS) -> None:
        """Pass on."""
        self._note("delete")
        await self._bucket.delete(key, conditions)

    async def list(self, prefix: str = "", *, after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        """Pass on."""
        self._note("list")
        return await self._bucket.list(prefix, after=after, delimiter=delimiter, limit=limit)


class Bound:
    """Bindings made by hand."""

    def __init__(self) -> None:
        self.targets: dict[str, BucketTarget] = {}

    def target(self, bucket: str) -> BucketTarget | None:
        """The bound bucket."""
        return self.targets.get(bucket)

    def listed(self) -> list[BucketTarget]:
        """All of them."""
        return list(self.targets.values())

    async def discover(self, bucket: str) -> bool:
        """There is no account."""
        return bucket in self.targets

    def created(self, bucket: str) -> None:
        """There is no account."""

    def deleted(self, bucket: str) -> None:
        """There is no account."""

    async def renew(self) -> None:
        """There is no account."""

    def in_account(self, bucket: str) -> bool:
        """There is no account."""
        return bucket == ""

    def account_target(self, bucket: str) -> BucketTarget | None:
        """There is no account."""
        return self.targets.get(bucket) if bucket == "" else None


class World:
    """One worker's context in a folder, with an admin key, and a second user without rights."""

    def __init__(self, folder: Path) -> None:
        words = Words(folder / "words")
        self.keyring = Keyring(folder / "node.db", words)
        self.admin = self.keyring.ensure("ADMIN", "secret-of-admin")
        self.other = self.keyring.create("other", [parse_rule("@own:read,write,list")], access_key="OTHER")
        self.bound = Bound()
        self.context = Context(
            store=Store.open(folder / "store", words),
            keyring=self.keyring,
            words=words,
            files=OpenFiles(files_max=64),
            ring=Ring(),
            bindings=self.bound,
        )

    def bind(self, bucket: str, origin: Origin) -> None:
        """Bind a bucket to an origin."""
        self.bound.targets[bucket] = BucketTarget(
            bucket=bucket,
            origin=origin,
            kind=FILE if origin.local else REMOTE,
            binding=Binding(len(self.bound.targets) + 1, bucket, origin.url),
        )

    async def clear(self) -> None:
        """Remove every object and upload, hidden ones too, and buckets that a test made."""
        store = self.context.store
        origins = [target.origin for target in self.bound.targets.values()]
        for info in await store.buckets():
            bucket = store.bucket(info.name)
            origins.append(bucket)
            for upload in (await bucket.list_uploads()).uploads:
                await bucket.abort_upload(upload.upload_id)
        for origin in origins:
            for stored in (await origin.list()).objects:
                await origin.delete(stored.key)
        for info in await store.buckets():
            if info.owner == self.other.name:
                await store.delete_bucket(info.name)

    def close(self) -> None:
        """Release everything."""
        self.context.files.close()
        self.context.store.close()
        self.keyring.close()
        self.context.words.close()

    async def call(
        self,
        method: str,
        target: str,
        headers: Headers | None = None,
        body: bytes = b"",
        *,
        access_key: str = "ADMIN",
        chunked: bool = False,
    ) -> Answer:
        """One request; `target` is path and query with the path not yet encoded."""
        path_text, _, query_text = target.partition("?")
        path, query = quote(path_text, safe="/%").encode(), query_text.encode()
        try:
            bucket, key = split_path(path, "")
        except HeadraceError as error:
            return Answer(400, {}, f"<Error><Code>{error.kind}</Code></Error>".encode())
        sent = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        if method in ("PUT", "POST") and not chunked:
            sent.append((b"content-length", str(len(body)).encode()))
        identity = self.keyring.identity(access_key) or ANONYMOUS
        request = Request(
            method, path, query, sent, bucket, key, parse_query(query), identity, request_id="R", host="localhost"
        )
        request.content_length = len(body) if method in ("PUT", "POST") and not chunked else None
        try:
            open_payload(request, _pieces(body), None, chunked=chunked)
            response = await operations.handle(self.context, request)
        except HeadraceError as error:
            response = error_response(request, error)
        content = b""
        if isinstance(response.body, bytes):
            content = response.body
        elif method != "HEAD":
            async for piece in response.body:
                content += (
                    os.pread(piece.descriptor, piece.length, piece.offset) if isinstance(piece, FileSlice) else piece
                )
            assert response.length == len(content)
        names = {name.lower(): value for name, value in response.headers}
        assert len(names) == len(response.headers)
        return Answer(response.status, names, content)

    async def tag_text(self, target: str) -> str:
        """The tags of an object as `a=b,c=d`."""
        answer = await self.call("GET", f"{target}?tagging")
        return ",".join(f"{tag.findtext('Key')}={tag.findtext('Value')}" for tag in answer.xml.iter("Tag"))


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]
