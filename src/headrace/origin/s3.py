"""S3 buckets as origins: full header fidelity, one request a read, large puts in parts."""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping
from dataclasses import replace

import aiohttp

from headrace.base import limits
from headrace.base.clock import SYSTEM, Clock
from headrace.base.errors import HeadraceError, Invalid, NotFound, Unavailable
from headrace.model.objects import NO_CONDITIONS, Conditions, ObjectInfo, Version
from headrace.origin.base import Opened, Origin, Page, Upload
from headrace.origin.s3body import held_back
from headrace.origin.s3client import TIMEOUTS, Pieces, Query, S3Client, Timeouts
from headrace.origin.s3upload import put_in_parts
from headrace.origin.s3wire import (
    checksum_headers,
    condition_headers,
    document,
    info_of,
    list_answer,
    milliseconds,
    put_headers,
)
from headrace.origin.urls import OriginUrl, bucket_url, parse

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)$")
_MODE = {"x-amz-checksum-mode": "ENABLED"}
_BUFFERED_BYTES_MAX = limits.MIB
_AFTER_EVERYTHING = "\U0010ffff"


class Reading:
    """The bytes of one GET answer that was asked for: skips and clips what a server sent beside them.

    Close it (`aclose`) when leaving early.
    """

    def __init__(self, response: aiohttp.ClientResponse, skip: int, length: int) -> None:
        self._pieces = Pieces(response)
        self._skip = skip
        self._left = length

    def __aiter__(self) -> Reading:
        return self

    async def __anext__(self) -> bytes:
        while self._left:
            try:
                piece = await anext(self._pieces)
            except StopAsyncIteration:
                raise Unavailable(f"the origin's answer ended {self._left} bytes too early") from None
            if self._skip:
                dropped = min(self._skip, len(piece))
                self._skip -= dropped
                piece = piece[dropped:]
            if piece:
                piece = piece if len(piece) <= self._left else piece[: self._left]
                self._left -= len(piece)
                return piece
        await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Give the connection back."""
        await self._pieces.aclose()


class S3Origin(Origin):
    """One bucket, or the keys behind a prefix of it, at an S3 endpoint."""

    def __init__(
        self,
        url: str | OriginUrl,
        *,
        client: S3Client | None = None,
        timeouts: Timeouts = TIMEOUTS,
        clock: Clock = SYSTEM,
    ) -> None:
        """`client` is shared with (and closed by) an account; without it the origin has its own."""
        found = parse(url) if isinstance(url, str) else url
        if found.scheme != "s3" or found.account:
            raise Invalid(f"{found.scheme}://{found.bucket} names no S3 bucket")
        self.url = found.text
        self.bucket = found.bucket
        self.prefix = found.prefix
        self.client = client or S3Client(found, timeouts=timeouts)
        self._own = client is None
        self._clock = clock

    async def head(self, key: str) -> ObjectInfo:
        """The object's current state, by one HEAD. Raises NotFound."""

        async def attempt() -> ObjectInfo:
            response = await self.client.call("HEAD", self.bucket, self.prefix + key, headers=_MODE)
            response.release()
            return info_of(key, response.headers, _length(response.headers))

        return await self.client.retried(attempt)

    async def open(
        self, key: str, start: int = 0, stop: int | None = None, conditions: Conditions = NO_CONDITIONS
    ) -> Opened:
        """Start reading by one GET. S3 tells whole-object checksums only where the whole object is read."""
        wanted = _range(start, stop)
        headers = {**_MODE, **condition_headers(conditions)}
        if wanted:
            headers["range"] = wanted

        async def attempt() -> Opened:
            response = await self.client.send("GET", self.bucket, self.prefix + key, headers=headers)
            if response.status == 416 and start == 0:
                # Only an empty object has no byte 0, and S3 refuses every range of it.
                response.release()
                headers.pop("range", None)
                response = await self.client.send("GET", self.bucket, self.prefix + key, headers=headers)
            if response.status not in {200, 206}:
                raise await self.client.failure(response, f"GET {self.bucket}/{self.prefix}{key}")
            return _opened(key, response, start, stop)

        return await self.client.retried(attempt)

    async def put(self, key: str, upload: Upload, conditions: Conditions = NO_CONDITIONS) -> ObjectInfo:
        """Store the body whole: in one request up to 64 MiB, above that in parts. Never retried.

        What S3 made of it (Last-Modified, version id) is asked by a HEAD afterwards, since a PUT's
        answer does not tell and the object's version is made of it.
        """
        name = self.prefix + key
        checks = condition_headers(conditions)
        size = upload.size
        sha = {"sha1", "sha256"} & set(upload.attributes.checksums)
        if size is None or (size > limits.ORIGIN_SINGLE_PUT_BYTES_MAX and not sha) or size > limits.PUT_BYTES_MAX:
            answer: Mapping[str, str]
            answer, size = await put_in_parts(self.client, self.bucket, name, upload, checks)
        else:
            answer = await self._put_whole(name, upload, size, checks)
        return await self._stored(key, answer, size, upload)

    async def _put_whole(self, name: str, upload: Upload, size: int, checks: Mapping[str, str]) -> Mapping[str, str]:
        """One PUT. Small bodies are read first, so that checksums from their trailer reach the origin."""
        if size <= _BUFFERED_BYTES_MAX:
            body = b"".join([piece async for piece in upload.body])
            if len(body) != size:
                raise Invalid(f"the body has {len(body)} bytes, announced were {size}", kind="IncompleteBody")
            headers = {**put_headers(upload.attributes), **checksum_headers(upload.attributes), **checks}
            return (await self.client.answer("PUT", self.bucket, name, headers=headers, body=body))[0]
        headers = {**put_headers(upload.attributes), **checksum_headers(upload.attributes), **checks}
        answer, _ = await self.client.answer(
            "PUT", self.bucket, name, headers=headers, body=held_back(upload.body), length=size
        )
        return answer

    async def _stored(self, key: str, answer: Mapping[str, str], size: int, upload: Upload) -> ObjectInfo:
        """The state that a write left, by a HEAD; by the write's own answer when that fails or is of a later write."""
        etag = answer.get("ETag", "").strip('"')
        try:
            found = await self.head(key)
        except HeadraceError:
            found = None
        if found is not None and found.etag == etag and found.size == size:
            return found
        modified = milliseconds(answer.get("Date")) or round(self._clock.wall()) * 1000
        version = Version(etag, modified, size, answer.get("x-amz-version-id", ""))
        return ObjectInfo(key=key, version=version, attributes=upload.attributes)

    async def delete(self, key: str, conditions: Conditions = NO_CONDITIONS) -> None:
        """Remove the object; no error when it does not exist. Never retried."""
        headers = condition_headers(conditions)
        response = await self.client.send("DELETE", self.bucket, self.prefix + key, headers=headers)
        if response.status == 404 and not headers:
            error = await self.client.failure(response, f"DELETE {self.bucket}/{key}")
            if error.kind == "NoSuchKey":
                return
            raise error
        if response.status >= 300:
            error = await self.client.failure(response, f"DELETE {self.bucket}/{key}")
            if error.kind == "PreconditionFailed" and await self._absent(key):
                return
            raise error
        response.release()

    async def _absent(self, key: str) -> bool:
        """True when there is no such object: some servers call that a failed If-Match."""
        try:
            await self.head(key)
        except NotFound:
            return True
        return False

    async def list(self, prefix: str = "", *, after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        """One page of keys and common prefixes after `after`, by ListObjectsV2."""
        limit = min(limit, limits.LIST_KEYS_MAX)
        if limit <= 0:
            return Page((), (), None)
        token = ""
        while True:
            query = self._list_query(prefix, after, delimiter, limit, token)

            async def attempt(query: Query = query) -> bytes:
                return (await self.client.answer("GET", self.bucket, query=query))[1]

            answer = list_answer(await self.client.retried(attempt))
            cut = len(self.prefix)
            objects = tuple(replace(item, key=item.key[cut:]) for item in answer.objects)
            prefixes = tuple(found for name in answer.prefixes if (found := name[cut:]).encode() > after.encode())
            if objects or prefixes or not answer.token:
                names = [item.key for item in objects[-1:]] + builtins.list(prefixes[-1:])
                last = max(names, key=lambda name: name.encode("utf-8", "surrogatepass"), default=None)
                return Page(objects, prefixes, last if answer.token else None)
            token = answer.token  # everything on this page was at or before `after`

    def _list_query(self, prefix: str, after: str, delimiter: str, limit: int, token: str) -> Query:
        """The query of ListObjectsV2. After a common prefix, listing goes on behind all that it stands for."""
        query = [("list-type", "2"), ("encoding-type", "url"), ("max-keys", str(limit))]
        if self.prefix or prefix:
            query.append(("prefix", self.prefix + prefix))
        if delimiter:
            query.append(("delimiter", delimiter))
        if token:
            query.append(("continuation-token", token))
        elif after:
            found = after.find(delimiter, len(prefix)) if delimiter and after.startswith(prefix) else -1
            rolled = found >= 0 and found + len(delimiter) == len(after)
            query.append(("start-after", self.prefix + after + (_AFTER_EVERYTHING if rolled else "")))
        return query

    async def close(self) -> None:
        """Give connections back, unless an account shares them."""
        if self._own:
            await self.client.close()


def _range(start: int, stop: int | None) -> str:
    """The Range header for bytes [start, stop); "" for the whole object. Raises Invalid InvalidRange."""
    if start < 0:
        if stop is not None:
            raise Invalid("a suffix range has no end", kind="InvalidRange")
        return f"bytes={start}"
    if stop is None:
        return f"bytes={start}-" if start else ""
    if stop <= start:
        raise Invalid(f"bytes {start} to {stop} are no range", kind="InvalidRange")
    return f"bytes={start}-{stop - 1}"


def _length(headers: Mapping[str, str]) -> int:
    """Content-Length of an answer. Raises Unavailable when it is missing."""
    value = headers.get("Content-Length", "")
    if not value.isdigit():
        raise Unavailable("the origin's answer has no Content-Length", kind="InternalError")
    return int(value)


def _opened(key: str, response: aiohttp.ClientResponse, start: int, stop: int | None) -> Opened:
    """What a 200 or 206 answer opens; a server that ignored the range is clipped here."""
    if response.status == 206:
        match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if match is None:
            response.close()
            raise Unavailable("the origin's 206 answer has no readable Content-Range", kind="InternalError")
        first, last, total = (int(number) for number in match.groups())
        return Opened(
            info_of(key, response.headers, total), first, last + 1 - first, Reading(response, 0, last + 1 - first)
        )
    total = _length(response.headers)
    first = max(total + start, 0) if start < 0 else start
    end = total if stop is None else min(stop, total)
    if first >= end and total:
        response.close()
        raise Invalid(f"bytes {start} to {stop} lie outside {total} bytes", kind="InvalidRange")
    return Opened(info_of(key, response.headers, total), first, end - first, Reading(response, first, end - first))


class S3Account:
    """`s3://`: every bucket that the credentials reach, as origins that share one client."""

    def __init__(self, url: str = "s3://", *, timeouts: Timeouts = TIMEOUTS, clock: Clock = SYSTEM) -> None:
        self.url = parse(url)
        if not self.url.account:
            raise Invalid(f"{url} names a bucket, not an account")
        self.client = S3Client(self.url, timeouts=timeouts)
        self._clock = clock
        self._known: dict[str, int] = {}
        self._asked = float("-inf")

    async def buckets(self, *, seconds_old_max: float = limits.ACCOUNT_REFRESH_SECONDS) -> dict[str, int]:
        """Bucket name -> creation time in ms; a list at most `seconds_old_max` old. Raises Denied, Unavailable."""
        if self._clock.steady() - self._asked > seconds_old_max:

            async def attempt() -> bytes:
                return (await self.client.answer("GET", ""))[1]

            root = document(await self.client.retried(attempt))
            found = {
                item.findtext("Name") or "": milliseconds(item.findtext("CreationDate"))
                for item in root.iterfind("Buckets/Bucket")
            }
            if len(found) > limits.ACCOUNT_BUCKETS_MAX:
                raise Invalid(f"the account has more than {limits.ACCOUNT_BUCKETS_MAX} buckets; bind those needed")
            self._known, self._asked = found, self._clock.steady()
        return self._known

    def origin(self, bucket: str) -> S3Origin:
        """The origin of one bucket; closing it leaves the account's connections open."""
        return S3Origin(bucket_url(self.url, bucket), client=self.client, clock=self._clock)

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()
