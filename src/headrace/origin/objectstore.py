"""GCS, Azure, web servers and memory as origins, through obstore.

obstore's errors become headrace's in one place (`_failure`). Reads are retried by obstore itself;
writes go through a second handle that never retries, so that a lost answer of a conditional write
does not come back as a false conflict.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, HTTPStore, MemoryStore

from headrace.base import limits
from headrace.base.errors import Conflict, Denied, HeadraceError, Invalid, NotFound, Unavailable
from headrace.model.objects import NO_CONDITIONS, Attributes, Conditions, ObjectInfo, Version
from headrace.origin.base import Opened, Origin, Page, Upload
from headrace.origin.conditions import check_read, key_bytes
from headrace.origin.obstore_keys import HexKeys, Keys, PlainKeys
from headrace.origin.obstore_listing import roll_up
from headrace.origin.s3wire import quoted
from headrace.origin.urls import OriginUrl, parse

T = TypeVar("T")
_STANDARD = {
    "content-type": "Content-Type",
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "x-amz-storage-class": "Storage-Class",
}
_READ_BACK = {value: name for name, value in _STANDARD.items()}
_KEPT = "headrace_"
"""User metadata that holds what obstore has no attribute for (underscores, since Azure allows no others)."""
_memories: dict[str, MemoryStore] = {}


class ObstoreOrigin(Origin):
    """One bucket, container, web folder or memory store. `Expires`, tags and checksums are kept as metadata."""

    def __init__(self, url: OriginUrl, reads: Any, writes: Any, keys: Keys) -> None:
        """`reads` and `writes` are obstore stores on the same bucket, the second without retries."""
        self.url = url.text
        self.writable = url.scheme not in {"http", "https"}
        self._scheme = url.scheme
        self._judges = url.scheme in {"http", "https", "memory"}
        """Conditions are judged here: web servers never match weak ETags, memory counts parts of a second."""
        self._reads = reads
        self._writes = writes
        self._keys = keys

    @classmethod
    def at(cls, url: str | OriginUrl) -> ObstoreOrigin:
        """The origin that a URL names. Raises Invalid, Denied (no credentials)."""
        found = parse(url) if isinstance(url, str) else url
        if found.scheme == "memory":
            store = _memories.setdefault(found.bucket + "/" + found.prefix, MemoryStore())
            return cls(found, store, store, HexKeys())
        try:
            keys = PlainKeys("" if found.scheme in {"http", "https"} else found.prefix)
            return cls(found, _store(found, retries=True), _store(found, retries=False), keys)
        except (exceptions.BaseError, ValueError) as error:
            raise _failure(error, found.text) from error

    async def head(self, key: str) -> ObjectInfo:
        """The object's current state. Raises NotFound."""
        return (await self._get(key, {"head": True}))[0]

    async def open(
        self, key: str, start: int = 0, stop: int | None = None, conditions: Conditions = NO_CONDITIONS
    ) -> Opened:
        """Start reading, in one request but for a suffix of an Azure blob, which needs its size first."""
        options = self._options(conditions)
        wanted = _range(start, stop)
        if start < 0 and self._scheme == "az":
            info = await self.head(key)
            wanted = {"offset": max(info.size + start, 0)} if info.size else None
            options.setdefault("if_match", quoted(info.etag))
        if wanted is not None:
            options["range"] = wanted
        try:
            info, result = await self._get(key, options, conditions)
        except Invalid as error:
            if start != 0 or error.kind not in {"InvalidRange", "NotImplemented"}:
                raise
            # An empty object has no byte 0, and some web servers know no ranges: read whole, and clip.
            options.pop("range", None)
            info, result = await self._get(key, options, conditions)
        first, last = result.range
        last = last if stop is None else min(last, stop)
        return Opened(info, first, last - first, self._pieces(result, last - first))

    async def put(self, key: str, upload: Upload, conditions: Conditions = NO_CONDITIONS) -> ObjectInfo:
        """Store the body whole: at once up to 8 MiB or under conditions, above that in parts. Never retried."""
        self._check_writable()
        key_bytes(key)
        mode = await self._mode(key, conditions)
        size = upload.size
        bound = limits.ORIGIN_PART_BYTES if mode == "overwrite" else limits.ORIGIN_SINGLE_PUT_BYTES_MAX
        path = self._keys.path(key)
        if size is not None and size <= bound:
            whole = b"".join([piece async for piece in _exactly(upload)])
            result = await self._call(
                obstore.put_async(
                    self._writes, path, whole, attributes=_to_store(upload.attributes), mode=mode, use_multipart=False
                ),
                limits.FILL_SECONDS_MAX,
            )
        elif mode != "overwrite":
            raise Invalid(f"{self.url}: conditional puts above {bound} bytes are not supported", kind="NotImplemented")
        else:
            result = await self._call(
                obstore.put_async(
                    self._writes, path, _exactly(upload), attributes=_to_store(upload.attributes),
                    chunk_size=limits.ORIGIN_PART_BYTES, max_concurrency=4,
                ),
                None,  # as long as the body comes; obstore bounds each request
            )  # fmt: skip
        info = await self.head(key)
        etag = _unquoted(result["e_tag"])
        if etag and info.etag != etag:  # somebody wrote since
            return ObjectInfo(key=key, version=info.version._replace(etag=etag), attributes=upload.attributes)
        return info

    async def delete(self, key: str, conditions: Conditions = NO_CONDITIONS) -> None:
        """Remove the object. Raises Invalid (NotImplemented) under conditions: obstore has no such call."""
        self._check_writable()
        if not conditions.none:
            raise Invalid(f"{self.url}: conditional deletes are not supported", kind="NotImplemented")
        try:
            await self._call(obstore.delete_async(self._writes, self._keys.path(key)))
        except NotFound:
            return

    async def list(self, prefix: str = "", *, after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        """One page of keys and common prefixes after `after`. Raises Invalid for web servers: they list nothing."""
        if not self.writable:
            raise Invalid(f"{self.url}: a web server does not tell what it holds", kind="NotImplemented")
        return await roll_up(self._listed, prefix, after, delimiter, min(limit, limits.LIST_KEYS_MAX))

    async def _listed(self, prefix: str, after: str) -> AsyncIterator[ObjectInfo]:
        """Every object with the prefix, after `after`, in order."""
        try:
            stream = obstore.list(
                self._reads, self._keys.folder(prefix) or None, offset=self._keys.offset(after) if after else None,
                chunk_size=limits.LIST_KEYS_MAX,
            )  # fmt: skip
            while batch := await asyncio.wait_for(anext(stream, None), limits.ORIGIN_FIRST_BYTE_SECONDS_MAX):
                for meta in batch:
                    key = self._keys.key(meta["path"])
                    if key.startswith(prefix):
                        yield ObjectInfo(key=key, version=_version(meta))
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise _failure(error, f"list {self.url}") from error

    async def _get(self, key: str, options: Any, conditions: Conditions = NO_CONDITIONS) -> tuple[ObjectInfo, Any]:
        """One GET or HEAD. Raises what the store says, and Conflict where conditions are judged here."""
        try:
            path = self._keys.path(key)
        except Invalid as error:
            raise NotFound(error.message) from error
        result = await self._call(obstore.get_async(self._reads, path, options=options or None))
        info = ObjectInfo(key=key, version=_version(result.meta), attributes=_from_store(result.attributes))
        if self._judges or "head" in options:
            check_read(info, conditions)
        return info, result

    async def _call(self, call: Awaitable[T], seconds: float | None = limits.ORIGIN_FIRST_BYTE_SECONDS_MAX) -> T:
        """Await obstore under a deadline, and translate what it raises."""
        try:
            async with asyncio.timeout(seconds):
                return await call
        except HeadraceError:
            raise
        except (exceptions.BaseError, OSError, ValueError, TypeError) as error:
            raise _failure(error, self.url) from error

    async def _pieces(self, result: Any, length: int) -> AsyncIterator[bytes]:
        """The answer's bytes; each piece under the stall deadline, `length` of them or an error."""
        if not length:
            return
        stream = result.stream(min_chunk_size=limits.ORIGIN_READ_BUFFER_BYTES)
        left = length
        while left:
            piece = await self._call(anext(stream, None), limits.ORIGIN_STALL_SECONDS_MAX)
            if piece is None:
                raise Unavailable(f"{self.url}: the answer ended {left} bytes too early")
            left -= len(piece)
            yield bytes(piece) if left >= 0 else bytes(piece)[:left]
            left = max(left, 0)

    def _options(self, conditions: Conditions) -> dict[str, Any]:
        """Conditions as obstore's options."""
        options: dict[str, Any] = {}
        if self._judges:
            return options
        if conditions.if_match:
            options["if_match"] = ", ".join(map(quoted, conditions.if_match))
        if conditions.if_none_match:
            options["if_none_match"] = ", ".join(map(quoted, conditions.if_none_match))
        if conditions.if_modified_since is not None:
            options["if_modified_since"] = datetime.fromtimestamp(conditions.if_modified_since, UTC)
        if conditions.if_unmodified_since is not None:
            options["if_unmodified_since"] = datetime.fromtimestamp(conditions.if_unmodified_since, UTC)
        return options

    async def _mode(self, key: str, conditions: Conditions) -> Any:
        """obstore's put mode for the conditions; an update names the exact version it replaces."""
        if conditions.none:
            return "overwrite"
        if conditions == Conditions(if_none_match=("*",)):
            return "create"
        if not conditions.if_match or conditions != Conditions(if_match=conditions.if_match):
            raise Invalid(
                f"{self.url}: of conditions on a put only If-Match and If-None-Match: * are supported",
                kind="NotImplemented",
            )
        meta = (await self._get(key, {"head": True}, conditions))[1].meta
        return {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}

    def _check_writable(self) -> None:
        """Raise Denied (MethodNotAllowed) where the origin is read only."""
        if not self.writable:
            raise Denied(f"{self.url} is read only", kind="MethodNotAllowed")


def _store(url: OriginUrl, *, retries: bool) -> Any:
    """An obstore handle. Credentials come from the URL's options or the host's own chain."""
    client: Any = {
        "connect_timeout": timedelta(seconds=limits.ORIGIN_CONNECT_SECONDS_MAX),
        "read_timeout": timedelta(seconds=limits.ORIGIN_STALL_SECONDS_MAX),
        "timeout": timedelta(seconds=limits.FILL_SECONDS_MAX),
        "pool_idle_timeout": timedelta(seconds=limits.ORIGIN_IDLE_SECONDS_MAX),
        "allow_http": url.scheme == "http" or url.options.get("endpoint", "").startswith("http:"),
    }
    retry: Any = {
        "max_retries": limits.ORIGIN_ATTEMPTS_MAX - 1 if retries else 0,
        "retry_timeout": timedelta(seconds=limits.ORIGIN_RETRY_SECONDS_MAX),
    }
    options = url.options
    if url.scheme in {"http", "https"}:
        place = f"{url.scheme}://{url.bucket}/{url.prefix}".rstrip("/")
        return HTTPStore.from_url(place, client_options=client, retry_config=retry)
    config: dict[str, Any] = {"skip_signature": True} if url.flag("anonymous") else {}
    if url.scheme == "gs":
        config |= {"application_credentials": options["credentials"]} if "credentials" in options else {}
        config |= {"base_url": options["endpoint"]} if "endpoint" in options else {}
        return GCSStore(url.bucket, client_options=client, retry_config=retry, **config)
    config |= {"account_name": options["account"]} if "account" in options else {}
    config |= {"endpoint": options["endpoint"]} if "endpoint" in options else {}
    if url.flag("emulator"):
        config["use_emulator"] = True
        client["allow_http"] = True
    return AzureStore(url.bucket, client_options=client, retry_config=retry, **config)


async def _exactly(upload: Upload) -> AsyncIterator[bytes]:
    """The body, which must have the announced length. Raises Invalid (IncompleteBody)."""
    size = 0
    async for piece in upload.body:
        size += len(piece)
        if size > (limits.PUT_BYTES_MAX if upload.size is None else upload.size):
            raise Invalid("the body is longer than announced, or than an object may be", kind="EntityTooLarge")
        yield piece
    if upload.size is not None and size != upload.size:
        raise Invalid(f"the body has {size} bytes, announced were {upload.size}", kind="IncompleteBody")


def _range(start: int, stop: int | None) -> Any:
    """obstore's form of a range; None for the whole object. Raises Invalid (InvalidRange)."""
    if start < 0:
        return {"suffix": -start}
    if stop is None:
        return {"offset": start} if start else None
    if stop <= start:
        raise Invalid(f"bytes {start} to {stop} are no range", kind="InvalidRange")
    return (start, stop)


def _version(meta: Any) -> Version:
    """The version that obstore's metadata describes; a server without ETags gets one of time and size."""
    modified = round(meta["last_modified"].timestamp() * 1000)
    etag = _unquoted(meta["e_tag"]) or f"{modified:x}-{meta['size']:x}"
    return Version(etag=etag, modified_ms=modified, size=meta["size"], token=meta["version"] or "")


def _unquoted(etag: str | None) -> str:
    """An ETag as headrace keeps it: no quotes, no weak prefix."""
    return (etag or "").removeprefix("W/").strip('"')


def _to_store(attributes: Attributes) -> dict[str, str]:
    """Attributes as obstore stores them."""
    stored = dict(attributes.metadata)
    for name, value in attributes.headers.items():
        stored[_STANDARD.get(name) or _KEPT + "header_" + name.replace("-", "_")] = value
    stored |= {f"{_KEPT}checksum_{name}": value for name, value in attributes.checksums.items() if value}
    if attributes.checksums:
        stored[f"{_KEPT}checksum_type"] = attributes.checksum_type
    if attributes.tags:
        stored[f"{_KEPT}tags"] = urlencode(attributes.tags)
    if attributes.acl != "private":
        stored[f"{_KEPT}acl"] = attributes.acl
    return stored


def _from_store(stored: Mapping[str, str]) -> Attributes:
    """Attributes from what obstore returns; the inverse of `_to_store`."""
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}
    kept: dict[str, str] = {}
    for name, value in stored.items():
        if name in _READ_BACK:
            headers[_READ_BACK[name]] = value
        elif name.startswith(_KEPT):
            kept[name[len(_KEPT) :]] = value
        else:
            metadata[name] = value
    headers |= {n[7:].replace("_", "-"): value for n, value in kept.items() if n.startswith("header_")}
    checksums = {n[9:]: value for n, value in kept.items() if n.startswith("checksum_") and n != "checksum_type"}
    return Attributes(
        headers=headers,
        metadata=metadata,
        tags=dict(parse_qsl(kept.get("tags", ""), keep_blank_values=True)),
        acl=kept.get("acl", "private"),
        checksums=checksums,
        checksum_type=kept.get("checksum_type", "") if checksums else "",
    )


def _failure(error: BaseException, what: str) -> HeadraceError:
    """headrace's error for one of obstore's."""
    text = str(error).partition("\n")[0]
    said = f"{what}: {text or type(error).__name__}"
    if isinstance(error, FileNotFoundError):
        return NotFound(said, kind="NoSuchKey")
    if isinstance(error, (exceptions.AlreadyExistsError, exceptions.PreconditionError)):
        return Conflict(said, kind="PreconditionFailed")
    if isinstance(error, exceptions.NotModifiedError):
        return Conflict(said, kind="NotModified")
    if isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)):
        return Denied(said, kind="AccessDenied")
    if isinstance(error, (exceptions.NotSupportedError, NotImplementedError)):
        return Invalid(said, kind="NotImplemented")
    if "Invalid range" in text or "416" in text:
        return Invalid(said, kind="InvalidRange")
    if isinstance(error, (exceptions.InvalidPathError, exceptions.UnknownConfigurationKeyError, TypeError)):
        return Invalid(said)
    if isinstance(error, ValueError):
        return Invalid(said)
    return Unavailable(said, kind="ServiceUnavailable")
